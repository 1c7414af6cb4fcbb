"""The web application: pages, pictures, and decisions that come back."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
import uvicorn
from fastapi import FastAPI, Form, HTTPException, Query, Request
from pydantic import BaseModel, Field, TypeAdapter, model_validator
from starlette.responses import (
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.staticfiles import StaticFiles

from fanogan.report import residual_layer, shrink
from fanogan.review import outputs
from fanogan.review.access import COOKIE, Guard, Sessions, User, with_session
from fanogan.review.database import JUDGEMENTS, PAGE, SORTS, Database, Refused
from fanogan.review.fundus import RADII, fundus_of, grid_of
from fanogan.review.opened import Opened, opened
from fanogan.review.standing import Standing, agreement, by_reader, final
from fanogan.serve import address_of, listening
from fanogan.text import harmless, number, percent, share

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
LABELS = ("fluid", "drusen", "haemorrhage", "atrophy", "artefact", "other")
LARGEST = 4096  # pixels of a side that is sent; a larger picture is downsampled
FILTERS = ("flag", "state", "eye", "warning", "reader", "search", "sort")


@dataclass(frozen=True)
class Settings:
    """What a site sets: the `labels` that regions may have."""

    labels: Sequence[str] = LABELS


Finite = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Shape(BaseModel):
    """A region that a reader has drawn on a frame; points are (column, row)."""

    frame: int = Field(ge=0)
    shape: Literal["polygon", "brush"]
    points: list[tuple[Finite, Finite]] = Field(min_length=1, max_length=5000)
    width: float = Field(default=0, ge=0, le=1000, allow_inf_nan=False)
    label: str = Field(default="", max_length=100)


class Verdict(BaseModel):
    """What a reader says of a region."""

    verdict: Literal["accepted", "rejected", "redrawn"]
    label: str = Field(default="", max_length=100)


class Event(BaseModel):
    """A decision as the page sends it; `request` is a name of its own, to send it again."""

    request: str = Field(min_length=8, max_length=64)
    kind: Literal["region", "draw", "case", "note", "fovea", "undo"]
    region: str = Field(default="", max_length=32, pattern=r"^d?\d*$")
    value: Any = None

    @model_validator(mode="after")
    def _checked(self) -> Event:
        match self.kind:
            case "case" if self.value not in JUDGEMENTS:
                raise ValueError(f"a case is {', '.join(JUDGEMENTS)}")
            case "note" if not isinstance(self.value, str) or len(self.value) > 10_000:
                raise ValueError("a note is a text of up to 10,000 characters")
            case "region":
                self.value = Verdict.model_validate(self.value).model_dump()
            case "draw":
                self.value = Shape.model_validate(self.value).model_dump()
            case "fovea":
                place = TypeAdapter(tuple[Finite, Finite]).validate_python(self.value)
                self.value = list(place)
        return self


def application(database: Database, sessions: Sessions, settings: Settings) -> Guard:
    """Return the application, behind its guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    def rendered(name: str, request: Request, status: int = 200, **content: Any) -> Response:
        user = request.state.user
        text = _environment().get_template(name).render(user=user, **content)
        return Response(text, status, media_type="text/html")

    def case_or_404(case_id: int) -> dict[str, Any]:
        case = database.case(case_id)
        if case is None:
            raise HTTPException(404, "there is no such case")
        return case

    def frame_or_404(case: Opened, frame: int) -> None:
        if not 0 <= frame < case.shape[0]:
            raise HTTPException(404, "there is no such frame")

    def only_all(request: Request) -> None:
        if not request.state.user.sees_all:
            raise HTTPException(403, "readers don't see what others decide")

    # --- who is here ------------------------------------------------------------------------------

    @app.get("/login")
    def login_page(request: Request) -> Response:
        return rendered("login.html", request, failed=False, by_link=sessions.owner is not None)

    @app.post("/login")
    def login(
        request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()]
    ) -> Response:
        key = sessions.login(name, password)
        if key is None:
            return rendered("login.html", request, 401, failed=True, by_link=False)
        return with_session(RedirectResponse("/", 303), key, request.url.scheme == "https")

    @app.get("/enter")
    def enter(request: Request, key: str = "") -> Response:
        session = sessions.enter(key)
        if session is None:
            return RedirectResponse("/login", 303)
        return with_session(RedirectResponse("/", 303), session, False)

    @app.post("/logout")
    def logout(request: Request) -> Response:
        sessions.leave(request.cookies.get(COOKIE))
        return RedirectResponse("/login", 303)

    # --- the worklist -----------------------------------------------------------------------------

    @app.get("/")
    def worklist(request: Request, page: Annotated[int, Query(ge=0)] = 0) -> Response:
        user, filters = request.state.user, _filters(request)
        found = database.worklist(user.name, filters, page)
        done, count = database.progress(user.name)
        return rendered(
            "worklist.html",
            request,
            cases=found[:PAGE],
            more=len(found) > PAGE,
            number_of_page=page,
            filters=filters,
            query=urlencode(filters),
            done=done,
            count=count,
            readers=database.readers() if user.sees_all else [],
            sorts=SORTS,
        )

    @app.get("/next")
    def next_case(request: Request, after: int | None = None) -> Response:
        filters = _filters(request)
        number = database.next_unread(request.state.user.name, filters, after)
        query = urlencode(filters)
        place = f"/cases/{number}" if number else "/"
        return RedirectResponse(f"{place}?{query}" if query else place, 303)

    @app.get("/agreement")
    def agreement_page(request: Request) -> Response:
        only_all(request)
        return rendered("agreement.html", request, **agreement(database))

    # --- one case ---------------------------------------------------------------------------------

    @app.get("/cases/{case_id}")
    def case_page(request: Request, case_id: int) -> Response:
        case = case_or_404(case_id)
        here, user, filters = opened(case), request.state.user, _filters(request)
        done, count = database.progress(user.name)
        return rendered(
            "case.html",
            request,
            case=case,
            here=here,
            data=_data(here, settings) | {"state": _state(database, case_id, user)},
            labels=settings.labels,
            judgements=JUDGEMENTS,
            visits=database.visits(case) if case["subject"] else [],
            query=urlencode(filters),
            done=done,
            count=count,
        )

    @app.get("/cases/{case_id}/print")
    def print_page(request: Request, case_id: int) -> Response:
        case, user = case_or_404(case_id), request.state.user
        here, events = opened(case), database.decisions(case_id)
        each = by_reader(events)
        standing = final(events) if user.sees_all else each.get(user.name, Standing())
        shown = {user.name: each[user.name]} if user.name in each else {}
        data = _data(here, settings)
        shapes: dict[int, list[dict[str, Any]]] = {}
        numbers = {str(region["id"]): region for region in data["regions"]}
        for key in standing.accepted:
            if key in standing.drawn:
                shape = standing.drawn[key]
                shapes.setdefault(shape["frame"], []).append({"key": key, **shape})
            elif key in numbers:
                region = numbers[key]
                frame = region.get("bscan", 0)
                for points in region["outlines"].get(frame, ()):
                    drawn = {"key": region["number"], "shape": "polygon", "points": points}
                    shapes.setdefault(frame, []).append(drawn)
        return rendered(
            "print.html",
            request,
            case=case,
            here=here,
            data=data,
            standing=standing,
            numbers=numbers,
            shapes=dict(sorted(shapes.items())) or {data["start"]: []},
            readers=each if user.sees_all else shown,
            grid=_grid(here, standing.fovea),
        )

    @app.get("/cases/{case_id}/state")
    def state(request: Request, case_id: int) -> dict[str, Any]:
        case_or_404(case_id)
        return _state(database, case_id, request.state.user)

    @app.post("/cases/{case_id}/events")
    def add(request: Request, case_id: int, event: Event) -> dict[str, Any]:
        user: User = request.state.user
        here = opened(case_or_404(case_id))
        if event.kind == "draw":
            frame_or_404(here, event.value["frame"])
        try:
            kept = database.add(event.request, user.name, user.role, case_id, event.model_dump())
        except Refused as refused:
            raise HTTPException(409, str(refused)) from None
        return {"id": kept["id"], "state": _state(database, case_id, user)}

    @app.get("/cases/{case_id}/grid")
    def grid(case_id: int, column: float, row: float) -> list[dict[str, Any]]:
        return grid_of(opened(case_or_404(case_id)), column, row)

    @app.get("/cases/{case_id}/beside")
    def beside(request: Request, case_id: int) -> dict[str, Any]:
        case, user = case_or_404(case_id), request.state.user
        standing = by_reader(database.decisions(case_id, user.name)).get(user.name, Standing())
        known = {"score": case["score"], "regions": len(case["regions"]), "fovea": standing.fovea}
        return {**known, "fundus": _fundus(opened(case))}

    # --- pictures ---------------------------------------------------------------------------------

    @app.get("/cases/{case_id}/scan/{frame}")
    def scan(
        case_id: int, frame: int, low: float | None = None, high: float | None = None
    ) -> Response:
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        if here.scan is None:
            raise HTTPException(404, here.problem)
        usual = here.grey_range
        pixels = here.frame(
            frame, usual[0] if low is None else low, usual[1] if high is None else high
        )
        return _png(shrink(pixels, LARGEST))

    @app.get("/cases/{case_id}/map/{frame}")
    def map_layer(case_id: int, frame: int) -> Response:
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        residual = here.residual(frame)
        if residual is None or "scale" not in here.about:
            raise HTTPException(404, "these results hold no map of it")
        return _png(residual_layer(shrink(residual, LARGEST), here.about["scale"]))

    @app.get("/cases/{case_id}/fundus")
    def fundus_picture(case_id: int) -> Response:
        if (fundus := fundus_of(opened(case_or_404(case_id)))) is None:
            raise HTTPException(404, "these results hold no en-face map of it")
        return _png(fundus.ground.picture)

    @app.get("/cases/{case_id}/fundus_map")
    def fundus_map(case_id: int) -> Response:
        if (fundus := fundus_of(opened(case_or_404(case_id)))) is None:
            raise HTTPException(404, "these results hold no en-face map of it")
        return _png(fundus.layer)

    @app.get("/cases/{case_id}/curves")
    def curves(case_id: int) -> Response:
        path = opened(case_or_404(case_id)).curves
        if path is None:
            raise HTTPException(404, "these results hold no curves of it")
        return Response(path.read_bytes(), media_type="image/png")

    # --- out --------------------------------------------------------------------------------------

    def whose(request: Request) -> str | None:
        """Return whose decisions go out: a reader's own, or what stands in the end."""
        user: User = request.state.user
        return None if user.sees_all else user.name

    @app.get("/out/decisions.csv")
    def out_csv(request: Request) -> Response:
        return _file(outputs.decisions_csv(database, whose(request)), "decisions.csv", "text/csv")

    @app.get("/out/decisions.json")
    def out_json(request: Request) -> Response:
        found = outputs.decisions_json(database, whose(request))
        return _file(found, "decisions.json", "application/json")

    @app.get("/out/masks.zip")
    def out_masks(request: Request) -> Response:
        return _zip(outputs.masks_zip(database, whose(request)), "masks.zip")

    @app.get("/out/dicom.zip")
    def out_dicom(request: Request) -> Response:
        return _zip(outputs.dicom_zip(database, whose(request)), "dicom.zip")

    return Guard(app, sessions)


def review(
    database: Database,
    owner: User | None,
    settings: Settings,
    host: str,
    port: int,
    on_start: Callable[[str], None],
) -> None:
    """Answer until Ctrl-C or SIGTERM.

    Args:
        database: of the cases and the decisions.
        owner: who comes in by the link; None where users come in by passwords.
        settings: what the site sets.
        host: the address to listen at.
        port: where; 0 takes a free one.
        on_start: called with the address that opens the review.

    Raises:
        CannotListen: there.
    """
    sessions = Sessions(database, owner)
    with contextlib.closing(listening(host, port)) as taken:
        address = address_of(taken, host)
        on_start(f"{address}/enter?key={sessions.link}" if owner else address)
        config = uvicorn.Config(
            application(database, sessions, settings), log_config=None, access_log=False
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([taken])


# --- what pages hold ------------------------------------------------------------------------------


def _filters(request: Request) -> dict[str, str]:
    given = request.query_params
    return {name: given[name][:200] for name in FILTERS if given.get(name)}


def _state(database: Database, case_id: int, user: User) -> dict[str, Any]:
    """Return what stands by a user, and by others where they may see it."""
    events = database.decisions(case_id, None if user.sees_all else user.name)
    each = by_reader(events)
    mine = each.pop(user.name, Standing())
    others = [{"who": who, **vars(standing)} for who, standing in each.items()]
    can_undo = any(event["who"] == user.name for event in events)
    return {"mine": vars(mine), "others": others, "can_undo": can_undo}


def _data(here: Opened, settings: Settings) -> dict[str, Any]:
    """Return what the page's script works with."""
    case, (frames, rows, columns) = here.case, here.shape
    scores = [case["frames"].get(frame) for frame in range(frames)]
    known = [score if score is not None else -math.inf for score in scores]
    start = int(np.argmax(known)) if frames > 1 else 0
    ids = {number for number, _ in here.regions}
    regions = [
        {**region, "outlines": here.outlines(region["id"]) if region["id"] in ids else {}}
        for region in case["regions"]
    ]
    window = None
    if here.scan is not None:
        low, high = here.grey_range
        pixels = here.scan.pixels
        least, most = (0.0, 255.0)
        if pixels.dtype != np.uint8:
            least, most = float(pixels.min()), float(pixels.max())
        window = {"low": low, "high": high, "least": least, "most": most}
    has_map = not here.is_signal and "scale" in here.about and here.residual(start) is not None
    return {
        "id": case["id"],
        "score": case["score"],
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "spacing": here.spacing,
        "scores": scores if case["frames"] else [],
        "start": start,
        "window": window,
        "map": has_map,
        "regions": regions,
        "labels": list(settings.labels),
        "fundus": _fundus(here),
        "radii": RADII,
    }


def _fundus(here: Opened) -> dict[str, Any] | None:
    if (fundus := fundus_of(here)) is None:
        return None
    rows, columns = fundus.ground.picture.shape
    return {
        "rows": rows,
        "columns": columns,
        "pixel_mm": fundus.ground.pixel_mm,
        "lines": np.round(fundus.ground.lines[:, :, ::-1], 1).tolist(),
        "centre": fundus.centre,
        "sides": fundus.sides,
        "outlines": fundus.outlines,
    }


def _grid(here: Opened, fovea: Sequence[float] | None) -> list[dict[str, Any]]:
    fundus = fundus_of(here)
    return [] if fundus is None else grid_of(here, *(fovea or fundus.centre))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fanogan.review", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=number, share=share, percent=percent, as_json=_json_in_page, points=_points
    )
    return environment


def _json_in_page(value: Mapping[str, Any]) -> str:
    """Return JSON that ends no element of a page."""
    from markupsafe import Markup

    return Markup(json.dumps(value).replace("<", "\\u003c"))


def _points(points: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{column:g},{row:g}" for column, row in points)


def _png(pixels: np.ndarray) -> Response:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png")


def _file(content: Any, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=kind, headers=headers)


def _zip(made: tuple[IO[bytes], int], name: str) -> Response:
    file, count = made
    headers = {"X-Count": str(count)}
    response = _file(iter(functools.partial(file.read, 1 << 16), b""), name, "application/zip")
    response.headers.update(headers)
    return response
