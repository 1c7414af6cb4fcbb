"""The tables of a study: means and spread over seeds, intervals, and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fanogan.evaluation import delong, finite_or_none, mean_interval
from fanogan.scoring import write_csv
from fanogan.study.outcomes import Level, Study
from fanogan.study.paper import COLUMNS, IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS, system_of

REFERENCE = "izi_f"
"""The system that all others are compared with."""

UNTRAINED = "untrained networks"
"""Their name among the rows of ``evaluate``."""

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
    """A table of the report: the name of its file, its heading, what it shows, and its rows."""

    name: str
    title: str
    about: str
    rows: list[Row]  # one for each system
    columns: tuple[str, ...] = COLUMNS  # figures at Youden's point, and the AUC


# --- differences --------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The mean of a paired difference over seeds, and its 95 % interval if there are subjects."""

    mean: float
    interval: list[float] | None


def mean_difference(exact: Sequence[float], resampled: Sequence[np.ndarray]) -> Difference | None:
    """Return the mean of each seed's difference; None where there is no seed.

    ``resampled`` are each seed's differences in the same resamples of subjects: (resamples,).
    """
    if not exact:
        return None
    interval = mean_interval(np.stack(resampled, axis=1)) if resampled else None
    return Difference(float(np.mean(exact)), interval)


def auc_difference(
    study: Study, first: str, second: str, level: Level = "images"
) -> Difference | None:
    """Return AUC(first) − AUC(second)."""
    exact, resampled = [], []
    for seed in study.seeds(first, second, level=level):
        a, b = ((name, seed, level) for name in (first, second))
        exact.append(study.figures(*a)["auc"] - study.figures(*b)["auc"])
        resampled.append(study.resampled(*a) - study.resampled(*b))
    return mean_difference(exact, resampled)


# --- rows ---------------------------------------------------------------------------------------


def row_of(study: Study, name: str, level: Level = "images") -> Row:
    """Return a system's row of a table."""
    seeds = study.seeds(name, level=level)
    row = EMPTY_ROW | {
        "system": name,
        "title": system_of(name).title,
        "seeds": seeds,
        "failed": study.failures(name),
        "paper": (PIXELS if level == "pixels" else IMAGES).get(name),
    }
    results = [study.result(name, seed) for seed in study.seeds(name)]
    if results:
        minutes = [result["minutes"] for result in results if result["minutes"] is not None]
        row["multiply_adds"] = results[0]["multiply_adds"]
        row["minutes"] = float(np.mean(minutes)) if minutes else None
    if not seeds:
        return row
    row |= _means([study.figures(name, seed, level) for seed in seeds])
    resampled = [study.resampled(name, seed, level) for seed in seeds]
    row["auc_low"], row["auc_high"] = mean_interval(np.stack(resampled, axis=1)) or (None, None)
    difference = None if name == REFERENCE else auc_difference(study, name, REFERENCE, level)
    if difference:
        row["difference"] = difference.mean
        row["difference_low"], row["difference_high"] = difference.interval or (None, None)
    if difference and level != "pixels":
        pairs = [
            [study.scored(each, seed, level) for each in (name, REFERENCE)]
            for seed in study.seeds(name, REFERENCE)
        ]
        # DeLong's test is of independent images: each is a subject of its own.
        if all(len(set(scored.subjects)) == len(scored.keys) for scored, _ in pairs):
            row["delong"] = [delong(a.labels, a.total, b.total).p_value for a, b in pairs]
    if level == "images":
        untrained = [_evaluated(study.metrics(name, seed), UNTRAINED)["auc"] for seed in seeds]
        row["untrained"] = float(np.mean(untrained))
    return row


def rows_without_learning(study: Study) -> list[Row]:
    """Return what needs no trained network, as ``evaluate`` measured it beside the reference.

    All seeds are tested on the same images, so only what has networks differs between them. The
    intervals are the first seed's.
    """
    seeds = study.seeds(REFERENCE)
    metrics = [study.metrics(REFERENCE, seed) for seed in seeds]
    rows = []
    for first in metrics[0]["rows"] if metrics else ():
        if first["kind"] != "honest":
            continue
        evaluated = [_evaluated(each, first["name"]) for each in metrics]
        low, high = first["auc_interval"] or (None, None)
        row = EMPTY_ROW | {"system": first["name"], "title": first["name"], "seeds": seeds}
        row |= _means([{**each["youden"], "auc": each["auc"]} for each in evaluated])
        rows.append(row | {"failed": {}, "auc_low": low, "auc_high": high})
    return rows


def _means(figures: Sequence[Mapping[str, float | None]]) -> Row:
    """Return the mean of each column over seeds, and its standard deviation where it has one."""
    row: Row = {}
    for column in COLUMNS:
        if column not in figures[0]:
            continue
        values = [each[column] for each in figures]
        known = np.array([np.nan if value is None else value for value in values])
        row[column] = finite_or_none(float(known.mean()))
        if known.size > 1:
            row[f"{column}_spread"] = finite_or_none(float(known.std(ddof=1)))
    return row


def _evaluated(metrics: Mapping[str, Any], name: str) -> Row:
    """Return a row that ``evaluate`` wrote."""
    row: Row = next(row for row in metrics["rows"] if row["name"] == name)
    return row


# --- tables -------------------------------------------------------------------------------------

MAIN = ("ae", "advae", "ali", "critic", "iterative", "izi_f")
TABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "table1": (
        "Table 1: detection of anomalous images",
        "All test images; the iterative search is tested on a subset, in the next table.",
        MAIN,
    ),
    "table1_subset": (
        "Table 1 on the subset",
        "A fixed sample of {subset:,}, with the shares of labels and subjects that all test images "
        "have. What is compared with the iterative search is compared here.",
        (*MAIN, "izi", "ziz"),
    ),
    "table2": (
        "Table 2: trainings of the encoder",
        "On the same GAN, each scored by what it was trained on.",
        ("ziz", "izi", "izi_f"),
    ),
    "cross_scored": (
        "Section 3.2: the same encoders, scored by f-AnoGAN's score",
        "Features of the discriminator in the score of encoders that were trained without.",
        ("ziz-features", "izi-features", "izi_f"),
    ),
    "tableA1": (
        "Table A1: encoders with linear output",
        "In parentheses the same with tanh.",
        ("ziz-linear", "izi-linear", "izi_f-linear"),
    ),
    "denoising": (
        "Appendix A.1: denoising training of the encoder",
        "A fifth of the pixels that the encoder sees in training are mid-grey.",
        ("denoising", "izi_f"),
    ),
    "tableB1": (
        "Table B1: localisation, pixel by pixel",
        "Residuals of all pixels against the masks.",
        ("ae", "advae", "ali", "izi_f", "izi", "ziz"),
    ),
}
LEVELS: dict[str, Level] = {"table1_subset": "subset", "tableB1": "pixels"}
PIXEL_COLUMNS = ("sensitivity", "specificity", "auc")
WITH_OTHERS = ("table1", "table1_subset", "tableB1")  # below the paper's systems, other detectors


def tables(study: Study) -> list[Table]:
    """Return all tables of the report for which something is done."""
    others = [name for name in study.systems if name not in SYSTEMS]
    shown = []
    for name, (title, about, systems) in TABLES.items():
        names = (*systems, *others) if name in WITH_OTHERS else systems
        done = [each for each in names if each in study.systems]
        level = LEVELS.get(name, "images")
        rows = [row_of(study, each, level) for each in done]
        if name == "tableA1":
            for row in rows:
                row["beside"] = row_of(study, row["system"].removesuffix("-linear"))
        if name == "table1":
            rows += rows_without_learning(study)
        if any(row["seeds"] for row in rows):
            about = about.format(subset=len(study.subset))
            shown.append(
                Table(name, title, about, rows, PIXEL_COLUMNS if level == "pixels" else COLUMNS)
            )
    return shown


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


def mean_curve(study: Study, name: str, level: Level) -> np.ndarray | None:
    """Return a system's sensitivity at each of ``FALSE_POSITIVE_RATES``, averaged over seeds."""
    curves = [study.curve(name, seed, level) for seed in study.seeds(name, level=level)]
    resampled = [np.interp(FALSE_POSITIVE_RATES, *curve) for curve in curves]
    return np.mean(resampled, axis=0) if resampled else None
