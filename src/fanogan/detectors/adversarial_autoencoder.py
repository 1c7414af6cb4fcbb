"""AdvAE: the autoencoder with a critic's adversarial term (section 3.1, 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors.joint import JointDetector
from fanogan.detectors.registry import register
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    ReconstructionScore,
    adversarial_loss,
    adversarial_terms,
)
from fanogan.training import (
    ReconstructionHealth,
    Run,
    Stage,
    State,
    backward,
    critic_update,
    descend,
    finish_autoencoder,
    frozen,
    half_batches,
    multiply_adds,
    statistics_untouched,
    update_critic,
)


@register("advae")
class AdversarialAutoencoder(JointDetector):
    """``advae``: the autoencoder with a discriminator's adversarial term, scored by Eq. 4.

    The paper leaves open the kind of adversarial loss and its weight. Here: f-AnoGAN's D as a
    Wasserstein critic with gradient penalty, which tells real images from reconstructions, with
    the recipe's critic updates a round; and its term at .001 beside the image residual, as Pathak
    et al. (2016), whom the paper names for it. Adam at ``gan_learning_rate`` with β (0, .9) for all
    three; as many rounds as cost one GAN and one encoder. Features are those of D, as in f-AnoGAN.
    Nothing is asked of the latents' distribution.
    """

    stage = "advae"

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G, D and E."""
        seen, recipe = preprocessing, self.recipe
        size = (seen.image_size, seen.channels, recipe.base_width)
        return {
            "G": Generator(*size, recipe.latent_size),
            "D": Discriminator(*size),
            "E": Encoder(*size, recipe.latent_size, recipe.encoder_output),
        }

    def step_cost(self, preprocessing: Preprocessing) -> int:
        """Count one round."""
        with torch.device("meta"):
            G, D, E = self.networks(preprocessing).values()
            x = torch.empty(1, *preprocessing.image_shape)
        assert isinstance(G, Generator) and isinstance(D, Discriminator) and isinstance(E, Encoder)

        def autoencoder() -> None:
            with frozen(D):
                backward(adversarial_loss(adversarial_terms(E, G, D, x)))

        critic = multiply_adds(lambda: critic_update(D, x, lambda: G(E(x))))
        updates = self.recipe.critic_updates_per_generator_update
        return updates * critic + multiply_adds(autoencoder)

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train E and G on the image residual and against the critic D.

        A round is the recipe's critic updates, real images against reconstructions of others, and
        one update of E and G.
        """
        G, D, E = (networks[letter].train() for letter in "GDE")
        assert isinstance(G, Generator) and isinstance(D, Discriminator) and isinstance(E, Encoder)
        recipe, fabric, rate = run.recipe, run.fabric, run.recipe.gan_learning_rate
        pair = [*E.parameters(), *G.parameters()]
        adam = torch.optim.Adam(pair, rate, betas=(0.0, 0.9), fused=True)
        adam_D = torch.optim.Adam(D.parameters(), rate, betas=(0.0, 0.9), fused=True)
        state: State = {
            "encoder": E,
            "generator": G,
            "discriminator": D,
            "adam": adam,
            "adam_D": adam_D,
        }
        health = ReconstructionHealth(run, (E, G), lambda x: G(E(x)))

        with Stage(self.stage, run, state) as stage, half_batches(run.device) as for_each_half:
            for round_ in stage.steps_left():
                random = run.random_at(self.stage, round_)

                # --- critic updates, each on new images; the statistics of E and G don't move
                for _ in range(recipe.critic_updates_per_generator_update):
                    x, others = (run.normals.draw(run.batch_size, random) for _ in range(2))
                    with torch.no_grad(), statistics_untouched(E, G), fabric.autocast():
                        fake = G(E(others))
                    losses = update_critic(D, adam_D, x, fake, run, random, for_each_half)
                    stage.collect(**losses)

                # --- update of E and G
                x = run.normals.draw(run.batch_size, random)
                with frozen(D):
                    with fabric.autocast():
                        terms = adversarial_terms(E, G, D, x)
                        loss = adversarial_loss(terms)
                    descend(loss, adam, fabric)
                stage.collect(**terms)
                health.report(stage, round_)
            finish_autoencoder(stage, E, G)
        D.eval()
        return health.warnings(health.figures(), stage)

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ = G(E(x)) and the features of AdvAE's own D."""
        D = networks["D"]
        assert isinstance(D, Discriminator)
        return ReconstructionScore(networks["E"], networks["G"], features=D)
