"""What the terminal shows: lines and tables."""

from __future__ import annotations

import functools
import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fanogan.remote import named
from fanogan.text import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from fanogan.archive import Series
    from fanogan.report import SideBySide
    from fanogan.retina import Summary
    from fanogan.scoring import Model

LONGEST_NAME = 28


@functools.cache
def console() -> Any:
    """Return the one console: what is printed while a bar is shown goes above it.

    Of several processes that train together only the first prints.
    """
    from rich.console import Console

    number = "RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "LOCAL_RANK"
    silent = os.environ.get(number, "0") != "0"
    return Console(highlight=False, emoji=False, quiet=silent)


def say(text: str, style: str = "") -> None:
    """Print a line; a terminal breaks it between words, and no name in it can."""
    screen = console()
    screen.print(harmless(named(text)), style=style, markup=False, soft_wrap=not screen.is_terminal)


class LogHandler(logging.Handler):
    """Shows log records as plain lines, each text once: a command searches a folder repeatedly."""

    def __init__(self) -> None:
        """Nothing has been shown yet."""
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        lines = [record.getMessage()]
        if record.exc_info:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        text = "\n".join(lines)
        if text in self.shown:
            return
        if len(self.shown) < 1000:  # an archive may have a line for each file
            self.shown.add(text)
        for line in lines:
            say(line, "yellow")


def status(text: str) -> Any:
    """Show a spinner during something short."""
    return console().status(text)


def say_prepared(summary: Summary, out: Path) -> None:
    """Say what a store holds, and what could not be used."""
    from fanogan.text import counted

    volumes = f"{counted(summary.volumes, 'volume')}, " if summary.volumes else ""
    say(
        f"{volumes}{counted(summary.bscans, 'B-scan')} · retina found "
        f"in {100 * summary.found:.1f} % of columns"
    )
    if summary.kept:
        say(f"{summary.kept:,} of them were prepared before")
    if summary.removed:
        gone = counted(summary.removed, "scan")
        say(f"{gone} removed from the store, not among these scans any more", "yellow")
    if summary.failed:
        say(f"{len(summary.failed):,} left out: {out}/failed.csv", "yellow")
    say(f"{out} · {out}/steps.png")


def say_scores(rows: Sequence[Mapping[str, Any]], most: int = 10) -> None:
    """Print the first rows of scores.csv, those of volumes where there are any."""
    from fanogan.report import least_p_value

    volumes = [row for row in rows if row["unit"] == "volume"]
    shown = (volumes or rows)[:most]
    above = _bscans_above(rows) if volumes else {}
    names = [_shortened(row["name"]) for row in shown]
    width = max(map(len, names), default=0)
    lowest = ""
    for name, row in zip(names, shown, strict=True):
        p = f"p {float(row['p_value']):.3f}" if row["p_value"] else ""
        if p and (least := least_p_value(float(row["p_value"]), row["held_out_subjects"])):
            p = f"p 1/{row['held_out_subjects'] + 1:,}"
            lowest = f"{p}: {least}"
        parts = (
            f"{name:{width}}",
            f"score {float(row['score']):<7.4g}",
            p,
            {"yes": "▲ flagged", "no": "not flagged"}.get(row["flag"], ""),
            above.get(row["name"], ""),
            _regions(row),
            "unlike training" if row["warnings"] else "",
        )
        say("  ".join(part for part in parts if part))
    if len(rows) > len(shown):
        say(f"… and {len(rows) - len(shown):,} more in scores.csv")
    if lowest:
        say(lowest)


def _bscans_above(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each volume, how many of its B-scans lie above all that were held out."""
    counts: dict[str, list[bool]] = {}
    held_out = 0
    for row in rows:
        volume, number, _ = row["name"].rpartition("#")
        if row["unit"] == "image" and number and row.get("held_out"):
            held_out = row["held_out"]
            highest = float(row["p_value"]) <= 1 / (row["held_out_subjects"] + 1)
            counts.setdefault(volume, []).append(highest)
    others = "the one held-out B-scan" if held_out == 1 else f"all {held_out:,} held-out B-scans"
    return {
        name: f"above {others} in {sum(each)} of {len(each)}"
        if any(each)
        else "within the held-out range"
        for name, each in counts.items()
    }


def _regions(row: Mapping[str, Any]) -> str:
    from fanogan.text import counted

    count = row.get("regions")
    if not count:
        return ""
    area = row.get("largest_region_mm2")
    largest = f", largest {area} mm² at B-scan {row['largest_region_bscan']}" if area else ""
    return f"▲ {counted(count, 'region')}{largest}"


def _shortened(name: str) -> str:
    name = harmless(name)
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def say_series(found: Sequence[Series]) -> None:
    """Print what an archive has, studies with a line for each series."""
    from fanogan.text import counted

    study = ""
    for one in found:
        if one.study != study:
            study = one.study
            say(f"patient {one.patient or '?'}  {one.date or 'no date'}  study {study}", "bold")
        files = "files" if one.count is None else counted(one.count, "file")
        parts = (one.modality or "?", files, one.description, f"series {one.uid}")
        say("  " + "  ".join(part for part in parts if part))


def say_side_by_side(numbers: Sequence[str], table: SideBySide) -> None:
    """Print a table with a column for each model."""
    from rich.table import Table
    from rich.text import Text

    say(table.title, "bold")
    for sentence in table.sentences:
        say(f"  {sentence}")
    if not table.rows:
        return
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", *numbers):
        shown.add_column(heading, overflow="fold")
    for name, cells in table.rows.items():
        shown.add_row(*(Text(harmless(each)) for each in (f"  {name}", *cells)))
    console().print(shown)


def say_calibration(model: Model, alpha: float) -> None:
    """Say what each kind of unit is flagged by."""
    units = model.calibration.units
    for unit, noun in (("image", model.preprocessing.noun), ("volume", "volume")):
        if unit in units:
            say(f"{noun}s: {units[unit].describe(alpha, noun)}")


def say_evaluation(found: Mapping[str, Any]) -> None:
    """Print the figures of an evaluation as a table."""
    from rich.table import Table

    from fanogan.evaluation import leak_sentences
    from fanogan.report import alarms, lead

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("score", "AUC", "95 % interval", "average precision"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for row in found["rows"]:
        interval = row["auc_interval"]
        table.add_row(
            row["name"],
            f"{row['auc']:.3f}",
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–",
            f"{row['average_precision']:.3f}",
            style="bold" if row["kind"] == "method" else "",
        )
    console().print(table)
    for sentence in lead(found):
        say(sentence)
    for sentence in alarms(found):
        say(sentence, "yellow")
    for sentence in leak_sentences(found["seen"]):
        say(sentence, "yellow")
    calibrated = found["calibrated"]
    if calibrated["threshold"] is None:
        say(calibrated["note"])
    else:
        say(
            f"calibrated threshold {calibrated['threshold']:.4g}: false-positive rate "
            f"{calibrated['false_positive_rate']:.3f} (asked for {calibrated['alpha']:g}), "
            f"sensitivity {calibrated['sensitivity']:.3f}"
        )
