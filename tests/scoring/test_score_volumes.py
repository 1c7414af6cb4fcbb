"""Flat volumes through fit, score and evaluate: what is learnt, scored, mapped and written."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from dicom_files import SECRETS
from dicom_volumes import eye as save_eye
from PIL import Image
from pydicom import dcmread
from sklearn.metrics import roc_auc_score

from fanogan.calibration import ProfileBuilder
from fanogan.cli.demo import flat_phantom
from fanogan.data import Normals, Preprocessing
from fanogan.detectors import Detector, FAnoGAN, untrained
from fanogan.evaluation import evaluate
from fanogan.phantom import Phantom, make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import Boundaries, DepthProfile, FlatSpace, FlatVolume, find_regions, make_flat
from fanogan.retina.intensity import DEPTHS
from fanogan.review import Database, import_results
from fanogan.review.opened import Opened
from fanogan.scans import BadScan, Scan
from fanogan.scoring import Model, Result, results, score, score_batch, write_results

SHAPE = (3, 240, 96)
SPACING = (0.24, 0.00387, 0.022)
RECIPE = load_recipe("smoke").but(
    window=(64, 64),
    geometry="retina",
    held_out_fraction=0.34,
    critic_updates=8,
    encoder_updates=8,
    log_every=4,
    reestimate_batch_norm=False,
)


def phantom(seed: int, diseased: bool = False) -> Phantom:
    return make_phantom(seed, shape=SHAPE, spacing=SPACING, diseased=diseased)


@pytest.fixture(scope="module")
def eyes() -> list[FlatVolume]:
    return [flat_phantom(phantom(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def ill() -> Phantom:
    return phantom(11, diseased=True)


@pytest.fixture(scope="module")
def model(eyes: list[FlatVolume]) -> Model:
    return FAnoGAN(RECIPE).fit(eyes).model


@pytest.fixture(scope="module")
def eye() -> FlatVolume:
    """An eye with a margin along one edge, a B-scan without retina, and another pixel size."""
    made = make_phantom(7, shape=(3, 480, 300), spacing=(0.24, 0.0022, 0.0117))
    pixels, margins = made.pixels.copy(), np.zeros(made.pixels.shape, bool)
    margins[0, :, :70] = True
    pixels[margins] = 255
    inner, outer = made.boundaries["ILM"].copy(), made.boundaries["RPE outer"].copy()
    inner[1] = outer[1] = np.nan
    scan = Scan(pixels, "eye", "eye", made.spacing, is_volume=True)
    return make_flat(scan, Boundaries(inner, outer, outer, np.ones_like(inner)), margins)


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bscans(found: list[Result]) -> dict[int, Result]:
    return {one.frame: one for one in found if one.unit == "image"}


# --- what is learnt -----------------------------------------------------------------------------


def test_patches_hold_enough_retina_and_nothing_unknown(eye: FlatVolume) -> None:
    view = Preprocessing.of([eye], RECIPE.but(min_retina_fraction=0.6))
    usable = view.usable(eye, to_learn=True)
    assert usable is not None and usable.shape == (3, 65, eye.pixels.shape[2] - 63)
    assert usable[0].any() and usable[2].any() and not usable[1].any()
    for frame, row, column in np.argwhere(usable)[::97]:
        patch = np.s_[frame, row : row + 64, column : column + 64]
        assert eye.tissue[patch].mean() >= 0.6 and eye.recorded[patch].all()
    for frame, row, column in np.argwhere(~usable)[::997]:
        patch = np.s_[frame, row : row + 64, column : column + 64]
        assert eye.tissue[patch].mean() < 0.6 or not eye.recorded[patch].all()


def test_an_eye_without_any_place_for_a_patch_is_refused(eye: FlatVolume) -> None:
    with pytest.raises(BadScan, match=r"no place for a patch that holds .* in 1 volume, such as"):
        Normals.of([eye], [eye], RECIPE.but(window=(112, 64), min_retina_fraction=1.0))


def test_the_summary_is_what_a_user_can_check(eyes: list[FlatVolume]) -> None:
    normals = Normals.read(eyes, RECIPE)
    assert normals.summary == (
        "3 volumes, 9 B-scans of 3 subjects · retina found in 100.0 % of columns · windows of "
        "64×64 pixels at 3.9 µm × 22 µm, seen at 16×16 pixels\nheld out for "
        "calibration: 1 volume of 1 subject"
    )
    assert normals.usable is not None and len(normals.usable) == len(normals.training) == 6


def test_a_depth_channel_is_the_row(eye: FlatVolume) -> None:
    view = Preprocessing.of([eye], RECIPE.but(depth_channel=True))
    encoded = view.encode(eye)
    assert view.channels == 2 and encoded.shape == (3, 2, 128, eye.pixels.shape[2])
    np.testing.assert_array_equal(encoded[:, 0], eye.pixels)
    assert encoded[0, 1, 0].max() == 0 and encoded[0, 1, -1].min() == 255
    assert (np.diff(encoded[0, 1, :, 5].astype(int)) > 0).all()


def test_matching_brings_another_scanners_grey_values_back(eyes: list[FlatVolume]) -> None:
    eye = eyes[0]
    darker = dataclasses.replace(eye, pixels=(0.5 * eye.pixels + 20).astype(np.uint8))
    profile = DepthProfile.of([eye])
    assert len(profile.median) == DEPTHS + 2
    apart = np.abs(darker.pixels.astype(int) - eye.pixels)[eye.tissue].mean()
    left = np.abs(profile.match(darker).astype(int) - eye.pixels)[eye.tissue].mean()
    assert apart > 10 and left < 2
    view = Preprocessing.of([eye], RECIPE.but(match_layers=True))
    again = Preprocessing.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view
    np.testing.assert_array_equal(again.encode(darker), view.encode(darker))


# --- what is scored -----------------------------------------------------------------------------


def test_maps_lie_in_the_scans_own_geometry(model: Model, eye: FlatVolume) -> None:
    found = list(results(model, [eye]))
    seen = bscans(found)
    assert set(seen) == {0, 2}, "the B-scan without retina has no score"
    assert found[-1].unit == "volume" and found[-1].windows == sum(
        one.windows for one in seen.values()
    )
    for frame, one in seen.items():
        assert one.residual is not None and one.picture is not None
        assert one.residual.shape == one.picture.shape == (480, 300)
        known = np.isfinite(one.residual)
        assert not known[:, :50].any() if frame == 0 else known[:, :50].any()
        rows = np.arange(480)[:, None]
        far_above = rows < eye.outer[frame] - 140 * 0.00387 / 0.0022
        assert not known[far_above].any()
        retina = (rows > eye.inner[frame] + 3) & (rows < eye.outer[frame] - 3)
        inside = np.s_[:, 100:250]
        # Beside a margin whole windows are lost.
        assert known[inside][retina[inside]].mean() > (0.6 if frame == 0 else 0.95)


def test_a_patch_is_scored_as_it_is_alone(model: Model, eye: FlatVolume) -> None:
    import torch

    one = bscans(list(results(model, [eye])))[2]
    assert one.patches is not None
    for row, column, total, image, feature in one.patches[::3]:
        place = np.s_[int(row) : int(row) + 64, int(column) : int(column) + 64]
        x = torch.from_numpy(eye.pixels[2][place].astype(np.float32))[None, None] * (2 / 255) - 1
        with torch.inference_mode():
            terms, _ = score_batch(model, model.preprocessing.resize(x))
        np.testing.assert_allclose(terms[0], (image, feature), rtol=1e-4)
        assert total == pytest.approx(image + feature)


def test_a_b_scan_scores_its_higher_half_and_a_volume_its_highest_windows(model: Model) -> None:
    eye = flat_phantom(make_phantom(8, shape=(2, 240, 400), spacing=SPACING))
    *bscans, volume = results(model, [eye])

    def highest(totals: np.ndarray, share: float) -> float:
        return float(np.sort(totals)[-int(np.ceil(share * len(totals))) :].mean())

    totals = [bscan.patches[:, 2] for bscan in bscans if bscan.patches is not None]
    assert min(len(each) for each in totals) > 20
    for bscan, each in zip(bscans, totals, strict=True):
        assert bscan.total == pytest.approx(highest(each, 0.5), rel=1e-5)
    assert volume.total == pytest.approx(highest(np.concatenate(totals), 0.05), rel=1e-5)


def test_the_score_of_the_retina_alone_knows_nothing_of_the_rest(
    model: Model, eye: FlatVolume
) -> None:
    view = model.preprocessing.retina
    assert view is not None
    preprocessing = dataclasses.replace(
        model.preprocessing, retina=dataclasses.replace(view, score_retina_only=True)
    )
    masked = untrained(model).but(preprocessing=preprocessing)
    one = bscans(list(results(masked, [eye])))[2]
    assert one.residual is not None
    rows = np.arange(480)[:, None]
    above = (rows < eye.inner[2] - 12) & np.isfinite(one.residual)
    assert above.any() and float(one.residual[above].max()) < 0.01
    inside = (rows > eye.inner[2] + 12) & (rows < eye.outer[2] - 12) & np.isfinite(one.residual)
    assert float(one.residual[inside].mean()) > 0.05


def test_standardised_terms_of_held_out_windows_have_mean_0_and_spread_1(
    eyes: list[FlatVolume],
) -> None:
    standardised = FAnoGAN(RECIPE.but(standardise_terms=True)).fit(eyes)
    held_out = Normals.read(eyes, RECIPE).held_out
    terms = np.concatenate(
        [one.patches for one in bscans(list(standardised.results(held_out))).values()]
    )
    scale, found = standardised.model.calibration.term_scale, terms[:, 3:]
    assert scale is not None
    means, spreads = scale
    np.testing.assert_allclose(found.mean(0), means, rtol=1e-5)
    np.testing.assert_allclose(found.std(0), spreads, rtol=1e-5)
    np.testing.assert_allclose(
        terms[:, 2], ((found - np.array(means)) / np.array(spreads)).sum(1), rtol=1e-6
    )


def test_a_model_is_kept_with_its_view_of_the_retina(
    model: Model, eye: FlatVolume, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    again = Detector.load(tmp_path / "model").model
    assert again.preprocessing == model.preprocessing
    assert again.calibration.en_face == model.calibration.en_face
    assert set(again.calibration.units) == {"image", "patch", "volume"}
    np.testing.assert_array_equal(score(again, [eye]).total, score(model, [eye]).total)


def test_arrays_say_nothing_of_their_geometry(model: Model) -> None:
    with pytest.raises(BadScan, match="arrays don't say how large a pixel is"):
        score(model, np.zeros((3, 240, 128), np.uint8))


# --- what is written ----------------------------------------------------------------------------


def test_volumes_out(model: Model, eye: FlatVolume, ill: Phantom, tmp_path: Path) -> None:
    rows = write_results(model, [eye, flat_phantom(ill)], tmp_path / "out")
    out = tmp_path / "out"
    with tifffile.TiffFile(out / "maps" / "eye.tif") as file:
        volume = file.asarray()
        assert file.series[0].axes == "ZYX"
        assert file.imagej_metadata["spacing"] == pytest.approx(0.24)
    with Image.open(out / "maps" / "eye.tif") as image:  # what Fiji makes of it stands in its text
        described = dict(line.split("=") for line in image.tag_v2[270].split())
        resolution = [float(image.tag_v2[tag]) for tag in (282, 283)]
        assert image.n_frames == 3
    assert (described["slices"], described["unit"]) == ("3", "mm")
    assert "channels" not in described and "frames" not in described
    assert float(described["spacing"]) == eye.scan_spacing[0]
    _, row, column = eye.scan_spacing
    np.testing.assert_allclose(resolution, (1 / column, 1 / row), rtol=1e-5)  # pixels a millimetre
    with tifffile.TiffFile(out / "en_face" / "eye.tif") as file:
        assert file.series[0].axes == "YX"
    assert volume.shape == (3, 480, 300) and volume.dtype == np.float32
    one = bscans(list(results(model, [eye])))[2]
    np.testing.assert_allclose(volume[2], one.residual, rtol=1e-5)
    assert np.isnan(volume[1]).all()
    en_face = tifffile.imread(out / "en_face" / "eye.tif")
    assert en_face.shape == (3, 300) and np.isnan(en_face[1]).all()
    depth = np.arange(480)
    inside = (depth >= eye.inner[2, 200]) & (depth <= eye.outer[2, 200])
    assert en_face[2, 200] == pytest.approx(np.nanmean(one.residual[inside, 200]), rel=1e-5)
    assert (out / "en_face" / "eye.png").exists()
    assert {path.name for path in (out / "overlays").iterdir()} >= {"eye#0.png", "eye#2.png"}
    patches = table_of(out / "patches.csv")
    mine = [patch for patch in patches if patch["volume"] == "eye" and patch["bscan"] == "2"]
    assert len(mine) == one.windows
    for patch in mine:  # its middle lies in the retina, or near it, on the scan itself
        row, column = int(patch["row"]), int(patch["column"])
        assert eye.inner[2, column] - 120 < row < eye.outer[2, column] + 20
    regions = json.loads((out / "regions.json").read_text())
    table = table_of(out / "regions.csv")
    assert len(regions) == len(table) > 0
    for cells, region in zip(table, regions, strict=True):  # a number in each cell
        for name in ("bscan", "column"):
            ends = [int(cells[f"{end}_{name}"]) for end in ("first", "last")]
            assert ends == region[f"{name}s"] and f"{name}s" not in cells
            assert ends[0] <= int(cells[name]) <= ends[1]
    assert model.calibration.en_face is not None
    median, threshold = model.calibration.en_face
    assert median < threshold and all(one["peak"] > threshold for one in regions)
    line = next(row for row in rows if row["name"] == "eye" and row["unit"] == "volume")
    assert line["regions"] == sum(one["volume"] == "eye" for one in regions)


def test_an_eye_from_dicom_sends_back_what_is_found(
    model: Model, ill: Phantom, tmp_path: Path
) -> None:
    path = save_eye(tmp_path / "scans" / "eye.dcm", ill.pixels, SPACING)
    model.save(tmp_path / "model")
    write_results(model, tmp_path / "scans", tmp_path / "out", maps="nifti", dicom=True)
    out = tmp_path / "out" / "dicom"
    names = {f"eye.dcm.{end}.dcm" for end in ("pm", "seg", "sr")}
    assert {one.name for one in out.iterdir()} == names
    parametric, segmentation, report = (dcmread(out / name) for name in sorted(names))
    weights = json.loads((tmp_path / "model" / "model.json").read_text())["weights_sha256"]
    for one in (parametric, segmentation, report):
        assert one.StudyInstanceUID == dcmread(path).StudyInstanceUID
        assert one.PatientID == SECRETS[2] and one.DeviceSerialNumber == weights
    # The map is the NIfTI's, and this one lies where the file says.
    its = SimpleITK.ReadImage(tmp_path / "out" / "maps" / "eye.dcm.nii.gz")
    np.testing.assert_allclose(its.GetSpacing(), SPACING[::-1], rtol=1e-6)
    stored = nibabel.load(tmp_path / "out" / "maps" / "eye.dcm.nii.gz")  # ITK reads NaN as 0
    values = np.nan_to_num(stored.get_fdata(dtype=np.float32).T, nan=-1)
    frames = [  # of the source, from 1
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in parametric.PerFrameFunctionalGroupsSequence
    ]
    np.testing.assert_array_equal(parametric.pixel_array, values[np.array(frames) - 1])
    # What review needs: where the scan lies, which eye it is, and what lies below a region.
    [scan] = table_of(tmp_path / "out" / "scans.csv")
    assert (scan["folder"], json.loads(scan["files"])) == (str(path.parent), ["eye.dcm"])
    assert (scan["eye"], float(scan["row_mm"])) == ("right", SPACING[1])
    database = Database(tmp_path / "review.sqlite")
    assert import_results(database, tmp_path / "out") == 1
    case = database.case(1)
    assert case is not None and len(case["frames"]) == 3
    reviewed = Opened(case)
    np.testing.assert_array_equal(reviewed.scan.pixels, ill.pixels)
    np.testing.assert_array_equal(reviewed.residual(1), stored.get_fdata(dtype=np.float32).T[1])
    # Each region's segment covers its B-scans and columns, and pixels as many as its depth has.
    regions = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert len(regions) == len(segmentation.SegmentSequence) > 0
    masks = highdicom.seg.Segmentation.from_dataset(segmentation).get_pixels_by_source_frame(
        dcmread(path).SOPInstanceUID, [1, 2, 3], assert_missing_frames_are_empty=True
    )
    for number, (key, _) in enumerate(reviewed.regions):
        np.testing.assert_array_equal(reviewed.region_volume(key), masks[..., number] > 0)
    for number, region in enumerate(regions):
        frames, rows, columns = np.nonzero(masks[..., number])
        assert [frames.min(), frames.max()] == region["bscans"]
        assert [columns.min(), columns.max()] == region["columns"]
        assert len(set(zip(frames.tolist(), columns.tolist(), strict=True))) == region["pixels"]
        line = ill.boundaries["ILM"][frames, columns]
        assert np.abs(rows - line).max() < 120  # in the retina, not in the vitreous or below
        assert (rows > line - 8).all()
    # Without being asked, nothing of the patient leaves the reader.
    write_results(model, tmp_path / "scans", tmp_path / "plain")
    assert not (tmp_path / "plain" / "dicom").exists()
    written = b"".join(each.read_bytes() for each in (tmp_path / "plain").rglob("*.*"))
    assert not any(secret.encode() in written for secret in SECRETS)


def test_objects_are_of_dicom_alone(model: Model, eye: FlatVolume, tmp_path: Path) -> None:
    Image.fromarray(np.asarray(eye.bscans[0])).save(tmp_path / "a.png")
    with pytest.raises(BadScan, match=r"a\.png is no DICOM file, and --dicom writes"):
        write_results(model, tmp_path / "a.png", tmp_path / "out", dicom=True)
    with pytest.raises(BadScan, match="--dicom writes objects that refer to DICOM files"):
        write_results(model, [eye], tmp_path / "out", dicom=True)
    assert not (tmp_path / "out").exists()


def test_the_shape_of_the_retina_has_scores_p_values_and_maps(
    model: Model, eye: FlatVolume, ill: Phantom, tmp_path: Path
) -> None:
    assert model.preprocessing.retina is not None and model.preprocessing.retina.shape is not None
    flat, out = flat_phantom(ill), tmp_path / "out"
    found = {one.name: one for one in results(model, [eye, flat])}
    lines = model.preprocessing.retina.shape.lines(flat)
    one = found[f"{flat.name}#1"]
    np.testing.assert_array_equal(one.shape_line, lines[1])
    shapes = np.sqrt((lines**2).mean(axis=1))
    assert one.shape == pytest.approx(shapes[1], rel=1e-5)
    # Of three B-scans, the top 5 % are one.
    assert found[flat.name].shape == pytest.approx(shapes.max(), rel=1e-5)
    assert found[flat.name].shape_line is None and one.without_arrays().shape_line is None
    calibration = model.calibration
    assert calibration.combination is not None
    for row in write_results(model, [eye, flat], out):
        result = found[row["name"]]
        assert float(row["shape"]) == result.shape
        expected = calibration.combination(result.total, result.shape)
        assert float(row["combined"]) == result.combined == pytest.approx(float(expected))
        for column, kind in (("shape", calibration.shapes), ("combined", calibration.combined)):
            p_value = kind[row["unit"]].p_value(float(row[column]))
            assert float(row[f"{column}_p_value"]) == p_value >= 0.5, "one eye was held out"
    shape = tifffile.imread(out / "shape" / "eye.tif")
    assert shape.shape == (3, 300) and np.isnan(shape[1]).all()
    np.testing.assert_array_equal(tifffile.imread(out / "shape" / f"{flat.name}.tif"), lines)
    assert (out / "shape" / "eye.png").exists()
    with Image.open(out / "overlays" / f"{flat.name}#1.png") as overlay:
        assert overlay.size == (96, 240 + 2 + 10), "a strip below the B-scan"
    assert "residual, shape below" in (out / "report.html").read_text()


def test_the_papers_recipe_leaves_shape_out(eyes: list[FlatVolume], tmp_path: Path) -> None:
    assert not load_recipe("paper").score_shape and load_recipe("overnight").score_shape
    plain = FAnoGAN(RECIPE.but(score_shape=False)).fit(eyes).model
    rows = list(write_results(plain, eyes[:1], tmp_path / "out"))
    for column in ("shape", "shape_p_value", "combined", "combined_p_value"):
        assert {row[column] for row in rows} == {""}
    assert not (tmp_path / "out" / "shape").exists()


def test_shape_and_combined_stand_beside_the_score_of_b_scans(
    model: Model, ill: Phantom, tmp_path: Path
) -> None:
    healthy = [flat_phantom(phantom(seed)) for seed in (8, 9)]
    found = evaluate(model, healthy, [flat_phantom(ill)], tmp_path / "out")
    rows = {row["name"]: row for row in found["rows"] if row["kind"] == "shape"}
    assert list(rows) == ["shape of the retina", "shape and A combined"]
    table = table_of(tmp_path / "out" / "scores.csv")
    labels = [int(row["label"]) for row in table]
    for name, column in zip(rows, ("shape", "combined"), strict=True):
        auc = roc_auc_score(labels, [float(row[column]) for row in table])
        assert rows[name]["auc"] == pytest.approx(auc) and rows[name]["auc_interval"] is not None
        assert found["larger"][f"image {column}"]["auc"] == pytest.approx(auc)
        assert name in (tmp_path / "out" / "report.html").read_text()


def test_patches_and_pixels_are_held_against_the_row_means_of_the_training_normals(
    model: Model, eyes: list[FlatVolume], ill: Phantom, tmp_path: Path
) -> None:
    builder = ProfileBuilder()
    for eye in (*eyes, *eyes):
        builder.add(eye, eye.pixels / 255)
    model = model.but(profile=builder.build())
    healthy, flat = flat_phantom(phantom(9)), flat_phantom(ill)
    found = evaluate(model, [healthy], [flat], tmp_path / "out", masks=[ill.mask])
    seen = np.concatenate([np.where(eye.recorded, eye.pixels, np.nan) for eye in eyes], axis=2)
    columns = np.concatenate(list(seen / 255), axis=1)
    mean, deviation = (f(columns, axis=1)[:, None] for f in (np.nanmean, np.nanstd))
    labels, scores = [], []
    pixels: list[tuple[np.ndarray, ...]] = []
    for one in results(model, [healthy, flat]):
        if one.unit == "volume":
            continue
        assert one.volume is not None and one.patches is not None
        assert one.residual is not None and one.picture is not None
        volume, frame = one.volume, one.frame
        z = np.where(volume.recorded[frame], volume.pixels[frame] / 255 - mean, np.nan) / deviation
        mask = ill.mask[frame] if volume.name == flat.name else np.zeros_like(ill.mask[frame])
        marked = volume.forward(frame, mask)
        away = volume.to_original(frame, np.abs(z).astype(np.float32))
        covered = np.isfinite(one.residual) & np.isfinite(away)
        pixels.append((mask[covered], away[covered], one.picture[covered]))
        for row, column in one.patches[:, :2].astype(int):
            place = np.s_[row : row + 64, column : column + 64]
            labels.append(bool(marked[place].any()))
            scores.append(np.nanmean(z[place] ** 2))
    auc = next(row["auc"] for row in found["rows"] if row["name"] == "row means as z-scores")
    assert auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)
    marks, by_row, grey = (np.concatenate(each) for each in zip(*pixels, strict=True))
    trivial = found["pixel"]["trivial"]
    expected = roc_auc_score(marks, by_row)
    assert trivial["row means as z-scores"] == pytest.approx(expected, abs=1e-3)
    assert trivial["brightness"] == pytest.approx(roc_auc_score(marks, grey), abs=5e-3)


def test_regions_are_found_where_they_are() -> None:
    en_face = np.zeros((9, 101), np.float32)
    en_face[6:8, 80:90] = 0.4
    en_face[7, 84] = 0.9
    en_face[2, 10:13] = 1.0  # too few pixels
    en_face[3, 30:60] = np.nan
    deepest = np.full((9, 101), 77)
    (region,) = find_regions(en_face, deepest, 0.3, (0.12, 0.004, 0.01))
    assert (region.bscan, region.row, region.column) == (7, 77, 84)
    assert (region.bscans, region.columns, region.pixels) == ((6, 7), (80, 89), 20)
    assert region.area_mm2 == pytest.approx(20 * 0.0012)
    assert (region.x_mm, region.y_mm) == (pytest.approx(0.34), pytest.approx(0.36))
    assert region.peak == pytest.approx(0.9) and region.mean == pytest.approx(0.425)
    (unknown,) = find_regions(en_face, deepest, 0.3, (None, None, None))
    assert (unknown.area_mm2, unknown.x_mm, unknown.y_mm) == (None, None, None)


def test_patches_are_labelled_by_the_same_transform(
    model: Model, ill: Phantom, tmp_path: Path
) -> None:
    flat, healthy = flat_phantom(ill), flat_phantom(phantom(8))
    found = evaluate(model, [healthy], [flat], tmp_path / "out", masks=[ill.mask], beside=[model])
    rows = table_of(tmp_path / "out" / "scores.csv")
    assert found["unit"] == "patch" and found["n"] == len(rows)
    assert {row["unit"] for row in rows} == {"patch"}
    for row in rows:
        volume, frame, row_, column = row["name"].replace("#", "@").replace(",", "@").split("@")
        if volume != flat.name:
            assert row["label"] == "0"
            continue
        mask = flat.flat.forward(ill.mask)[int(frame)]
        place = np.s_[int(row_) : int(row_) + 64, int(column) : int(column) + 64]
        assert int(row["label"]) == int(mask[place].any())
    assert 0 < found["n_anomalous"] < found["n"]
    other = next(row for row in found["rows"] if row["kind"] == "other")
    assert other["auc"] == pytest.approx(found["rows"][0]["auc"])
    scores = ("", " shape", " combined")
    assert set(found["larger"]) == {f"{unit}{of}" for unit in ("image", "volume") for of in scores}
    assert found["larger"]["volume"]["n"] == 2
    assert not {row["kind"] for row in found["rows"]} & {"shape"}, "patches have no shape"


def test_flat_space_of_the_recipe_is_the_models(eyes: list[FlatVolume]) -> None:
    recipe = RECIPE.but(stretch_retina=True, flat_rows=64, flat_base=60)
    stretched = FAnoGAN(recipe).fit(eyes).model
    assert stretched.preprocessing.retina is not None
    assert stretched.preprocessing.retina.space == FlatSpace(64, 60, True)
    one = bscans(list(results(stretched, eyes[:1])))[0]
    assert one.patches is not None and set(one.patches[:, 0]) == {0.0}
    assert one.residual is not None and one.residual.shape == SHAPE[1:]
