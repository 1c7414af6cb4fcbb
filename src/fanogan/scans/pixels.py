"""Pixels as scans keep them: upright, alpha dropped, grey if channels are equal, in few dtypes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fanogan.scans.checks import KEPT_DTYPES, BadScan, check, check_finite, unusable
from fanogan.scans.notes import AlphaDropped, EmptyFrames, GreyStoredAsColour, Note
from fanogan.scans.scan import Pixels, Scan

TRANSPOSED = (5, 6, 7, 8)
"""The orientations of TIFF and EXIF that exchange rows and columns."""


def turned(pixels: Pixels, orientation: object) -> Pixels:
    """Turn (rows, columns[, channels]) as the orientation tag of TIFF and EXIF says.

    1 to 8 name the sides at which the first row and the first column belong; others mean 1.
    """
    if orientation in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def wide_range(pixels: Pixels) -> tuple[int, int] | None:
    """Return the least and greatest of integers wider than 16 bits; None for other dtypes."""
    is_wide = pixels.dtype.kind in "ui" and pixels.dtype.itemsize > 2
    return (int(pixels.min()), int(pixels.max())) if is_wide else None


def convert(pixels: Pixels, low: int = 0, high: int = 0) -> Pixels:
    """Return pixels in a dtype that scans may have, without a copy where nothing changes.

    uint8, uint16, int16 and float32 stay. Booleans become uint8 (0 and 255), wider integers
    uint16 or int16 where `low` to `high` fits, all else float32.
    """
    native = pixels.dtype.newbyteorder("=")
    if native.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    stored: Any = np.float32
    if native in KEPT_DTYPES:
        stored = native
    # A signed byte stays signed, or files of one scanner would differ in sign.
    elif native == np.int8:
        stored = np.int16
    elif native.kind in "ui":
        fits = (np.iinfo(dtype) for dtype in (np.uint16, np.int16))
        stored = next((t.dtype for t in fits if t.min <= low and high <= t.max), np.float32)
    # float64 beyond float32's range becomes infinite, and check_finite then refuses it.
    with np.errstate(over="ignore"):
        return pixels.astype(stored, copy=False)


def is_constant(pixels: Pixels) -> bool:
    """Return whether every pixel of (frames, rows, columns[, channels]) has the same value."""
    first = pixels[0, 0, 0]
    return all(bool((frame == first).all()) for frame in pixels)


def channels_are_equal(pixels: Pixels) -> bool:
    """Return whether the three channels of (..., 3) hold the same values."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return np.array_equal(red, green) and np.array_equal(red, blue)


def drop_alpha(label: str, pixels: Pixels, axis_count: int = 4) -> tuple[Pixels, tuple[Note, ...]]:
    """Return a view with three channels or none, and a note where alpha was dropped.

    A lone channel is squeezed; a second or fourth is alpha. Channels are the last of `axis_count`
    axes, and may be missing.

    Raises:
        BadScan: More than four channels.
    """
    if pixels.ndim < axis_count:
        return pixels, ()
    count = pixels.shape[-1]
    if count > 4:
        raise BadScan(
            f"{label} has {count} channels: save grey (1), RGB (3) or RGB with alpha (4) images"
        )
    kept = pixels[..., 0] if count < 3 else pixels[..., :3]
    return kept, (AlphaDropped(),) if count in (2, 4) else ()


@dataclass(frozen=True)
class Whole:
    """What is decided for all pixels of a file, in whatever pieces they are read.

    Attributes:
        low: The least value of integers wider than 16 bits; 0 for other dtypes.
        high: The greatest of them.
        is_grey: Whether there are three channels, and they are equal.
        highest: The greatest integer that the pixels become; None where they become floats.
    """

    low: int
    high: int
    is_grey: bool
    highest: int | None

    @classmethod
    def of(cls, label: str, pieces: Iterable[Pixels], *, may_be_constant: bool = False) -> Whole:
        """Decide it from pieces (frames, rows, columns[, channels]), each seen once.

        Raises:
            BadScan: NaN or infinity, or one value everywhere unless `may_be_constant`.
        """
        extremes = list[Any]()
        is_constant = is_grey = True
        first = None
        for piece in pieces:
            pixels, _ = drop_alpha(label, piece)
            first = np.array(pixels[0, 0, 0]) if first is None else first
            extremes += [pixels.min(), pixels.max()]  # both are NaN where any pixel is
            is_constant = is_constant and all(bool((frame == first).all()) for frame in pixels)
            is_grey = is_grey and pixels.ndim == 4 and channels_are_equal(pixels)
        stored = np.array(extremes)
        low, high = wide_range(stored) or (0, 0)
        converted = convert(stored, low, high)
        check_finite(label, converted, stored)
        if is_constant and not may_be_constant:
            problem = "has the same value in every pixel, so there is nothing to learn or score"
            raise unusable(f"{label} {problem}")
        highest = int(converted.max()) if converted.dtype.kind in "ui" else None
        return cls(low, high, is_grey, highest)

    def finish(self, label: str, piece: Pixels) -> tuple[Pixels, tuple[Note, ...]]:
        """Return a piece without alpha, grey where channels are equal, in the dtype to keep."""
        pixels, notes = drop_alpha(label, piece)
        if self.is_grey:
            pixels, notes = pixels[..., 0], (*notes, GreyStoredAsColour())
        converted = convert(pixels, self.low, self.high)
        # What is mapped stays where it lies.
        is_mapped = isinstance(converted, np.memmap)
        return converted if is_mapped else np.ascontiguousarray(converted), notes


def finish(scan: Scan, label: str, name: str, group: str, *, may_be_constant: bool = False) -> Scan:
    """Name what a reader returned, and check it; `label` is what messages call it.

    Returns:
        The scan: alpha dropped, grey where the channels are equal, dtype as `convert` says.

    Raises:
        BadScan: No pixels, no plain numbers, NaN or infinity, or one value everywhere unless
            `may_be_constant`, as in a mask.
    """
    check(scan, label)
    whole = Whole.of(label, [scan.pixels], may_be_constant=may_be_constant)
    pixels, notes = whole.finish(label, scan.pixels)
    if scan.is_volume and not may_be_constant:
        notes = (*notes, *empty_frames_note(pixels))
    notes = (*scan.notes, *notes)
    return replace(scan, pixels=pixels, name=name, group=group, notes=notes)


def empty_frames_note(pixels: Pixels) -> tuple[EmptyFrames, ...]:
    """Return a note of the frames of a volume that have one value everywhere; () for none."""
    empty = tuple(i for i, frame in enumerate(pixels) if is_constant(frame[np.newaxis]))
    return (EmptyFrames(empty, len(pixels)),) if empty else ()
