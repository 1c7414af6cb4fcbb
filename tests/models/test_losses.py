"""The losses, by hand."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fanogan.models.losses import (
    ADVERSARIAL_WEIGHT,
    adversarial_loss,
    adversarial_terms,
    ali_discriminator_loss,
    ali_generator_loss,
    ali_latent,
    ali_mean,
    ali_values,
    critic_values,
    encoder_loss,
    encoder_terms,
    feature_residual,
    generator_loss,
    gradient_penalty,
    image_residual,
    latent_residual,
)
from fanogan.models.networks import (
    Discriminator,
    Encoder,
    Generator,
    JointDiscriminator,
    JointEncoder,
)
from fanogan.recipes.recipe import EncoderLoss


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


class Plane(Discriminator):
    """A critic whose gradient is the same, known image everywhere."""

    def __init__(self, slope: Tensor):
        nn.Module.__init__(self)
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.slope).flatten(1).sum(1)


class Bowl(Discriminator):
    """D(x) = ‖x‖² / 2, whose gradient is x itself."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1) / 2


@pytest.fixture(scope="module")
def trio() -> tuple[Encoder, Generator, Discriminator]:
    torch.manual_seed(0)
    E, G = Encoder((16, 16), width=2, latent=5), Generator((16, 16), width=2, latent=5)
    return E.eval(), G.eval(), Discriminator((16, 16), width=2)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def z() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(2))


# --- the GAN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_penalty_of_a_known_gradient(channels: int) -> None:
    slope = torch.randn(channels, 4, 6, generator=torch.Generator().manual_seed(0))
    x, fake = torch.randn(2, 5, channels, 4, 6)
    penalty = gradient_penalty(Plane(slope), x, fake, torch.rand(5, 1, 1, 1)).detach()
    # One norm over channels, rows and columns; over fewer axes it is much smaller.
    assert penalty.item() == pytest.approx((np.linalg.norm(slope.numpy()) - 1) ** 2, rel=1e-5)


def test_penalty_is_zero_where_the_slope_is_one() -> None:
    slope = torch.full((2, 4, 8), 1 / 8)
    x, fake = torch.randn(2, 5, 2, 4, 8)
    assert gradient_penalty(Plane(slope), x, fake, torch.rand(5, 1, 1, 1)).item() < 1e-10


def test_penalty_is_taken_between_each_image_and_its_fake() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 3, 4, generator=generator)
    fake = torch.randn(5, 2, 3, 4, generator=generator)
    alpha = torch.rand(5, 1, 1, 1, generator=generator)
    a = alpha.numpy()
    mixed = (1 - a) * x.numpy() + a * fake.numpy()
    norms = np.sqrt((mixed**2).reshape(5, -1).sum(1))
    expected = ((norms - 1) ** 2).mean()
    assert gradient_penalty(Bowl(), x, fake, alpha).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_alpha_is_the_share_of_the_fake(end: float) -> None:
    x, fake = torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 5.0)
    penalty = gradient_penalty(Bowl(), x, fake, torch.full((2, 1, 1, 1), end))
    assert penalty.item() == pytest.approx(((5.0 if end else 3.0) * 2 - 1) ** 2)


def test_the_penalty_teaches_the_critic_its_slope() -> None:
    slope = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    plane = Plane(slope)
    x, fake = torch.randn(2, 3, 1, 4, 4)
    gradient_penalty(plane, x, fake, torch.rand(3, 1, 1, 1)).backward()
    norm = slope.norm()
    assert plane.slope.grad is not None
    assert torch.allclose(plane.slope.grad, 2 * (norm - 1) * slope / norm, rtol=1e-4)


def test_a_flat_critic_has_a_finite_penalty_and_gradient() -> None:
    plane = Plane(torch.zeros(1, 4, 4))
    x, fake = torch.randn(2, 3, 1, 4, 4)
    penalty = gradient_penalty(plane, x, fake, torch.rand(3, 1, 1, 1))
    penalty.backward()
    assert penalty.item() == 1
    assert plane.slope.grad is not None and bool(torch.isfinite(plane.slope.grad).all())


def test_the_images_keep_no_gradient(x: Tensor) -> None:
    gradient_penalty(Bowl(), x, -x, torch.rand(6, 1, 1, 1))
    assert not x.requires_grad


def test_critic_values_in_one_pass_are_those_of_two(trio: Any, x: Tensor) -> None:
    D = trio[2]
    fake = x.flip(0) * 0.5
    real, generated = critic_values(D, x, fake)
    assert torch.allclose(real, D(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(generated, D(fake), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(real, generated)


def test_the_generator_climbs_the_critic(x: Tensor) -> None:
    fake = x.clone().requires_grad_()
    slope = torch.rand(1, 16, 16) + 0.1
    loss = generator_loss(Plane(slope), fake)
    assert loss.item() == pytest.approx(-float((x * slope).sum((1, 2, 3)).mean()), rel=1e-4)
    loss.backward()
    assert fake.grad is not None
    assert torch.allclose(fake.grad, -slope.expand_as(x) / 6)


# --- the encoder --------------------------------------------------------------------------------


def mean_square(a: Tensor, b: Tensor) -> np.ndarray:
    """‖a − b‖² / n of each sample, in float64."""
    difference = (a.detach().numpy().astype(np.float64) - b.detach().numpy()).reshape(len(a), -1)
    return (difference**2).sum(1) / difference.shape[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_residuals_are_mean_squares_of_each_sample(channels: int) -> None:
    a, b = torch.randn(2, 5, channels, 4, 6)
    assert np.allclose(image_residual(a, b), mean_square(a, b), rtol=1e-5)
    for residual in (feature_residual, latent_residual):
        f, g = torch.randn(2, 5, 37)
        assert residual(f, g).shape == (5,)
        assert np.allclose(residual(f, g), mean_square(f, g), rtol=1e-5)


def test_eq_1_ziz(trio: Any, x: Tensor, z: Tensor) -> None:
    E, G, D = trio
    terms = encoder_terms("ziz", E, G, D, x, z)
    assert list(terms) == ["latent"]
    assert terms["latent"].item() == pytest.approx(mean_square(z, E(G(z))).mean(), rel=1e-5)
    assert encoder_loss(terms, kappa=7).item() == pytest.approx(terms["latent"].item())


def test_eq_2_izi(trio: Any, x: Tensor, z: Tensor) -> None:
    E, G, D = trio
    terms = encoder_terms("izi", E, G, D, x, z)
    assert list(terms) == ["image"]
    assert terms["image"].item() == pytest.approx(mean_square(x, G(E(x))).mean(), rel=1e-5)
    assert encoder_loss(terms, kappa=7).item() == pytest.approx(terms["image"].item())


@pytest.mark.parametrize("kappa", [1.0, 0.0, 2.5])
def test_eq_3_izi_f(trio: Any, x: Tensor, z: Tensor, kappa: float) -> None:
    E, G, D = trio
    terms = encoder_terms("izi_f", E, G, D, x, z)
    assert list(terms) == ["image", "feature"]
    x_hat = G(E(x))
    image = mean_square(x, x_hat).mean()
    feature = mean_square(D.features(x), D.features(x_hat)).mean()
    assert terms["image"].item() == pytest.approx(image, rel=1e-5)
    assert terms["feature"].item() == pytest.approx(feature, rel=1e-4)
    assert encoder_loss(terms, kappa).item() == pytest.approx(image + kappa * feature, rel=1e-4)


def test_eq_4_the_mean_of_scores_is_the_loss(trio: Any, x: Tensor, z: Tensor) -> None:
    E, G, D = trio
    x_hat = G(E(x))
    scores = image_residual(x, x_hat) + 2.5 * feature_residual(D.features(x), D.features(x_hat))
    assert scores.shape == (6,)
    loss = encoder_loss(encoder_terms("izi_f", E, G, D, x, z), kappa=2.5)
    assert scores.mean().item() == pytest.approx(loss.item(), rel=1e-5)


def test_ziz_reads_latents_alone_and_the_others_images_alone(
    trio: Any, x: Tensor, z: Tensor
) -> None:
    other_x, other_z = x.flip(2) * 0.5, z * 2
    for kind in get_args(EncoderLoss):
        loss, of_other_images, of_other_latents = (
            float(encoder_loss(encoder_terms(kind, *trio, images, latents), 1.0).detach())
            for images, latents in ((x, z), (other_x, z), (x, other_z))
        )
        assert (loss == of_other_images) == (kind == "ziz")
        assert (loss == of_other_latents) == (kind != "ziz")


@pytest.mark.parametrize("kind", get_args(EncoderLoss))
def test_every_loss_teaches_the_encoder(kind: Any, trio: Any, x: Tensor, z: Tensor) -> None:
    E = trio[0]
    E.zero_grad()
    encoder_loss(encoder_terms(kind, *trio, x, z), kappa=1).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in E.linear.parameters())


@pytest.mark.parametrize("kind", get_args(EncoderLoss))
def test_denoising_hides_pixels_from_the_encoder_alone(
    kind: Any, trio: Any, x: Tensor, z: Tensor
) -> None:
    E, G, D = trio
    keep = (torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(3)) > 0.2).float()
    with torch.no_grad():
        terms = encoder_terms(kind, E, G, D, x, z, keep)
        if kind == "ziz":
            assert terms["latent"].item() == pytest.approx(mean_square(z, E(G(z) * keep)).mean())
            return
        x_hat = G(E(x * keep))
        assert terms["image"].item() == pytest.approx(mean_square(x, x_hat).mean(), rel=1e-5)
        if kind == "izi_f":
            expected = mean_square(D.features(x), D.features(x_hat)).mean()
            assert terms["feature"].item() == pytest.approx(expected, rel=1e-5)


# --- encoder and generator together ---------------------------------------------------------------


def test_adversarial_loss_is_the_residual_and_a_thousandth_of_the_critics_value(
    trio: Any, x: Tensor
) -> None:
    E, G, D = trio
    terms = adversarial_terms(E, G, D, x)
    with torch.no_grad():
        x_hat = G(E(x))
        expected = (x - x_hat).square().mean() - 0.001 * D(x_hat).mean()
    assert ADVERSARIAL_WEIGHT == 0.001
    assert adversarial_loss(terms).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.fixture(scope="module")
def ali() -> tuple[JointEncoder, Generator, JointDiscriminator]:
    torch.manual_seed(0)
    E = JointEncoder((16, 16), width=2, latent=5)
    G = Generator((16, 16), width=2, latent=5)
    return E.eval(), G.eval(), JointDiscriminator((16, 16), width=2, latent=5).eval()


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(4))


def test_ali_latent_is_its_mean_and_deviation_times_noise(
    ali: Any, x: Tensor, noise: Tensor
) -> None:
    E = ali[0]
    with torch.no_grad():
        out = E(x).numpy()
        found = ali_latent(E, x, noise).numpy()
        mean = ali_mean(E, x).numpy()
    np.testing.assert_allclose(found, out[:, :5] + np.exp(out[:, 5:]) * noise.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(mean, out[:, :5])


def test_ali_losses_are_those_of_a_logistic_gan_on_pairs() -> None:
    encoded, generated = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    sigma = 1 / (1 + np.exp(-np.array([[2.0, -1.0], [0.5, -3.0]])))
    for_D = -np.log(sigma[0]).mean() - np.log(1 - sigma[1]).mean()
    for_EG = -np.log(1 - sigma[0]).mean() - np.log(sigma[1]).mean()
    assert ali_discriminator_loss(encoded, generated).item() == pytest.approx(for_D, rel=1e-6)
    assert ali_generator_loss(encoded, generated).item() == pytest.approx(for_EG, rel=1e-6)


def test_ali_values_are_of_pairs_that_belong_together(
    ali: Any, x: Tensor, z: Tensor, noise: Tensor
) -> None:
    E, G, D = ali
    with torch.no_grad():
        encoded, generated = ali_values(E, G, D, x, z, noise)
        z_hat = ali_latent(E, x, noise)
        for i in range(6):
            one = D(x[i : i + 1], z_hat[i : i + 1])
            other = D(G(z[i : i + 1]), z[i : i + 1])
            torch.testing.assert_close(encoded[i : i + 1], one, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(generated[i : i + 1], other, rtol=1e-4, atol=1e-5)


def test_the_joint_discriminator_takes_both_into_account(ali: Any, x: Tensor, z: Tensor) -> None:
    D = ali[2]
    x, z = x.requires_grad_(), z.requires_grad_()
    values = D(x, z)
    assert values.shape == (6,)
    by_x, by_z = torch.autograd.grad(values.sum(), (x, z))
    assert by_x.abs().amax((1, 2, 3)).min() > 0 and by_z.abs().amax(1).min() > 0
    assert D.features(x).shape[0] == 6
