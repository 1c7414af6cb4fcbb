"""What goes out of a review: tables, masks and DICOM."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import highdicom
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
from pydicom import dcmread
from review_made import SHAPE, event, login
from starlette.testclient import TestClient

from fanogan import FAnoGAN
from fanogan.archive import objects_in
from fanogan.cli import main
from fanogan.recipes import load_recipe
from fanogan.review import Database, Settings, User, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.scans import read_scan
from fanogan.scoring import write_results


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
    path = sent_back(client, tmp_path / "read")
    segmentation = highdicom.seg.segread(path)
    assert segmentation.SeriesDescription == "fanogan: accepted regions, research use only"
    segments = [segmentation.get_segment_description(n) for n in segmentation.segment_numbers]
    assert [each.segment_label for each in segments] == ["fluid", "=drusen"]
    assert {each.algorithm_type.value for each in segments} == {"SEMIAUTOMATIC"}
    source = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    found = segmentation.get_pixels_by_source_frame(
        source.ReferencedSOPInstanceUID,
        list(range(1, SHAPE[0] + 1)),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(found > 0, expected)

    # What is the same has the same UID, by which `send` sends it once; another shape has another.
    uid = segmentation.SOPInstanceUID
    assert dcmread(sent_back(client, tmp_path / "again")).SOPInstanceUID == uid
    client.post("/cases/1/events", json=event("undo"))
    client.post("/cases/1/events", json=event("undo"))
    moved = {**shape, "points": [[2, 3], [7, 3], [7, 5], [2, 5]], "label": "=drusen"}
    client.post("/cases/1/events", json=event("draw", moved))
    assert dcmread(sent_back(client, tmp_path / "moved")).SOPInstanceUID != uid


def sent_back(client: TestClient, folder: Path) -> Path:
    """The one object that `fanogan send` would find in the unpacked zip."""
    with zipfile.ZipFile(io.BytesIO(client.get("/out/dicom.zip").content)) as packed:
        packed.extractall(folder)
    [path] = objects_in([folder])
    return path


def test_masks_of_a_review_are_read_by_evaluate(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    recipe = load_recipe("smoke").but(
        critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
    )
    detector = FAnoGAN(recipe, device="cpu").fit(random.integers(0, 256, (40, 20, 24), np.uint8))
    detector.model.save(tmp_path / "model")
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
