"""Results as score writes them, reviews of them, and what readers do there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from dicom_volumes import eye as save_eye
from starlette.testclient import TestClient

from fanogan.review import Database, Settings, User, add_user, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.scoring import COLUMNS, float_tiff, write_csv

SHAPE, SPACING = (4, 40, 24), (0.25, 0.01, 0.25)
REGION = {
    **{"number": 1, "bscan": 1, "row": 12, "column": 4, "bscans": [1, 2], "columns": [3, 5]},
    **{"x_mm": None, "y_mm": None, "pixels": 6, "area_mm2": 0.375, "mean": 0.8, "peak": 0.9},
}
MAKER = {"detector": "pca", "recipe": "small", "version": "0", "weights": "ab" * 32}


def row(name: str, score: float, **others: Any) -> dict[str, Any]:
    plain = dict.fromkeys(COLUMNS, "") | {"subject": name, "unit": "image", "flag": "no"}
    return plain | {"name": name, "score": score} | others


def scan_row(name: str, path: Path, eye: str = "") -> dict[str, Any]:
    lengths = dict(zip(("bscan_mm", "row_mm", "column_mm"), SPACING, strict=True))
    place = {"folder": str(path.parent), "files": json.dumps([path.name])}
    return {"name": name, **place, "eye": eye, **lengths}


def normal_of(shape: tuple[int, int, int]) -> np.ndarray:
    """What the networks made of it: each B-scan of one grey value."""
    return np.broadcast_to(np.arange(50, 50 + shape[0], dtype=np.uint8)[:, None, None], shape)


def write_volume(folder: Path, path: Path, eye: str = "right") -> Path:
    """Results of one volume with a region on the B-scans 1 and 2, columns 3 to 5."""
    en_face = np.full((SHAPE[0], SHAPE[2]), 0.1, np.float32)
    en_face[1:3, 3:6] = 0.8
    en_face[1, 4] = 0.9
    lines = np.stack([np.full(en_face.shape, 10.0), np.full(en_face.shape, 30.0)])
    for kind, values in (
        *(("maps", np.full(SHAPE, 0.2)), ("en_face", en_face)),
        *(("layers", lines),),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / "eye.tif").write_bytes(float_tiff(values))
    (folder / "reconstructions").mkdir()
    tifffile.imwrite(
        folder / "reconstructions" / "eye.tif", normal_of(SHAPE), photometric="minisblack"
    )
    frames = [row(f"eye#{k}", 0.1 * k) for k in range(SHAPE[0])]
    write_csv(folder / "scores.csv", COLUMNS, [row("eye", 2.0, unit="volume", regions=1), *frames])
    write_csv(folder / "scans.csv", list(scan_row("", path)), [scan_row("eye", path, eye)])
    (folder / "regions.json").write_text(json.dumps([{"volume": "eye", **REGION}]))
    about = {"scale": 0.5, "en_face": [0.1, 0.5], "maker": MAKER, "kind": "image"}
    about |= {"grey": ["uint8", 0.0, 255.0]}
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def decide(database: Database, who: str, case: int, kind: str, value: Any, **others: Any) -> Any:
    role = "adjudicator" if who == "judge" else "reader"
    event = {"kind": kind, "value": value, "region": others.get("region", "")}
    request = f"{who}-{len(database.rows('SELECT 1 FROM events')):08}"
    return database.add(request, who, role, case, event)


def login(client: TestClient, name: str) -> None:
    client.cookies.clear()
    given = {"name": name, "password": f"password of {name}"}
    answer = client.post("/login", data=given)
    assert answer.status_code == 303 and "samesite=strict" in answer.headers["set-cookie"].lower()
    assert "HttpOnly" in answer.headers["set-cookie"]


def event(kind: str, value: Any = None, region: str = "", request: str = "") -> dict[str, Any]:
    name = request or f"request-{np.random.default_rng().integers(1 << 60)}"
    return {"request": name, "kind": kind, "value": value, "region": region}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    path = save_eye(tmp_path / "eye.dcm", pixels, SPACING)
    return write_volume(tmp_path / "results", path)


@pytest.fixture
def many(tmp_path: Path) -> Database:
    """120 cases in falling order, every third flagged, the first with a warning."""
    folder = tmp_path / "many"
    folder.mkdir()
    rows = [row(f"case {i:03}", 1000 - i, flag="no" if i % 3 else "yes") for i in range(120)]
    rows[0]["warnings"] = "size unseen"
    write_csv(folder / "scores.csv", COLUMNS, rows)
    database = Database(tmp_path / "many.sqlite")
    assert import_results(database, folder) == 120
    return database


@pytest.fixture
def site(results: Path, tmp_path: Path) -> tuple[TestClient, Database]:
    database = Database(tmp_path / "site.sqlite")
    import_results(database, results)
    for name, role in (("anna", "reader"), ("ben", "reader"), ("judge", "adjudicator")):
        add_user(database, User(name, role), f"password of {name}")
    app = application(database, Sessions(database, None), Settings())
    return TestClient(app, base_url="http://review", follow_redirects=False), database
