"""Days of visits come from files when pages are shown, and are kept nowhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from dicom_volumes import eye as save_eye
from review_made import SHAPE, SPACING, login, row, scan_row, write_volume
from starlette.testclient import TestClient

from fanogan.review import Database, Settings, User, add_user, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.review.dates import day_of
from fanogan.scoring import COLUMNS, write_csv

PIXELS = np.zeros(SHAPE, np.uint8)


def day(path: Path, visit: str = "") -> str:
    return day_of({"scan": {"files": [str(path)]}, "visit": visit})


def test_a_day_is_the_acquisitions_else_the_studys_else_the_names(tmp_path: Path) -> None:
    study = save_eye(tmp_path / "study.dcm", PIXELS, SPACING)
    assert day(study, "1999-01-01") == "2020-01-02"
    taken = save_eye(
        tmp_path / "taken.dcm", PIXELS, SPACING, AcquisitionDateTime="20240319101112.5"
    )
    assert day(taken) == "2024-03-19"
    without = save_eye(tmp_path / "without.dcm", PIXELS, SPACING, StudyDate="")
    assert day(without, "2021-05-06") == "2021-05-06" and day(without) == ""
    assert day(tmp_path / "gone.dcm", "2021-05-06") == "2021-05-06"
    (tmp_path / "b.png").write_bytes(b"no header")
    assert day(tmp_path / "b.png") == ""


def test_days_of_heidelbergs_files(tmp_path: Path) -> None:
    head = bytearray(2048)
    head[200:208] = struct.pack("<d", 45_370.0)  # days since 30 December 1899
    (tmp_path / "a.vol").write_bytes(head)
    assert day(tmp_path / "a.vol") == "2024-03-19"
    (tmp_path / "a.vol").write_bytes(bytes(2048))
    assert day(tmp_path / "a.vol", "2021-05-06") == "2021-05-06"
    text = (
        "<HEDX><BODY><Patient><Birthdate><Date><Year>1945</Year><Month>5</Month><Day>8</Day></Date>"
        "</Birthdate><Study><StudyDate>\n<Date><Year>2024</Year><Month>3</Month><Day>9</Day></Date>"
        "</StudyDate></Study></Patient></BODY></HEDX>"
    )
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / f"{encoding}.xml").write_bytes(text.encode(encoding))
        assert day(tmp_path / f"{encoding}.xml") == "2024-03-09"


def test_visits_are_in_the_order_of_days_that_nothing_keeps(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    results = write_volume(
        tmp_path / "results",
        save_eye(tmp_path / "eye.dcm", PIXELS, SPACING, AcquisitionDate="20240319"),
    )
    others = {"later": "20250102", "earlier": "20230607"}
    scans = [scan_row("eye", tmp_path / "eye.dcm", "right")]
    rows = [row("eye", 2.0, unit="volume", subject="anna")]
    for name, taken in others.items():
        path = save_eye(tmp_path / f"{name}.dcm", PIXELS, SPACING, AcquisitionDate=taken)
        scans.append(scan_row(name, path, "right"))
        rows.append(row(name, 1.0, unit="volume", subject="anna"))
    write_csv(results / "scans.csv", list(scans[0]), scans)
    write_csv(results / "scores.csv", COLUMNS, rows)
    (results / "regions.json").write_text(json.dumps([]))
    database = Database(tmp_path / "review.sqlite")
    import_results(database, results)
    add_user(database, User("anna", "reader"), "password of anna")
    client = TestClient(
        application(database, Sessions(database, None), Settings()), base_url="http://review"
    )
    client.follow_redirects = False
    login(client, "anna")
    page = client.get("/cases/1").text
    assert '<span class="mark">2024-03-19</span>' in page
    assert page.index("2023-06-07 · score") < page.index("2025-01-02 · score")
    decided = {"request": "request-1", "kind": "case", "value": "normal"}
    assert client.post("/cases/1/events", json=decided).status_code == 200
    kept = (tmp_path / "review.sqlite").read_bytes() + (tmp_path / "review.sqlite-wal").read_bytes()
    for place in ("/out/decisions.csv", "/out/decisions.json", "/cases/1/print"):
        assert "2024-03-19" not in client.get(place).text
    assert b"20240319" not in kept and b"2024-03-19" not in kept
