"""Reading and deciding: what is imported, kept, seen by whom, and what goes out."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from dicom_volumes import eye as save_eye
from sklearn.metrics import cohen_kappa_score

pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
from starlette.testclient import TestClient

from fanogan import FAnoGAN
from fanogan.cli import main
from fanogan.recipes import load_recipe
from fanogan.review import Database, Settings, User, add_user, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.review.fundus import fundus_of, grid_of
from fanogan.review.opened import Opened, opened
from fanogan.review.standing import agreement, by_reader, final, mask_of
from fanogan.scans import read_scan
from fanogan.scoring import COLUMNS, float_tiff, write_csv, write_results
from fanogan.storage import BadFolder

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
    frames = [row(f"eye#{k}", 0.1 * k) for k in range(SHAPE[0])]
    write_csv(folder / "scores.csv", COLUMNS, [row("eye", 2.0, unit="volume", regions=1), *frames])
    write_csv(folder / "scans.csv", list(scan_row("", path)), [scan_row("eye", path, eye)])
    (folder / "regions.json").write_text(json.dumps([{"volume": "eye", **REGION}]))
    about = {"scale": 0.5, "en_face": [0.1, 0.5], "maker": MAKER, "signal": False}
    (folder / "about.json").write_text(json.dumps(about))
    return folder


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


def decide(database: Database, who: str, case: int, kind: str, value: Any, **others: Any) -> Any:
    role = "adjudicator" if who == "judge" else "reader"
    event = {"kind": kind, "value": value, "region": others.get("region", "")}
    request = f"{who}-{len(database.rows('SELECT 1 FROM events')):08}"
    return database.add(request, who, role, case, event)


# --- cases and events -----------------------------------------------------------------------------


def test_importing_again_changes_nothing_and_takes_new_cases(results: Path, tmp_path: Path) -> None:
    database = Database(tmp_path / "review.sqlite")
    assert import_results(database, results) == 1
    decide(database, "anna", 1, "region", {"verdict": "accepted", "label": ""}, region="1")
    assert import_results(database, results) == 0
    rows = list(csv.DictReader((results / "scores.csv").open()))
    write_csv(results / "scores.csv", COLUMNS, [*rows, row("new", 5.0)])
    assert import_results(database, results) == 1
    case = database.case(1)
    assert case is not None and (case["name"], case["eye"]) == ("eye", "right")
    assert case["frames"] == pytest.approx({0: 0, 1: 0.1, 2: 0.2, 3: 0.3})
    assert case["regions"] == [{**REGION, "id": 1}]
    # Another region in its place is another region: what was said of the first isn't said of it.
    (results / "regions.json").write_text(json.dumps([{"volume": "eye", **REGION, "row": 13}]))
    import_results(database, results)
    case = database.case(1)
    assert case is not None and [region["id"] for region in case["regions"]] == [2]
    assert len(database.rows("SELECT * FROM events")) == 1


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    database = Database(tmp_path / "review.sqlite")
    with pytest.raises(BadFolder, match="no results here; give the folder that fanogan score"):
        import_results(database, tmp_path)
    (tmp_path / "scores.csv").write_text("name,score\na,much\n")
    with pytest.raises(BadFolder, match="its tables can't be read"):
        import_results(database, tmp_path)
    (tmp_path / "other.sqlite").write_bytes(b"no database at all, but a text" * 99)
    with pytest.raises(BadFolder, match=r"other\.sqlite: can't be opened as a database"):
        Database(tmp_path / "other.sqlite")


def test_the_worklist_is_filtered_sorted_and_paged_in_the_database(many: Database) -> None:
    first, second = (many.worklist("anna", {}, page) for page in (0, 1))
    assert [len(first), first[0]["name"], second[0]["name"]] == [51, "case 000", "case 050"]
    assert len(many.worklist("anna", {"flag": "yes"}, 0)) == 40
    assert [case["name"] for case in many.worklist("anna", {"warning": "yes"}, 0)] == ["case 000"]
    assert len(many.worklist("anna", {"search": "CASE 01"}, 0)) == 10
    assert many.worklist("anna", {"search": "%"}, 0) == []
    assert many.next_unread("anna", {}, None) == 1
    decide(many, "anna", 1, "case", "abnormal")
    decide(many, "anna", 2, "note", "look again")
    assert many.progress("anna") == (1, 120) and many.progress("ben") == (0, 120)
    assert [case["state"] for case in many.worklist("anna", {}, 0)[:3]] == [
        *("abnormal", "begun", "unread")
    ]
    assert many.next_unread("anna", {}, 1) == 2 and many.next_unread("ben", {}, None) == 1
    assert [case["id"] for case in many.worklist("anna", {"state": "begun"}, 0)] == [2]
    assert [case["id"] for case in many.worklist("judge", {"reader": "anna"}, 0)] == [1]
    assert many.next_unread("anna", {"flag": "yes"}, 2) == 4


def test_an_event_is_never_changed_and_undoing_is_one_too(many: Database) -> None:
    decide(many, "anna", 1, "case", "normal")
    decide(many, "anna", 1, "case", "abnormal")
    for change in ("UPDATE events SET value = '1'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="events are never"):
            many.read().execute(change)

    def judged() -> Any:
        return by_reader(many.decisions(1, "anna")).get("anna")

    assert judged().judgement == "abnormal"
    decide(many, "anna", 1, "undo", None)
    assert judged().judgement == "normal"
    decide(many, "anna", 1, "undo", None)
    assert judged() is None
    assert len(many.rows("SELECT * FROM events")) == 4
    # The same request again, as after an answer that was lost, is kept once.
    event = {"kind": "note", "value": "once"}
    twice = [many.add("the same", "anna", "reader", 1, event)["id"] for _ in range(2)]
    assert twice[0] == twice[1] and len(many.rows("SELECT * FROM events")) == 5


# --- several readers ------------------------------------------------------------------------------


def test_the_adjudicator_has_the_last_word_and_kappa_is_cohens(many: Database) -> None:
    words = {"anna": "aannanna", "ben": "anananaa"}
    for who, letters in words.items():
        for case, letter in enumerate(letters, start=1):
            decide(many, who, case, "case", "abnormal" if letter == "a" else "normal")
    found = agreement(many)
    [pair] = found["pairs"]
    # By hand: 5 of 8 equal; anna says a 4 times, ben 5, so chance is (4·5 + 4·3) / 64 = .5.
    assert (pair["readers"], pair["count"], pair["equal"]) == (("anna", "ben"), 8, 0.625)
    assert pair["kappa"] == pytest.approx(cohen_kappa_score(*map(list, words.values())))
    assert pair["kappa"] == pytest.approx(0.25)
    disputed = [case["id"] for case in found["cases"]]
    assert disputed == [2, 3, 7]
    case = disputed[0]
    assert final(many.decisions(case)).judgement == "disputed"
    decide(many, "judge", case, "case", "ungradable")
    assert final(many.decisions(case)).judgement == "ungradable"
    settled = {entry["id"]: entry["settled"] for entry in agreement(many)["cases"]}
    assert settled[case] and sum(settled.values()) == 1


def test_a_region_counts_once_readers_agree(results: Path, tmp_path: Path) -> None:
    database = Database(tmp_path / "review.sqlite")
    import_results(database, results)
    accepted, rejected = ({"verdict": word, "label": ""} for word in ("accepted", "rejected"))
    decide(database, "anna", 1, "region", accepted, region="1")
    assert final(database.decisions(1)).accepted == ["1"]
    decide(database, "ben", 1, "region", rejected, region="1")
    assert final(database.decisions(1)).regions["1"]["verdict"] == "disputed"
    decide(database, "judge", 1, "region", {"verdict": "accepted", "label": "fluid"}, region="1")
    assert final(database.decisions(1)).regions["1"] == {"verdict": "accepted", "label": "fluid"}


# --- geometry -------------------------------------------------------------------------------------


def case_of(results: Path, tmp_path: Path) -> tuple[Database, Opened]:
    database = Database(tmp_path / "review.sqlite")
    import_results(database, results)
    case = database.case(1)
    assert case is not None
    return database, opened(case)


def test_a_region_is_what_lies_in_the_retina_below_it(results: Path, tmp_path: Path) -> None:
    _, case = case_of(results, tmp_path)
    expected = np.zeros(SHAPE, bool)
    expected[1:3, 10:31, 3:6] = True
    np.testing.assert_array_equal(case.region_volume(1), expected)
    assert case.problem == "" and case.spacing == SPACING
    assert case.outlines(1).keys() == {1, 2}


def test_a_drawn_shape_holds_the_pixels_whose_centres_lie_in_it() -> None:
    square = {"shape": "polygon", "points": [[2, 3], [6, 3], [6, 5], [2, 5]]}
    expected = np.zeros((8, 10), bool)
    expected[3:5, 2:6] = True
    np.testing.assert_array_equal(mask_of(square, (8, 10)), expected)
    rows, columns = np.indices((8, 10)) + 0.5
    dot = {"shape": "brush", "points": [[4.5, 4.5]], "width": 4}
    disk = np.hypot(rows - 4.5, columns - 4.5) <= 2
    np.testing.assert_array_equal(mask_of(dot, (8, 10)), disk)
    line = {"shape": "brush", "points": [[2.5, 4.5], [7.5, 4.5]], "width": 2}
    middle = (np.abs(rows - 4.5) <= 1) & (columns >= 2.5) & (columns <= 7.5)
    assert (mask_of(line, (8, 10)) >= middle).all() and mask_of(line, (8, 10)).sum() == 3 * 6 + 2
    outside = {"shape": "brush", "points": [[-9, -9]], "width": 3}
    assert not mask_of(outside, (8, 10)).any()


def test_the_grid_has_nine_fields_and_a_gone_scan_is_named(results: Path, tmp_path: Path) -> None:
    _, case = case_of(results, tmp_path)
    fundus = fundus_of(case)
    assert fundus is not None
    # No picture of the fundus: which side is nasal isn't known, and isn't named.
    fields = {field["name"]: field for field in grid_of(case, *fundus.centre)}
    assert list(fields)[:3] == ["C0", "S1", "right 1"] and len(fields) == 9
    # 6 mm by 1 mm were scanned: all of the centre, with 20 rows of 10 µm of retina.
    assert fields["C0"]["covered"] == pytest.approx(1, abs=0.02)
    known = [field["thickness"] for field in fields.values() if field["covered"]]
    assert known == pytest.approx([200.0] * len(known), rel=1e-6)
    assert fields["S2"]["map"] is None and fields["S2"]["covered"] == 0
    # The region lies 1.6 to 2.4 mm left of the centre.
    assert fields["left 2"]["map"] > fields["right 2"]["map"] == pytest.approx(0.1)
    (tmp_path / "eye.dcm").unlink()
    assert "eye.dcm is gone: put it back" in Opened(case.case).problem
    assert Opened(case.case).shape == SHAPE


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def site(results: Path, tmp_path: Path) -> tuple[TestClient, Database]:
    database = Database(tmp_path / "site.sqlite")
    import_results(database, results)
    for name, role in (("anna", "reader"), ("ben", "reader"), ("judge", "adjudicator")):
        add_user(database, User(name, role), f"password of {name}")
    app = application(database, Sessions(database, None), Settings())
    return TestClient(app, base_url="http://review", follow_redirects=False), database


def login(client: TestClient, name: str) -> None:
    client.cookies.clear()
    given = {"name": name, "password": f"password of {name}"}
    answer = client.post("/login", data=given)
    assert answer.status_code == 303 and "samesite=strict" in answer.headers["set-cookie"].lower()
    assert "HttpOnly" in answer.headers["set-cookie"]


def event(kind: str, value: Any = None, region: str = "", request: str = "") -> dict[str, Any]:
    name = request or f"request-{np.random.default_rng().integers(1 << 60)}"
    return {"request": name, "kind": kind, "value": value, "region": region}


def test_nothing_is_answered_without_a_session(site: tuple[TestClient, Database]) -> None:
    client, _ = site
    for path in ("/cases/1/scan/0", "/cases/1/state", "/out/decisions.csv", "/agreement", "/none"):
        assert client.get(path).status_code == 401
    assert client.post("/cases/1/events", json=event("case", "normal")).status_code == 401
    page = client.get("/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    wrong = client.post("/login", data={"name": "anna", "password": "password of ben"})
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    assert client.get("/enter?key=guess").headers["location"] == "/login"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_another_site_and_large_bodies_are_refused(site: tuple[TestClient, Database]) -> None:
    client, database = site
    login(client, "anna")
    sent = event("case", "normal")
    foreign = {"origin": "http://evil.example"}
    assert client.post("/cases/1/events", json=sent, headers=foreign).status_code == 403
    large = event("note", "x" * (1 << 20))
    assert client.post("/cases/1/events", json=large).status_code == 413
    for bad in (
        event("case", "fine"),
        event("note", 7),
        event("region", {"verdict": "maybe"}, "1"),
        event("draw", {"frame": 0, "shape": "star", "points": [[1, 1]]}),
        event("fovea", [1]),
        event("fovea"),
        event("case"),
        event("draw", {"frame": 0, "shape": "polygon", "points": [["nan", 1]]}),
    ):
        assert client.post("/cases/1/events", json=bad).status_code == 422, bad
    beyond = event("draw", {"frame": 9, "shape": "polygon", "points": [[1, 1]]})
    assert client.post("/cases/1/events", json=beyond).status_code == 404
    unknown = client.post("/cases/1/events", json=event("region", {"verdict": "accepted"}, "77"))
    assert (unknown.status_code, unknown.json()["detail"]) == (409, "there is no such region")
    assert client.post("/cases/9/events", json=sent).status_code == 404
    assert not database.rows("SELECT 1 FROM events")
    own = {"origin": "http://review"}
    assert client.post("/cases/1/events", json=sent, headers=own).status_code == 200


def test_readers_see_their_own_decisions_alone(site: tuple[TestClient, Database]) -> None:
    client, _ = site
    login(client, "anna")
    shape = {"frame": 2, "shape": "polygon", "points": [[1, 1], [5, 1], [5, 5]], "label": "fluid"}
    drawn = client.post("/cases/1/events", json=event("draw", shape)).json()
    client.post("/cases/1/events", json=event("note", "secret of anna"))
    login(client, "ben")
    state = client.get("/cases/1/state").json()
    assert state["others"] == [] and state["mine"]["drawn"] == {} and not state["can_undo"]
    other = event("region", {"verdict": "rejected"}, f"d{drawn['id']}")
    assert client.post("/cases/1/events", json=other).status_code == 409
    assert client.post("/cases/1/events", json=event("undo")).status_code == 409
    for path in ("/cases/1", "/cases/1/print", "/out/decisions.json", "/out/decisions.csv", "/"):
        answer = client.get(path)
        assert answer.status_code == 200 and "secret" not in answer.text, path
        assert "anna" not in answer.text, path
    assert client.get("/agreement").status_code == 403
    login(client, "judge")
    [anna] = client.get("/cases/1/state").json()["others"]
    assert (anna["who"], anna["note"]) == ("anna", "secret of anna")
    assert client.get("/agreement").status_code == 200
    assert "secret of anna" in client.get("/out/decisions.csv").text


def test_pages_and_pictures_are_served(site: tuple[TestClient, Database]) -> None:
    client, _ = site
    login(client, "anna")
    for path in ("/", "/cases/1", "/cases/1/print", "/?state=open&sort=name&page=0"):
        assert client.get(path).status_code == 200, path
    for path in ("scan/0", "scan/3?low=10&high=99", "map/1", "fundus", "fundus_map"):
        answer = client.get(f"/cases/1/{path}")
        assert answer.content.startswith(b"\x89PNG"), path
    assert client.get("/cases/1/scan/4").status_code == 404
    assert client.get("/next").headers["location"] == "/cases/1"
    client.post("/cases/1/events", json=event("case", "normal"))
    assert client.get("/next").headers["location"] == "/"
    assert client.get("/static/case.js").status_code == 200
    client.post("/logout")
    assert client.get("/cases/1/state").status_code == 401


# --- out ------------------------------------------------------------------------------------------


def test_accepted_regions_go_out_as_table_masks_and_dicom(
    site: tuple[TestClient, Database], tmp_path: Path
) -> None:
    client, _ = site
    login(client, "anna")
    shape = {"frame": 0, "shape": "polygon", "points": [[2, 3], [6, 3], [6, 5], [2, 5]]}
    fluid = {"verdict": "accepted", "label": "fluid"}
    client.post("/cases/1/events", json=event("region", fluid, "1"))
    client.post("/cases/1/events", json=event("draw", {**shape, "label": "=drusen"}))
    client.post("/cases/1/events", json=event("case", "abnormal"))
    rows = list(csv.DictReader(io.StringIO(client.get("/out/decisions.csv").text)))
    assert [(r["what"], r["region"], r["decision"], r["label"]) for r in rows] == [
        ("region", "1", "accepted", "fluid"),
        ("drawn region", "d2", "drawn", "'=drusen"),
        ("case", "", "abnormal", ""),
    ]
    [case] = client.get("/out/decisions.json").json()
    assert case["by_reader"]["anna"]["judgement"] == "abnormal" and len(case["events"]) == 3
    expected = np.zeros(SHAPE, bool)
    expected[1:3, 10:31, 3:6] = True
    expected[0, 3:5, 2:6] = True
    with zipfile.ZipFile(io.BytesIO(client.get("/out/masks.zip").content)) as packed:
        [name] = packed.namelist()
        assert name == "eye.tif"
        packed.extract(name, tmp_path)
    np.testing.assert_array_equal(read_scan(tmp_path / name, as_stored=True).pixels > 0, expected)
    with zipfile.ZipFile(io.BytesIO(client.get("/out/dicom.zip").content)) as packed:
        [name] = packed.namelist()
        packed.extract(name, tmp_path)
    segmentation = highdicom.seg.segread(tmp_path / name)
    source = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    found = segmentation.get_pixels_by_source_frame(
        source.ReferencedSOPInstanceUID,
        list(range(1, SHAPE[0] + 1)),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(found > 0, expected)


def test_masks_of_a_review_are_read_by_evaluate(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    recipe = load_recipe("smoke").but(
        critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
    )
    detector = FAnoGAN(recipe, device="cpu").fit(random.integers(0, 256, (40, 20, 24), np.uint8))
    detector.model.save(tmp_path / "model")
    from PIL import Image

    for kind, count in (("ill", 2), ("healthy", 3)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            pixels = random.integers(0, 256, (20, 24), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{kind} {i}.png")
    write_results(detector.model, [tmp_path / "ill"], tmp_path / "results")
    database = Database(tmp_path / "review.sqlite")
    assert import_results(database, tmp_path / "results") == 2
    sessions = Sessions(database, User("me", "admin"))
    client = TestClient(application(database, sessions, Settings()), base_url="http://review")
    client.get(f"/enter?key={sessions.link}")
    square = {"frame": 0, "shape": "polygon", "points": [[4, 4], [12, 4], [12, 10], [4, 10]]}
    for case in (1, 2):
        assert client.get(f"/cases/{case}/scan/0").status_code == 200
        assert client.post(f"/cases/{case}/events", json=event("draw", square)).status_code == 200
    with zipfile.ZipFile(io.BytesIO(client.get("/out/masks.zip").content)) as packed:
        packed.extractall(tmp_path / "masks")
    masks = {
        path.name: read_scan(path, as_stored=True).pixels for path in (tmp_path / "masks").iterdir()
    }
    assert masks.keys() == {"ill 0.tif", "ill 1.tif"}
    assert {int((mask > 0).sum()) for mask in masks.values()} == {8 * 6}
    place = str(tmp_path)
    main(
        [
            *("evaluate", f"{place}/model", "--normal", f"{place}/healthy", "--device", "cpu"),
            *("--anomalous", f"{place}/ill", "--masks", f"{place}/masks", "--out", f"{place}/eval"),
        ]
    )
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["pixel"]["prevalence"] > 0
