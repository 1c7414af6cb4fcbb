"""A volume on the page: its en-face map, a slider through its B-scans, its regions.

Each B-scan is three small pictures laid on one another, so that a page needs no network and no
drawing of its own: the scan, the residual in colour, and the outline of the truth where it is
known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fanogan.report.en_face import REGIONS_NUMBERED, Ground, VolumeCase, draw_en_face
from fanogan.report.images import (
    OUTLINE_COLOUR,
    PAGE_SIDE,
    compressed_uri,
    data_uri,
    edge,
    residual_layer,
    scale_bar,
)
from fanogan.wording import number

VOLUMES_SHOWN = 12  # more with a slider make a page that no browser likes to open
BSCANS_SHOWN = 640  # of all volumes together, about 25 MB
RESIDUAL_SIDE = 256  # columns of a residual on the page; a finer one says no more
MARGIN = 12  # rows shown above and below what is known


def volume_panels(cases: Sequence[VolumeCase], scale: float) -> list[dict[str, Any]]:
    """What the page shows of volumes, as many as it has room for.

    Args:
        cases: Volumes in the order of the page.
        scale: Colour scale of the B-scans' residuals.

    Returns:
        A panel for each of the first volumes; at least one where there is a volume.
    """
    frames = np.cumsum([len(case.scores) for case in cases])
    room = max(1, int((frames <= BSCANS_SHOWN).sum()))
    shown = cases[: min(room, VOLUMES_SHOWN)]
    return [_panel(case, rank, scale) for rank, case in enumerate(shown, start=1)]


def _panel(case: VolumeCase, rank: int, scale: float) -> dict[str, Any]:
    ground = Ground.of(case)
    rows = known_rows(case)
    bscans = [bscan_pictures(case, frame, rows, scale) for frame in range(len(case.scores))]
    worst, picture = case.worst, draw_en_face(case, ground)
    texts = [number(score) for score in case.scores.tolist()]
    lines = np.round(ground.lines[:, :, ::-1], 1).reshape(-1, 4).tolist()
    return {
        "case": case,
        "rank": rank,
        "worst": worst,
        "bscan": bscans[worst],
        "shape": (rows.stop - rows.start, case.bscans.shape[2]),
        "map": compressed_uri(picture),
        "map_shape": picture.shape,
        "line": lines[worst],
        "bars": _bars(case.scores),
        "texts": texts,
        "to_scale": ground.pixel_mm is not None and case.spacing[0] is not None,
        "regions": list(case.regions[:REGIONS_NUMBERED]),
        "places": _places(case, rows),
        "stretch": _stretch(case),
        "map_bar": data_uri(scale_bar(case.en_face_scale))
        if math.isfinite(case.en_face_scale)
        else None,
        "data": json.dumps(
            {
                "lines": lines,
                "scores": texts,
                # The worst B-scan's pictures are on the page already.
                "bscans": [None if frame == worst else one for frame, one in enumerate(bscans)],
            },
            separators=(",", ":"),
        ),
    }


def known_rows(case: VolumeCase) -> slice:
    """The rows that hold anything known in any B-scan, and a margin: all where nothing is."""
    known = np.zeros(case.bscans.shape[1], dtype=bool)
    for residual in case.residuals:
        known |= np.isfinite(residual).any(axis=1)
    rows = np.flatnonzero(known)
    if not len(rows):
        return slice(0, len(known))
    return slice(max(0, int(rows[0]) - MARGIN), min(len(known), int(rows[-1]) + 1 + MARGIN))


def bscan_pictures(case: VolumeCase, frame: int, rows: slice, scale: float) -> dict[str, str]:
    """The pictures of a B-scan, as data URIs.

    Args:
        case: The volume.
        frame: Which of its B-scans.
        rows: The rows to show.
        scale: Colour scale of residuals.

    Returns:
        `scan`; `residual`, transparent where nothing is known; and where the truth is known
        `truth`, its outline.
    """
    scan = np.asarray(case.bscans[frame])[rows]
    residual = _shrink_known(case.residuals[frame, rows].astype(np.float32))
    pictures = {
        "scan": compressed_uri(_narrow(scan), quality=60),
        "residual": data_uri(residual_layer(residual, scale), "webp", lossless=True, method=4),
    }
    if case.masks is not None:
        mask = _narrow(case.masks[frame, rows].astype(np.float32)) > 0
        drawn = np.zeros((*mask.shape, 4), dtype=np.uint8)
        drawn[edge(mask)] = (*OUTLINE_COLOUR, 255)
        pictures["truth"] = data_uri(drawn, "webp", lossless=True, method=4)
    return pictures


def _narrow(pixels: np.ndarray, columns: int = PAGE_SIDE) -> np.ndarray:
    """Downsample to at most so many columns, and as many times fewer rows."""
    if pixels.shape[1] <= columns:
        return pixels
    size = (columns, max(1, round(len(pixels) * columns / pixels.shape[1])))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _shrink_known(residual: np.ndarray) -> np.ndarray:
    """Downsample a residual; NaN where any of what is brought together isn't known."""
    known = np.isfinite(residual)
    means = _narrow(np.where(known, residual, 0).astype(np.float32), RESIDUAL_SIDE)
    whole = _narrow(known.astype(np.float32), RESIDUAL_SIDE) > 1 - 1e-4
    return np.where(whole, means, np.nan)


def _bars(scores: np.ndarray) -> str:
    """The B-scans' scores as an SVG path: bar i around x = i, from y = 1 up to 0 at the highest."""
    known = np.nan_to_num(scores, nan=0.0)
    heights = np.maximum(known, 0) / max(float(known.max()), 1e-12)
    return "".join(
        f"M{frame - 0.4:.1f} 1V{1 - height:.3f}h.8V1z"
        for frame, height in enumerate(heights)
        if height > 0
    )


def _places(case: VolumeCase, rows: slice) -> list[tuple[float, float]]:
    """Where the peaks of the listed regions lie on their B-scans: left and top in hundredths."""
    return [
        (
            round(100 * (region.column + 0.5) / case.bscans.shape[2], 2),
            round(100 * (region.row + 0.5 - rows.start) / (rows.stop - rows.start), 2),
        )
        for region in case.regions[:REGIONS_NUMBERED]
    ]


def _stretch(case: VolumeCase) -> float | None:
    """How many times as large depth is drawn as width."""
    _, row_mm, column_mm = case.spacing
    return column_mm / row_mm if row_mm and column_mm else None
