"""What training costs, so that every system can have the same: counted in multiply-adds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fanogan.models import (
    Discriminator,
    Encoder,
    Generator,
    JointDiscriminator,
    adversarial_loss,
    adversarial_terms,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_values,
    critic_values,
    encoder_loss,
    encoder_terms,
    generator_loss,
    gradient_penalty,
    image_residual,
)
from fanogan.recipes import EncoderLoss, Recipe
from fanogan.training.wgan import frozen


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
    """The multiply-adds of an update, counted while its code runs on tensors without storage.

    So all that is computed counts, and nothing else: 1 for a forward pass, about 2 for the backward
    pass (1 through a frozen network), and whatever the second derivatives of the gradient penalty
    take. Norms, activations and the optimiser's own arithmetic don't count.
    """
    counter = _Counter()
    with counter:
        update()
    return counter.multiply_adds


@dataclasses.dataclass(frozen=True)
class Costs:
    """The multiply-adds of one update of each kind, for one image."""

    generator: int
    critic: int
    encoder: int
    autoencoder: int
    adversarial: int  # of E and G together, D frozen
    adversarial_critic: int
    ali: int  # of D, then of E and G together


def costs(recipe: Recipe, sides: tuple[int, int], channels: int) -> Costs:
    """Count each update of training, with the losses that training uses."""
    return _costs(
        tuple(sides), channels, recipe.base_width, recipe.latent_size, recipe.encoder_loss
    )


@functools.cache
def _costs(
    sides: tuple[int, int], channels: int, width: int, latent: int, loss: EncoderLoss
) -> Costs:
    with torch.device("meta"):
        G = Generator(sides, channels, width, latent)
        D = Discriminator(sides, channels, width)
        E = Encoder(sides, channels, width, latent)
        ali_E = Encoder(sides, channels, width, 2 * latent)
        ali_D = JointDiscriminator(sides, channels, width, latent)
        x, z = torch.empty(1, channels, *sides), torch.empty(1, latent)
        alpha = torch.empty(1, 1, 1, 1)

    def critic(made: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            fake = made()
        real, generated = critic_values(D, x, fake)
        penalty = gradient_penalty(D, x, fake, alpha)
        _backward(generated.mean() - real.mean() + penalty)

    def with_frozen(networks: Sequence[nn.Module], term: Callable[[], Tensor]) -> None:
        with frozen(*networks):
            _backward(term())

    def encoder() -> Tensor:
        return encoder_loss(encoder_terms(loss, E, G, D, x, z), kappa=1.0)

    def ali() -> None:
        with frozen(ali_E, G):
            _backward(ali_discriminator_loss(*ali_values(ali_E, G, ali_D, x, z, z)))
        with frozen(ali_D):
            _backward(ali_generator_loss(*ali_values(ali_E, G, ali_D, x, z, z)))

    return Costs(
        generator=multiply_adds(lambda: with_frozen([D], lambda: generator_loss(D, G(z)))),
        critic=multiply_adds(lambda: critic(lambda: G(z))),
        encoder=multiply_adds(lambda: with_frozen([G, D], encoder)),
        autoencoder=multiply_adds(lambda: _backward(image_residual(x, G(E(x))).mean())),
        adversarial=multiply_adds(
            lambda: with_frozen([D], lambda: adversarial_loss(adversarial_terms(E, G, D, x)))
        ),
        adversarial_critic=multiply_adds(lambda: critic(lambda: G(E(x)))),
        ali=multiply_adds(ali),
    )


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def budget(recipe: Recipe, sides: tuple[int, int], channels: int) -> int:
    """The multiply-adds of training one GAN and one encoder: what every system may spend.

    As many updates of the generator, the critic and the encoder as the recipe asks for, each as
    ``costs`` counts it, times the batch.
    """
    each = costs(recipe, sides, channels)
    return recipe.batch_size * (
        max(recipe.rounds - 1, 0) * each.generator
        + recipe.critic_updates * each.critic
        + recipe.encoder_updates * each.encoder
    )


def autoencoder_updates(recipe: Recipe, sides: tuple[int, int], channels: int) -> int:
    """The updates of ``ae`` that the budget pays for: one at least."""
    each = recipe.batch_size * costs(recipe, sides, channels).autoencoder
    return max(1, budget(recipe, sides, channels) // each)


def adversarial_rounds(recipe: Recipe, sides: tuple[int, int], channels: int) -> int:
    """The rounds of ``advae`` that the budget pays for, each with the recipe's critic updates."""
    each = costs(recipe, sides, channels)
    critics = recipe.critic_updates_per_generator_update * each.adversarial_critic
    a_round = recipe.batch_size * (critics + each.adversarial)
    return max(1, budget(recipe, sides, channels) // a_round)


def ali_updates(recipe: Recipe, sides: tuple[int, int], channels: int) -> int:
    """The updates of ``ali`` that the budget pays for, each of D and then of E and G."""
    each = recipe.batch_size * costs(recipe, sides, channels).ali
    return max(1, budget(recipe, sides, channels) // each)
