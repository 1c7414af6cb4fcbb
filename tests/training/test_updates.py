"""What the training loops share: the encoder's optimiser, and the statistics of batch norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_runs import RECIPE, SmallRun, small_networks, small_run
from torch import nn

from fanogan.training.encoder import train_encoder
from fanogan.training.updates import (
    TensorFlowRMSprop,
    reestimate_statistics,
    statistics_untouched,
)
from fanogan.training.wgan import train_gan

# --- RMSprop ------------------------------------------------------------------------------------


def test_rmsprop_is_tensorflows() -> None:
    random = np.random.default_rng(0)
    start, rate = random.normal(size=5), 0.01
    gradients = random.normal(size=(6, 5)) * 10.0 ** np.arange(-2, 3)
    expected, mean_square = start.copy(), np.ones(5)
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    idle = nn.Parameter(torch.ones(2))
    optimiser = TensorFlowRMSprop([weight, idle], rate)
    for gradient in gradients:
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected -= rate * gradient / np.sqrt(mean_square + 1e-10)
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimiser.step()
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5)
    assert torch.equal(idle, torch.ones(2))


def test_rmsprop_adds_its_epsilon_inside_the_root() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = TensorFlowRMSprop([weight], 1.0)
    for _ in range(500):  # until nothing is left of the 1 that the running square starts at
        weight.grad = torch.full((1,), 1e-6, dtype=torch.float64)
        before = weight.item()
        optimiser.step()
    assert before - weight.item() == pytest.approx(1e-6 / math.sqrt(1e-12 + 1e-10), rel=1e-6)


def test_rmsprop_is_not_torchs() -> None:
    ours, theirs = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    for weight, optimiser in (
        (ours, TensorFlowRMSprop([ours], 0.01)),
        (theirs, torch.optim.RMSprop([theirs], 0.01, alpha=0.9, eps=1e-10)),
    ):
        weight.grad = torch.tensor([0.1])
        optimiser.step()
    assert ours.item() == pytest.approx(-0.01 * 0.1 / math.sqrt(0.9 + 0.001), rel=1e-5)
    assert theirs.item() == pytest.approx(-0.01 / math.sqrt(0.1), rel=1e-3)


# --- statistics ---------------------------------------------------------------------------------


def test_reestimated_statistics_make_train_and_eval_mode_agree() -> None:
    G, D, _ = small_networks()
    train_gan(G, D, small_run())
    z = torch.randn(512, G.latent, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def gap() -> float:
        images = G.eval()(z)
        with statistics_untouched(G):
            return float((G.train()(z) - images).abs().mean())

    before = gap()
    random = torch.Generator().manual_seed(2)
    G.eval()
    reestimate_statistics(G, (torch.randn(32, G.latent, generator=random) for _ in range(50)))
    assert not G.training
    after = gap()
    assert before > 0.1
    assert after < 0.02
    norms = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.01}
    assert all(norm.track_running_stats for norm in norms)


def test_short_recipes_reestimate_and_the_papers_does_not() -> None:
    tracked = []
    for asked in (False, True):
        G, D, E = small_networks()
        recipe = RECIPE.but(reestimate_batch_norm=asked)
        train_gan(G, D, small_run(recipe))
        train_encoder(E, G, D, small_run(recipe))
        for network in (G, E):
            norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
            assert norm.num_batches_tracked is not None
            tracked.append(int(norm.num_batches_tracked))
    # Two generator updates and four of the encoder, or the batches of the re-estimation.
    assert tracked == [2, 4, SmallRun.REESTIMATE_BATCHES, SmallRun.REESTIMATE_BATCHES]
