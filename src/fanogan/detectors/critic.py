"""A_D: the critic's value alone as an anomaly score (Eqs. 6, 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fanogan.data import Normals, Patches, seeded
from fanogan.detectors.detector import precision_of
from fanogan.detectors.gan import GanDetector
from fanogan.models import Discriminator, Generator

CRITIC_IMAGES = 32_000  # over which the mean is taken (section 3)
BATCH = 64


class Critic(GanDetector):
    """``critic``: how far D(x) lies below its mean over training images, A_D = m̂ − D(x) (Eq. 6).

    A Wasserstein critic has no zero, so m̂ = E[D(x_t)] over 32,000 random training images (Eq. 7);
    where there are fewer whole images, over all of them. It is kept with the model. Nothing is
    reconstructed: A_R = 0, the map is zero, x̂ is x itself, and D sees x as it is, with all that
    lies outside of ``inside`` too. A_D is signed; as a difference of two critic values its rounding
    errors are those of D(x), not of itself. Untrained networks have m̂ = 0, which moves all scores
    alike. The paper leaves nothing else open.
    """

    name = "critic"
    networks: tuple[Generator, Discriminator]

    @torch.no_grad()
    def _finish(self, normals: Normals, training: Patches) -> None:
        D, images = self.networks[1], normals.training
        if self.preprocessing.window is None and len(images) <= CRITIC_IMAGES:
            batches = (
                self.preprocessing.see(self._to_device(np.stack(images[start : start + BATCH])))
                for start in range(0, len(images), BATCH)
            )
        else:
            random = seeded(self.device, self.seed, "critic mean")
            batches = (training.draw(BATCH, random) for _ in range(CRITIC_IMAGES // BATCH))
        with precision_of("fp32"):
            values = torch.cat([D(x) for x in batches])
        self.facts["critic_mean"] = float(values.cpu().double().mean())

    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eq. 6 as the feature term; nothing is reconstructed."""
        value = self.networks[1](x)
        deviation = self.facts.get("critic_mean", 0.0) - value
        terms = torch.stack([torch.zeros_like(value), deviation], 1)
        return terms, torch.cat([torch.zeros_like(x[:, :1]), x], 1)
