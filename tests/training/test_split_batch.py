"""The two halves of a batch at once: the same update as the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from small_runs import CPU, SIDE, small_networks, small_run, threads
from torch import Tensor

from fanogan.training.split_batch import ForEachPart, half_batches, whole_batch
from fanogan.training.wgan import update_critic


@pytest.mark.parametrize("batch", [8, 7, 1])
def test_half_batches_make_the_same_update_as_the_whole(batch: int) -> None:
    _, D, _ = small_networks()
    x, fake = torch.randn(2, batch, 1, SIDE, SIDE, dtype=torch.float64)
    found = []

    def update(for_each_part: ForEachPart) -> None:
        own = copy.deepcopy(D).double()
        sgd = torch.optim.SGD(own.parameters(), 0.1)
        random = torch.Generator().manual_seed(1)
        figures = update_critic(own, sgd, x, fake, small_run(), random, for_each_part)
        found.append((own.state_dict(), figures))

    with threads(2), half_batches(CPU) as for_each_half:
        parts = for_each_half(lambda part: (len(part), torch.get_num_threads()), x)
        assert sum(size for size, _ in parts) == batch and torch.get_num_threads() == 2
        assert [count for _, count in parts] == ([1, 1] if batch > 1 else [2])
        for for_each_part in (whole_batch, for_each_half, for_each_half):
            update(for_each_part)
    (expected, means), (weights, figures), (again, _) = found
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-6)
        assert torch.equal(weights[name], again[name])
    for name, mean in means.items():
        torch.testing.assert_close(figures[name], mean, rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(value, D.state_dict()[name]) for name, value in expected.items())


def test_what_fails_in_a_half_fails_and_one_thread_has_no_halves() -> None:
    def work(part: Tensor) -> None:
        raise ValueError("no")

    with threads(2), half_batches(CPU) as for_each_half, pytest.raises(ValueError, match="no"):
        for_each_half(work, torch.zeros(4))
    with threads(1), half_batches(CPU) as for_each_half:
        assert for_each_half is whole_batch
