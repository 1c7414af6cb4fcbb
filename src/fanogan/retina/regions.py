"""Candidate regions of a volume: where its en-face map exceeds what normals show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fanogan.scans import Spacing

LEAST_PIXELS = 5
"""Pixels of the smallest region on the en-face map; smaller ones arise from noise."""


@dataclass(frozen=True)
class Region:
    """A connected part of the en-face map above the threshold.

    The peak is the maximum of the map; its position in millimetres is measured from the centre of
    the scanned area. Millimetres are None where the spacing is unknown.
    """

    number: int  # from 1, the largest mean times area first
    bscan: int  # of the peak, from 0
    row: int  # of the strongest residual in the peak's column, in the recorded scan
    column: int  # of the peak
    bscans: tuple[int, int]  # first and last
    columns: tuple[int, int]
    x_mm: float | None  # along the B-scans, to the right
    y_mm: float | None  # across the B-scans, in their order
    pixels: int  # on the en-face map
    area_mm2: float | None
    mean: float  # of the en-face map
    peak: float


def find_regions(
    en_face: NDArray[np.float32], deepest: NDArray[np.intp], threshold: float, spacing: Spacing
) -> list[Region]:
    """Return the regions of an en-face map; pixels are connected at sides and corners.

    Args:
        en_face: (B-scans, columns), NaN where unknown.
        deepest: (B-scans, columns), row of the strongest residual in each column.
        threshold: Regions lie above it.
        spacing: Millimetres between B-scans, rows and columns.

    Returns:
        Regions of at least `LEAST_PIXELS` pixels, the largest sum first.
    """
    between, _, across = spacing
    centre = (np.array(en_face.shape) - 1) / 2
    regions = []
    for number, mask in enumerate(region_masks(en_face, threshold), start=1):
        places, values = np.argwhere(mask), en_face[mask]
        bscan, column = places[values.argmax()].tolist()
        first, last = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        regions.append(
            Region(
                number=number,
                bscan=bscan,
                row=int(deepest[bscan, column]),
                column=column,
                bscans=(first[0], last[0]),
                columns=(first[1], last[1]),
                x_mm=None if across is None else (column - centre[1]) * across,
                y_mm=None if between is None else (bscan - centre[0]) * between,
                pixels=len(places),
                area_mm2=None
                if between is None or across is None
                else len(places) * between * across,
                mean=float(values.mean()),
                peak=float(values.max()),
            )
        )
    return regions


def region_masks(en_face: NDArray[np.float32], threshold: float) -> list[NDArray[np.bool_]]:
    """Return where on an en-face map each of `find_regions` lies, in the same order."""
    labels, count = ndimage.label(np.nan_to_num(en_face, nan=-np.inf) > threshold, np.ones((3, 3)))
    masks = [labels == label for label in range(1, count + 1)]
    masks = [mask for mask in masks if mask.sum() >= LEAST_PIXELS]
    return sorted(masks, key=lambda mask: -float(en_face[mask].sum()))
