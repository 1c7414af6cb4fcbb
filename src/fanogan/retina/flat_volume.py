"""A volume whose retina has been made straight, and that knows its way back."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flatten import OUTSIDE, RETINA, Flat
from fanogan.retina.layers import find_boundaries
from fanogan.retina.resample import Grid, normalise
from fanogan.scans import BadScan, Scan, Spacing, filled_margins


@dataclass(frozen=True)
class FlatSpace:
    """The area that the retina is brought into.

    Attributes:
        rows: Rows of the area.
        base: Row on which the outer boundary of the pigment epithelium comes to lie.
        stretched: Whether the retina fills the area above `base` in every column; else, as in the
            paper, its thickness is altered only where it is higher than that.
    """

    rows: int = 128
    base: int = 120
    stretched: bool = False


@dataclass(frozen=True, kw_only=True)
class FlatVolume(Scan):
    """A volume in flat space: a `Scan` whose pixels are flat, with all that the way back needs.

    Attributes:
        pixels: (B-scans, flat rows, columns) uint8, x = 2·(value/255 − ½); 0 where OUTSIDE.
        spacing: Millimetres between B-scans, and of a flat pixel that isn't compressed.
        bscans: (B-scans, rows, columns) uint8, the scan itself, normalised; an array, or one that
            is read from a store when it is asked for.
        margins: (B-scans, rows, columns) bool, the scan's filled margins; likewise.
        scan_spacing: Millimetres between B-scans, rows and columns of the scan itself.
        inner: Row of the scan's inner limiting membrane, (B-scans, scan's columns) float32; NaN
            where it isn't known.
        outer: Row of the outer boundary of the pigment epithelium, likewise.
        grid: The resampling in the plane.
        flat: The flattening.
        tissue: (B-scans, flat rows, columns) bool: false where flat space is OUTSIDE of the scan
            or in one of its filled margins.
    """

    bscans: Any
    margins: Any
    scan_spacing: Spacing
    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    grid: Grid
    flat: Flat
    known: NDArray[np.bool_]

    @property
    def found(self) -> float:
        """Share of the scan's columns in which the retina was found."""
        return float(np.isfinite(self.inner).mean())

    @cached_property
    def retina(self) -> NDArray[np.bool_]:
        """Flat pixels that are retina: (B-scans, flat rows, columns)."""
        return np.asarray((self.flat.region == RETINA) & self.known)

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """As `Scan.tissue`."""
        return self.retina

    def usable_windows(self, window: tuple[int, int], min_fraction: float) -> NDArray[np.bool_]:
        """As `Scan.usable_windows`."""
        sizes = [side - w + 1 for side, w in zip(self.pixels.shape[1:], window, strict=True)]
        found = np.empty((len(self.pixels), *sizes), dtype=np.bool_)
        h, w = window

        def sums(mask: NDArray[np.bool_]) -> NDArray[Any]:
            s = np.pad(mask.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
            return np.asarray(s[h:, w:] - s[:-h, w:] - s[h:, :-w] + s[:-h, :-w])

        for frame, out in enumerate(found):
            enough = sums(self.retina[frame]) >= min_fraction * h * w
            out[:] = enough & (sums(~self.known[frame]) == 0)
        return found

    def to_original(self, frame: int, map_: NDArray[Any]) -> NDArray[Any]:
        """As `Scan.to_original`."""
        return self.back(frame, map_)

    def original(self, frame: int) -> NDArray[Any]:
        """As `Scan.original`."""
        return np.asarray(self.bscans[frame])

    def in_space(self, space: FlatSpace) -> FlatVolume:
        """The same volume, made flat anew unless it is in this space already.

        Raises:
            BadScan: What is still to be read of a store is damaged.
        """
        flat = self.flat
        if FlatSpace(flat.rows, flat.base, flat.stretched) == space:
            return self
        known = {field.name: getattr(self, field.name) for field in fields(Scan)}
        scan = Scan(**{**known, "pixels": self.bscans, "spacing": self.scan_spacing})
        return make_flat(scan, self.inner, self.outer, self.margins, space, self.bscans)

    def back(self, frame: int, values: NDArray[Any]) -> NDArray[Any]:
        """Returns a map or mask of one B-scan to the scan's own rows and columns.

        Args:
            frame: Which B-scan.
            values: (flat rows, columns), bool or float.

        Returns:
            (rows, columns) of the scan: bool, or float32 with NaN where nothing is known.
        """
        if values.dtype.kind != "b":
            values = np.where(self.known[frame], values, np.float32(np.nan))
        back: NDArray[Any] = self.grid.back(self._flat_of(frame).back(values[None]))[0]
        return back

    def en_face_line(self, frame: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """One line of an en-face map: means over the depth of the retina.

        Args:
            frame: Which B-scan.
            values: (rows, columns) of the scan, NaN where nothing is known.

        Returns:
            (columns,) of the scan, NaN where nothing between the two boundaries is known.
        """
        rows = np.arange(len(values))[:, None]
        inside = (rows >= self.inner[frame]) & (rows <= self.outer[frame]) & np.isfinite(values)
        counts = inside.sum(axis=0)
        sums = np.where(inside, values, 0).sum(axis=0)
        line = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return np.asarray(line, dtype=np.float32)

    def place(self, frame: int, row: float, column: float) -> tuple[float, float]:
        """Where a place of flat space lies in a B-scan's own rows and columns."""
        flat, grid = self.flat, self.grid
        nearest = min(max(round(column), 0), flat.outer.shape[1] - 1)
        row = flat.offset[frame, nearest] + row / flat.scale[frame, nearest]
        (rows, columns), (resampled_rows, resampled_columns) = grid.scan_shape, grid.shape
        return (
            (row + 0.5) * rows / resampled_rows - 0.5,
            (column + 0.5) * columns / resampled_columns - 0.5,
        )

    def forward(self, frame: int, mask: NDArray[Any]) -> NDArray[Any]:
        """Takes a mask of one B-scan to flat space.

        A mask that is to come back goes as floats: the share of each flat pixel that it covers.
        ``back(frame, shares) >= 0.5`` is then the mask; one that is made binary in flat space,
        where columns are wider, comes back with their steps along its rim.

        Args:
            frame: Which B-scan.
            mask: (rows, columns) of the scan, bool or float.

        Returns:
            (flat rows, columns), bool or float32 likewise.
        """
        return np.asarray(self._flat_of(frame).forward(self.grid.forward(mask[None]))[0])

    def _flat_of(self, frame: int) -> Flat:
        """The flattening of one B-scan."""
        flat, frames = self.flat, slice(frame, frame + 1)
        return replace(flat, inner=flat.inner[frames], outer=flat.outer[frames])


def make_flat(
    scan: Scan,
    inner: NDArray[np.float32],
    outer: NDArray[np.float32],
    margins: Any,
    space: FlatSpace | None = None,
    bscans: Any = None,
    pixels: NDArray[np.uint8] | None = None,
) -> FlatVolume:
    """The steps from a scan and its boundaries to flat space: normalised, resampled, straight.

    Args:
        scan: A grey volume; where `bscans` is given only its size and what is known of it count.
        inner: Row of the inner boundary in the scan's own columns, (B-scans, columns).
        outer: Row of the outer boundary, likewise.
        margins: Filled margins of the scan, (B-scans, rows, columns) bool; an array, or one that
            is read when it is asked for.
        space: The area; the paper's where None.
        bscans: The normalised scan, likewise, where it is known already.
        pixels: The flat volume of this `space`, where it is known already.

    Raises:
        BadScan: As `normalise` and `Grid.of`, or no retina in any column.
        ValueError: Boundaries that don't belong to the scan.
    """
    space = space or FlatSpace()
    if not np.isfinite(inner).any():
        raise BadScan(
            f"no retina was found in {scan.name}: give a retinal OCT with depth along the rows, or "
            "leave it out with --skip-bad"
        )
    if bscans is None:
        bscans = normalise(scan, np.asarray(margins))
    grid = Grid.of(scan)
    flat = Flat(
        grid.boundary(inner),
        grid.boundary(outer),
        grid.shape[0],
        space.rows,
        space.base,
        space.stretched,
    )
    in_margin = flat.forward(grid.forward(np.asarray(margins)))
    tissue = (flat.region != OUTSIDE) & ~in_margin
    if pixels is None:
        pixels = flat.forward(grid.forward(np.asarray(bscans)))
    rows, columns = scan.pixels.shape[1:3]
    between, row_mm, column_mm = scan.spacing
    return FlatVolume(
        pixels=pixels,
        name=scan.name,
        group=scan.group,
        spacing=(
            between,
            row_mm and row_mm * rows / grid.shape[0],
            column_mm and column_mm * columns / grid.shape[1],
        ),
        is_volume=True,
        notes=scan.notes,
        eye=scan.eye,
        device=scan.device,
        en_face=scan.en_face,
        thickness=scan.thickness,
        is_retina=True,
        bscans=bscans,
        margins=margins,
        scan_spacing=scan.spacing,
        inner=inner,
        outer=outer,
        grid=grid,
        flat=flat,
        known=tissue,
    )


def straighten(scan: Scan, space: FlatSpace | None = None) -> FlatVolume:
    """Finds the retina in a volume and makes it straight (section 3, Data).

    Args:
        scan: A grey volume of retinal OCT.
        space: The area; the paper's where None.

    Raises:
        BadScan: Colour, one grey value, impossible pixels, or no retina in any column.
    """
    if scan.pixels.ndim != 3:
        raise BadScan(f"{scan.name} is in colour, and OCT is grey: give the scanner's own export")
    Grid.of(scan)  # refuses impossible pixels before the long search
    margins = filled_margins(scan.pixels)
    found = find_boundaries(scan.pixels, scan.spacing, ~margins)
    return make_flat(scan, found.inner, found.outer, margins, space)
