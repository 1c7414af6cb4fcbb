"""Volumes in three dimensions through the whole pipeline."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from dicom_volumes import STUDY, ct_series
from monai.inferers.utils import sliding_window_inference

from fanogan import FAnoGAN, load_recipe, storage
from fanogan.calibration import Calibration
from fanogan.cli.parser import main
from fanogan.data import Patches, Preprocessing
from fanogan.data.geometry import resized
from fanogan.evaluation import evaluate
from fanogan.export import BadExport, export
from fanogan.export.graph import Resample
from fanogan.recipes import BadRecipe
from fanogan.scans import BadScan, read_scans
from fanogan.scoring import Model, results, write_results
from fanogan.scoring.table import read_csv
from fanogan.scoring.voxel_maps import regions_of, smoothed

TINY = load_recipe("volume").but(
    base_width=4,
    latent_size=8,
    batch_size=4,
    critic_updates=2,
    encoder_updates=2,
    reestimate_batch_norm=False,
)
SIDES = (20, 24, 18)
AFFINE = np.array([[0, 2, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]], float)


def waves(count: int, first: int = 0) -> np.ndarray:
    """Made-up volumes (N, slices, rows, columns)."""
    z, y, x = np.indices(SIDES)
    found = []
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        wave = 128 + 80 * np.sin((z + y + 2 * x) / 4 + rng.uniform(0, 6))
        found.append((wave + rng.normal(0, 8, SIDES)).clip(0, 255).astype(np.uint8))
    return np.stack(found)


def write_niftis(folder: Path, volumes: np.ndarray) -> Path:
    folder.mkdir()
    for number, volume in enumerate(volumes):
        image = nibabel.Nifti1Image(volume.transpose(1, 2, 0), AFFINE)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / f"v{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return FAnoGAN(TINY).fit(waves(10)).model


# --- windows ------------------------------------------------------------------------------------


def seen(window: tuple[int, ...], size: tuple[int, ...]) -> Preprocessing:
    return Preprocessing("uint8", 0.0, 255.0, 1, window, size)


def test_training_windows_are_pieces_of_the_volumes_at_any_place() -> None:
    window = (16, 17, 18)
    volumes = [
        np.random.default_rng(i).integers(0, 256, (1, 18, 18, 18 + i), np.uint8) for i in (0, 1)
    ]
    patches = Patches(volumes, seen(window, window), flip=False, device=torch.device("cpu"))
    pieces = {
        volume[0, z : z + 16, y : y + 17, x : x + 18].tobytes()
        for volume in volumes
        for z in range(3)
        for y in range(2)
        for x in range(volume.shape[3] - 17)
    }
    drawn = patches.draw(300, torch.Generator().manual_seed(0))
    found = {((x[0] + 1) * 127.5).round().byte().numpy().tobytes() for x in drawn}
    assert len(pieces) == patches.total == 6 + 12
    assert found == pieces


def test_resampling_is_that_of_each_side_alone() -> None:
    x = torch.randn(2, 3, 12, 10, 8)
    expected = x
    for axis, size in ((2, 6), (3, 5), (4, 16)):
        moved = expected.movedim(axis, -1)
        rows = moved.reshape(1, -1, 1, moved.shape[-1])
        one = torch.nn.functional.interpolate(rows, (1, size), mode="bilinear", antialias=True)
        expected = one.reshape(*moved.shape[:-1], size).movedim(-1, axis)
    assert torch.allclose(resized(x, (6, 5, 16)), expected, atol=1e-6)
    assert torch.allclose(Resample((12, 10, 8), (6, 5, 16))(x), expected, atol=1e-5)


def test_windows_are_fused_as_monai_fuses_all_of_them_at_once(model: Model) -> None:
    volume = waves(1, first=50)
    (result,) = results(model, volume)
    x = torch.from_numpy(volume[:, None].astype(np.float32)) / 127.5 - 1
    with torch.inference_mode():
        fused = sliding_window_inference(
            x, (16, 16, 16), 4, lambda w: model.score(w)[1], overlap=0.5, mode="gaussian"
        )
    assert result.windows == 2 * 2 * 2 and result.residual is not None
    assert np.allclose(result.residual, fused[0, 0], atol=1e-5)
    assert result.reconstruction is not None
    assert np.allclose(result.reconstruction, fused[0, 1], atol=1e-5)


def test_what_lies_in_temporary_files_gives_the_same(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", waves(1, first=50)[0])
    (expected,) = results(model, [tmp_path / "v.npy"])
    monkeypatch.setattr(storage, "IN_MEMORY", 0)
    monkeypatch.setattr("fanogan.scans.checks.MAX_BYTES", 100)
    (found,) = results(model, [tmp_path / "v.npy"])
    assert isinstance(found.residual, np.memmap) and isinstance(found.picture, np.memmap)
    assert found.residual is not None and np.array_equal(found.residual, expected.residual)
    assert found.total == expected.total


# --- regions ------------------------------------------------------------------------------------


def test_regions_are_what_touches_and_their_place_is_the_scanners(model: Model) -> None:
    (result,) = results(model, waves(1))
    residual = np.zeros(SIDES, np.float32)
    residual[2:7, 3:8, 4:9] = 1.0  # 5³, whose smoothed inside is 3³ = 27 voxels at 1
    residual[15, 15, 15] = 1.0  # one voxel alone
    result = dataclasses.replace(
        result,
        residual=residual,
        smoothed=smoothed(residual),
        spacing=(4.0, 3.0, 2.0),
        affine=tuple(map(tuple, AFFINE.tolist())),
    )
    calibration = Calibration({}, 1.0, en_face=(0.0, 0.99))
    (region,) = regions_of(result, calibration)
    assert region.box == ((3, 5), (4, 6), (5, 7))
    assert (region.voxels, region.mm3) == (27, 27 * 24.0)
    slice_, row, column = region.peak_at
    assert region.place == (2 * column + 5, 3 * row + 6, 4 * slice_ + 7)
    assert (
        regions_of(dataclasses.replace(result, spacing=(None, 3.0, 2.0)), calibration)[0].mm3
        is None
    )


def test_a_region_may_fill_a_volume_that_is_larger_than_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = results(model, waves(1))
    full = np.ones((64, 128, 128), np.float32)
    full[40, 50, 60] = 2.0
    result = dataclasses.replace(result, smoothed=full, affine=None)
    monkeypatch.setattr(storage, "IN_MEMORY", 0)
    tracemalloc.start()
    (region,) = regions_of(result, Calibration({}, 1.0, en_face=(0.0, 0.5)))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (region.voxels, region.peak, region.peak_at) == (full.size, 2.0, (40, 50, 60))
    assert region.mean == pytest.approx(full.mean(dtype=np.float64))
    assert held < full.size  # bytes


# --- what is written ----------------------------------------------------------------------------


def test_results_lie_on_the_scans_own_voxels(model: Model, tmp_path: Path) -> None:
    volumes = waves(2, first=60)
    volumes[0, 4:12, 6:14, 5:13] = 255
    scans = write_niftis(tmp_path / "scans", volumes)
    out = tmp_path / "out"
    write_results(model, [scans], out, maps="nifti")
    for number in (0, 1):
        written = nibabel.load(out / "maps" / f"v{number}.nii.gz.nii.gz")
        assert written.shape == (24, 18, 20) and np.allclose(written.affine, AFFINE)
    (result, _) = results(model, [scans])
    found = np.asarray(nibabel.load(out / "maps" / "v0.nii.gz.nii.gz").dataobj)
    assert result.residual is not None
    assert np.array_equal(found, result.residual.transpose(1, 2, 0).astype(np.float32))
    assert (out / "overlays" / "v0.nii.gz.png").is_file()
    rows = list(read_csv(out / "scores.csv"))
    assert {row["name"] for row in rows} == {"v0.nii.gz", "v1.nii.gz"}
    regions = list(read_csv(out / "regions.csv"))
    counts = {row["name"]: int(row["regions"]) for row in rows}
    assert len(regions) == sum(counts.values())
    page = (out / "report.html").read_text()
    assert "Anomaly scores of 2 volumes" in page and "Volumes <span" in page
    assert "of 0 to 19," in page and "windows of 16×16×16 voxels, seen at 16×16×16 voxels" in page
    assert (
        "between volumes" in page
        and "images" not in page.split("<h2>Volumes")[0].split("<main")[-1]
    )


def test_a_dicom_series_is_one_volume_and_has_objects_of_its_study(
    model: Model, tmp_path: Path
) -> None:
    ct_series(tmp_path / "scans" / "ct", waves(1, first=60)[0])
    write_results(model, [tmp_path / "scans"], tmp_path / "out", maps="nifti", dicom=True)
    (scan,) = read_scans([tmp_path / "scans"], kind="volume")
    written = nibabel.load(tmp_path / "out" / "maps" / "ct.nii.gz")
    assert written.shape == (18, 24, 20) and scan.affine is not None  # columns, rows, slices
    corner = np.array(scan.affine) @ (3, 7, 11, 1)  # row, column, slice
    assert np.allclose(written.affine @ (7, 3, 11, 1), corner, atol=1e-4)
    found = pydicom.dcmread(tmp_path / "out" / "dicom" / "ct.pm.dcm")
    assert int(found.NumberOfFrames) == 20 and found.StudyInstanceUID == STUDY


def test_a_stopped_scoring_is_resumed_with_the_same_end(model: Model, tmp_path: Path) -> None:
    scans = write_niftis(tmp_path / "scans", waves(3, first=70))
    write_results(model, [scans], tmp_path / "whole")

    def stop(result: object) -> None:
        if len(list((tmp_path / "out").rglob("*.tif"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(model, [scans], tmp_path / "out", on_result=stop)
    write_results(model, [scans], tmp_path / "out")
    for place in ("scores.csv", "regions.csv", "maps/v2.nii.gz.tif"):
        one, other = (tmp_path / of / place for of in ("whole", "out"))
        assert one.read_bytes() == other.read_bytes(), place


def test_an_evaluation_with_masks_speaks_of_volumes(model: Model, tmp_path: Path) -> None:
    normal, bad = waves(4, first=80), waves(4, first=90)
    bad[:, 4:12, 6:14, 5:13] = 255
    masks = np.zeros(bad.shape, bool)
    masks[:, 4:12, 6:14, 5:13] = True
    found = evaluate(model, normal, bad, tmp_path / "eval", masks=masks)
    assert (found["n"], found["n_anomalous"], found["noun"]) == (8, 4, "volume")
    assert found["pixel"]["prevalence"] == masks.sum() / (8 * np.prod(SIDES))
    assert found["pixel"]["regions"]["lesions"] == 4
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "Evaluation on 8 volumes" in page
    assert "Per volume, whether it is anomalous" in page and "voxel AUC of brightness" in page
    with pytest.raises(BadScan, match="the mask of volume 00000 has 24×18 pixels and the image 20"):
        evaluate(model, normal, bad, tmp_path / "eval", masks=[mask[0] for mask in masks])


def test_masks_of_several_volumes_are_one_array_file(model: Model, tmp_path: Path) -> None:
    normal, bad = waves(4, first=80), waves(3, first=90)
    masks = np.zeros(bad.shape, np.uint8)
    for number, mask in enumerate(masks):
        bad[number, 4 + number : 12, 6:14, 5:13] = mask[4 + number : 12, 6:14, 5:13] = 255
    expected = evaluate(model, normal, bad, tmp_path / "eval", masks=masks)["pixel"]
    np.savez(tmp_path / "data.npz", ill=bad, masks=masks)
    for name, volumes in (("ill", bad), ("masks", masks)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "v.npy", volumes)
    for ill, marked in (
        (tmp_path / "ill", tmp_path / "masks"),
        (f"{tmp_path}/data.npz:ill", f"{tmp_path}/data.npz:masks"),
    ):
        found = evaluate(model, normal, ill, tmp_path / "eval", masks=marked)
        assert found["pixel"]["auc"] == expected["auc"]
        assert found["pixel"]["regions"] == expected["regions"]
    file = tmp_path / "masks" / "v.npy"
    for wrong, said in (
        (masks[:2], "has 2 volumes and no mask of v.npy#2: give one for each volume"),
        # As many slices in all.
        (masks.reshape(6, 10, 24, 18), "the mask of v.npy#0 has 10×24×18 pixels and the image 20"),
        (masks[0, 0], r"has shape \(24, 18\): give \(slices, rows, columns\), or"),
    ):
        np.save(file, wrong)
        with pytest.raises(BadScan, match=said):
            evaluate(model, normal, tmp_path / "ill", tmp_path / "eval", masks=tmp_path / "masks")


# --- export -------------------------------------------------------------------------------------


def test_a_folder_for_images_is_not_written(model: Model, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match=r"this model takes volumes: give --to onnx"):
        export(model, "folder", tmp_path / "folder")


# --- what is refused ----------------------------------------------------------------------------


def test_what_is_refused(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadScan, match="20×24×15 voxels, fewer than the window that the model"):
        list(results(model, waves(1)[..., :15]))
    with pytest.raises(BadRecipe, match="window is 16×16×16 and image_size 16×16"):
        TINY.but(image_size=(16, 16))
    with pytest.raises(BadRecipe, match="which is flattened B-scan by B-scan"):
        TINY.but(geometry="retina")
    with pytest.raises(BadRecipe, match="augment_normals is for images"):
        TINY.but(augment_normals=True)
    with pytest.raises(BadRecipe, match="volume's, such as 16×32×32"):
        TINY.but(image_size=(15, 16, 16))
    with pytest.raises(SystemExit):
        main(["prepare", str(tmp_path), "--recipe", "volume", "--out", str(tmp_path / "z")])
    assert "only retinal OCT is prepared" in capsys.readouterr().err


def test_a_model_folder_is_read_again(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    again = FAnoGAN.load(tmp_path / "model").model
    assert again.preprocessing == model.preprocessing
    (one,), (other,) = results(model, waves(1, first=50)), results(again, waves(1, first=50))
    assert one.total == other.total
    card = (tmp_path / "model" / "card.md").read_text()
    assert "windows of 16×16×16 voxels" in card
    assert json.loads((tmp_path / "model" / "model.json").read_text())["recipe"]["window"] == [
        *(16, 16, 16)
    ]
