"""What the pages of a case show, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fanogan.review.access import User
from fanogan.review.database import Database
from fanogan.review.fundus import RADII, fundus_of, grid_of, plane_of
from fanogan.review.opened import Opened, opened
from fanogan.review.standing import Standing, by_reader, final


def state_of(database: Database, case: Mapping[str, Any], user: User) -> dict[str, Any]:
    """Return what stands by a user, and by others where they may see it."""
    events = database.decisions(case["id"], None if user.sees_all else user.name)
    each = by_reader(events)
    for standing in each.values():
        standing.drawn = {key: _with_outlines(case, one) for key, one in standing.drawn.items()}
    mine = each.pop(user.name, Standing())
    others = [{"who": who, **vars(standing)} for who, standing in each.items()]
    can_undo = any(event["who"] == user.name for event in events)
    return {"mine": vars(mine), "others": others, "can_undo": can_undo}


def _with_outlines(case: Mapping[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    """Return a shape of the en-face map with its outlines on B-scans, and the widest of these."""
    if shape["frame"] is not None:
        return shape
    here = opened(case)
    plane = plane_of(here, shape)
    widest = int(plane.sum(axis=1).argmax())
    return {**shape, "bscan": widest, "outlines": here.outlines(plane)}


def data_of(here: Opened, labels: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script works with."""
    case, (frames, rows, columns) = here.case, here.shape
    scores = [case["frames"].get(frame) for frame in range(frames)]
    known = [score if score is not None else -math.inf for score in scores]
    start = int(np.argmax(known)) if frames > 1 else 0
    regions = [{**each, "outlines": here.region_outlines(each["id"])} for each in case["regions"]]
    if regions and frames > 1 and not case["frames"]:  # of a volume in three dimensions
        start = regions[0]["bscan"]
    window = None
    if here.scan is not None:
        low, high = here.grey_range
        pixels = here.scan.pixels
        least, most = (0.0, 255.0)
        if pixels.dtype != np.uint8:
            least, most = float(pixels.min()), float(pixels.max())
        window = {"low": low, "high": high, "least": least, "most": most}
    has_map = not here.is_signal and "scale" in here.about and here.residual(start) is not None
    return {
        "id": case["id"],
        "score": case["score"],
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "spacing": here.spacing,
        "scores": scores if case["frames"] else [],
        "start": start,
        "window": window,
        "map": has_map,
        "normal": not here.is_signal and here.normal(start, *here.grey_range) is not None,
        "regions": regions,
        "labels": list(labels),
        "fundus": fundus_data(here),
        "radii": RADII,
    }


def fundus_data(here: Opened) -> dict[str, Any] | None:
    """Return where things lie on the en-face view; None where there is none."""
    if (fundus := fundus_of(here)) is None:
        return None
    rows, columns = fundus.ground.picture.shape
    return {
        "rows": rows,
        "columns": columns,
        "pixel_mm": fundus.ground.pixel_mm,
        "lines": np.round(fundus.ground.lines[:, :, ::-1], 1).tolist(),
        "centre": fundus.centre,
        "sides": fundus.sides,
        "outlines": fundus.outlines,
    }


def print_data(
    here: Opened, events: Sequence[Mapping[str, Any]], user: User, labels: Sequence[str]
) -> dict[str, Any]:
    """Return what the printed page shows: what stands by a user, or in the end for who sees all."""
    each = by_reader(events)
    standing = final(events) if user.sees_all else each.get(user.name, Standing())
    mine = {user.name: each[user.name]} if user.name in each else {}
    data = data_of(here, labels)
    shapes: dict[int, list[dict[str, Any]]] = {}
    numbers = {str(region["id"]): region for region in data["regions"]}
    for key in standing.accepted:
        if key in standing.drawn and standing.drawn[key]["frame"] is not None:
            shape = standing.drawn[key]
            shapes.setdefault(shape["frame"], []).append({"key": key, **shape})
            continue
        if key in standing.drawn:
            region = {"number": key, **_with_outlines(here.case, standing.drawn[key])}
        elif key in numbers:
            region = numbers[key]
        else:
            continue
        frame = region.get("bscan", 0)
        for points in region["outlines"].get(frame, ()):
            drawn = {"key": region["number"], "shape": "polygon", "points": points}
            shapes.setdefault(frame, []).append(drawn)
    fundus = fundus_of(here)
    return {
        "case": here.case,
        "here": here,
        "data": data,
        "standing": standing,
        "numbers": numbers,
        "shapes": dict(sorted(shapes.items())) or {data["start"]: []},
        "readers": each if user.sees_all else mine,
        "grid": grid_of(here, *(standing.fovea or fundus.centre)) if fundus else [],
    }
