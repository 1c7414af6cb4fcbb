"""How the GAN learns: the order of updates, what moves with them, health, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from small_runs import (
    RECIPE,
    moved_by,
    noise,
    optimiser_steps,
    small_networks,
    small_run,
    snapshot,
    threads,
)
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import Stage
from fanogan.training.wgan import GAN, GanHealth, diversity, train_gan

# --- the order of updates, and what moves with them -----------------------------------------------


@pytest.mark.parametrize(
    ("critic_updates", "expected"),
    [(7, "DDD GDDD GD"), (6, "DDD GDDD"), (2, "DD"), (0, "")],
)
def test_order_and_number_of_updates(critic_updates: int, expected: str) -> None:
    G, D, _ = small_networks()
    recipe = RECIPE.but(critic_updates=critic_updates)
    with optimiser_steps() as steps:
        train_gan(G, D, small_run(recipe))
    found = "".join(moved_by(optimiser, {"G": G, "D": D}) for optimiser in steps)
    assert found == expected.replace(" ", "")


def test_statistics_of_G_move_with_its_own_updates_only() -> None:
    G, D, _ = small_networks()
    seen = {name: buffer.clone() for name, buffer in G.named_buffers()}
    moved: list[tuple[str, bool]] = []

    def look(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        changed = [not torch.equal(seen[name], now) for name, now in G.named_buffers()]
        assert all(changed) or not any(changed)
        moved.append((moved_by(optimiser, {"G": G, "D": D}), all(changed)))
        seen.update({name: buffer.clone() for name, buffer in G.named_buffers()})

    handle = register_optimizer_step_post_hook(look)
    train_gan(G, D, small_run())
    handle.remove()
    assert moved == [(name, name == "G") for name in "DDDGDDDGD"]
    assert all(torch.equal(seen[name], now) for name, now in G.named_buffers())


def test_gan_training_moves_both_networks_and_frees_their_gradients() -> None:
    G, D, _ = small_networks()
    for _ in range(2):  # a second time: nothing has stayed frozen
        before = snapshot(G), snapshot(D)
        train_gan(G, D, small_run())
        for network, old in zip((G, D), before, strict=True):
            assert all(p.requires_grad for p in network.parameters())
            assert not any(
                torch.equal(old[name], p) for name, p in network.named_parameters() if p.ndim > 1
            )
            assert not network.training


def test_bf16_keeps_the_penalty_in_fp32() -> None:
    G, D, _ = small_networks()
    passes: list[tuple[bool, torch.dtype]] = []
    mixed = False

    def enter(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal mixed
        mixed = inputs[0].requires_grad and inputs[0].is_leaf  # x̃ of the penalty, and no other

    def leave(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if torch.is_grad_enabled():
            passes.append((mixed, output.dtype))

    D.register_forward_pre_hook(enter)
    D.trunk.conv.register_forward_hook(leave)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    recipe = RECIPE.but(precision="bf16", critic_updates=4, critic_updates_per_generator_update=2)
    with threads(1):  # no half batches, which would pass through D twice as often
        train_gan(G, D, small_run(recipe, fabric=fabric))
    critic = [(False, torch.bfloat16), (True, torch.float32)]
    assert passes == 2 * critic + [(False, torch.bfloat16)] + 2 * critic
    for network in (G, D):
        assert all(p.dtype == torch.float32 for p in network.parameters())
        assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


# --- health -------------------------------------------------------------------------------------


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]).reshape(3, 1, 1, 2)
    pairs = [25 / 2, 1 / 2, (9 + 9) / 2]  # mean squares
    assert diversity(images) == pytest.approx(np.mean(np.sqrt(pairs)))


def test_collapsed_samples_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    nothing = RECIPE.but(critic_updates=0)
    G, D, _ = small_networks()
    alike = noise(0, 120, 136)  # next to these, any samples are diverse
    run = small_run(nothing, normals=alike, held_out=alike)
    assert train_gan(G, D, run) == []
    nn.init.zeros_(G.conv.weight)
    (warning,) = train_gan(G, D, run)
    assert "samples collapse: their diversity is 0.00 of the real images'" in warning
    assert warning in caplog.text


def test_a_critic_that_knows_the_training_images_by_heart_is_warned_of() -> None:
    recipe = RECIPE.but(
        critic_updates=20, critic_updates_per_generator_update=10, gan_learning_rate=5e-3
    )
    found = []
    for held_out in (noise(1, 150, 250), noise(1, 0, 100)):
        G, D, _ = small_networks()
        figures: dict[str, float] = {}
        run = small_run(
            recipe,
            normals=noise(0, 150, 250),
            held_out=held_out,
            progress=lambda stage, step, steps, now, figures=figures: figures.update(now),
        )
        warnings = train_gan(G, D, run)
        found.append([warning for warning in warnings if "the critic overfits" in warning])
        assert figures["wasserstein_seen"] > 0
    assert not found[0]
    assert found[1][0].endswith(
        "; more normals, or, for few images, augment_critic and augment_normals together"
    )


@pytest.mark.parametrize("change", [{"augment_normals": True}, {"depth_channel": True}])
def test_augmentation_is_no_remedy_where_it_is_on_or_cannot_be(change: dict[str, bool]) -> None:
    G, D, _ = small_networks()
    run = small_run(RECIPE.but(**change))
    figures = {"diversity": 1.0, "wasserstein_seen": 1.0, "wasserstein_held_out": 0.1}
    (warning,) = GanHealth(G, D, run).warnings(figures, Stage(GAN, run, {}))
    assert warning.endswith("held-out normals only 0.10; more normals")


def test_metrics_hold_health_and_losses(tmp_path: Path) -> None:
    G, D, _ = small_networks()
    train_gan(G, D, small_run(folder=RunFolder(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("gan", 1), ("gan", 2), ("gan", 3)]
    assert set(lines[0]) >= {
        *("wasserstein", "penalty", "wasserstein_seen", "wasserstein_held_out"),
        *("diversity", "warnings", "seconds"),
    }
    assert len(list((tmp_path / "samples").glob("round_*.png"))) == 3
    assert list((tmp_path / "events").iterdir())
