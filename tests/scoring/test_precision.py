"""Scores in bfloat16: by held-out normals in the same, and never where the machine has none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from stripes import IMAGES, NORMALS, TINY, as_seen, assert_same_scores, fit, fitted, has_bf16

from fanogan.cli import main
from fanogan.data import Normals
from fanogan.detectors import Detector, FAnoGAN, seconds_to_fit
from fanogan.export import BadExport, use_engine
from fanogan.models import Discriminator, Encoder, Generator
from fanogan.models.layers import LayerNorm
from fanogan.recipes import BadRecipe
from fanogan.scoring import BadPrecision, Model, in_precision, results, score, score_batch


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that says it has no bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def in_bf16() -> Model:
    return in_precision(fitted("izi_f").model, "bf16")[0]


@has_bf16
def test_what_is_made_of_the_networks_is_fp32_and_close_to_it() -> None:
    model, x = in_bf16(), as_seen(IMAGES)
    with torch.inference_mode():
        terms, maps = score_batch(model, x)
        expected, _ = score_batch(fitted("izi_f").model, x)
    assert terms.dtype == maps.dtype == torch.float32
    x_hat = maps[:, 1:]
    assert_allclose(terms[:, 0], (x - x_hat).double().square().mean((1, 2, 3)), rtol=1e-5)
    assert_allclose(maps[:, 0], (x - x_hat).abs()[:, 0], atol=1e-6)
    # Eight bits of a mantissa through a few layers, and yet another number.
    assert_allclose(terms, expected, rtol=0.05)
    assert not torch.equal(terms, expected)


@has_bf16
def test_p_values_rest_on_held_out_normals_in_the_same_precision() -> None:
    held_out = Normals.read(NORMALS, TINY).held_out
    model = in_bf16()
    for each in (model, fitted("izi_f").model):
        scores = score(each, [scan.pixels[0] for scan in held_out]).total
        assert_allclose(np.sort(each.calibration.units["image"].scores), np.sort(scores), rtol=1e-5)
    other = fitted("izi_f").model.calibration
    assert model.calibration != other and model.calibration.map_scale != other.map_scale
    assert in_precision(model, "fp32")[0].calibration == other
    assert next(results(model, IMAGES[:1])).precision == "bf16"


@has_bf16
def test_both_calibrations_are_kept(tmp_path: Path) -> None:
    fitted("izi_f").save(tmp_path / "fp32")
    in_bf16().save(tmp_path / "bf16")  # the same model
    files = [(tmp_path / name / "model.json").read_bytes() for name in ("fp32", "bf16")]
    assert files[0] == files[1]
    assert "images scored in bf16: " in (tmp_path / "fp32" / "card.md").read_text()
    loaded = Detector.load(tmp_path / "fp32", device="cpu").model
    assert loaded.others == {"bf16": in_bf16().calibration}
    assert_same_scores(score(in_precision(loaded, "bf16")[0], IMAGES), score(in_bf16(), IMAGES))


@has_bf16
def test_a_run_from_a_machine_without_it_is_resumed_to_calibrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        before = fit("izi_f", out=tmp_path).model
    assert not before.others
    with pytest.raises(BadPrecision, match=r"scored in fp32 alone.*fanogan fit --resume RUN$"):
        in_precision(before, "bf16")
    same, said = in_precision(before, "auto")
    assert said.startswith("precision: fp32 (this model's held-out") and same.precision == "fp32"
    after = fit("izi_f", out=tmp_path, resume=True).model
    assert_same_scores(score(after, IMAGES), score(before, IMAGES))
    assert in_precision(after, "auto")[1] == "precision: bf16"


def test_a_machine_without_it_says_what_it_has(without_bf16: None) -> None:
    model = fitted("izi_f").model
    has = f"this processor has {torch.backends.cpu.get_cpu_capability()}, and neither AVX512-BF16"
    with pytest.raises(BadPrecision, match=f"--precision bf16: {has} nor AMX; score in fp32"):
        in_precision(model, "bf16")
    assert in_precision(model, "auto")[1].startswith(f"precision: fp32 ({has}")
    half = FAnoGAN(TINY.but(precision="bf16"), device="cpu")
    for learn in (half.fit, lambda normals: seconds_to_fit(half, Normals.read(normals, TINY))):
        with pytest.raises(BadRecipe, match=f"precision is bf16, but {has} nor AMX; give prec"):
            learn(NORMALS)


@has_bf16
def test_a_recipe_in_bf16_trains_on_a_processor_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, pixels in enumerate(NORMALS):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    recipe = tmp_path / "half.yaml"
    recipe.write_text("base: smoke\nprecision: bf16\n")
    main(["fit", f"{tmp_path}/*.png", "--recipe", str(recipe), "--dry-run"])
    assert "on this machine, in bf16" in capsys.readouterr().out
    plain = fitted("izi_f").model
    half = fit("izi_f", recipe=TINY.but(precision="bf16")).model
    for letter in "GDE":
        network = half.networks[letter]
        pairs = list(zip(network.parameters(), plain.networks[letter].parameters(), strict=True))
        assert all(one.dtype == torch.float32 for one, _ in pairs)
        assert all(torch.allclose(one, other, atol=0.02) for one, other in pairs)
        assert not all(torch.equal(one, other) for one, other in pairs)


@has_bf16
def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(BadPrecision, match="--precision fp16: give one of fp32, bf16, auto"):
        in_precision(fitted("izi_f").model, "fp16")
    with pytest.raises(BadPrecision, match="iterative computes its score step by step, in fp32"):
        in_precision(fitted("iterative").model, "bf16")
    assert not fitted("iterative").model.others
    with pytest.raises(BadPrecision, match="the engine openvino is made for one precision"):
        in_precision(in_bf16().but(engine="openvino"), "fp32")
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    with pytest.raises(BadExport, match="ONNX Runtime computes on CPUs in fp32, not in bf16"):
        use_engine(in_bf16(), "onnxruntime")


@has_bf16
def test_openvino_computes_in_the_precision_of_the_model() -> None:
    """Where the processor has bfloat16, OpenVINO takes it unless it is told otherwise."""
    pytest.importorskip("openvino", reason="the extra 'export' isn't installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    x = as_seen(IMAGES)
    plain = fitted("izi_f").model
    found = {}
    with torch.inference_mode():
        for model in (plain, in_bf16()):
            terms, maps = score_batch(use_engine(model, "openvino")[0], x)
            x_hat = maps[:, 1:]
            assert_allclose(terms[:, 0], (x - x_hat).square().mean((1, 2, 3)), rtol=1e-4)
            found[model.precision] = terms
        expected, _ = score_batch(plain, x)
    assert_allclose(found["fp32"], expected, rtol=1e-4)
    assert (found["bf16"] / expected - 1).abs().max() > 1e-4
    assert_allclose(found["bf16"], expected, rtol=0.05)


@has_bf16
@pytest.mark.slow
def test_the_fastest_engine_in_bf16_is_one_that_has_it() -> None:
    pytest.importorskip("openvino", reason="the extra 'export' isn't installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' isn't installed")
    faster, said = use_engine(in_bf16(), "auto")
    assert faster.precision == "bf16"
    assert "torch " in said and "openvino " in said and "onnxruntime" not in said


@has_bf16
def test_the_command_says_the_precision_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted("izi_f").save(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02}.png")
    out = tmp_path / "out"
    words = ["score", str(tmp_path / "model"), str(tmp_path / "images"), "--out", str(out)]
    rows = {}
    for precision in ("fp32", "auto"):
        main([*words, "--precision", precision])
        with (out / "scores.csv").open(newline="") as file:
            rows[precision] = list(csv.DictReader(file))
    assert {row["precision"] for row in rows["fp32"]} == {"fp32"}
    assert {row["precision"] for row in rows["auto"]} == {"bf16"}
    assert capsys.readouterr().out.count("precision: bf16") == 1
    assert "bf16" in (out / "report.html").read_text()
    with pytest.raises(SystemExit):
        main([*words, "--precision", "half"])
    assert "--precision half: give one of fp32, bf16, auto" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [4, 32, 64])
def test_the_layer_norm_in_bf16_is_that_in_fp32(channels: int) -> None:
    x = torch.randn(3, channels, 6, 5).to(memory_format=torch.channels_last).bfloat16()
    norm = LayerNorm(1, channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    with torch.no_grad():
        found = norm(x)
    assert found.dtype == torch.bfloat16
    assert_allclose(found.float(), norm(x.float()).detach(), rtol=2**-8, atol=2**-8)


def test_what_leaves_a_network_is_fp32() -> None:
    x, z = torch.randn(2, 1, 16, 16), torch.randn(2, 8)
    G, D = Generator((16, 16), 1, 4, 8), Discriminator((16, 16), 1, 4)
    E = Encoder((16, 16), 1, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = G(z), D(x), D.features(x), E(x)
    assert all(each.dtype == torch.float32 for each in found)
