"""How the networks learn: optimisers, the order of updates, statistics, health, break-downs."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fanogan.data.patches import Patches
from fanogan.data.preprocessing import Preprocessing
from fanogan.models.networks import Discriminator, Encoder, Generator
from fanogan.recipes.recipe import load_recipe
from fanogan.training import wgan as training
from fanogan.training.halves import ByHalves, halves, whole
from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import TrainingFailed
from fanogan.training.wgan import (
    TensorFlowRMSprop,
    diversity,
    reestimate_statistics,
    statistics_untouched,
    train_encoder,
    train_gan,
    update_critic,
)

CPU = torch.device("cpu")
SIDE = 16
RECIPE = load_recipe("smoke").but(
    critic_updates=7,
    critic_updates_per_generator_update=3,
    encoder_updates=4,
    log_every=1,
    reestimate_batch_norm=False,
)


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "HEALTH_IMAGES", 64)
    monkeypatch.setattr(training, "REESTIMATE_BATCHES", 20)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def patches(seed: int, low: int = 0, high: int = 256, count: int = 24) -> Patches:
    random = np.random.default_rng(seed)
    images = random.integers(low, high, (count, 1, SIDE, SIDE), dtype=np.uint8)
    preprocessing = Preprocessing("uint8", 0.0, 255.0, 1, None, (SIDE, SIDE))
    return Patches(list(images), preprocessing, flip=False, device=CPU)


def networks(seed: int = 0) -> tuple[Generator, Discriminator, Encoder]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sides = (SIDE, SIDE)
        return (
            Generator(sides, 1, RECIPE.base_width, RECIPE.latent_size),
            Discriminator(sides, 1, RECIPE.base_width),
            Encoder(sides, 1, RECIPE.base_width, RECIPE.latent_size),
        )


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(before: dict[str, Tensor], network: nn.Module) -> bool:
    return all(torch.equal(before[name], now) for name, now in network.state_dict().items())


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


# --- the order of updates, and what moves with them -----------------------------------------------


@pytest.fixture
def updates() -> Iterator[list[Any]]:
    """Optimisers, in the order of their steps."""
    stepped: list[Any] = []
    handle = register_optimizer_step_post_hook(
        lambda optimiser, arguments, options: stepped.append(optimiser)
    )
    yield stepped
    handle.remove()


def owner(optimiser: torch.optim.Optimizer, G: nn.Module, D: nn.Module) -> str:
    parameters = {id(p) for group in optimiser.param_groups for p in group["params"]}
    owners = {"G": G, "D": D}
    (name,) = (
        name
        for name, network in owners.items()
        if parameters == {id(p) for p in network.parameters()}
    )
    return name


@pytest.mark.parametrize(
    ("critic_updates", "expected"),
    [(7, "DDD GDDD GD"), (6, "DDD GDDD"), (2, "DD"), (0, "")],
)
def test_order_and_number_of_updates(
    fabric: Fabric, updates: list[Any], critic_updates: int, expected: str
) -> None:
    G, D, _ = networks()
    recipe = RECIPE.but(critic_updates=critic_updates)
    train_gan(G, D, patches(0), patches(1), recipe, fabric=fabric)
    assert "".join(owner(optimiser, G, D) for optimiser in updates) == expected.replace(" ", "")


@pytest.mark.parametrize("batch", [8, 7, 1])
def test_halves_of_a_batch_make_the_same_update_as_the_whole(fabric: Fabric, batch: int) -> None:
    _, D, _ = networks()
    x, fake = torch.randn(2, batch, 1, SIDE, SIDE, dtype=torch.float64)
    found = []

    def update(by_halves: ByHalves) -> None:
        own = copy.deepcopy(D).double()
        sgd = torch.optim.SGD(own.parameters(), 0.1)
        random = torch.Generator().manual_seed(1)
        figures = update_critic(own, sgd, x, fake, RECIPE, random, fabric, by_halves)
        found.append((own.state_dict(), figures))

    with threads(2), halves(CPU) as by_halves:
        parts = by_halves(lambda part: (len(part), torch.get_num_threads()), x)
        assert sum(size for size, _ in parts) == batch and torch.get_num_threads() == 2
        assert [count for _, count in parts] == ([1, 1] if batch > 1 else [2])
        for by in (whole, by_halves, by_halves):
            update(by)
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

    with threads(2), halves(CPU) as by_halves, pytest.raises(ValueError, match="no"):
        by_halves(work, torch.zeros(4))
    with threads(1), halves(CPU) as by_halves:
        assert by_halves is whole


def test_statistics_of_G_move_with_its_own_updates_only(fabric: Fabric) -> None:
    G, D, _ = networks()
    seen = {name: buffer.clone() for name, buffer in G.named_buffers()}
    moved: list[tuple[str, bool]] = []

    def look(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        changed = [not torch.equal(seen[name], now) for name, now in G.named_buffers()]
        assert all(changed) or not any(changed)
        moved.append((owner(optimiser, G, D), all(changed)))
        seen.update({name: buffer.clone() for name, buffer in G.named_buffers()})

    handle = register_optimizer_step_post_hook(look)
    train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric)
    handle.remove()
    assert moved == [(name, name == "G") for name in "DDDGDDDGD"]
    assert all(torch.equal(seen[name], now) for name, now in G.named_buffers())


def test_gan_training_moves_both_networks_and_frees_their_gradients(fabric: Fabric) -> None:
    G, D, _ = networks()
    for _ in range(2):  # a second time: nothing has stayed frozen
        before = snapshot(G), snapshot(D)
        train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric)
        for network, old in zip((G, D), before, strict=True):
            assert all(p.requires_grad for p in network.parameters())
            assert not any(
                torch.equal(old[name], p) for name, p in network.named_parameters() if p.ndim > 1
            )
            assert not network.training


@pytest.mark.parametrize("kind", ["izi_f", "izi", "ziz"])
def test_encoder_training_leaves_G_and_D_bit_equal(fabric: Fabric, kind: Any) -> None:
    G, D, E = networks()
    train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric)
    before, untrained = (snapshot(G), snapshot(D)), snapshot(E)
    recipe = RECIPE.but(encoder_loss=kind, reestimate_batch_norm=True)
    train_encoder(E, G, D, patches(0), patches(1), recipe, fabric=fabric)
    assert same(before[0], G) and same(before[1], D)
    assert not same(untrained, E)
    for network in (G, D):
        assert not network.training
        assert all(p.requires_grad for p in network.parameters())
    assert not E.training


def test_denoising_trains_another_encoder_and_none_draws_nothing(fabric: Fabric) -> None:
    encoders = []
    for share in (0.0, 0.2):
        G, D, E = networks()
        seen: list[float] = []
        E.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(float((inputs[0] == 0).float().mean()))
        )
        train_encoder(
            *(E, G, D, patches(0), patches(1), RECIPE.but(denoising=share)), fabric=fabric
        )
        # In turn the encoder sees a batch, and held-out normals as they are.
        assert seen[1::2] == [0.0] * 4
        assert all(abs(zeros - share) < 0.03 for zeros in seen[::2])
        encoders.append(snapshot(E))
    assert not torch.equal(encoders[0]["linear.weight"], encoders[1]["linear.weight"])


def test_encoder_reports_each_term_on_training_and_held_out_normals(fabric: Fabric) -> None:
    G, D, E = networks()
    lines: list[tuple[str, int, int, set[str]]] = []
    train_encoder(
        E,
        G,
        D,
        patches(0),
        patches(1),
        RECIPE.but(encoder_updates=2),
        fabric=fabric,
        progress=lambda stage, step, steps, figures: lines.append(
            (stage, step, steps, set(figures))
        ),
    )
    figures = {"image", "feature", "image_held_out", "feature_held_out"}
    assert lines == [
        ("encoder", step, 2, shown) for step in (1, 2) for shown in (figures, set[str]())
    ]


def test_bf16_keeps_the_penalty_in_fp32() -> None:
    G, D, _ = networks()
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
    with threads(1):  # no halves, which would pass through D twice as often
        train_gan(G, D, patches(0), patches(1), recipe, fabric=fabric)
    critic = [(False, torch.bfloat16), (True, torch.float32)]
    assert passes == 2 * critic + [(False, torch.bfloat16)] + 2 * critic
    for network in (G, D):
        assert all(p.dtype == torch.float32 for p in network.parameters())
        assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


# --- statistics ---------------------------------------------------------------------------------


def test_reestimated_statistics_make_train_and_eval_mode_agree(fabric: Fabric) -> None:
    G, D, _ = networks()
    train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric)
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


def test_short_recipes_reestimate_and_the_papers_does_not(fabric: Fabric) -> None:
    tracked = []
    for asked in (False, True):
        G, D, E = networks()
        recipe = RECIPE.but(reestimate_batch_norm=asked)
        train_gan(G, D, patches(0), patches(1), recipe, fabric=fabric)
        train_encoder(E, G, D, patches(0), patches(1), recipe, fabric=fabric)
        for network in (G, E):
            norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
            assert norm.num_batches_tracked is not None
            tracked.append(int(norm.num_batches_tracked))
    # Two generator updates and four of the encoder, or the batches of the re-estimation.
    assert tracked == [2, 4, training.REESTIMATE_BATCHES, training.REESTIMATE_BATCHES]


# --- health -------------------------------------------------------------------------------------


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]).reshape(3, 1, 1, 2)
    pairs = [25 / 2, 1 / 2, (9 + 9) / 2]  # mean squares
    assert diversity(images) == pytest.approx(np.mean(np.sqrt(pairs)))


def test_collapsed_samples_are_warned_of(fabric: Fabric, caplog: pytest.LogCaptureFixture) -> None:
    nothing = RECIPE.but(critic_updates=0)
    G, D, _ = networks()
    alike = patches(0, 120, 136)  # next to these, any samples are diverse
    assert train_gan(G, D, alike, alike, nothing, fabric=fabric) == []
    nn.init.zeros_(G.conv.weight)
    (warning,) = train_gan(G, D, alike, alike, nothing, fabric=fabric)
    assert "samples collapse: their diversity is 0.00 of the real images'" in warning
    assert warning in caplog.text


def test_a_critic_that_knows_the_training_images_by_heart_is_warned_of(fabric: Fabric) -> None:
    recipe = RECIPE.but(
        critic_updates=20, critic_updates_per_generator_update=10, gan_learning_rate=5e-3
    )
    found = []
    for held_out in (patches(1, 150, 250), patches(1, 0, 100)):
        G, D, _ = networks()
        figures: dict[str, float] = {}
        warnings = train_gan(
            G,
            D,
            patches(0, 150, 250),
            held_out,
            recipe,
            fabric=fabric,
            progress=lambda stage, step, steps, now, figures=figures: figures.update(now),
        )
        found.append(any("the critic overfits" in warning for warning in warnings))
        assert figures["wasserstein_seen"] > 0
    assert found == [False, True]


# --- break-downs --------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    fabric: Fabric, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    G, D, _ = networks()

    def interrupt(stage: str, step: int, steps: int, figures: Any) -> None:
        if step == 2 and not figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric, run=run, progress=interrupt)
    checkpoint = tmp_path / "checkpoints" / "gan.safetensors"
    good = checkpoint.read_bytes()
    with pytest.raises(TrainingFailed) as failure:
        train_gan(
            G,
            D,
            patches(0),
            patches(1),
            RECIPE.but(gan_learning_rate=1e6, critic_updates=60),
            fabric=fabric,
            run=run,
        )
    sentence = str(failure.value)
    assert "training of the GAN broke down" in sentence
    assert "half the gan_learning_rate (500000)" in sentence
    assert str(checkpoint) in sentence
    assert checkpoint.read_bytes() == good
    G, D, _ = networks()
    adam = [torch.optim.Adam(network.parameters()) for network in (G, D)]
    state = {"generator": G, "discriminator": D, "adam_G": adam[0], "adam_D": adam[1]}
    assert run.load_checkpoint("gan", state) == 2  # where it was asked to stop
    for network in (G, D):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def test_an_infinite_moment_is_found_before_it_is_saved(fabric: Fabric, tmp_path: Path) -> None:
    # Where a squared gradient overflows the loss and weights stay finite, and never move again.
    G, D, E = networks()
    with torch.no_grad():
        D.trunk.conv.weight.mul_(1e16)
        D.trunk.conv.bias.zero_()
    with pytest.raises(TrainingFailed, match="a moment of the optimiser isn't finite"):
        train_encoder(
            E, G, D, patches(0), patches(1), RECIPE, fabric=fabric, run=RunFolder(tmp_path)
        )
    assert all(bool(torch.isfinite(p).all()) for p in E.parameters())
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["feature"] < math.inf
    assert not (tmp_path / "checkpoints").exists()


def test_nothing_is_said_of_a_checkpoint_where_there_is_none(
    fabric: Fabric, tmp_path: Path
) -> None:
    G, D, _ = networks()
    with pytest.raises(TrainingFailed) as failure:
        train_gan(
            G,
            D,
            patches(0),
            patches(1),
            RECIPE.but(gan_learning_rate=1e6, checkpoint_minutes=60, critic_updates=30),
            fabric=fabric,
            run=RunFolder(tmp_path),
        )
    assert "checkpoint" not in str(failure.value)
    assert not (tmp_path / "checkpoints").exists()


def test_metrics_hold_health_and_losses(fabric: Fabric, tmp_path: Path) -> None:
    G, D, _ = networks()
    train_gan(G, D, patches(0), patches(1), RECIPE, fabric=fabric, run=RunFolder(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("gan", 1), ("gan", 2), ("gan", 3)]
    assert set(lines[0]) >= {
        *("wasserstein", "penalty", "wasserstein_seen", "wasserstein_held_out"),
        *("diversity", "warnings", "seconds"),
    }
    assert len(list((tmp_path / "samples").glob("round_*.png"))) == 3
    assert list((tmp_path / "events").iterdir())
