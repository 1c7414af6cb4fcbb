"""ALI: encoder and generator learned against a discriminator of pairs (section 3.1, 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fanogan.data import Preprocessing
from fanogan.detectors.joint import JointDetector
from fanogan.detectors.registry import register
from fanogan.models import (
    Encoder,
    Generator,
    JointDiscriminator,
    ReconstructionScore,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_mean,
    ali_values,
)
from fanogan.training import (
    ReconstructionHealth,
    Run,
    Stage,
    State,
    backward,
    descend,
    finish_autoencoder,
    frozen,
    multiply_adds,
    statistics_untouched,
)


class LatentMean(nn.Module):
    """x → μ(x), the latent that ALI reconstructs from."""

    def __init__(self, E: Encoder):
        """Take the encoder, whose output is (μ, log σ)."""
        super().__init__()
        self.E = E

    def forward(self, x: Tensor) -> Tensor:
        """Return μ(x), (B, d)."""
        return ali_mean(self.E, x)


@register("ali")
class Ali(JointDetector):
    """``ali``: adversarially learned inference (Dumoulin et al. 2016), scored by Eq. 4.

    D tells pairs (x, E(x)) from pairs (G(z), z), and E and G learn together to make them alike. As
    published by them: the GAN's logistic loss with exchanged labels for E and G, one update of D to
    one of E and G, Adam with β (.5, .999), and a stochastic encoder N(μ(x), σ(x)), whose output is
    linear because z ~ N(0, I) has no bounds. The paper leaves open the networks and which features
    score. Here: f-AnoGAN's E and G, its D as the image's part of the joint D (layer norm, no
    dropout), the features of that part, and x̂ = G(μ(x)); as many updates as cost one GAN and one
    encoder.
    """

    stage = "ali"
    has_generator = True

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G, D and E."""
        seen, recipe = preprocessing, self.recipe
        size = (seen.image_size, seen.channels, recipe.base_width)
        return {
            "G": Generator(*size, recipe.latent_size),
            "D": JointDiscriminator(*size, recipe.latent_size),
            "E": Encoder(*size, 2 * recipe.latent_size, "linear"),
        }

    def step_cost(self, preprocessing: Preprocessing) -> int:
        """Count one update."""
        with torch.device("meta"):
            G, D, E = self.networks(preprocessing).values()
            x = torch.empty(1, *preprocessing.image_shape)
            z = torch.empty(1, self.recipe.latent_size)
        assert isinstance(G, Generator) and isinstance(E, Encoder)
        assert isinstance(D, JointDiscriminator)

        def update() -> None:
            with frozen(E, G):
                backward(ali_discriminator_loss(*ali_values(E, G, D, x, z, z)))
            with frozen(D):
                backward(ali_generator_loss(*ali_values(E, G, D, x, z, z)))

        return multiply_adds(update)

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train E and G against D, which tells (x, E(x)) from (G(z), z).

        An update is one of D, then one of E and G on the same x, z and noise.
        """
        G, D, E = (networks[letter].train() for letter in "GDE")
        assert isinstance(G, Generator) and isinstance(E, Encoder)
        assert isinstance(D, JointDiscriminator)
        fabric, rate = run.fabric, run.recipe.gan_learning_rate
        pair = [*E.parameters(), *G.parameters()]
        adam = torch.optim.Adam(pair, rate, betas=(0.5, 0.999), fused=True)
        adam_D = torch.optim.Adam(D.parameters(), rate, betas=(0.5, 0.999), fused=True)
        state: State = {
            "encoder": E,
            "generator": G,
            "discriminator": D,
            "adam": adam,
            "adam_D": adam_D,
        }
        shape = (run.HEALTH_IMAGES, G.latent)
        latents = torch.randn(shape, generator=run.random("ali z"), device=run.device)
        health = ReconstructionHealth(
            run, (E, G), lambda x: G(ali_mean(E, x)), samples=lambda: G(latents)
        )

        with Stage(self.stage, run, state) as stage:
            for update in stage.steps_left():
                random = run.random_at(self.stage, update)
                x = run.normals.draw(run.batch_size, random)
                z, noise = torch.randn(
                    2, run.batch_size, G.latent, generator=random, device=run.device
                )

                # --- discriminator update; the statistics of E and G don't move
                with frozen(E, G), statistics_untouched(E, G):
                    with fabric.autocast():
                        loss_D = ali_discriminator_loss(*ali_values(E, G, D, x, z, noise))
                    descend(loss_D, adam_D, fabric)

                # --- update of E and G
                with frozen(D):
                    with fabric.autocast():
                        loss = ali_generator_loss(*ali_values(E, G, D, x, z, noise))
                    descend(loss, adam, fabric)
                stage.collect(discriminator=loss_D, generator=loss)
                health.report(stage, update)
            finish_autoencoder(stage, E, G, from_noise=True)
        D.eval()
        return health.warnings(health.figures(), stage)

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ = G(μ(x)) and the features of the joint D's image part."""
        E, D = networks["E"], networks["D"]
        assert isinstance(E, Encoder) and isinstance(D, JointDiscriminator)
        return ReconstructionScore(LatentMean(E), networks["G"], features=D)
