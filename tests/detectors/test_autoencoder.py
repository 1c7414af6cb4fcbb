"""AE: the order of its updates, and what it leaves."""

from __future__ import annotations

from small_runs import moved_by, optimiser_steps, small_detector, small_run


def test_each_update_moves_encoder_and_generator_together() -> None:
    detector, networks = small_detector("ae")
    with optimiser_steps() as steps:
        detector.train(networks, small_run(steps={"ae": 4}))
    assert [moved_by(optimiser, networks) for optimiser in steps] == ["GE"] * 4
    for network in networks.values():
        assert not network.training and all(p.requires_grad for p in network.parameters())
