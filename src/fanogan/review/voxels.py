"""Candidate regions of a volume that is seen in three dimensions, found again in its map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.review.shapes import outlines_of
from fanogan.scoring import smoothed, voxel_labels

AXES = ("slice", "row", "column")
Outlines = dict[int, list[list[list[float]]]]
"""By a frame's number its outlines, as (column, row) points."""


class Voxels:
    """Which voxels each region holds."""

    def __init__(
        self,
        residual: NDArray[np.float32],
        threshold: float,
        regions: Sequence[Mapping[str, Any]],
    ):
        """Find the groups of voxels that `score` has found.

        Args:
            residual: The map, (slices, rows, columns).
            threshold: That of regions.
            regions: Each with its `id` and the place of its strongest voxel.
        """
        self.labels = voxel_labels(smoothed(residual), threshold)
        self.boxes = ndimage.find_objects(self.labels)
        self.numbers = {
            region["id"]: int(self.labels[*(int(region[f"peak_{axis}"]) for axis in AXES)])
            for region in regions
        }

    def mask(self, region: int) -> NDArray[np.bool_]:
        """Return a region's voxels, (slices, rows, columns)."""
        number = self.numbers[region]
        return np.asarray((self.labels == number) & (number > 0))

    def outlines(self, region: int) -> Outlines:
        """Return a region's outlines on the slices that it lies on."""
        if not (number := self.numbers[region]):
            return {}
        slices, rows, columns = self.boxes[number - 1]
        found: Outlines = {}
        for frame in range(slices.start, slices.stop):
            shapes = outlines_of(self.labels[frame, rows, columns] == number)
            place = (columns.start, rows.start)
            found[frame] = [[[x + place[0], y + place[1]] for x, y in shape] for shape in shapes]
        return found
