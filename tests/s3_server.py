"""An S3 server on the loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest

from fanogan.remote import files


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Any]:
    """The file system of a server with an empty bucket, for this process and those it starts."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    urlopen(Request(f"{address}/moto-api/reset", method="POST"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(files, "WAITS", (0.0,))
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    found = fsspec.filesystem("s3")
    found.mkdir("bucket")
    found.server = server
    yield found
    server.stop()
    kind.clear_instance_cache()


def permissions_after(s3: Any, calls: bytes) -> None:
    """Let the server ask for permissions, which nobody has, after so many calls."""
    host, port = s3.server.get_host_and_port()
    plain = {"Content-Type": "text/plain"}
    urlopen(Request(f"http://{host}:{port}/moto-api/reset-auth", calls, plain, method="POST"))
    s3.invalidate_cache()
