"""f-AnoGAN as a user holds it: exact scores, maps, volumes, flags, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from fanogan.calibration.held_out import HeldOut
from fanogan.data.normals import Normals
from fanogan.detectors import FAnoGAN, Scores
from fanogan.detectors import detector as module
from fanogan.recipes.recipe import Recipe, load_recipe
from fanogan.scans import BadScan
from fanogan.storage import BadFolder, read_model
from fanogan.training import wgan as training

TINY = load_recipe("smoke").but(
    critic_updates=8, encoder_updates=6, kappa=0.7, top_window_fraction=0.2
)


@pytest.fixture(autouse=True, scope="module")
def small_numbers() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "HEALTH_IMAGES", 64)
        patch.setattr(training, "REESTIMATE_BATCHES", 20)
        yield


def stripes(count: int, rows: int = 16, columns: int = 16, seed: int = 0) -> np.ndarray:
    """Images of stripes that differ in phase and noise."""
    random = np.random.default_rng(seed)
    across = np.arange(columns) / 3 + random.uniform(0, 6, (count, 1, 1))
    values = 128 + 60 * np.sin(across) + random.normal(0, 15, (count, rows, columns))
    return np.clip(values, 0, 255).astype(np.uint8)


NORMALS = stripes(60)
IMAGES = stripes(23, seed=1)


@pytest.fixture(scope="module")
def whole() -> FAnoGAN:
    """Sees whole images of 16×16."""
    return FAnoGAN(TINY, device="cpu").fit(NORMALS)


@pytest.fixture(scope="module")
def windowed() -> FAnoGAN:
    """Sees images of 40×56 through windows of 16×16."""
    return FAnoGAN(TINY, device="cpu").fit(stripes(20, 40, 56))


def assert_equal(found: Scores, expected: Scores, rtol: float = 1e-5) -> None:
    for name in ("total", "image", "feature"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol)


# --- scores are exact -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 23, 64])
def test_each_image_is_scored_once_whatever_the_batch(
    whole: FAnoGAN, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    expected = whole.score(IMAGES)
    assert expected.names == tuple(f"image {index:05d}" for index in range(23))
    assert len(np.unique(expected.total)) == 23
    monkeypatch.setattr(module, "BATCH", batch)
    found = whole.score(IMAGES)
    assert found.names == expected.names
    assert_equal(found, expected)


def test_scores_do_not_depend_on_order_or_company(whole: FAnoGAN) -> None:
    expected = whole.score(IMAGES)
    order = np.random.default_rng(0).permutation(23)
    mixed = whole.score(IMAGES[order])
    np.testing.assert_allclose(mixed.total, expected.total[order], rtol=1e-5)
    alone = [float(whole.score(image[None]).total[0]) for image in IMAGES]
    np.testing.assert_allclose(alone, expected.total, rtol=1e-5)
    assert_equal(whole.score(IMAGES), expected, rtol=0)


def test_scores_do_not_depend_on_where_images_come_from(whole: FAnoGAN, tmp_path: Path) -> None:
    expected = whole.score(IMAGES)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{index}.png")
    np.save(tmp_path / "images.npy", IMAGES)
    files = whole.score(folder, workers=1)
    assert files.names == tuple(f"{index}.png" for index in range(23))
    assert_equal(files, expected)
    assert_equal(whole.score(folder, workers=4), files, rtol=0)
    assert whole.score(folder, workers=4).names == files.names
    arrays = whole.score(tmp_path / "images.npy")
    assert arrays.names == arrays.groups == tuple(f"images.npy#{index}" for index in range(23))
    assert_equal(arrays, expected)
    assert_equal(whole.score(torch.from_numpy(IMAGES)[:, None]), expected)
    assert_equal(whole.score(str(folder / "*.png")), expected)


@pytest.mark.parametrize("batch", [1, 7])
def test_windows_are_scored_once_whatever_the_batch(
    windowed: FAnoGAN, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    images = stripes(3, 45, 50, seed=2)  # sides that no number of strides makes up
    expected = list(windowed.results(images))
    monkeypatch.setattr(module, "BATCH", batch)
    for found, result in zip(windowed.results(images), expected, strict=True):
        assert found.windows == result.windows == 5 * 6
        for name in ("total", "image", "feature", "largest", "mean"):
            assert getattr(found, name) == pytest.approx(getattr(result, name), rel=1e-5)
        np.testing.assert_allclose(found.residual, result.residual, atol=1e-5)


def test_total_is_the_sum_of_its_terms(whole: FAnoGAN, windowed: FAnoGAN) -> None:
    for detector, images in ((whole, IMAGES), (windowed, stripes(2, 40, 56, seed=3))):
        scores = detector.score(images)
        np.testing.assert_allclose(scores.total, scores.image + 0.7 * scores.feature, rtol=1e-12)
        assert scores.image.min() > 0 and scores.feature.min() > 0
        assert scores.total.dtype == np.float64


def test_scores_are_equation_4(whole: FAnoGAN) -> None:
    G, D, E = whole.networks
    x = torch.from_numpy(IMAGES)[:, None].float() / 127.5 - 1
    with torch.no_grad():
        x_hat = G(E(x))
        image = (x - x_hat).square().mean((1, 2, 3))
        feature = (D.features(x) - D.features(x_hat)).square().mean(1)
    scores = whole.score(IMAGES)
    np.testing.assert_allclose(scores.image, image, rtol=1e-4)
    np.testing.assert_allclose(scores.feature, feature, rtol=1e-4)


# --- maps ---------------------------------------------------------------------------------------


def test_maps_of_whole_images_are_equation_5(whole: FAnoGAN) -> None:
    maps, reconstructions = whole.localize(IMAGES), whole.reconstruct(IMAGES)
    assert len(maps) == len(reconstructions) == 23
    for residual, reconstruction, image in zip(maps, reconstructions, IMAGES, strict=True):
        assert residual.shape == (16, 16) and residual.dtype == np.float32
        x = image.astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(residual, np.abs(x - reconstruction), atol=1e-6)
    image_terms = [np.mean(residual.astype(np.float64) ** 2) for residual in maps]
    np.testing.assert_allclose(image_terms, whole.score(IMAGES).image, rtol=1e-5)


def test_maps_of_large_images_have_their_geometry(windowed: FAnoGAN) -> None:
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
    detector = FAnoGAN(recipe, device="cpu").fit(images)
    assert detector.preprocessing.window is None
    (residual,) = detector.localize(images[:1])
    assert residual.shape == (28, 20)


def test_colour_images_have_one_map_and_a_colour_reconstruction() -> None:
    images = np.stack([stripes(20, seed=seed) for seed in range(3)], axis=-1)
    detector = FAnoGAN(TINY, device="cpu").fit(images)
    (result,) = detector.results(images[:1])
    assert result.residual is not None and result.residual.shape == (16, 16)
    assert result.reconstruction is not None and result.reconstruction.shape == (16, 16, 3)
    assert result.picture is not None and result.picture.shape == (16, 16, 3)
    expected = np.abs(result.picture - result.reconstruction).mean(-1)
    np.testing.assert_allclose(result.residual, expected, atol=1e-6)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert_equal(detector.score(tensor), detector.score(images))


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


def test_a_large_image_scores_its_top_share_of_windows(windowed: FAnoGAN) -> None:
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


def test_a_top_share_that_is_a_whole_number_is_not_rounded_up(windowed: FAnoGAN) -> None:
    # .05 × 140 is 7.000000000000001 in floats.
    detector = FAnoGAN(windowed.recipe.but(top_window_fraction=0.05), device="cpu")
    detector.preprocessing, detector.familiar = windowed.preprocessing, windowed.familiar
    detector.networks = windowed.networks
    (image,) = stripes(1, 88, 120, seed=5)
    totals = np.sort(windowed.score(windows_by_hand(image)).total)
    assert len(totals) == 140
    assert detector.score(image[None]).total[0] == pytest.approx(totals[-7:].mean(), rel=1e-5)


@pytest.mark.parametrize("rows", [16, 40])
def test_a_volume_scores_over_all_windows_of_all_frames(
    whole: FAnoGAN, windowed: FAnoGAN, tmp_path: Path, rows: int
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


def test_volumes_and_images_keep_their_order(whole: FAnoGAN, tmp_path: Path) -> None:
    for index, image in enumerate(IMAGES[:6]):
        Image.fromarray(image).save(tmp_path / f"{2 * index}.png")
    tifffile.imwrite(tmp_path / "5.tif", IMAGES[6:9], photometric="minisblack")
    names = [result.name for result in whole.results(tmp_path)]
    volume = ["5.tif#0", "5.tif#1", "5.tif#2", "5.tif"]
    assert names == ["0.png", "2.png", "4.png", *volume, "6.png", "8.png", "10.png"]


def test_volumes_are_calibrated_as_volumes_and_images(tmp_path: Path) -> None:
    for subject in range(4):
        tifffile.imwrite(tmp_path / f"{subject}.tif", stripes(5, seed=subject))
    detector = FAnoGAN(TINY.but(held_out_fraction=0.5), device="cpu").fit(tmp_path)
    units = detector.calibration.units
    assert (units["image"].n, units["image"].n_subjects) == (10, 2)
    assert (units["volume"].n, units["volume"].n_subjects) == (2, 2)


# --- images of another kind -----------------------------------------------------------------------


def test_images_of_another_kind_stop_or_are_skipped(
    windowed: FAnoGAN, tmp_path: Path, caplog: pytest.LogCaptureFixture
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


def test_unlike_images_are_warned_of(whole: FAnoGAN) -> None:
    (like,) = whole.results(IMAGES[:1])
    (unlike,) = whole.results(255 - IMAGES[:1] // 4)
    assert like.warnings == ()
    assert any("another scanner looks like disease" in warning for warning in unlike.warnings)


# --- flags --------------------------------------------------------------------------------------


def test_predictions_are_pyods(whole: FAnoGAN) -> None:
    detector = FAnoGAN(TINY, device="cpu")
    detector.__dict__.update(whole.__dict__)
    totals = whole.score(IMAGES).total
    higher = np.sort(totals)[11] + 1e-9
    held_out = HeldOut(np.linspace(0, higher, 30), tuple(map(str, range(30))))
    detector.calibration = dataclasses.replace(whole.calibration, units={"image": held_out})
    np.testing.assert_array_equal(detector.decision_function(IMAGES), totals)
    flags = detector.predict(IMAGES)
    np.testing.assert_array_equal(flags, (totals > higher).astype(int))
    assert flags.sum() == 11


def test_too_few_held_out_is_said(whole: FAnoGAN) -> None:
    assert whole.calibration.units["image"].n == 6
    with pytest.raises(
        ValueError, match=r"0\.01: too few held out: 6 held-out images of 6 subjects"
    ):
        whole.predict(IMAGES, alpha=0.01)
    assert set(whole.predict(IMAGES, alpha=0.2)) <= {0, 1}


# --- what is kept -------------------------------------------------------------------------------


def test_a_loaded_model_scores_the_same(windowed: FAnoGAN, tmp_path: Path) -> None:
    images = stripes(3, 40, 56, seed=7)
    windowed.save(tmp_path / "model")
    loaded = FAnoGAN.load(tmp_path / "model", device="cpu")
    assert_equal(loaded.score(images), windowed.score(images), rtol=0)
    np.testing.assert_array_equal(loaded.localize(images), windowed.localize(images))
    assert loaded.recipe == windowed.recipe
    assert loaded.calibration == windowed.calibration
    assert loaded.familiar == windowed.familiar
    assert loaded.facts == windowed.facts
    loaded.save(tmp_path / "again")
    for name in ("model.json", "model.safetensors", "card.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_model_of_a_later_version_is_refused(whole: FAnoGAN, tmp_path: Path) -> None:
    later = FAnoGAN(TINY, device="cpu")
    later.__dict__.update(whole.__dict__)

    class LaterRecipe(Recipe):
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "spectral_norm": True}

    later.recipe = LaterRecipe(**dataclasses.asdict(TINY))
    later.save(tmp_path)
    with pytest.raises(BadFolder, match=r"this version can read.*spectral_norm"):
        FAnoGAN.load(tmp_path)


def test_the_model_holds_no_name_of_a_subject(tmp_path: Path) -> None:
    for subject in ("Mustermann_Erika", "Mustermann_Max", "Mustermann_Kim"):
        (tmp_path / "healthy" / subject).mkdir(parents=True)
        for index, image in enumerate(stripes(4, seed=len(subject))):
            Image.fromarray(image).save(tmp_path / "healthy" / subject / f"scan_{index}.png")
    detector = FAnoGAN(TINY, device="cpu").fit(tmp_path / "healthy", out=tmp_path / "run")
    model = tmp_path / "run" / "model"
    for file in model.iterdir():
        content = file.read_bytes()
        assert b"Mustermann" not in content and b"scan_" not in content
    facts = json.loads((model / "model.json").read_text())
    assert facts["calibration"]["units"]["image"]["groups"] == ["subject 1"] * 4
    assert detector.calibration.units["image"].n_subjects == 1


def test_the_model_card_says_what_it_learnt_from(whole: FAnoGAN, tmp_path: Path) -> None:
    whole.save(tmp_path)
    card = (tmp_path / "card.md").read_text()
    _, facts = read_model(tmp_path)
    for words in (
        "Research use only, not a medical device",
        "54 normal images of 54 subjects",
        "0 of them exact duplicates",
        facts["fingerprint"]["sha256"],
        "whole images, seen at 16×16",
        "8 critic updates, 2 a round",
        "6 encoder updates (izi_f, tanh output)",
        "Calibration, from 6 images of 6 subjects held out",
        "- only 54 training images: the model may learn them by heart",
    ):
        assert words in card, words
    assert not [line for line in card.splitlines() if len(line) > 200]


def test_nothing_can_be_asked_before_it_has_learnt(tmp_path: Path) -> None:
    detector = FAnoGAN(TINY)
    for ask in (detector.score, detector.localize, detector.reconstruct, detector.predict):
        with pytest.raises(NotFittedError, match="learnt nothing yet"):
            ask(IMAGES)
    with pytest.raises(NotFittedError):
        detector.save(tmp_path / "model")
    with pytest.raises(NotFittedError):
        detector.untrained()


# --- settings -----------------------------------------------------------------------------------


def test_same_seed_same_model_and_another_another(whole: FAnoGAN) -> None:
    def weights(detector: FAnoGAN) -> list[torch.Tensor]:
        return [t for network in detector.networks for t in network.state_dict().values()]

    torch.manual_seed(123)  # what is random elsewhere has no part in it
    again = FAnoGAN(TINY, device="cpu").fit(NORMALS)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    np.testing.assert_array_equal(again.score(IMAGES).total, whole.score(IMAGES).total)
    other = FAnoGAN(TINY, seed=1, device="cpu").fit(NORMALS)
    pairs = [(a, b) for a, b in zip(weights(whole), weights(other), strict=True) if a.ndim > 1]
    assert not any(torch.equal(a, b) for a, b in pairs)
    assert other.facts["fingerprint"]["sha256"] != whole.facts["fingerprint"]["sha256"]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tf32_is_for_recipes_that_ask_for_it_and_for_training_only(precision: Any) -> None:
    recipe = TINY.but(precision=precision, critic_updates=4, encoder_updates=2)
    allowed: set[tuple[str, bool]] = set()

    def look(stage: str, step: int, steps: int, figures: Any) -> None:
        allowed.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    detector = FAnoGAN(recipe, device="cpu").fit(NORMALS, progress=look)
    assert allowed == {("high", True) if precision == "tf32" else ("highest", False)}
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert np.isfinite(detector.score(IMAGES).total).all()


def test_time_is_estimated_before_anything_is_learnt() -> None:
    normals = Normals.read(NORMALS, TINY)
    short, long = (
        FAnoGAN(TINY.but(critic_updates=n, encoder_updates=n), device="cpu").seconds_to_fit(normals)
        for n in (100, 10_000)
    )
    assert short > 0
    assert 5 < long / short < 2000  # a hundred, on a machine with nothing else to do


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"devices": 3}, "a batch of 16 can't be shared by 3 devices"),
        ({"devices": 0}, "can't be shared"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FAnoGAN(TINY, **options)


# --- it learns ----------------------------------------------------------------------------------


def test_trained_networks_tell_digits_apart_and_untrained_ones_do_not() -> None:
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    is_normal = digits.target == 4
    normals = images[is_normal]
    anomalous = images[~is_normal][:200]
    recipe = load_recipe("digits").but(
        critic_updates=160, encoder_updates=120, log_every=80, checkpoint_minutes=5.0
    )
    detector = FAnoGAN(recipe, device="cpu").fit(normals[:120])
    test = np.concatenate([normals[120:], anomalous])
    labels = np.repeat([0, 1], [len(normals) - 120, 200])
    trained = roc_auc_score(labels, detector.score(test).total)
    untrained = roc_auc_score(labels, detector.untrained().score(test).total)
    assert trained > 0.9
    assert trained - untrained > 0.15
