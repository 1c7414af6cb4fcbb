"""What a scan is once it has been read, and the checks that every scan passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fanogan.errors import FanoganError
from fanogan.remote import named
from fanogan.scans.notes import AlphaDropped, EmptyFrames, GreyStoredAsColour, Note

Pixels = NDArray[Any]
Spacing = tuple[float | None, float | None, float | None]
Affine = tuple[tuple[float, ...], ...]
"""Four rows of four: from a place (row, column, frame) to millimetres, as NIfTI defines it."""

MAX_FRAME_PIXELS = 100_000_000
"""Rows times columns of one frame: larger ones are taken for decompression bombs."""

MAX_BYTES = 4_000_000_000
"""Decoded bytes of one file: the machine that trains has to hold several files at a time."""

UNKNOWN_SPACING: Spacing = (None, None, None)
TRANSPOSED = (5, 6, 7, 8)
"""The orientations of TIFF and EXIF that exchange rows and columns."""

EYES = {"R": "right", "L": "left", "OD": "right", "OS": "left"}
"""An eye by its English or Latin abbreviation."""

_KEPT_DTYPES = (np.uint8, np.uint16, np.int16, np.float32)


class BadScan(FanoganError):
    """A scan that cannot be used; one sentence says which file, what is wrong, what to do."""

    def __init__(self, sentence: str):
        """Call copies of files at URLs by these."""
        super().__init__(named(sentence))


class NoneUsable(BadScan):
    """All scans were left out, as bad ones."""


@dataclass(frozen=True)
class EnFace:
    """The device's picture of the fundus, and where on it the B-scans lie.

    Attributes:
        pixels: (rows, columns), as stored.
        spacing: Millimetres between rows and columns; None where the file does not say.
        lines: (B-scans, 2, 2) float64: start and end of each B-scan as (row, column) in pixels,
            with (0, 0) at the upper left corner of the picture.
        grid_centre: (row, column) of the centre of the device's thickness grid, in pixels.
    """

    pixels: Pixels
    spacing: tuple[float | None, float | None]
    lines: NDArray[np.float64]
    grid_centre: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scan:
    """One scan, or one file of images, as stored.

    Readers of a format return it without a name and unchecked; `finish` names and checks it. The
    methods answer for plain pixels; a subclass overrides them if its pixels are not as recorded.

    Attributes:
        pixels: (frames, rows, columns) or (frames, rows, columns, 3); uint8, uint16, int16 or
            float32, in the file's own units; finite, and not constant. Higher is brighter.
        name: Posix path relative to the searched folder, or 'image 00012' for arrays; unique
            within a source.
        group: The subject that the scan belongs to.
        spacing: Millimetres between frames, rows and columns; None where the file does not say.
        is_volume: True where the frames belong together (multi-page TIFF, NIfTI, multi-frame
            DICOM); False where each frame is an image of its own (.npy, .npz, arrays).
        notes: What the reader changed or found odd.
        eye: 'left' or 'right', where the file says.
        device: The device's model, where the file says.
        en_face: The device's picture of the fundus, where there is one.
        thickness: Mean retinal thickness in mm that the device itself measured, by ETDRS zone
            (C0, N1, N2, S1 …); None where it wrote none.
        is_retina: True where the file itself says that it is optical coherence tomography of an
            eye: Heidelberg's formats, and DICOM ophthalmic tomography.
        affine: Where the pixels lie in space, where a NIfTI or DICOM says.
        files: Those that it was read from: one, or one for each frame; the group of a prepared
            store; empty for arrays in memory.
        highest: The largest value of all images of the array, or array file, that this is one of,
            where they are integers; it tells how many bits are in use.
        grey_range: The lowest and highest grey value that were told apart, in the file's own units,
            where a scan's range has been normalised by itself.
        member: The file (empty for arrays) and the place in it of one image among several; None
            where the scan is all that the file holds.
    """

    pixels: Pixels
    name: str = ""
    group: str = ""
    spacing: Spacing = UNKNOWN_SPACING
    is_volume: bool = False
    notes: tuple[Note, ...] = ()
    eye: str | None = None
    device: str | None = None
    en_face: EnFace | None = None
    thickness: Mapping[str, float] | None = None
    is_retina: bool = False
    member: tuple[str, int] | None = None
    affine: Affine | None = None
    files: tuple[Path, ...] = ()
    highest: int | None = None
    grey_range: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        """The number of channels: 1 for grey."""
        return int(self.pixels.shape[3]) if self.pixels.ndim == 4 else 1

    @property
    def has_size(self) -> bool:
        """Whether rows and columns are those of the recording, to be held against others'."""
        return True

    def usable_windows(
        self, window: tuple[int, ...], min_fraction: float, to_learn: bool
    ) -> NDArray[np.bool_] | None:
        """Return the corners that a window may have.

        Args:
            window: Rows h and columns w of the window.
            min_fraction: Share of the window that has to show what the model is about.
            to_learn: Whether it is learned from, so that all of it must be known; otherwise it is
                scored on what is known.

        Returns:
            (frames, rows − h + 1, columns − w + 1), true at upper left corners; None: all.
        """
        return None

    # Cached, since a subclass may then hold it as a field, which a plain property would forbid.
    @cached_property
    def tissue(self) -> NDArray[np.bool_] | None:
        """Where the score may count, (frames, rows, columns); None: everywhere."""
        return None

    @cached_property
    def recorded(self) -> NDArray[np.bool_] | None:
        """Where pixels show what was recorded, (frames, rows, columns); None: everywhere."""
        return None

    def to_original(self, frame: int, map: NDArray[Any]) -> NDArray[Any]:
        """Return a map (rows, columns) of the pixels in the geometry of the recorded frame."""
        return map

    def original(self, frame: int) -> NDArray[np.uint8] | None:
        """Return a frame as it was recorded; None where that is what `pixels` holds."""
        return None

    def original_position(
        self, frame: int, row: float, column: float
    ) -> tuple[float, float, float]:
        """Return where a position in `pixels` lies in the recorded scan: frame, row, column."""
        return frame, row, column

    def en_face_line(self, frame: int, map: NDArray[Any]) -> NDArray[Any] | None:
        """Return a frame's line of an en-face map, from a map as `to_original` returns it.

        Returns:
            (columns,) of the recorded frame; None where a scan has no en-face view.
        """
        return None


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
    if dtype not in _KEPT_DTYPES:
        raise BadScan(
            f"{path} takes {total / 1e9:,.1f} GB, and is read part by part only as uint8, uint16, "
            f"int16 or float32, not as {dtype}: save it as one of them"
        )
    return np.memmap(path, dtype, "r", offset, shape, order)


_most_pixels: int | None = None


def limit_pixels(count: int) -> None:
    """Refuse in this process what has more pixels, of all frames together, before it is decoded."""
    global _most_pixels
    _most_pixels = count


def too_large(label: str, size: str) -> BadScan:
    """Return the error for a frame above `MAX_FRAME_PIXELS`; `size` says how large it is."""
    most = f"the {MAX_FRAME_PIXELS // 1_000_000} megapixels that a frame may have"
    return unusable(f"{label} declares {size}, more than {most}", "crop or tile it")


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


def known_length(value: object) -> float | None:
    """Return a positive, finite length, and None for anything else."""
    length = float(value) if isinstance(value, Real) else 0.0
    return length if 0 < length < np.inf else None


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
    if native in _KEPT_DTYPES:
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


def check(scan: Scan, label: str) -> None:
    """Raise BadScan where what a reader returned has no pixels or no plain numbers."""
    frames, rows, columns = scan.pixels.shape[:3]
    # What is mapped may be larger than memory.
    check_size(label, rows, columns, frames, 0 if isinstance(scan.pixels, np.memmap) else 1)
    check_dtype(label, scan.pixels.dtype)


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
