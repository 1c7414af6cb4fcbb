"""Candidate regions of a volume: where its en-face map lies above what normals show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.scans import Spacing

LEAST_PIXELS = 5
"""Pixels of the smallest region on the en-face map; fewer come about by noise."""


@dataclass(frozen=True)
class Region:
    """A connected part of the en-face map above the threshold.

    Positions in millimetres are measured from the centre of the scanned area: x along the
    B-scans, to the right, y across them, in their order. None where a spacing isn't known.

    Attributes:
        number: From 1, the largest mean times area first.
        bscan: B-scan of the peak, from 0 as in the names of B-scans.
        row: Row of the strongest residual in the peak's column, in the scan's own rows.
        column: Column of the peak.
        bscans: First and last B-scan.
        columns: First and last column.
        x_mm: Position of the peak.
        y_mm: Likewise.
        pixels: Its pixels on the en-face map.
        area_mm2: Its area.
        mean: Mean of the en-face map over it.
        peak: Greatest value of the en-face map in it.
    """

    number: int
    bscan: int
    row: int
    column: int
    bscans: tuple[int, int]
    columns: tuple[int, int]
    x_mm: float | None
    y_mm: float | None
    pixels: int
    area_mm2: float | None
    mean: float
    peak: float


def find_regions(
    en_face: NDArray[np.float32],
    deepest: NDArray[np.intp],
    threshold: float,
    spacing: Spacing,
) -> list[Region]:
    """Finds the regions of an en-face map, joined at sides and corners.

    Args:
        en_face: (B-scans, columns), NaN where nothing is known.
        deepest: (B-scans, columns) row of the strongest residual in each column.
        threshold: What a region lies above.
        spacing: Millimetres between B-scans, rows and columns.

    Returns:
        Regions of at least `LEAST_PIXELS` pixels, those of the largest sum first.
    """
    labels, count = ndimage.label(np.nan_to_num(en_face, nan=-np.inf) > threshold, np.ones((3, 3)))
    found = []
    for label in range(1, count + 1):
        places = np.argwhere(labels == label)
        if len(places) >= LEAST_PIXELS:
            found.append((places, en_face[labels == label]))
    found.sort(key=lambda one: -float(one[1].sum()))
    between, _, across = spacing
    middle = (np.array(en_face.shape) - 1) / 2
    regions = []
    for number, (places, values) in enumerate(found, start=1):
        bscan, column = (int(place) for place in places[values.argmax()])
        first, last = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        regions.append(
            Region(
                number=number,
                bscan=bscan,
                row=int(deepest[bscan, column]),
                column=column,
                bscans=(first[0], last[0]),
                columns=(first[1], last[1]),
                x_mm=None if across is None else (column - middle[1]) * across,
                y_mm=None if between is None else (bscan - middle[0]) * between,
                pixels=len(places),
                area_mm2=None
                if between is None or across is None
                else len(places) * between * across,
                mean=float(values.mean()),
                peak=float(values.max()),
            )
        )
    return regions
