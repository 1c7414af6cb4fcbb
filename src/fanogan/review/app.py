"""The web application: pages, pictures, and decisions that come back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, Form, HTTPException, Query, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from fanogan.report import residual_layer, shrink
from fanogan.review import outputs
from fanogan.review.access import COOKIE, Guard, Sessions, User, with_session
from fanogan.review.answers import attachment, png, rendered, zipped
from fanogan.review.database import JUDGEMENTS, PAGE, SORTS, Database, Refused
from fanogan.review.dates import day_of
from fanogan.review.events import Event
from fanogan.review.fundus import fundus_of, grid_of
from fanogan.review.opened import Opened, opened
from fanogan.review.shown import data_of, fundus_data, print_data, state_of
from fanogan.review.standing import Standing, agreement, by_reader
from fanogan.review.truth import Truth
from fanogan.scans import BadScan
from fanogan.serve import address_of, listening

HERE = Path(__file__).parent
LABELS = ("fluid", "drusen", "haemorrhage", "atrophy", "artefact", "other")
LARGEST = 4096  # pixels of a side that is sent; a larger picture is downsampled
FILTERS = ("flag", "state", "eye", "warning", "reader", "search", "sort")


@dataclass(frozen=True)
class Settings:
    """What a site sets: the `labels` that regions may have, and the truth for whoever starts it."""

    labels: Sequence[str] = LABELS
    truth: Truth | None = None


def application(database: Database, sessions: Sessions, settings: Settings) -> Guard:
    """Return the application, behind its guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    def case_or_404(case_id: int) -> dict[str, Any]:
        case = database.case(case_id)
        if case is None:
            raise HTTPException(404, "there is no such case")
        return case

    def frame_or_404(case: Opened, frame: int) -> None:
        if not 0 <= frame < case.shape[0]:
            raise HTTPException(404, "there is no such frame")

    def truth_for(request: Request) -> Truth | None:
        """Return the truth, for the role that whoever starts the review has."""
        return settings.truth if request.state.user.role == "admin" else None

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
        visits = database.visits(case) if case["subject"] else []
        dated = [{**each, "day": day_of(each)} for each in visits]
        return rendered(
            "case.html",
            request,
            case=case,
            day=day_of(case),
            here=here,
            data={
                **data_of(here, settings.labels),
                "state": state_of(database, case, user),
                "truth": truth_for(request) is not None and not here.is_signal,
            },
            labels=settings.labels,
            judgements=JUDGEMENTS,
            visits=sorted(dated, key=itemgetter("day")),
            query=urlencode(filters),
            done=done,
            count=count,
        )

    @app.get("/cases/{case_id}/print")
    def print_page(request: Request, case_id: int) -> Response:
        case, user = case_or_404(case_id), request.state.user
        content = print_data(opened(case), database.decisions(case_id), user, settings.labels)
        return rendered("print.html", request, **content)

    @app.get("/cases/{case_id}/state")
    def state(request: Request, case_id: int) -> dict[str, Any]:
        return state_of(database, case_or_404(case_id), request.state.user)

    @app.post("/cases/{case_id}/events")
    def add(request: Request, case_id: int, event: Event) -> dict[str, Any]:
        user: User = request.state.user
        case = case_or_404(case_id)
        if event.kind == "draw" and event.value["frame"] is not None:
            frame_or_404(opened(case), event.value["frame"])
        elif event.kind == "draw" and fundus_of(opened(case)) is None:
            raise HTTPException(404, "it has no en-face map to draw on")
        try:
            kept = database.add(event.request, user.name, user.role, case_id, event.model_dump())
        except Refused as refused:
            raise HTTPException(409, str(refused)) from None
        return {"id": kept["id"], "state": state_of(database, case, user)}

    @app.get("/cases/{case_id}/grid")
    def grid(case_id: int, column: float, row: float) -> list[dict[str, Any]]:
        return grid_of(opened(case_or_404(case_id)), column, row)

    @app.get("/cases/{case_id}/beside")
    def beside(request: Request, case_id: int) -> dict[str, Any]:
        case, user = case_or_404(case_id), request.state.user
        standing = by_reader(database.decisions(case_id, user.name)).get(user.name, Standing())
        known = {"score": case["score"], "regions": len(case["regions"]), "fovea": standing.fovea}
        return {**known, "fundus": fundus_data(opened(case))}

    # --- pictures ---------------------------------------------------------------------------------

    def window(here: Opened, low: float | None, high: float | None) -> tuple[float, float]:
        usual = here.grey_range
        return usual[0] if low is None else low, usual[1] if high is None else high

    @app.get("/cases/{case_id}/scan/{frame}")
    def scan(
        case_id: int, frame: int, low: float | None = None, high: float | None = None
    ) -> Response:
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        if here.scan is None:
            raise HTTPException(404, here.problem)
        return png(shrink(here.frame(frame, *window(here, low, high)), LARGEST))

    @app.get("/cases/{case_id}/map/{frame}")
    def map_layer(case_id: int, frame: int) -> Response:
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        residual = here.residual(frame)
        if residual is None or "scale" not in here.about:
            raise HTTPException(404, "these results hold no map of it")
        return png(residual_layer(shrink(residual, LARGEST), here.about["scale"]))

    @app.get("/cases/{case_id}/normal/{frame}")
    def nearest_normal(
        case_id: int, frame: int, low: float | None = None, high: float | None = None
    ) -> Response:
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        pixels = here.normal(frame, *window(here, low, high))
        if pixels is None:
            raise HTTPException(404, "these results hold no nearest normal version of it")
        return png(shrink(pixels, LARGEST))

    @app.get("/cases/{case_id}/truth/{frame}")
    def truth(request: Request, case_id: int, frame: int) -> dict[str, Any]:
        if (known := truth_for(request)) is None:
            raise HTTPException(403, "the truth is for admins, where the review has masks")
        here = opened(case_or_404(case_id))
        frame_or_404(here, frame)
        try:
            outlines = known.outlines(here, frame)
        except BadScan as error:
            return {"outlines": [], "problem": str(error)}
        problem = "" if outlines is not None else "There is no mask of this name."
        return {"outlines": outlines or [], "problem": problem}

    @app.get("/cases/{case_id}/fundus")
    def fundus_picture(case_id: int) -> Response:
        if (fundus := fundus_of(opened(case_or_404(case_id)))) is None:
            raise HTTPException(404, "these results hold no en-face map of it")
        return png(fundus.ground.picture)

    @app.get("/cases/{case_id}/fundus_map")
    def fundus_map(case_id: int) -> Response:
        if (fundus := fundus_of(opened(case_or_404(case_id)))) is None:
            raise HTTPException(404, "these results hold no en-face map of it")
        return png(fundus.layer)

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
        return attachment(
            outputs.decisions_csv(database, whose(request)), "decisions.csv", "text/csv"
        )

    @app.get("/out/decisions.json")
    def out_json(request: Request) -> Response:
        found = outputs.decisions_json(database, whose(request))
        return attachment(found, "decisions.json", "application/json")

    @app.get("/out/masks.zip")
    def out_masks(request: Request) -> Response:
        return zipped(outputs.masks_zip(database, whose(request)), "masks.zip")

    @app.get("/out/dicom.zip")
    def out_dicom(request: Request) -> Response:
        return zipped(outputs.dicom_zip(database, whose(request)), "dicom.zip")

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


def _filters(request: Request) -> dict[str, str]:
    given = request.query_params
    return {name: given[name][:200] for name in FILTERS if given.get(name)}
