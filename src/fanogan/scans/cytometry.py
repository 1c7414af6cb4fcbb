"""Flow cytometry (FCS), by flowio: each channel's events against side scatter, as a plot."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.checks import BadScan, unusable
from fanogan.scans.scan import Scan

BINS = 64
"""Of a plot, along each side."""

_COFACTOR = 150.0
"""Of the arcsinh that spreads fluorescence: near 0 it is linear, above logarithmic."""

_BELOW = 0.1
"""Share of a fluorescence axis that lies below 0, where compensation puts events too."""

_FULL = BINS**2
"""Times the density of evenly spread events at which a plot is white: all in one bin."""

_SCATTER = re.compile(r"(FSC|SSC|FS|SS)\b|forward|side", re.IGNORECASE)
_SIDE = re.compile(r"(SSC|SS)\b|side", re.IGNORECASE)


def read_fcs(path: Path) -> Scan:
    """Read a tube as a stack of plots: each channel (columns) against side scatter (rows).

    A plot is the density of events in 64×64 bins, logarithmic, and depends on their number only by
    its noise. Axes are the same for all tubes of an instrument: scatter is linear over the range
    that the file declares, fluorescence spread by an arcsinh. Height and width are left out where
    there is the area of the same pulse, and so is time.

    Returns:
        (channels, 64, 64) uint8, side scatter rising upwards.

    Raises:
        BadScan: Fewer than two channels, no events, or numbers that aren't finite.
    """
    import flowio

    label = str(path)
    data = flowio.FlowData(path)
    events = data.as_array()
    names = [str(name) for name in data.pnn_labels]
    areas = {name[:-2] for name in names if name.endswith("-A")}
    kept = [
        number
        for number, name in enumerate(names)
        if number != data.time_index and not (name[-2:] in ("-H", "-W") and name[:-2] in areas)
    ]
    if len(kept) < 2 or not len(events):
        raise unusable(
            f"{label} holds {len(events):,} events of {len(kept)} channels, which make no plot"
        )
    if not np.isfinite(events[:, kept]).all():
        raise unusable(f"{label} holds events that are NaN or infinite", "export it again")
    shares = {
        number: _share(names[number], events[:, number], data.channels[number + 1]["pnr"])
        for number in kept
    }
    side = next((number for number in kept if _SIDE.match(names[number])), kept[0])
    plots = [_plot(shares[side], shares[other]) for other in kept if other != side]
    return Scan(np.stack(plots), is_volume=len(plots) > 1)


def _share(name: str, values: NDArray[np.float64], full: float) -> NDArray[np.float64]:
    """Return where on its axis each event lies, in [0, 1]; what is beyond lies at an end."""
    if not 0 < full < np.inf:
        raise BadScan(f"channel {name} declares a range of {full:g}, and none can be drawn by it")
    if _SCATTER.match(name):
        return np.clip(values / full, 0, 1)
    spread = np.arcsinh(values / _COFACTOR) / np.arcsinh(full / _COFACTOR)
    shares: NDArray[np.float64] = np.clip((spread + _BELOW) / (1 + _BELOW), 0, 1)
    return shares


def _plot(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.uint8]:
    counts, _, _ = np.histogram2d(rows, columns, BINS, [(0, 1), (0, 1)])
    density = counts * (BINS**2 / len(rows))
    grey: NDArray[np.float64] = 255 * np.log1p(density) / np.log1p(_FULL)
    return np.ascontiguousarray(np.round(grey).astype(np.uint8)[::-1])
