"""White letters and scale bars that exports burn into B-scans, where they look like bright tissue.

A letter is told from tissue by its edge: tissue is blurred, so that around what is white in it
there is more that is bright, and it seldom lies in the dark alone; and by its neighbours, which
stand on the same line. Letters that touch the retina aren't told from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Of 255: the middle of a letter, its blurred edge, and what lies around it.
_WHITE, _BRIGHT, _DARK = 225, 150, 110
_WHITE_SHARE = 0.5  # of a letter's bright pixels, the least
_LEAST_PIXELS = 12
_HEIGHTS = (6, 60)  # of letters in pixels
_BESIDE = 1.5  # heights between letters of a line, the most
_THICKNESS, _LENGTH = 8, 24  # of a scale bar in pixels, the most and the least
# How far around them dots, accents and thin strokes are looked for, and how far JPEG smears.
_NEAR, _SMEARED = 6, 3


def white_marks(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where white letters and scale bars are burnt into a B-scan, (rows, columns) each."""
    bright = frame >= _BRIGHT
    labels, count = ndimage.label(bright, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    whites = np.bincount(labels[frame >= _WHITE], minlength=count + 1)
    sharp = (sizes >= _LEAST_PIXELS) & (whites >= _WHITE_SHARE * sizes)
    boxes = ndimage.find_objects(labels)
    letters: dict[int, tuple[slice, slice]] = {}
    marks: set[int] = set()
    for label in np.flatnonzero(sharp).tolist():
        if label == 0:  # all that isn't bright
            continue
        box = boxes[label - 1]
        inside = all(
            side.start > 0 and side.stop < length
            for side, length in zip(box, frame.shape, strict=True)
        )
        if not inside or not _in_the_dark(frame, labels, label, box):
            continue
        letters[label] = box
        thin, long = sorted(side.stop - side.start for side in box)
        if thin <= _THICKNESS and long >= _LENGTH and sizes[label] >= 0.8 * thin * long:
            marks.add(label)
    for box in letters.values():
        line = [other for other, its in letters.items() if _in_line(box, its)]
        if len(line) >= 3:  # the letter itself is one
            marks.update(line)
    found = np.isin(labels, [*marks])
    if not marks:
        return found
    # Other parts of letters are small.
    small = np.isin(labels, np.flatnonzero(sizes <= 4 * _HEIGHTS[1])) & bright
    found |= small & ndimage.binary_dilation(found, np.ones((3, 3)), _NEAR)
    return np.asarray(ndimage.binary_dilation(found, np.ones((3, 3)), _SMEARED))


def _in_the_dark(
    frame: NDArray[np.uint8], labels: NDArray[np.int32], label: int, box: tuple[slice, slice]
) -> bool:
    """Return whether around a bright part there is nothing bright but other such parts."""
    around = tuple(slice(max(side.start - 4, 0), side.stop + 4) for side in box)
    own, others = labels[around] == label, labels[around] > 0
    ring = ndimage.binary_dilation(own, iterations=4) & ~ndimage.binary_dilation(own, iterations=2)
    values = frame[around][ring & ~ndimage.binary_dilation(others & ~own, iterations=2)]
    return bool(values.size and np.percentile(values, 75) < _DARK)


def _in_line(one: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    """Return whether two parts may be letters of one line: alike in height, near, on one base."""
    (rows, columns), (other_rows, other_columns) = one, other
    low, high = sorted((rows.stop - rows.start, other_rows.stop - other_rows.start))
    gap = max(columns.start - other_columns.stop, other_columns.start - columns.stop)
    return bool(
        low >= max(_HEIGHTS[0], high / 2)
        and high <= _HEIGHTS[1]
        and abs(rows.stop - other_rows.stop) <= 0.35 * high
        and gap <= _BESIDE * low
    )
