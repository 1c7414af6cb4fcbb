"""A volume on the page: its en-face map, a slider through its B-scans, its regions.

Each B-scan is three small pictures laid on one another, so that a page needs no network and draws
nothing itself: the scan, the residual in colour, and the outline of the ground truth where known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fanogan.report.en_face import REGIONS_NUMBERED, Ground, VolumeCase, en_face_picture
from fanogan.report.images import (
    OUTLINE_COLOUR,
    PAGE_SIDE,
    compressed_uri,
    data_uri,
    edge,
    residual_layer,
    scale_bar,
)
from fanogan.text import number

VOLUMES_SHOWN = 12  # more with a slider make a page that browsers open slowly
BSCANS_SHOWN = 640  # of all volumes together, about 25 MB
RESIDUAL_SIDE = 256  # columns of a residual on the page; a finer one says no more
MARGIN = 12  # rows shown above and below what is known


def volume_panels(cases: Sequence[VolumeCase], scale: float) -> list[dict[str, Any]]:
    """Return a panel for each of the first volumes, as many as the page has room for.

    `scale` is the colour scale of the B-scans' residuals.
    """
    frames = np.cumsum([len(case.scores) for case in cases])
    room = max(1, int((frames <= BSCANS_SHOWN).sum()))
    shown = cases[: min(room, VOLUMES_SHOWN)]
    return [_panel(case, rank, scale) for rank, case in enumerate(shown, start=1)]


def known_rows(case: VolumeCase) -> slice:
    """Return the rows where any B-scan holds something known, with a margin; else all rows."""
    known = np.zeros(case.bscans.shape[1], dtype=bool)
    for residual in case.residuals:
        known |= np.isfinite(residual).any(axis=1)
    rows = np.flatnonzero(known)
    if not len(rows):
        return slice(0, len(known))
    return slice(max(0, int(rows[0]) - MARGIN), min(len(known), int(rows[-1]) + 1 + MARGIN))


def _panel(case: VolumeCase, rank: int, scale: float) -> dict[str, Any]:
    ground = Ground.of(case)
    rows, columns = known_rows(case), case.bscans.shape[2]
    height = rows.stop - rows.start
    bscans = [_bscan_pictures(case, frame, rows, scale) for frame in range(len(case.scores))]
    worst, picture = case.worst, en_face_picture(case, ground)
    texts = [number(score) for score in case.scores.tolist()]
    lines = np.round(ground.lines[:, :, ::-1], 1).reshape(-1, 4).tolist()
    regions = list(case.regions[:REGIONS_NUMBERED])
    between, row_mm, column_mm = case.spacing
    has_scale = math.isfinite(case.en_face_scale)
    # The outer bars reach beyond the strip by half their width, for which there is little room.
    half = min(0.4, 0.01 * max(len(bscans) - 1, 1))
    data = {
        "lines": lines,
        "scores": texts,
        # The worst B-scan's pictures are on the page already.
        "bscans": [None if frame == worst else each for frame, each in enumerate(bscans)],
    }
    return {
        "case": case,
        "rank": rank,
        "worst": worst,
        "bscan": bscans[worst],
        "shape": (height, columns),
        "map": compressed_uri(picture),
        "map_shape": picture.shape,
        "shape_map": _shape_map(case, ground),
        "line": lines[worst],
        "bars": _bars(case.scores, half),
        "half": half,
        "texts": texts,
        "to_scale": ground.pixel_mm is not None and between is not None,
        "regions": regions,
        # Left and top of their peaks on the B-scan, in per cent.
        "places": [
            (
                round(100 * (region.column + 0.5) / columns, 2),
                round(100 * (region.row + 0.5 - rows.start) / height, 2),
            )
            for region in regions
        ],
        "stretch": column_mm / row_mm if row_mm and column_mm else None,
        "map_bar": data_uri(scale_bar(case.en_face_scale)) if has_scale else None,
        "data": json.dumps(data, separators=(",", ":")),
    }


def _shape_map(case: VolumeCase, ground: Ground) -> dict[str, str] | None:
    if case.of_shape is None:
        return None
    bar = data_uri(scale_bar(case.of_shape.en_face_scale))
    return {"map": compressed_uri(en_face_picture(case.of_shape, ground)), "bar": bar}


def _bscan_pictures(case: VolumeCase, frame: int, rows: slice, scale: float) -> dict[str, str]:
    """Encode rows of a B-scan as `scan`, `residual` and, where it is known, `truth` outlined."""
    residual = case.residuals[frame, rows].astype(np.float32)
    known = np.isfinite(residual)
    # Downsampled, a pixel is known where all that it covers is.
    means = _narrow(np.where(known, residual, 0).astype(np.float32), RESIDUAL_SIDE)
    whole = _narrow(known.astype(np.float32), RESIDUAL_SIDE) > 1 - 1e-4
    coloured = residual_layer(np.where(whole, means, np.nan), scale)
    pictures = {
        "scan": compressed_uri(_narrow(np.asarray(case.bscans[frame])[rows]), quality=60),
        "residual": data_uri(coloured, "webp", lossless=True, method=4),
    }
    if case.masks is not None:
        mask = _narrow(case.masks[frame, rows].astype(np.float32)) > 0
        drawn = np.zeros((*mask.shape, 4), dtype=np.uint8)
        drawn[edge(mask)] = (*OUTLINE_COLOUR, 255)
        pictures["truth"] = data_uri(drawn, "webp", lossless=True, method=4)
    return pictures


def _narrow(pixels: np.ndarray, columns: int = PAGE_SIDE) -> np.ndarray:
    """Downsample to at most so many columns, and the rows by the same factor."""
    if pixels.shape[1] <= columns:
        return pixels
    size = (columns, max(1, round(len(pixels) * columns / pixels.shape[1])))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _bars(scores: np.ndarray, half: float) -> str:
    """Draw scores as an SVG path: bar i from x = i − half to i + half, of y = 0 at the highest."""
    known = np.nan_to_num(scores, nan=0.0)
    heights = np.maximum(known, 0) / max(float(known.max()), 1e-12)
    return "".join(
        f"M{frame - half:.3g} 1V{1 - height:.3f}h{2 * half:.3g}V1z"
        for frame, height in enumerate(heights)
        if height > 0
    )
