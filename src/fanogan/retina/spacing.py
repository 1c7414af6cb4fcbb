"""Spacing that nobody wrote down, from what is known of healthy retinas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fanogan.retina.flat_volume import FlatVolume, make_flat
from fanogan.retina.resample import ROW_MM
from fanogan.scans import Note

THICKNESS_MM = 0.3
"""Of healthy retinas, from the inner to the outer boundary, the median over columns and people."""

# Persons differ by a tenth, so an estimate as near as this to the commonest row is that row.
_SCATTER = 0.15
_ROWS_MM = (0.001, 0.01)  # rows that devices have
# A pixel is as many times as wide as high: a Spectralis's 11.5 µm × 3.87 µm. B-scans that would be
# wider than any of the macula are recorded at twice the density.
_ASPECT, _WIDEST_MM = 2.97, 15.0


@dataclass(frozen=True)
class SpacingEstimated(Note):
    """Millimetres a row and a column, estimated since neither file nor user told."""

    row: float
    column: float


@dataclass(frozen=True)
class ThicknessUnseen(Note):
    """A retina's median thickness in mm, far beyond those of the training normals."""

    thickness: float
    seen: tuple[float, float]


def median_thickness(volume: FlatVolume) -> float:
    """Return the median thickness of a retina in mm; rows of unknown height count as `ROW_MM`."""
    rows = float(np.nanmedian(volume.outer - volume.inner))
    return rows * (volume.scan_spacing[1] or ROW_MM)


def estimated_row(volumes: Iterable[FlatVolume]) -> float | None:
    """Return the height of a row in mm by which retinas have the usual thickness.

    It is one for all, since one for each would divide out what disease does to a thickness.

    Args:
        volumes: Normals; those of known rows don't count.

    Returns:
        None where all rows are known, or the estimate is of no device.
    """
    unknown = [volume for volume in volumes if volume.scan_spacing[1] is None]
    if not unknown:
        return None
    rows = float(np.nanmedian(np.concatenate([(v.outer - v.inner).ravel() for v in unknown])))
    row = THICKNESS_MM / rows
    if abs(row / ROW_MM - 1) <= _SCATTER:
        return ROW_MM
    return row if _ROWS_MM[0] <= row <= _ROWS_MM[1] else None


def with_row(volume: FlatVolume, row: float | None) -> FlatVolume:
    """Return a volume flattened anew with an estimated row, and a note, where its own is unknown.

    Raises:
        BadScan: What has yet to be read from a store is damaged.
    """
    between, own, column = volume.scan_spacing
    if row is None or own is not None:
        return volume
    if column is None:
        column = _ASPECT * row
        if column * volume.inner.shape[1] > _WIDEST_MM:
            column /= 2
    scan = replace(
        volume,
        pixels=volume.bscans,
        spacing=(between, row, column),
        notes=(*volume.notes, SpacingEstimated(row, column)),
    )
    return make_flat(
        scan, volume.boundaries, volume.margins, volume.flat.space, bscans=volume.bscans
    )
