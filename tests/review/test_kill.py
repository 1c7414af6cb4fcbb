"""Nothing that was acknowledged is lost when the server is killed, again and again."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from review_made import event, row

from fanogan.review import Database
from fanogan.scoring import COLUMNS, write_csv

httpx = pytest.importorskip("httpx", reason="needs pip install 'fanogan[dev]'")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command itself, and the link that it prints."""
    command = [sys.executable, "-m", "fanogan", "review", "results", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout
    try:
        said = ""
        while not (found := re.search(r"open (http://\S+)", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_two_hundred_decisions_under_a_kill_loop(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    rows = [row(f"case {i}", float(i)) for i in range(20)]
    write_csv(tmp_path / "results" / "scores.csv", COLUMNS, rows)
    waiting = [(f"request-{i:04}", 1 + i % 20, f"note {i}") for i in range(200)]
    kept: list[str] = []
    kills = 0
    moments = random.Random(0)
    while waiting:
        with server(tmp_path) as (process, link), httpx.Client(timeout=10) as client:
            client.get(link, follow_redirects=True)
            base = link.rpartition("/enter")[0]
            killer = threading.Timer(moments.uniform(0.02, 0.25), process.kill)
            killer.start()
            with contextlib.suppress(httpx.TransportError):
                while waiting:
                    request, case, text = waiting[0]
                    sent = event("note", text, request=request)
                    answer = client.post(f"{base}/cases/{case}/events", json=sent)
                    assert answer.status_code == 200
                    kept.append(request)
                    waiting.pop(0)
            killer.cancel()
            kills += process.poll() is not None or bool(waiting)
    assert kills >= 3
    database = Database(tmp_path / "review.sqlite")
    found = database.rows("SELECT request, value FROM events ORDER BY id")
    # Each that was acknowledged is there, once: one whose answer was lost has been sent again.
    assert [event["request"] for event in found] == kept == [f"request-{i:04}" for i in range(200)]
    assert [json.loads(event["value"]) for event in found] == [f"note {i}" for i in range(200)]
    assert database.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


@pytest.mark.slow
def test_ctrl_c_ends_it_in_peace(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    write_csv(tmp_path / "results" / "scores.csv", COLUMNS, [row("case", 1.0)])
    with server(tmp_path) as (process, _):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
