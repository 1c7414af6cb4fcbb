"""PCA: the residual of a principal-component reconstruction, which a learned detector must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fanogan.data import Preprocessing
from fanogan.detectors.detector import Detector
from fanogan.detectors.registry import register
from fanogan.models import ReconstructionScore
from fanogan.training import Run

IMAGES = 4096
"""Random training images (or patches) that the components are fitted to."""


class Projection(nn.Module):
    """x → x̂ = m + (x − m) Vᵀ V, the nearest image in the span of the principal components."""

    mean: Tensor
    components: Tensor

    def __init__(self, shape: tuple[int, ...], count: int):
        """Make room for the mean, (pixels,), and the components V, (count, pixels)."""
        super().__init__()
        self.shape = shape
        pixels = math.prod(shape)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(count, pixels))

    def forward(self, x: Tensor) -> Tensor:
        """Project images (B, C, rows, columns); values beyond [−1, 1] are cut off."""
        centred = x.flatten(1) - self.mean
        x_hat = centred @ self.components.T @ self.components + self.mean
        return x_hat.clamp(-1, 1).reshape(-1, *self.shape)


@register("pca")
class PrincipalComponents(Detector):
    """``pca``: scored by the image residual (A_R) of the nearest image that the components span.

    Not the paper's. As many components as the recipe's latent has dimensions, or a sixteenth of the
    pixels where that is less, fitted by scikit-learn to random training patches, flipped as in
    training. It learns within seconds: a detector that stays behind it has learned nothing there
    that linear algebra doesn't know.
    """

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make an empty projection."""
        shape = preprocessing.image_shape
        return {"P": Projection(shape, self._count(preprocessing))}

    def _count(self, preprocessing: Preprocessing) -> int:
        return max(1, min(self.recipe.latent_size, math.prod(preprocessing.image_shape) // 16))

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return nothing: there is no loop."""
        return {}

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Fit mean and components to random training images."""
        from sklearn.decomposition import PCA

        projection = networks["P"]
        assert isinstance(projection, Projection)
        random = run.random("pca")
        x = torch.cat([run.normals.draw(64, random) for _ in range(IMAGES // 64)])
        count = len(projection.components)
        pca = PCA(count, svd_solver="randomized", random_state=run.seed)
        pca.fit(x.flatten(1).cpu().double().numpy())
        projection.mean.copy_(torch.from_numpy(pca.mean_))
        projection.components.copy_(torch.from_numpy(pca.components_))
        return []

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ the projection, and no feature term."""
        return ReconstructionScore(networks["P"])

    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of one product of all images with all components."""
        pixels = math.prod(preprocessing.image_shape)
        return IMAGES * pixels * self._count(preprocessing)
