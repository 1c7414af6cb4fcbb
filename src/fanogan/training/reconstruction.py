"""What training encoder and generator together shares: the end of a stage, and its health."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fanogan.models import Generator, image_residual
from fanogan.training.run import Run
from fanogan.training.stage import Stage
from fanogan.training.updates import reestimate_statistics, share_buffers, statistics_untouched
from fanogan.training.wgan import SAMPLE_GRIDS, diversity


@torch.no_grad()
def finish_autoencoder(
    stage: Stage, E: nn.Module, G: Generator, *, from_noise: bool = False
) -> None:
    """End a stage: re-estimated statistics, which all processes share, and the last checkpoint.

    G's statistics are those of encoded images, or of latents ~ N(0, I) where it learned from those.
    E and G are left in eval mode.
    """
    run = stage.run
    if run.recipe.reestimate_batch_norm and stage.first < stage.steps:
        random = run.random(f"statistics of {stage.name}")
        batch_size = run.recipe.batch_size
        batches = [run.normals.draw(batch_size, random) for _ in range(run.REESTIMATE_BATCHES)]
        reestimate_statistics(E, iter(batches))
        E.eval()
        if from_noise:
            latents = (
                torch.randn(batch_size, G.latent, generator=random, device=run.device)
                for _ in range(run.REESTIMATE_BATCHES)
            )
        else:
            latents = (E(x) for x in batches)
        reestimate_statistics(G, latents)
    share_buffers(E, run.fabric)
    share_buffers(G, run.fabric)
    stage.finish()
    E.eval()
    G.eval()


class ReconstructionHealth:
    """Are held-out normals reconstructed as well as those of training, and are images diverse?"""

    def __init__(
        self,
        run: Run,
        networks: Sequence[nn.Module],
        reconstruct: Callable[[Tensor], Tensor],
        samples: Callable[[], Tensor] | None = None,
    ):
        """Draw the images that all figures are of.

        Args:
            run: where images come from.
            networks: those whose batch norms ``reconstruct`` and ``samples`` pass through.
            reconstruct: x → x̂.
            samples: images of fixed latents, for a detector with a generator of N(0, I).
        """
        self.networks, self.reconstruct, self.samples = networks, reconstruct, samples
        self.held_out = run.held_out.draw(run.HEALTH_IMAGES, run.random("joint health"))
        self.training = run.normals.draw(run.HEALTH_IMAGES, run.random("joint diversity"))
        self.real_diversity = diversity(self.training)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Return image residuals of training and held-out normals, and G's images' diversity."""
        with statistics_untouched(*self.networks):
            seen = image_residual(self.training, self.reconstruct(self.training))
            x_hat = self.reconstruct(self.held_out)
            images = {"reconstruction_diversity": x_hat}
            if self.samples:
                images["diversity"] = self.samples()
        unseen = image_residual(self.held_out, x_hat)
        real = self.real_diversity
        ratios = {
            name: diversity(each) / real if real > 0 else 1.0 for name, each in images.items()
        }
        residuals = {"image_seen": float(seen.mean()), "image_held_out": float(unseen.mean())}
        return residuals | ratios

    def report(self, stage: Stage, step: int) -> None:
        """Report figures, warnings and a grid of images, where they are due after this step."""
        if stage.is_due(step):
            figures = {**stage.means(), **self.figures()}
            late = step >= 0.2 * stage.steps
            stage.report(step, figures, warnings=self.warnings(figures, stage) if late else [])
        if stage.grid_is_due(step, SAMPLE_GRIDS):
            with torch.no_grad(), statistics_untouched(*self.networks):
                x = self.held_out[:32]
                grid = torch.cat([x, self.reconstruct(x)])
            stage.sample_grid(f"{stage.name}_{step + 1:06d}", grid)

    def warnings(self, figures: Mapping[str, float], stage: Stage) -> list[str]:
        """Return plain warnings; they mean something once a fifth of the training has passed."""
        seen, unseen = figures["image_seen"], figures["image_held_out"]
        return stage.warn_of_overfit("image", seen, unseen) + [
            warning
            for name, images in (("diversity", "samples"), ("reconstruction_diversity", "x̂"))
            if figures.get(name, 1.0) < 0.5
            for warning in stage.warn_of_collapse(name, images, figures[name])
        ]
