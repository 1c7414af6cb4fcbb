"""How the encoder learns: G and D stay as they are, pixels are hidden, figures are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from small_runs import RECIPE, noise, small_networks, small_run, snapshot, unchanged

from fanogan.training.encoder import train_encoder
from fanogan.training.stage import Stage
from fanogan.training.wgan import train_gan


@pytest.mark.parametrize("kind", ["izi_f", "izi", "ziz"])
def test_encoder_training_leaves_G_and_D_bit_equal(kind: Any) -> None:
    G, D, E = small_networks()
    train_gan(G, D, small_run())
    before, untrained = (snapshot(G), snapshot(D)), snapshot(E)
    recipe = RECIPE.but(encoder_loss=kind, reestimate_batch_norm=True)
    train_encoder(E, G, D, small_run(recipe))
    assert unchanged(G, before[0]) and unchanged(D, before[1])
    assert not unchanged(E, untrained)
    for network in (G, D):
        assert not network.training
        assert all(p.requires_grad for p in network.parameters())
    assert not E.training


def test_denoising_trains_another_encoder_and_none_draws_nothing() -> None:
    encoders = []
    for share in (0.0, 0.2):
        G, D, E = small_networks()
        seen: list[float] = []
        E.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(float((inputs[0] == 0).float().mean()))
        )
        train_encoder(E, G, D, small_run(RECIPE.but(denoising=share)))
        # In turn the encoder sees a batch, and held-out normals as they are; then both as they are.
        assert seen[1:8:2] == [0.0] * 4 and seen[8:] == [0.0] * 2
        assert all(abs(zeros - share) < 0.03 for zeros in seen[:8:2])
        encoders.append(snapshot(E))
    assert not torch.equal(encoders[0]["linear.weight"], encoders[1]["linear.weight"])


def test_an_encoder_that_overfits_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    G, D, E = small_networks()
    grey = noise(0, 118, 138)  # as x̂ is so early
    alike = small_run(normals=grey, held_out=noise(1, 118, 138))
    assert train_encoder(E, G, D, alike) == []
    warnings = train_encoder(E, G, D, small_run(normals=grey))
    assert [text.partition(" of training")[0] for text in warnings] == [
        "the encoder overfits: the image residual"
    ]
    assert [text[:42] for text in caplog.messages] == [warnings[0][:42]]  # while it trains, once


@pytest.mark.parametrize(
    ("residual", "seen", "unseen", "warned"),
    [
        ("image", 0.021, 0.040, True),  # of 66 images
        ("feature", 0.0096, 0.057, True),
        ("image", 0.0202, 0.0204, False),  # of the demo's 176 B-scans
        ("feature", 0.0167, 0.0176, False),
    ],
)
def test_what_is_an_overfit(residual: str, seen: float, unseen: float, warned: bool) -> None:
    stage = Stage("encoder", small_run(), {})
    assert bool(stage.warn_of_overfit(residual, seen, unseen)) == warned


def test_encoder_reports_each_term_on_training_and_held_out_normals() -> None:
    G, D, E = small_networks()
    lines: list[tuple[str, int, int, set[str]]] = []

    def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        lines.append((stage, step, steps, set(figures)))

    train_encoder(E, G, D, small_run(RECIPE.but(encoder_updates=2), progress=progress))
    figures = {"image", "feature", "image_held_out", "feature_held_out"}
    assert lines == [
        ("encoder", step, 2, shown) for step in (1, 2) for shown in (figures, set[str]())
    ]
