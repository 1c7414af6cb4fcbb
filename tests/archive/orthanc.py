"""A real Orthanc on free ports of the loopback, with its DICOMweb plugin."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 22), dtype=np.uint8)
SPACING = (0.24, 0.0039, 0.0117)

Typed = Callable[..., tuple[int, str]]
"""Types a command; returns its exit status and what it said."""

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
PLUGINS = [
    path
    for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")
    for path in Path(folder).glob("libOrthancDicomWeb.so*")
][:1]
needs_orthanc = pytest.mark.skipif(
    not (PROGRAM and PLUGINS), reason="Orthanc and its DICOMweb plugin: make test-system"
)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Orthanc:
    """Started, killed and started again with the same storage and ports."""

    user, password = "reader", "s3cret-word"

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.http, self.dicom = folder, free_port(), free_port()
        self.moves = free_port()  # where it sends what C-MOVE asks for
        self.settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [str(path) for path in PLUGINS],
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {self.user: self.password},
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowFind": False,
            "DicomAlwaysAllowGet": False,
            "DicomModalities": {"fanogan": ["FANOGAN", "127.0.0.1", self.moves]},
            "MaximumStorageCacheSize": 0,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    @property
    def dimse(self) -> str:
        return f"dimse://ORTHANC@127.0.0.1:{self.dicom}"

    def rest(self, path: str, **options: Any) -> requests.Response:
        verb = "post" if "data" in options or "json" in options else "get"
        options.setdefault("auth", (self.user, self.password))
        url = f"http://127.0.0.1:{self.http}{path}"
        return requests.request(verb, url, timeout=20, **options)

    def start(self) -> Orthanc:
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self.settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(PROGRAM), str(config)], stdout=log, stderr=log)
        for _ in range(200):
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                if self.rest("/dicom-web/studies").ok:
                    return self
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        raise AssertionError("Orthanc doesn't answer")

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def put(self, *files: Path) -> None:
        for path in files:
            assert self.rest("/instances", data=path.read_bytes()).ok

    def instances(self) -> list[dict[str, Any]]:
        return list(self.rest("/instances?expand").json())


def https_in_front(port: int, certificate: Path) -> int:
    """Return the port of a proxy with TLS: Debian's Orthanc crashes at its first HTTPS request."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = socket.create_server(("127.0.0.1", 0))

    def pipe(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            plain, _ = server.accept()
            try:
                one = context.wrap_socket(plain, server_side=True)
            except OSError:  # who doesn't trust us hangs up
                continue
            other = socket.create_connection(("127.0.0.1", port))
            for ends in ((one, other), (other, one)):
                threading.Thread(target=pipe, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])
