"""The Wasserstein GAN of normal images (section 2.1).

Lengths are counted in rounds: one generator update, left out of the first, then the critic's. All
random numbers come from (seed, stage, round), so a run that is killed and resumed ends bit-equal on
the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fanogan.models import (
    Discriminator,
    Generator,
    critic_loss,
    critic_values,
    generator_loss,
    gradient_penalty,
    wasserstein_distance,
)
from fanogan.training.augmentation import CriticAugmentation
from fanogan.training.run import Run
from fanogan.training.run_folder import State
from fanogan.training.split_batch import ForEachPart, half_batches, whole_batch
from fanogan.training.stage import Stage
from fanogan.training.updates import (
    descend,
    frozen,
    reestimate_statistics,
    share_buffers,
    statistics_untouched,
    update,
)

GAN = "gan"
"""The name of the stage."""

SAMPLE_GRIDS = 10
"""Grids of sample images that a stage writes."""


def update_critic(
    D: Discriminator,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    fake: Tensor,
    run: Run,
    random: torch.Generator,
    for_each_part: ForEachPart = whole_batch,
) -> dict[str, Tensor]:
    """Update the critic once on real images x and generated ones, (B, C, H, W) each.

    Returns:
        Its estimate of the Wasserstein distance, and the gradient penalty.
    """
    batch = len(x)
    alpha = torch.rand(batch, *[1] * (x.dim() - 1), generator=random, device=x.device)
    optimiser.zero_grad()

    def part(x: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        """Return what a part of the batch adds to both means; its gradients add up in D."""
        with run.fabric.autocast():
            real, generated = critic_values(D, x, fake)
        share = len(x) / batch
        distance = share * wasserstein_distance(real, generated)
        penalty = share * gradient_penalty(D, x, fake, alpha)  # outside autocast: fp32
        loss = critic_loss(distance, penalty, run.recipe.gradient_penalty_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack([distance, penalty]).detach()

    # Whichever part is done first, their sum is the same.
    distance, penalty = torch.stack(for_each_part(part, x, fake, alpha)).sum(0)
    update(optimiser, run.fabric)
    return {"wasserstein": distance, "penalty": penalty}


def train_gan(G: Generator, D: Discriminator, run: Run) -> list[str]:
    """Train G and D as a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017).

    Args:
        G: the generator, trained in place and left in eval mode.
        D: the critic, likewise.
        run: all else.

    Returns:
        The health warnings of the trained networks.

    Raises:
        TrainingFailed: a loss or weight isn't finite.
        KeyboardInterrupt: it was asked to stop, and has saved a checkpoint.
    """
    # --- networks and optimisers
    recipe, device, fabric = run.recipe, run.device, run.fabric
    G.to(device).train()
    D.to(device).train()
    rate = recipe.gan_learning_rate
    adam_G = torch.optim.Adam(G.parameters(), rate, betas=(0.0, 0.9), fused=True)
    adam_D = torch.optim.Adam(D.parameters(), rate, betas=(0.0, 0.9), fused=True)
    state: State = {"generator": G, "discriminator": D, "adam_G": adam_G, "adam_D": adam_D}
    augment = CriticAugmentation().to(device) if recipe.augment_critic else None
    if augment is not None:
        state["augmentation"] = augment
    averaged = None
    if recipe.generator_average > 0:
        average = get_ema_multi_avg_fn(recipe.generator_average)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(G, multi_avg_fn=average, use_buffers=True)
        state["averaged"] = averaged
    shown_G = averaged.module if averaged else G
    assert isinstance(shown_G, Generator)
    health = GanHealth(shown_G, D, run)

    def shown(images: Tensor, random: torch.Generator) -> Tensor:
        """Images as the critic sees them."""
        return images if augment is None else augment(images, random)

    def latents(random: torch.Generator) -> Tensor:
        return torch.randn(run.batch_size, G.latent, generator=random, device=device)

    stage = Stage(GAN, run, state)
    with stage, half_batches(device) as for_each_half:
        for round_ in stage.steps_left():
            random = run.random_at(GAN, round_)

            # --- generator update
            if round_ > 0:
                with frozen(D):
                    z = latents(random)
                    with fabric.autocast():
                        loss = generator_loss(D, shown(G(z), random))
                    descend(loss, adam_G, fabric)
                if averaged:
                    averaged.update_parameters(G)

            # --- critic updates, each on new images; G's statistics don't move
            each = recipe.critic_updates_per_generator_update
            for _ in range(min(each, recipe.critic_updates - round_ * each)):
                x = run.normals.draw(run.batch_size, random)
                z = latents(random)
                with torch.no_grad(), statistics_untouched(G), fabric.autocast():
                    fake = G(z)
                x, fake = shown(x, random), shown(fake, random)
                losses = update_critic(D, adam_D, x, fake, run, random, for_each_half)
                stage.collect(**losses)

            # --- health
            if stage.is_due(round_):
                figures = {**stage.means(), **health.figures()}
                if augment is not None:
                    gap = (figures["wasserstein_seen"], figures["wasserstein_held_out"])
                    augment.adapt(*gap, recipe.log_every / stage.steps)
                    figures["augmentation"] = float(augment.probability)
                late = round_ >= 0.2 * stage.steps
                warnings = health.warnings(figures, stage) if late else []
                stage.report(round_, figures, warnings=warnings)
            if stage.grid_is_due(round_, SAMPLE_GRIDS):
                stage.sample_grid(f"round_{round_ + 1:06d}", health.samples[:64])

        if averaged and stage.first < stage.steps:
            G.load_state_dict(averaged.module.state_dict())
        if recipe.reestimate_batch_norm and stage.first < stage.steps:
            random = run.random("statistics of G")
            shape = (recipe.batch_size, G.latent)
            batches = (
                torch.randn(shape, generator=random, device=device)
                for _ in range(run.REESTIMATE_BATCHES)
            )
            reestimate_statistics(G, batches)
        share_buffers(G, fabric)
        stage.finish()
    G.eval()
    D.eval()
    return health.warnings(health.figures(), stage)


def diversity(images: Tensor) -> float:
    """Return the mean root-mean-square distance between two images of a batch (B, C, H, W)."""
    flat = images.flatten(1).cpu().double()
    return float(torch.pdist(flat).mean()) / math.sqrt(flat.shape[1])


class GanHealth:
    """What users of GANs miss most: is the critic honest, are the samples diverse?"""

    def __init__(self, G: Generator, D: Discriminator, run: Run):
        """Draw the images and latents that all figures are of."""
        self.G, self.D = G, D
        random, count = run.random("health"), run.HEALTH_IMAGES
        self.z = torch.randn(count, G.latent, generator=random, device=run.device)
        self.training = run.normals.draw(count, random)
        self.held_out = run.held_out.draw(count, random)
        self.real_diversity = diversity(self.training)

    @property
    @torch.no_grad()
    def samples(self) -> Tensor:
        """Images of fixed latents, (n, C, H, W)."""
        with statistics_untouched(self.G):
            images: Tensor = self.G(self.z)
        return images

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Return Wasserstein estimates on training and held-out normals, and samples' diversity."""
        samples = self.samples
        seen, unseen, fake = (
            float(self.D(x).mean()) for x in (self.training, self.held_out, samples)
        )
        ratio = diversity(samples) / self.real_diversity if self.real_diversity > 0 else 1.0
        return {
            "wasserstein_seen": seen - fake,
            "wasserstein_held_out": unseen - fake,
            "diversity": ratio,
        }

    def warnings(self, figures: Mapping[str, float], stage: Stage) -> list[str]:
        """Return plain warnings; they mean something once a fifth of the training has passed."""
        warnings: list[str] = []
        if figures["diversity"] < 0.5:
            warnings += stage.warn_of_collapse("diversity", "samples", figures["diversity"])
        seen, unseen = figures["wasserstein_seen"], figures["wasserstein_held_out"]
        if seen > 0 and unseen < 0.5 * seen:
            # With 30 digits and with OCT of two eyes, where the critic did, both together were no
            # worse in AUC, or better; with hundreds of normals, where it didn't, they cost
            # (docs/benchmark_details.md, "How many normals, and what helps").
            recipe, remedy = stage.run.recipe, "more normals"
            if recipe.can_augment_normals and not recipe.augment_normals:
                remedy += ", or, for few images, augment_critic and augment_normals together"
            warnings += stage.warn(
                "overfit",
                f"the critic overfits: it sets training normals {seen:.2f} apart from samples and "
                f"held-out normals only {unseen:.2f}; {remedy}",
            )
        return warnings
