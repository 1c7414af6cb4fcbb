"""Reading over HTTP: who comes in, what they see, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
from review_made import SHAPE, event, login
from starlette.testclient import TestClient

from fanogan.review import Database, Settings, Truth, User, add_user, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.review.fundus import fundus_of
from fanogan.review.opened import Opened, opened
from fanogan.review.outputs import labels_of
from fanogan.review.shapes import mask_of
from fanogan.review.standing import by_reader
from fanogan.scans import BadScan


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


def test_what_is_drawn_on_the_en_face_map_is_a_region_of_all_b_scans_below(
    site: tuple[TestClient, Database], results: Path
) -> None:
    client, database = site
    login(client, "anna")
    fundus = fundus_of(opened(database.case(1)))
    # Around the A-scans 10 to 14 of the B-scans 0 to 2, half of an A-scan's width from the next.
    lines = fundus.ground.lines[:, :, ::-1]
    between = (lines[3, 0, 1] + lines[2, 0, 1]) / 2
    left, right = (lines[0, 0, 0] + (lines[0, 1, 0] - lines[0, 0, 0]) * c / 24 for c in (10, 15))
    square = [[left, 0], [right, 0], [right, between], [left, between]]
    shape = {"frame": None, "shape": "polygon", "points": square, "label": "drusen"}
    answer = client.post("/cases/1/events", json=event("draw", shape)).json()
    [drawn] = answer["state"]["mine"]["drawn"].values()
    assert drawn["outlines"].keys() == {"0", "1", "2"} and drawn["bscan"] in (0, 1, 2)
    expected = np.zeros(SHAPE, bool)
    expected[0:3, 10:31, 10:15] = True
    standing = by_reader(database.decisions(1))["anna"]
    labels, _ = labels_of(opened(database.case(1)), standing)
    np.testing.assert_array_equal(labels > 0, expected)
    assert "en face" in client.get("/cases/1/print").text
    assert "drusen" in client.get("/out/decisions.csv").text
    # Without an en-face map there is nothing to draw on.
    (results / "en_face" / "eye.tif").unlink()
    opened_again = Opened(database.case(1))
    assert fundus_of(opened_again) is None


def test_the_nearest_normal_version_is_shown_with_the_scans_window(
    site: tuple[TestClient, Database],
) -> None:
    client, database = site
    login(client, "anna")

    def shown(path: str) -> np.ndarray:
        answer = client.get(f"/cases/1/{path}")
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    np.testing.assert_array_equal(shown("normal/2"), np.full(SHAPE[1:], 52))
    narrow = shown("normal/2?low=42&high=62")
    np.testing.assert_array_equal(narrow, np.full(SHAPE[1:], round(255 / 2)))
    assert client.get("/cases/1/normal/4").status_code == 404
    # Of another grey range, it is brought to the scan's; of another depth it can't be.
    here = Opened(database.case(1))
    here.about["grey"] = ["uint8", 100.0, 200.0]
    np.testing.assert_array_equal(here.normal(2, 110, 135), np.full(SHAPE[1:], 106))
    here.about["grey"] = ["uint16", 100.0, 200.0]
    np.testing.assert_array_equal(here.normal(2, 110, 135), np.full(SHAPE[1:], 52))


def test_the_truth_is_for_whoever_started_with_it(results: Path, tmp_path: Path) -> None:
    database = Database(tmp_path / "truth.sqlite")
    import_results(database, results)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 5:9, 10:16] = 255
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "eye.tif", mask, photometric="minisblack")
    settings = Settings(truth=Truth(tmp_path / "masks"))
    for name, role in (("anna", "reader"), ("judge", "adjudicator"), ("me", "admin")):
        add_user(database, User(name, role), f"password of {name}")
    app = application(database, Sessions(database, None), settings)
    client = TestClient(app, base_url="http://review", follow_redirects=False)
    for blind in ("anna", "judge"):
        login(client, blind)
        assert client.get("/cases/1/truth/1").status_code == 403
        assert 'id="truth"' not in client.get("/cases/1").text
    login(client, "me")
    assert 'id="truth"' in client.get("/cases/1").text
    assert client.get("/cases/1/truth/0").json() == {"outlines": [], "problem": ""}
    [outline] = client.get("/cases/1/truth/1").json()["outlines"]
    drawn = {"shape": "polygon", "points": outline}
    np.testing.assert_array_equal(mask_of(drawn, SHAPE[1:]), mask[1] > 0)
    tifffile.imwrite(tmp_path / "masks" / "eye.tif", mask[:, :-1], photometric="minisblack")
    other = Truth(tmp_path / "masks")
    with pytest.raises(
        BadScan, match=r"eye\.tif has 4×39×24 pixels: give a mask of the scan's size"
    ):
        other.outlines(opened(database.case(1)), 1)
