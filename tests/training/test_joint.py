"""How E and G learn together: losses by hand, the order of updates, statistics, health."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fanogan.data.patches import Patches
from fanogan.data.preprocessing import Preprocessing
from fanogan.models.losses import (
    ADVERSARIAL_WEIGHT,
    adversarial_loss,
    adversarial_terms,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_latent,
    ali_mean,
    ali_values,
    encoder_terms,
)
from fanogan.models.networks import Discriminator, Encoder, Generator, JointDiscriminator
from fanogan.recipes.recipe import load_recipe
from fanogan.training import joint as joint_training
from fanogan.training.joint import (
    train_adversarial_autoencoder,
    train_ali,
    train_autoencoder,
)
from fanogan.training.run_folder import RunFolder

CPU = torch.device("cpu")
SIDES = (16, 16)
RECIPE = load_recipe("smoke").but(
    critic_updates_per_generator_update=3, log_every=1, reestimate_batch_norm=False
)


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_training, "HEALTH_IMAGES", 32)
    monkeypatch.setattr(joint_training, "REESTIMATE_BATCHES", 20)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def patches(seed: int) -> Patches:
    images = np.random.default_rng(seed).integers(0, 256, (24, 1, *SIDES), dtype=np.uint8)
    preprocessing = Preprocessing("uint8", 0.0, 255.0, 1, None, SIDES)
    return Patches(list(images), preprocessing, flip=False, device=CPU)


class Trio:
    """Networks of either kind, the same each time."""

    def __init__(self, joint: bool = False) -> None:
        width, latent = RECIPE.base_width, RECIPE.latent_size
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.G = Generator(SIDES, 1, width, latent)
            self.E = Encoder(SIDES, 1, width, 2 * latent if joint else latent, "linear")
            self.D: Any = (
                JointDiscriminator(SIDES, 1, width, latent)
                if joint
                else Discriminator(SIDES, 1, width)
            )
        self.x, self.z, self.noise = (
            torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            for seed, shape in enumerate([(6, 1, *SIDES), (6, latent), (6, latent)])
        )

    def train(self, system: str, fabric: Fabric, recipe: Any = RECIPE, **options: Any) -> list[str]:
        data = (patches(0), patches(1), recipe)
        if system == "ae":
            return train_autoencoder(self.G, self.E, *data, steps=4, fabric=fabric, **options)
        if system == "advae":
            return train_adversarial_autoencoder(
                self.G, self.D, self.E, *data, steps=3, fabric=fabric, **options
            )
        return train_ali(self.G, self.D, self.E, *data, steps=4, fabric=fabric, **options)


# --- losses ---------------------------------------------------------------------------------------


def test_adversarial_loss_is_the_residual_and_a_thousandth_of_the_critics_value() -> None:
    trio = Trio()
    terms = adversarial_terms(trio.E, trio.G, trio.D, trio.x)
    with torch.no_grad():
        trio.E.train()
        x_hat = trio.G(trio.E(trio.x))
        image = (trio.x - x_hat).square().mean()
        expected = image - 0.001 * trio.D(x_hat).mean()
    assert ADVERSARIAL_WEIGHT == 0.001
    assert adversarial_loss(terms).item() == pytest.approx(expected.item(), rel=1e-5)


def test_ali_latent_is_its_mean_and_deviation_times_noise() -> None:
    trio = Trio(joint=True)
    trio.E.eval()
    with torch.no_grad():
        out = trio.E(trio.x).numpy()
        found = ali_latent(trio.E, trio.x, trio.noise).numpy()
    d = RECIPE.latent_size
    expected = out[:, :d] + np.exp(out[:, d:]) * trio.noise.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(ali_mean(trio.E, trio.x).detach().numpy(), out[:, :d])


def test_ali_losses_are_those_of_a_logistic_gan_on_pairs() -> None:
    encoded, generated = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    sigma = 1 / (1 + np.exp(-np.array([[2.0, -1.0], [0.5, -3.0]])))
    for_D = -np.log(sigma[0]).mean() - np.log(1 - sigma[1]).mean()
    for_EG = -np.log(1 - sigma[0]).mean() - np.log(sigma[1]).mean()
    assert ali_discriminator_loss(encoded, generated).item() == pytest.approx(for_D, rel=1e-6)
    assert ali_generator_loss(encoded, generated).item() == pytest.approx(for_EG, rel=1e-6)


def test_ali_values_are_of_pairs_that_belong_together() -> None:
    trio = Trio(joint=True)
    for network in (trio.E, trio.G):
        network.eval()
    with torch.no_grad():
        encoded, generated = ali_values(trio.E, trio.G, trio.D, trio.x, trio.z, trio.noise)
        z_hat = ali_latent(trio.E, trio.x, trio.noise)
        for i in range(6):
            one = trio.D(trio.x[i : i + 1], z_hat[i : i + 1])
            other = trio.D(trio.G(trio.z[i : i + 1]), trio.z[i : i + 1])
            torch.testing.assert_close(encoded[i : i + 1], one, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(generated[i : i + 1], other, rtol=1e-4, atol=1e-5)


def test_the_joint_discriminator_looks_at_both() -> None:
    trio = Trio(joint=True)
    x, z = trio.x.requires_grad_(), trio.z.requires_grad_()
    values = trio.D(x, z)
    assert values.shape == (6,)
    by_x, by_z = torch.autograd.grad(values.sum(), (x, z))
    assert by_x.abs().amax((1, 2, 3)).min() > 0 and by_z.abs().amax(1).min() > 0
    assert trio.D.features(x).shape[0] == 6


@pytest.mark.parametrize("kind", ["izi_f", "izi", "ziz"])
def test_denoising_hides_pixels_from_the_encoder_alone(kind: Any) -> None:
    trio = Trio()
    for network in (trio.E, trio.G):
        network.eval()
    keep = (torch.rand(6, 1, *SIDES, generator=torch.Generator().manual_seed(3)) > 0.2).float()
    with torch.no_grad():
        terms = encoder_terms(kind, trio.E, trio.G, trio.D, trio.x, trio.z, keep)
        if kind == "ziz":
            expected = (trio.z - trio.E(trio.G(trio.z) * keep)).square().mean()
            assert terms["latent"].item() == pytest.approx(expected.item(), rel=1e-5)
            return
        x_hat = trio.G(trio.E(trio.x * keep))
        assert terms["image"].item() == pytest.approx(
            (trio.x - x_hat).square().mean().item(), rel=1e-5
        )
        if kind == "izi_f":
            difference = trio.D.features(trio.x) - trio.D.features(x_hat)
            expected = difference.square().mean()
            assert terms["feature"].item() == pytest.approx(expected.item(), rel=1e-5)


# --- the order of updates, and what moves with them -----------------------------------------------


@pytest.fixture
def updates() -> Iterator[list[Any]]:
    stepped: list[Any] = []
    handle = register_optimizer_step_post_hook(lambda optimiser, *_: stepped.append(optimiser))
    yield stepped
    handle.remove()


@pytest.mark.parametrize(
    ("system", "expected"), [("ae", "PPPP"), ("advae", "DDDP" * 3), ("ali", "DP" * 4)]
)
def test_order_of_updates_and_what_each_moves(
    fabric: Fabric, updates: list[Any], system: str, expected: str
) -> None:
    trio = Trio(system == "ali")
    of_D = {id(p) for p in trio.D.parameters()}
    of_pair = {id(p) for network in (trio.E, trio.G) for p in network.parameters()}
    before = {name: p.clone() for name, p in trio.D.named_parameters()}
    trio.train(system, fabric)
    found = ""
    for optimiser in updates:
        moved = {id(p) for group in optimiser.param_groups for p in group["params"]}
        assert moved in (of_D, of_pair)
        found += "D" if moved == of_D else "P"
    assert found == expected
    unmoved = all(torch.equal(before[name], p) for name, p in trio.D.named_parameters())
    assert unmoved == (system == "ae")
    for network in (trio.E, trio.G):
        assert not network.training and all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("system", ["advae", "ali"])
def test_statistics_move_with_the_updates_of_E_and_G_only(fabric: Fabric, system: str) -> None:
    trio = Trio(system == "ali")
    trio.train(system, fabric)
    for network in (trio.E, trio.G):
        norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.num_batches_tracked is not None
        assert int(norm.num_batches_tracked) == (3 if system == "advae" else 4)


@pytest.mark.parametrize("system", ["ae", "advae", "ali"])
def test_reestimated_statistics_are_those_of_what_the_networks_see(
    fabric: Fabric, system: str
) -> None:
    trio = Trio(system == "ali")
    trio.train(system, fabric, RECIPE.but(reestimate_batch_norm=True))
    x = patches(0).draw(512, torch.Generator().manual_seed(5))
    z = torch.randn(512, RECIPE.latent_size, generator=torch.Generator().manual_seed(6))
    inputs = {trio.E: x, trio.G: z if system == "ali" else trio.E(x).detach()}
    for network, given in inputs.items():
        with torch.no_grad():
            evaluated = network(given)
            trained = network.train()(given)
        assert (evaluated - trained).abs().mean() < 0.05 * trained.std()


# --- health ---------------------------------------------------------------------------------------


def test_figures_and_grids_are_reported(fabric: Fabric, tmp_path: Any) -> None:
    for system, names in (
        ("ae", {"image"}),
        ("advae", {"image", "adversarial", "wasserstein", "penalty"}),
        ("ali", {"discriminator", "generator", "diversity"}),
    ):
        lines: list[dict[str, float]] = []
        trio = Trio(system == "ali")
        run = RunFolder(tmp_path / system)
        run.begin({})
        trio.train(
            system,
            fabric,
            run=run,
            progress=lambda stage, step, steps, figures, keep=lines: keep.append(dict(figures)),
        )
        shown = [line for line in lines if line]
        assert len(shown) == (3 if system == "advae" else 4)
        assert all(math.isfinite(value) for line in shown for value in line.values())
        assert set(shown[0]) == names | {"image_held_out", "reconstruction_diversity"}
        assert list((tmp_path / system / "samples").glob(f"{system}_*.png"))


@pytest.mark.parametrize("system", ["ae", "advae", "ali"])
def test_collapse_is_warned_of(fabric: Fabric, system: str) -> None:
    trio = Trio(system == "ali")
    still = RECIPE.but(gan_learning_rate=1e-12)
    nn.init.zeros_(trio.G.conv.weight)
    warnings = trio.train(system, fabric, still)
    assert any("x̂ collapse: their diversity is 0.00" in warning for warning in warnings)
    assert any("samples collapse" in warning for warning in warnings) == (system == "ali")
