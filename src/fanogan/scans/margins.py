"""Filled margins: what a scanner paints where registering a frame left it without data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.scan import Pixels

LEAST_PIXELS = 50
"""Pixels of the smallest margin: wedges of 53 pixels occur; saturated tissue reaches 27."""

_BRUSH = 9
_SURPRISE = 200.0
_RAREST = 0.01


def filled_margins(pixels: Pixels) -> NDArray[np.bool_]:
    """Find the white and black wedges and strips at the edges of frames.

    A margin has exactly the volume's highest or lowest value, reaches the frame's edge, is solid
    (covered by squares of 9×9 pixels of that value, which may stick out of the frame), and is
    too large to have come about by chance: in an 8-bit B-scan the vitreous and the depth below
    the choroid hold many true zeros. With p the share of the value in a ring around it, a region
    of n pixels is kept where n·ln(1/p) ≥ 200 and n ≥ 50. So white wedges are found down to 50
    pixels, and black ones down to 166 in surroundings of 30 % zeros.

    Args:
        pixels: (frames, rows, columns), any real dtype.

    Returns:
        Mask of the same shape, true in margins. An empty frame is margin all over.
    """
    found = np.zeros(pixels.shape, dtype=np.bool_)
    for value in {pixels.min(), pixels.max()}:
        for frame, mask in zip(pixels, found, strict=True):
            mask |= _margins_of(frame == value)
    return found


def _margins_of(is_value: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the margins of one value in one frame (rows, columns)."""
    from scipy import ndimage

    kept = np.zeros_like(is_value)
    if not _edge(is_value).any():
        return kept
    # Morphological opening by a square, with the value all around the frame.
    around = np.pad(is_value, _BRUSH, constant_values=True).view(np.uint8)
    core = ndimage.minimum_filter(around, _BRUSH, mode="nearest")
    opened = ndimage.maximum_filter(core, _BRUSH, mode="nearest")
    labels, _ = ndimage.label(opened[_BRUSH:-_BRUSH, _BRUSH:-_BRUSH])
    boxes = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel())
    square = np.ones((3, 3), dtype=np.bool_)
    for label in np.unique(_edge(labels)):
        if label == 0 or sizes[label] < LEAST_PIXELS:
            continue
        box = tuple(slice(max(s.start - _BRUSH, 0), s.stop + _BRUSH) for s in boxes[label - 1])
        region, value = labels[box] == label, is_value[box]
        # The pixel next to the region is often the value's by rounding, so the ring whose share
        # counts starts behind it.
        near = ndimage.binary_dilation(region, square)
        ring = ndimage.binary_dilation(near, square, iterations=2) & ~near
        share = float(value[ring].mean()) if ring.any() else 0.0
        if sizes[label] * -np.log(max(share, _RAREST)) >= _SURPRISE:
            # The opening cut off the corners.
            kept[box] |= ndimage.binary_dilation(region, iterations=_BRUSH // 2, mask=value)
    return kept


def _edge(frame: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the outermost rows and columns in a row."""
    return np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
