"""What the terminal shows: progress, lines and tables."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fanogan.remote import named
from fanogan.text import harmless

if TYPE_CHECKING:
    from pathlib import Path

    from fanogan.archive import Series
    from fanogan.report import SideBySide
    from fanogan.retina import FlatVolume, Summary
    from fanogan.scans import BadScan
    from fanogan.scoring import Model, Result
    from fanogan.training import Progress

LONGEST_NAME = 28
STAGES = {"gan": "GAN rounds", "encoder": "encoder updates"}


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


def duration(seconds: float) -> str:
    """Return a length of time in the unit that people would use."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{max(seconds, 2):.0f} seconds"


def milestones(text: str) -> Callable[[int, int], None]:
    """Return what says after 1, 2, 4 … minutes how far something is, where no bar can be shown."""
    begun, due = time.monotonic(), 60.0
    first: int | None = None

    def on_count(count: int, total: int) -> None:
        nonlocal due, first
        first = count if first is None else first
        gone = time.monotonic() - begun
        if gone < due or not first < count < total or console().is_terminal:
            return
        due = 2 * gone
        left = duration(gone / (count - first) * (total - count))
        say(f"{text}: {count:,} of {total:,}, about {left} left")

    return on_count


class Pace:
    """How long all stages will still take, by this run's own speed as it goes."""

    def __init__(self, expected: Mapping[str, float]):
        """Take what was expected of each stage beforehand, in seconds."""
        self.expected = expected
        self.begun: dict[str, tuple[float, int]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}  # of a whole stage, and what is left

    def update(self, stage: str, step: int, steps: int) -> float | None:
        """Take a step of a stage; return the seconds left in all, None while nothing is known."""
        since, first = self.begun.setdefault(stage, (time.monotonic(), step))
        if step > first:
            each = (time.monotonic() - since) / (step - first)
            self.seconds[stage] = each * steps, each * (steps - step)
        known = [stage for stage in self.seconds if stage in self.expected]
        if not known:
            return None
        # What is still to come is as much slower or faster than expected as what is known.
        slower = sum(self.seconds[stage][0] for stage in known) / max(
            sum(self.expected[stage] for stage in known), 1e-9
        )
        to_come = sum(each for stage, each in self.expected.items() if stage not in self.seconds)
        return sum(left for _, left in self.seconds.values()) + slower * to_come


def _clock() -> tuple[Any, ...]:
    """Return columns that say how long something has taken, and how long it still takes."""
    from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


@contextlib.contextmanager
def training_bars(expected: Mapping[str, float] | None = None) -> Iterator[Progress]:
    """Show a bar for each stage, with speed, time left, and its last figures below.

    Args:
        expected: seconds that each stage will take, calibration too, so that what is left in all
            can be said.
    """
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    pace = Pace(expected or {})
    in_all = ""

    class Bars(Progress):
        def get_renderables(self) -> Iterator[Any]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if task.fields["figures"]:
                    yield Text(f"  {task.fields['figures']}", style="dim")
            if in_all and not self.finished:
                yield Text(in_all)

    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(10),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TextColumn("{task.fields[speed]}"),
        *_clock(),
    )
    with Bars(*columns, console=console()) as bars:
        tasks: dict[str, Any] = {}
        lines: dict[str, Callable[[int, int], None]] = {}

        def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            nonlocal in_all
            if stage not in tasks:
                name = STAGES.get(stage, stage)
                tasks[stage] = bars.add_task(
                    name, total=steps, completed=step, speed="", figures=""
                )
                lines[stage] = milestones(name)
            lines[stage](step, steps)
            left = pace.update(stage, step, steps)
            if left is not None:
                in_all = f"about {duration(left)} left in all"
            since, first = pace.begun[stage]
            if step > first:
                speed = (step - first) / max(time.monotonic() - since, 1e-9)
                bars.update(tasks[stage], completed=step, speed=f"{speed:.1f}/s")
            if figures:
                bars.update(tasks[stage], figures=_figures(stage, figures))

        yield progress


def _figures(stage: str, figures: Mapping[str, float]) -> str:
    if stage == "gan":
        return (
            f"Wasserstein {figures['wasserstein_seen']:.2f}, "
            f"held out {figures['wasserstein_held_out']:.2f} · "
            f"diversity {figures['diversity']:.2f} of real"
        )
    names = ("image", "feature", "latent")
    return " · ".join(f"{name} {figures[name]:.3f}" for name in names if name in figures)


def _counter() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.completed:,}{task.fields[of]}"),
        *_clock(),
    )
    screen = console()
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


@contextlib.contextmanager
def count_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of how many images are done so far; files may hold several."""
    with _counter() as bars:
        task = bars.add_task(text, total=total, of=f"/{total:,}")
        line = milestones(text)

        def show(count: int) -> None:
            of = max(total, count)
            bars.update(task, completed=count, total=of, of=f"/{of:,}")
            line(count, total)

        yield show


@contextlib.contextmanager
def counting_bar(text: str, total: int) -> Iterator[Callable[[Result], None]]:
    """Show a bar that counts images."""
    with count_bar(text, total) as show:
        count = 0

        def on_result(result: Result) -> None:
            nonlocal count
            count += result.unit == "image"
            show(count)

        yield on_result


@contextlib.contextmanager
def reading_bar(text: str) -> Iterator[Callable[[Any], None]]:
    """Count what is read, of which nobody knows how many there are."""
    with _counter() as bars:
        task = bars.add_task(text, total=None, of="")
        yield lambda scan: bars.advance(task)


@contextlib.contextmanager
def volumes_bar(total: int) -> Iterator[Callable[[str, FlatVolume | BadScan | None], None]]:
    """Show a bar that counts volumes, with a line above it for each."""
    with _counter() as bars:
        task = bars.add_task("flattening", total=total, of=f"/{total:,}")

        def on_volume(name: str, found: FlatVolume | BadScan | None) -> None:
            if isinstance(found, Exception):
                say(f"left out: {found}", "yellow")
            elif found is not None:
                say(_volume_line(found))
            bars.advance(task)

        yield on_volume


def _volume_line(volume: FlatVolume) -> str:
    from fanogan.report import describe
    from fanogan.text import counted

    lengths = ("?" if length is None else f"{length:.3g}" for length in volume.scan_spacing)
    parts = (
        f"{volume.name}  {counted(len(volume.pixels), 'B-scan')}",
        f"{' × '.join(lengths)} mm",
        f"retina found in {100 * volume.found:.1f} % of columns",
        *map(describe, volume.notes),
    )
    return " · ".join(parts)


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
