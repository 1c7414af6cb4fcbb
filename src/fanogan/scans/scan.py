"""What a scan is once it has been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.notes import Note

Pixels = NDArray[Any]
Spacing = tuple[float | None, float | None, float | None]
Affine = tuple[tuple[float, ...], ...]
"""Four rows of four: from a place (row, column, frame) to millimetres, as NIfTI defines it."""

UNKNOWN_SPACING: Spacing = (None, None, None)

EYES = {"R": "right", "L": "left", "OD": "right", "OS": "left"}
"""An eye by its English or Latin abbreviation."""


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


def known_length(value: object) -> float | None:
    """Return a positive, finite length, and None for anything else."""
    length = float(value) if isinstance(value, Real) else 0.0
    return length if 0 < length < np.inf else None
