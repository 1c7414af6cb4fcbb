"""The retina is flattened, and maps find their way back (section 3, Data, and Fig. 4).

In every column Bruch's membrane, the outer boundary of the pigment epithelium where nothing lifts
that, is moved to one row, the base: what lies between them is raised in flat space too. The
thickness changes only where the retina is higher than the area above the base, which it then fills
exactly. The paper gives no height for this area: 128 rows and base 120 are ours. Stretching goes
beyond the paper: the retina fills the area in every column, so that a row is a relative depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.resample import to_dtype

OUTSIDE, VITREOUS, RETINA, BELOW = range(4)
"""What a flat pixel shows: nothing that is known, or tissue above, in or below the retina."""


@dataclass(frozen=True)
class FlatSpace:
    """The area that the retina is flattened into."""

    rows: int = 128
    base: int = 120  # row in which the outer line comes to lie
    stretched: bool = False  # whether the retina fills the area above the base in every column
    # Whether the base is Bruch's membrane, in every column. In version 0.1 it was the pigment
    # epithelium's outer boundary, and columns in which that isn't seen clearly were left out.
    to_membrane: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlatSpace:
        """Return the space of a model or store, which may be of version 0.1."""
        return cls(**{"to_membrane": False, **values})


@dataclass(frozen=True)
class Flattening:
    """The transform from a volume to flat space, which follows from the two boundaries.

    Row f of a column in flat space lies at row offset + f / scale of the volume.
    """

    inner: NDArray[np.float32]  # rows of the boundaries, (B-scans, columns); NaN where unknown
    outer: NDArray[np.float32]
    scan_rows: int  # rows of the volume
    space: FlatSpace = FlatSpace()

    def __post_init__(self) -> None:
        """Refuse boundaries that differ in shape, and a base outside the area."""
        if self.inner.ndim != 2 or self.inner.shape != self.outer.shape:
            raise ValueError(
                f"the boundaries have shapes {self.inner.shape} and {self.outer.shape}: give both "
                "as (B-scans, columns)"
            )
        if not 0 < self.space.base < self.space.rows:
            raise ValueError(
                f"row {self.space.base} isn't within a flat area of {self.space.rows} rows"
            )

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where both boundaries are known, and in order: (B-scans, columns)."""
        return self.outer > self.inner

    @property
    def scale(self) -> NDArray[np.float64]:
        """Flat rows per row of the volume: (B-scans, columns); at most 1 unless stretched."""
        return self.space.base / self._height

    @property
    def offset(self) -> NDArray[np.float64]:
        """Row of the volume that lies in row 0 of flat space: (B-scans, columns)."""
        return self.outer - self._height

    @property
    def region(self) -> NDArray[np.uint8]:
        """OUTSIDE, VITREOUS, RETINA or BELOW for each flat pixel: (B-scans, rows, columns)."""
        region = np.full(self._shape(self.space.rows), OUTSIDE, dtype=np.uint8)
        for scan, out in enumerate(region):
            centres, covered = self._centres(scan)
            tissue = np.where(centres < self.inner[scan], VITREOUS, RETINA)
            tissue[self.space.base + 1 :] = BELOW
            out[covered] = tissue[covered]
        return region

    def forward(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume (B-scans, scan_rows, columns), finite, in flat space.

        Returns:
            (B-scans, rows, columns), 0 where OUTSIDE. Booleans by the nearest row; integers,
            rounded, and float32 by the mean over a flat pixel's extent, which is linear
            interpolation where the scale is 1.

        Raises:
            ValueError: The volume has another shape.
        """
        self._check(volume, self.scan_rows)
        is_mask = volume.dtype.kind == "b"
        dtype = volume.dtype if volume.dtype.kind in "biu" else np.dtype(np.float32)
        flat = np.zeros(self._shape(self.space.rows), dtype=dtype)
        for scan, (frame, out) in enumerate(zip(volume, flat, strict=True)):
            centres, covered = self._centres(scan)
            if is_mask:
                nearest = np.clip(np.floor(centres + 0.5), 0, self.scan_rows - 1).astype(np.intp)
                values = np.take_along_axis(frame, nearest, axis=0)
            else:
                # Edges of the flat pixels; 0 is the upper edge of the volume.
                edges = self._volume_rows(scan, np.arange(self.space.rows + 1) - 0.5) + 0.5
                values = to_dtype(_means(frame, np.clip(edges, 0, self.scan_rows)), dtype)
            out[covered] = values[covered]
        return flat

    def back(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Return a flat map (B-scans, rows, columns) in the rows of the volume.

        Returns:
            (B-scans, scan_rows, columns). Booleans by the nearest row, so that masks come back
            unchanged where the scale is 1; all else float32 by linear interpolation, NaN next to
            NaN. False or NaN where flat space doesn't reach.

        Raises:
            ValueError: The map has another shape.
        """
        self._check(flat, self.space.rows)
        is_mask = flat.dtype.kind == "b"
        dtype = np.dtype(np.bool_ if is_mask else np.float32)
        volume = np.full(self._shape(self.scan_rows), False if is_mask else np.nan, dtype=dtype)
        scale, offset = self.scale, self.offset
        for scan, (frame, out) in enumerate(zip(flat, volume, strict=True)):
            places = (np.arange(self.scan_rows)[:, None] - offset[scan]) * scale[scan]
            # Flat rows OUTSIDE mean nothing, and must not come back with the others.
            _, covered = self._centres(scan)
            first, last = covered.argmax(axis=0), len(frame) - 1 - covered[::-1].argmax(axis=0)
            last = np.where(covered.any(axis=0), last, -1)
            row, column = np.nonzero((places > first - 0.5) & (places <= last + 0.5))
            place = places[row, column]
            if is_mask:
                # Halves are rounded down here and up in `forward`, or pixels would move by one.
                out[row, column] = frame[np.ceil(place - 0.5).astype(np.intp), column]
            else:
                place = np.clip(place, first[column], last[column])
                above = np.minimum(place.astype(np.intp), len(frame) - 2)
                share = place - above
                upper, lower = frame[above, column], frame[above + 1, column]
                out[row, column] = (1 - share) * upper + share * lower
        return volume

    @property
    def _height(self) -> NDArray[np.float64]:
        """Rows of the volume that lie above the base: (B-scans, columns)."""
        thickness = self.outer.astype(np.float64) - self.inner
        if not self.space.stretched:
            return np.maximum(thickness, self.space.base)
        return np.where(thickness > 0, thickness, np.nan)

    def _shape(self, rows: int) -> tuple[int, int, int]:
        return self.outer.shape[0], rows, self.outer.shape[1]

    def _check(self, values: NDArray[Any], rows: int) -> None:
        if values.shape != self._shape(rows):
            raise ValueError(f"expected an array of {self._shape(rows)}, got {values.shape}")

    def _centres(self, scan: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Row of the volume at each flat pixel of a B-scan, and whether the volume has it."""
        centres = self._volume_rows(scan, np.arange(self.space.rows))
        inside = (centres >= -0.5) & (centres < self.scan_rows - 0.5)
        return centres, inside & self.valid[scan]

    def _volume_rows(self, scan: int, rows: NDArray[Any]) -> NDArray[np.float64]:
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
