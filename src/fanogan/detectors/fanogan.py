"""f-AnoGAN: a detector of what is not normal (Schlegl et al. 2019).

``fit`` learns from normals alone, ``score`` says how far from normal an image is (Eq. 4) and
``localize`` where (Eq. 5). Higher is more anomalous.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fanogan.data import Patches
from fanogan.detectors.gan import GanDetector
from fanogan.detectors.learned import scored_name
from fanogan.models import Discriminator, Encoder, Generator, terms_and_maps
from fanogan.recipes import Recipe
from fanogan.training import Progress, RunFolder, no_progress, train_encoder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class FAnoGAN(GanDetector):
    """A Wasserstein GAN of normals, then an encoder into its latents (section 2.2).

    The recipe's ``encoder_loss`` makes it ``izi_f``, the proposed method (Eq. 3), scored by image
    and features (Eq. 4); or ``izi`` (Eq. 2) or ``ziz`` (Eq. 1), which are scored by the image
    residual alone. With ``score_features`` those two are ``izi-features`` and ``ziz-features``,
    scored by Eq. 4 as at the end of section 3.2. ``denoising`` is appendix A.1's variant.

    Left open by the paper, and settled as the authors' code has it: which features (D's last
    residual sum), the optimisers and rates, flips. That of ours is the re-estimation of batch-norm
    statistics in short recipes, and that the denoising variant hides a pixel from the encoder in
    all channels, in ``ziz`` of the generated image.

    Example:
        >>> from fanogan import FAnoGAN
        >>> detector = FAnoGAN(recipe="small").fit("scans/healthy")     # doctest: +SKIP
        >>> detector.score("scans/new").total                           # doctest: +SKIP
    """

    letters = "GDE"
    networks: tuple[Generator, Discriminator, Encoder]

    def __init__(self, recipe: str | Path | Recipe = "small", **options: Any):
        """Make an untrained detector; arguments and errors as for ``LearnedDetector``."""
        super().__init__(recipe, **options)
        self.name = scored_name(self.recipe)

    def _make(self) -> tuple[nn.Module, ...]:
        G, D = super()._make()
        seen, recipe = self.preprocessing, self.recipe
        latent = self.gan.G.latent if self.gan else recipe.latent_size
        return (
            G,
            D,
            Encoder(seen.sides, seen.channels, recipe.base_width, latent, recipe.encoder_output),
        )

    def steps(self) -> dict[str, int]:
        """Rounds of the GAN, where it isn't given, and updates of the encoder."""
        return {**super().steps(), "encoder": self.recipe.encoder_updates}

    def _train(
        self,
        training: Patches,
        held_out: Patches,
        *,
        fabric: Fabric,
        run: RunFolder | None = None,
        progress: Progress = no_progress,
    ) -> list[str]:
        warnings = super()._train(training, held_out, fabric=fabric, run=run, progress=progress)
        G, D, E = self.networks
        train_encoder(
            E,
            G,
            D,
            training,
            held_out,
            self.recipe,
            fabric=fabric,
            seed=self.seed,
            run=run,
            progress=progress,
        )
        return warnings

    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Eqs. 4 and 5 with x̂ = G(E(x)); no feature term where only the image is scored."""
        G, D, E = self.networks
        by_features = self.recipe.encoder_loss == "izi_f" or self.recipe.score_features
        return terms_and_maps(x, G(E(x)), inside, D.features if by_features else None)
