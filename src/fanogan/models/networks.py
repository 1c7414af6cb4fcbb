"""The networks: generator G, discriminator D (a Wasserstein critic), encoder E, and ALI's D.

Residual networks of Gulrajani et al. (2017), as f-AnoGAN uses them (Schlegl et al. 2019, section
3, Implementation details), for one, two or three sides c·2^b with c in 4…7, any number of channels,
width and latent size. A side of 1 is kept outside and not seen inside: (1, 256) is a signal. What
leaves a network is fp32, also under autocast, so that residuals and losses are computed in it.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.models.layers import (
    CONVOLUTIONS,
    BatchNorm,
    Conv,
    batch_norm,
    conv_mean_pool,
    laid_out,
    lay_out,
    layer_norm,
    mean_pool,
    upsample_conv,
)
from fanogan.recipes import blocks_of

# Of ALI (Dumoulin et al. 2016): how much of its input each layer of D loses, and the slope below 0.
DROPOUT, LEAK = 0.2, 0.1


def channels_of(width: int, blocks: int) -> list[int]:
    """Channels of D before its first block and after each: doubling from w, at most 8w."""
    return [min(width * 2**block, 8 * width) for block in range(blocks + 1)]


def inner_sides(sides: Sequence[int]) -> tuple[int, ...]:
    """Return the sides that convolutions see: those above 1."""
    return tuple(side for side in sides if side > 1)


def shaped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Return (B, C, …) as (B, C, *sides), where that differs by sides of 1."""
    return x if x.dim() == 2 + len(sides) else x.reshape(*x.shape[:2], *sides)


def widened(x: Tensor) -> Tensor:
    """Return bfloat16 as fp32, and all else as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


class DownBlock(nn.Module):
    """Residual block that halves the sides, of D and E: (B, in, H, W) → (B, out, H/2, W/2)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        norm: Callable[[int], nn.Module],
        sides: int = 2,
    ):
        """Make the block; ``norm`` is ``layer_norm`` in D, ``batch_norm`` in E."""
        super().__init__()
        conv = CONVOLUTIONS[sides]
        self.norm1 = norm(channels_in)
        self.conv1 = conv(channels_in, channels_in, 3, padding=1, bias=False)
        self.norm2 = norm(channels_in)
        self.conv2 = conv(channels_in, channels_out, 3, padding=1)
        self.shortcut = conv(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Norm, ReLU, conv, norm, ReLU, conv, mean pool; beside it mean pool, conv1×1."""
        y = self.conv1(F.relu_(self.norm1(x)))
        y = conv_mean_pool(self.conv2, F.relu_(self.norm2(y)))
        return y.add_(self.shortcut(mean_pool(x)))


class UpBlock(nn.Module):
    """Residual block that doubles the sides, of G: (B, in, H, W) → (B, out, 2H, 2W)."""

    def __init__(self, channels_in: int, channels_out: int, sides: int = 2):
        """Make the block."""
        super().__init__()
        conv = CONVOLUTIONS[sides]
        self.norm1 = batch_norm(channels_in, sides)
        self.conv1 = conv(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = batch_norm(channels_out, sides)
        self.conv2 = conv(channels_out, channels_out, 3, padding=1)
        self.shortcut = conv(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Norm, ReLU, upsample, conv, norm, ReLU, conv; beside it upsample, conv1×1."""
        y = upsample_conv(self.conv1, F.relu_(self.norm1(x)))
        y = self.conv2(F.relu_(self.norm2(y)))
        # A 1×1 convolution and an upsampling commute, and there are fewer pixels before.
        shortcut = F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")
        return y.add_(shortcut)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """G: latent z (B, d) ~ N(0, I) → image (B, C, H, W) in (−1, 1)."""

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64, latent: int = 128):
        """Make G for sides such as (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        blocks, inner = blocks_of(sides), inner_sides(sides)
        stages = channels_of(width, blocks)[::-1]
        self.latent = latent
        self.sides = tuple(sides)
        self.base = (stages[0], *(side >> blocks for side in inner))
        self.linear = nn.Linear(latent, math.prod(self.base))
        self.blocks = nn.Sequential(
            *(UpBlock(before, after, len(inner)) for before, after in pairwise(stages))
        )
        self.norm = batch_norm(width, len(inner))
        self.conv = CONVOLUTIONS[len(inner)](width, channels, 3, padding=1)
        initialise(self, strong=(self.conv,))

    def forward(self, z: Tensor) -> Tensor:
        """Return the image of a latent."""
        x = laid_out(self.linear(z).unflatten(1, self.base))
        x = self.conv(F.relu_(self.norm(self.blocks(x))))
        return shaped(torch.tanh(widened(x)), self.sides)


class _Trunk(nn.Module):
    """What D and E share: input convolution and residual blocks, flattened."""

    def __init__(
        self, sides: Sequence[int], channels: int, width: int, norm: Callable[[int], nn.Module]
    ):
        super().__init__()
        blocks, self.inner = blocks_of(sides), inner_sides(sides)
        stages = channels_of(width, blocks)
        self.size = stages[-1] * math.prod(side >> blocks for side in self.inner)
        self.conv = CONVOLUTIONS[len(self.inner)](channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(DownBlock(before, after, norm, len(self.inner)) for before, after in pairwise(stages))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = laid_out(shaped(x, self.inner))
        return widened(torch.flatten(self.blocks(self.conv(x)), 1))


class Discriminator(nn.Module):
    """D: image (B, C, H, W) in [−1, 1] → critic value (B,); higher is more real."""

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64):
        """Make D for sides such as (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        self.trunk = _Trunk(sides, channels, width, layer_norm)
        self.linear = nn.Linear(self.trunk.size, 1)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """f(·) of Eqs. 3 and 4: the last residual sum (B, n_d), neither normed nor rectified."""
        features: Tensor = self.trunk(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return the critic's value of each image."""
        values: Tensor = widened(self.linear(self.features(x)))
        return values.squeeze(1)


class _Heard(nn.Module):
    """An image as ALI's D and E hear it: residual blocks, then 8·width values, normed."""

    def __init__(self, sides: Sequence[int], channels: int, width: int):
        super().__init__()
        norm = functools.partial(batch_norm, momentum=0.05)  # the authors'
        inner = len(inner_sides(sides))
        self.trunk = _Trunk(sides, channels, width, functools.partial(norm, sides=inner))
        self.linear = nn.Linear(self.trunk.size, 8 * width, bias=False)
        self.norm = norm(8 * width)

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        values = self.linear(dropped(self.trunk(dropped(x, random)), random))
        normed: Tensor = widened(self.norm(values[..., None, None])).flatten(1)
        return F.leaky_relu(normed, LEAK)


class JointDiscriminator(nn.Module):
    """D of ALI: image (B, C, H, W) and latent (B, d) → logit (B,); higher is more encoded.

    As Dumoulin et al. (2016) build it: one network for x and one for z, whose outputs are of one
    size, so that both are heard alike, and one for both together; batch norm in that for x, a leaky
    ReLU after each layer, dropout before. The network for x has our residual blocks; with their 64
    channels the others have the authors' 512 and 1,024 units.
    """

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64, latent: int = 128):
        """Make D for sides such as (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        units = 8 * width
        self.image = _Heard(sides, channels, width)
        self.latent = nn.ModuleList([nn.Linear(latent, units), nn.Linear(units, units)])
        self.both = nn.ModuleList([nn.Linear(2 * units, 2 * units) for _ in range(2)])
        self.linear = nn.Linear(2 * units, 1)
        initialise_near_zero(self)

    def features(self, x: Tensor) -> Tensor:
        """f(·) of Eq. 4: what D makes of the image alone, (B, 8·width)."""
        features: Tensor = self.image(x)
        return features

    def forward(self, x: Tensor, z: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Return the logit of each pair; with dropout where ``random`` is given."""
        for layer in self.latent:
            z = F.leaky_relu(widened(layer(dropped(z, random))), LEAK)
        pair = torch.cat([self.image(x, random), z], 1)
        for layer in self.both:
            pair = F.leaky_relu(widened(layer(dropped(pair, random))), LEAK)
        values: Tensor = widened(self.linear(dropped(pair, random)))
        return values.squeeze(1)


class JointEncoder(nn.Module):
    """E of ALI: image (B, C, H, W) → (B, 2·d), the mean and the log deviation of its latent."""

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64, latent: int = 128):
        """Make E for sides such as (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        self.image = _Heard(sides, channels, width)
        self.linear = nn.Linear(8 * width, 2 * latent)
        initialise_near_zero(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return mean and log deviation."""
        return widened(self.linear(self.image(x)))


def dropped(x: Tensor, random: torch.Generator | None) -> Tensor:
    """Return x with a fifth of its values, drawn from ``random``, set to 0 and the rest raised.

    PyTorch's own dropout draws from the process's generator, and a resumed run would end elsewhere.
    """
    if random is None:
        return x
    kept = torch.rand(x.shape, generator=random, device=x.device) >= DROPOUT
    return x * kept / (1 - DROPOUT)


class Encoder(nn.Module):
    """E: image (B, C, H, W) in [−1, 1] → latent (B, d), in (−1, 1) with tanh (appendix A.2)."""

    def __init__(
        self,
        sides: Sequence[int],
        channels: int = 1,
        width: int = 64,
        latent: int = 128,
        output: Literal["tanh", "linear"] = "tanh",
    ):
        """Make E for sides such as (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        norm = functools.partial(batch_norm, sides=len(inner_sides(sides)))
        self.trunk = _Trunk(sides, channels, width, norm)
        self.linear = nn.Linear(self.trunk.size, latent)
        self.output = output
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the latent of an image."""
        z: Tensor = widened(self.linear(self.trunk(x)))
        return torch.tanh(z) if self.output == "tanh" else z


def initialise(network: nn.Module, strong: Sequence[nn.Module] = ()) -> None:
    """Xavier's uniform, gain √2 in the blocks' 3×3 convolutions and ``strong``; biases 0.

    The kernels then lie in memory as the images do (``lay_out``).
    """
    inside = {
        conv
        for block in network.modules()
        if isinstance(block, (UpBlock, DownBlock))
        for conv in (block.conv1, block.conv2)
    }
    for layer in network.modules():
        if isinstance(layer, Conv | nn.Linear):
            gain = math.sqrt(2) if layer in inside or layer in strong else 1.0
            nn.init.xavier_uniform_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    lay_out(network)


def initialise_near_zero(network: nn.Module) -> None:
    """Weights from N(0, .01²), biases 0, as ALI's authors begin; in memory as by ``initialise``."""
    for layer in network.modules():
        if isinstance(layer, Conv | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    lay_out(network)


# --- networks that only score --------------------------------------------------------------------

N = TypeVar("N", bound=nn.Module)


def folded(network: N) -> N:
    """Return a copy that computes the same, with batch norms inside convolutions, and can't learn.

    a = γ/√(σ² + ε) goes into the kernel, β − a·μ becomes the bias. A block's first norm follows a
    sum whose other use is the shortcut, and stays.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in network.modules():
        if not isinstance(block, (UpBlock, DownBlock)):
            continue
        norm = block.norm2
        if isinstance(norm, BatchNorm):
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            block.conv1.weight.mul_(scale.view(-1, *[1] * (block.conv1.weight.dim() - 1)))
            shift = norm.bias - scale * norm.running_mean
            block.conv1.bias = nn.Parameter(shift, requires_grad=False)
            block.norm2 = nn.Identity()
    return lay_out(network)
