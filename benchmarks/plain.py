"""The networks with the blocks as the paper writes them, in plain PyTorch: the reference for speed.

Every convolution beside a change of size is computed at the larger size, batch norms stay on their
own when scoring, and images lie in memory as PyTorch has them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.models import Discriminator, DownBlock, Encoder, Generator, UpBlock


class PlainDown(DownBlock):
    """Norm, ReLU, conv, norm, ReLU, conv, mean pool."""

    def forward(self, x: Tensor) -> Tensor:
        """As Gulrajani et al. (2017) have it."""
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
        return pool(y, 2) + self.shortcut(pool(x, 2))


class PlainUp(UpBlock):
    """Norm, ReLU, upsample, conv, norm, ReLU, conv."""

    def forward(self, x: Tensor) -> Tensor:
        """As Gulrajani et al. (2017) have it."""
        up = F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0, mode="nearest")
        y = self.conv2(F.relu(self.norm2(self.conv1(up))))
        return y + self.shortcut(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PlainGenerator(Generator):
    """G on images that lie in memory as PyTorch has them."""

    def forward(self, z: Tensor) -> Tensor:
        """The image of a latent."""
        x = self.blocks(self.linear(z).unflatten(1, self.base))
        return torch.tanh(self.conv(F.relu(self.norm(x)))).reshape(len(z), -1, *self.sides)


def plain_trunk(trunk: Any, x: Tensor) -> Tensor:
    """D's and E's trunk, likewise."""
    x = x.reshape(*x.shape[:2], *trunk.inner)
    return torch.flatten(trunk.blocks(trunk.conv(x)), 1)


def as_written(network: nn.Module) -> nn.Module:
    """Turn a network or block of ours into the plain one with the same weights."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for block in network.modules():
        if isinstance(block, DownBlock):
            block.__class__ = PlainDown
        elif isinstance(block, UpBlock):
            block.__class__ = PlainUp
    if isinstance(network, Generator):
        network.__class__ = PlainGenerator
    elif isinstance(network, (Discriminator, Encoder)):
        network.trunk.forward = partial(plain_trunk, network.trunk)  # type: ignore[method-assign]
    return network
