"""Shapes that are drawn and masks: the one from the other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mask_of(shape: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a drawn shape, (rows, columns).

    Points are (column, row) with (0, 0) at the corner of the frame. A polygon holds the pixels
    whose centres lie in it; a brush those whose centres lie within half its `width` of its line.
    """
    from skimage.draw import polygon

    inside_of: Any = polygon  # it has no types
    points = np.asarray(shape["points"], dtype=np.float64)
    mask = np.zeros(size, dtype=np.bool_)
    if shape["shape"] == "polygon":
        mask[inside_of(points[:, 1] - 0.5, points[:, 0] - 0.5, size)] = True
        return mask
    radius = shape["width"] / 2
    for start, end in itertools.pairwise([points[0], *points]):
        low = np.clip(np.floor(np.minimum(start, end) - radius), 0, size[::-1]).astype(int)
        high = np.clip(np.ceil(np.maximum(start, end) + radius), 0, size[::-1]).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        along = end - start
        length = float(along @ along)
        share = 0.0 if not length else ((x - start[0]) * along[0] + (y - start[1]) * along[1])
        share = np.clip(share / length, 0, 1) if length else share
        away = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
        mask[low[1] : high[1], low[0] : high[0]] |= away <= radius
    return mask


def outlines_of(mask: NDArray[np.bool_]) -> list[list[list[float]]]:
    """Return the outlines of a mask (rows, columns) as (column, row) points, (0, 0) its corner."""
    from skimage.measure import find_contours

    contours: Any = find_contours  # it has no types
    return [
        np.round(points[:, ::-1] - 0.5, 1).tolist()
        for points in contours(np.pad(mask, 1).astype(np.float32), 0.5)
    ]
