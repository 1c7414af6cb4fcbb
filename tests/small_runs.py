"""Training runs that end at once: images of noise, networks of a few channels, on the CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fanogan.data.patches import Patches
from fanogan.data.preprocessing import Preprocessing
from fanogan.detectors import Detector, new_detector
from fanogan.models.networks import Discriminator, Encoder, Generator
from fanogan.recipes.recipe import Recipe, load_recipe
from fanogan.training.encoder import ENCODER
from fanogan.training.run import Run
from fanogan.training.wgan import GAN

CPU = torch.device("cpu")
SIDE = 16
PREPROCESSING = Preprocessing("uint8", 0.0, 255.0, 1, None, (SIDE, SIDE))
RECIPE = load_recipe("smoke").but(
    critic_updates=7,
    critic_updates_per_generator_update=3,
    encoder_updates=4,
    log_every=1,
    reestimate_batch_norm=False,
)


class SmallRun(Run):
    """A run with fewer images in its figures."""

    HEALTH_IMAGES = 64
    REESTIMATE_BATCHES = 20


def noise(seed: int, low: int = 0, high: int = 256) -> Patches:
    """24 images of noise, seen whole."""
    random = np.random.default_rng(seed)
    images = random.integers(low, high, (24, 1, SIDE, SIDE), dtype=np.uint8)
    return Patches(list(images), PREPROCESSING, flip=False, device=CPU)


@functools.cache
def cpu_fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def small_run(
    recipe: Recipe = RECIPE,
    *,
    normals: Patches | None = None,
    held_out: Patches | None = None,
    steps: Mapping[str, int] | None = None,
    fabric: Fabric | None = None,
    **others: Any,
) -> SmallRun:
    """A run on noise; ``steps`` are those of f-AnoGAN unless given."""
    steps = steps or {GAN: recipe.rounds, ENCODER: recipe.encoder_updates}
    normals, held_out = normals or noise(0), held_out or noise(1)
    return SmallRun(recipe, fabric or cpu_fabric(), 0, normals, held_out, steps, **others)


def small_networks() -> tuple[Generator, Discriminator, Encoder]:
    """G, D and E of the recipe, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = ((SIDE, SIDE), 1, RECIPE.base_width)
        return (
            Generator(*size, RECIPE.latent_size),
            Discriminator(*size),
            Encoder(*size, RECIPE.latent_size),
        )


def small_detector(name: str, recipe: Recipe = RECIPE) -> tuple[Detector, dict[str, nn.Module]]:
    """An untrained detector and its networks, the same each time."""
    detector = new_detector(name, recipe, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return detector, detector.networks(PREPROCESSING)


@contextlib.contextmanager
def optimiser_steps() -> Iterator[list[torch.optim.Optimizer]]:
    """Collect optimisers, in the order of their steps."""
    steps: list[torch.optim.Optimizer] = []
    handle = register_optimizer_step_post_hook(lambda optimiser, *_: steps.append(optimiser))
    try:
        yield steps
    finally:
        handle.remove()


def moved_by(optimiser: torch.optim.Optimizer, networks: Mapping[str, nn.Module]) -> str:
    """The letters of the networks whose parameters are those that an optimiser moves."""
    moved = {p for group in optimiser.param_groups for p in group["params"]}
    letters = [name for name, each in networks.items() if moved & set(each.parameters())]
    assert moved == {p for letter in letters for p in networks[letter].parameters()}
    return "".join(letters)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and statistics."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def unchanged(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], now) for name, now in network.state_dict().items())
