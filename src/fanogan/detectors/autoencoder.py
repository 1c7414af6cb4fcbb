"""AE: encoder and generator trained together, with no GAN before them (section 3.1, 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors.joint import JointDetector
from fanogan.detectors.registry import register
from fanogan.models import Encoder, Generator, ReconstructionScore, image_residual
from fanogan.training import (
    ReconstructionHealth,
    Run,
    Stage,
    backward,
    descend,
    finish_autoencoder,
    multiply_adds,
)


@register("ae")
class Autoencoder(JointDetector):
    """``ae``: E and G trained together on the image residual (Eq. 2), and scored by it.

    As like f-AnoGAN as it can be, as in the paper: E and G are its networks. The paper leaves open
    the optimiser, the length and E's output. Here: Adam at the recipe's ``gan_learning_rate`` with
    β (.9, .999), as many updates as cost one GAN and one encoder, and the recipe's
    ``encoder_output``.
    """

    stage = "ae"

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G and E."""
        seen, recipe = preprocessing, self.recipe
        size = (seen.image_size, seen.channels, recipe.base_width, recipe.latent_size)
        return {"G": Generator(*size), "E": Encoder(*size, recipe.encoder_output)}

    def step_cost(self, preprocessing: Preprocessing) -> int:
        """Count one update."""
        with torch.device("meta"):
            G, E = self.networks(preprocessing).values()
            x = torch.empty(1, *preprocessing.image_shape)
        return multiply_adds(lambda: backward(image_residual(x, G(E(x))).mean()))

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train E and G on the image residual (Eq. 2), by Adam."""
        G, E = networks["G"].train(), networks["E"].train()
        assert isinstance(G, Generator) and isinstance(E, Encoder)
        parameters = [*E.parameters(), *G.parameters()]
        adam = torch.optim.Adam(parameters, run.recipe.gan_learning_rate, fused=True)
        health = ReconstructionHealth(run, (E, G), lambda x: G(E(x)))

        with Stage(self.stage, run, {"encoder": E, "generator": G, "adam": adam}) as stage:
            for update in stage.steps_left():
                random = run.random_at(self.stage, update)
                x = run.normals.draw(run.batch_size, random)
                with run.fabric.autocast():
                    loss = image_residual(x, G(E(x))).mean()
                descend(loss, adam, run.fabric)
                stage.collect(image=loss)
                health.report(stage, update)
            finish_autoencoder(stage, E, G)
        return health.warnings(health.figures(), stage)

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ = G(E(x)) and no feature term."""
        return ReconstructionScore(networks["E"], networks["G"])
