"""ALI: the order of its updates, what moves with them, and its stochastic encoder."""

from __future__ import annotations

import torch
from small_runs import moved_by, optimiser_steps, small_detector, small_run
from torch import nn


def test_an_update_is_one_of_the_discriminator_and_one_of_encoder_and_generator() -> None:
    detector, networks = small_detector("ali")
    D = networks["D"]
    before = {name: p.clone() for name, p in D.named_parameters()}
    with optimiser_steps() as steps:
        detector.train(networks, small_run(steps={"ali": 4}))
    assert [moved_by(optimiser, networks) for optimiser in steps] == ["D", "GE"] * 4
    assert not all(torch.equal(before[name], p) for name, p in D.named_parameters())
    for network in networks.values():
        assert not network.training and all(p.requires_grad for p in network.parameters())


def test_statistics_move_with_the_updates_of_E_and_G_only() -> None:
    detector, networks = small_detector("ali")
    detector.train(networks, small_run(steps={"ali": 4}))
    for letter in "GE":
        norm = next(m for m in networks[letter].modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.num_batches_tracked is not None
        assert int(norm.num_batches_tracked) == 4


def test_the_encoder_gives_mean_and_deviation_and_its_mean_scores() -> None:
    detector, networks = small_detector("ali")
    latent = detector.recipe.latent_size
    x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for network in networks.values():
            network.eval()
        encoded = networks["E"](x)
        assert encoded.shape == (5, 2 * latent)
        _, maps = detector.score_module(networks, {})(x)
        torch.testing.assert_close(maps[:, 1:], networks["G"](encoded[:, :latent]))
