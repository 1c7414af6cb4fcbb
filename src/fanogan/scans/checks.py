"""Errors of scans, and the checks that every scan passes: its size, its type, its numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fanogan.errors import FanoganError
from fanogan.remote import named
from fanogan.scans.scan import Pixels, Scan

MAX_FRAME_PIXELS = 100_000_000
"""Rows times columns of one frame: larger ones are taken for decompression bombs."""

MAX_BYTES = 4_000_000_000
"""Decoded bytes of one file: the machine that trains has to hold several files at a time."""

KEPT_DTYPES = (np.uint8, np.uint16, np.int16, np.float32)
"""Of a scan's pixels; `convert` turns others into these."""


class BadScan(FanoganError):
    """A scan that cannot be used; one sentence says which file, what is wrong, what to do."""

    def __init__(self, sentence: str):
        """Call copies of files at URLs by these."""
        super().__init__(named(sentence))


class NoneUsable(BadScan):
    """All scans were left out, as bad ones."""


def unusable(problem: str, remedy: str = "replace it") -> BadScan:
    """Return the error for a file that can be mended as `remedy` says, or left out."""
    return BadScan(f"{problem}: {remedy}, or leave it out with --skip-bad")


def damaged(label: str, what: str) -> BadScan:
    """Return the error for a file that is cut short or altered; `what` names its format."""
    problem = f"{label} is damaged or cut short and cannot be read as {what}"
    return unusable(problem, "copy it again")


def check_size(
    label: str, rows: int, columns: int, frames: int = 1, bytes_per_pixel: int = 1
) -> None:
    """Refuse sizes that no scan has, from the header alone, before anything is decoded.

    `bytes_per_pixel` counts all channels of a decoded pixel.

    Raises:
        BadScan: No pixels, more than `MAX_FRAME_PIXELS` a frame, or more than `MAX_BYTES` in all.
    """
    if min(rows, columns, frames) < 1:
        raise unusable(f"{label} holds no pixels (size {frames}×{rows}×{columns})")
    if rows * columns > MAX_FRAME_PIXELS:
        raise too_large(label, f"{rows:,}×{columns:,} pixels")
    if _most_pixels is not None and rows * columns * frames > _most_pixels:
        raise BadScan(
            f"{label} has {rows * columns * frames:,} pixels, more than the {_most_pixels:,} that "
            "are taken here: crop or split it"
        )
    total = rows * columns * frames * bytes_per_pixel
    if total > MAX_BYTES:
        raise BadScan(
            f"{label} would take {total / 1e9:,.1f} GB once decoded, more than the "
            f"{MAX_BYTES / 1e9:.0f} GB that one file may have: split it into smaller files"
        )


def too_large(label: str, size: str) -> BadScan:
    """Return the error for a frame above `MAX_FRAME_PIXELS`; `size` says how large it is."""
    most = f"the {MAX_FRAME_PIXELS // 1_000_000} megapixels that a frame may have"
    return unusable(f"{label} declares {size}, more than {most}", "crop or tile it")


_most_pixels: int | None = None


def limit_pixels(count: int) -> None:
    """Refuse in this process what has more pixels, of all frames together, before it is decoded."""
    global _most_pixels
    _most_pixels = count


def mapped(
    path: Path,
    dtype: np.dtype[Any],
    offset: int,
    shape: tuple[int, ...],
    order: Literal["C", "F"] = "C",
) -> Pixels | None:
    """Return a volume too large to be decoded where it lies, to be read part by part.

    None of one that is no larger than `MAX_BYTES`.

    Raises:
        BadScan: It is larger, and holds numbers that would have to be converted as a whole.
    """
    total = math.prod(shape) * dtype.itemsize
    if total <= MAX_BYTES:
        return None
    if dtype not in KEPT_DTYPES:
        raise BadScan(
            f"{path} takes {total / 1e9:,.1f} GB, and is read part by part only as uint8, uint16, "
            f"int16 or float32, not as {dtype}: save it as one of them"
        )
    return np.memmap(path, dtype, "r", offset, shape, order)


def check_dtype(label: str, dtype: np.dtype[Any]) -> None:
    """Raise BadScan unless `dtype` holds plain real numbers."""
    if dtype.kind not in "buif":
        kind = {"c": "complex numbers", "O": "Python objects"}.get(dtype.kind, f"dtype {dtype}")
        raise BadScan(f"{label} holds {kind}: save plain integers or floats, one value a pixel")


def check_finite(label: str, pixels: Pixels, stored: Pixels) -> None:
    """Raise BadScan where float `pixels` are not finite; `stored` are they before `convert`."""
    # The minimum and the maximum pass NaN and infinity on, without an array of booleans.
    if pixels.dtype.kind != "f" or np.isfinite([pixels.min(), pixels.max()]).all():
        return
    if np.isfinite([stored.min(), stored.max()]).all():
        largest = max(stored.max(), -stored.min())
        problem = f"holds values up to {largest:.3g}, more than 32-bit floats can hold (3.4e38)"
        raise unusable(f"{label} {problem}", "scale them")
    raise unusable(f"{label} holds NaN or infinite values", "replace them by numbers")


def check(scan: Scan, label: str) -> None:
    """Raise BadScan where what a reader returned has no pixels or no plain numbers."""
    frames, rows, columns = scan.pixels.shape[:3]
    # What is mapped may be larger than memory.
    check_size(label, rows, columns, frames, 0 if isinstance(scan.pixels, np.memmap) else 1)
    check_dtype(label, scan.pixels.dtype)
