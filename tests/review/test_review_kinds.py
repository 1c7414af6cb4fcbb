"""Volumes in three dimensions and signals, from results as score writes them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
from ecg import make_ecg
from review_made import event
from starlette.testclient import TestClient

from fanogan import FAnoGAN
from fanogan.cli import main
from fanogan.recipes import load_recipe
from fanogan.review import Database, Settings, Truth, User, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.review.opened import opened
from fanogan.review.shapes import mask_of
from fanogan.scoring import write_results

TINY = {"critic_updates": 2, "encoder_updates": 2, "reestimate_batch_norm": False}
# Turned about the third axis, rows and columns exchanged and mirrored, with three spacings.
AFFINE = np.array(
    [[0.6 * 3, -0.8 * 2, 0, 5], [0.8 * 3, 0.6 * 2, 0, 6], [0, 0, -4, 7], [0, 0, 0, 1]], float
)


def review_of(results: Path) -> tuple[TestClient, Database]:
    database = Database(results.parent / "review.sqlite")
    import_results(database, results)
    sessions = Sessions(database, User("me", "admin"))
    client = TestClient(application(database, sessions, Settings()), base_url="http://review")
    client.get(f"/enter?key={sessions.link}")
    return client, database


def unpacked(client: TestClient, folder: Path) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(client.get("/out/masks.zip").content)) as packed:
        packed.extractall(folder)
        return sorted(packed.namelist())


def evaluated(folder: Path, ill: Path, healthy: Path) -> dict[str, float]:
    """What `evaluate --masks` makes of the masks of a review."""
    main(
        [
            *("evaluate", str(folder / "model"), "--normal", str(healthy), "--device", "cpu"),
            *("--anomalous", str(ill), "--masks", str(folder / "masks")),
            *("--out", str(folder / "eval")),
        ]
    )
    return dict(json.loads((folder / "eval" / "metrics.json").read_text())["pixel"])


def test_spans_of_signals_go_out_as_masks_over_time(tmp_path: Path) -> None:
    recipe = load_recipe("signal").but(
        **TINY, window=(1, 128), image_size=(1, 128), held_out_fraction=0.4, base_width=4
    )
    for kind, seeds in (("normal", range(5)), ("ill", range(100, 102)), ("healthy", range(50, 53))):
        (tmp_path / kind).mkdir()
        for seed in seeds:
            samples = make_ecg(seed, seconds=12, diseased=kind == "ill").samples
            if kind == "ill":
                samples[600:800] = 4 * samples.max()
            head = "".join(("time,I\n", *(f"{i / 125},{v}\n" for i, v in enumerate(samples))))
            (tmp_path / kind / f"{seed}.csv").write_text(head)
    model = FAnoGAN(recipe, device="cpu").fit(tmp_path / "normal").model
    model.save(tmp_path / "model")
    write_results(model, tmp_path / "ill", tmp_path / "results")
    client, database = review_of(tmp_path / "results")
    case = database.case(1)
    assert case is not None and case["regions"] and opened(case).is_signal
    assert '/cases/1/curves"' in client.get("/cases/1").text
    region = case["regions"][0]
    accepted = event("region", {"verdict": "accepted"}, str(region["id"]))
    assert client.post("/cases/1/events", json=accepted).status_code == 200
    client.post("/cases/2/events", json=event("case", "normal"))
    assert unpacked(client, tmp_path / "masks") == ["100.npy", "101.npy"]
    mask = np.load(tmp_path / "masks" / f"{Path(case['name']).stem}.npy")
    expected = np.zeros((1, 1500), np.uint8)
    expected[:, int(region["first_sample"]) : int(region["last_sample"]) + 1] = 1
    np.testing.assert_array_equal(mask, expected)
    found = evaluated(tmp_path, tmp_path / "ill", tmp_path / "healthy")
    assert found["prevalence"] > 0


def test_images_of_an_array_file_go_out_as_one_array(tmp_path: Path) -> None:
    recipe = load_recipe("smoke").but(**TINY, held_out_fraction=0.5)
    random = np.random.default_rng(0)
    model = FAnoGAN(recipe, device="cpu").fit(random.integers(0, 256, (40, 20, 24), np.uint8)).model
    model.save(tmp_path / "model")
    for kind in ("ill", "healthy"):
        (tmp_path / kind).mkdir()
        images = random.integers(0, 256, (3, 20, 24), np.uint8)
        np.save(tmp_path / kind / f"{kind}.npy", images)
    write_results(model, tmp_path / "ill", tmp_path / "results")
    client, database = review_of(tmp_path / "results")
    names = {row["name"]: row["id"] for row in database.rows("SELECT id, name FROM cases")}
    assert names.keys() == {f"ill.npy#{number}" for number in range(3)}
    square = {"frame": 0, "shape": "polygon", "points": [[4, 4], [12, 4], [12, 10], [4, 10]]}
    client.post(f"/cases/{names['ill.npy#1']}/events", json=event("draw", square))
    client.post(f"/cases/{names['ill.npy#0']}/events", json=event("case", "normal"))
    assert unpacked(client, tmp_path / "none") == ["left_out.txt"]
    said = (tmp_path / "none" / "left_out.txt").read_text()
    assert said == "ill.npy: 2 of its 3 images are judged; their mask is one array, of all\n"
    client.post(f"/cases/{names['ill.npy#2']}/events", json=event("case", "ungradable"))
    assert unpacked(client, tmp_path / "masks") == ["ill.npy"]
    expected = np.zeros((3, 20, 24), np.uint8)
    expected[1, 4:10, 4:12] = 1
    np.testing.assert_array_equal(np.load(tmp_path / "masks" / "ill.npy"), expected)
    found = evaluated(tmp_path, tmp_path / "ill", tmp_path / "healthy")
    assert found["prevalence"] == pytest.approx(48 / (6 * 480), rel=0.1)


def test_regions_of_voxels_go_out_on_the_scans_own_voxels(tmp_path: Path) -> None:
    recipe = load_recipe("volume").but(**TINY, base_width=4, latent_size=8, batch_size=4)
    model = FAnoGAN(recipe, device="cpu").fit(waves(10)).model
    (volume,) = waves(1, first=60)
    volume[4:12, 6:14, 5:13] = 255
    image = nibabel.Nifti1Image(volume.transpose(1, 2, 0), AFFINE)
    image.header.set_xyzt_units("mm")
    (tmp_path / "scans").mkdir()
    nibabel.save(image, tmp_path / "scans" / "v.nii.gz")
    write_results(model, tmp_path / "scans", tmp_path / "results")
    client, database = review_of(tmp_path / "results")
    case = database.case(1)
    assert case is not None and case["regions"]
    region = case["regions"][0]
    here = opened(case)
    mask = here.region_volume(region["id"])
    assert mask.sum() == int(region["voxels"])
    outlines = here.region_outlines(region["id"])
    assert outlines.keys() == {*np.flatnonzero(mask.any(axis=(1, 2))).tolist()}
    for frame, shapes in outlines.items():
        area = sum(mask_of({"shape": "polygon", "points": s}, mask.shape[1:]).sum() for s in shapes)
        assert area >= mask[frame].sum()  # a hole is an outline of its own
    page = client.get("/cases/1").text
    assert f'"start": {int(region["peak_slice"])}' in page and '"normal": true' in page
    accepted = event("region", {"verdict": "accepted"}, str(region["id"]))
    assert client.post("/cases/1/events", json=accepted).status_code == 200
    assert unpacked(client, tmp_path / "masks") == ["v.nii.gz"]
    found = nibabel.load(tmp_path / "masks" / "v.nii.gz")
    assert found.get_data_dtype() == np.uint8
    truth = Truth(tmp_path / "masks").outlines(here, int(region["peak_slice"]))
    assert truth == outlines[int(region["peak_slice"])]
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found.dataobj) > 0, mask.transpose(1, 2, 0))
    scan, other = (
        SimpleITK.ReadImage(str(tmp_path / kind / "v.nii.gz")) for kind in ("scans", "masks")
    )
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(other, part)(), getattr(scan, part)(), atol=1e-5)
    values = SimpleITK.GetArrayFromImage(other)
    np.testing.assert_array_equal(values > 0, mask.transpose(0, 2, 1))


def waves(count: int, first: int = 0) -> np.ndarray:
    """Made-up volumes (N, slices, rows, columns)."""
    z, y, x = np.indices((20, 24, 18))
    found = []
    for seed in range(first, first + count):
        random = np.random.default_rng(seed)
        wave = 128 + 80 * np.sin((z + y + 2 * x) / 4 + random.uniform(0, 6))
        found.append((wave + random.normal(0, 8, wave.shape)).clip(0, 255).astype(np.uint8))
    return np.stack(found)
