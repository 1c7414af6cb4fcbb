"""What is made of the residual of a volume that is seen in three dimensions.

Its map is on the scan's own voxels; beside it stand regions of voxels, and the slice to look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fanogan.calibration import Calibration
from fanogan.scoring.result import Result
from fanogan.storage import room

SMOOTHED = 3
"""Voxels a side over which the residual is averaged before regions are looked for."""

LEAST_VOXELS = SMOOTHED**3
"""Of a region: fewer are no more than one voxel makes when it is smoothed."""

REGION_COLUMNS = (
    *("volume", "number", "first_slice", "last_slice", "first_row", "last_row", "first_column"),
    *("last_column", "peak_slice", "peak_row", "peak_column", "x_mm", "y_mm", "z_mm", "voxels"),
    *("mm3", "mean", "peak"),
)


@dataclass(frozen=True)
class VoxelRegion:
    """Voxels that touch, at sides, edges or corners, and differ more than normals do.

    Attributes:
        box: First and last slice, row and column.
        peak_at: Slice, row and column of the strongest voxel.
        place: Where that lies in the scanner's space, in mm; None where the file doesn't say.
        voxels: How many there are.
        mm3: Their volume; None where the spacing isn't known.
        mean: Of the smoothed residual.
        peak: Likewise.
    """

    box: tuple[tuple[int, int], ...]
    peak_at: tuple[int, ...]
    place: tuple[float, float, float] | None
    voxels: int
    mm3: float | None
    mean: float
    peak: float

    def row(self, volume: str, number: int) -> dict[str, object]:
        """Return it as a line of ``regions.csv``; what isn't known is empty."""
        ends = [end for side in self.box for end in side]
        place = [f"{mm:.5g}" for mm in self.place] if self.place else [""] * 3
        mm3 = "" if self.mm3 is None else f"{self.mm3:.4g}"
        strength = repr(self.mean), repr(self.peak)
        values = volume, number, *ends, *self.peak_at, *place, self.voxels, mm3, *strength
        return dict(zip(REGION_COLUMNS, values, strict=True))


def smoothed(residual: np.ndarray) -> np.ndarray:
    """Return a residual (slices, rows, columns) averaged over ``SMOOTHED`` voxels a side."""
    found = room(residual.shape, np.float32)
    ndimage.uniform_filter(residual, SMOOTHED, found, mode="nearest")
    return found


def regions_of(result: Result, calibration: Calibration) -> list[VoxelRegion]:
    """Return the regions above the held-out normals' quantile, the largest sum first."""
    values = result.smoothed
    if values is None or calibration.en_face is None:
        return []
    labels = voxel_labels(values, calibration.en_face[1])
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        count, total, peak, at = 0, 0.0, -math.inf, (0, 0, 0)
        first, *corner = (side.start for side in box)
        # Slice by slice: a region may fill a volume that is larger than memory.
        for slice_, (own, line) in enumerate(zip(labels[box], values[box], strict=True), first):
            inside = own == number
            strengths = np.where(inside, line, -np.inf)
            if (strongest := float(strengths.max())) > peak:
                place_in = np.unravel_index(int(strengths.argmax()), inside.shape)
                row, column = (int(i + start) for i, start in zip(place_in, corner, strict=True))
                peak, at = strongest, (slice_, row, column)
            count += int(inside.sum())
            total += float(line[inside].sum(dtype=np.float64))
        if count < LEAST_VOXELS:
            continue
        place = None
        if result.affine is not None:
            slice_, row, column = at
            x, y, z, _ = np.array(result.affine) @ (row, column, slice_, 1)
            place = (float(x), float(y), float(z))
        voxel = math.prod(mm for mm in result.spacing if mm is not None)
        found.append(
            VoxelRegion(
                box=tuple((side.start, side.stop - 1) for side in box),
                peak_at=at,
                place=place,
                voxels=count,
                mm3=count * voxel if all(result.spacing) else None,
                mean=total / count,
                peak=peak,
            )
        )
    return sorted(found, key=lambda region: -region.mean * region.voxels)


def voxel_labels(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return which voxels of a smoothed residual are above a threshold and touch.

    Each group has a number, (slices, rows, columns) int32; 0 are those below.
    """
    above, labels = room(values.shape, np.bool_), room(values.shape, np.int32)
    for number, part in enumerate(values):
        above[number] = part > threshold
    ndimage.label(above, np.ones((3, 3, 3)), labels)
    return labels


def shown_slice(result: Result) -> int:
    """Return the slice in which the smoothed residual is strongest."""
    assert result.smoothed is not None
    return int(np.unravel_index(int(result.smoothed.argmax()), result.smoothed.shape)[0])
