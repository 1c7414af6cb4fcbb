"""What the terminal shows: progress, lines and tables."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanogan.calibration import HeldOut
    from fanogan.detectors import FAnoGAN, Result
    from fanogan.training import Progress


def console() -> Any:
    """The console that all goes to."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def log_handler() -> logging.Handler:
    """Shows log records as plain lines, above a progress bar where there is one."""
    from rich.logging import RichHandler

    return RichHandler(console=console(), show_time=False, show_path=False, show_level=False)


def say(text: str, markup: bool = True) -> None:
    """Print a line."""
    console().print(text, markup=markup)


def status(text: str) -> Any:
    """A spinner while something short goes on."""
    return console().status(text)


def duration(seconds: float) -> str:
    """A length of time in the unit that people would use."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return (
                f"{seconds / length:.0f} {unit}"
                if seconds >= 10 * length
                else (f"{seconds / length:.1f} {unit}")
            )
    return f"{seconds:.0f} seconds"


@contextlib.contextmanager
def training_bars() -> Iterator[Progress]:
    """One bar a stage, with speed and time left, and a line of the last figures below."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Bars(Progress):
        figures = ""

        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(self.tasks)
            yield Text(self.figures, style="dim")

    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console()) as bars:
        tasks: dict[str, Any] = {}
        begun: dict[str, tuple[float, int]] = {}

        def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            if stage not in tasks:
                name = "GAN rounds" if stage == "gan" else f"{stage} updates"
                tasks[stage] = bars.add_task(name, total=steps, speed="")
                begun[stage] = time.monotonic(), step
            since, first = begun[stage]
            speed = (step - first) / max(time.monotonic() - since, 1e-9)
            bars.update(tasks[stage], completed=step, speed=f"{speed:.1f}/s")
            if figures:
                bars.figures = _figures(stage, figures)

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


@contextlib.contextmanager
def counting_bar(text: str, total: int) -> Iterator[Callable[[Result], None]]:
    """A bar that counts images; files may hold several."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (
        *Progress.get_default_columns()[:1],
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=True) as bars:
        task = bars.add_task(text, total=total)
        count = 0

        def on_result(result: Result) -> None:
            nonlocal count
            count += result.unit == "image"
            bars.update(task, completed=count, total=max(total, count))

        yield on_result


def line(row: Mapping[str, Any]) -> str:
    """A row of scores.csv in one line."""
    p = f"p {float(row['p_value']):.3f}" if row["p_value"] else ""
    flag = "▲ flagged" if row["flag"] == "yes" else ""
    warning = "unlike the training normals" if row["warnings"] else ""
    parts = (f"{row['name']:40}", f"score {float(row['score']):.4f}", p, flag, warning)
    return "  ".join(part for part in parts if part)


def say_calibration(detector: FAnoGAN, alpha: float) -> None:
    """Say what each kind of unit is flagged by."""
    units: Mapping[str, HeldOut] = detector.calibration.units
    for unit, held_out in units.items():
        say(f"{unit}s: {held_out.describe(alpha, unit)}", markup=False)


def say_evaluation(found: Mapping[str, Any]) -> None:
    """Print the figures of an evaluation as a table."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("score", "AUC", "95 % interval", "average precision"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for row in found["rows"]:
        interval = row["auc_interval"]
        table.add_row(
            row["name"],
            f"{row['auc']:.3f}",
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "",
            f"{row['average_precision']:.3f}",
            style="bold" if row["kind"] == "method" else "",
        )
    screen = console()
    screen.print(
        f"{found['n']:,} images of {found['n_subjects']:,} subjects, {found['n_anomalous']:,} "
        f"anomalous ({100 * found['prevalence']:.0f} %)"
    )
    screen.print(table)
    calibrated = found["calibrated"]
    if calibrated["threshold"] is not None:
        screen.print(
            f"calibrated threshold {calibrated['threshold']:.4g}: false-positive rate "
            f"{calibrated['false_positive_rate']:.3f} (asked for {calibrated['alpha']:g}), "
            f"sensitivity {calibrated['sensitivity']:.3f}",
            markup=False,
        )
    else:
        screen.print(calibrated["note"], markup=False)
    if found["pixel"]:
        pixel = found["pixel"]
        screen.print(
            f"per pixel: AUC {pixel['auc']:.3f} (darkness {pixel['darkness_auc']:.3f})",
            markup=False,
        )
