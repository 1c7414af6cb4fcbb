"""The retina made straight, and the way back (section 3, Data, and Fig. 4).

In every column the outer boundary of the pigment epithelium is moved to one row. The thickness is
altered only where the retina is higher than the area above that row: it then fills it exactly.
The paper gives no height of the area; 128 rows and row 120 are ours. A ``stretched`` area goes
beyond the paper: the retina fills it everywhere, so that a row is a relative depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.resample import like

OUTSIDE, VITREOUS, RETINA, BELOW = range(4)
"""What a flat pixel is: none of the scan or no boundary known, or tissue above, in, below."""


@dataclass(frozen=True)
class Flat:
    """The transform between a volume and its flat space; all of it follows from the boundaries.

    Row f of a column in flat space lies at row offset + f / scale of the volume.

    Attributes:
        inner: Row of the inner boundary, (B-scans, columns) float32; NaN where none is known.
        outer: Row of the outer boundary, likewise.
        scan_rows: Rows of the volume.
        rows: Rows of flat space.
        base: Row of flat space in which the outer boundary lies.
        stretched: Whether the retina fills the area above `base` in every column.
    """

    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    scan_rows: int
    rows: int = 128
    base: int = 120
    stretched: bool = False

    def __post_init__(self) -> None:
        """Refuses boundaries of differing shapes, and a base outside of the area."""
        if self.inner.ndim != 2 or self.inner.shape != self.outer.shape:
            raise ValueError(
                f"the boundaries have shapes {self.inner.shape} and {self.outer.shape}: give both "
                "as (B-scans, columns)"
            )
        if not 0 < self.base < self.rows:
            raise ValueError(f"row {self.base} isn't within a flat area of {self.rows} rows")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where both boundaries are known, and in order: (B-scans, columns)."""
        return self.outer > self.inner

    @property
    def scale(self) -> NDArray[np.float64]:
        """Flat rows that one row of the volume takes: (B-scans, columns); ≤ 1 unless stretched."""
        return self.base / self._height

    @property
    def offset(self) -> NDArray[np.float64]:
        """Row of the volume that lies in row 0 of flat space: (B-scans, columns)."""
        return self.outer - self._height

    @property
    def region(self) -> NDArray[np.uint8]:
        """OUTSIDE, VITREOUS, RETINA or BELOW for each flat pixel: (B-scans, rows, columns)."""
        region = np.full(self._shape(self.rows), OUTSIDE, dtype=np.uint8)
        for scan, out in enumerate(region):
            centres, covered = self._centres(scan)
            tissue = np.where(centres < self.inner[scan], VITREOUS, RETINA)
            tissue[self.base + 1 :] = BELOW
            out[covered] = tissue[covered]
        return region

    def forward(self, volume: NDArray[Any], fill: float = 0) -> NDArray[Any]:
        """Takes a volume or mask to flat space.

        Args:
            volume: (B-scans, scan_rows, columns), finite.
            fill: Value of the pixels that are OUTSIDE; of booleans it is False.

        Returns:
            (B-scans, rows, columns). Booleans by the nearest row; all else by the mean over a
            flat pixel's extent, which is linear interpolation where the scale is 1: integers
            rounded, floats as float32.

        Raises:
            ValueError: The volume isn't that of the boundaries.
        """
        self._check(volume, self.scan_rows)
        kind = volume.dtype.kind
        dtype = volume.dtype if kind in "biu" else np.dtype(np.float32)
        flat = np.full(self._shape(self.rows), False if kind == "b" else fill, dtype=dtype)
        for scan, (frame, out) in enumerate(zip(volume, flat, strict=True)):
            centres, covered = self._centres(scan)
            if kind == "b":
                nearest = np.clip(np.floor(centres + 0.5), 0, self.scan_rows - 1).astype(np.intp)
                values = np.take_along_axis(frame, nearest, axis=0)
            else:
                values = like(_means(frame, self._edges(scan)), dtype)
            out[covered] = values[covered]
        return flat

    def back(self, flat: NDArray[Any], fill: float = np.nan) -> NDArray[Any]:
        """Returns a map or mask from flat space to the rows and columns of the volume.

        Args:
            flat: (B-scans, rows, columns).
            fill: Value where flat space doesn't reach; of booleans it is False.

        Returns:
            (B-scans, scan_rows, columns): booleans by the nearest row, so that those of a scale
            of 1 come back as they were; all else float32 by linear interpolation, NaN next to NaN.

        Raises:
            ValueError: The map isn't of this flat space.
        """
        self._check(flat, self.rows)
        is_mask = flat.dtype.kind == "b"
        dtype = np.dtype(np.bool_ if is_mask else np.float32)
        volume = np.full(self._shape(self.scan_rows), False if is_mask else fill, dtype=dtype)
        scale, offset = self.scale, self.offset
        for scan, (frame, out) in enumerate(zip(flat, volume, strict=True)):
            places = (np.arange(self.scan_rows)[:, None] - offset[scan]) * scale[scan]
            first, last = self._reach(scan)
            reached = (places > first - 0.5) & (places <= last + 0.5)
            row, column = np.nonzero(reached)
            place = places[row, column]
            if is_mask:
                # Halves are rounded down here and up in `forward`, or pixels would move by one.
                out[row, column] = frame[np.ceil(place - 0.5).astype(np.intp), column]
            else:
                place = np.clip(place, first[column], last[column])
                out[row, column] = _between(frame, place, column)
        return volume

    @property
    def _height(self) -> NDArray[np.float64]:
        """Rows of the volume that lie above the base: (B-scans, columns)."""
        thickness = self.outer.astype(np.float64) - self.inner
        if not self.stretched:
            return np.maximum(thickness, self.base)
        return np.where(thickness > 0, thickness, np.nan)

    def _shape(self, rows: int) -> tuple[int, int, int]:
        return self.outer.shape[0], rows, self.outer.shape[1]

    def _check(self, values: NDArray[Any], rows: int) -> None:
        if values.shape != self._shape(rows):
            raise ValueError(f"expected an array of {self._shape(rows)}, got {values.shape}")

    def _centres(self, scan: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Row of the volume at each flat pixel of a B-scan, and whether the volume has it."""
        centres = self._at(scan, np.arange(self.rows))
        inside = (centres >= -0.5) & (centres < self.scan_rows - 0.5)
        return centres, inside & self.valid[scan]

    def _reach(self, scan: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First and last row of flat space that each column of a B-scan has: the last −1 if none.

        What a map says of pixels OUTSIDE means nothing, and must not come back with the others.
        """
        _, covered = self._centres(scan)
        last = self.rows - 1 - covered[::-1].argmax(axis=0)
        first = covered.argmax(axis=0)
        return first, np.where(covered.any(axis=0), last, -1)

    def _edges(self, scan: int) -> NDArray[np.float64]:
        """Edges of a B-scan's flat pixels, 0 being the upper edge of the volume: (rows + 1, C)."""
        edges = self._at(scan, np.arange(self.rows + 1) - 0.5) + 0.5
        return np.clip(edges, 0, self.scan_rows)

    def _at(self, scan: int, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Row of the volume at flat `rows` of every column; 0 where no boundary is known."""
        places = self.offset[scan] + rows[:, None] / self.scale[scan]
        return np.where(self.valid[scan], places, 0.0)


def _means(frame: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of a frame (rows, columns) between successive edges (n + 1, columns): (n, columns).

    Row r reaches from edge r to r + 1. Two edges in one place have a mean of 0.
    """
    sums = np.zeros((len(frame) + 1, frame.shape[1]))
    np.cumsum(frame, axis=0, dtype=np.float64, out=sums[1:])
    row = np.minimum(edges.astype(np.intp), len(frame) - 1)
    part = (edges - row) * np.take_along_axis(frame, row, axis=0)
    lengths = np.diff(edges, axis=0)
    totals = np.diff(np.take_along_axis(sums, row, axis=0) + part, axis=0)
    return np.asarray(totals / np.where(lengths > 0, lengths, 1))


def _between(
    frame: NDArray[Any], place: NDArray[np.float64], column: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Linear interpolation between the rows of a frame at points (place, column)."""
    above = np.minimum(place.astype(np.intp), len(frame) - 2)
    share = place - above
    return np.asarray((1 - share) * frame[above, column] + share * frame[above + 1, column])
