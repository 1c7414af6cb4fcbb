"""The multiply-adds of training, against counts by hand, and equal budgets."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors import new_detector
from fanogan.models.losses import gradient_penalty
from fanogan.models.networks import Discriminator
from fanogan.recipes.recipe import Recipe, load_recipe
from fanogan.training import cost
from fanogan.training.cost import encoder_cost, gan_cost, multiply_adds

SMOKE = load_recipe("smoke")
PAPER = load_recipe("paper")


def seen(side: int) -> Preprocessing:
    """Grey images of this size."""
    return Preprocessing("uint8", 0.0, 255.0, 1, None, (side, side))


def cost_and_step(name: str, recipe: Recipe, side: int) -> tuple[int, int]:
    """The multiply-adds of a detector with one stage, and those of an update or round of it."""
    detector = new_detector(name, recipe, device="cpu")
    (steps,) = detector.steps(seen(side)).values()
    total = detector.training_cost(seen(side))
    step, rest = divmod(total, steps)
    assert rest == 0
    return total, step


def test_a_convolution_counts_once_forward_and_twice_backward() -> None:
    with torch.device("meta"):
        conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.empty(2, 3, 8, 6)
        frozen = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    forward = 2 * 5 * 8 * 6 * 3 * 9
    assert multiply_adds(lambda: conv(x)) == forward
    # The images take no gradient: there is none but that of the weights.
    assert multiply_adds(lambda: conv(x).sum().backward()) == 2 * forward
    given = x.clone().requires_grad_()
    assert multiply_adds(lambda: conv(given).sum().backward()) == 3 * forward
    assert multiply_adds(lambda: frozen(given).sum().backward()) == 2 * forward


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
    counted = multiply_adds(lambda: gradient_penalty(D, x, -x, alpha).backward())
    assert 2 * (first + second) + 3 * first + second <= counted <= 6 * (first + second)


def test_costs_of_the_papers_recipe() -> None:
    """One pass is 0.9010 (E, G) or 0.8999 (D) billion, as the rearranged blocks compute it."""
    generator, critic, encoder = cost._updates((1, 64, 64), 64, 128, "izi_f")
    channels = list(pairwise([64, 128, 256, 512, 512]))
    sizes = list(zip(channels, (32, 16, 8, 4), strict=True))  # of a block's smaller side
    same = sum(9 * (2 * side) ** 2 * narrow**2 for (narrow, _), side in sizes)
    changing = sum(10 * side**2 * narrow * wide for (narrow, wide), side in sizes)
    edge, linear = 9 * 64**2 * 64, 128 * 8192  # the convolution at the full size, and the latent
    G = E = same + changing + edge + linear
    D = E - linear + 8192
    assert generator == pytest.approx(3 * G + 2 * D, rel=2e-3)
    assert encoder == pytest.approx(3 * E + 2 * G + 3 * D, rel=2e-3)
    # Two images forward and backward, and the penalty: nearly six passes (forward, gradient, four).
    assert critic == pytest.approx(G + 6 * D + 5.9 * D, rel=1e-2)
    per_image = {name: cost_and_step(name, PAPER, 64)[1] / 64 for name in ("ae", "advae")}
    assert per_image["ae"] == pytest.approx(3 * (E + G), rel=2e-3)
    # Five updates of the critic, whose images are G(E(x)), and one of E and G.
    a_round = 5 * (critic + E) + 3 * (E + G) + 2 * D
    assert per_image["advae"] == pytest.approx(a_round, rel=2e-3)


@pytest.mark.parametrize("sides", [(1, 64), (64, 64, 64)])
def test_costs_with_one_and_three_sides(sides: tuple[int, ...]) -> None:
    generator, critic, encoder = cost._updates((1, *sides), 64, 128, "izi_f")
    n = sum(side > 1 for side in sides)
    channels = list(pairwise([64, 128, 256, 512, 512]))
    sizes = list(zip(channels, (32, 16, 8, 4), strict=True))  # of a block's smaller side
    same = sum(3**n * (2 * side) ** n * narrow**2 for (narrow, _), side in sizes)
    changing = sum((3**n + 1) * side**n * narrow * wide for (narrow, wide), side in sizes)
    features = 512 * 4**n
    D = same + changing + 3**n * 64**n * 64 + features
    G = E = D - features + 128 * features
    assert generator == pytest.approx(3 * G + 2 * D, rel=5e-3)
    assert encoder == pytest.approx(3 * E + 2 * G + 3 * D, rel=5e-3)
    assert critic == pytest.approx(G + 6 * D + 5.9 * D, rel=3e-2)


@pytest.mark.parametrize("changes", [{}, {"critic_updates": 400}, {"encoder_loss": "ziz"}])
def test_every_system_spends_the_budget_of_a_gan_and_an_encoder(changes: dict[str, int]) -> None:
    recipe, shape = SMOKE.but(**changes), (1, 16, 16)
    total = gan_cost(recipe, shape) + encoder_cost(recipe, shape)
    size = (recipe.base_width, recipe.latent_size)
    generator, critic, encoder = cost._updates(shape, *size, recipe.encoder_loss)
    assert total == recipe.batch_size * (
        (recipe.rounds - 1) * generator
        + recipe.critic_updates * critic
        + recipe.encoder_updates * encoder
    )
    for name in ("ae", "advae", "ali"):
        spent, step = cost_and_step(name, recipe, 16)
        assert spent <= total < spent + step


@pytest.mark.parametrize("name", ["izi_f", "izi", "ziz", "critic", "iterative"])
def test_what_builds_on_a_gan_costs_the_gan_and_its_encoder(name: str) -> None:
    detector = new_detector(name, SMOKE, device="cpu")
    expected = gan_cost(SMOKE, (1, 16, 16))
    if name not in ("critic", "iterative"):
        expected += encoder_cost(detector.recipe, (1, 16, 16))
    assert detector.training_cost(seen(16)) == expected


def test_counting_draws_no_random_numbers() -> None:
    cost._updates.cache_clear()
    before = torch.random.get_rng_state()
    for name in ("izi_f", "ae", "advae", "ali", "pca"):
        new_detector(name, SMOKE, device="cpu").training_cost(seen(16))
    assert torch.equal(torch.random.get_rng_state(), before)
