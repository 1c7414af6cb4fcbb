"""A_D: the critic's value alone as an anomaly score (Eqs. 6, 7)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fanogan.detectors.gan_detector import GanDetector
from fanogan.detectors.registry import register
from fanogan.training import Run

MEAN_IMAGES = 32_000
"""Training images that the critic's mean is taken over (section 3)."""

BATCH = 64


class CriticScore(nn.Module):
    """Eq. 6 as the feature term; nothing is reconstructed."""

    def __init__(self, D: nn.Module, mean: float):
        """Take the critic, and its mean over training images."""
        super().__init__()
        self.D, self.mean = D, mean

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score images, as ``ReconstructionScore`` does; D sees all, also outside ``inside``."""
        value = self.D(x)
        terms = torch.stack([torch.zeros_like(value), self.mean - value], 1)
        return terms, torch.cat([torch.zeros_like(x[:, :1]), x], 1)


@register("critic")
class Critic(GanDetector):
    """``critic``: how far D(x) lies below its mean over training images, A_D = m̂ − D(x) (Eq. 6).

    A Wasserstein critic has no zero, so m̂ = E[D(x_t)] over 32,000 random training images (Eq. 7);
    where there are fewer whole images, over all of them. It is kept with the model. Nothing is
    reconstructed: A_R = 0, the map is zero, and x̂ is x itself. A_D is signed; as a difference of
    two critic values its rounding errors are those of D(x). Untrained networks have m̂ = 0, which
    moves all scores alike. The paper leaves nothing else open.
    """

    averages_pixels = False

    @torch.no_grad()
    def constants(self, networks: Mapping[str, nn.Module], run: Run) -> dict[str, float]:
        """Return m̂."""
        batches = run.normals.all_images(BATCH, at_most=MEAN_IMAGES)
        if batches is None:
            random = run.random("critic mean")
            batches = (run.normals.draw(BATCH, random) for _ in range(MEAN_IMAGES // BATCH))
        values = torch.cat([networks["D"](x) for x in batches])
        return {"critic_mean": float(values.cpu().double().mean())}

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> CriticScore:
        """Return Eq. 6."""
        return CriticScore(networks["D"], constants.get("critic_mean", 0.0))
