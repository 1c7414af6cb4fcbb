"""Margins: what a scanner, an export or a resizing painted where nothing was recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.scan import Pixels

Mask = NDArray[np.bool_]
_Box = tuple[slice, ...]

LEAST_PIXELS = 50
"""Pixels of the smallest margin: wedges of 53 pixels occur; saturated tissue reaches 27."""

_BRUSH = 9
_SURPRISE = 200.0
_RAREST = 0.01
# An 8-bit pixel from here on may be a JPEG's white, which is 253 or more in half of a margin; what
# lies around it is dark, while the saturated tissue of a disc fades. The frame's edge that a margin
# covers, as a share of its inner border, is 1 in a strip.
_WHITISH, _WHITE, _BRIGHT, _LEAST_WHITE, _LEAST_LEANING = 215, 253, 128, 0.5, 0.5
# A margin's edge is soft where it differs from the margin by less than these shares of what lies
# behind it: from white, and from all else. True black fades into tissue, so it has to be sharper.
_SOFT_WHITE, _SOFT, _FADED = 0.75, 0.14, 15.0
# Most pixels of a soft edge (a JPEG's block), those behind it to compare with, and those that
# JPEG spoils around a margin.
_EDGE, _BEHIND, _SPOILT = 8, 4, 2
# Lines of the smallest pad that repeats the picture; how much two of them may differ as a share of
# their own contrast and of what neighbours usually differ by; how alike a line is to its mirror
# image; the step from one pixel that is compared to the next. Lines of less deviation hold nothing.
_LEAST_LINES, _SAME, _ALIKE, _THINNED, _LEAST_DEVIATION = 8, 0.3, 0.5, 3, 2.0


def filled_margins(pixels: Pixels) -> Mask:
    """Find the margins at the edges of frames, in which nothing was recorded.

    They are wedges and strips of one grey value, and pads that repeat the picture.

    A margin of one value has exactly the volume's highest or lowest value, or one that fills nine
    pixels in a row along the frame's edge; it reaches that edge, is solid (covered by squares of
    9×9 pixels of that value, which may stick out of the frame), and is too large to have come
    about by chance: in an 8-bit B-scan the vitreous and the depth below the choroid hold many true
    zeros. With p the share of the value in a ring around it, a region of n pixels is kept where
    n·ln(1/p) ≥ 200 and n ≥ 50. So white wedges are found down to 50 pixels, and black ones down to
    166 in surroundings of 30 % zeros. What JPEG leaves of a white margin is nearly white; of
    others, all but a block along their edge keeps one value. A soft edge belongs to the margin.

    A pad repeats the outermost line of the picture, or mirrors the picture along a line parallel
    to the frame's edge, for 8 lines or more.

    Args:
        pixels: (frames, rows, columns), any real dtype.

    Returns:
        Mask of the same shape, true in margins. An empty frame is margin all over.
    """
    found = np.zeros(pixels.shape, dtype=np.bool_)
    low, high = pixels.min(), pixels.max()
    for frame, mask in zip(pixels, found, strict=True):
        edge = _edge(frame)
        edge = np.lib.stride_tricks.sliding_window_view(edge, min(_BRUSH, len(edge)))
        for value in {low, high, *edge[edge.min(axis=1) == edge.max(axis=1), 0]}:
            same = frame == value
            for box, region in _regions(same, same):
                softest = _SOFT_WHITE if value == high else _SOFT
                mask[box] |= _with_soft_edge(region, frame[box], value, softest)
        if pixels.dtype == np.uint8:
            for box, region in _regions(frame >= _WHITISH, frame >= _BRIGHT):
                is_new = (region & ~mask[box]).sum() >= LEAST_PIXELS
                is_white = (frame[box][region] >= _WHITE).mean() >= _LEAST_WHITE
                # A margin leans on the frame's edge; a saturated layer only ends there.
                inner = region & _widened(~region, 1)
                if is_new and is_white and _edge(region).sum() >= inner.sum() * _LEAST_LEANING:
                    mask[box] |= _widened(region, _SPOILT)
        known = ~_widened(mask, _EDGE)
        for turns in range(4):
            pad = _repeated_lines(np.rot90(frame, turns), np.rot90(known, turns))
            np.rot90(mask, turns)[:pad] = True
    return found


def _regions(is_value: Mask, is_alike: Mask) -> Iterator[tuple[_Box, Mask]]:
    """Yield the regions of one value in one frame (rows, columns) that are too large for chance.

    Args:
        is_value: Where the value is.
        is_alike: What makes it less of a surprise in the ring around a region.
    """
    from scipy import ndimage

    if not _edge(is_value).any():
        return
    # Morphological opening by a square, with the value all around the frame.
    around = np.pad(is_value, _BRUSH, constant_values=True).view(np.uint8)
    core = ndimage.minimum_filter(around, _BRUSH, mode="nearest")
    opened = ndimage.maximum_filter(core, _BRUSH, mode="nearest")
    labels, _ = ndimage.label(opened[_BRUSH:-_BRUSH, _BRUSH:-_BRUSH])
    boxes = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel())
    around_it = _BRUSH // 2 + _EDGE + _BEHIND
    for label in np.unique(_edge(labels)):
        if label == 0 or sizes[label] < LEAST_PIXELS:
            continue
        box = tuple(
            slice(max(s.start - around_it, 0), s.stop + around_it) for s in boxes[label - 1]
        )
        region, value = labels[box] == label, is_value[box]
        # The pixel next to the region is often the value's by rounding, so the ring whose share
        # counts starts behind it.
        ring = _widened(region, 3) & ~_widened(region, 1)
        share = float(is_alike[box][ring].mean()) if ring.any() else 0.0
        if sizes[label] * -np.log(max(share, _RAREST)) >= _SURPRISE:
            # The opening cut off the corners.
            yield box, ndimage.binary_dilation(region, iterations=_BRUSH // 2, mask=value)


def _with_soft_edge(region: Mask, frame: Pixels, value: float, softest: float) -> Mask:
    """Return a region with the pixels around it that are neither margin nor tissue."""
    away = np.abs(frame - np.float64(value))
    behind = _widened(region, _EDGE + _BEHIND) & ~_widened(region, _EDGE)
    level = away[behind].mean() if behind.any() else 0.0
    if level < _FADED:
        return region
    soft = region
    for _ in range(_EDGE):
        wider = _widened(soft, 1)
        if away[wider & ~soft].mean() > softest * level:
            break
        # Once it is known to be soft, it ends where tissue prevails.
        soft, softest = wider, _SOFT_WHITE
    return region if soft is region else _widened(soft, 1)


def _repeated_lines(frame: Pixels, known: Mask) -> int:
    """Return how many rows from the top on repeat the outermost recorded one, or mirror others."""
    from scipy import ndimage

    lines, known = frame[:, ::_THINNED].astype(np.float32), known[:, ::_THINNED]
    count = known.sum(axis=1, keepdims=True)
    # Fewer pixels are alike by chance.
    enough = count[:, 0] >= max(lines.shape[1] / 4, 16)
    count = np.maximum(count, 1)

    def deviation(rows: NDArray[np.float32], where: Mask) -> NDArray[np.float32]:
        return np.asarray(np.sqrt((rows**2 * where).sum(axis=1) / count[: len(rows), 0]))

    mean = (lines * known).sum(axis=1, keepdims=True) / count
    contrast = deviation(lines - mean, known)
    holding = enough & (contrast >= _LEAST_DEVIATION)
    steps = deviation(np.diff(lines, axis=0), known[:-1] & known[1:])
    usual = np.median(steps[holding[:-1]]) if holding[:-1].any() else 0.0
    is_same = holding[:-1] & (steps < _SAME * np.minimum(usual, contrast[:-1]))
    repeated = int(np.append(is_same, False).argmin())
    if repeated >= _LEAST_LINES:
        return repeated
    # Layers are alike on both sides of many lines: only the finest texture tells a mirror.
    fine = np.where(known, lines - ndimage.gaussian_filter1d(lines, 2, axis=0), 0)
    texture = deviation(fine, known)
    holding = enough & (texture >= _LEAST_DEVIATION)
    fine /= np.maximum(texture, _LEAST_DEVIATION)[:, None] * np.sqrt(count)
    # Row r of a pad mirrors row s − r, so its last row is (s − 1) // 2.
    sums = np.arange(2 * _LEAST_LINES - 1, len(lines) - 1)
    last = (sums - 1) // 2
    alike = np.zeros(len(sums), dtype=np.float32)
    for row in range(_LEAST_LINES):
        alike += np.einsum("ij,ij->i", fine[last - row], fine[sums - last + row])
    for index in np.flatnonzero(alike >= _ALIKE * _LEAST_LINES):
        pad = np.flatnonzero(holding[: last[index] + 1])
        of_pad = np.einsum("ij,ij->i", fine[pad], fine[sums[index] - pad])
        if len(pad) >= _LEAST_LINES and np.median(of_pad) >= _ALIKE:
            return int(last[index]) + 1
    return 0


def _widened(mask: Mask, pixels: int) -> Mask:
    """Return a mask with all that is within so many pixels of it, diagonally too."""
    from scipy import ndimage

    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * pixels + 1).view(np.bool_))


def _edge(frame: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the outermost rows and columns in a row."""
    return np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
