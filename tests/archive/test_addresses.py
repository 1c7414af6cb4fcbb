"""Addresses, selections and answers that are wrong, without an archive: a sentence each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from orthanc import Typed, free_port

from fanogan.cli.archive_commands import dates_in
from fanogan.cli.arguments import UsageError


class Strange(BaseHTTPRequestHandler):
    """Answers each path in a way that no archive should."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "slow":
            threading.Event().wait(0.6)
        self.send_response({"busy": 503, "forbidden": 403}.get(kind, 200))
        body = {
            "page": b"<html>Please log in, Geheimrat</html>",
            "list": b'[{"0020000D": {"vr": "XX", "Value": 7}}, 12]',
            "short": b"[",
        }.get(kind, b"")
        self.send_header("Content-Length", str(len(body) + 100 * (kind == "short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def strange() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Strange)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("page", "answered with something that isn't DICOM: check that the path"),
        ("list", "answered with something that isn't DICOM"),
        ("short", "doesn't answer, or broke off: check that it runs"),
        ("busy", "is busy (HTTP 503)"),
        ("forbidden", "refused (HTTP 403): this user may not do that"),
        ("slow", "took too long to answer"),
    ],
)
def test_an_answer_that_is_none(
    path: str, said: str, strange: str, typed: Typed, tmp_path: Path
) -> None:
    words = ("--modality", "OPT", "--out", tmp_path / "s", "--timeout", 0.3)
    status, text = typed("fetch", f"{strange}/{path}", *words)
    assert status == 1 and said in text and "Geheimrat" not in text
    assert text.count("trying again") == (3 if path in ("short", "busy", "slow") else 0)
    assert not (tmp_path / "s").exists()


def test_nobody_there(typed: Typed, tmp_path: Path) -> None:
    for form in ("http://127.0.0.1:{}/dicom-web", "dimse://ORTHANC@127.0.0.1:{}"):
        status, text = typed("fetch", form.format(free_port()), "--modality", "OPT")
        assert status == 1 and text.count("trying again") == 3, text
        assert "check that it runs" in text or "nothing answers there" in text


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("pacs.example.org", "is no address of an archive: give https://HOST/PATH"),
        ("ftp://pacs", "is no address of an archive"),
        ("dimse://pacs:4242", "is no address of an archive"),
        ("dimse://PACS@host:port", "is no address of an archive"),
        ("https://me:secret@pacs/dicom-web", "leave it out, and set FANOGAN_ARCHIVE_USER"),
        ("dimse://ATITLETHATISTOOLONG@pacs:4242", "1 to 16 plain letters"),
    ],
)
def test_an_address_that_is_none(address: str, said: str, typed: Typed) -> None:
    status, text = typed("fetch", address, "--modality", "OPT")
    assert status == 1 and said in text and "secret@" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --patient, --study, --modality or --date"),
        (("--series", "1.2"), "give --patient, --study, --modality or --date"),
        (("--date", "31.1.2026"), "--date 31.1.2026: give a day such as 2026-01-31"),
        (("--date", "2026-02-01..2026-01-31"), "give a day"),
        (("--modality", "CT", "--codes", "scans/codes.csv"), "lies among the scans"),
        (("--modality", "CT", "--listen", "11112"), "--listen is for dimse:// alone"),
    ],
)
def test_a_selection_that_is_none(words: tuple[str, ...], said: str, typed: Typed) -> None:
    status, text = typed("fetch", "http://127.0.0.1:9/dicom-web", *words)
    assert status == 1 and said in text


def test_days_are_asked_for_as_dicom_does() -> None:
    assert dates_in("2026-01-31") == "20260131"
    assert dates_in("2026-01-01..2026-01-31") == "20260101-20260131"
    assert dates_in("..2026-01-31") == "-20260131" and dates_in("2026-01-31..") == "20260131-"
    with pytest.raises(UsageError):
        dates_in("..")


def test_results_without_objects_are_refused(typed: Typed, tmp_path: Path) -> None:
    status, text = typed("send", "http://127.0.0.1:9/dicom-web", tmp_path)
    assert status == 1 and f"{tmp_path} has no DICOM objects to send: fanogan score" in text
    status, text = typed("send", "http://127.0.0.1:9/dicom-web")
    assert status == 1 and "no results: fanogan send ARCHIVE RESULTS" in text
