"""Layers for signals, images and volumes: x is (B, C, *sides), with one, two or three sides.

The convolutions beside a change of size are computed by exact rearrangements, which need a part of
the multiplications: of n sides 1/2ⁿ, means left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

# By the number of sides.
CONVOLUTIONS: dict[int, type[Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS: dict[int, type[BatchNorm]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SPREAD: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

N = TypeVar("N", bound=nn.Module)


def sides_of(x: Tensor) -> int:
    """Return the number of sides of (B, C, *sides), or of a kernel (out, in, *sides)."""
    return x.dim() - 2


def mean_pool(x: Tensor, **how: int) -> Tensor:
    """Return the mean over 2 pixels along each side."""
    return _POOL[sides_of(x)](x, 2, **how)


def means(x: Tensor, padding: int) -> Tensor:
    """Return the mean of 2ⁿ pixels at every place; sides grow by 1 with padding, else shrink by 1.

    On the CPU as a convolution of each channel by itself: the pool, which is the same, took a
    quarter of a critic update there. Of signals as a sum of neighbours, whose second derivatives
    take half the time of either.
    """
    if sides_of(x) == 1:
        padded = F.pad(x, (padding, padding))
        return (padded[..., 1:] + padded[..., :-1]) / 2
    if x.device.type != "cpu":
        return mean_pool(x, stride=1, padding=padding)
    sides, channels = sides_of(x), x.shape[1]
    kernel = x.new_full((channels, 1, *[2] * sides), 0.5**sides)
    return _CONVOLVE[sides](x, kernel, padding=padding, groups=channels)


def conv_mean_pool(conv: Conv, x: Tensor) -> Tensor:
    """``mean_pool(conv(x))`` of a kernel of 3 a side: (B, in, H, W) → (B, out, H/2, W/2).

    Both are convolutions, and so their order doesn't matter: the mean, at every place, comes first,
    and the convolution is computed only where it is wanted. In 2-D it takes 9 multiply-adds an
    output, not 36.
    """
    padded = means(x, padding=1)  # of the convolution's zeros too
    return _CONVOLVE[sides_of(x)](padded, conv.weight, conv.bias, stride=2)


def upsample_conv(conv: Conv, x: Tensor) -> Tensor:
    """``conv(interpolate(x, scale_factor=2))``: (B, in, H, W) → (B, out, 2H, 2W).

    Nearest upsampling puts zeros between the pixels and sums over 2 a side; the sum comes last, and
    the convolution is computed only for what isn't zero. In 2-D it takes 2¼ multiply-adds an
    output, not 9.
    """
    sides = sides_of(x)
    # A sum is 2ⁿ times the mean.
    kernel = 2**sides * conv.weight.flip(*range(2, 2 + sides)).transpose(0, 1)
    return means(_SPREAD[sides](x, kernel, conv.bias, stride=2), padding=0)


class LayerNorm(nn.GroupNorm):
    """A group norm of one group, by whatever computes it fast."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, *sides), normed.

        Of few channels in bfloat16, PyTorch's group norm takes longer on CPUs than the convolutions
        beside it; its layer norm over the numbers as they lie in memory computes the same, but its
        second derivatives take longer.
        """
        few = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[1] <= 32
        if torch.is_grad_enabled() or not few:
            return super().forward(x)
        last = x.movedim(1, -1)
        scale, shift = (
            each.expand(last.shape[1:]).contiguous() for each in (self.weight, self.bias)
        )
        return F.layer_norm(last, scale.shape, scale, shift, self.eps).movedim(-1, 1)


def layer_norm(channels: int) -> nn.Module:
    """Layer norm over channels and sides with one scale and shift a channel."""
    return LayerNorm(1, channels, eps=1e-5)


def batch_norm(channels: int, sides: int = 2, momentum: float = 0.01) -> nn.Module:
    """Batch norm with TensorFlow's constants, as the authors trained."""
    return _BATCH_NORMS[sides](channels, eps=1e-3, momentum=momentum)


def laid_out(x: Tensor) -> Tensor:
    """Return x with the channels of a pixel together in memory; a signal channel by channel."""
    return x.contiguous(memory_format=_FORMATS.get(sides_of(x), torch.contiguous_format))


def lay_out(network: N) -> N:
    """Let the kernels lie in memory as ``laid_out`` lays what they are given, and return it.

    Convolutions of few channels are faster so, and none has to turn what it is given.
    """
    for parameter in network.parameters():
        if layout := _FORMATS.get(sides_of(parameter)):
            # Not by `contiguous`, which lets a kernel of one pixel lie as it does.
            parameter.data = parameter.data.to(memory_format=layout)
    return network
