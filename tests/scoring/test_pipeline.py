"""From files to results: each image scored once, exactly; maps, larger images, volumes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from stripes import TINY, assert_same_scores, fit, fitted, stripes

from fanogan.calibration import GreyValuesUnseen
from fanogan.detectors import Detector
from fanogan.scans import BadScan
from fanogan.scoring import frames, score

IMAGES = stripes(23, seed=1)


@pytest.fixture
def whole() -> Detector:
    """Sees whole images of 16×16."""
    return fitted("izi_f")


@pytest.fixture(scope="module")
def windowed() -> Detector:
    """Sees images of 40×56 through windows of 16×16."""
    return fit("izi_f", stripes(20, 40, 56))


# --- scores are exact -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 23, 64])
def test_each_image_is_scored_once_whatever_the_batch(
    whole: Detector, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    expected = whole.score(IMAGES)
    assert expected.names == tuple(f"image {index:05d}" for index in range(23))
    assert len(np.unique(expected.total)) == 23
    monkeypatch.setattr(frames, "BATCH", batch)
    found = whole.score(IMAGES)
    assert found.names == expected.names
    assert_same_scores(found, expected, rtol=1e-5)


def test_scores_do_not_depend_on_order_or_company(whole: Detector) -> None:
    expected = whole.score(IMAGES)
    order = np.random.default_rng(0).permutation(23)
    mixed = whole.score(IMAGES[order])
    np.testing.assert_allclose(mixed.total, expected.total[order], rtol=1e-5)
    alone = [float(whole.score(image[None]).total[0]) for image in IMAGES]
    np.testing.assert_allclose(alone, expected.total, rtol=1e-5)
    assert_same_scores(whole.score(IMAGES), expected)


def test_scores_do_not_depend_on_where_images_come_from(whole: Detector, tmp_path: Path) -> None:
    expected = whole.score(IMAGES)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{index}.png")
    np.save(tmp_path / "images.npy", IMAGES)
    files = whole.score(folder, workers=1)
    assert files.names == tuple(f"{index}.png" for index in range(23))
    assert_same_scores(files, expected, rtol=1e-5)
    assert_same_scores(whole.score(folder, workers=4), files)
    assert whole.score(folder, workers=4).names == files.names
    arrays = whole.score(tmp_path / "images.npy")
    assert arrays.names == arrays.groups == tuple(f"images.npy#{index}" for index in range(23))
    assert_same_scores(arrays, expected, rtol=1e-5)
    assert_same_scores(whole.score(torch.from_numpy(IMAGES)[:, None]), expected, rtol=1e-5)
    assert_same_scores(whole.score(str(folder / "*.png")), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_integers_of_0_to_255_score_as_bytes_do_and_say_so(
    whole: Detector, caplog: pytest.LogCaptureFixture, dtype: type
) -> None:
    expected = whole.score(IMAGES)
    assert_same_scores(whole.score(IMAGES.astype(dtype)), expected)
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("unlike the training normals: 23 of 23 images, such as image 00000: ")
    assert f"values up to {IMAGES.max()}, and 255 was taken for white" in message


@pytest.mark.parametrize("batch", [1, 7])
def test_windows_are_scored_once_whatever_the_batch(
    windowed: Detector, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    images = stripes(3, 45, 50, seed=2)  # sides that no number of strides makes up
    expected = list(windowed.results(images))
    monkeypatch.setattr(frames, "BATCH", batch)
    for found, result in zip(windowed.results(images), expected, strict=True):
        assert found.windows == result.windows == 5 * 6
        for name in ("total", "image", "feature", "largest", "mean"):
            assert getattr(found, name) == pytest.approx(getattr(result, name), rel=1e-5)
        np.testing.assert_allclose(found.residual, result.residual, atol=1e-5)


def test_total_is_the_sum_of_its_terms(whole: Detector, windowed: Detector) -> None:
    for detector, images in ((whole, IMAGES), (windowed, stripes(2, 40, 56, seed=3))):
        scores = detector.score(images)
        np.testing.assert_allclose(scores.total, scores.image + 0.7 * scores.feature, rtol=1e-12)
        assert scores.image.min() > 0 and scores.feature.min() > 0
        assert scores.total.dtype == np.float64


# --- maps ---------------------------------------------------------------------------------------


def test_maps_of_whole_images_are_equation_5(whole: Detector) -> None:
    maps, reconstructions = whole.localize(IMAGES), whole.reconstruct(IMAGES)
    assert len(maps) == len(reconstructions) == 23
    for residual, reconstruction, image in zip(maps, reconstructions, IMAGES, strict=True):
        assert residual.shape == (16, 16) and residual.dtype == np.float32
        x = image.astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(residual, np.abs(x - reconstruction), atol=1e-6)
    image_terms = [np.mean(residual.astype(np.float64) ** 2) for residual in maps]
    np.testing.assert_allclose(image_terms, whole.score(IMAGES).image, rtol=1e-5)


def test_maps_of_large_images_have_their_geometry(windowed: Detector) -> None:
    image = stripes(1, 45, 50, seed=2)
    (result,) = windowed.results(image)
    assert result.residual is not None and result.residual.shape == (45, 50)
    assert result.reconstruction is not None and result.reconstruction.shape == (45, 50)
    assert result.picture is not None
    np.testing.assert_allclose(result.picture, image[0] / 127.5 - 1, atol=1e-6)
    # In the corner is a single window, whatever the weights.
    (corner,) = windowed.results(image[:, :16, :16])
    assert corner.residual is not None and corner.windows == 1
    np.testing.assert_allclose(result.residual[:7, :7], corner.residual[:7, :7], atol=1e-5)


def test_maps_go_back_where_the_networks_see_smaller_images() -> None:
    images = stripes(30, 28, 20)
    recipe = TINY.but(window=(32, 32))
    detector = fit("izi_f", images, recipe)
    assert detector.model.preprocessing.window is None
    (residual,) = detector.localize(images[:1])
    assert residual.shape == (28, 20)


def test_colour_images_have_one_map_and_a_colour_reconstruction() -> None:
    images = np.stack([stripes(20, seed=seed) for seed in range(3)], axis=-1)
    detector = fit("izi_f", images)
    (result,) = detector.results(images[:1])
    assert result.residual is not None and result.residual.shape == (16, 16)
    assert result.reconstruction is not None and result.reconstruction.shape == (16, 16, 3)
    assert result.picture is not None and result.picture.shape == (16, 16, 3)
    expected = np.abs(result.picture - result.reconstruction).mean(-1)
    np.testing.assert_allclose(result.residual, expected, atol=1e-6)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert_same_scores(detector.score(tensor), detector.score(images))


# --- larger images and volumes --------------------------------------------------------------------


def windows_by_hand(image: np.ndarray, stride: int = 8, side: int = 16) -> np.ndarray:
    """All windows of an image whose sides are a number of strides: (windows, side, side)."""
    rows, columns = image.shape
    return np.stack(
        [
            image[top : top + side, left : left + side]
            for top in range(0, rows - side + 1, stride)
            for left in range(0, columns - side + 1, stride)
        ]
    )


def test_a_large_image_scores_its_top_share_of_windows(windowed: Detector) -> None:
    (image,) = stripes(1, 40, 56, seed=4)
    alone = windowed.score(windows_by_hand(image))
    assert len(alone) == 4 * 6
    top = np.argsort(-alone.total)[: math.ceil(0.2 * 24)]
    assert len(top) == 5
    (result,) = windowed.results(image[None])
    assert result.unit == "image" and result.windows == 24
    assert result.total == pytest.approx(alone.total[top].mean(), rel=1e-5)
    assert result.image == pytest.approx(alone.image[top].mean(), rel=1e-5)
    assert result.feature == pytest.approx(alone.feature[top].mean(), rel=1e-5)
    assert result.largest == pytest.approx(alone.total.max(), rel=1e-5)
    assert result.mean == pytest.approx(alone.total.mean(), rel=1e-5)


def test_a_top_share_that_is_a_whole_number_is_not_rounded_up(windowed: Detector) -> None:
    # .05 × 140 is 7.000000000000001 in floats.
    model = windowed.model.but(recipe=TINY.but(top_window_fraction=0.05))
    (image,) = stripes(1, 88, 120, seed=5)
    totals = np.sort(windowed.score(windows_by_hand(image)).total)
    assert len(totals) == 140
    assert score(model, image[None]).total[0] == pytest.approx(totals[-7:].mean(), rel=1e-5)


@pytest.mark.parametrize("rows", [16, 40])
def test_a_volume_scores_over_all_windows_of_all_frames(
    whole: Detector, windowed: Detector, tmp_path: Path, rows: int
) -> None:
    detector, columns = (whole, 16) if rows == 16 else (windowed, 56)
    frames = stripes(7, rows, columns, seed=6)
    tifffile.imwrite(tmp_path / "eye.tif", frames)
    *images, volume = detector.results(tmp_path)
    assert [result.name for result in images] == [f"eye.tif#{frame}" for frame in range(7)]
    assert [result.frame for result in images] == list(range(7))
    assert {result.unit for result in images} == {"image"}
    assert (volume.name, volume.unit, volume.group) == ("eye.tif", "volume", "eye.tif")
    assert volume.residual is volume.reconstruction is volume.picture is None
    alone = detector.score(frames)
    np.testing.assert_allclose([r.total for r in images], alone.total, rtol=1e-5)
    windows = detector.score(np.concatenate([windows_by_hand(frame) for frame in frames])).total
    assert volume.windows == len(windows) == sum(result.windows for result in images)
    top = np.sort(windows)[-math.ceil(0.2 * len(windows)) :]
    assert volume.total == pytest.approx(top.mean(), rel=1e-5)
    scores = detector.score(tmp_path)
    assert scores.names == tuple(result.name for result in images)
    assert len(detector.localize(tmp_path)) == len(detector.reconstruct(tmp_path)) == 7


def test_volumes_and_images_keep_their_order(whole: Detector, tmp_path: Path) -> None:
    for index, image in enumerate(IMAGES[:6]):
        Image.fromarray(image).save(tmp_path / f"{2 * index}.png")
    tifffile.imwrite(tmp_path / "5.tif", IMAGES[6:9], photometric="minisblack")
    names = [result.name for result in whole.results(tmp_path)]
    volume = ["5.tif#0", "5.tif#1", "5.tif#2", "5.tif"]
    assert names == ["0.png", "2.png", "4.png", *volume, "6.png", "8.png", "10.png"]


def test_volumes_are_calibrated_as_volumes_and_images(tmp_path: Path) -> None:
    for subject in range(4):
        tifffile.imwrite(tmp_path / f"{subject}.tif", stripes(5, seed=subject))
    detector = fit("izi_f", tmp_path, TINY.but(held_out_fraction=0.5))
    units = detector.model.calibration.units
    assert (units["image"].n, units["image"].n_subjects) == (10, 2)
    assert (units["volume"].n, units["volume"].n_subjects) == (2, 2)


def test_a_loaded_model_scores_large_images_the_same(windowed: Detector, tmp_path: Path) -> None:
    images = stripes(3, 40, 56, seed=7)
    windowed.save(tmp_path)
    loaded = Detector.load(tmp_path, device="cpu")
    assert_same_scores(loaded.score(images), windowed.score(images))
    np.testing.assert_array_equal(loaded.localize(images), windowed.localize(images))


# --- images of another kind -----------------------------------------------------------------------


def test_images_of_another_kind_stop_or_are_skipped(
    windowed: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(stripes(1, 40, 56)[0]).save(tmp_path / "1.png")
    Image.fromarray(stripes(1, 40, 12)[0]).save(tmp_path / "2.png")
    Image.fromarray(stripes(1, 40, 56)[0]).save(tmp_path / "3.png")
    with pytest.raises(BadScan, match=r"2\.png has 40×12 pixels"):
        windowed.score(tmp_path)
    bad: list[BadScan] = []
    scores = windowed.score(tmp_path, skip_bad=True, on_bad=bad.append)
    assert scores.names == ("1.png", "3.png")
    assert len(bad) == 1 and "2.png" in str(bad[0])
    assert "2.png" in caplog.text
    with pytest.raises(BadScan, match=r"none of the images could be scored.*2\.png"):
        windowed.score(tmp_path / "2.png", skip_bad=True)


def test_unlike_images_are_warned_of(whole: Detector) -> None:
    (like,) = whole.results(IMAGES[:1])
    (unlike,) = whole.results(255 - IMAGES[:1] // 4)
    assert like.warnings == ()
    assert any(isinstance(warning, GreyValuesUnseen) for warning in unlike.warnings)
