"""Volumes of every scanner and setting brought to one grey range and one pixel size, and back.

The paper normalises each volume to [−1, 1] and halves its 512 columns, to 22 µm (section 3, Data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanogan.scans import BadScan, Scan

ROW_MM = 0.00387
"""Height of a resampled pixel: a Spectralis's own."""

COLUMN_MM = 0.022
"""Width of a resampled pixel: that of the paper's 256 columns."""

MOST_MM = (0.02, 0.2)
"""Height and width of the largest pixel of retinal OCT; more is micrometres, or no spacing."""

PERCENTILES = (0.5, 99.5)
"""Of a volume's grey values, those that become −1 and +1."""

# Averaging 1.96 columns makes stripes, as the pixels that share a column alternate; 2 makes none.
_TOLERANCE = 0.03
_MOST_VALUES = 2_000_000


def normalise(scan: Scan, margins: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Maps the grey values of a volume to [−1, 1], kept as 8 bits: x = 2·(value/255 − ½).

    The range is that of `PERCENTILES` outside the margins, so neither the few saturated pixels
    nor what the scanner filled in sets it; what lies beyond is clipped.

    Args:
        scan: Grey volume, any dtype.
        margins: (B-scans, rows, columns), true where the scanner filled in; see `filled_margins`.

    Returns:
        (B-scans, rows, columns) uint8.

    Raises:
        BadScan: Colour, or no two grey values outside the margins.
    """
    if scan.pixels.ndim != 3:
        raise BadScan(f"{scan.name} is in colour, and OCT is grey: give the scanner's own export")
    known = scan.pixels[~margins]
    if not known.size or known.min() == known.max():
        raise BadScan(
            f"{scan.name} holds nothing but filled margins or one grey value: export it again, "
            "or leave it out with --skip-bad"
        )
    step = -(-known.size // _MOST_VALUES)
    low, high = np.percentile(known[::step].astype(np.float32), PERCENTILES)
    if low == high:  # a few bright pixels on a flat ground
        low, high = float(known.min()), float(known.max())
    normalised = np.empty(scan.pixels.shape, dtype=np.uint8)
    for frame, out in zip(scan.pixels, normalised, strict=True):
        share = (frame.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        out[:] = like(np.clip(share, 0, 1) * 255, np.uint8)
    return normalised


@dataclass(frozen=True)
class Grid:
    """Resampling in the plane of the B-scans, and its way back.

    Both grids cover the same area from edge to edge. A pixel becomes the mean over its own
    extent, and where pixels grow smaller, linear interpolation.

    Attributes:
        scan_shape: Rows and columns of the scan.
        shape: Rows and columns of the resampled scan.
    """

    scan_shape: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def of(cls, scan: Scan) -> Grid:
        """The grid with pixels of `ROW_MM` × `COLUMN_MM`.

        A factor within 3 % of a whole number is that number. Where a spacing isn't known, rows
        stay as they are, and columns too unless there are 512, which are halved as in the paper.

        Raises:
            BadScan: Pixels larger than `MOST_MM`, which would be made millions.
        """
        rows, columns = scan.pixels.shape[1:3]
        _, row_mm, column_mm = scan.spacing
        if (row_mm or 0) > MOST_MM[0] or (column_mm or 0) > MOST_MM[1]:
            size = " × ".join("?" if mm is None else f"{mm:g}" for mm in (row_mm, column_mm))
            raise BadScan(
                f"{scan.name} is said to have pixels of {size} mm, and those of retinal OCT are of "
                "micrometres: correct --spacing, which is in mm, or the file's own"
            )
        row_factor = _factor(row_mm, ROW_MM) if row_mm else 1.0
        unknown = 2.0 if columns == 512 else 1.0
        column_factor = _factor(column_mm, COLUMN_MM) if column_mm else unknown
        shape = (max(1, round(rows / row_factor)), max(1, round(columns / column_factor)))
        return cls((rows, columns), shape)

    def forward(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Resamples a volume or mask of the scan's shape.

        Args:
            volume: (B-scans, rows, columns) of the scan. Floats may be NaN, which stays local.

        Returns:
            (B-scans, rows, columns) of the grid: booleans true where at least half of a pixel is,
            integers rounded, floats as float32.

        Raises:
            ValueError: The frames have another shape.
        """
        return _resample(volume, self.scan_shape, self.shape)

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """Returns a map or mask from the grid to the scan's own rows and columns, as `forward`."""
        return _resample(values, self.shape, self.scan_shape)

    def boundary(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resamples a boundary.

        Args:
            rows: (B-scans, columns) of the scan, in its rows; NaN where there is none.

        Returns:
            (B-scans, columns) float32 of the grid, in its rows; NaN where any column that a
            resampled one is made of has none.
        """
        weights = _weights(self.scan_shape[1], self.shape[1])
        missing = np.isnan(rows)
        means = np.where(missing, 0, rows).astype(np.float64) @ weights.T
        means = (means + 0.5) * self.shape[0] / self.scan_shape[0] - 0.5
        touched = missing @ (weights.T > 0)
        return np.where(touched, np.nan, means).astype(np.float32)


def like(values: NDArray[np.floating[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """Returns resampled values in the dtype of their source.

    Booleans are true from ½ on, integers rounded, and floats float32.
    """
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.asarray(values >= 0.5)
    if kind in "iu":
        return np.asarray(np.rint(values), dtype=dtype)
    return np.asarray(values, dtype=np.float32)


def _factor(spacing: float, wanted: float) -> float:
    """How many pixels of the scan one resampled pixel is made of."""
    factor = wanted / spacing
    whole = max(1, round(factor))
    return float(whole) if abs(factor / whole - 1) <= _TOLERANCE else factor


def _resample(volume: NDArray[Any], shape: Sequence[int], wanted: tuple[int, int]) -> NDArray[Any]:
    """Resamples frames of one shape to another, one by one."""
    if volume.ndim != 3 or volume.shape[1:] != tuple(shape):
        raise ValueError(f"expected frames of {tuple(shape)}, got an array of {volume.shape}")
    down, across = (_weights(*sizes) for sizes in zip(shape, wanted, strict=True))
    dtype = volume.dtype if volume.dtype.kind in "biu" else np.dtype(np.float32)
    resampled = np.empty((len(volume), *wanted), dtype=dtype)
    for frame, out in zip(volume, resampled, strict=True):
        out[:] = like(_weighted(frame.astype(np.float32), down, across), dtype)
    return resampled


def _weighted(
    frame: NDArray[np.float32], down: NDArray[np.float32], across: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Means of a frame (rows, columns); NaN only where less than half of the weight is known."""
    missing = np.isnan(frame)
    if not missing.any():
        return _product(frame, down, across)
    total = _product(np.where(missing, np.float32(0), frame), down, across)
    known = _product((~missing).astype(np.float32), down, across)
    # Weights are rounded, so a half may be a little less.
    enough = known >= 0.5 - 1e-5
    return np.where(enough, total / np.where(enough, known, 1), np.float32(np.nan))


def _product(
    frame: NDArray[np.float32], down: NDArray[np.float32], across: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Applies the weights of both axes; an axis that keeps its size is left out."""
    if down.shape[0] != down.shape[1]:
        frame = down @ frame
    if across.shape[0] != across.shape[1]:
        frame = frame @ across.T
    return frame


def _weights(size: int, wanted: int) -> NDArray[np.float32]:
    """Share of each of `size` pixels in each of `wanted` pixels: (wanted, size), rows sum to 1.

    A box as wide as the larger of the two pixels is laid over the source pixels: the mean over
    the extent where pixels grow, and linear interpolation where they shrink.
    """
    step = size / wanted
    width = max(1.0, step)
    centres = (np.arange(wanted)[:, None] + 0.5) * step
    pixels = np.arange(size)
    begin = np.maximum(centres - width / 2, pixels)
    end = np.minimum(centres + width / 2, pixels + 1)
    overlap = np.clip(end - begin, 0, None)
    overlap[overlap < 1e-9] = 0
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), dtype=np.float32)
