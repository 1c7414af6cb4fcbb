"""A picture of the steps from a B-scan to patches, as the paper's Fig. 4."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flat_volume import FlatVolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INNER, _OUTER = "#38bdf8", "#facc15"
_PATCHES = ("#f87171", "#fb923c", "#a3e635", "#34d399", "#818cf8", "#e879f9")
_LEAST_RETINA = 0.5
_STEP = 4


def steps_figure(volume: FlatVolume, frame: int, window: tuple[int, int]) -> bytes:
    """Draws the steps on one B-scan (section 3, Data, and Fig. 4).

    Args:
        volume: The volume.
        frame: Which B-scan.
        window: Rows and columns of a patch in flat space.

    Returns:
        A PNG: the B-scan with its grey values normalised, the two boundaries on it, the flat
        area with the row of the outer boundary and patches marked, and these patches.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    bscan = np.asarray(volume.bscans[frame])
    heights = (
        bscan.shape[0] / bscan.shape[1],
        max(volume.pixels.shape[1] / volume.pixels.shape[2], 0.6),
    )
    drawing = Figure((9, 4.4 * sum(heights) + 0.6), dpi=110, layout="constrained", facecolor="w")
    axes = drawing.subplot_mosaic([["bscan", "lines"], ["flat", "patches"]], height_ratios=heights)
    _show(axes["bscan"], bscan, f"1 · B-scan {frame} of {len(volume.pixels)}, normalised")
    _show(axes["lines"], bscan, "2 · boundaries of the retina")
    columns = np.arange(bscan.shape[1])
    axes["lines"].plot(columns, volume.inner[frame], color=_INNER, lw=1, label="inner")
    axes["lines"].plot(columns, volume.outer[frame], color=_OUTER, lw=1, label="outer")
    axes["lines"].legend(loc="lower right", fontsize=8)
    base = volume.flat.base
    _show(axes["flat"], volume.pixels[frame], f"3 · flat: outer boundary in row {base}")
    axes["flat"].axhline(base, color=_OUTER, lw=0.8, ls="--")
    corners = _corners(volume.retina[frame], volume.known[frame], window)
    for (row, column), colour in zip(corners, _PATCHES, strict=False):
        place = (column - 0.5, row - 0.5)
        outline = Rectangle(place, window[1], window[0], fill=False, ec=colour, lw=1.2)
        axes["flat"].add_patch(outline)
    axes["patches"].set_axis_off()
    axes["patches"].set_title(
        f"4 · patches of {window[0]}×{window[1]}" if corners else "4 · no place for a patch",
        fontsize=9,
    )
    across = len(_PATCHES) // 2
    for index, ((row, column), colour) in enumerate(zip(corners, _PATCHES, strict=False)):
        at = (index % across / across, 0.5 - index // across * 0.5, 1 / across - 0.02, 0.46)
        inset = axes["patches"].inset_axes(at)
        patch = volume.pixels[frame, row : row + window[0], column : column + window[1]]
        _show(inset, patch, "")
        inset.spines[:].set(color=colour, linewidth=2)
    stream = io.BytesIO()
    drawing.savefig(stream, format="png")
    return stream.getvalue()


def _show(axes: Axes, pixels: NDArray[Any], title: str) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _corners(
    retina: NDArray[np.bool_], tissue: NDArray[np.bool_], window: tuple[int, int]
) -> list[tuple[int, int]]:
    """Upper left corners of patches of tissue and enough retina, spread over a flat B-scan."""
    rows, columns = (side - size for side, size in zip(retina.shape, window, strict=True))
    usable = []
    for column in range(0, columns + 1, _STEP):
        across = slice(column, column + window[1])
        heights = [
            row
            for row in range(0, rows + 1, _STEP)
            if tissue[row : row + window[0], across].all()
            and retina[row : row + window[0], across].mean() >= _LEAST_RETINA
        ]
        if heights:
            usable.append((heights, column))
    if not usable:
        return []
    spread = np.linspace(0, len(usable) - 1, min(len(_PATCHES), len(usable))).astype(int)
    # By turns low and high, so that they can be told apart.
    return [
        (heights[(index % 2 * 2 + 1) * len(heights) // 4], column)
        for index, (heights, column) in enumerate(usable[place] for place in spread.tolist())
    ]
