"""Pages, pictures and files as answers."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fanogan.text import harmless, number, percent, share

if TYPE_CHECKING:
    from jinja2 import Environment


def rendered(name: str, request: Request, status: int = 200, **content: Any) -> Response:
    """Return a page made from its template."""
    text = _environment().get_template(name).render(user=request.state.user, **content)
    return Response(text, status, media_type="text/html")


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


def png(pixels: np.ndarray) -> Response:
    """Return a picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png")


def attachment(content: Any, name: str, kind: str) -> Response:
    """Return a file that comes in pieces, to be saved under a name."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=kind, headers=headers)


def zipped(made: tuple[IO[bytes], int], name: str) -> Response:
    """Return a zip, and in a header how many files it holds."""
    file, count = made
    headers = {"X-Count": str(count)}
    response = attachment(iter(functools.partial(file.read, 1 << 16), b""), name, "application/zip")
    response.headers.update(headers)
    return response
