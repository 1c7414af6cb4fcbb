"""The multiply-adds of training, against counts by hand, and equal budgets."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from fanogan.models.losses import gradient_penalty
from fanogan.models.networks import Discriminator
from fanogan.recipes.recipe import load_recipe
from fanogan.training import cost as budget

SMOKE = load_recipe("smoke")
PAPER = load_recipe("paper")


def test_a_convolution_counts_once_forward_and_twice_backward() -> None:
    with torch.device("meta"):
        conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.empty(2, 3, 8, 6)
        frozen = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    forward = 2 * 5 * 8 * 6 * 3 * 9
    assert budget.multiply_adds(lambda: conv(x)) == forward
    # The images take no gradient: there is none but that of the weights.
    assert budget.multiply_adds(lambda: conv(x).sum().backward()) == 2 * forward
    given = x.clone().requires_grad_()
    assert budget.multiply_adds(lambda: conv(given).sum().backward()) == 3 * forward
    assert budget.multiply_adds(lambda: frozen(given).sum().backward()) == 2 * forward


def test_the_penaltys_second_derivatives_count() -> None:
    class Square(Discriminator):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.first, self.second = nn.Linear(6, 4, bias=False), nn.Linear(4, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = self.second(self.first(x.flatten(1)).square())
            return values.squeeze(1)

    with torch.device("meta"):
        D, x, alpha = Square(), torch.empty(1, 1, 2, 3), torch.empty(1, 1, 1, 1)
    first, second = 6 * 4, 4
    # y = W₁x, D = w₂·y²: forward by W₁ and w₂, the gradient by both; and back through each again.
    counted = budget.multiply_adds(lambda: gradient_penalty(D, x, -x, alpha).backward())
    assert 2 * (first + second) + 3 * first + second <= counted <= 6 * (first + second)


def test_costs_of_the_papers_recipe() -> None:
    """One pass is 0.9010 (E, G) or 0.8999 (D) billion, as the rearranged blocks compute it."""
    each = budget.costs(PAPER, (64, 64), 1)
    channels = list(pairwise([64, 128, 256, 512, 512]))
    sizes = list(zip(channels, (32, 16, 8, 4), strict=True))  # of a block's smaller side
    same = sum(9 * (2 * side) ** 2 * narrow**2 for (narrow, _), side in sizes)
    changing = sum(10 * side**2 * narrow * wide for (narrow, wide), side in sizes)
    edge, linear = 9 * 64**2 * 64, 128 * 8192  # the convolution at the full size, and the latent
    G = E = same + changing + edge + linear
    D = E - linear + 8192
    assert each.autoencoder == pytest.approx(3 * (E + G), rel=2e-3)
    assert each.generator == pytest.approx(3 * G + 2 * D, rel=2e-3)
    assert each.encoder == pytest.approx(3 * E + 2 * G + 3 * D, rel=2e-3)
    assert each.adversarial == pytest.approx(3 * (E + G) + 2 * D, rel=2e-3)
    assert each.adversarial_critic - each.critic == pytest.approx(E, rel=2e-3)
    # Two images forward and backward, and the penalty: nearly six passes (forward, gradient, four).
    assert each.critic == pytest.approx(G + 6 * D + 5.9 * D, rel=1e-2)


@pytest.mark.parametrize("changes", [{}, {"critic_updates": 400}, {"encoder_loss": "ziz"}])
def test_every_system_spends_the_budget_of_a_gan_and_an_encoder(changes: dict[str, int]) -> None:
    recipe = SMOKE.but(**changes)
    size = ((16, 16), 1)
    each, total = budget.costs(recipe, *size), budget.budget(recipe, *size)
    assert total == recipe.batch_size * (
        (recipe.rounds - 1) * each.generator
        + recipe.critic_updates * each.critic
        + recipe.encoder_updates * each.encoder
    )
    a_round = (
        recipe.critic_updates_per_generator_update * each.adversarial_critic + each.adversarial
    )
    for steps, cost in (
        (budget.autoencoder_updates(recipe, *size), each.autoencoder),
        (budget.adversarial_rounds(recipe, *size), a_round),
        (budget.ali_updates(recipe, *size), each.ali),
    ):
        spent = steps * recipe.batch_size * cost
        assert spent <= total < spent + recipe.batch_size * cost


def test_counting_draws_no_random_numbers() -> None:
    budget._costs.cache_clear()
    before = torch.random.get_rng_state()
    budget.costs(SMOKE, (16, 16), 1)
    assert torch.equal(torch.random.get_rng_state(), before)
