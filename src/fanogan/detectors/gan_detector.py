"""What detectors on a Wasserstein GAN share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors.detector import Detector
from fanogan.models import Discriminator, Generator
from fanogan.training import GAN, Run, gan_cost, train_gan


class GanDetector(Detector):
    """A detector built on a Wasserstein GAN of normals, which it trains unless one is given."""

    has_generator = True
    builds_on_gan = True

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G and D."""
        size = (preprocessing.image_size, preprocessing.channels, self.recipe.base_width)
        return {"G": Generator(*size, self.recipe.latent_size), "D": Discriminator(*size)}

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return the rounds of the GAN."""
        return {GAN: self.recipe.rounds}

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train G and D, unless they were given."""
        G, D = networks["G"], networks["D"]
        assert isinstance(G, Generator) and isinstance(D, Discriminator)
        return train_gan(G, D, run) if GAN in run.steps else []

    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of the GAN."""
        return gan_cost(self.recipe, preprocessing.image_shape)
