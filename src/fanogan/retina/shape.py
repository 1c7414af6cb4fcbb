"""What flattening takes away has a say: how thick, raised, rough and unclear the retina is.

A flat volume looks much the same whether the retina is thin or thick, and unclear boundaries show
in it as blur at most. So these are held against the training normals, column by column, as a score
beside the networks'.

A column is compared with all places of the normals, not with those as far from the fovea: a single
B-scan rarely tells where that is, and least of all in disease, which fills its pit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.retina.flat_volume import FlatVolume
from fanogan.retina.layers import TYPICAL_SPACING
from fanogan.retina.smooth import smooth

WIDTHS = (0.1, 0.5, 2.0)
"""Widths in mm over which each quantity is averaged around a column."""
SHAPE_RANGE = (1.0, 4.0)
"""Distances from normals between which a map's colours rise; at 1 about a tenth of normals end."""

# Of thickness, elevation, roughness and lack of confidence: what is noise (mm; the last without a
# unit), and the least distance of the outer percentiles from the median, in logarithms.
_NOISE = (0.01, 0.004, 0.002, 0.05)
_LEAST_DISTANCE = (0.05, 0.35, 0.2, 0.5)
_PERCENTILES = (10, 50, 90)
# What bends over more than about 50 µm belongs to the epithelium's own smooth line.
_STIFFNESS = 30.0
_MOST_COLUMNS = 4096  # of a volume


@dataclass(frozen=True)
class ShapeNormals:
    """How thick, raised, rough and unclear the retina of normals is, in logarithms.

    Each holds thickness, elevation, roughness and lack of confidence, each over all `WIDTHS`: the
    10th, 50th and 90th percentile over columns of normals.
    """

    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse percentiles that aren't of all quantities, or not in order."""
        count = len(_NOISE) * len(WIDTHS)
        ordered = zip(self.low, self.median, self.high, strict=True)
        if len(self.low) != count or not all(low < mid < high for low, mid, high in ordered):
            raise ValueError(f"the shape of normals is {count} rising percentiles of each kind")

    @classmethod
    def of(cls, volumes: Iterable[FlatVolume]) -> ShapeNormals:
        """Return the percentiles over columns of volumes, up to some thousands of each.

        Those of the lines are over columns that are seen clearly: where a search has gone astray in
        a normal, it shows in the confidence, and is no example of a normal thickness.
        """
        kept: list[NDArray[np.float64]] = []
        for volume in volumes:
            found = _quantities(volume)
            known = np.isfinite(found).all(axis=(0, 1))
            found = found[..., known].reshape(-1, known.sum())
            unclear = ~volume.boundaries.clear[known]
            found[: -len(WIDTHS), unclear] = np.nan
            kept.append(found[:, :: max(1, -(-found.shape[1] // _MOST_COLUMNS))])
        columns = np.concatenate(kept, axis=1)
        low, median, high = np.nanpercentile(columns, _PERCENTILES, axis=1)
        least = np.repeat(_LEAST_DISTANCE, len(WIDTHS))
        low, high = np.minimum(low, median - least), np.maximum(high, median + least)
        return cls(tuple(low.tolist()), tuple(median.tolist()), tuple(high.tolist()))

    def lines(self, volume: FlatVolume) -> NDArray[np.float32]:
        """Return how far each column is from normals: (B-scans, columns of the recorded scan).

        It is the root mean square of the distances from the median of normals, the unit being that
        of their 90th percentile, or of the 10th for a retina that is thinner. An epithelium that is
        flatter, smoother or clearer has no distance, and where the lines aren't clear theirs count
        as much as there is confidence. NaN where the boundaries are unknown.
        """
        found = _quantities(volume)
        low, median, high = (
            np.reshape(each, (len(_NOISE), len(WIDTHS), 1, 1))
            for each in (self.low, self.median, self.high)
        )
        far = np.maximum((found - median) / (high - median), 0)
        far[0] = np.maximum(far[0], (median - found)[0] / (median - low)[0])
        far[:-1] *= 1 + _NOISE[-1] - np.exp(found[-1])  # the confidence over each width
        return np.asarray(np.sqrt((far**2).mean(axis=(0, 1))), dtype=np.float32)


def _quantities(volume: FlatVolume) -> NDArray[np.float64]:
    """Logarithms of the quantities over all widths: (quantities, widths, B-scans, columns)."""
    lines = volume.boundaries
    _, row, column = (
        mm or usual for mm, usual in zip(volume.scan_spacing, TYPICAL_SPACING, strict=True)
    )
    known = np.isfinite(lines.inner + lines.epithelium + lines.outer)
    weights = known.astype(np.float64)
    inner, outer, epithelium, confidence = (
        np.where(known, line, 0).astype(np.float64)
        for line in (lines.inner, lines.outer, lines.epithelium, lines.confidence)
    )
    rough = np.abs(epithelium - smooth(epithelium, weights, _STIFFNESS, column))
    each = np.stack(
        [(outer - inner) * row, (outer - epithelium) * row, rough * row, 1 - confidence]
    )
    found = np.full((len(each), len(WIDTHS), *known.shape), np.nan)
    for place, width in enumerate(WIDTHS):
        size = max(1, round(width / column))
        sums = ndimage.uniform_filter1d(each * weights, size, mode="constant")
        shares = ndimage.uniform_filter1d(weights, size, mode="constant")
        # Where a sum of zeros is a rounding error below 0.
        means = np.maximum(sums[:, known] / shares[known], 0)
        found[:, place, known] = np.log(means + np.reshape(_NOISE, (-1, 1)))
    return found
