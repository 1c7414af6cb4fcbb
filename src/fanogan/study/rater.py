"""A rater that anyone can repeat: a small classifier that tells real patches from generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fanogan.data import Normals, seeded
from fanogan.models import Generator
from fanogan.scoring import Model
from fanogan.training import precision_of

BATCH = 50
LEARNT, RATED = 1000, 500
"""Images of each kind to learn from, and to be rated."""


def rate(model: Model, normals: Normals) -> dict[str, Any]:
    """Train a classifier on training normals and generated images, and let it rate others of both.

    The real images that are rated are of held-out subjects, which no network has seen.

    Args:
        model: One with a generator.
        normals: Those that it was trained on.

    Returns:
        ``accuracy`` on the images rated (0.5 is guessing), ``of_real`` and ``of_generated``, and
        ``learnt`` and ``rated``, how many of both kinds together.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    G = model.networks["G"]
    assert isinstance(G, Generator)
    training, held_out = normals.patches(flip=model.recipe.horizontal_flip, device=model.device)
    device, features = model.device, {}
    for kind, patches, count in (("learnt", training, LEARNT), ("rated", held_out, RATED)):
        random = seeded(device, model.provenance["seed"], "rater", kind)
        batches = range(count // BATCH)
        with torch.inference_mode(), precision_of("fp32"):
            real = torch.cat([patches.draw(BATCH, random) for _ in batches])
            z = [torch.randn(BATCH, G.latent, generator=random, device=device) for _ in batches]
            generated = torch.cat([G(each) for each in z])
            if model.recipe.horizontal_flip:  # as in training
                mirrored = torch.rand(count, generator=random, device=device) < 0.5
                real = torch.where(mirrored[:, None, None, None], real.flip(3), real)
            features[kind] = np.concatenate([_features(x) for x in (real, generated)])
    classifier = HistGradientBoostingClassifier(random_state=model.provenance["seed"])
    classifier.fit(features["learnt"], np.repeat([1, 0], LEARNT))
    is_real = np.repeat([1, 0], RATED)
    right = classifier.predict(features["rated"]) == is_real
    return {
        "accuracy": float(right.mean()),
        "of_real": float(right[is_real == 1].mean()),
        "of_generated": float(right[is_real == 0].mean()),
        "learnt": 2 * LEARNT,
        "rated": 2 * RATED,
    }


def _features(x: Tensor) -> np.ndarray:
    """Return images at 8×8 pixels, and statistics of grey values, edges and spectrum: (n, …)."""
    grey = x.mean(1)
    small = F.interpolate(grey[:, None], size=(8, 8), mode="bilinear", antialias=True).flatten(1)
    levels = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], device=x.device)
    quantiles = grey.flatten(1).quantile(levels, dim=1).T
    steps = [grey.diff(dim=dim).abs().flatten(1) for dim in (1, 2)]
    edges = [part for step in steps for part in (step.mean(1), step.std(1))]
    second = [grey.diff(2, dim=dim).square().flatten(1).mean(1) for dim in (1, 2)]
    power = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True)).abs().square()
    rows = torch.fft.fftfreq(grey.shape[1], device=x.device).abs()
    columns = torch.fft.rfftfreq(grey.shape[2], device=x.device)
    distance = (rows[:, None].square() + columns.square()).sqrt()
    rings = [
        (power * ((distance >= low) & (distance < low + 0.1))).mean((1, 2)).add(1e-9).log()
        for low in np.arange(0, 0.7, 0.1)
    ]
    statistics = torch.stack([grey.flatten(1).std(1), *edges, *second, *rings], dim=1)
    return torch.cat([small, quantiles, statistics], dim=1).cpu().numpy()
