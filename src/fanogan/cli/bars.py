"""Bars and lines that show how far something is, and how long it still takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fanogan.cli.console import console, say

if TYPE_CHECKING:
    from fanogan.retina import FlatVolume
    from fanogan.scans import BadScan
    from fanogan.scoring import Result
    from fanogan.training import Progress

STAGES = {"gan": "GAN rounds", "encoder": "encoder updates"}


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
