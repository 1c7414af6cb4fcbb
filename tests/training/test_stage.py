"""Training that breaks down stops with a sentence, and the last checkpoint stays a good one."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import RECIPE, small_networks, small_run

from fanogan.training.encoder import train_encoder
from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import StopRequest, TrainingFailed
from fanogan.training.wgan import train_gan


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    G, D, _ = small_networks()

    def interrupt(stage: str, step: int, steps: int, figures: Any) -> None:
        if step == 2 and not figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_gan(G, D, small_run(folder=folder, progress=interrupt))
    checkpoint = tmp_path / "checkpoints" / "gan.safetensors"
    good = checkpoint.read_bytes()
    too_fast = RECIPE.but(gan_learning_rate=1e6, critic_updates=60)
    with pytest.raises(TrainingFailed) as failure:
        train_gan(G, D, small_run(too_fast, folder=folder))
    sentence = str(failure.value)
    assert "training of the GAN broke down" in sentence
    assert "half the gan_learning_rate (500000)" in sentence
    assert str(checkpoint) in sentence
    assert checkpoint.read_bytes() == good
    G, D, _ = small_networks()
    adam = [torch.optim.Adam(network.parameters()) for network in (G, D)]
    state = {"generator": G, "discriminator": D, "adam_G": adam[0], "adam_D": adam[1]}
    assert folder.load_checkpoint("gan", state)[0] == 2  # where it was asked to stop
    for network in (G, D):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def test_an_infinite_moment_is_found_before_it_is_saved(tmp_path: Path) -> None:
    # Where a squared gradient overflows the loss and weights stay finite, and never move again.
    G, D, E = small_networks()
    with torch.no_grad():
        D.trunk.conv.weight.mul_(1e16)
        D.trunk.conv.bias.zero_()
    with pytest.raises(TrainingFailed, match="a moment of the optimiser isn't finite"):
        train_encoder(E, G, D, small_run(folder=RunFolder(tmp_path)))
    assert all(bool(torch.isfinite(p).all()) for p in E.parameters())
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["feature"] < math.inf
    assert not (tmp_path / "checkpoints").exists()


def test_nothing_is_said_of_a_checkpoint_where_there_is_none(tmp_path: Path) -> None:
    G, D, _ = small_networks()
    too_fast = RECIPE.but(gan_learning_rate=1e6, checkpoint_minutes=60, critic_updates=30)
    with pytest.raises(TrainingFailed) as failure:
        train_gan(G, D, small_run(too_fast, folder=RunFolder(tmp_path)))
    assert "checkpoint" not in str(failure.value)
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_asked_after_the_last_step_is_granted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_asked_twice_it_is_answered_by_who_answered_before() -> None:
    answered: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: answered.append(number))
    try:
        with pytest.raises(ZeroDivisionError), StopRequest():
            signal.raise_signal(signal.SIGINT)
            assert answered == []
            signal.raise_signal(signal.SIGINT)
            assert answered == [signal.SIGINT]
            raise ZeroDivisionError
    finally:
        signal.signal(signal.SIGINT, before)
