"""One contract for every detector: exact scores, kept whole, resumed bit-equal."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from stripes import (
    IMAGES,
    NORMALS,
    TINY,
    as_seen,
    assert_same_scores,
    assert_same_weights,
    fit,
    fitted,
    has_bf16,
    stripes,
    weights,
)

from fanogan.calibration import HeldOut
from fanogan.data import Normals
from fanogan.detectors import Detector, FAnoGAN, detector_names, new_detector
from fanogan.detectors.timing import seconds_to_fit
from fanogan.errors import FanoganError
from fanogan.recipes import Recipe, load_recipe
from fanogan.scoring import COLUMNS, frames, score_batch
from fanogan.storage import BadFolder, read_model_folder, write_model_folder

NAMES = detector_names()
WITHOUT_FEATURES = ("izi", "ziz", "ae", "pca")


# --- the contract, for each -----------------------------------------------------------------------


def test_the_names_are_those_that_a_user_types() -> None:
    on_a_gan = ["izi_f", "izi", "ziz", "izi-features", "ziz-features", "critic", "iterative"]
    assert NAMES[:11] == [*on_a_gan, "ae", "advae", "ali", "pca"]
    assert {name: fitted(name).name for name in NAMES} == {name: name for name in NAMES}
    assert {name: fitted(name).model.detector for name in NAMES} == {name: name for name in NAMES}
    with pytest.raises(ValueError, match=r"no detector 'vae': give one of izi_f, izi, ziz"):
        new_detector("vae", TINY)


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_neither_batch_nor_order(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    detector = fitted(name)
    expected = detector.score(IMAGES)
    # A critic's score is a difference of two values of D, with the rounding errors of those.
    tolerance = 1e-5 * abs(detector.model.constants.get("critic_mean", 0.0))
    if name == "ali":  # whose features begin near 0, and their residuals at the rounding errors
        tolerance = 1e-12
    order = np.random.default_rng(0).permutation(len(IMAGES))
    mixed = detector.score(IMAGES[order])
    np.testing.assert_allclose(mixed.total, expected.total[order], 1e-5, tolerance)
    for batch in (1, 4):
        monkeypatch.setattr(frames, "BATCH", batch)
        found = detector.score(IMAGES)
        np.testing.assert_allclose(found.total, expected.total, 1e-5, tolerance)
        np.testing.assert_allclose(found.feature, expected.feature, 1e-5, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_model_scores_the_same(tmp_path: Path, name: str) -> None:
    detector = fitted(name)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", device="cpu")
    assert type(loaded) is type(detector) and loaded.name == name
    for field in ("recipe", "preprocessing", "calibration", "profile", "constants", "provenance"):
        assert getattr(loaded.model, field) == getattr(detector.model, field), field
    assert_same_scores(loaded.score(IMAGES), detector.score(IMAGES))
    np.testing.assert_array_equal(loaded.localize(IMAGES), detector.localize(IMAGES))
    loaded.save(tmp_path / "again")
    for file in ("model.json", "model.safetensors", "card.md"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert f"# Model card: {name}, recipe smoke" in (tmp_path / "model" / "card.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_terms_and_maps_keep_the_contract(name: str) -> None:
    model, x = fitted(name).model, as_seen(IMAGES[:5])
    inside = torch.zeros(5, 1, 16, 16, dtype=torch.bool)
    inside[:, :, 4:12] = True
    with torch.inference_mode():
        terms, maps = score_batch(model, x)
        within, maps_within = score_batch(model, x, inside)
    assert terms.shape == (5, 2) and maps.shape == (5, 2, 16, 16)
    assert torch.allclose(maps[:, :1], (x - maps[:, 1:]).abs(), atol=1e-6)
    outside = ~inside
    assert torch.equal(maps_within[:, 1:][outside], x[outside])
    assert not maps_within[:, :1][outside].any()
    if name == "critic":
        assert not terms[:, 0].any() and torch.equal(terms, within)
        assert torch.equal(maps[:, 1:], x)
    else:
        squares = (x - maps_within[:, 1:]).square().mean((1, 2, 3))
        assert torch.allclose(within[:, 0], squares, rtol=1e-5)
        assert maps_within[:, :1][inside].min() > 0
    assert bool(terms[:, 1].any()) == bool(within[:, 1].any()) == (name not in WITHOUT_FEATURES)
    total = fitted(name).score(IMAGES[:5]).total
    np.testing.assert_allclose(total, terms[:, 0] + 0.7 * terms[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ziz", "critic", "ae", "advae", "ali"])
def test_a_run_stopped_in_each_stage_ends_bit_equal(tmp_path: Path, name: str) -> None:
    expected = fitted(name).model
    for stage, steps in expected.provenance["steps"].items():
        moment = (stage, max(2, steps // 2))

        def stop(now: str, step: int, of: int, figures: Any, at: tuple[str, int] = moment) -> None:
            if (now, step) == at and not figures:
                raise KeyboardInterrupt

        begun = (tmp_path / "config.yaml").exists()
        with pytest.raises(KeyboardInterrupt):
            fit(name, out=tmp_path, resume=begun, progress=stop)
        assert (tmp_path / "checkpoints" / f"{stage}.safetensors").exists()
    again = fit(name, out=tmp_path, resume=True)
    assert_same_weights(again.model, expected)
    kept = Detector.load(tmp_path, device="cpu")
    assert_same_scores(kept.score(IMAGES), fitted(name).score(IMAGES))
    with pytest.raises(BadFolder, match="it was begun with another detector"):
        fit("ae" if name != "ae" else "ali", out=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["izi_f", "critic", "ae", "advae", "ali", "pca"])
def test_every_stage_is_timed_and_reported(name: str) -> None:
    detector = new_detector(name, TINY, device="cpu")
    normals = Normals.read(NORMALS, TINY)
    expected = seconds_to_fit(detector, normals)
    assert min(expected.values(), default=1) > 0
    seen: dict[str, list[tuple[int, int]]] = {}
    fit(name, progress=lambda stage, step, of, _: seen.setdefault(stage, []).append((step, of)))
    assert bool(expected) == (name != "pca")  # which has no loop
    assert not expected or expected.keys() == seen.keys()
    calibration = seen.pop(f"calibrating {name}")
    # Each held-out image, once or twice: in bfloat16 too, where the machine has it.
    assert len(calibration) in (len(normals.held_out), 2 * len(normals.held_out))
    assert calibration == [(step, len(calibration)) for step in range(1, len(calibration) + 1)]
    steps = {stage: of for stage, each in seen.items() for _, of in each}
    assert steps == detector.steps(normals.preprocessing)


def test_of_calibration_each_held_out_volume_counts_once() -> None:
    recipe = load_recipe("volume").but(
        critic_updates=2,
        encoder_updates=1,
        base_width=4,
        batch_size=4,
        held_out_fraction=0.5,
        reestimate_batch_norm=False,
    )
    volumes = np.random.default_rng(0).integers(0, 256, (4, 18, 18, 18), dtype=np.uint8)
    seen: list[tuple[str, int, int]] = []
    FAnoGAN(recipe, device="cpu").fit(
        volumes, progress=lambda stage, step, of, _: seen.append((stage, step, of))
    )
    stage, step, of = seen[-1]
    assert stage == "calibrating izi_f" and step == of in (2, 4)  # in bfloat16 too


# --- what is loaded -------------------------------------------------------------------------------


def test_another_detectors_model_is_refused_by_a_class(tmp_path: Path) -> None:
    fitted("ae").save(tmp_path / "model")
    with pytest.raises(BadFolder, match="holds a model of the detector ae, not FAnoGAN"):
        FAnoGAN.load(tmp_path / "model")


def test_a_model_of_a_detector_that_is_not_here_is_refused(tmp_path: Path) -> None:
    fitted("ae").save(tmp_path / "now")
    tensors, values = read_model_folder(tmp_path / "now")
    write_model_folder(tmp_path / "later", tensors, {**values, "detector": "vae"}, "")
    sentence = r"not a model that this version can read: it has no detector 'vae'; update fanogan,"
    with pytest.raises(BadFolder, match=sentence):
        Detector.load(tmp_path / "later")
    with pytest.raises(BadFolder, match=sentence):
        fit("izi", gan=tmp_path / "later")


def test_a_model_of_a_later_version_is_refused(tmp_path: Path) -> None:
    class LaterRecipe(Recipe):
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "spectral_norm": True}

    later = LaterRecipe(**dataclasses.asdict(TINY))
    fitted("izi_f").model.but(recipe=later).save(tmp_path)
    with pytest.raises(BadFolder, match=r"this version can read.*spectral_norm"):
        FAnoGAN.load(tmp_path)


# --- flags ----------------------------------------------------------------------------------------


def test_predictions_are_pyods() -> None:
    images = stripes(23, seed=1)
    model = fitted("izi_f").model
    detector = FAnoGAN(TINY, device="cpu")
    totals = fitted("izi_f").score(images).total
    higher = np.sort(totals)[11] + 1e-9
    held_out = HeldOut(np.linspace(0, higher, 30), tuple(map(str, range(30))))
    calibration = dataclasses.replace(model.calibration, units={"image": held_out})
    detector.model = model.but(calibration=calibration)
    np.testing.assert_array_equal(detector.decision_function(images), totals)
    flags = detector.predict(images)
    np.testing.assert_array_equal(flags, (totals > higher).astype(int))
    assert flags.sum() == 11


def test_pyod_evaluates_its_scores(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba", reason="needs pip install pyod numba")
    pyod = pytest.importorskip("pyod.utils.data", reason="needs pip install pyod numba")
    labels = np.repeat([0, 1], [8, 8])
    scores = fitted("izi_f").decision_function(np.concatenate([IMAGES[:8], 255 - IMAGES[:8]]))
    pyod.evaluate_print("f-AnoGAN", labels, scores)
    auc = np.mean(scores[8:, None] > scores[:8])  # of all pairs
    assert f"f-AnoGAN ROC:{np.round(auc, 4)}," in capsys.readouterr().out


def test_too_few_held_out_is_said() -> None:
    detector = fitted("izi_f")
    assert detector.model.calibration.units["image"].n == 4
    with pytest.raises(
        ValueError, match=r"0\.01: too few held out: 4 held-out images of 4 subjects"
    ):
        detector.predict(IMAGES, alpha=0.01)
    # 1 % needs K with 1/(K + 1) ≤ .01, which is 99; 4 subjects reach 1/5.
    way_out = r"; hold out 95 more subjects, or give alpha=0\.2 or above$"
    with pytest.raises(ValueError, match=way_out):
        detector.predict(IMAGES, alpha=0.01)
    assert set(detector.predict(IMAGES, alpha=0.2)) <= {0, 1}


# --- what is kept ---------------------------------------------------------------------------------


def test_the_model_holds_no_name_of_a_subject(tmp_path: Path) -> None:
    for subject in ("Mustermann_Erika", "Mustermann_Max", "Mustermann_Kim"):
        (tmp_path / "healthy" / subject).mkdir(parents=True)
        for index, image in enumerate(stripes(4, seed=len(subject))):
            Image.fromarray(image).save(tmp_path / "healthy" / subject / f"scan_{index}.png")
    detector = fit("izi_f", tmp_path / "healthy", out=tmp_path / "run")
    model = tmp_path / "run" / "model"
    for file in model.iterdir():
        content = file.read_bytes()
        assert b"Mustermann" not in content and b"scan_" not in content
    values = json.loads((model / "model.json").read_text())
    assert values["calibration"]["units"]["image"]["groups"] == ["subject 1"] * 4
    assert detector.model.calibration.units["image"].n_subjects == 1


def test_the_model_card_says_what_it_learned_from(tmp_path: Path) -> None:
    fitted("izi_f").save(tmp_path)
    card = (tmp_path / "card.md").read_text()
    _, values = read_model_folder(tmp_path)
    for words in (
        "Research use only, not a medical device",
        "36 normal images of 36 subjects",
        "0 of them exact duplicates",
        values["fingerprint"]["sha256"],
        "whole images, seen at 16×16",
        "4 critic updates, 2 a round",
        "4 encoder updates (izi_f, tanh output)",
        "Calibration, from 4 images of 4 subjects held out",
        "- only 36 training images: the model may learn them by heart",
    ):
        assert words in card, words
    assert not [line for line in card.splitlines() if len(line) > 200]


def test_nothing_can_be_asked_before_it_has_learned(tmp_path: Path) -> None:
    detector = FAnoGAN(TINY)
    for ask in (detector.score, detector.localize, detector.reconstruct, detector.predict):
        with pytest.raises(NotFittedError, match="learned nothing yet"):
            ask(IMAGES)
    with pytest.raises(NotFittedError):
        detector.save(tmp_path / "model")
    with pytest.raises(NotFittedError):
        _ = detector.model


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["izi_f", "pca"])
def test_same_seed_same_model_and_another_another(name: str) -> None:
    expected = fitted(name)
    torch.manual_seed(123)  # what is random elsewhere has no part in it
    again = fit(name)
    assert_same_weights(again.model, expected.model)
    assert_same_scores(again.score(IMAGES), expected.score(IMAGES))
    other = new_detector(name, TINY, seed=1, device="cpu").fit(NORMALS).model
    a, b = weights(expected.model), weights(other)
    assert not any(torch.equal(a[key], b[key]) for key in a if a[key].ndim > 1)
    digests = {each.provenance["fingerprint"]["sha256"] for each in (other, expected.model)}
    assert len(digests) == 2


@pytest.mark.parametrize("precision", ["fp32", "tf32", pytest.param("bf16", marks=has_bf16)])
def test_tf32_is_for_recipes_that_ask_for_it_and_for_training_only(precision: Any) -> None:
    allowed: set[tuple[str, bool]] = set()

    def note(stage: str, step: int, steps: int, figures: Any) -> None:
        allowed.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    detector = fit("izi_f", recipe=TINY.but(precision=precision), progress=note)
    assert allowed == {("high", True) if precision == "tf32" else ("highest", False)}
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert np.isfinite(detector.score(IMAGES).total).all()


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


# --- the habits of scikit-learn, pandas and PyOD --------------------------------------------------


def test_it_says_its_recipe_and_what_it_learned_from() -> None:
    assert repr(FAnoGAN("small", base_width=16, device="cpu")) == (
        "<FAnoGAN, recipe small with base_width=16, cpu: not fitted>"
    )
    # A tenth of the 40 is held out.
    assert repr(fitted("izi_f")).endswith(", cpu: fitted on 36 images of 36 subjects>")


@pytest.mark.parametrize("name", NAMES)
def test_a_clone_has_the_settings_and_has_learned_nothing(name: str) -> None:
    copy = clone(fitted(name))
    assert copy.get_params() == fitted(name).get_params()
    with pytest.raises(NotFittedError):
        copy.score(IMAGES)


def test_settings_are_set_or_nothing_is() -> None:
    detector = FAnoGAN(TINY, seed=3, device="cpu")
    detector.model = fitted("izi_f").model
    assert detector.set_params(base_width=8, seed=4) is detector
    assert (detector.recipe.base_width, detector.seed, detector.get_params()["seed"]) == (8, 4, 4)
    assert detector.get_params()["base_width"] == 8
    assert detector.model is fitted("izi_f").model
    before = detector.get_params()
    for wrong in ({"base_widht": 4}, {"seed": 5, "devices": 3}, {"seed": 5, "base_width": "wide"}):
        with pytest.raises(ValueError):
            detector.set_params(**wrong)
        assert detector.get_params() == before


def test_the_last_step_of_a_pipeline() -> None:
    pipeline = make_pipeline(FunctionTransformer(np.flip), FAnoGAN(TINY, device="cpu"))
    with pytest.raises(NotFittedError):
        pipeline.predict(IMAGES)
    pipeline.fit(NORMALS)
    alone = FAnoGAN(TINY, device="cpu").fit(np.flip(NORMALS))
    expected = alone.decision_function(np.flip(IMAGES))
    np.testing.assert_array_equal(pipeline.decision_function(IMAGES), expected)
    assert pipeline.predict(IMAGES, alpha=0.2).shape == (len(IMAGES),)


def test_scores_as_a_data_frame() -> None:
    pytest.importorskip("pandas")
    scores = fitted("izi_f").score(IMAGES)
    frame = scores.to_frame()
    assert list(frame) == ["name", "subject", "score", "image_residual", "feature_residual"]
    assert set(frame) <= set(COLUMNS)
    assert frame["name"].tolist() == list(scores.names)
    np.testing.assert_array_equal(frame["score"], scores.total)
    np.testing.assert_array_equal(frame["feature_residual"], scores.feature)


def test_a_data_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = fitted("izi_f").score(IMAGES)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FanoganError, match="pip install pandas"):
        scores.to_frame()
