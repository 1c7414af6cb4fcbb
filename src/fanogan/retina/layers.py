"""Where the retina begins and ends: two surfaces at once, by the optimal-surface graph method.

Each surface has one row in every column. Among all pairs of surfaces that are smooth within and
between B-scans, and neither too close nor too far apart, the pair of least total cost is a minimum
closed set in a graph, found as a minimum cut (Li, Wu, Chen, Sonka 2006; Garvin et al. 2009). It is
found three times, coarse to fine, each time in a narrow band around the last result.

The settings below were chosen by looking at phantoms (low seeds) and at real B-scans with the lines
drawn, never by a detector's score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.retina.smooth import lower_envelope, smooth
from fanogan.scans import Spacing, filled_margins

Array = NDArray[np.float32]
Surfaces = NDArray[np.float64]

# mm between B-scans, rows and columns of a Spectralis volume, assumed for unknown spacings.
TYPICAL_SPACING = (0.12, 0.00387, 0.0114)
# mm between the two surfaces; with less, the inner one falls upon the photoreceptors where all
# above them is dark, as in the fovea.
LEAST_THICKNESS, MOST_THICKNESS = 0.15, 1.2
# From it on a column is seen clearly; 1 is a contrast of 0.3 of a B-scan's own range.
LEAST_CONFIDENCE = 0.5
# Percentiles of a B-scan that become 0 and 1, and where brighter pixels are cut off.
_BACKGROUND, _BRIGHT, _BRIGHTEST = 30, 99, 1.3
# What separates vitreous from tissue, the mm of tissue above that are one too many, and their cost.
_TISSUE, _TISSUE_ABOVE, _WEIGHT_ABOVE = 0.3, 0.010, 0.8
# Where in mm (from, to) the inner surface has tissue below it, what is certainly tissue, weight.
_UNDER, _AS_TISSUE, _WEIGHT_UNDER = (0.01, 0.06), 0.4, 1.5
# Light left for what is too deep to be seen, in the unit of brightness times mm.
_LIGHT = 0.25
# The outer band in mm; where below it another is sought; how bright that one has to be; weights.
_BAND, _BELOW, _AS_BRIGHT, _WEIGHT_BELOW, _WEIGHT_BAND = 0.025, (0.03, 0.4), 1.0, 3.0, 1.4
# Largest rise over run of a surface, and its stiffness between B-scans relative to within.
_STEEPEST, _BETWEEN_SCANS = 2.0, 0.15
# What a height outside the scan costs.
_OUTSIDE = 10.0
# Confidence: mm above and below that are compared, columns averaged, contrast that is full.
_WINDOW, _WIDE_WINDOW, _NEIGHBOURS, _CONTRAST = 0.025, 0.06, 9, 0.3
# From `LEAST_CONFIDENCE` down to this a surface goes over from what was found to a smooth line.
_LEAST_TRUST = 0.3
# Stiffness of the smooth lines, and of Bruch's membrane; the weight of what lies above it.
_STIFFNESS, _BRUCH_STIFFNESS, _BRUCH_ASYMMETRY, _BRUCH_REACH = 1e3, 3e5, 0.05, 0.03
# mm from which on the epithelium is lifted off the membrane.
_LIFTED = 0.012
# Share of a B-scan's columns that must be seen clearly, or there is no retina.
_LEAST_SHARE = 0.05
# Costs are whole numbers in the graph, and arcs of this capacity are never cut.
_SCALE, _FORBIDDEN = 1000, 10**7


@dataclass(frozen=True)
class Boundaries:
    """The surfaces of the retina in a volume, (B-scans, columns) float32 each.

    Row 10.0 is the centre of the pixel in row 10; a surface may lie outside the scan. All are known
    in every column with a recording, and where the evidence is weak they are smooth. They are NaN
    where a filled margin covers most of the retina, and in B-scans without a retina.
    """

    inner: Array  # row of the inner limiting membrane
    outer: Array  # row of Bruch's membrane, below all that lifts the pigment epithelium
    epithelium: Array  # row of the outer boundary of the pigment epithelium
    confidence: Array  # in [0, 1], from the contrast at both surfaces

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Where both surfaces are seen clearly: (B-scans, columns)."""
        return self.confidence >= LEAST_CONFIDENCE

    @property
    def found(self) -> NDArray[np.bool_]:
        """Where the surfaces are known: (B-scans, columns)."""
        return np.isfinite(self.inner)

    def lines(self, to_membrane: bool) -> tuple[Array, Array]:
        """Return the inner and the outer line that the retina is flattened between.

        Args:
            to_membrane: Whether down to Bruch's membrane, and in every column; otherwise to the
                outer boundary of the epithelium, where both are seen clearly, as in version 0.1.
        """
        if to_membrane:
            return self.inner, self.outer
        lines = np.stack([self.inner, self.epithelium])
        inner, outer = np.where(self.clear, lines, np.float32(np.nan))
        return inner, outer


@dataclass(frozen=True)
class _Level:
    """One step from coarse to fine."""

    block: int  # rows and columns of the scan (at the typical spacing) that become one
    sigma: tuple[float, float]  # smoothing along rows and columns in mm
    reach: float  # half height of the band around what is known, in mm
    stiffness: float  # cost of a step of one mm between neighbouring columns
    is_coarse: bool  # whether the two surfaces have yet to be told from other edges


_LEVELS = (
    _Level(5, (0.012, 0.030), np.inf, 2.0, True),
    _Level(2, (0.008, 0.025), 0.070, 2.0, True),
    _Level(1, (0.006, 0.025), 0.020, 7.0, False),
)


def find_boundaries(
    volume: NDArray[Any], spacing: Spacing, valid: NDArray[np.bool_] | None = None
) -> Boundaries:
    """Find the inner limiting membrane and the outer boundary of the pigment epithelium.

    Args:
        volume: (B-scans, rows, columns), any real dtype, higher is brighter. A single B-scan is a
            volume of one.
        spacing: mm between B-scans, rows and columns; `TYPICAL_SPACING` replaces None.
        valid: Where pixels were recorded, same shape; all but `filled_margins` by default.

    Returns:
        The surfaces, NaN in columns where they are unknown.

    Raises:
        ValueError: `volume` doesn't have three axes, or `valid` has another shape.
    """
    if volume.ndim != 3:
        raise ValueError(f"a volume has three axes (B-scans, rows, columns), not {volume.shape}")
    valid = ~filled_margins(volume) if valid is None else valid
    if valid.shape != volume.shape:
        raise ValueError(f"valid has the shape {valid.shape}, and the volume {volume.shape}")
    apart, row, column = (mm or usual for mm, usual in zip(spacing, TYPICAL_SPACING, strict=True))
    image = _normalised(volume, valid)
    known: Surfaces | None = None
    for level in _LEVELS:
        rows = max(1, round(level.block * TYPICAL_SPACING[1] / row))
        columns = max(1, round(level.block * TYPICAL_SPACING[2] / column))
        small = _shrunk(image, rows, columns)
        step = (apart, rows * row, columns * column)
        near = None if known is None else _resampled(known, rows, columns, small.shape[2])
        found = _search(_costs(small, step, level), near, step, level)
        known = _resampled(found, 1 / rows, 1 / columns, image.shape[2])
    assert known is not None
    return _completed(known, image, valid, row, column)


def _completed(
    found: Surfaces, image: Array, valid: NDArray[np.bool_], row: float, column: float
) -> Boundaries:
    """Smooth the surfaces where the evidence is weak, and lay Bruch's membrane below them."""
    shares = _evidence(image, found, row)
    height = image.shape[1]
    top, bottom = found
    rows = np.arange(height)[None, :, None]
    around = (rows >= top[:, None]) & (rows <= bottom[:, None])
    covered = (around & ~valid).sum(axis=1) > 0.5 * around.sum(axis=1)
    near = (rows >= top[:, None] - 2) & (rows <= bottom[:, None] + 2)
    cut = (near & ~valid).any(axis=1) | (top < 2) | (bottom > height - 3)
    weights = np.where(cut, 0, shares).astype(np.float64)
    lines = np.stack(
        [smooth(*each, _STIFFNESS, column) for each in zip(found, weights, strict=True)]
    )
    trust = ((weights - _LEAST_TRUST) / (LEAST_CONFIDENCE - _LEAST_TRUST)).clip(0, 1)
    inner, epithelium = trust * found + (1 - trust) * lines
    bruch = lower_envelope(
        found[1], weights[1], _BRUCH_STIFFNESS, column, _BRUCH_ASYMMETRY, _BRUCH_REACH / row
    )
    # Where the epithelium lies on the membrane it is the better line: the envelope is smoother than
    # the eye.
    lifted = bruch - epithelium
    on_it = (2 - np.abs(lifted) * row / _LIFTED).clip(0, 1) * trust[1]
    outer = bruch - on_it * lifted
    confidence = np.where(cut, 0, shares.min(axis=0)).astype(np.float32)
    empty = (confidence >= LEAST_CONFIDENCE).mean(axis=1) < _LEAST_SHARE
    unknown = covered | empty[:, None]
    inner, outer, epithelium = (
        np.where(unknown, np.nan, line).astype(np.float32)
        for line in (inner, outer, np.minimum(epithelium, outer))
    )
    return Boundaries(inner, outer, epithelium, confidence)


def _normalised(volume: NDArray[Any], valid: NDArray[np.bool_]) -> Array:
    """Each B-scan with its background at 0 and its bright layers at 1; margins are painted over."""
    image = np.zeros(volume.shape, dtype=np.float32)
    for scan, mask, out in zip(volume, valid, image, strict=True):
        if not mask.any():
            continue
        filled = scan
        if not mask.all():
            _, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
            filled = scan[tuple(nearest)]
        smooth = ndimage.uniform_filter(filled.astype(np.float32), (3, 9))
        low, high = np.percentile(smooth, (_BACKGROUND, _BRIGHT))
        # Nothing but noise stays at 0.
        if high - low > (filled - smooth).std():
            np.clip((filled - low) / (high - low), 0, _BRIGHTEST, out=out)
    return image


def _shrunk(image: Array, rows: int, columns: int) -> Array:
    """Means over blocks of rows × columns; the last ones are filled up with the edge's pixels."""
    if rows == columns == 1:
        return image
    scans, height, width = image.shape
    padding = ((0, 0), (0, -height % rows), (0, -width % columns))
    padded = np.pad(image, padding, mode="edge")
    blocks = padded.reshape(scans, padded.shape[1] // rows, rows, -1, columns)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)


def _resampled(surfaces: Surfaces, rows: float, columns: float, width: int) -> Surfaces:
    """Surfaces in the grid whose rows and columns are that many times as large."""
    places = (np.arange(width) + 0.5) * columns - 0.5
    places = places.clip(0, surfaces.shape[-1] - 1)
    left = np.minimum(places.astype(int), max(surfaces.shape[-1] - 2, 0))
    right = np.minimum(left + 1, surfaces.shape[-1] - 1)
    share = places - left
    between = (1 - share) * surfaces[..., left] + share * surfaces[..., right]
    return np.asarray((between + 0.5) / rows - 0.5)


def _costs(image: Array, step: tuple[float, float, float], level: _Level) -> Array:
    """Cost of each surface at each pixel: (2, B-scans, rows, columns).

    The inner surface seeks a step from dark to bright, with nothing bright above. The outer one
    seeks a step from bright to dark, with nothing as bright below; so neither the bright layers
    above fluid nor those of the inner retina are taken for the pigment epithelium.
    """
    row = step[1]
    sigma = level.sigma[0] / row
    flat = ndimage.gaussian_filter1d(image, level.sigma[1] / step[2], axis=2)
    if not level.is_coarse:
        edge = _edge(flat, sigma)
        return np.stack([-edge, edge])
    smooth = ndimage.gaussian_filter1d(flat, sigma, axis=1)
    above = np.cumsum(np.maximum(smooth - _TISSUE, 0), axis=1) * row
    under = -_highest(-smooth, _UNDER[0] / row, _UNDER[1] / row)
    inner = _WEIGHT_ABOVE * (1 - np.exp(-above / _TISSUE_ABOVE))
    inner -= _WEIGHT_UNDER * under.clip(0, _AS_TISSUE)
    # How much of the light that is left a pixel sends back (Vermeer et al. 2014), about 1 in the
    # pigment epithelium: that is dark in the shadow of a vessel and below a bright nerve-fibre
    # layer, but there is little light left below it.
    left = np.cumsum(flat[:, ::-1], axis=1)[:, ::-1] * row
    flat = np.asarray(flat * (_LIGHT / (_LIGHT + left)))
    # The mean of the rows down to the pixel's own.
    size = max(1, round(_BAND / row))
    band = ndimage.gaussian_filter1d(flat, sigma, axis=1)
    band = ndimage.uniform_filter1d(band, size, axis=1, origin=(size - 1) // 2)
    deeper = _highest(band, _BELOW[0] / row, _BELOW[1] / row)
    outer = _WEIGHT_BELOW * np.maximum(deeper - _AS_BRIGHT * band, 0) - _WEIGHT_BAND * band
    return np.stack([inner - _edge(smooth, 0.5), outer + _edge(flat, sigma)])


def _edge(image: Array, sigma: float) -> Array:
    """Height of the step from each pixel's upper to its lower side."""
    slope = ndimage.gaussian_filter1d(image, sigma, axis=1, order=1)
    return np.asarray(slope * (sigma * np.sqrt(2 * np.pi)))


def _highest(image: Array, first: float, last: float) -> Array:
    """Maximum over the rows from `first` to `last` below each pixel."""
    start, stop = round(first), max(round(last), round(first) + 1)
    size = stop - start
    padded = np.pad(image, ((0, 0), (0, stop), (0, 0)), mode="edge")
    window = ndimage.maximum_filter1d(padded, size, axis=1, origin=-(size // 2))
    return np.asarray(window[:, start : start + image.shape[1]])


def _search(
    costs: Array, near: Surfaces | None, step: tuple[float, float, float], level: _Level
) -> Surfaces:
    """Return the best pair of surfaces, in the whole height or in a band near `near`; sub-pixel."""
    height = costs.shape[2]
    if near is None:
        base = np.zeros((2, costs.shape[1], costs.shape[3]), dtype=np.int64)
        banded = np.moveaxis(costs, 2, 3)
    else:
        reach = max(2, round(level.reach / step[1]))
        base = np.rint(near).astype(np.int64) - reach
        rows = base[..., None] + np.arange(2 * reach + 1)
        inside = rows.clip(0, height - 1)
        banded = np.take_along_axis(np.moveaxis(costs, 2, 3), inside, axis=3)
        banded = np.where(rows == inside, banded, banded + _OUTSIDE)
    limits = (round(LEAST_THICKNESS / step[1]), round(MOST_THICKNESS / step[1]))
    steepest = max(1, round(_STEEPEST * step[2] / step[1]))
    within = level.stiffness * step[1]
    between = within * _BETWEEN_SCANS * TYPICAL_SPACING[0] / max(step[0], TYPICAL_SPACING[0])
    index = _closed_set(banded, base, limits, steepest, (within, between))
    # Sub-pixel: the lowest point of the parabola through three neighbouring costs.
    places = (index[..., None] + np.arange(-1, 2)).clip(0, banded.shape[3] - 1)
    near_costs = np.take_along_axis(banded, places, axis=3).astype(np.float64)
    above, here, below = np.moveaxis(near_costs, 3, 0)
    bend = above - 2 * here + below
    offset = 0.5 * (above - below) / np.where(bend > 0, bend, 1)
    return np.asarray(base + index + np.where(bend > 0, offset, 0).clip(-0.5, 0.5))


def _closed_set(
    costs: Array,  # (2, B-scans, columns, heights)
    base: NDArray[np.int64],  # row of the first height, (2, B-scans, columns)
    limits: tuple[int, int],  # least and most rows from the first surface to the second
    steepest: int,  # most heights between neighbouring columns
    stiffness: tuple[float, float],  # cost of a height between neighbouring columns, and B-scans
) -> NDArray[np.int64]:
    """Return the pair of surfaces of least cost, as a minimum closed set: index of each height.

    A node is a height in a column of a surface. It is in the set if the surface is at that height
    or lower down. An arc that cannot be cut says: with this node, that one.
    """
    import maxflow

    weights = np.diff(np.rint(costs * _SCALE).astype(np.int64), axis=3, prepend=0)
    weights[..., 0] = -_FORBIDDEN
    heights = weights.shape[3]
    # Arcs of a node to its own column, and to the neighbouring columns and B-scans. These have no
    # limit: an eye that moves between two B-scans shifts them by any number of rows.
    reach = min(steepest, heights)
    within, between = (round(cost * _SCALE) for cost in stiffness)
    arcs = np.zeros((3, 3, 2 * reach + 1), dtype=np.int64)
    arcs[1, 1, reach - 1] = _FORBIDDEN
    arcs[1, ::2, 0] = _FORBIDDEN
    arcs[1, ::2, reach] = within
    arcs[::2, 1, reach] = between
    graph = maxflow.GraphInt(weights.size, 4 * weights.size)
    nodes = np.stack([graph.add_grid_nodes(weights.shape[1:]) for _ in range(2)])
    for surface in nodes:
        graph.add_grid_edges(surface, structure=arcs)
    least, most = limits
    for start, stop, shift in ((0, 1, least), (1, 0, -most)):
        other = np.arange(heights) + (base[start] - base[stop])[..., None] + shift
        weights[start][other >= heights] += _FORBIDDEN
        scan, column, height = np.nonzero((other >= 0) & (other < heights))
        tails = nodes[start, scan, column, height]
        heads = nodes[stop, scan, column, other[scan, column, height]]
        graph.add_edges(tails, heads, np.full(len(tails), _FORBIDDEN), np.zeros(len(tails), int))
    for surface, weight in zip(nodes, weights, strict=True):
        graph.add_grid_tedges(surface, np.maximum(-weight, 0), np.maximum(weight, 0))
    graph.maxflow()
    outside = np.stack([graph.get_grid_segments(surface) for surface in nodes])
    return np.asarray((~outside).sum(axis=3) - 1)


def _evidence(image: Array, surfaces: Surfaces, row: float) -> Array:
    """Return the contrast at both surfaces as a share of full contrast: (2, B-scans, columns)."""
    inner, outer = np.rint(surfaces).astype(np.int64)
    height = image.shape[1]
    scans, columns = np.ogrid[: inner.shape[0], : inner.shape[1]]

    def step_at(line: NDArray[np.int64], mm: float) -> Array:
        """Mean of the rows below a line less that of as many above it: (B-scans, columns)."""
        offsets = np.arange(2, max(1, round(mm / row)) + 2)
        below, above = (
            image[
                scans[..., None],
                (line[..., None] + sign * offsets).clip(0, height - 1),
                columns[..., None],
            ].mean(axis=2)
            for sign in (1, -1)
        )
        return np.asarray(below - above)

    # The wide window, or a layer inside a retina that the frame cuts off would pass for the ILM.
    contrast = np.stack(
        [step_at(inner, _WINDOW), step_at(inner, _WIDE_WINDOW), -step_at(outer, _WINDOW)]
    )
    contrast = ndimage.uniform_filter1d(contrast, _NEIGHBOURS, axis=2)
    shares = (contrast / _CONTRAST).clip(0, 1)
    return np.stack([shares[:2].min(axis=0), shares[2]])
