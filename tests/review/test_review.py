"""Reading and deciding: what is imported, kept, seen by whom, and what goes out."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
from review_made import REGION, SHAPE, SPACING, decide, row

from fanogan.review import Database, import_results
from fanogan.review.fundus import fundus_of, grid_of
from fanogan.review.opened import Opened, opened
from fanogan.review.shapes import mask_of
from fanogan.review.standing import agreement, by_reader, final
from fanogan.scoring import COLUMNS, write_csv
from fanogan.storage import BadFolder

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
    assert case.region_outlines(1).keys() == {1, 2}


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
