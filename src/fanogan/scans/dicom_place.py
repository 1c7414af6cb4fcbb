"""Where DICOM frames lie: spacing, position and direction, from their headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fanogan.scans.notes import UnevenSlices
from fanogan.scans.scan import Affine, Spacing, known_length

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_OFF_GRID = 0.1
"""Steps by which a slice may lie beside its place on an even grid."""


def spacing_of(headers: Sequence[Dataset]) -> Spacing:
    """Return millimetres between frames, rows and columns; None where they are not given."""
    first = headers[0]
    between = known_length(first.get("SpacingBetweenSlices"))
    between = between or distance_between([position(header) for header in headers])
    between = between or known_length(first.get("SliceThickness"))
    within = first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (None, None)
    rows, columns = map(known_length, within)
    return between, rows, columns


def position(header: Dataset) -> tuple[float, ...] | None:
    """Return where a frame's first pixel lies, in millimetres; None where it is not given."""
    place = header.get("ImagePositionPatient")
    if place is None or len(place) != 3:
        return None
    return tuple(float(value) for value in place)


def frame_affine(header: Dataset) -> Affine | None:
    """Return where a frame lies (PS3.3 C.7.6.2.1.1), as `Scan.affine`; None where it doesn't say.

    DICOM's axes point to the left and to the back, NIfTI's to the right and to the front.
    """
    place, turn = position(header), header.get("ImageOrientationPatient")
    spacing = header.get("PixelSpacing")
    if place is None or turn is None or spacing is None or len(turn) != 6 or len(spacing) != 2:
        return None
    along_rows, along_columns = np.array(turn, dtype=np.float64).reshape(2, 3)
    depth = known_length(header.get("SpacingBetweenSlices"))
    depth = depth or known_length(header.get("SliceThickness")) or 1.0
    affine = np.eye(4)
    affine[:3, 0] = along_columns * float(spacing[0])
    affine[:3, 1] = along_rows * float(spacing[1])
    affine[:3, 2] = np.cross(along_rows, along_columns) * depth
    affine[:3, 3] = place
    affine[:2] *= -1
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        return None
    return tuple(map(tuple, affine.tolist()))


def joined(frames: Sequence[Affine | None]) -> Affine | None:
    """Return where frames lie that make a volume; None where they lie on no even grid."""
    if len(frames) < 2 or None in frames:
        return frames[0] if len(frames) == 1 else None
    each = np.array(frames)
    places, affine = each[:, :3, 3], each[0].copy()
    step = (places[-1] - places[0]) / (len(places) - 1)
    expected = places[0] + np.arange(len(places))[:, None] * step
    affine[:3, 2] = step
    away = np.linalg.norm(places - expected, axis=1).max()
    if np.linalg.matrix_rank(affine) < 4 or away > _OFF_GRID * np.linalg.norm(step):
        return None
    if not np.allclose(each[:, :3, :2], each[0, :3, :2], rtol=0, atol=1e-4):  # turned
        return None
    return tuple(map(tuple, affine.tolist()))


def distance_between(positions: Sequence[tuple[float, ...] | None]) -> float | None:
    """Return the median distance in millimetres from one position to the next, where known."""
    known = np.array([place for place in positions if place is not None], dtype=np.float64)
    if len(known) < 2 or len(known) != len(positions):
        return None
    return known_length(float(np.median(np.linalg.norm(np.diff(known, axis=0), axis=1))))


def uneven_slices(
    places: Sequence[tuple[float, ...] | None], unit: str = "mm"
) -> tuple[UnevenSlices, ...]:
    """Return a note where steps from one place to the next differ by 10 %, or a place comes again.

    Frames that all lie at one place are no stack of slices, and need no note.
    """
    if len(places) < 2 or None in places:
        return ()
    steps = np.linalg.norm(np.diff(np.array(places, dtype=np.float64), axis=0), axis=1)
    usual, comes_again = np.median(steps), len(set(places)) < len(places)
    if not steps.any() or (np.abs(steps - usual).max() <= 0.1 * usual and not comes_again):
        return ()
    return (UnevenSlices(0.0 if comes_again else float(steps.min()), float(steps.max()), unit),)
