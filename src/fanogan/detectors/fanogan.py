"""f-AnoGAN, the proposed method, and its variants (section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors.gan_detector import GanDetector
from fanogan.detectors.registry import register
from fanogan.models import Discriminator, Encoder, Generator, ReconstructionScore
from fanogan.training import ENCODER, Run, encoder_cost, train_encoder


# The name nearest to the class is registered first.
@register("f-AnoGAN", former=True, score_features=True)
@register("ziz-features", encoder_loss="ziz", score_features=True)
@register("izi-features", encoder_loss="izi", score_features=True)
@register("ziz", encoder_loss="ziz", score_features=False)
@register("izi", encoder_loss="izi", score_features=False)
@register("izi_f", title="f-AnoGAN", encoder_loss="izi_f")
class FAnoGAN(GanDetector):
    """A Wasserstein GAN of normals, then an encoder into its latents (section 2.2).

    The recipe's ``encoder_loss`` makes it ``izi_f``, the proposed method (Eq. 3), scored by image
    and features (Eq. 4); or ``izi`` (Eq. 2) or ``ziz`` (Eq. 1), which are scored by the image
    residual alone. With ``score_features`` those two are ``izi-features`` and ``ziz-features``,
    scored by Eq. 4 as at the end of section 3.2. ``denoising`` is appendix A.1's variant.

    What the paper leaves open is settled as in the authors' code: which features (D's last residual
    sum), the optimisers and rates, flips. Ours are the re-estimation of batch-norm statistics in
    short recipes, and that the denoising variant hides a pixel from the encoder in all channels, in
    ``ziz`` of the generated image.

    Examples:
        >>> from fanogan import FAnoGAN
        >>> detector = FAnoGAN(recipe="small").fit("scans/healthy")     # doctest: +SKIP
        >>> detector.score("scans/new").total                           # doctest: +SKIP
    """

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make G, D and E."""
        seen, recipe = preprocessing, self.recipe
        size = (seen.image_size, seen.channels, recipe.base_width, recipe.latent_size)
        return super().networks(seen) | {"E": Encoder(*size, recipe.encoder_output)}

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return the rounds of the GAN and the updates of the encoder."""
        return super().steps(preprocessing) | {ENCODER: self.recipe.encoder_updates}

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train G and D, then E."""
        warnings = super().train(networks, run)
        G, D, E = (networks[letter] for letter in "GDE")
        assert isinstance(G, Generator) and isinstance(D, Discriminator) and isinstance(E, Encoder)
        return warnings + train_encoder(E, G, D, run)

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ = G(E(x)); A_D = 0 where only the image is scored."""
        by_features = self.recipe.encoder_loss == "izi_f" or self.recipe.score_features
        D = networks["D"]
        assert isinstance(D, Discriminator)
        return ReconstructionScore(
            networks["E"], networks["G"], features=D if by_features else None
        )

    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of GAN and encoder."""
        encoder = encoder_cost(self.recipe, preprocessing.image_shape)
        return super().training_cost(preprocessing) + encoder
