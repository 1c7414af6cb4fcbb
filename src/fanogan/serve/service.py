"""The service: its pages, and its life from the first request to the last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, File, HTTPException, Query, Response, UploadFile
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fanogan.errors import FanoganError
from fanogan.scans import limit_pixels
from fanogan.scoring import Model
from fanogan.serve.answer import Answer, MapFormat, answer
from fanogan.serve.fused import FusedScore, fused
from fanogan.serve.gate import Gate, Metrics, Settings

THREADS = 2 * (os.cpu_count() or 1) + 2
"""Requests that are read and fused at a time: some wait for the networks, others work."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/json": {"example": {"detail": example}}},
    }
    for status, text, example in (
        (401, "no token, or another", "give the token"),
        (413, "too large a body", "the body has more than 200 MB"),
        (
            422,
            "a scan that can't be scored",
            "scan.png is damaged or cut short and cannot be read as PNG: copy it again",
        ),
        (429, "busy, with Retry-After", "busy: come again in 2 s"),
        (503, "took too long", "took longer than 60 seconds"),
    )
}


class CannotListen(FanoganError):
    """An address or port that can't be had, in one sentence."""


def application(
    model: Model, settings: Settings, on_ready: Callable[[], None] = lambda: None
) -> Gate:
    """Return the service as an ASGI application; ``on_ready`` is called when it takes scans."""
    metrics = Metrics()
    together = fused(model, settings.milliseconds, metrics.windows.observe)
    assert isinstance(together.score, FusedScore)
    networks = together.score
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
    state = {"ready": False}

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        shape = model.preprocessing.image_shape
        with torch.inference_mode():  # the first batch takes longer
            networks(torch.zeros(1, *shape, device=model.device))
        state["ready"] = True
        on_ready()
        yield
        state["ready"] = False
        threads.shutdown()
        networks.close()

    app = FastAPI(
        title="fanogan",
        version=version("fanogan"),
        description="How far a scan is from the normal ones. Research use only, not a medical "
        "device.",
        lifespan=life,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )

    @app.post("/score", responses=REFUSALS)
    async def score(
        file: Annotated[
            UploadFile, File(description="PNG, TIFF, DICOM, NIfTI, …, or a zip of one volume")
        ],
        map: Annotated[
            MapFormat | None, Query(description="the format of the map; without it none is made")
        ] = None,
    ) -> Answer:
        """Score one image or one volume."""
        work = functools.partial(
            answer,
            together,
            file.file,
            file.filename or "",
            settings.alpha,
            int(4 * settings.megapixels * 1e6),
            map,
        )
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except FanoganError as error:
            raise HTTPException(422, str(error)) from None

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"description": "not yet, or no longer"}})
    async def ready(response: Response) -> dict[str, Any]:
        """Tell whether scans are taken, and by which model."""
        response.status_code = 200 if state["ready"] else 503
        return {
            "ready": state["ready"],
            "detector": model.detector,
            "recipe": model.recipe.name,
            "device": model.device.type,
        }

    @app.get("/metrics")
    async def metrics_page() -> Response:
        """Show counts and times to Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Gate(app, settings, metrics)


def serve(
    model: Model,
    settings: Settings,
    host: str,
    port: int,
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those that are in by then are answered first.

    Args:
        model: a trained one.
        settings: the limits.
        host: the address to listen at.
        port: where; 0 takes a free one.
        on_start: called with the service's address once requests are taken.

    Raises:
        CannotListen: there.
    """
    with contextlib.closing(_listening(host, port)) as listening:
        limit_pixels(int(settings.megapixels * 1e6))
        # Other loggers name files, such as members of a zip.
        logging.getLogger("fanogan").setLevel(logging.CRITICAL)
        log = logging.getLogger("fanogan.serve")
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(logging.StreamHandler())
        # uvicorn raises the signal again when all is done; it has been answered by then.
        signal.signal(signal.SIGTERM, lambda *_: None)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            application(model, settings, functools.partial(on_start, address)),
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,  # shorter than a client's pool it closes on a request
            timeout_graceful_shutdown=int(settings.seconds) + 1,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"nothing can listen at {host}:{port} ({reason}): give another"
        ) from None
