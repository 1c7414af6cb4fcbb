"""Grey values of volumes are brought together, depth by depth within the retina.

After each volume's own range is normalised, eyes and scanners still differ in how bright a layer is
beside the others. Here each relative depth of a volume gets the median and the spread that the
training normals have there. This isn't the paper's; a lesion that fills much of a depth is partly
taken for brightness.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flat_volume import FlatVolume

DEPTHS = 16
"""Relative depths between the two boundaries; there is one more above (vitreous), one below."""

_LEAST_SPREAD = 2.0


@dataclass(frozen=True)
class DepthProfile:
    """Grey values by relative depth: vitreous, `DEPTHS` within the retina, below."""

    median: tuple[float, ...]  # (DEPTHS + 2,) in [0, 255]
    spread: tuple[float, ...]  # likewise half the distance of the 16th from the 84th percentile

    @classmethod
    def of(cls, volumes: Iterable[FlatVolume]) -> DepthProfile:
        """Return the mean over volumes of each one's medians and spreads."""
        median, spread = np.mean([_statistics(volume) for volume in volumes], axis=0)
        return cls(tuple(median.tolist()), tuple(spread.tolist()))

    def match(self, volume: FlatVolume) -> NDArray[np.uint8]:
        """Return the volume's pixels with this profile: (B-scans, flat rows, columns) uint8."""
        own_median, own_spread = _statistics(volume)
        gain = np.array(self.spread) / own_spread
        offset = np.array(self.median) - gain * own_median
        matched = np.zeros_like(volume.pixels)
        for frame, out in enumerate(matched):
            depth = _depth(volume, frame)
            known = volume.recorded[frame]
            values = volume.pixels[frame] * _along(depth, gain) + _along(depth, offset)
            out[known] = np.rint(np.clip(values[known], 0, 255))
        return matched


def _depth(volume: FlatVolume, frame: int) -> NDArray[np.float32]:
    """Relative depth of each flat pixel of a B-scan, 0 at the inner boundary, 1 at the outer."""
    flat = volume.flat
    inner = (flat.inner[frame] - flat.offset[frame]) * flat.scale[frame]
    rows = np.arange(flat.space.rows)[:, None]
    depth = (rows - inner) / np.where(flat.valid[frame], flat.space.base - inner, np.nan)
    return np.asarray(np.nan_to_num(depth, nan=-1.0), dtype=np.float32)


def _along(depth: NDArray[np.float32], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a profile at each depth: linear within the retina, constant above it and below it."""
    centres = (np.arange(DEPTHS) + 0.5) / DEPTHS
    inside = np.interp(depth, centres, values[1:-1])
    return np.where(depth < 0, values[0], np.where(depth > 1, values[-1], inside))


def _statistics(volume: FlatVolume) -> NDArray[np.float64]:
    """Median and spread at each depth of a volume: (2, DEPTHS + 2)."""
    counts = np.zeros((DEPTHS + 2, 256), dtype=np.int64)
    for frame, pixels in enumerate(volume.pixels):
        known = volume.recorded[frame]
        place = np.clip(np.floor(_depth(volume, frame)[known] * DEPTHS), -1, DEPTHS).astype(int) + 1
        np.add.at(counts, (place, pixels[known]), 1)
    shares = counts.cumsum(axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    low, median, high = ((shares >= share).argmax(axis=1) for share in (0.16, 0.5, 0.84))
    return np.stack([median.astype(np.float64), np.maximum((high - low) / 2, _LEAST_SPREAD)])
