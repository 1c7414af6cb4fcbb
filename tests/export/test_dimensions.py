"""The exported graph with one, two and three sides: equal to PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fanogan import FAnoGAN, load_recipe
from fanogan.export import ExportedModel, export
from fanogan.scoring import totals_of

SIDES = {"signal": (1, 128), "smoke": (16, 16), "volume": (16, 16, 16)}


@pytest.mark.parametrize("name", SIDES)
def test_onnx_equals_pytorch(name: str, tmp_path: Path) -> None:
    """Of windows that are larger than what the networks see, and so resampled."""
    sides = SIDES[name]
    window = tuple(side + 6 if side > 1 else 1 for side in sides)
    recipe = load_recipe(name).but(
        **{"window": window, "image_size": sides, "base_width": 4, "latent_size": 8},
        **{"batch_size": 8, "critic_updates": 4, "encoder_updates": 4, "held_out_fraction": 0.5},
        reestimate_batch_norm=False,
    )
    random = np.random.default_rng(0)
    shape = window[1:] if name == "signal" else window
    normals = random.integers(0, 256, (8, *(side + 4 for side in shape)), np.uint8)
    model = FAnoGAN(recipe, device="cpu").fit(normals).model
    export(model, "onnx", tmp_path / "model.onnx")

    seen = model.preprocessing
    dtype = np.uint8 if seen.levels == 255 else np.int32
    stored = random.integers(0, seen.levels, (5, 1, *window), dtype)
    found = ExportedModel(tmp_path / "model.onnx")(stored)
    with torch.inference_mode():
        x = seen.normalise(torch.from_numpy(stored))
        terms, maps = model.score(seen.resize(x))
        maps = seen.resize_back(maps, window).numpy()
    assert_allclose(found["terms"], terms, rtol=1e-5)
    assert_allclose(found["total"], totals_of(model, terms.double().numpy()), rtol=1e-5)
    assert_allclose(found["map"], maps[:, 0], rtol=0, atol=1e-5)
    assert_allclose(found["reconstruction"], maps[:, 1:], rtol=0, atol=1e-5)
