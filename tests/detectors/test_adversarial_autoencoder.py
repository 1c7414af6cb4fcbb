"""AdvAE: the order of its updates, and what moves with them."""

from __future__ import annotations

import torch
from small_runs import moved_by, optimiser_steps, small_detector, small_run
from torch import nn


def test_a_round_is_the_critics_updates_and_one_of_encoder_and_generator() -> None:
    detector, networks = small_detector("advae")
    D = networks["D"]
    before = {name: p.clone() for name, p in D.named_parameters()}
    with optimiser_steps() as steps:
        detector.train(networks, small_run(steps={"advae": 3}))
    assert [moved_by(optimiser, networks) for optimiser in steps] == ["D", "D", "D", "GE"] * 3
    assert not all(torch.equal(before[name], p) for name, p in D.named_parameters())
    for network in networks.values():
        assert not network.training and all(p.requires_grad for p in network.parameters())


def test_statistics_move_with_the_updates_of_E_and_G_only() -> None:
    detector, networks = small_detector("advae")
    detector.train(networks, small_run(steps={"advae": 3}))
    for letter in "GE":
        norm = next(m for m in networks[letter].modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.num_batches_tracked is not None
        assert int(norm.num_batches_tracked) == 3
