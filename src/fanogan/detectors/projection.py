"""Images projected on their principal components: a detector, and what the others must beat."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fanogan.data import Preprocessing
from fanogan.recipes import Recipe
from fanogan.training import Run

MOST_IMAGES, MOST_VALUES = 4096, 2**24
"""So many random training images (or patches) the components are fitted to; of more than 64×64
pixels fewer, so that memory stays at some 400 MB, and twice as many as components at least."""

BESIDE = "pca"
"""Under which name models of other detectors keep their normals' projection."""


class Projection(nn.Module):
    """x → x̂ = m + (x − m) Vᵀ V, the nearest image in the span of the principal components."""

    mean: Tensor
    components: Tensor

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing):
        """Make room for the mean, (pixels,), and the components V, (count, pixels).

        As many components as the recipe's latent has dimensions, or a sixteenth of the pixels where
        that is less.
        """
        super().__init__()
        self.shape = preprocessing.image_shape
        pixels = math.prod(self.shape)
        count = max(1, min(recipe.latent_size, pixels // 16))
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(count, pixels))

    def forward(self, x: Tensor) -> Tensor:
        """Project images (B, C, rows, columns); values beyond [−1, 1] are cut off."""
        centred = x.flatten(1) - self.mean
        x_hat = centred @ self.components.T @ self.components + self.mean
        return x_hat.clamp(-1, 1).reshape(-1, *self.shape)

    @property
    def images(self) -> int:
        """How many random training images it is fitted to."""
        count, pixels = self.components.shape
        return max(2 * count, min(MOST_IMAGES, MOST_VALUES // pixels))

    def fit(self, run: Run) -> None:
        """Fit mean and components to random training images, flipped as in training."""
        from sklearn.decomposition import PCA

        random = run.random("pca")
        x = torch.cat([run.normals.draw(64, random) for _ in range(-(-self.images // 64))])
        solver = PCA(len(self.components), svd_solver="randomized", random_state=run.seed)
        with np.errstate(invalid="ignore"):  # equal images have no variance to take shares of
            solver.fit(x.flatten(1).cpu().double().numpy())
        self.mean.copy_(torch.from_numpy(solver.mean_))
        self.components.copy_(torch.from_numpy(solver.components_))
