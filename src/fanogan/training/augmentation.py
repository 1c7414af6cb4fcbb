"""What the critic sees of both sides, changed at random where it overfits.

Differentiable changes of Zhao et al. (2020), as strong as the held-out normals ask: Karras et al.
(2020) steer theirs by the same gap, between what the critic gives training images and others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CriticAugmentation(nn.Module):
    """Change each image with a probability that follows how far the critic overfits.

    An image that is changed is shifted by up to an eighth of its sides, its edges repeated, has its
    contrast multiplied by .7 to 1.3 and its brightness (of −1 to 1) raised by −.2 to .2, and loses
    a rectangle of a third of its sides, which becomes 0. A probability of 1 would let G learn the
    changes themselves (Karras et al. 2020, section 2.2), so it stays at .8 or below.
    """

    MOST = 0.8
    # The gap between training and held-out normals, of that between training normals and samples.
    ALLOWED_GAP = 0.2
    # From 0 to the most in so much of the training.
    RISE = 0.2

    probability: Tensor

    def __init__(self) -> None:
        """Begin with no changes."""
        super().__init__()
        self.register_buffer("probability", torch.zeros(()))

    def forward(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Return images (B, C, *sides) in [−1, 1], changed by numbers from ``random``."""
        n, _, *sides = x.shape

        def drawn(low: float, high: float, *shape: int) -> Tensor:
            found = torch.rand(shape, generator=random, device=x.device)
            return low + (high - low) * found

        changed = drawn(0, 1, n) < self.probability
        index, without = [], []
        for side in sides:
            at = torch.arange(side, device=x.device)
            shift = torch.round(changed * drawn(-side / 8, side / 8, n)).long()
            index.append((at + shift[:, None]).clamp(0, side - 1))
            middle = drawn(0, side, n)[:, None]
            without.append((at + 0.5 - middle).abs() < max(side / 6, 0.5))  # a signal has one row
        # What belongs to each image, and along one side, beside (B, *sides).
        of_each = [n, *[1] * len(sides)]
        along = [
            [n, *(side if other == axis else 1 for other, side in enumerate(sides))]
            for axis in range(len(sides))
        ]
        at = torch.arange(n, device=x.device).reshape(of_each)
        places = (each.reshape(shape) for each, shape in zip(index, along, strict=True))
        moved = x.movedim(1, -1)[at, *places].movedim(-1, 1)
        contrast, brightness = (
            (changed * drawn(-most, most, n)).reshape(n, *[1] * (1 + len(sides)))
            for most in (0.3, 0.2)
        )
        mean = moved.mean(tuple(range(1, moved.dim())), keepdim=True)
        adjusted = moved + contrast * (moved - mean) + brightness
        cut = changed.reshape(of_each)
        for each, shape in zip(without, along, strict=True):
            cut = cut & each.reshape(shape)
        return adjusted.masked_fill(cut[:, None], 0)

    def adapt(self, seen: float, held_out: float, share: float) -> None:
        """Raise the probability where the critic overfits, and lower it where it doesn't.

        Args:
            seen: the Wasserstein distance from samples to training normals.
            held_out: that to held-out normals.
            share: of the training, since the last time.
        """
        overfits = held_out < (1 - self.ALLOWED_GAP) * seen
        step = self.MOST * share / self.RISE
        moved = self.probability + (step if overfits else -step)
        self.probability.copy_(moved.clamp(0, self.MOST))
