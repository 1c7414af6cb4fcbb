"""Volumes of all scanners and settings are brought to one grey range and pixel size, and back.

The paper normalises each volume to [−1, 1] and halves its 512 columns, to 22 µm (section 3, Data).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanogan.scans import BadScan, Scan

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Height and width of a resampled pixel: a Spectralis's, and that of the paper's 256 columns.
ROW_MM, COLUMN_MM = 0.00387, 0.022
# Height and width of the largest pixel of retinal OCT; more is micrometres, or no spacing.
MOST_MM = (0.02, 0.2)
# Percentiles of a volume's grey values that become −1 and +1.
PERCENTILES = (0.5, 99.5)
# Averaging 1.96 columns makes stripes, as the pixels that share a column alternate; 2 makes none.
_TOLERANCE = 0.03
_MOST_VALUES = 2_000_000


def normalise(
    scan: Scan, margins: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return the grey values of a volume mapped to [−1, 1], as 8 bits: x = 2·(value/255 − ½).

    With them come the values that are mapped to −1 and 1.

    The range is that of `PERCENTILES` outside the margins (as of `filled_margins`), so neither a
    few saturated pixels nor what the scanner filled in sets it; what lies beyond is clipped.

    Raises:
        BadScan: No two grey values outside the margins.
    """
    known = scan.pixels[~margins]
    if not known.size or known.min() == known.max():
        raise BadScan(
            f"{scan.name} holds nothing but filled margins or one grey value: export it again, "
            "or leave it out with --skip-bad"
        )
    step = -(-known.size // _MOST_VALUES)
    low, high = map(float, np.percentile(known[::step].astype(np.float32), PERCENTILES))
    if low == high:  # a few bright pixels on a flat ground
        low, high = float(known.min()), float(known.max())
    normalised = np.empty(scan.pixels.shape, dtype=np.uint8)
    for frame, out in zip(scan.pixels, normalised, strict=True):
        share = (frame.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        out[:] = np.rint(np.clip(share, 0, 1) * 255)
    return normalised, (low, high)


@dataclass(frozen=True)
class Grid:
    """Resampling in the plane of the B-scans, and its way back.

    Both grids cover the same area from edge to edge. A new pixel is the mean over its extent;
    where pixels grow smaller, linear interpolation.
    """

    scan_shape: tuple[int, int]  # rows and columns of the scan
    shape: tuple[int, int]  # rows and columns of the resampled scan

    @classmethod
    def of(cls, scan: Scan) -> Grid:
        """Return the grid with pixels of `ROW_MM` × `COLUMN_MM`.

        A factor within 3 % of a whole number is that number. Where a spacing is unknown, rows
        stay as they are, and columns too unless there are 512, which are halved as in the paper.

        Raises:
            BadScan: Pixels larger than `MOST_MM`, which would be split into millions.
        """
        rows, columns = scan.pixels.shape[1:]
        _, row_mm, column_mm = scan.spacing
        if (row_mm or 0) > MOST_MM[0] or (column_mm or 0) > MOST_MM[1]:
            size = " × ".join("?" if mm is None else f"{mm:g}" for mm in (row_mm, column_mm))
            raise BadScan(
                f"{scan.name} is said to have pixels of {size} mm, and those of retinal OCT are of "
                "micrometres: correct --spacing, which is in mm, or the file's own"
            )

        def size_of(pixels: int, mm: float | None, wanted_mm: float, unknown: float) -> int:
            factor = wanted_mm / mm if mm else unknown
            whole = max(1, round(factor))
            if abs(factor / whole - 1) <= _TOLERANCE:
                factor = float(whole)
            return max(1, round(pixels / factor))

        unknown = 2.0 if columns == 512 else 1.0
        shape = size_of(rows, row_mm, ROW_MM, 1.0), size_of(columns, column_mm, COLUMN_MM, unknown)
        return cls((rows, columns), shape)

    def forward(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume or mask (B-scans, rows, columns) of the scan on the grid.

        Returns:
            Booleans true where at least half of a pixel is, integers rounded, or float32; a NaN
            stays local.

        Raises:
            ValueError: The frames have another shape.
        """
        return _resample(volume, self.scan_shape, self.shape)

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a map or mask on the grid in the scan's own rows and columns, as `forward`."""
        return _resample(values, self.shape, self.scan_shape)

    def boundary(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a boundary, given in rows of the scan, (B-scans, columns), in rows of the grid.

        A resampled column is NaN where any of the columns that it is made of is.
        """
        weights = _weights(self.scan_shape[1], self.shape[1])
        missing = np.isnan(rows)
        means = (weights @ np.where(missing, 0, rows).astype(np.float64).T).T
        means = (means + 0.5) * self.shape[0] / self.scan_shape[0] - 0.5
        touched = (weights @ missing.T.astype(np.float32)).T > 0
        return np.where(touched, np.nan, means).astype(np.float32)


def to_dtype(values: NDArray[np.floating[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """Return resampled values in their source's dtype: booleans from ½ on, integers rounded."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.asarray(values >= 0.5)
    return np.asarray(np.rint(values) if kind in "iu" else values, dtype=dtype)


def _resample(
    volume: NDArray[Any], shape: tuple[int, int], wanted: tuple[int, int]
) -> NDArray[Any]:
    """Resample frames of one shape to another."""
    if volume.ndim != 3 or volume.shape[1:] != shape:
        raise ValueError(f"expected frames of {shape}, got an array of {volume.shape}")
    down, across = (_weights(*sizes) for sizes in zip(shape, wanted, strict=True))

    def weighted(frame: NDArray[np.float32]) -> NDArray[np.float32]:
        # An axis that keeps its size is left as it is.
        if shape[0] != wanted[0]:
            frame = down @ frame
        return (across @ frame.T).T if shape[1] != wanted[1] else frame

    dtype = volume.dtype if volume.dtype.kind in "biu" else np.dtype(np.float32)
    resampled = np.empty((len(volume), *wanted), dtype=dtype)
    for raw, out in zip(volume, resampled, strict=True):
        frame = raw.astype(np.float32)
        missing = np.isnan(frame)
        if missing.any():  # a mean is known only where at least half of its weight is
            total = weighted(np.where(missing, np.float32(0), frame))
            known = weighted((~missing).astype(np.float32))
            enough = known >= 0.5 - 1e-5  # weights are rounded
            means = np.where(enough, total / np.where(enough, known, 1), np.float32(np.nan))
        else:
            means = weighted(frame)
        out[:] = to_dtype(means, dtype)
    return resampled


@functools.lru_cache(maxsize=16)
def _weights(size: int, wanted: int) -> csr_array:
    """Share of each of `size` pixels in each of `wanted` pixels: (wanted, size), rows sum to 1.

    A box as wide as the larger of the two pixels is laid over the source pixels: the mean over
    the extent where pixels grow, and linear interpolation where they shrink.
    """
    from scipy.sparse import csr_array

    step = size / wanted
    width = max(1.0, step)
    centres = (np.arange(wanted)[:, None] + 0.5) * step
    pixels = np.arange(size)
    begin = np.maximum(centres - width / 2, pixels)
    end = np.minimum(centres + width / 2, pixels + 1)
    overlap = np.clip(end - begin, 0, None)
    overlap[overlap < 1e-9] = 0
    return csr_array((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))
