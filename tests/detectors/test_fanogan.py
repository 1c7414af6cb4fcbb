"""f-AnoGAN and its variants: scores are the paper's equations, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from stripes import IMAGES, TINY, as_seen, assert_same_weights, fitted

from fanogan.detectors import FAnoGAN, untrained
from fanogan.recipes import load_recipe
from fanogan.scoring import score

# --- each equation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["izi_f", "izi-features", "ziz-features", "advae", "ali"])
def test_scores_with_features_are_equation_4(name: str) -> None:
    G, D, E = (fitted(name).model.networks[letter] for letter in "GDE")
    x = as_seen(IMAGES)
    with torch.no_grad():
        z = E(x)[:, : TINY.latent_size]  # ALI's encoder gives log σ too
        x_hat = G(z)
        image = (x - x_hat).square().mean((1, 2, 3))
        feature = (D.features(x) - D.features(x_hat)).square().mean(1)
    scores = fitted(name).score(IMAGES)
    np.testing.assert_allclose(scores.image, image, rtol=1e-4)
    np.testing.assert_allclose(scores.feature, feature, rtol=1e-4)
    np.testing.assert_allclose(scores.total, image + 0.7 * feature, rtol=1e-4)


@pytest.mark.parametrize("name", ["izi", "ziz", "ae"])
def test_scores_by_the_image_alone(name: str) -> None:
    G, E = (fitted(name).model.networks[letter] for letter in "GE")
    x = as_seen(IMAGES)
    with torch.no_grad():
        image = (x - G(E(x))).square().mean((1, 2, 3))
    scores = fitted(name).score(IMAGES)
    np.testing.assert_allclose(scores.total, image, rtol=1e-4)
    assert not scores.feature.any()


def test_features_change_the_score_and_not_the_encoder() -> None:
    for loss in ("izi", "ziz"):
        plain, featured = fitted(loss), fitted(f"{loss}-features")
        assert_same_weights(plain.model, featured.model)
        np.testing.assert_array_equal(plain.score(IMAGES).image, featured.score(IMAGES).image)


# --- it learns ------------------------------------------------------------------------------------


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
    untrained_auc = roc_auc_score(labels, score(untrained(detector.model), test).total)
    assert trained > 0.9
    assert trained - untrained_auc > 0.15
