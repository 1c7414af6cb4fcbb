"""Detectors whose encoder and generator learn together, with no GAN before them (section 3.1, 2).

All are as like f-AnoGAN as they can be, as the paper has them: E, G and D are its networks, and
they may spend the multiply-adds of one GAN and one encoder (``budget``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fanogan.data import Patches
from fanogan.detectors.learned import LearnedDetector
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    JointDiscriminator,
    ali_mean,
    terms_and_maps,
)
from fanogan.recipes import Recipe
from fanogan.training import (
    Progress,
    RunFolder,
    adversarial_rounds,
    ali_updates,
    autoencoder_updates,
    no_progress,
    train_adversarial_autoencoder,
    train_ali,
    train_autoencoder,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class JointDetector(LearnedDetector):
    """Trained in one stage, of as many steps as the budget pays for.

    Attributes:
        loop: Trains the networks, given in the order of ``letters``.
        length: Its steps: updates of ``ae`` and ``ali``, rounds of ``advae``.
    """

    loop: ClassVar[staticmethod[..., list[str]]]
    length: ClassVar[staticmethod[[Recipe, tuple[int, int], int], int]]

    def steps(self) -> dict[str, int]:
        """The one stage, and its length."""
        seen = self.preprocessing
        return {self.name: self.length(self.recipe, seen.sides, seen.channels)}

    def _train(
        self,
        training: Patches,
        held_out: Patches,
        *,
        fabric: Fabric,
        run: RunFolder | None = None,
        progress: Progress = no_progress,
    ) -> list[str]:
        return self.loop(
            *self.networks,
            training,
            held_out,
            self.recipe,
            steps=self.steps()[self.name],
            fabric=fabric,
            seed=self.seed,
            run=run,
            progress=progress,
        )


class Autoencoder(JointDetector):
    """``ae``: E and G trained together on the image residual (Eq. 2), and scored by it.

    The paper leaves open the optimiser, the length and E's output. Here: Adam at the recipe's
    ``gan_learning_rate`` with β (.9, .999), as many updates as the budget pays for, and the
    recipe's ``encoder_output``.
    """

    name = "ae"
    letters = "GE"
    networks: tuple[Generator, Encoder]
    loop = staticmethod(train_autoencoder)
    length = staticmethod(autoencoder_updates)

    def _make(self) -> tuple[nn.Module, ...]:
        seen, recipe = self.preprocessing, self.recipe
        size = (seen.sides, seen.channels, recipe.base_width, recipe.latent_size)
        return Generator(*size), Encoder(*size, recipe.encoder_output)

    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 with x̂ = G(E(x)) and no feature term."""
        G, E = self.networks
        return terms_and_maps(x, G(E(x)), inside)


class AdversarialAutoencoder(JointDetector):
    """``advae``: the autoencoder with a discriminator's adversarial term, scored by Eq. 4.

    The paper leaves open the kind of adversarial loss and its weight. Here: f-AnoGAN's D as a
    Wasserstein critic with gradient penalty, which tells real images from reconstructions, with
    the recipe's critic updates a round; and its term at .001 beside the image residual, as Pathak
    et al. (2016), whom the paper names for it. Adam at ``gan_learning_rate`` with β (0, .9) for all
    three. Features are those of D, as in f-AnoGAN. Nothing is asked of the latents' distribution.
    """

    name = "advae"
    letters = "GDE"
    networks: tuple[Generator, Discriminator, Encoder]
    loop = staticmethod(train_adversarial_autoencoder)
    length = staticmethod(adversarial_rounds)

    def _make(self) -> tuple[nn.Module, ...]:
        seen, recipe = self.preprocessing, self.recipe
        size = (seen.sides, seen.channels, recipe.base_width)
        return (
            Generator(*size, recipe.latent_size),
            Discriminator(*size),
            Encoder(*size, recipe.latent_size, recipe.encoder_output),
        )

    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 with x̂ = G(E(x)) and the features of AdvAE's own D."""
        G, D, E = self.networks
        return terms_and_maps(x, G(E(x)), inside, D.features)


class Ali(JointDetector):
    """``ali``: adversarially learned inference (Dumoulin et al. 2016), scored by Eq. 4.

    D tells pairs (x, E(x)) from pairs (G(z), z), and E and G learn together to make them alike. As
    published by them: the GAN's logistic loss with exchanged labels for E and G, one update of D to
    one of E and G, Adam with β (.5, .999), and a stochastic encoder N(μ(x), σ(x)), whose output is
    linear because z ~ N(0, I) has no bounds. The paper leaves open the networks and which features
    score. Here: f-AnoGAN's E and G, its D as the image's part of the joint D (layer norm, no
    dropout), the features of that part, and x̂ = G(μ(x)).
    """

    name = "ali"
    letters = "GDE"
    networks: tuple[Generator, JointDiscriminator, Encoder]
    loop = staticmethod(train_ali)
    length = staticmethod(ali_updates)

    def _make(self) -> tuple[nn.Module, ...]:
        seen, recipe = self.preprocessing, self.recipe
        size = (seen.sides, seen.channels, recipe.base_width)
        return (
            Generator(*size, recipe.latent_size),
            JointDiscriminator(*size, recipe.latent_size),
            Encoder(*size, 2 * recipe.latent_size, "linear"),
        )

    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 with x̂ = G(μ(x)) and the features of the joint D's image part."""
        G, D, E = self.networks
        return terms_and_maps(x, G(ali_mean(E, x)), inside, D.features)
