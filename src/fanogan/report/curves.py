"""A signal as curves: what was recorded, its nearest normal version, and what differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fanogan.report.figures import FIGURE_STYLE

INK, NORMAL, DIFFERENCE, SPAN = "#1b1f24", "#0a7a6f", "#b3261e", "#f6d5a8"


@dataclass(frozen=True)
class Curves:
    """A stretch of one channel of a signal.

    Attributes:
        values: (4, samples) float32: time, signal and nearest normal version in the file's units,
            and 1 within a span that differs more than normals do, else 0.
        unit: Of the time: 's', or 'sample' where the sampling rate is unknown.
        channel: What the channel is called.
        extent: Which part of the signal it is.
    """

    values: np.ndarray
    unit: str
    channel: str
    extent: str


def draw_curves(curves: Curves) -> np.ndarray:
    """Draw three curves below each other, spans shaded: (rows, columns, 3) uint8."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    time, signal, normal, within = curves.values
    style = {k: v for k, v in FIGURE_STYLE.items() if "color" not in k}
    with rc_context(style):
        drawing = Figure(figsize=(9, 4.2), dpi=100, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(drawing)
        panels = drawing.subplots(3, 1, sharex=True)
        low, high = min(signal.min(), normal.min()), max(signal.max(), normal.max())
        half = max((high - low) / 2, np.abs(signal - normal).max()) * 1.05 or 1.0
        for axes, values, colour, name in zip(
            panels,
            (signal, normal, signal - normal),
            (INK, NORMAL, DIFFERENCE),
            ("signal", "nearest normal", "difference"),
            strict=True,
        ):
            axes.plot(time, values, color=colour, linewidth=0.9)
            axes.set_ylabel(name)
            # The same scale in all three, so that a small difference looks small.
            middle = (low + high) / 2 if name != "difference" else 0.0
            axes.set_ylim(middle - half, middle + half)
            # A stretch of one colour behind the curve; along a whole panel's height.
            axes.fill_between(
                time, 0, 1, where=within > 0, transform=axes.get_xaxis_transform(), color=SPAN
            )
        panels[-1].set_xlim(time[0], time[-1])
        panels[-1].set_xlabel(f"{curves.unit} · {curves.channel}, {curves.extent}")
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()
