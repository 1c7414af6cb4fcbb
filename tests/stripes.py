"""Images of stripes, and detectors that have learned them in a few updates."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fanogan.detectors import Detector, new_detector
from fanogan.recipes import load_recipe
from fanogan.scoring import Model, Scores
from fanogan.training import Run, lacking_bf16

TINY = load_recipe("smoke").but(
    critic_updates=4,
    encoder_updates=4,
    kappa=0.7,
    search_updates=5,
    search_learning_rate=0.3,
    top_window_fraction=0.2,
)


def stripes(count: int, rows: int = 16, columns: int = 16, seed: int = 0) -> np.ndarray:
    """Images of stripes that differ in phase and noise."""
    random = np.random.default_rng(seed)
    across = np.arange(columns) / 3 + random.uniform(0, 6, (count, 1, 1))
    values = 128 + 60 * np.sin(across) + random.normal(0, 15, (count, rows, columns))
    return np.clip(values, 0, 255).astype(np.uint8)


NORMALS = stripes(40)
IMAGES = stripes(11, seed=1)

_lacking = lacking_bf16(torch.device("cpu"))
has_bf16 = pytest.mark.skipif(bool(_lacking), reason=_lacking)


def fit(name: str, normals: Any = NORMALS, recipe: Any = TINY, **options: Any) -> Detector:
    """Fit a detector, with few images in the figures of its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "HEALTH_IMAGES", 16)
        patch.setattr(Run, "REESTIMATE_BATCHES", 5)
        return new_detector(name, recipe, device="cpu").fit(normals, **options)


@functools.cache
def fitted(name: str) -> Detector:
    """A detector that has learned NORMALS: the same object each time, to be left as it is."""
    return fit(name)


def as_seen(images: np.ndarray) -> torch.Tensor:
    """Grey images (N, 16, 16) as the networks see them, (N, 1, 16, 16) in [−1, 1]."""
    return torch.from_numpy(images)[:, None].float() * (2 / 255) - 1


def weights(model: Model) -> Mapping[str, torch.Tensor]:
    return {
        f"{letter}.{key}": tensor
        for letter, network in model.networks.items()
        for key, tensor in network.state_dict().items()
    }


def assert_same_weights(one: Model, other: Model) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def assert_same_scores(found: Scores, expected: Scores, rtol: float = 0) -> None:
    for name in ("total", "image", "feature"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol)
