"""Grey values: the range that training normals set, and what other bit depths are in its unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from fanogan.scans import GreyStoredAsColour, Note, Scan

UNLIKE_RANGE = 8
"""Times by which white may be above the largest value without a doubt; it is 16 with 12 bits."""

_UNSIGNED = ("uint8", "uint16")


@dataclasses.dataclass(frozen=True)
class GreyRangeDoubtful(Note):
    """The largest value of a scan of 16 bits, and the value that was taken for white."""

    highest: int
    white: int


def grey_range(scans: Sequence[Scan], most: int = 20_000_000) -> tuple[float, float]:
    """Return the grey values that become −1 and +1; equal where scans hold one value alone."""
    if scans[0].pixels.dtype == np.uint8:
        low, high = min(s.pixels.min() for s in scans), max(s.pixels.max() for s in scans)
        return (0.0, 255.0) if high > low else (float(low), float(high))
    total = sum(scan.pixels.size for scan in scans)
    step = -(-total // most)
    values = np.concatenate([scan.pixels.reshape(-1)[::step] for scan in scans])
    low, high = np.percentile(values.astype(np.float64), [0.1, 99.9])
    if low == high:  # a few bright pixels on a flat ground
        low, high = float(values.min()), float(values.max())
    return float(low), float(high)


def factor_of(scan: Scan, depth: str, high: float) -> float:
    """Return what a scan's grey values are multiplied by to be in a model's unit.

    The full ranges of 8 and 16 bits correspond, unless 16 bits hold what 8 could: programs
    store 0 to 255 in wider integers. Other depths hold values in one unit.
    """
    given = str(scan.pixels.dtype)
    if {given, depth} != {"uint8", "uint16"}:
        return 1.0
    highest = high if depth == "uint16" else _highest(scan)
    if highest <= 255:
        return 1.0
    return 65535 / 255 if given == "uint8" else 255 / 65535


def grey_doubts(scan: Scan, depth: str, high: float) -> Iterator[GreyRangeDoubtful]:
    """Yield in what way a scan's grey range may not be what it is taken for."""
    if str(scan.pixels.dtype) != "uint16" or depth not in _UNSIGNED:
        return
    highest, white = _highest(scan), round(high / factor_of(scan, depth, high))
    is_guess = depth == "uint8" and white == 255
    if is_guess or highest * UNLIKE_RANGE < white:
        yield GreyRangeDoubtful(highest, white)


def _highest(scan: Scan) -> int:
    return int(scan.pixels.max()) if scan.highest is None else scan.highest


def was_colour(scan: Scan) -> bool:
    """Whether a grey scan was stored with equal colour channels."""
    return GreyStoredAsColour() in scan.notes
