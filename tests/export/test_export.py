"""The exported graph: equal to the detector, whatever runs it, through a file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from fanogan.calibration import Calibration, HeldOut
from fanogan.cli import main
from fanogan.cli.demo import flat_phantom
from fanogan.data import Preprocessing
from fanogan.detectors import Detector, FAnoGAN, detector_names, new_detector
from fanogan.export import BadExport, ExportedModel, export, use_engine
from fanogan.export.graph import Deployed, Resample
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import FlatVolume
from fanogan.scans import Scan
from fanogan.scoring import HALF, Model, results, score, score_batch, totals_of

TINY = load_recipe("smoke").but(
    critic_updates=4,
    encoder_updates=4,
    search_updates=2,
    kappa=0.7,
    held_out_fraction=0.5,
    reestimate_batch_norm=False,
)
EXPORTABLE = [name for name in detector_names() if name != "iterative"]
ON_A_GAN = ("izi", "ziz", "izi-features", "ziz-features", "critic")
OUTPUTS = ("terms", "total", "map", "reconstruction")


def digits(target: int, count: int) -> np.ndarray:
    found = load_digits()
    pixels = np.round(found.images[found.target == target][:count] * (255 / 16)).astype(np.uint8)
    return pixels.repeat(2, 1).repeat(2, 2)


FOURS = digits(4, 60)
OTHERS = np.concatenate([digits(4, 80)[60:], digits(7, 40), 255 - digits(7, 10)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    FAnoGAN(TINY, device="cpu").fit(FOURS).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return FAnoGAN.load(folder, device="cpu").model


@pytest.fixture(scope="module")
def retinal() -> Model:
    """Windows of 64×48 seen at 16×16, scored within the retina, in units of the normals' spread."""
    recipe = TINY.but(
        window=(64, 48), geometry="retina", score_retina_only=True, standardise_terms=True
    )
    shape, spacing = (3, 240, 96), (0.24, 0.00387, 0.022)
    eyes = [flat_phantom(make_phantom(seed, shape=shape, spacing=spacing)) for seed in range(2)]
    return FAnoGAN(recipe, device="cpu").fit(eyes).model


def phantom_patches(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (count, 1, 64, 48) of an ill eye, and the retina in them."""
    made = make_phantom(9, shape=(3, 240, 96), spacing=(0.24, 0.00387, 0.022), diseased=True)
    flat = flat_phantom(made)
    random = np.random.default_rng(0)
    corners = [(b, r, c) for b in range(3) for r in range(0, 64, 8) for c in range(0, 48, 6)]
    chosen = random.permutation(len(corners))[:count]
    cut = [
        (slice(b, b + 1), slice(r, r + 64), slice(c, c + 48))
        for b, r, c in np.array(corners)[chosen]
    ]
    both = (np.stack([volume[one] for one in cut]) for volume in (flat.pixels, flat.tissue))
    pixels, retina = both
    return pixels, retina


def by_model(
    model: Model, stored: np.ndarray, retina: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the model itself makes of windows, with PyTorch."""
    seen = model.preprocessing
    with torch.inference_mode():
        x = seen.normalise(torch.from_numpy(stored))
        mask = None if retina is None else torch.from_numpy(retina).float()
        inside = None if mask is None else seen.resize(mask) > HALF
        terms, maps = score_batch(model, seen.resize(x), inside)
        maps = seen.resize_back(maps, x.shape[-2:]).numpy()
    total = totals_of(model, terms.double().numpy())
    return dict(zip(OUTPUTS, (terms.numpy(), total, maps[:, 0], maps[:, 1:]), strict=True))


def trained(name: str, folder: Path) -> Detector:
    """A detector by its name, on the GAN of a model where it can be."""
    gan = folder if name in ON_A_GAN else None
    return new_detector(name, TINY, device="cpu").fit(FOURS, gan=gan)


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], within: float) -> None:
    for name in OUTPUTS:
        assert found[name].shape == expected[name].shape
        assert_allclose(found[name], expected[name], rtol=within, atol=within, err_msg=name)


# --- what it is made of ---------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(64, 64), (48, 64), (17, 31)])
@pytest.mark.parametrize("after", [(32, 32), (16, 20), (80, 64)])
def test_resampling_is_two_matrices(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = 2 * torch.rand(3, 2, *before) - 1
    expected = F.interpolate(x, size=after, mode="bilinear", antialias=True)
    assert_allclose(Resample(before, after)(x), expected, rtol=0, atol=2e-6)
    assert_allclose(Resample(before, after).rows.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_the_module_equals_the_detector(name: str, folder: Path) -> None:
    detector = trained(name, folder)
    deployed, stored = Deployed(detector.model), OTHERS[:5, None]
    with torch.inference_mode():
        found = dict(zip(deployed.outputs, deployed(torch.from_numpy(stored)), strict=True))
    equal({name: found[name].numpy() for name in OUTPUTS}, by_model(detector.model, stored), 1e-5)
    scores = detector.score(OTHERS[:5])
    assert_allclose(found["total"], scores.total, rtol=1e-5, atol=1e-5)
    assert_allclose(found["map"], detector.localize(OTHERS[:5]), rtol=1e-5, atol=1e-5)


def test_the_threshold_is_that_of_what_a_window_is(model: Model, retinal: Model) -> None:
    images, patches = model.calibration.units["image"], retinal.calibration.units["patch"]
    assert Deployed(model).threshold == images.threshold(0.05) is not None
    assert Deployed(retinal).threshold is None  # of the patches of one subject
    groups = tuple(f"subject {at % 20}" for at in range(patches.n))
    patches = HeldOut(patches.scores, groups)
    many = retinal.but(calibration=Calibration({"patch": patches}, 1.0))
    assert Deployed(many).threshold == patches.threshold(0.05) is not None
    larger = model.but(preprocessing=Preprocessing("uint8", 0, 255, 1, (16, 16), (16, 16)))
    fewer = model.but(calibration=Calibration({}, 1.0))
    assert Deployed(larger).threshold is None and Deployed(fewer).threshold is None
    assert Deployed(fewer).outputs == OUTPUTS


def test_the_flag_is_that_of_the_calibration(model: Model) -> None:
    totals = score(model, OTHERS).total
    held_out = HeldOut(totals[:40], tuple(map(str, range(40))))
    some = model.but(calibration=Calibration({"image": held_out}, 1.0))
    with torch.inference_mode():
        *_, flag = Deployed(some)(torch.from_numpy(OTHERS[:, None]))
    # The held-out score that is the threshold itself may fall on either side by rounding.
    apart = np.abs(totals - held_out.threshold(0.05)) > 1e-6
    expected = np.array(held_out.flags(totals, 0.05))
    assert (flag.numpy() == expected)[apart].all() and 0 < expected.sum() < len(expected)


# --- through a file -------------------------------------------------------------------------------


def exported(model: Model, to: str, folder: Path) -> ExportedModel:
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    out = folder / f"model{'.onnx' if to == 'onnx' else '.xml'}"
    assert export(model, to, out) <= 1e-4
    return ExportedModel(out)


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the command writes, and what it says."""
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    out = tmp_path_factory.mktemp("onnx") / "new" / "model.onnx"
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        main(["export", str(folder), "--to", "onnx", "--out", str(out)])
    return out, shown.getvalue()


@pytest.fixture(scope="module")
def file(written: tuple[Path, str]) -> ExportedModel:
    return ExportedModel(written[0])


def test_the_command_writes_one_file(written: tuple[Path, str]) -> None:
    out, shown = written
    said = rf"{out}: equal to PyTorch within \S+ when read back\n"
    assert re.fullmatch(rf"{said}Research use only, not a medical device.\n", shown)
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]


def test_onnx_of_digits(model: Model, file: ExportedModel) -> None:
    stored = OTHERS[:64, None]
    held_out = model.calibration.units["image"]
    for count in (1, 3, 64):
        found = file(stored[:count])
        equal(found, by_model(model, stored[:count]), 1e-4)
        assert found["flag"].tolist() == held_out.flags(found["total"], 0.05)


def test_openvino_of_phantom_patches(retinal: Model, tmp_path: Path) -> None:
    file = exported(retinal, "openvino", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    stored, retina = phantom_patches(64)
    for count in (1, 3, 64):
        found = file(stored[:count], retina[:count])
        equal(found, by_model(retinal, stored[:count], retina[:count]), 1e-4)
    assert not found["map"][~retina[:, 0]].all() and found["map"].max() > 0.1
    assert file.about["preprocessing"]["retina"]["score_retina_only"] is True
    with pytest.raises(BadExport, match=r"^give stored and retina, not stored$"):
        file(stored)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("name", EXPORTABLE)
def test_every_detector_through_either_file(
    name: str, to: str, folder: Path, tmp_path: Path
) -> None:
    model, stored = trained(name, folder).model, OTHERS[:64, None]
    equal(exported(model, to, tmp_path)(stored), by_model(model, stored), 1e-4)


@pytest.mark.slow
def test_sixteen_bits_and_colour(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(500, 30_000, (24, 16, 16, 3)).astype(np.uint16)
    model = FAnoGAN(TINY, device="cpu").fit(images).model
    file = exported(model, "onnx", tmp_path)
    assert file.about["inputs"]["stored"] == {"dtype": "int32", "shape": ["batch", 3, 16, 16]}
    scan = Scan(images[:5], "five", "five", is_volume=True)
    stored = model.preprocessing.encode(scan)
    found = file(stored.astype(np.int32))
    assert_allclose(found["total"], score(model, images[:5]).total, rtol=1e-4)


def test_what_the_file_says_of_itself(model: Model, file: ExportedModel) -> None:
    about = file.about
    assert about["format"] == 1 and about["detector"] == "izi_f"
    assert about["research_use"] == "Research use only, not a medical device."
    assert about["inputs"] == {"stored": {"dtype": "uint8", "shape": ["batch", 1, 16, 16]}}
    assert about["outputs"] == ["terms", "total", "map", "reconstruction", "flag"]
    assert (about["window"], about["sides"], about["kappa"]) == ([16, 16], [16, 16], 0.7)
    assert Preprocessing.from_dict(about["preprocessing"]) == model.preprocessing
    assert Calibration.from_dict(about["calibration"]) == model.calibration
    assert about["threshold"] == model.calibration.units["image"].threshold(0.05)
    assert about["recipe"] == json.loads(json.dumps(model.recipe.to_dict()))


# --- what is refused ------------------------------------------------------------------------------


def test_inputs_that_the_graph_does_not_take(file: ExportedModel) -> None:
    good = OTHERS[:2, None]
    for bad, said in (
        (good[:, 0], r"stored is 2×16×16 uint8, the model takes batch×1×16×16 uint8"),
        (good.astype(np.float32), r"stored is 2×1×16×16 float32, the model takes"),
        (good[:0], r"stored is 0×1×16×16 uint8"),
    ):
        with pytest.raises(BadExport, match=said):
            file(bad)
    with pytest.raises(BadExport, match="give stored, not stored and retina"):
        file(good, good > 0)


def test_files_that_are_none(file: ExportedModel, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match=r"a\.onnx: no such file; write one with fanogan export"):
        ExportedModel(tmp_path / "a.onnx")
    with pytest.raises(BadExport, match=r"a\.pt: give a file \.onnx or \.xml"):
        ExportedModel(tmp_path / "a.pt")
    for name, text in (("a.onnx", b"\x08\x09\x12"), ("a.xml", b"<?xml version='1.0'?><net/>")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(BadExport, match=f"{name}: not a whole file of fanogan export"):
            ExportedModel(tmp_path / name)


def test_models_that_have_no_graph(model: Model, folder: Path, tmp_path: Path) -> None:
    iterative = new_detector("iterative", TINY, device="cpu").fit(FOURS, gan=folder)
    gan = model.networks["G"], model.networks["D"]
    own = new_detector("izi_f", TINY, device="cpu").fit(FOURS, gan=gan)
    for refused, said in (
        (iterative.model, "the detector iterative computes its score step by step"),
        (own.model, "this model was trained on a GAN of your own"),
    ):
        with pytest.raises(BadExport, match=said):
            export(refused, "onnx", tmp_path / "a.onnx")
        with pytest.raises(BadExport, match=said):
            use_engine(refused, "onnxruntime")
        same, told = use_engine(refused, "auto")
        assert told.startswith(f"engine: torch ({said}")
        assert same is refused and same.engine == "torch"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "--to", "onnx", "--out", "a.xml"), "a.xml: give a file whose name ends with"),
        (("export", "--to", "tf", "--out", "a.tf"), "--to tf: give one of onnx, openvino"),
        (("score", "images", "--engine", "fast"), "--engine fast: give one of auto, torch, onnx"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([words[0], str(folder), *words[1:]])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"fanogan: {said}")


# --- in the place of PyTorch ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_scores_the_same(
    engine: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(engine, reason="the extra 'export' isn't installed")
    images = tmp_path / "images"
    images.mkdir()
    for index, pixels in enumerate(OTHERS):
        Image.fromarray(pixels).save(images / f"{index:02}.png")
    tables = []
    for name in ("torch", engine):
        out = tmp_path / name
        main(["score", str(folder), str(images), "--out", str(out), "--engine", name])
        with (out / "scores.csv").open(newline="") as opened:
            tables.append(list(csv.DictReader(opened)))
    assert f"engine: {engine}" in capsys.readouterr().out
    plain, other = tables
    assert [row["name"] for row in plain] == [row["name"] for row in other]
    for column in ("score", "image_residual", "feature_residual"):
        values = [[float(row[column]) for row in table] for table in tables]
        assert_allclose(*values, rtol=1e-4)
        assert (np.argsort(values[0]) == np.argsort(values[1])).all()
    assert [row["flag"] for row in plain] == [row["flag"] for row in other]


@pytest.mark.slow
def test_volumes_score_the_same_with_the_fastest_engine(retinal: Model) -> None:
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    eye = flat_phantom(make_phantom(5, shape=(3, 240, 96), spacing=(0.24, 0.00387, 0.022)))
    expected = score(retinal, [eye])
    faster, said = use_engine(retinal, "auto")
    assert all(f"{name} " in said for name in ("torch", "onnxruntime", "openvino"))
    assert_allclose(score(faster, [eye]).total, expected.total, rtol=1e-4)
    assert retinal.engine == "torch"


@pytest.mark.parametrize("name", ["critic", "izi_f"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_score_a_window_on_what_is_known_of_it(name: str, engine: str) -> None:
    pytest.importorskip(engine, reason="the extra 'export' isn't installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    shape, spacing = (2, 240, 96), (0.24, 0.00387, 0.022)
    eyes = [flat_phantom(make_phantom(seed, shape=shape, spacing=spacing)) for seed in range(2)]
    recipe = TINY.but(window=(64, 48), geometry="retina")
    model = new_detector(name, recipe, device="cpu").fit(eyes).model
    cut = dataclasses.replace(eyes[0], recorded=eyes[0].recorded.copy())
    cut.recorded[:, :, :15] = False

    def means(model: Model, eye: FlatVolume) -> list[float]:  # over all windows
        return [result.mean for result in results(model, [eye])]

    other, _ = use_engine(model, engine)
    assert_allclose(means(other, cut), means(model, cut), rtol=1e-4)
    assert means(model, cut) != means(model, eyes[0])


def test_training_anew_puts_the_engine_aside() -> None:
    detector = FAnoGAN(TINY, device="cpu").fit(FOURS)
    detector.model = detector.model.but(engine="onnxruntime")
    assert detector.fit(FOURS).model.engine == "torch"


@pytest.mark.parametrize(("to", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml")])
def test_only_what_export_wrote_is_written_over(model: Model, tmp_path: Path, to: str, name: str):
    out = tmp_path / name
    own = out.with_suffix(".bin") if to == "openvino" else out
    own.write_bytes(b"my own")
    with pytest.raises(BadExport, match="is there already, and no export wrote it"):
        export(model, to, out)
    assert own.read_bytes() == b"my own"
    own.unlink()
    export(model, to, out)
    export(model.but(recipe=model.recipe.but(kappa=0.3)), to, out)
    assert ExportedModel(out).about["kappa"] == 0.3
