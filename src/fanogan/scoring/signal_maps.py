"""What is made of a signal's residual: a smoothed line, spans that differ from normals, curves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from fanogan.calibration import Calibration
from fanogan.data import Preprocessing
from fanogan.report import Curves
from fanogan.retina import Region, find_regions
from fanogan.scans import UNKNOWN_SPACING, Scan, Signal
from fanogan.scoring.result import Result

SPAN_COLUMNS = (
    *("signal", "number", "start_s", "end_s", "first_sample", "last_sample", "peak_s"),
    *("peak_sample", "mean", "peak"),
)
DRAWN = 1024
"""Samples of the stretch that is drawn, around the strongest difference."""

SMOOTHED = 16
"""The residual is averaged over a window's length divided by this: it is 0 where curves cross."""


def of_signal(preprocessing: Preprocessing, scan: Scan, residual: np.ndarray) -> dict[str, Any]:
    """Return what a result holds of a signal alone; of an image nothing."""
    view, window = preprocessing.signal, preprocessing.window
    if view is None or not isinstance(scan, Signal):
        return {}
    over = max(1, (window[1] if window else residual.shape[1]) // SMOOTHED)
    line = uniform_filter1d(residual[0], over, mode="nearest")
    return {"signal": dataclasses.replace(view, rate=scan.rate or view.rate), "smoothed": line}


def spans_of(result: Result, calibration: Calibration) -> list[Region]:
    """Return the spans whose smoothed residual is above the held-out normals', largest first."""
    line = result.smoothed
    if line is None or calibration.en_face is None:
        return []
    deepest = np.zeros((1, len(line)), np.intp)
    return find_regions(line[None], deepest, calibration.en_face[1], UNKNOWN_SPACING)


def span_row(result: Result, span: Region) -> dict[str, Any]:
    """Return a span as a line of ``regions.csv``; seconds are empty where no rate is known."""
    assert result.signal is not None
    rate, (first, last) = result.signal.rate, span.columns

    def seconds(sample: int) -> str:
        return f"{sample / rate:.6g}" if rate else ""

    return {
        "signal": result.name,
        "number": span.number,
        "start_s": seconds(first),
        "end_s": seconds(last + 1),
        "first_sample": first,
        "last_sample": last,
        "peak_s": seconds(span.column),
        "peak_sample": span.column,
        "mean": repr(span.mean),
        "peak": repr(span.peak),
    }


def curves_of(result: Result, calibration: Calibration) -> Curves:
    """Return what is drawn of a signal: where it differs most, the channel that differs most."""
    signal, line = result.signal, result.smoothed
    assert signal is not None and line is not None
    values, normal = in_units(result)
    count = len(line)
    start = int(np.clip(int(line.argmax()) - DRAWN // 2, 0, max(0, count - DRAWN)))
    shown = slice(start, min(count, start + DRAWN))
    ranges = np.array(signal.highs) - np.array(signal.lows)
    channel = int((np.abs(values[shown] - normal[shown]) / ranges).mean(0).argmax())
    within = np.zeros(count, np.float32)
    for span in spans_of(result, calibration):
        within[span.columns[0] : span.columns[1] + 1] = 1
    rate = signal.rate or 1.0
    time = np.arange(count) / rate
    unit = "s" if signal.rate else "samples"
    extent = f"all {count / rate:,.6g} {unit}"
    if count > DRAWN:
        extent = f"{DRAWN / rate:,.4g} of {count / rate:,.6g} {unit}, where it differs most"
    drawn = np.stack([time, values[:, channel], normal[:, channel], within])
    return Curves(drawn[:, shown].astype(np.float32), unit, signal.called[channel], extent)


def in_units(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return signal and nearest normal version, (samples, channels) each, in the file's units."""
    signal, picture, normal = result.signal, result.picture, result.reconstruction
    assert signal is not None and picture is not None and normal is not None
    count = picture.shape[1]
    return signal.in_units(picture.reshape(count, -1)), signal.in_units(normal.reshape(count, -1))
