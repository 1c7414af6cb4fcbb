"""The en-face view: the fundus with the map over it, regions as outlines, and the ETDRS grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.report import Ground, residual_layer
from fanogan.review.opened import Opened
from fanogan.review.shapes import mask_of

RADII = (0.5, 1.5, 3.0)
"""Millimetres, of the grid of the Early Treatment Diabetic Retinopathy Study."""


@dataclass(frozen=True)
class Fundus:
    """What the en-face view shows of a volume, in pixels of its picture.

    Attributes:
        ground: The picture and where on it each B-scan lies.
        layer: (rows, columns, 4) the map in colours, transparent where there is none.
        centre: (column, row) of the device's own grid, else the middle of the scanned area.
        sides: What lies left and right: nasal and temporal where eye and fundus are known.
        outlines: Each region's outlines as points (column, row), by its id.
    """

    ground: Ground
    layer: NDArray[np.uint8]
    centre: tuple[float, float]
    sides: tuple[str, str]
    outlines: dict[int, list[list[list[float]]]]


@lru_cache(maxsize=8)
def fundus_of(opened: Opened) -> Fundus | None:
    """Return the en-face view of a case; None where it has none."""
    from skimage.measure import find_contours

    contours: Any = find_contours  # it has no types

    case = opened.volume_case
    if case is None:
        return None
    ground = Ground.of(case)
    painted = ground.bscans >= 0
    layer = np.zeros((*painted.shape, 4), np.uint8)
    if np.isfinite(case.en_face_scale):
        values = np.where(painted, case.en_face[ground.bscans, ground.columns], np.nan)
        above = np.maximum(values - case.en_face_floor, 0)
        layer = residual_layer(above, case.en_face_scale - case.en_face_floor)
    outlines = {}
    for number, plane in opened.region_planes.items():
        mask = np.pad(painted & plane[ground.bscans, ground.columns], 1)
        found = contours(mask.astype(np.float32), 0.5)
        outlines[number] = [
            np.round(points[:: max(1, len(points) // 120), ::-1] - 0.5, 1).tolist()
            for points in found
        ]
    device = case.fundus.grid_centre if case.fundus else None
    if device is not None and case.fundus is not None:
        scale = np.array(painted.shape) / case.fundus.pixels.shape[:2]
        row, column = np.array(device) * scale
    else:
        row, column = ground.lines.reshape(-1, 2).mean(axis=0)
    eye = opened.case["eye"] if case.fundus else ""
    sides = {"right": ("temporal", "nasal"), "left": ("nasal", "temporal")}.get(eye, ("", ""))
    return Fundus(ground, layer, (float(column), float(row)), sides, outlines)


def plane_of(opened: Opened, shape: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return where a shape lies that was drawn on the en-face view, (B-scans, columns).

    It holds the A-scans whose places on the view lie in it.
    """
    fundus = fundus_of(opened)
    plane = np.zeros((opened.shape[0], opened.shape[2]), np.bool_)
    if fundus is None:
        return plane
    mask = mask_of(shape, fundus.ground.bscans.shape)
    start, end = (fundus.ground.lines[:, None, side] for side in (0, 1))
    along = ((np.arange(plane.shape[1]) + 0.5) / plane.shape[1])[:, None]
    at = np.floor(start + (end - start) * along).astype(int)
    inside = ((at >= 0) & (at < mask.shape)).all(axis=-1)
    plane[inside] = mask[at[inside, 0], at[inside, 1]]
    return plane


def grid_of(opened: Opened, column: float, row: float) -> list[dict[str, Any]]:
    """Return the nine fields of the ETDRS grid around a fovea: mean map, thickness, and share.

    Each field has a `name`, the mean of the `map` and of `thickness` in µm (None where nothing is
    known), and the `covered` share of its area that was scanned.
    """
    fundus = fundus_of(opened)
    side_mm = None if fundus is None else fundus.ground.pixel_mm
    if fundus is None or side_mm is None or opened.en_face is None:
        return []
    ground = fundus.ground
    rows, columns = np.indices(ground.bscans.shape)
    x, y = (columns + 0.5 - column) * side_mm, (rows + 0.5 - row) * side_mm
    distance = np.hypot(x, y)
    # 0 right, 1 below, 2 left, 3 above, each a quarter around its direction.
    quarter = np.floor((np.arctan2(y, x) + np.pi / 4) / (np.pi / 2)).astype(int) % 4
    left, right = (side[0].upper() if side else "" for side in fundus.sides)
    letters = (right or "right ", "I", left or "left ", "S")
    inside = [("C0", distance < RADII[0])]
    for ring, (low, high) in enumerate(itertools.pairwise(RADII), start=1):
        for side in (3, 0, 1, 2):
            within = (distance >= low) & (distance < high) & (quarter == side)
            inside.append((f"{letters[side]}{ring}", within))
    areas = np.diff(np.array([0.0, *RADII]) ** 2) * np.pi / np.array([1, 4, 4])
    fields = []
    for place, (name, within) in enumerate(inside):
        here = within & (ground.bscans >= 0)
        at = ground.bscans[here], ground.columns[here]
        area = areas[0 if place == 0 else 1 if place < 5 else 2]
        fields.append(
            {
                "name": name,
                "map": _mean(opened.en_face[at]),
                "thickness": None if opened.thickness is None else _mean(opened.thickness[at]),
                "covered": round(min(1.0, here.sum() * side_mm**2 / area), 3),
            }
        )
    return fields


def _mean(values: NDArray[np.float32]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
