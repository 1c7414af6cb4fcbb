"""How the networks learn: ``train_gan`` (section 2.1), then ``train_encoder`` (section 2.2).

Plain loops over Lightning Fabric. Lengths are counted in critic updates, encoder updates and
rounds; a round is one generator update, skipped in the first, then the critic's. All random numbers
come from (seed, stage, step), so a run that is killed and resumed ends bit-equal on the CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fanogan.data import Patches, seeded
from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    critic_values,
    encoder_loss,
    encoder_terms,
    generator_loss,
    gradient_penalty,
)
from fanogan.recipes import Recipe
from fanogan.training.halves import ByHalves, halves, whole
from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import Progress, Stage, no_progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

HEALTH_IMAGES = 256
REESTIMATE_BATCHES = 200
SAMPLE_GRIDS = 10


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSprop as TensorFlow 1 defines it, with which the authors trained the encoder.

    ms ← .9 ms + .1 g², from ms = 1; p ← p − lr · g / √(ms + 1e-10). ``torch.optim.RMSprop`` starts
    at 0, decays by .99 and adds its epsilon outside the root.
    """

    def __init__(self, params: Any, lr: float):
        """Make it for parameters and a learning rate."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if p not in self.state:
                    self.state[p]["mean_square"] = torch.ones_like(p)
            gradients = [p.grad for p in parameters]
            means = [self.state[p]["mean_square"] for p in parameters]
            torch._foreach_mul_(means, 0.9)
            torch._foreach_addcmul_(means, gradients, gradients, 0.1)
            root = torch._foreach_add(means, 1e-10)
            torch._foreach_sqrt_(root)
            torch._foreach_addcdiv_(parameters, gradients, root, -group["lr"])


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """The parameters of ``networks`` take no gradients; afterwards they do as before."""
    parameters = [p for network in networks for p in network.parameters()]
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


@contextlib.contextmanager
def statistics_untouched(*networks: nn.Module) -> Iterator[None]:
    """Batch norms use the batch, and their running statistics stay as they are."""
    norms = [m for net in networks for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set the running statistics of batch norms to their plain mean over ``batches``.

    With momentum .01 they still hold 28 % of their initial values after 125 updates: too much for
    a short recipe, whose encoder would then train on another generator.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    network.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, fabric: Fabric) -> None:
    """Back-propagate and step."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    step(optimiser, fabric)


def step(optimiser: torch.optim.Optimizer, fabric: Fabric) -> None:
    """Step; with several processes, on the mean of their gradients."""
    if fabric.world_size > 1:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        mean = fabric.all_reduce(joined, reduce_op="mean")
        assert isinstance(mean, Tensor)
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
    optimiser.step()


def share_buffers(network: nn.Module, fabric: Fabric) -> None:
    """Give all processes the statistics of the first: each has seen its own part of the batches."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            buffer.copy_(fabric.broadcast(buffer))


def update_critic(
    D: Discriminator,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    fake: Tensor,
    recipe: Recipe,
    random: torch.Generator,
    fabric: Fabric,
    by_halves: ByHalves = whole,
) -> dict[str, Tensor]:
    """One update of the critic: the Wasserstein distance it estimates, and its gradient penalty."""
    batch = len(x)
    alpha = torch.rand(batch, 1, 1, 1, generator=random, device=x.device)
    optimiser.zero_grad()

    def share(x: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        """What a part of the batch adds to both means, its gradients added up in D."""
        with fabric.autocast():
            real, generated = critic_values(D, x, fake)
        wasserstein = (real.float() - generated.float()).sum() / batch
        # Outside autocast: fp32.
        penalty = len(x) / batch * gradient_penalty(D, x, fake, alpha)
        (recipe.gradient_penalty_weight * penalty - wasserstein).backward()  # type: ignore[no-untyped-call]
        return torch.stack([wasserstein, penalty]).detach()

    # Whichever half comes first, their sum is the same.
    wasserstein, penalty = torch.stack(by_halves(share, x, fake, alpha)).sum(0)
    step(optimiser, fabric)
    return {"wasserstein": wasserstein, "penalty": penalty}


def diversity(images: Tensor) -> float:
    """Mean root-mean-square distance between two images of a batch (B, C, H, W)."""
    flat = images.flatten(1).cpu().double()
    return float(torch.pdist(flat).mean()) / math.sqrt(flat.shape[1])


def train_gan(
    G: Generator,
    D: Discriminator,
    normals: Patches,
    held_out: Patches,
    recipe: Recipe,
    *,
    fabric: Fabric,
    seed: int = 0,
    run: RunFolder | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Train G and D as a Wasserstein GAN with gradient penalty (Gulrajani et al. 2017).

    Args:
        G: the generator, trained in place and left in eval mode.
        D: the critic, likewise.
        normals: what it learns from.
        held_out: normals that it doesn't learn from; only the health figures use them.
        recipe: lengths, rates, penalty.
        fabric: device, precision, processes.
        seed: of all random numbers.
        run: where metrics, samples and checkpoints go; a checkpoint there is resumed.
        progress: called after each round.

    Returns:
        The health warnings of the trained networks.

    Raises:
        TrainingFailed: a loss or weight isn't finite.
        KeyboardInterrupt: it was asked to stop, and has saved a checkpoint.
    """
    # --- networks and optimisers
    device = fabric.device
    G.to(device).train()
    D.to(device).train()
    adam_G = torch.optim.Adam(
        G.parameters(), recipe.gan_learning_rate, betas=(0.0, 0.9), fused=True
    )
    adam_D = torch.optim.Adam(
        D.parameters(), recipe.gan_learning_rate, betas=(0.0, 0.9), fused=True
    )
    state: dict[str, nn.Module | torch.optim.Optimizer] = {
        "generator": G,
        "discriminator": D,
        "adam_G": adam_G,
        "adam_D": adam_D,
    }
    batch = recipe.batch_size // fabric.world_size
    health = _GanHealth(G, D, normals, held_out, seed)

    stage = Stage("gan", recipe.rounds, state, recipe, fabric, run, progress)
    with stage, halves(device) as by_halves:
        for round_ in stage.steps_left():
            random = seeded(device, seed, "gan", round_, fabric.global_rank)

            # --- generator update
            if round_ > 0:
                with frozen(D):
                    z = torch.randn(batch, G.latent, generator=random, device=device)
                    with fabric.autocast():
                        loss = generator_loss(D, G(z))
                    descend(loss, adam_G, fabric)

            # --- critic updates, on fresh data; G's statistics don't move
            left = recipe.critic_updates - round_ * recipe.critic_updates_per_generator_update
            for _ in range(min(recipe.critic_updates_per_generator_update, left)):
                x = normals.draw(batch, random)
                z = torch.randn(batch, G.latent, generator=random, device=device)
                with torch.no_grad(), statistics_untouched(G), fabric.autocast():
                    fake = G(z).float()
                stage.collect(
                    **update_critic(D, adam_D, x, fake, recipe, random, fabric, by_halves)
                )

            # --- health
            if stage.tick_due(round_):
                figures = {**stage.means(), **health.figures()}
                late = round_ >= 0.2 * stage.steps
                warnings = health.warnings(figures, stage) if late else []
                stage.report(round_, figures, warnings=warnings)
            grid_every = -(-stage.steps // SAMPLE_GRIDS)
            last = round_ + 1 == stage.steps
            if run and stage.leads and ((round_ + 1) % grid_every == 0 or last):
                run.sample_grid(f"round_{round_ + 1:06d}", health.samples[:64].cpu().numpy())

        if recipe.reestimate_batch_norm and stage.first < stage.steps:
            random = seeded(device, seed, "statistics of G")
            reestimate_statistics(
                G,
                (
                    torch.randn(recipe.batch_size, G.latent, generator=random, device=device)
                    for _ in range(REESTIMATE_BATCHES)
                ),
            )
        share_buffers(G, fabric)
        stage.finish()
    G.eval()
    D.eval()
    return health.warnings(health.figures(), stage)


class _GanHealth:
    """What users of GANs miss most: is the critic honest, are the samples diverse?"""

    def __init__(
        self, G: Generator, D: Discriminator, normals: Patches, held_out: Patches, seed: int
    ):
        self.G, self.D = G, D
        random = seeded(normals.device, seed, "health")
        self.z = torch.randn(HEALTH_IMAGES, G.latent, generator=random, device=normals.device)
        self.seen = normals.draw(HEALTH_IMAGES, random)
        self.unseen = held_out.draw(HEALTH_IMAGES, random)
        self.real_diversity = diversity(self.seen)

    @property
    @torch.no_grad()
    def samples(self) -> Tensor:
        with statistics_untouched(self.G):
            images: Tensor = self.G(self.z)
        return images

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Wasserstein estimates on training and held-out normals, and the samples' diversity."""
        samples = self.samples
        seen, unseen, fake = (float(self.D(x).mean()) for x in (self.seen, self.unseen, samples))
        ratio = diversity(samples) / self.real_diversity if self.real_diversity > 0 else 1.0
        return {
            "wasserstein_seen": seen - fake,
            "wasserstein_held_out": unseen - fake,
            "diversity": ratio,
        }

    def warnings(self, figures: Mapping[str, float], stage: Stage) -> list[str]:
        """Plain warnings; meaningful once a fifth of the training has passed."""
        found: list[str] = []
        if figures["diversity"] < 0.5:
            found += stage.warn(
                "collapse",
                f"samples collapse: their diversity is {figures['diversity']:.2f} of the real "
                "images'; look at the sample grids, and train longer or with a lower "
                "gan_learning_rate",
            )
        seen, unseen = figures["wasserstein_seen"], figures["wasserstein_held_out"]
        if seen > 0 and unseen < 0.5 * seen:
            found += stage.warn(
                "overfit",
                f"the critic overfits: it sets training normals {seen:.2f} apart from samples and "
                f"held-out normals only {unseen:.2f}; more normals, or a shorter recipe",
            )
        return found


def train_encoder(
    E: Encoder,
    G: Generator,
    D: Discriminator,
    normals: Patches,
    held_out: Patches,
    recipe: Recipe,
    *,
    fabric: Fabric,
    seed: int = 0,
    run: RunFolder | None = None,
    progress: Progress = no_progress,
) -> None:
    """Train E into the latent space of a trained GAN (Eqs. 1, 2, 3: ``recipe.encoder_loss``).

    G and D are left bit-equal, buffers included: they run in eval mode and take no gradients.
    Arguments and errors as for ``train_gan``.
    """
    # --- networks and optimiser
    device = fabric.device
    G.to(device).eval()
    D.to(device).eval()
    E.to(device).train()
    rmsprop = TensorFlowRMSprop(E.parameters(), recipe.encoder_learning_rate)
    state: dict[str, nn.Module | torch.optim.Optimizer] = {"encoder": E, "rmsprop": rmsprop}
    batch = recipe.batch_size // fabric.world_size
    unseen = held_out.draw(HEALTH_IMAGES, seeded(device, seed, "encoder health"))
    unseen_z = torch.randn(
        HEALTH_IMAGES, G.latent, generator=seeded(device, seed, "encoder z"), device=device
    )

    stage = Stage("encoder", recipe.encoder_updates, state, recipe, fabric, run, progress)
    with frozen(G, D), stage:
        for update in stage.steps_left():
            # --- encoder update
            random = seeded(device, seed, "encoder", update, fabric.global_rank)
            x = normals.draw(batch, random)
            z = torch.randn(batch, G.latent, generator=random, device=device)
            keep = None
            if recipe.denoising > 0:
                keep = torch.rand(batch, 1, *x.shape[2:], generator=random, device=device)
                keep = (keep >= recipe.denoising).to(x.dtype)
            with fabric.autocast():
                terms = encoder_terms(recipe.encoder_loss, E, G, D, x, z, keep)
                loss = encoder_loss(terms, recipe.kappa)
            descend(loss, rmsprop, fabric)
            stage.collect(**terms)

            # --- health
            if stage.tick_due(update):
                means = stage.means()
                with torch.no_grad(), statistics_untouched(E):
                    held = encoder_terms(recipe.encoder_loss, E, G, D, unseen, unseen_z)
                held_figures = {f"{name}_held_out": float(value) for name, value in held.items()}
                stage.report(update, {**means, **held_figures})

        if recipe.reestimate_batch_norm and stage.first < stage.steps:
            random = seeded(device, seed, "statistics of E")
            reestimate_statistics(
                E, (normals.draw(recipe.batch_size, random) for _ in range(REESTIMATE_BATCHES))
            )
        share_buffers(E, fabric)
        stage.finish()
    E.eval()
