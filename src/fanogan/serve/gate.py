"""What stands before the service: who may come in, how much, how many, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import math
import secrets
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("fanogan.serve")

GUARDED = ("/score", "/metrics", "/models")
"""Where a token is asked for; whether the service lives may be asked by anyone."""
KNOWN = (*GUARDED, "/health", "/ready", "/openapi.json")

MODEL = "fanogan.model"
"""Where the application puts the name of the model that a request was for, in its scope."""

DRAIN_BYTES, DRAIN_SECONDS = 1 << 20, 1.0
"""What is read, and for how long, of the body of a request that is refused."""


@dataclass(frozen=True)
class Settings:
    """The limits of a service.

    Attributes:
        alpha: The false-positive rate of flags.
        megabytes: Of a body, at most.
        megapixels: Of a scan, all its frames together, at most.
        seconds: That a request may take, its upload included.
        queue: Requests for a score that are taken at a time; others are told to come again.
        milliseconds: For which windows wait for those of other requests.
        token: That a client has to send; None: anyone may come.
        drift: The folder of records of drift; None: none is kept.
    """

    alpha: float = 0.05
    megabytes: float = 200.0
    megapixels: float = 100.0
    seconds: float = 60.0
    queue: int = 64
    milliseconds: float = 3.0
    token: str | None = None
    drift: Path | None = None


class Metrics:
    """What Prometheus reads."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = CollectorRegistry()
        known = self.registry
        self.requests = Counter(
            "fanogan_requests",
            "Requests by path, status and model",
            ["path", "status", "model"],
            registry=known,
        )
        self.seconds = Histogram(
            "fanogan_request_seconds", "Seconds of a request", ["model"], registry=known
        )
        self.reloads = Counter(
            "fanogan_reloads", "Models that were loaded anew", ["model", "result"], registry=known
        )
        self.waiting = Gauge("fanogan_requests_now", "Requests for a score, now", registry=known)
        self.windows = Histogram(
            "fanogan_batch_windows",
            "Windows that the networks saw together",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=known,
        )


class _Refused(Exception):
    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


class Gate:
    """An ASGI application around another, with the limits of ``Settings``."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics):
        """Let nobody in yet."""
        self.app, self.settings, self.metrics = app, settings, metrics
        self.taken = 0
        self.usual_seconds = 1.0  # of a request, lately

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, count it, and log it without anything of a client's."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, size = time.monotonic(), 0, 0
        too_large: _Refused | None = None
        path = scope["path"] if scope["path"] in KNOWN else "other"
        most = int(self.settings.megabytes * 1e6)

        async def counted_receive() -> Message:
            nonlocal size, too_large
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                too_large = self._too_large()
                raise too_large
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status
            if too_large is not None and not status:
                return  # whatever the application makes of a body that was cut off
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def refuse(refused: _Refused) -> None:
            nonlocal too_large, status
            too_large = None
            if status:
                return
            # A connection that is closed on unread bytes is reset, and the answer may be lost.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    left = DRAIN_BYTES
                    while left > 0 and (message := await receive()).get("more_body"):
                        left -= len(message["body"])
            body = {"detail": refused.detail}
            answer = JSONResponse(body, refused.status, headers=refused.headers)
            status = refused.status
            await answer(scope, receive, send)

        error: dict[str, Any] = {}
        is_score = path == "/score" and scope["method"] == "POST"
        is_in = False
        try:
            self._check(path, dict(scope["headers"]), most)
            if is_score:
                self._enter()
                is_in = True
            async with asyncio.timeout(self.settings.seconds):
                await self.app(scope, counted_receive, watched_send)
            if too_large is not None:
                await refuse(too_large)
        except _Refused as refused:
            await refuse(refused)
        except TimeoutError:
            await refuse(_Refused(503, f"took longer than {self.settings.seconds:g} seconds"))
        except Exception as unexpected:
            # The place in the code alone: a message may hold something of the scan.
            where = traceback.extract_tb(unexpected.__traceback__)[-1]
            place = f"{where.name} in line {where.lineno} of {where.filename.rpartition('/')[2]}"
            error = {"error": type(unexpected).__name__, "at": place}
            await refuse(_Refused(500, "an error of the service, which is in its log"))
        finally:
            seconds = time.monotonic() - begun
            model = scope.get(MODEL, "")
            if is_in:
                self.taken -= 1
                self.metrics.waiting.dec()
                self.usual_seconds += 0.1 * (seconds - self.usual_seconds)
                self.metrics.seconds.labels(model).observe(seconds)
            self.metrics.requests.labels(path, str(status), model).inc()
            record = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "request": secrets.token_hex(4),
                "method": scope["method"],
                "path": path,
                "model": model,
                "status": status,
                "bytes": size,
                "ms": round(1000 * seconds),
                **error,
            }
            log.info("%s", json.dumps(record))

    def _check(self, path: str, headers: Mapping[bytes, bytes], most: int) -> None:
        token = self.settings.token
        if token is not None and path in GUARDED:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                raise _Refused(401, "give the token", {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"the body has more than {self.settings.megabytes:g} MB")

    def _enter(self) -> None:
        if self.taken >= self.settings.queue:
            again = str(max(1, math.ceil(self.usual_seconds)))
            raise _Refused(429, f"busy: come again in {again} s", {"Retry-After": again})
        self.taken += 1
        self.metrics.waiting.inc()
