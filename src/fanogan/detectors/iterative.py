"""The latent found by back-propagation, image by image: AnoGAN on the Wasserstein GAN."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fanogan.data import seeded
from fanogan.detectors.gan_detector import GanDetector
from fanogan.detectors.registry import register
from fanogan.models import (
    Discriminator,
    Generator,
    feature_residual,
    image_residual,
    terms_and_maps,
)
from fanogan.recipes import Recipe
from fanogan.training import frozen

TOGETHER = {"cpu": 16}
"""Latents searched together, always as many: convolutions of another batch size differ by rounding,
and where that decides whether a component is drawn anew the search ends elsewhere."""

TOGETHER_ELSEWHERE = 64


class LatentSearch(nn.Module):
    """z by Adam on Eq. 3 with x̂ = G(z), then Eqs. 4 and 5."""

    def __init__(self, G: nn.Module, D: nn.Module, recipe: Recipe, seed: int):
        """Take the trained networks."""
        super().__init__()
        self.G, self.D, self.recipe, self.seed = G, D, recipe, seed

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score images, as ``ReconstructionScore`` does, by the latents found."""
        G, D = self.G, self.D
        assert isinstance(D, Discriminator)
        together = TOGETHER.get(x.device.type, TOGETHER_ELSEWHERE)
        with torch.inference_mode(False), torch.enable_grad(), frozen(G, D):
            found = []
            for start in range(0, len(x), together):
                some = torch.arange(start, start + together, device=x.device)
                some = some.clamp(max=len(x) - 1)  # the last image takes the places left over
                found.append(self.search(x[some], None if inside is None else inside[some]))
            z = torch.cat(found)[: len(x)]
        return terms_and_maps(x, G(z), inside, D.features)

    def search(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the latents (B, d) of images (B, C, rows, columns), each on its own.

        G and D must be frozen.
        """
        G, D = self.G, self.D
        assert isinstance(G, Generator) and isinstance(D, Discriminator)
        recipe, device = self.recipe, x.device
        with torch.no_grad():
            features = D.features(x)
        random = seeded(device, self.seed, "search")
        start = 2 * torch.rand(G.latent, generator=random, device=device) - 1
        z = start.repeat(len(x), 1).requires_grad_()
        adam = torch.optim.Adam([z], recipe.search_learning_rate)
        best = z.detach().clone()
        least = torch.full((len(x),), torch.inf, device=device)
        since = torch.zeros(len(x), dtype=torch.int64, device=device)
        patience = recipe.search_patience or recipe.search_updates + 1
        for update in range(recipe.search_updates + 1):
            x_hat = G(z)
            if inside is not None:
                x_hat = torch.where(inside, x_hat, x)
            loss = image_residual(x, x_hat)
            loss = loss + recipe.kappa * feature_residual(features, D.features(x_hat))
            better = (loss < least) & (since < patience)
            since = torch.where(better, 0, since + 1)
            least = torch.where(better, loss.detach(), least)
            best = torch.where(better[:, None], z.detach(), best)
            over = recipe.search_patience and bool((since >= patience).all())
            if over or update == recipe.search_updates:
                break
            adam.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            adam.step()
            # Stochastic clipping: what has left [−1, 1] is drawn anew, and its moments begin anew.
            anew = 2 * torch.rand(G.latent, generator=random, device=device) - 1
            outside = z.abs() > 1
            with torch.no_grad():
                z.copy_(torch.where(outside, anew, z))
                for moment in ("exp_avg", "exp_avg_sq"):
                    adam.state[z][moment].masked_fill_(outside, 0)
        return best


@register("iterative")
class Iterative(GanDetector):
    """``iterative``: z by 300 updates of Adam on Eq. 3 with x̂ = G(z), then scored by Eq. 4.

    After each update the components of z outside [−1, 1] are drawn anew, uniformly from it:
    stochastic clipping (Lipton and Tripathi 2017). The paper leaves open the optimiser, its rate,
    where z begins and which z is scored. Here: Adam at ``search_learning_rate``, whose moments
    begin anew for what is drawn anew; z begins uniform in [−1, 1]; and the z of least loss is
    scored, not the last as AnoGAN's (Schlegl et al. 2017), part of which may just have been drawn
    at random. Its first value and what is drawn anew in each update follow from the seed and are
    the same for all images, each latent's loss is its own, and as many latents are always searched
    together, so a score depends on no other image. On another kind of device it may: rounding can
    decide whether a component has left the interval. κ weighs the features in loss and score alike.
    With ``search_patience`` a latent's search is over once its loss hasn't fallen below its least
    for so many updates; the paper has no such stop.
    """

    exportable = False  # a search is no fixed graph

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> LatentSearch:
        """Return the search."""
        return LatentSearch(networks["G"], networks["D"], self.recipe, self.seed)
