"""PCA: the residual of the projection on principal components, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from stripes import assert_same_scores, assert_same_weights

from fanogan.data import Normals, seeded
from fanogan.detectors import Detector, PrincipalComponents, untrained
from fanogan.detectors.projection import Projection
from fanogan.export import ExportedModel, export
from fanogan.recipes import load_recipe
from fanogan.scoring import score

DIGITS = load_digits()
PIXELS = (DIGITS.images * 255 / 16).round().astype(np.uint8).repeat(2, 1).repeat(2, 2)
FOURS, OTHERS = PIXELS[DIGITS.target == 4], PIXELS[DIGITS.target != 4]
TEST = np.concatenate([FOURS[120:], OTHERS[:90]])
LABELS = np.repeat([0, 1], [len(FOURS) - 120, 90])
RECIPE = load_recipe("smoke").but(horizontal_flip=False)


@pytest.fixture(scope="module")
def detector() -> PrincipalComponents:
    return PrincipalComponents(RECIPE, device="cpu").fit(FOURS[:120])


def components_of(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    projection = detector.model.networks["P"]
    assert isinstance(projection, Projection)
    return projection.mean.double().numpy(), projection.components.double().numpy()


def test_the_score_is_the_residual_of_the_projection(detector: PrincipalComponents) -> None:
    mean, V = components_of(detector)
    assert V.shape == (16, 256)
    np.testing.assert_allclose(V @ V.T, np.eye(16), atol=1e-5)
    x = TEST.reshape(len(TEST), -1) * (2 / 255) - 1
    x_hat = np.clip(mean + (x - mean) @ V.T @ V, -1, 1)
    scores = detector.score(TEST)
    np.testing.assert_allclose(scores.image, ((x - x_hat) ** 2).mean(1), rtol=1e-4)
    np.testing.assert_array_equal(scores.total, scores.image)
    assert not scores.feature.any()
    found = np.stack(detector.reconstruct(TEST)).reshape(len(TEST), -1)
    np.testing.assert_allclose(found, x_hat, atol=1e-5)
    assert np.abs(x_hat).max() == 1  # some were beyond, and cut off


def test_the_components_are_those_of_the_training_images(detector: PrincipalComponents) -> None:
    mean, V = components_of(detector)
    training, _ = Normals.read(FOURS[:120], RECIPE).patches(flip=False, device=torch.device("cpu"))
    random = seeded(torch.device("cpu"), 0, "pca")
    x = torch.cat([training.draw(64, random) for _ in range(64)]).flatten(1).double().numpy()
    exact = PCA(16, svd_solver="full").fit(x)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-6)
    kept = ((x - mean) @ V.T).var(0).sum()
    assert kept == pytest.approx(exact.explained_variance_.sum(), rel=1e-3)
    # The first are well apart, and so the same to their sign.
    overlap = np.abs((V[:3] * exact.components_[:3]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)


@pytest.mark.parametrize(
    ("latent", "side", "count", "fitted_to"),
    [
        (16, 16, 16, 4096),
        (128, 16, 16, 4096),
        (16, 64, 16, 4096),
        (500, 64, 256, 4096),
        (16, 256, 16, 256),
        (500, 256, 500, 1000),
    ],
)
def test_as_many_components_as_latent_dimensions_or_a_sixteenth_of_the_pixels(
    latent: int, side: int, count: int, fitted_to: int
) -> None:
    recipe = RECIPE.but(latent_size=latent)
    images = np.zeros((3, side, side), np.uint8)
    images[:, 0, 0] = 9
    seen = Normals.read(images, recipe.but(window=(side, side), image_size=(side, side)))
    (projection,) = PrincipalComponents(recipe).networks(seen.preprocessing).values()
    assert projection.components.shape == (count, side * side)
    assert projection.images == fitted_to


def test_the_same_seed_gives_the_same_components_bit_by_bit(detector: PrincipalComponents) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    again = PrincipalComponents(RECIPE, device="cpu").fit(FOURS[:120])
    assert_same_weights(again.model, detector.model)
    other = PrincipalComponents(RECIPE, seed=1, device="cpu").fit(FOURS[:120])
    assert not np.allclose(components_of(other)[1], components_of(detector)[1])


def test_a_kept_model_scores_the_same(detector: PrincipalComponents, tmp_path: Path) -> None:
    detector.save(tmp_path)
    assert_same_scores(Detector.load(tmp_path, device="cpu").score(TEST), detector.score(TEST))


def test_it_beats_its_untrained_self(detector: PrincipalComponents) -> None:
    trained, fresh = (
        roc_auc_score(LABELS, score(model, TEST).total)
        for model in (detector.model, untrained(detector.model))
    )
    assert trained > 0.95
    assert trained > fresh + 0.1


def test_the_exported_graph_is_equal(detector: PrincipalComponents, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert export(detector.model, "onnx", tmp_path / "pca.onnx") < 1e-5
    found = ExportedModel(tmp_path / "pca.onnx")(TEST[:, None])
    np.testing.assert_allclose(found["total"], detector.score(TEST).total, rtol=1e-5)
    np.testing.assert_allclose(found["map"], np.stack(detector.localize(TEST)), atol=1e-5)
