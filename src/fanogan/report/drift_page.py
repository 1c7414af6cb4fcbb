"""The page on drift: what a model is shown by day, beside the normals it was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import (
    LEAST,
    DriftRecord,
    Period,
    Shift,
    Tally,
    resolution,
)
from fanogan.report.figures import (
    ANOMALOUS,
    FIGURE_STYLE,
    INK,
    NORMAL,
    figure_of,
    new_figure,
)
from fanogan.report.page import page_from
from fanogan.storage import write_whole
from fanogan.text import counted, percent

TICKS = 8
UNITS = {"brightness": "of the grey range", "contrast": "of the grey range"}


def days_of(period: Period) -> str:
    """Return the days of a period as text."""
    return period.first if period.first == period.last else f"{period.first} to {period.last}"


def distance_text(shift: Shift) -> str:
    """Return a distance and its interval as text."""
    return f"{shift.distance:.2f} ({shift.low:.2f} to {shift.high:.2f})"


def drift_sentences(
    periods: Sequence[Period], against: Tally, alpha: float, beside: str
) -> list[str]:
    """Say in sentences whether there is a shift, the last period first.

    Args:
        periods: of a record.
        against: what they are held against.
        alpha: the share of periods that may show a shift by chance.
        beside: what ``against`` are called, in the plural.
    """
    told = [period for period in periods if period.shifts]
    sentences = []
    if told:
        last, before = told[-1], sum(bool(period.shifted) for period in told[:-1])
        names = ", ".join(f"{name} {distance_text(last.shifts[name])}" for name in last.shifted)
        where = f"{days_of(last)}, {counted(last.tally.images, 'image')}"
        sentences.append(
            f"Shifted ({where}): {names}." if names else f"No shift is shown ({where})."
        )
        if before:
            sentences.append(f"Of {counted(len(told) - 1, 'period')} before, {before:,} show one.")
        least = resolution(last.tally.effective, against.effective, alpha)
        many = f"{against.effective:,.0f} {beside} of independent subjects"
        sentences.append(
            f"With so many images and {many}, distances from {least:.2f} on are told from chance; "
            f"{percent(alpha)} of periods show one by chance at most."
            if least < 1
            else f"With {many} no shift could be shown: calibrate with more."
        )
    if periods and not periods[-1].shifts:
        sentences.append(f"{days_of(periods[-1])}: {_too_few(periods[-1])}.")
    return sentences or ["Nothing is recorded yet."]


def write_drift_page(
    path: Path,
    record: DriftRecord,
    periods: Sequence[Period],
    against: Tally,
    alpha: float,
    beside: str,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        record: of what a model was shown.
        periods: of the record.
        against: what they are held against.
        alpha: the share of periods that may show a shift by chance.
        beside: what ``against`` are called.
    """
    everything = [against, *record.days.values()]
    known = {
        name: edges
        for name, edges in record.reference.edges.items()
        if not (edges[0] == 0 and all(of.cells[name][1] == of.images for of in everything))
    }
    told = [period for period in periods if period.shifts]
    figures = []
    for name, edges in known.items() if told else ():
        shares = f"{name}: shares of images up to each value, of the last period and of {beside}."
        figures += [
            _by_period(name, told, f"{name}: distance and interval by period."),
            _shares(name, edges, told[-1], against, beside, shares),
        ]
    page = page_from(
        "drift.html",
        title=f"{counted(sum(each.images for each in record.days.values()), 'image')} in use "
        f"beside {against.images:,} {beside}",
        lead=drift_sentences(periods, against, alpha, beside),
        shifted=bool(told and told[-1].shifted),
        against=beside,
        measures=list(known),
        rows=[_row(period, known) for period in reversed(periods)],
        figures=figures,
    )
    write_whole(path, page)


def _row(period: Period, known: Any) -> dict[str, Any]:
    cells = [
        {
            "text": distance_text(shift),
            "shifted": shift.shifted,
            "psi": f"PSI {shift.psi:.2f}, {shift.psi_by_chance:.2f} by chance",
        }
        for name, shift in period.shifts.items()
        if name in known
    ]
    images = f"{period.tally.images:,}"
    return {
        "days": days_of(period),
        "images": images,
        "cells": cells,
        "too_few": _too_few(period),
    }


def _too_few(period: Period) -> str:
    return (
        f"too few to tell: images as good as {period.tally.effective:.3g} independent ones, and "
        f"{LEAST} are needed; those of the next days are added"
    )


def _by_period(name: str, told: Sequence[Period], caption: str) -> dict[str, str]:
    from matplotlib import rc_context

    shifts = [period.shifts[name] for period in told]
    at = np.arange(len(shifts))
    with rc_context(FIGURE_STYLE):
        drawing, axes = new_figure()
        for shifted, colour, label in (
            (False, NORMAL, "no shift shown"),
            (True, ANOMALOUS, "shift"),
        ):
            some = [place for place in at if shifts[place].shifted == shifted]
            if some:
                distance = np.array([shifts[place].distance for place in some])
                ends = np.array([(shifts[place].low, shifts[place].high) for place in some]).T
                spread = np.abs(ends - distance)
                style: dict[str, Any] = {"fmt": "D" if shifted else "o", "color": colour}
                axes.errorbar(some, distance, spread, markersize=5, label=label, **style)
        every = max(1, -(-len(told) // TICKS))
        axes.set_xticks(at[::every], [period.last[5:] for period in told[::every]])
        axes.set(xlim=(-0.7, len(told) - 0.3), ylim=(-0.03, 1.03))
        axes.set(xlabel="last day of the period", ylabel=f"distance of the {name}")
        axes.legend(loc="upper left")
    return figure_of(f"days-{name.replace(' ', '-')}", caption, drawing)


def _shares(
    name: str, edges: Sequence[float], period: Period, against: Tally, beside: str, caption: str
) -> dict[str, str]:
    from matplotlib import rc_context

    with rc_context(FIGURE_STYLE):
        drawing, axes = new_figure()
        room = 0.06 * (edges[-1] - edges[0]) or 0.06 * abs(edges[0]) or 1.0
        where = np.array([edges[0] - room, *edges, edges[-1] + room])
        for label, tally, colour in (
            (beside, against, NORMAL),
            (days_of(period), period.tally, ANOMALOUS),
        ):
            share = np.cumsum(tally.cells[name]) / tally.images
            # Up to each edge, it included; what lies beyond the last is at the end.
            heights = [share[0], *share[1::2], 1.0]
            axes.step(where, heights, where="post", color=colour, linewidth=1.6, label=label)
        unit = {"score": "anomaly score"}.get(name, name)
        unit += f", {UNITS[name]}" if name in UNITS else " in mm" if "spacing" in name else ""
        axes.axhline(0, color=INK, linewidth=0.5)
        axes.set(xlabel=unit, ylabel="share of images", ylim=(-0.03, 1.03))
        axes.legend(loc="lower right")
    return figure_of(f"shares-{name.replace(' ', '-')}", caption, drawing)
