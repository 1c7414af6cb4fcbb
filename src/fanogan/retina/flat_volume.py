"""A volume whose retina has been flattened, and that knows its way back to the recorded scan."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.colour import in_grey
from fanogan.retina.flatten import OUTSIDE, RETINA, FlatSpace, Flattening
from fanogan.retina.layers import Boundaries, find_boundaries
from fanogan.retina.lettering import white_marks
from fanogan.retina.refusals import refuse_all_but_bscans
from fanogan.retina.resample import Grid, normalise
from fanogan.scans import BadScan, Scan, Spacing, WhiteMarks, filled_margins


@dataclass(frozen=True, kw_only=True)
class FlatVolume(Scan):
    """A `Scan` whose pixels are flat, with all that the way back to the recorded scan needs.

    Its `pixels` are (B-scans, flat rows, columns) uint8, x = 2·(value/255 − ½), 0 where OUTSIDE;
    its `spacing` is that of a flat pixel that isn't compressed.
    """

    # Arrays, or read from a store on demand: the recorded scan, (B-scans, rows, columns) uint8,
    # its grey values normalised; and its filled margins, bool.
    bscans: Any
    margins: Any
    scan_spacing: Spacing  # of the recorded scan
    boundaries: Boundaries  # of the recorded scan
    grid: Grid  # the resampling in the plane of the B-scans
    flat: Flattening
    recorded: NDArray[np.bool_]  # like `pixels`: false where OUTSIDE or in a filled margin

    @property
    def inner(self) -> NDArray[np.float32]:
        """Rows of the inner line in the recorded scan, (B-scans, its columns); NaN if unknown."""
        return self.boundaries.lines(self.flat.space.to_membrane)[0]

    @property
    def outer(self) -> NDArray[np.float32]:
        """Rows of the outer line, likewise."""
        return self.boundaries.lines(self.flat.space.to_membrane)[1]

    @property
    def found(self) -> float:
        """Share of the columns in which the retina was found."""
        return float(np.isfinite(self.inner).mean())

    @cached_property
    def tissue(self) -> NDArray[np.bool_]:
        """Where the retina lies in flat space: (B-scans, flat rows, columns)."""
        return np.asarray((self.flat.region == RETINA) & self.recorded)

    def usable_windows(
        self, window: tuple[int, ...], min_fraction: float, to_learn: bool
    ) -> NDArray[np.bool_]:
        """Return the corners of windows with `min_fraction` of retina in what was recorded of them.

        To learn from, all of a window must have been recorded; to be scored, half of it. A B-scan
        without such a window is scored where it shows most: every picture has a score.
        """
        h, w = window
        to_learn = to_learn or not self.flat.space.to_membrane  # as in version 0.1

        def count(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
            sums = mask.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
            sums = np.pad(sums, ((1, 0), (1, 0)))
            return np.asarray(sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w])

        usable = []
        for masks in zip(self.tissue, self.recorded, strict=True):
            tissue, recorded = map(count, masks)
            enough = tissue >= min_fraction * recorded
            usable.append(enough & (recorded >= (h * w if to_learn else h * w / 2)))
            if not to_learn and not usable[-1].any():
                # Half of the most, so that windows half a window apart don't miss it.
                usable[-1] = tissue >= max(tissue.max(initial=0) / 2, 1)
        return np.stack(usable)

    @property
    def has_size(self) -> bool:
        """No: it has any width, and the height that the model wants."""
        return False

    def original(self, frame: int) -> NDArray[np.uint8]:
        """Return a recorded B-scan, its grey values normalised: (rows, columns) uint8."""
        return np.asarray(self.bscans[frame])

    def to_original(self, frame: int, map: NDArray[Any]) -> NDArray[Any]:
        """Return a map or mask (flat rows, columns) in the geometry of the recorded B-scan.

        Masks stay bool; maps are float32, NaN where flat space doesn't reach or wasn't recorded.
        """
        if map.dtype.kind != "b":
            map = np.where(self.recorded[frame], map, np.float32(np.nan))
        return np.asarray(self.grid.back(self._flattening_of(frame).back(map[None]))[0])

    def original_position(self, frame: int, row: float, column: float) -> tuple[int, float, float]:
        """Return B-scan, row and column of the recorded scan at a position in flat space."""
        flat, grid = self.flat, self.grid
        nearest = min(max(round(column), 0), flat.outer.shape[1] - 1)
        row = flat.offset[frame, nearest] + row / flat.scale[frame, nearest]
        (rows, columns), (resampled_rows, resampled_columns) = grid.scan_shape, grid.shape
        return (
            frame,
            (row + 0.5) * rows / resampled_rows - 0.5,
            (column + 0.5) * columns / resampled_columns - 0.5,
        )

    def en_face_line(self, frame: int, map: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the means of a map (rows, columns) of a recorded B-scan over the retina's depth.

        They are (columns,) float32, NaN where nothing in the retina is known.
        """
        inside = self.within_retina(frame, len(map)) & np.isfinite(map)
        counts = inside.sum(axis=0)
        sums = np.where(inside, map, 0).sum(axis=0)
        line = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return np.asarray(line, dtype=np.float32)

    def within_retina(self, frame: int, rows: int) -> NDArray[np.bool_]:
        """Return which pixels of a recorded B-scan lie in the retina: (rows, columns)."""
        row = np.arange(rows)[:, None]
        return np.asarray((row >= self.inner[frame]) & (row <= self.outer[frame]))

    def forward(self, frame: int, mask: NDArray[Any]) -> NDArray[Any]:
        """Return a mask (rows, columns) of a recorded B-scan in flat space: (flat rows, columns).

        Pass a mask that is to come back as floats: ``to_original(frame, shares) >= 0.5`` is then
        the mask. One made binary in flat space, where columns are wider, comes back with steps.
        """
        return np.asarray(self._flattening_of(frame).forward(self.grid.forward(mask[None]))[0])

    def in_space(self, space: FlatSpace) -> FlatVolume:
        """Return the volume in another flat space; itself if it is in this space already.

        Raises:
            BadScan: What has yet to be read from a store is damaged.
        """
        if self.flat.space == space:
            return self
        scan = replace(self, pixels=self.bscans, spacing=self.scan_spacing)
        return make_flat(scan, self.boundaries, self.margins, space, self.bscans)

    def _flattening_of(self, frame: int) -> Flattening:
        flat, frames = self.flat, slice(frame, frame + 1)
        return replace(flat, inner=flat.inner[frames], outer=flat.outer[frames])


def make_flat(
    scan: Scan,
    boundaries: Boundaries,
    margins: Any,
    space: FlatSpace | None = None,
    bscans: Any = None,
    pixels: NDArray[np.uint8] | None = None,
) -> FlatVolume:
    """Normalise, resample and flatten a scan whose boundaries are known.

    Args:
        scan: A grey volume.
        boundaries: Of the retina in the scan.
        margins: As in `FlatVolume`.
        space: The flat area; the paper's where None.
        bscans: As in `FlatVolume`, if known; the scan's own grey values then don't matter.
        pixels: The flat pixels in this `space`, if known.

    Raises:
        BadScan: As `normalise` and `Grid.of`, or no retina in any column.
        ValueError: The boundaries don't belong to the scan.
    """
    space = space or FlatSpace()
    inner, outer = boundaries.lines(space.to_membrane)
    if not np.isfinite(inner).any():
        raise BadScan(
            f"no retina was found in {scan.name}: give a retinal OCT with depth along the rows, or "
            "leave it out with --skip-bad"
        )
    grid = Grid.of(scan)
    grey_range = scan.grey_range
    if bscans is None:
        bscans, grey_range = normalise(scan, np.asarray(margins))
    flat = Flattening(grid.boundary(inner), grid.boundary(outer), grid.shape[0], space)
    in_margin = flat.forward(grid.forward(np.asarray(margins)))
    if pixels is None:
        pixels = flat.forward(grid.forward(np.asarray(bscans)))
    between, row_mm, column_mm = scan.spacing
    known = {field.name: getattr(scan, field.name) for field in fields(Scan)}
    known |= {
        "pixels": pixels,
        "spacing": (
            between,
            row_mm and row_mm * grid.scan_shape[0] / grid.shape[0],
            column_mm and column_mm * grid.scan_shape[1] / grid.shape[1],
        ),
        # The frames of an array file are one volume, though nothing in it says so.
        "is_volume": scan.is_volume or scan.pixels.shape[0] > 1,
        "is_retina": True,
        "grey_range": grey_range,
    }
    return FlatVolume(
        **known,
        bscans=bscans,
        margins=margins,
        scan_spacing=scan.spacing,
        boundaries=boundaries,
        grid=grid,
        flat=flat,
        recorded=(flat.region != OUTSIDE) & ~in_margin,
    )


def straighten(scan: Scan, space: FlatSpace | None = None) -> FlatVolume:
    """Find the retina in a volume and flatten it (section 3, Data).

    Args:
        scan: A volume of retinal OCT.
        space: The flat area; the paper's where None.

    Raises:
        BadScan: Colour, one grey value, impossible pixels, no retina in any column, or no B-scan
            of a retina that is the right way up.
    """
    scan, marks = in_grey(scan)
    Grid.of(scan)  # refuses impossible pixels before the long search
    # A device's own files hold pixels alone.
    if scan.pixels.dtype == np.uint8 and not scan.is_retina:
        white = np.stack([white_marks(frame) for frame in scan.pixels])
        if white.any():
            marks |= white
            scan = replace(scan, notes=(*scan.notes, WhiteMarks()))
    margins = filled_margins(scan.pixels) | marks
    found = find_boundaries(scan.pixels, scan.spacing, ~margins)
    scan = replace(scan, notes=(*scan.notes, *refuse_all_but_bscans(scan, margins, found)))
    return make_flat(scan, found, margins, space)
