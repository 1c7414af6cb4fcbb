"""The service: its pages, and its life from the first request to the last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fanogan.errors import FanoganError
from fanogan.scans import limit_pixels
from fanogan.serve.address import address_of, listening
from fanogan.serve.answer import Answer, MapFormat, answer
from fanogan.serve.gate import MODEL, Gate, Metrics, Settings
from fanogan.serve.served import Load, Models

THREADS = 2 * (os.cpu_count() or 1) + 2
"""Requests that are read and fused at a time: some wait for the networks, others work."""

WRITE_SECONDS = 60
"""Between two writings of the records of drift."""

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/json": {"example": {"detail": example}}},
    }
    for status, text, example in (
        (404, "no such model", "no model of this name is served; there are: retina, brain"),
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


def application(
    models: Models, settings: Settings, on_ready: Callable[[], None] = lambda: None
) -> Gate:
    """Return the service as an ASGI application; ``on_ready`` is called when it takes scans."""
    metrics = models.metrics
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
    state = {"ready": False}

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        loop, reloads = asyncio.get_running_loop(), set[asyncio.Future[None]]()

        def reload() -> None:
            reloads.add(task := loop.run_in_executor(None, models.reload))
            task.add_done_callback(reloads.discard)

        async def write() -> None:
            while True:
                await asyncio.sleep(WRITE_SECONDS)
                await loop.run_in_executor(None, models.write)

        loop.add_signal_handler(signal.SIGHUP, reload)
        writing = asyncio.create_task(write())
        state["ready"] = True
        on_ready()
        yield
        state["ready"] = False
        loop.remove_signal_handler(signal.SIGHUP)
        writing.cancel()
        await asyncio.gather(*reloads)
        threads.shutdown()
        models.close()

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
        request: Request,
        file: Annotated[
            UploadFile, File(description="PNG, TIFF, DICOM, NIfTI, …, or a zip of one volume")
        ],
        map: Annotated[
            MapFormat | None, Query(description="the format of the map; without it none is made")
        ] = None,
        model: Annotated[
            str | None, Query(description="its name, as of /models; without it the first")
        ] = None,
    ) -> Answer:
        """Score one image or one volume."""
        served = models.take(model)
        if served is None:
            known = ", ".join(models.served)
            raise HTTPException(404, f"no model of this name is served; there are: {known}")
        request.scope[MODEL] = served.name
        work = functools.partial(
            answer,
            served,
            file.file,
            file.filename or "",
            settings.alpha,
            int(4 * settings.megapixels * 1e6),
            map,
        )
        try:
            scored: Answer = await asyncio.wrap_future(served.submit(threads, work))
            return scored
        except FanoganError as error:
            raise HTTPException(422, str(error)) from None

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"description": "not yet, or no longer"}})
    async def ready(response: Response) -> dict[str, Any]:
        """Tell whether scans are taken, and by which models."""
        response.status_code = 200 if state["ready"] else 503
        return {"ready": state["ready"], "models": list(models.served)}

    @app.get("/models")
    async def known_models() -> dict[str, Any]:
        """Tell of each model what it is, since when, and why it couldn't be loaded anew."""
        return models.about()

    @app.get("/metrics")
    async def metrics_page() -> Response:
        """Show counts and times to Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Gate(app, settings, metrics)


def serve(
    sources: Mapping[str, Load],
    settings: Settings,
    host: str,
    port: int,
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those that are in by then are answered first.

    SIGHUP loads the models anew.

    Args:
        sources: how each model is loaded, by its name.
        settings: the limits.
        host: the address to listen at.
        port: where; 0 takes a free one.
        on_start: called with the service's address once requests are taken.

    Raises:
        CannotListen: there.
        FanoganError: a model can't be loaded.
    """
    with contextlib.closing(listening(host, port)) as taken:
        models = Models(sources, settings, Metrics())
        limit_pixels(int(settings.megapixels * 1e6))
        # Other loggers name files, such as members of a zip.
        logging.getLogger("fanogan").setLevel(logging.CRITICAL)
        log = logging.getLogger("fanogan.serve")
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(logging.StreamHandler())
        # uvicorn raises the signal again when all is done; it has been answered by then.
        signal.signal(signal.SIGTERM, lambda *_: None)
        address = address_of(taken, host)
        config = uvicorn.Config(
            application(models, settings, functools.partial(on_start, address)),
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,  # shorter than a client's pool it closes on a request
            timeout_graceful_shutdown=int(settings.seconds) + 1,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([taken])
