"""The networks: generator G, discriminator D (a Wasserstein critic), encoder E, and ALI's D.

Residual networks of Gulrajani et al. (2017), as f-AnoGAN uses them (Schlegl et al. 2019, section
3, Implementation details), for sides c·2^b with c in 4…7, any number of channels, width and latent
size. What leaves a network is fp32, also under autocast, so that residuals and losses are computed
in it. The convolutions beside a change of size are computed by exact rearrangements, which need a
quarter of the multiplications (``ConvMeanPool``, ``UpsampleConv``).
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

from fanogan.recipes import blocks_of

# Of ALI (Dumoulin et al. 2016): how much of its input each layer of D loses, and the slope below 0.
DROPOUT, LEAK = 0.2, 0.1


def channels_of(width: int, blocks: int) -> list[int]:
    """Channels of D before its first block and after each: doubling from w, at most 8w."""
    return [min(width * 2**block, 8 * width) for block in range(blocks + 1)]


def means(x: Tensor, padding: int) -> Tensor:
    """Return the mean of 2×2 pixels at every place; sides grow by 1 with padding, else shrink by 1.

    On the CPU as a convolution of each channel by itself: the pool, which is the same, took a
    quarter of a critic update there.
    """
    if x.device.type != "cpu":
        return F.avg_pool2d(x, 2, stride=1, padding=padding)
    kernel = x.new_full((x.shape[1], 1, 2, 2), 0.25)
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])


class ConvMeanPool(nn.Conv2d):
    """A 3×3 convolution then a 2×2 mean: 9 multiply-adds an output, not 36.

    Both are convolutions, and so their order doesn't matter: the mean, at every place, comes first,
    and the convolution is computed only where it is wanted.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``avg_pool2d(conv(x), 2)``: (B, in, H, W) → (B, out, H/2, W/2)."""
        padded = means(x, padding=1)  # of the convolution's zeros too
        return F.conv2d(padded, self.weight, self.bias, stride=2)


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling then a 3×3 convolution: 2¼ multiply-adds an output, not 9.

    Nearest upsampling puts zeros between the pixels and sums over 2×2; the sum comes last, and the
    convolution is computed only for what isn't zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``conv(interpolate(x, scale_factor=2))``: (B, in, H, W) → (B, out, 2H, 2W)."""
        kernel = 4 * self.weight.flip(2, 3).transpose(0, 1)  # a sum is four times the mean
        spread = F.conv_transpose2d(x, kernel, self.bias, stride=2)
        return means(spread, padding=0)


class LayerNorm(nn.GroupNorm):
    """A group norm of one group, by whatever computes it fast."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W), normed.

        Of few channels in bfloat16, PyTorch's group norm takes longer on CPUs than the convolutions
        beside it; its layer norm over the numbers as they lie in memory computes the same, but its
        second derivatives take longer.
        """
        few = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[1] <= 32
        if torch.is_grad_enabled() or not few:
            return super().forward(x)
        last = x.permute(0, 2, 3, 1)
        scale, shift = (
            each.expand(last.shape[1:]).contiguous() for each in (self.weight, self.bias)
        )
        return F.layer_norm(last, scale.shape, scale, shift, self.eps).permute(0, 3, 1, 2)


def widened(x: Tensor) -> Tensor:
    """Return bfloat16 as fp32, and all else as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


def layer_norm(channels: int) -> nn.Module:
    """Layer norm over C, H, W with one scale and shift a channel."""
    return LayerNorm(1, channels, eps=1e-5)


def batch_norm(channels: int, momentum: float = 0.01) -> nn.Module:
    """Batch norm with TensorFlow's constants, as the authors trained."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)


class DownBlock(nn.Module):
    """Residual block that halves the sides, of D and E: (B, in, H, W) → (B, out, H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int, norm: Callable[[int], nn.Module]):
        """Make the block; ``norm`` is ``layer_norm`` in D, ``batch_norm`` in E."""
        super().__init__()
        self.norm1 = norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1, bias=False)
        self.norm2 = norm(channels_in)
        self.conv2 = ConvMeanPool(channels_in, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Norm, ReLU, conv, norm, ReLU, conv, mean pool; beside it mean pool, conv1×1."""
        y = self.conv1(F.relu_(self.norm1(x)))
        y = self.conv2(F.relu_(self.norm2(y)))
        return y.add_(self.shortcut(F.avg_pool2d(x, 2)))  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Residual block that doubles the sides, of G: (B, in, H, W) → (B, out, 2H, 2W)."""

    def __init__(self, channels_in: int, channels_out: int):
        """Make the block."""
        super().__init__()
        self.norm1 = batch_norm(channels_in)
        self.conv1 = UpsampleConv(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = batch_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Norm, ReLU, upsample, conv, norm, ReLU, conv; beside it upsample, conv1×1."""
        y = self.conv1(F.relu_(self.norm1(x)))
        y = self.conv2(F.relu_(self.norm2(y)))
        # A 1×1 convolution and an upsampling commute, and there are four times fewer pixels before.
        shortcut = F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")
        return y.add_(shortcut)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """G: latent z (B, d) ~ N(0, I) → image (B, C, H, W) in (−1, 1)."""

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64, latent: int = 128):
        """Make G for sides (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        blocks = blocks_of(sides)
        stages = channels_of(width, blocks)[::-1]
        self.latent = latent
        self.base = (stages[0], sides[0] >> blocks, sides[1] >> blocks)
        self.linear = nn.Linear(latent, math.prod(self.base))
        self.blocks = nn.Sequential(*(UpBlock(before, after) for before, after in pairwise(stages)))
        self.norm = batch_norm(width)
        self.conv = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self, strong=(self.conv,))

    def forward(self, z: Tensor) -> Tensor:
        """Return the image of a latent."""
        x = self.linear(z).unflatten(1, self.base).contiguous(memory_format=torch.channels_last)
        return torch.tanh(widened(self.conv(F.relu_(self.norm(self.blocks(x))))))


class _Trunk(nn.Module):
    """What D and E share: input convolution and residual blocks, flattened."""

    def __init__(
        self, sides: Sequence[int], channels: int, width: int, norm: Callable[[int], nn.Module]
    ):
        super().__init__()
        blocks = blocks_of(sides)
        stages = channels_of(width, blocks)
        self.size = stages[-1] * (sides[0] >> blocks) * (sides[1] >> blocks)
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(DownBlock(before, after, norm) for before, after in pairwise(stages))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return widened(torch.flatten(self.blocks(self.conv(x)), 1))


class Discriminator(nn.Module):
    """D: image (B, C, H, W) in [−1, 1] → critic value (B,); higher is more real."""

    def __init__(self, sides: Sequence[int], channels: int = 1, width: int = 64):
        """Make D for sides (rows, columns).

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
        self.trunk = _Trunk(sides, channels, width, norm)
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
        """Make D for sides (rows, columns).

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
        """Make E for sides (rows, columns).

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
        """Make E for sides (rows, columns).

        Raises:
            ValueError: sides that aren't c·2^b (see ``blocks_of``).
        """
        super().__init__()
        self.trunk = _Trunk(sides, channels, width, batch_norm)
        self.linear = nn.Linear(self.trunk.size, latent)
        self.output = output
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the latent of an image."""
        z: Tensor = widened(self.linear(self.trunk(x)))
        return torch.tanh(z) if self.output == "tanh" else z


def initialise(network: nn.Module, strong: Sequence[nn.Conv2d] = ()) -> None:
    """Xavier's uniform, gain √2 in the blocks' 3×3 convolutions and ``strong``; biases 0.

    The kernels then lie in memory as the images do, a pixel's channels together: convolutions of
    few channels are faster so, and none has to turn what it is given.
    """
    inside = {
        conv
        for block in network.modules()
        if isinstance(block, (UpBlock, DownBlock))
        for conv in (block.conv1, block.conv2)
    }
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = math.sqrt(2) if layer in inside or layer in strong else 1.0
            nn.init.xavier_uniform_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def initialise_near_zero(network: nn.Module) -> None:
    """Weights from N(0, .01²), biases 0, as ALI's authors begin; in memory as by ``initialise``."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            block.conv1.weight.mul_(scale[:, None, None, None])
            shift = norm.bias - scale * norm.running_mean
            block.conv1.bias = nn.Parameter(shift, requires_grad=False)
            block.norm2 = nn.Identity()
    ready: N = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready
