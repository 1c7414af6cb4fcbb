"""The iterative search: Adam on Eq. 3 with stochastic clipping, each latent on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stripes import IMAGES, TINY, as_seen, fitted, stripes

from fanogan.data import seeded
from fanogan.detectors import Iterative, with_networks_of
from fanogan.detectors.iterative import LatentSearch
from fanogan.scoring import Model, score


def model_with(**changes: Any) -> Model:
    """The fitted model with another search."""
    return with_networks_of(fitted("iterative").model, Iterative(TINY.but(**changes), device="cpu"))


def search(model: Model, x: torch.Tensor) -> torch.Tensor:
    assert isinstance(model.score, LatentSearch)
    return model.score.search(x)


def test_the_search_is_adam_on_equation_3_with_stochastic_clipping() -> None:
    model = model_with(search_updates=8, search_learning_rate=0.8)
    G, D = (model.networks[letter] for letter in "GD")
    x = as_seen(IMAGES[:1])
    random = seeded(torch.device("cpu"), 0, "search")
    z = 2 * torch.rand(16, generator=random) - 1
    m, v = torch.zeros(16), torch.zeros(16)
    visited: list[tuple[float, torch.Tensor]] = []
    drawn_anew = 0
    for step in range(1, 10):
        z.requires_grad_()
        x_hat = G(z[None])
        feature = (D.features(x) - D.features(x_hat)).square().mean()
        loss = (x - x_hat).square().mean() + 0.7 * feature
        visited.append((float(loss.detach()), z.detach()))
        (gradient,) = torch.autograd.grad(loss, z)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.8 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        z = z.detach() - rate
        anew = 2 * torch.rand(16, generator=random) - 1
        outside = z.abs() > 1
        drawn_anew += int(outside.sum())
        z, m, v = torch.where(outside, anew, z), m * ~outside, v * ~outside
    assert drawn_anew > 3
    losses = [loss for loss, _ in visited]
    best = losses.index(min(losses))
    assert 0 < best < 8  # neither where it began nor where it ended
    z = visited[best][1]
    found = search(model, x)
    torch.testing.assert_close(found[0], z, rtol=1e-3, atol=1e-3)
    assert bool((found.abs() <= 1).all())
    with torch.no_grad():
        x_hat = G(found)
        expected = (x - x_hat).square().mean()
    assert score(model, IMAGES[:1]).image[0] == pytest.approx(float(expected), rel=1e-4)


def test_the_search_comes_nearer() -> None:
    begun, searched = (
        score(model_with(search_updates=updates, search_learning_rate=0.02), IMAGES).total
        for updates in (1, 40)
    )
    assert (searched < begun).all()


def test_a_latent_stays_once_its_own_patience_is_over() -> None:
    x = as_seen(stripes(16, seed=2))
    patient, never = (
        model_with(search_updates=25, search_patience=patience) for patience in (3, 0)
    )
    together = search(patient, x)
    assert not torch.equal(together, search(never, x))
    for index in (0, 7):
        alone = search(patient, x[[index] * 16])
        torch.testing.assert_close(alone[0], together[index])
    unending = model_with(search_updates=25, search_patience=26)
    assert torch.equal(search(unending, x), search(never, x))
