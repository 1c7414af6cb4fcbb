"""What is no B-scan of the retina, though a search for its boundaries ends somewhere in it too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.retina.layers import TYPICAL_SPACING, Boundaries
from fanogan.scans import BadScan, Note, PerhapsSideBySide, Scan

# B-scans of a volume that are looked at.
_MOST_FRAMES = 9
# Share of the changes of grey along columns in those along columns and rows: 0.57 or more in 1,175
# published B-scans, up to 0.26 in these turned by 90°, and 0.45 to 0.57 in pictures of the fundus.
_SMOOTHED, _VERTICAL, _LAYERED = 8.0, 0.4, 0.6
# Brightness above the retina and, less that, below it, in mm from the boundaries, as shares of the
# picture's range. Above, it is 0.15 or more in pictures of the fundus, and 0.09 in the B-scan with
# the least layers. The difference is 0.016 or more in B-scans; upside down it is mostly negative.
_FROM, _TO, _DARK, _UPSIDE_DOWN = 0.03, 0.13, 0.15, -0.05
# Another retina: beyond the dark above or below the one that was found, so many mm from it, it is
# brighter again by this share of the picture's range, in this share of the columns, of which every
# eighth is looked at: 0.96 or more in two B-scans one above the other, 0.78 or less in single ones.
_BEYOND, _MEAN_OVER, _AS_BRIGHT, _ACROSS, _EVERY = 0.1, 0.06, 0.4, 0.9, 8
# A seam from top to bottom in this part of the columns, where grey changes so many times as much as
# it usually does from column to column: 6 times or less in 1,175 published B-scans, but 17 times
# elsewhere in some of them; more in about two of three pictures of two B-scans side by side.
_MIDDLE, _SEAM = (0.38, 0.62), 8.0


def refuse_all_but_bscans(
    scan: Scan, margins: NDArray[np.bool_], found: Boundaries
) -> tuple[Note, ...]:
    """Refuse pictures of the fundus, en-face maps, and B-scans that are turned or two in one.

    Args:
        scan: A grey volume.
        margins: As of `filled_margins`.
        found: The boundaries that were found in it.

    Returns:
        A note where a scan may hold two B-scans side by side, which can't be told for certain.

    Raises:
        BadScan: What it is, and what to do.
    """
    if min(scan.pixels.shape[1:]) < 4 * _SMOOTHED:
        return ()  # too small to tell
    _, row, column = (mm or usual for mm, usual in zip(scan.spacing, TYPICAL_SPACING, strict=True))
    count = len(scan.pixels)
    frames = np.unique(np.linspace(0, count - 1, min(count, _MOST_FRAMES)).round().astype(int))
    changes = np.zeros(2)
    sides, others, seams = [], [], []
    for frame in frames:
        margin = margins[frame]
        if margin.all():
            continue
        pixels = scan.pixels[frame].astype(np.float32)
        filled = np.where(margin, pixels[~margin].mean(), pixels)
        near = ndimage.maximum_filter(margin.view(np.uint8), round(3 * _SMOOTHED)) > 0
        down = ndimage.gaussian_filter(filled, _SMOOTHED, order=(1, 0))
        across = ndimage.gaussian_filter(filled, _SMOOTHED, order=(0, 1))
        # As if columns were no wider than usual; those of a denser scan are as noisy as others.
        across *= min(row / column * TYPICAL_SPACING[2] / TYPICAL_SPACING[1], 1)
        changes += [(down[~near] ** 2).sum(), (across[~near] ** 2).sum()]
        steps = np.abs(np.diff(ndimage.gaussian_filter1d(filled, 3, axis=0), axis=1)).mean(axis=0)
        first, last = (round(len(steps) * share) for share in _MIDDLE)
        seams.append(steps[first:last].max(initial=0) > _SEAM * np.median(steps) > 0)
        low, high = np.percentile(pixels[~margin], (5, 99))
        rows = np.arange(len(pixels))[:, None] * row
        above, below = found.inner[frame] * row - rows, rows - found.outer[frame] * row
        bands = [(side > _FROM) & (side < _TO) & ~margin for side in (above, below)]
        if high > low and all(band.any() for band in bands):
            sides.append([(pixels[band].mean() - low) / (high - low) for band in bands])
            others.append(_columns_with_another(pixels, margin, above, below, row))
    layered = changes[0] / changes.sum() if changes.any() else 1.0
    bright_above, bright_below = np.mean(sides, axis=0) if sides else (0.0, 1.0)
    what = None
    if layered < _VERTICAL:
        what = "holds layers that run from top to bottom: turn it by 90°"
    elif layered < _LAYERED and bright_above > _DARK:
        what = "shows no layers, as a picture of the fundus or an angiogram does: give B-scans"
    elif bright_below - bright_above < _UPSIDE_DOWN:
        what = "is upside down, brighter above the retina than below: turn it over"
    elif others and max(np.mean(others, axis=0)) > _ACROSS:
        what = "holds two B-scans one above the other: cut it into one file each"
    if what is not None:
        raise BadScan(f"{scan.name} {what}, or leave it out with --skip-bad")
    return (PerhapsSideBySide(),) if seams and all(seams) else ()


def _columns_with_another(
    pixels: NDArray[np.float32],
    margin: NDArray[np.bool_],
    above: NDArray[np.float64],
    below: NDArray[np.float64],
    row: float,
) -> tuple[float, float]:
    """Return the share of columns with another retina above and below the one that was found."""
    size = max(1, round(_MEAN_OVER / row)), 9
    smooth = ndimage.uniform_filter(np.where(margin, pixels[~margin].min(), pixels), size)
    known = ndimage.maximum_filter(margin.view(np.uint8), max(size)) == 0
    low, high = np.percentile(smooth[~margin], (10, 99))
    columns = np.flatnonzero(np.isfinite(above[0]))[::_EVERY]
    shares = []
    for side, order in ((above, -1), (below, 1)):
        found = 0
        for column in columns:
            away = smooth[known[:, column] & (side[:, column] > _BEYOND), column][::order]
            rise = away - np.minimum.accumulate(away) if away.size else np.zeros(1)
            found += rise.max() > _AS_BRIGHT * (high - low)
        shares.append(found / len(columns))
    return shares[0], shares[1]
