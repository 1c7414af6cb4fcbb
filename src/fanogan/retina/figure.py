"""A picture of the steps from a B-scan to patches, as in the paper's Fig. 4."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flat_volume import FlatVolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INNER, _OUTER, _MARGIN = "#38bdf8", "#facc15", "#db2777"
_PATCHES = ("#f87171", "#fb923c", "#a3e635", "#34d399", "#818cf8", "#e879f9")
_LEAST_RETINA = 0.5
_STEP = 4


def steps_figure(volume: FlatVolume, frame: int, window: tuple[int, ...]) -> bytes:
    """Draw the steps for one B-scan (section 3, Data, and Fig. 4).

    Args:
        volume: The volume.
        frame: Which B-scan.
        window: Rows and columns of a patch in flat space.

    Returns:
        A PNG: the B-scan with its grey values normalised and its margins tinted, the two boundaries
        on it, the flat area with the row of the outer boundary and patches marked, and these
        patches.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    bscan, flat, base = volume.original(frame), volume.pixels[frame], volume.flat.space.base
    heights = bscan.shape[0] / bscan.shape[1], max(flat.shape[0] / flat.shape[1], 0.6)
    drawing = Figure((9, 4.4 * sum(heights) + 0.6), dpi=110, layout="constrained", facecolor="w")
    axes = drawing.subplot_mosaic([["bscan", "lines"], ["flat", "patches"]], height_ratios=heights)
    margin = np.asarray(volume.margins[frame])
    tinted = ", margins tinted" if margin.any() else ""
    _show(axes["bscan"], bscan, f"1 · B-scan {frame} of {len(volume.pixels)}, normalised{tinted}")
    tint = np.zeros((*margin.shape, 4))
    tint[margin] = to_rgba(_MARGIN, alpha=0.6)
    axes["bscan"].imshow(tint)
    _show(axes["lines"], bscan, "2 · boundaries of the retina")
    columns = np.arange(bscan.shape[1])
    axes["lines"].plot(columns, volume.inner[frame], color=_INNER, lw=1, label="inner")
    axes["lines"].plot(columns, volume.outer[frame], color=_OUTER, lw=1, label="outer")
    axes["lines"].legend(loc="lower right", fontsize=8)
    _show(axes["flat"], flat, f"3 · flat: outer boundary in row {base}")
    axes["flat"].axhline(base, color=_OUTER, lw=0.8, ls="--")
    corners = _spread(volume.usable_windows(window, _LEAST_RETINA, True)[frame, ::_STEP, ::_STEP])
    axes["patches"].set_axis_off()
    axes["patches"].set_title(
        f"4 · patches of {window[0]}×{window[1]}" if corners else "4 · no place for a patch",
        fontsize=9,
    )
    across = len(_PATCHES) // 2
    for index, ((row, column), colour) in enumerate(zip(corners, _PATCHES, strict=False)):
        place = (column - 0.5, row - 0.5)
        outline = Rectangle(place, window[1], window[0], fill=False, ec=colour, lw=1.2)
        axes["flat"].add_patch(outline)
        at = (index % across / across, 0.5 - index // across * 0.5, 1 / across - 0.02, 0.46)
        inset = axes["patches"].inset_axes(at)
        _show(inset, flat[row : row + window[0], column : column + window[1]], "")
        inset.spines[:].set(color=colour, linewidth=2)
    stream = io.BytesIO()
    drawing.savefig(stream, format="png")
    return stream.getvalue()


def _show(axes: Axes, pixels: NDArray[Any], title: str) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _spread(usable: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Upper left corners of patches, spread over a flat B-scan, alternately low and high."""
    columns = np.flatnonzero(usable.any(axis=0))
    if not len(columns):
        return []
    spread = np.linspace(0, len(columns) - 1, min(len(_PATCHES), len(columns))).astype(int)
    corners = []
    for index, column in enumerate(columns[spread].tolist()):
        rows = np.flatnonzero(usable[:, column]).tolist()
        corners.append((_STEP * rows[(index % 2 * 2 + 1) * len(rows) // 4], _STEP * column))
    return corners
