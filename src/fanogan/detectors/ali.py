"""ALI: encoder and generator learned against a discriminator of pairs (section 3.1, 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fanogan.data import Preprocessing
from fanogan.detectors.joint import JointDetector
from fanogan.detectors.registry import register
from fanogan.models import (
    Generator,
    JointDiscriminator,
    JointEncoder,
    ReconstructionScore,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_mean,
    ali_values,
    initialise_near_zero,
)
from fanogan.training import (
    ReconstructionHealth,
    Run,
    Stage,
    State,
    finish_autoencoder,
    multiply_adds,
    share_buffers,
    update,
)


class LatentMean(nn.Module):
    """x → μ(x), the latent that ALI reconstructs from."""

    def __init__(self, E: JointEncoder):
        """Take the encoder, whose output is (μ, log σ)."""
        super().__init__()
        self.E = E

    def forward(self, x: Tensor) -> Tensor:
        """Return μ(x), (B, d)."""
        return ali_mean(self.E, x)


def backward_both(
    values: tuple[Tensor, Tensor], D: nn.Module, pair: list[nn.Parameter]
) -> tuple[Tensor, Tensor]:
    """Back-propagate both losses of the same values: D's into D, the other into E and G."""
    loss_D, loss = ali_discriminator_loss(*values), ali_generator_loss(*values)
    torch.autograd.backward(loss_D, inputs=[*D.parameters()], retain_graph=True)
    torch.autograd.backward(loss, inputs=pair)
    return loss_D, loss


@register("ali")
class Ali(JointDetector):
    """``ali``: adversarially learned inference (Dumoulin et al. 2016), scored by Eq. 4.

    D tells pairs (x, E(x)) from pairs (G(z), z), and E and G learn together to make them alike. As
    published by them and in their code: the GAN's logistic loss with exchanged labels for E and G,
    one update of all three networks from the same values, Adam with β (.5, .999), weights from
    N(0, .01²), a D with batch norm and dropout (see ``JointDiscriminator``), and a stochastic
    encoder N(μ(x), σ(x)), whose output is linear because z ~ N(0, I) has no bounds. The rate is
    the recipe's ``gan_learning_rate``, in ``paper`` their 1e-4. The paper leaves open the networks
    and which features score. Here: f-AnoGAN's G, its residual blocks in E and D, what D makes of
    the image alone as features, and x̂ = G(μ(x)); as many updates as cost one GAN and one encoder.
    """

    stage = "ali"
    has_generator = True

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G, D and E."""
        seen, recipe = preprocessing, self.recipe
        size = (seen.image_size, seen.channels, recipe.base_width)
        networks = {
            "G": Generator(*size, recipe.latent_size),
            "D": JointDiscriminator(*size, recipe.latent_size),
            "E": JointEncoder(*size, recipe.latent_size),
        }
        initialise_near_zero(networks["G"])
        return networks

    def step_cost(self, preprocessing: Preprocessing) -> int:
        """Count one update."""
        with torch.device("meta"):
            G, D, E = (network.eval() for network in self.networks(preprocessing).values())
            x = torch.empty(1, *preprocessing.image_shape)
            z = torch.empty(1, self.recipe.latent_size)
        assert isinstance(G, Generator) and isinstance(E, JointEncoder)
        assert isinstance(D, JointDiscriminator)

        def update() -> None:
            backward_both(ali_values(E, G, D, x, z, z), D, [*E.parameters(), *G.parameters()])

        return multiply_adds(update)

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train E and G against D, which tells (x, E(x)) from (G(z), z)."""
        G, D, E = (networks[letter].train() for letter in "GDE")
        assert isinstance(G, Generator) and isinstance(E, JointEncoder)
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
            for step in stage.steps_left():
                random = run.random_at(self.stage, step)
                x = run.normals.draw(run.batch_size, random)
                z, noise = torch.randn(
                    2, run.batch_size, G.latent, generator=random, device=run.device
                )

                with fabric.autocast():
                    values = ali_values(E, G, D, x, z, noise, random)
                adam_D.zero_grad()
                adam.zero_grad()
                loss_D, loss = backward_both(values, D, pair)
                update(adam_D, fabric)
                update(adam, fabric)
                stage.collect(discriminator=loss_D, generator=loss)
                health.report(stage, step)
            share_buffers(D, fabric)
            finish_autoencoder(stage, E, G, from_noise=True)
        D.eval()
        return health.warnings(health.figures(), stage)

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ = G(μ(x)) and the features that D makes of the image alone."""
        E, D = networks["E"], networks["D"]
        assert isinstance(E, JointEncoder) and isinstance(D, JointDiscriminator)
        return ReconstructionScore(LatentMean(E), networks["G"], features=D)
