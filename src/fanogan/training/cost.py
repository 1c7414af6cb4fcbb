"""What training costs, so that all systems can spend the same: counted in multiply-adds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    critic_loss,
    critic_values,
    encoder_loss,
    encoder_terms,
    generator_loss,
    gradient_penalty,
    wasserstein_distance,
)
from fanogan.recipes import EncoderLoss, Recipe
from fanogan.training.updates import frozen

ImageShape = tuple[int, ...]
"""Channels and sides of what the networks see, such as (1, 64, 64) for channels, rows, columns."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of convolutions and matrix products as they are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula:
            self.multiply_adds += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def multiply_adds(update: Callable[[], object]) -> int:
    """Count the multiply-adds of an update by running its code on tensors without storage.

    So all that is computed counts, and nothing else: 1 for a forward pass, about 2 for the backward
    pass (1 through a frozen network), and whatever the second derivatives of the gradient penalty
    take. Norms, activations and the optimiser's own arithmetic don't count.
    """
    counter = _Counter()
    with counter:
        update()
    return counter.multiply_adds


def backward(loss: Tensor) -> None:
    """Back-propagate a loss whose update is counted."""
    loss.backward()  # type: ignore[no-untyped-call]


def critic_update(D: Discriminator, x: Tensor, make: Callable[[], Tensor]) -> None:
    """Do what counts of a critic update: on x and on what ``make`` gives."""
    with torch.no_grad():
        fake = make()
    distance = wasserstein_distance(*critic_values(D, x, fake))
    penalty = gradient_penalty(D, x, fake, x.new_empty([1] * x.dim()))
    backward(critic_loss(distance, penalty, 1.0))


def gan_cost(recipe: Recipe, shape: ImageShape) -> int:
    """Return the multiply-adds of training the recipe's GAN."""
    generator, critic, _ = _updates(shape, recipe.base_width, recipe.latent_size, "izi_f")
    updates = max(recipe.rounds - 1, 0) * generator + recipe.critic_updates * critic
    return recipe.batch_size * updates


def encoder_cost(recipe: Recipe, shape: ImageShape) -> int:
    """Return the multiply-adds of training the recipe's encoder."""
    size = (shape, recipe.base_width, recipe.latent_size)
    return recipe.batch_size * recipe.encoder_updates * _updates(*size, recipe.encoder_loss)[2]


def steps_within_budget(recipe: Recipe, shape: ImageShape, step: int) -> int:
    """Return how many steps cost as much as the recipe's GAN and encoder together: one at least.

    Args:
        recipe: lengths and sizes.
        shape: of what the networks see.
        step: the multiply-adds of one step, of one image.
    """
    budget = gan_cost(recipe, shape) + encoder_cost(recipe, shape)
    return max(1, budget // (recipe.batch_size * step))


@functools.cache
def _updates(shape: ImageShape, width: int, latent: int, loss: EncoderLoss) -> tuple[int, int, int]:
    """Return the multiply-adds of an update of generator, critic and encoder, of one image."""
    channels, *sides = shape
    with torch.device("meta"):
        G = Generator(sides, channels, width, latent)
        D = Discriminator(sides, channels, width)
        E = Encoder(sides, channels, width, latent)
        x, z = torch.empty(1, *shape), torch.empty(1, latent)

    def generator() -> None:
        with frozen(D):
            backward(generator_loss(D, G(z)))

    def encoder() -> None:
        with frozen(G, D):
            backward(encoder_loss(encoder_terms(loss, E, G, D, x, z), kappa=1.0))

    return (
        multiply_adds(generator),
        multiply_adds(lambda: critic_update(D, x, lambda: G(z))),
        multiply_adds(encoder),
    )
