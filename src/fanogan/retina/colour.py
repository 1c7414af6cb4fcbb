"""OCT is grey; what exports do to it in colour is undone where that is certain, else refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.scans import BadScan, ColouredMarks, ColourMapUndone, Scan, TintedGrey

# Most that the channels of a grey pixel differ by, of 255: JPEG rounds colours.
_TINT = 24
# Most pixels that may be coloured in a grey picture with marks, and how far JPEG smears these.
_MOST_MARKED, _SMEARED = 0.1, 3
# Distance in RGB to a colour map's curve within which 90 % of its picture's pixels lie; those of
# photographs are at 38 or more, those of a JPEG with halved colours at 13 or more.
_ON_CURVE = 10.0
_COLOUR_MAPS = (
    *("jet", "turbo", "rainbow", "hot", "afmhot"),
    *("inferno", "magma", "plasma", "viridis", "cividis"),
)


def in_grey(scan: Scan) -> tuple[Scan, NDArray[np.bool_]]:
    """Return a scan in grey, and where letters, arrows or lines in colour are burnt in.

    Args:
        scan: Grey, or 8-bit RGB whose pixels are grey but for JPEG's rounding, but for a few
            coloured marks, or coloured by one of matplotlib's usual colour maps.

    Returns:
        The scan with (frames, rows, columns) and a note on what was done, and a mask of this shape.

    Raises:
        BadScan: Any other colour.
    """
    colours = scan.pixels
    if colours.ndim == 3:
        return scan, np.zeros(colours.shape, dtype=np.bool_)
    marks = np.ptp(colours, axis=-1) > _TINT
    if colours.dtype == np.uint8 and marks.mean() > _MOST_MARKED:
        pixels, name = _without_colour_map(colours)
        if name is not None:
            notes = (*scan.notes, ColourMapUndone(name))
            return replace(scan, pixels=pixels, notes=notes), np.zeros(pixels.shape, dtype=np.bool_)
    if colours.dtype != np.uint8 or marks.mean() > _MOST_MARKED:
        raise BadScan(
            f"{scan.name} is in colour, and OCT is grey: give the scanner's own export in grey, or "
            "leave it out with --skip-bad"
        )
    grey = np.rint(colours.mean(axis=-1, dtype=np.float32)).astype(np.uint8)
    notes = (*scan.notes, ColouredMarks() if marks.any() else TintedGrey())
    size = (1, 2 * _SMEARED + 1, 2 * _SMEARED + 1)
    marks = ndimage.maximum_filter(marks.view(np.uint8), size).view(np.bool_)
    return replace(scan, pixels=grey, notes=notes), marks


def _without_colour_map(colours: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str | None]:
    """Return a false-colour picture's grey values and its map's name, None of no known map."""
    import matplotlib
    from scipy.spatial import cKDTree

    values = np.arange(256)
    first = colours[0].reshape(-1, 3)
    trees = {
        name: cKDTree(matplotlib.colormaps[name](values)[:, :3] * 255) for name in _COLOUR_MAPS
    }
    distances = {name: np.percentile(tree.query(first)[0], 90) for name, tree in trees.items()}
    name = min(distances, key=distances.__getitem__)
    if distances[name] > _ON_CURVE:
        return colours, None
    return np.stack([trees[name].query(frame)[1] for frame in colours]).astype(np.uint8), name
