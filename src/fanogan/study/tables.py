"""The tables of a study: means and spread over seeds, intervals, and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fanogan.evaluation import delong, finite_or_none, mean_interval, roc_curve_points
from fanogan.scoring import write_csv
from fanogan.study.outcomes import Study
from fanogan.study.paper import COLUMNS, IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS, system_of

REFERENCE = "izi_f"
"""The system that all others are compared with."""

UNTRAINED = "untrained networks"
"""Their name among the rows of ``evaluate``."""

ENCODERS = ("ziz", "izi", "izi_f")
PIXEL_COLUMNS = ("sensitivity", "specificity", "auc")
FALSE_POSITIVE_RATES = np.linspace(0, 1, 201)

Row = dict[str, Any]
"""A line of a table.

``system``, ``title``, ``seeds``, ``failed`` (reasons by seed), each of ``COLUMNS`` and its
``_spread`` (standard deviation over seeds), ``auc_low`` and ``auc_high`` (95 %), ``difference`` of
the AUC from the reference's with its ``_low`` and ``_high``, ``delong`` (p-values by seed, of
independent images), ``untrained`` (AUC), ``multiply_adds``, ``minutes`` and ``paper``. What isn't
known is None.
"""

EMPTY_ROW: Row = dict.fromkeys(
    [
        *(name for column in COLUMNS for name in (column, f"{column}_spread")),
        *("auc_low", "auc_high", "difference", "difference_low", "difference_high"),
        *("delong", "untrained", "multiply_adds", "minutes", "paper"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: Its file's.
        title: Its heading.
        about: What it shows.
        rows: One for each system.
        columns: The figures at Youden's point and the AUC, in their order.
    """

    name: str
    title: str
    about: str
    rows: list[Row]
    columns: tuple[str, ...] = COLUMNS


# --- differences --------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The mean of a paired difference over seeds, and its 95 % interval if there are subjects."""

    mean: float
    interval: list[float] | None


def mean_difference(exact: Sequence[float], resampled: Sequence[np.ndarray]) -> Difference | None:
    """Return the mean of each seed's difference; None where there is no seed.

    Args:
        exact: Each seed's difference.
        resampled: Each seed's difference in the same resamples of subjects: (resamples,).
    """
    if not exact:
        return None
    interval = mean_interval(np.stack(resampled, axis=1)) if resampled else None
    return Difference(float(np.mean(exact)), interval)


def auc_difference(
    study: Study, first: str, second: str, on_subset: bool = False
) -> Difference | None:
    """Return AUC(first) − AUC(second), by image."""
    exact, resampled = [], []
    for seed in study.seeds(first, second):
        one, other = ((name, seed, on_subset) for name in (first, second))
        exact.append(study.figures(*one)["auc"] - study.figures(*other)["auc"])
        resampled.append(study.resampled(*one) - study.resampled(*other))
    return mean_difference(exact, resampled)


def pixel_auc_difference(study: Study, first: str, second: str) -> Difference | None:
    """Return AUC(first) − AUC(second), by pixel."""
    exact, resampled = [], []
    for seed in study.seeds_with_pixels(first, second):
        one, other = study.pixels(first, seed), study.pixels(second, seed)
        exact.append(one.figures["auc"] - other.figures["auc"])
        resampled.append(one.resampled - other.resampled)
    return mean_difference(exact, resampled)


# --- rows ---------------------------------------------------------------------------------------


def image_row(study: Study, name: str, on_subset: bool = False) -> Row:
    """Return a system's row of an image-level table."""
    slow = system_of(name).on_subset
    seeds = [] if slow and not on_subset else study.seeds(name)
    row = _new_row(study, name, IMAGES)
    if not seeds:
        return row
    row |= _means(seeds, [study.figures(name, seed, on_subset) for seed in seeds])
    row |= _interval([study.resampled(name, seed, on_subset) for seed in seeds])
    if name != REFERENCE:
        row |= _compared(auc_difference(study, name, REFERENCE, on_subset))
        pairs = [
            [study.scored(each, seed, on_subset) for each in (name, REFERENCE)]
            for seed in study.seeds(name, REFERENCE)
        ]
        # DeLong's test is of independent images: each is a subject of its own.
        if all(len(set(one.subjects)) == len(one.keys) for one, _ in pairs):
            row["delong"] = [
                delong(one.labels, one.total, other.total).p_value for one, other in pairs
            ]
    if not (slow or on_subset):
        untrained = [_evaluated(study.metrics(name, seed), UNTRAINED)["auc"] for seed in seeds]
        row["untrained"] = float(np.mean(untrained))
    return row


def pixel_row(study: Study, name: str) -> Row:
    """Return a system's row of the pixel-level table."""
    row = _new_row(study, name, PIXELS)
    seeds = study.seeds_with_pixels(name)
    if not seeds:
        return row
    pixels = [study.pixels(name, seed) for seed in seeds]
    row |= _means(seeds, [each.figures for each in pixels])
    row |= _interval([each.resampled for each in pixels])
    if name != REFERENCE:
        row |= _compared(pixel_auc_difference(study, name, REFERENCE))
    return row


def rows_without_learning(study: Study) -> list[Row]:
    """Return what needs no learning, as ``evaluate`` measured it beside the reference.

    All seeds are tested on the same images, so only what has networks differs between them. The
    intervals are the first seed's.
    """
    seeds = study.seeds(REFERENCE)
    metrics = [study.metrics(REFERENCE, seed) for seed in seeds]
    rows = []
    for first in metrics[0]["rows"] if metrics else ():
        if first["kind"] != "honest":
            continue
        each = [_evaluated(one, first["name"]) for one in metrics]
        low, high = first["auc_interval"] or (None, None)
        names = {"system": first["name"], "title": first["name"], "failed": {}}
        figures = [{**one["youden"], "auc": one["auc"]} for one in each]
        rows.append(EMPTY_ROW | names | _means(seeds, figures) | {"auc_low": low, "auc_high": high})
    return rows


def _new_row(study: Study, name: str, paper: Mapping[str, Mapping[str, float]]) -> Row:
    row = EMPTY_ROW | {
        "system": name,
        "title": system_of(name).title,
        "seeds": [],
        "failed": study.failures(name),
        "paper": paper.get(name),
    }
    results = [study.result(name, seed) for seed in study.seeds(name)]
    if results:
        minutes = [result["minutes"] for result in results if result["minutes"] is not None]
        row["multiply_adds"] = results[0]["multiply_adds"]
        row["minutes"] = float(np.mean(minutes)) if minutes else None
    return row


def _means(seeds: list[int], figures: Sequence[Mapping[str, float | None]]) -> Row:
    """The mean of each column over seeds, and its standard deviation where there are several."""
    row: Row = {"seeds": seeds}
    for column in COLUMNS:
        if column not in figures[0]:
            continue
        values = [each[column] for each in figures]
        known = np.array([np.nan if value is None else value for value in values])
        row[column] = finite_or_none(float(known.mean()))
        if known.size > 1:
            row[f"{column}_spread"] = finite_or_none(float(known.std(ddof=1)))
    return row


def _interval(resampled: Sequence[np.ndarray]) -> Row:
    low, high = mean_interval(np.stack(resampled, axis=1)) or (None, None)
    return {"auc_low": low, "auc_high": high}


def _compared(difference: Difference | None) -> Row:
    if difference is None:
        return {}
    low, high = difference.interval or (None, None)
    return {"difference": difference.mean, "difference_low": low, "difference_high": high}


def _evaluated(metrics: Mapping[str, Any], name: str) -> Row:
    """A row that ``evaluate`` wrote."""
    row: Row = next(row for row in metrics["rows"] if row["name"] == name)
    return row


# --- tables -------------------------------------------------------------------------------------


def tables(study: Study) -> list[Table]:
    """Return all tables of the report for which something is done."""
    others = [name for name in study.systems if name not in SYSTEMS]
    compared = ("ae", "advae", "ali", "critic", "iterative", "izi_f")
    linear = _image_rows(study, [f"{name}-linear" for name in ENCODERS])
    found = [
        Table(
            "table1",
            "Table 1: detection of anomalous images",
            "All test images; the iterative search is tested on a subset, in the next table.",
            [*_image_rows(study, (*compared, *others)), *rows_without_learning(study)],
        ),
        Table(
            "table1_subset",
            "Table 1 on the subset",
            f"A fixed sample of {len(study.subset):,}, with the shares of labels and subjects "
            "that all test images have. What is compared with the iterative search is compared "
            "here.",
            _image_rows(study, (*compared, "izi", "ziz", *others), on_subset=True),
        ),
        Table(
            "table2",
            "Table 2: trainings of the encoder",
            "On the same GAN, each scored by what it was trained on.",
            _image_rows(study, ENCODERS),
        ),
        Table(
            "cross_scored",
            "Section 3.2: the same encoders, scored by f-AnoGAN's score",
            "Features of the discriminator in the score of encoders that were trained without.",
            _image_rows(study, ("ziz-features", "izi-features", "izi_f")),
        ),
        Table(
            "tableA1",
            "Table A1: encoders with linear output",
            "In parentheses the same with tanh.",
            [
                row | {"beside": image_row(study, row["system"].removesuffix("-linear"))}
                for row in linear
            ],
        ),
        Table(
            "denoising",
            "Appendix A.1: denoising training of the encoder",
            "A fifth of the pixels that the encoder sees in training are mid-grey.",
            _image_rows(study, ("denoising", "izi_f")),
        ),
    ]
    if study.has_pixels():
        names = ("ae", "advae", "ali", "izi_f", "izi", "ziz", *others)
        rows = [pixel_row(study, name) for name in names]
        found.append(
            Table(
                "tableB1",
                "Table B1: localisation, pixel by pixel",
                "Residuals of all pixels against the masks.",
                [row for row in rows if row["seeds"] or row["failed"]],
                PIXEL_COLUMNS,
            )
        )
    return [table for table in found if any(row["seeds"] for row in table.rows)]


def _image_rows(study: Study, systems: Sequence[str], on_subset: bool = False) -> list[Row]:
    return [image_row(study, name, on_subset) for name in systems if name in study.systems]


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each as a CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        lines = []
        for row in table.rows:
            line = {key: value for key, value in row.items() if key not in ("paper", "beside")}
            line |= {f"tanh_{name}": row["beside"][name] for name in COLUMNS if "beside" in row}
            line["seeds"] = " ".join(map(str, row["seeds"]))
            line["failed"] = "; ".join(f"seed {at}: {why}" for at, why in row["failed"].items())
            line["delong"] = " ".join(f"{value:.4g}" for value in row["delong"] or ())
            paper = row["paper"] or {}
            lines.append(line | {f"paper_{name}": paper.get(name) for name in COLUMNS})
        write_csv(folder / f"{table.name}.csv", list(lines[0]), lines)


# --- curves -------------------------------------------------------------------------------------


def mean_curve(study: Study, name: str, on_subset: bool = False) -> np.ndarray | None:
    """Return a system's sensitivity at each of ``FALSE_POSITIVE_RATES``, averaged over seeds."""
    curves = []
    for seed in study.seeds(name):
        scored = study.scored(name, seed, on_subset)
        rates, sensitivities, _ = roc_curve_points(scored.labels, scored.total)
        curves.append(np.interp(FALSE_POSITIVE_RATES, rates, sensitivities))
    return np.mean(curves, axis=0) if curves else None


def mean_pixel_curve(study: Study, name: str) -> np.ndarray | None:
    """Return a system's mean curve, by pixel."""
    curves = []
    for seed in study.seeds_with_pixels(name):
        pixels = study.pixels(name, seed)
        marked, normal = pixels.flagged(np.ones((1, len(pixels.counts))))
        curves.append(
            np.interp(FALSE_POSITIVE_RATES, np.append(0, normal[0]), np.append(0, marked[0]))
        )
    return np.mean(curves, axis=0) if curves else None
