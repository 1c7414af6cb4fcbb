"""What the networks strive for: each loss is an equation of the paper, a few lines long.

x: images (B, C, H, W) in [−1, 1]; z: latents (B, d); G, D, E, f: the networks and D's features.
Residuals come as one value an image, (B,), so that training averages them and scoring keeps them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fanogan.models.networks import (
    Discriminator,
    Encoder,
    Generator,
    JointDiscriminator,
    JointEncoder,
)
from fanogan.recipes import EncoderLoss


def gradient_penalty(
    discriminator: Discriminator, x: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """Mean of (‖∇D(x̃)‖₂ − 1)² at x̃ = x + α (fake − x): Gulrajani et al. 2017, Eq. 3.

    One α ~ U(0, 1) a sample, (B, 1, 1, 1); the norm is over all of C, H, W.
    """
    mixed = (x + alpha * (fake - x)).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norms - 1).square().mean()


def critic_values(discriminator: Discriminator, x: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(D(x), D(fake)) in one pass: D has no batch statistics."""
    real, generated = discriminator(torch.cat([x, fake])).chunk(2)
    return real, generated


def wasserstein_distance(real: Tensor, generated: Tensor) -> Tensor:
    """E[D(x)] − E[D(G(z))], the critic's estimate, from its values (B,) of both."""
    return (real - generated).mean()


def critic_loss(distance: Tensor, penalty: Tensor, weight: float) -> Tensor:
    """λ · penalty − distance (Gulrajani et al. 2017, Eq. 3), with λ = ``weight``."""
    return weight * penalty - distance


def generator_loss(discriminator: Discriminator, fake: Tensor) -> Tensor:
    """−E[D(G(z))]."""
    values: Tensor = discriminator(fake)
    return -values.mean()


def image_residual(x: Tensor, x_hat: Tensor) -> Tensor:
    """A_R = ‖x − x̂‖² / n of each image (Eqs. 2 and 4)."""
    return (x - x_hat).square().flatten(1).mean(1)


def feature_residual(features: Tensor, features_hat: Tensor) -> Tensor:
    """A_D = ‖f(x) − f(x̂)‖² / n_d of each image (Eqs. 3 and 4)."""
    return (features - features_hat).square().mean(1)


def latent_residual(z: Tensor, z_hat: Tensor) -> Tensor:
    """‖z − E(G(z))‖² / d of each latent (Eq. 1)."""
    return (z - z_hat).square().mean(1)


def encoder_terms(
    kind: EncoderLoss,
    E: Encoder,
    G: Generator,
    D: Discriminator,
    x: Tensor,
    z: Tensor,
    keep: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of the encoder's loss before κ: Eq. 1 (ziz), Eq. 2 (izi) or Eq. 3 (izi_f).

    ``ziz`` reads z alone, the others x alone. Where ``keep`` (B, 1, H, W) is 0 the encoder sees 0,
    mid-grey, and nothing is rescaled (appendix A.1); the residuals are those of the whole images.
    """

    def seen(image: Tensor) -> Tensor:
        return image if keep is None else image * keep

    if kind == "ziz":
        return {"latent": latent_residual(z, E(seen(G(z)))).mean()}
    x_hat = G(E(seen(x)))
    terms = {"image": image_residual(x, x_hat).mean()}
    if kind == "izi_f":
        with torch.no_grad():
            features = D.features(x)
        terms["feature"] = feature_residual(features, D.features(x_hat)).mean()
    return terms


def encoder_loss(terms: dict[str, Tensor], kappa: float) -> Tensor:
    """Return the sum of the terms, the feature residual weighted by κ."""
    weights = {"feature": kappa}
    return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()


# --- the score ----------------------------------------------------------------------------------


def terms_and_maps(
    x: Tensor,
    x_hat: Tensor,
    inside: Tensor | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Eqs. 4 and 5 of images and their reconstructions.

    Args:
        x: images (B, C, *sides) in [−1, 1].
        x_hat: their reconstructions, likewise.
        inside: (B, 1, *sides) bool; outside of it x̂ is taken to be x. None: all counts.
        features: f(·), images → (B, n_d). None: no feature term, A_D = 0.

    Returns:
        (A_R, A_D) as (B, 2), and |x − x̂| and x̂ as (B, 1 + C, *sides).
    """
    if inside is not None:
        x_hat = torch.where(inside, x_hat, x)
    image = image_residual(x, x_hat)
    if features is None:
        feature = torch.zeros_like(image)
    else:
        # In one pass; neither chunk nor len would let torch.export leave the batch size open.
        feature = feature_residual(*features(torch.cat([x, x_hat])).reshape(2, x.shape[0], -1))
    residual = (x - x_hat).abs().mean(1, keepdim=True)
    return torch.stack([image, feature], 1), torch.cat([residual, x_hat], 1)


# --- encoder and generator together: the systems that section 3.1 (2) compares with ---------------

# Of D's term beside the image residual, as .001 : .999 in Pathak et al. 2016, whom the paper names.
# The gradients of both are then of one order; with equal weights D's is hundreds of times larger.
ADVERSARIAL_WEIGHT = 0.001


def adversarial_terms(E: Encoder, G: Generator, D: Discriminator, x: Tensor) -> dict[str, Tensor]:
    """Return the terms of AdvAE's loss before their weights: Eq. 2's, and −E[D(G(E(x)))]."""
    x_hat = G(E(x))
    return {
        "image": image_residual(x, x_hat).mean(),
        "adversarial": generator_loss(D, x_hat),
    }


def adversarial_loss(terms: dict[str, Tensor]) -> Tensor:
    """Return the image residual, and D's term at ``ADVERSARIAL_WEIGHT``."""
    return terms["image"] + ADVERSARIAL_WEIGHT * terms["adversarial"]


def ali_mean(E: JointEncoder, x: Tensor) -> Tensor:
    """μ(x), the first half of E(x): the latent that ALI reconstructs from."""
    mean: Tensor = E(x).chunk(2, dim=1)[0]
    return mean


def ali_latent(E: JointEncoder, x: Tensor, noise: Tensor) -> Tensor:
    """ẑ = μ(x) + σ(x) ε, with (μ, log σ) the two halves of E(x) (Dumoulin et al. 2016, Eq. 4).

    ε ~ N(0, I) as (B, d).
    """
    mean, log_deviation = E(x).chunk(2, dim=1)
    latent: Tensor = mean + log_deviation.exp() * noise
    return latent


def ali_values(
    E: JointEncoder,
    G: Generator,
    D: JointDiscriminator,
    x: Tensor,
    z: Tensor,
    noise: Tensor,
    random: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(D(x, ẑ), D(G(z), z)): the logits of encoded and of generated pairs.

    In one batch, as the authors compute them: D has batch statistics. With dropout where ``random``
    is given.
    """
    pairs = torch.cat([x, G(z)]), torch.cat([ali_latent(E, x, noise), z])
    encoded, generated = D(*pairs, random).chunk(2)
    return encoded, generated


def ali_discriminator_loss(encoded: Tensor, generated: Tensor) -> Tensor:
    """−E[log σ(D(x, ẑ))] − E[log(1 − σ(D(G(z), z)))] (Dumoulin et al. 2016, algorithm 1)."""
    return F.softplus(-encoded).mean() + F.softplus(generated).mean()


def ali_generator_loss(encoded: Tensor, generated: Tensor) -> Tensor:
    """Return the same with the labels exchanged, for E and G: it doesn't saturate (ibid.)."""
    return ali_discriminator_loss(generated, encoded)
