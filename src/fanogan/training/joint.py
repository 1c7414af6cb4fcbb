"""How E and G learn together, without a GAN before them: ``ae``, ``advae`` and ``ali``.

Loops as those of ``training``: lengths in updates or rounds, random numbers from (seed, stage,
step), exact resume, health. The networks end in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fanogan.data import Patches, seeded
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    JointDiscriminator,
    adversarial_loss,
    adversarial_terms,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_mean,
    ali_values,
    image_residual,
)
from fanogan.recipes import Recipe
from fanogan.training.halves import halves
from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import Progress, Stage, no_progress
from fanogan.training.wgan import (
    HEALTH_IMAGES,
    REESTIMATE_BATCHES,
    SAMPLE_GRIDS,
    descend,
    diversity,
    frozen,
    reestimate_statistics,
    share_buffers,
    statistics_untouched,
    update_critic,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_State = dict[str, nn.Module | torch.optim.Optimizer]


def train_autoencoder(
    G: Generator,
    E: Encoder,
    normals: Patches,
    held_out: Patches,
    recipe: Recipe,
    *,
    steps: int,
    fabric: Fabric,
    seed: int = 0,
    run: RunFolder | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Train E and G together on the image residual (Eq. 2), by Adam.

    Arguments, returned warnings and errors as for ``train_gan``; ``steps`` are updates.
    """
    _to_train(fabric, E, G)
    adam = torch.optim.Adam(
        [*E.parameters(), *G.parameters()], recipe.gan_learning_rate, fused=True
    )
    state: _State = {"encoder": E, "generator": G, "adam": adam}
    batch = recipe.batch_size // fabric.world_size
    health = _Health((E, G), lambda x: G(E(x)), normals, held_out, seed)

    with Stage("ae", steps, state, recipe, fabric, run, progress) as stage:
        for update in stage.steps_left():
            random = seeded(fabric.device, seed, "ae", update, fabric.global_rank)
            x = normals.draw(batch, random)
            with fabric.autocast():
                loss = image_residual(x, G(E(x))).mean()
            descend(loss, adam, fabric)
            stage.collect(image=loss)
            health.look(stage, update, run)
        _settle(stage, E, G, normals, seed)
    return health.warnings(health.figures(), stage)


def train_adversarial_autoencoder(
    G: Generator,
    D: Discriminator,
    E: Encoder,
    normals: Patches,
    held_out: Patches,
    recipe: Recipe,
    *,
    steps: int,
    fabric: Fabric,
    seed: int = 0,
    run: RunFolder | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Train E and G together on the image residual and against the critic D.

    A step, or round, is the recipe's critic updates, real images against reconstructions of
    others, and one update of E and G. Otherwise as ``train_autoencoder``.
    """
    device = fabric.device
    _to_train(fabric, E, G, D)
    pair = [*E.parameters(), *G.parameters()]
    adam = torch.optim.Adam(pair, recipe.gan_learning_rate, betas=(0.0, 0.9), fused=True)
    adam_D = torch.optim.Adam(
        D.parameters(), recipe.gan_learning_rate, betas=(0.0, 0.9), fused=True
    )
    state: _State = {
        **{"encoder": E, "generator": G, "discriminator": D},
        **{"adam": adam, "adam_D": adam_D},
    }
    batch = recipe.batch_size // fabric.world_size
    health = _Health((E, G), lambda x: G(E(x)), normals, held_out, seed)

    stage = Stage("advae", steps, state, recipe, fabric, run, progress)
    with stage, halves(device) as by_halves:
        for round_ in stage.steps_left():
            random = seeded(device, seed, "advae", round_, fabric.global_rank)

            # --- critic updates, on fresh data; the statistics of E and G don't move
            for _ in range(recipe.critic_updates_per_generator_update):
                x, others = normals.draw(batch, random), normals.draw(batch, random)
                with torch.no_grad(), statistics_untouched(E, G), fabric.autocast():
                    fake = G(E(others)).float()
                stage.collect(
                    **update_critic(D, adam_D, x, fake, recipe, random, fabric, by_halves)
                )

            # --- update of E and G
            x = normals.draw(batch, random)
            with frozen(D):
                with fabric.autocast():
                    terms = adversarial_terms(E, G, D, x)
                    loss = adversarial_loss(terms)
                descend(loss, adam, fabric)
            stage.collect(**terms)
            health.look(stage, round_, run)
        _settle(stage, E, G, normals, seed)
    D.eval()
    return health.warnings(health.figures(), stage)


def train_ali(
    G: Generator,
    D: JointDiscriminator,
    E: Encoder,
    normals: Patches,
    held_out: Patches,
    recipe: Recipe,
    *,
    steps: int,
    fabric: Fabric,
    seed: int = 0,
    run: RunFolder | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Train E and G against D, which tells (x, E(x)) from (G(z), z) (Dumoulin et al. 2016).

    A step is an update of D, then one of E and G on the same x, z and noise, by Adam with their
    β (.5, .999). Otherwise as ``train_autoencoder``.
    """
    device = fabric.device
    _to_train(fabric, E, G, D)
    pair = [*E.parameters(), *G.parameters()]
    adam = torch.optim.Adam(pair, recipe.gan_learning_rate, betas=(0.5, 0.999), fused=True)
    adam_D = torch.optim.Adam(
        D.parameters(), recipe.gan_learning_rate, betas=(0.5, 0.999), fused=True
    )
    state: _State = {
        **{"encoder": E, "generator": G, "discriminator": D},
        **{"adam": adam, "adam_D": adam_D},
    }
    batch = recipe.batch_size // fabric.world_size
    latents = torch.randn(
        HEALTH_IMAGES, G.latent, generator=seeded(device, seed, "ali z"), device=device
    )
    health = _Health(
        (E, G),
        lambda x: G(ali_mean(E, x)),
        normals,
        held_out,
        seed,
        samples=lambda: G(latents),
    )

    with Stage("ali", steps, state, recipe, fabric, run, progress) as stage:
        for update in stage.steps_left():
            random = seeded(device, seed, "ali", update, fabric.global_rank)
            x = normals.draw(batch, random)
            z, noise = torch.randn(2, batch, G.latent, generator=random, device=device)

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
            health.look(stage, update, run)
        _settle(stage, E, G, normals, seed, of_noise=True)
    D.eval()
    return health.warnings(health.figures(), stage)


def _to_train(fabric: Fabric, *networks: nn.Module) -> None:
    for network in networks:
        network.to(fabric.device).train()


@torch.no_grad()
def _settle(
    stage: Stage, E: Encoder, G: Generator, normals: Patches, seed: int, of_noise: bool = False
) -> None:
    """End a stage: re-estimated statistics, which all processes share, and the last checkpoint.

    G's are those of encoded images, or of latents ~ N(0, I) where it learnt from those.
    """
    recipe, fabric = stage.recipe, stage.fabric
    if recipe.reestimate_batch_norm and stage.first < stage.steps:
        random = seeded(fabric.device, seed, f"statistics of {stage.name}")
        batches = [normals.draw(recipe.batch_size, random) for _ in range(REESTIMATE_BATCHES)]
        reestimate_statistics(E, iter(batches))
        E.eval()
        if of_noise:
            shape = (recipe.batch_size, G.latent)
            noise = (
                torch.randn(shape, generator=random, device=fabric.device)
                for _ in range(REESTIMATE_BATCHES)
            )
            reestimate_statistics(G, noise)
        else:
            reestimate_statistics(G, (E(x) for x in batches))
    share_buffers(E, fabric)
    share_buffers(G, fabric)
    stage.finish()
    E.eval()
    G.eval()


class _Health:
    """Are held-out normals reconstructed as well as those of training, and are images diverse?"""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        reconstruct: Callable[[Tensor], Tensor],
        normals: Patches,
        held_out: Patches,
        seed: int,
        samples: Callable[[], Tensor] | None = None,
    ):
        self.networks, self.reconstruct, self.samples = networks, reconstruct, samples
        self.unseen = held_out.draw(HEALTH_IMAGES, seeded(held_out.device, seed, "joint health"))
        seen = normals.draw(HEALTH_IMAGES, seeded(held_out.device, seed, "joint diversity"))
        self.real_diversity = diversity(seen)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """The image residual of held-out normals, and the diversity of what G makes of the real."""
        with statistics_untouched(*self.networks):
            x_hat = self.reconstruct(self.unseen)
            made = {"reconstruction_diversity": x_hat}
            if self.samples:
                made["diversity"] = self.samples()
        residual = image_residual(self.unseen, x_hat).mean()
        shares = {name: diversity(images) / self.real_diversity for name, images in made.items()}
        return {"image_held_out": float(residual), **shares}

    def look(self, stage: Stage, step: int, run: RunFolder | None) -> None:
        """Figures, warnings and a grid of images, where they are due after this step."""
        if stage.tick_due(step):
            figures = {**stage.means(), **self.figures()}
            late = step >= 0.2 * stage.steps
            stage.report(step, figures, warnings=self.warnings(figures, stage) if late else [])
        grid_every = -(-stage.steps // SAMPLE_GRIDS)
        if run and stage.leads and ((step + 1) % grid_every == 0 or step + 1 == stage.steps):
            with torch.no_grad(), statistics_untouched(*self.networks):
                x = self.unseen[:32]
                grid = torch.cat([x, self.reconstruct(x)])
            run.sample_grid(f"{stage.name}_{step + 1:06d}", grid.cpu().numpy())

    def warnings(self, figures: Mapping[str, float], stage: Stage) -> list[str]:
        """Plain warnings; meaningful once a fifth of the training has passed."""
        found: list[str] = []
        for name, images in (("diversity", "samples"), ("reconstruction_diversity", "x̂")):
            if figures.get(name, 1.0) < 0.5:
                found += stage.warn(
                    name,
                    f"{images} collapse: their diversity is {figures[name]:.2f} of the real "
                    "images'; look at the sample grids, and train longer or with a lower "
                    "gan_learning_rate",
                )
        return found
