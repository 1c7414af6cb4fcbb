"""The tables of a study: means and spread over seeds, intervals, and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.evaluation import (
    delong,
    finite_or_none,
    image_metrics,
    mean_interval,
    roc_curve_points,
)
from fanogan.scoring import write_csv
from fanogan.study.outcomes import Study
from fanogan.study.paper import COLUMNS, IMAGES, PIXELS
from fanogan.study.systems import SYSTEMS
from fanogan.study.test_sets import Scored

BESIDE = "izi_f"
"""What all others are compared with."""
GRID = np.linspace(0, 1, 201)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: Its file's.
        title: Its heading.
        about: What it shows.
        rows: One a system, as ``image_row`` and ``pixel_row`` make them.
        columns: The figures at Youden's point and the AUC, in their order.
    """

    name: str
    title: str
    about: str
    rows: list[dict[str, Any]]
    columns: tuple[str, ...] = COLUMNS


# --- rows ---------------------------------------------------------------------------------------


def image_row(study: Study, system: str, on_subset: bool = False) -> dict[str, Any]:
    """A system's line of an image-level table.

    Returns:
        ``system``, ``title``, ``seeds``, ``failed`` (reasons), each of ``COLUMNS`` and its
        ``_spread`` (standard deviation over seeds), ``auc_low`` and ``auc_high`` (95 %),
        ``difference`` from izi_f with its ``_low`` and ``_high``, ``delong`` (a p-value a seed, of
        independent images), ``untrained`` (AUC), ``multiply_adds``, ``minutes``, and ``paper``.
        What isn't known is None.
    """
    seeds = [] if SYSTEMS[system].on_subset and not on_subset else study.seeds(system)
    row = _about(study, system, IMAGES)
    if not seeds:
        return row
    scored = [study.scored(system, seed, on_subset) for seed in seeds]
    found = [image_metrics(one.labels, one.total, bootstrap=0) for one in scored]
    values = {name: [one["youden"][name] for one in found] for name in COLUMNS[:-1]}
    row |= _over_seeds({**values, "auc": [one["auc"] for one in found]})
    row["seeds"] = seeds
    row |= _interval("auc", [study.resampled(system, seed, on_subset) for seed in seeds])
    row |= _beside(None if system == BESIDE else compared(study, system, BESIDE, on_subset))
    independent = len(set(scored[0].subjects)) == len(scored[0].keys)
    if independent and system != BESIDE:
        row["delong"] = [
            delong(one.labels, one.total, other.total).p_value
            for one, other in _pairs(study, system, BESIDE, on_subset)
        ]
    if not SYSTEMS[system].on_subset and not on_subset:
        untrained = [_row_of(study.metrics(system, seed), "untrained networks") for seed in seeds]
        row["untrained"] = float(np.mean([one["auc"] for one in untrained]))
    return row


def honest_rows(study: Study) -> list[dict[str, Any]]:
    """What needs no learning, as ``evaluate`` measured it beside izi_f; the first seed's interval.

    All seeds are tested on the same images, so only what is of networks differs between them.
    """
    seeds = study.seeds(BESIDE)
    if not seeds:
        return []
    metrics = [study.metrics(BESIDE, seed) for seed in seeds]
    rows = []
    for first in metrics[0]["rows"]:
        if first["kind"] != "honest":
            continue
        each = [_row_of(one, first["name"]) for one in metrics]
        values = {name: [one["youden"][name] for one in each] for name in COLUMNS[:-1]}
        low, high = first["auc_interval"] or (None, None)
        rows.append(
            {
                **dict.fromkeys(_EMPTY),
                "system": first["name"],
                "title": first["name"],
                "seeds": seeds,
                "failed": {},
                **_over_seeds({**values, "auc": [one["auc"] for one in each]}),
                "auc_low": low,
                "auc_high": high,
            }
        )
    return rows


def pixel_row(study: Study, system: str) -> dict[str, Any]:
    """A system's line of the pixel-level table; as ``image_row``."""
    row = _about(study, system, PIXELS)
    seeds = study.seeds(system)
    if not seeds:
        return row
    pixels = [study.pixels(system, seed) for seed in seeds]
    figures = [one.figures for one in pixels]
    row |= _over_seeds({name: [one[name] for one in figures] for name in figures[0]})
    row["seeds"] = seeds
    row |= _interval("auc", [one.resampled for one in pixels])
    return row | _beside(None if system == BESIDE else compared_pixels(study, system, BESIDE))


_EMPTY = (
    *(name for column in COLUMNS for name in (column, f"{column}_spread")),
    *("auc_low", "auc_high", "difference", "difference_low", "difference_high"),
    *("delong", "untrained", "multiply_adds", "minutes", "paper"),
)


def _about(study: Study, system: str, paper: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_EMPTY)
    row |= {
        "system": system,
        "title": SYSTEMS[system].title,
        "seeds": [],
        "failed": study.failures(system),
        "paper": paper.get(system),
    }
    results = [study.result(system, seed) for seed in study.seeds(system)]
    if results:
        minutes = [one["minutes"] for one in results if one["minutes"] is not None]
        row["multiply_adds"] = results[0]["multiply_adds"]
        row["minutes"] = float(np.mean(minutes)) if minutes else None
    return row


def _over_seeds(values: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Mean, and standard deviation where there are several seeds."""
    row: dict[str, float | None] = {}
    for name, each in values.items():
        known = np.array([np.nan if value is None else value for value in each])
        row[name] = finite_or_none(float(known.mean()))
        several = known.size > 1
        row[f"{name}_spread"] = finite_or_none(float(known.std(ddof=1))) if several else None
    return row


def _interval(name: str, resampled: Sequence[np.ndarray]) -> dict[str, float | None]:
    low, high = mean_interval(np.stack(resampled, axis=1)) or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _row_of(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in metrics["rows"] if row["name"] == name)
    return found


def _pairs(study: Study, first: str, second: str, on_subset: bool) -> list[tuple[Scored, Scored]]:
    """The scores of two systems, of the seeds that both have."""
    return [
        (study.scored(first, seed, on_subset), study.scored(second, seed, on_subset))
        for seed in study.seeds(first)
        if seed in study.seeds(second)
    ]


def compared(
    study: Study, first: str, second: str, on_subset: bool = False
) -> tuple[float, list[float] | None] | None:
    """The mean over seeds of AUC(first) − AUC(second), and its paired 95 % interval."""
    seeds = [seed for seed in study.seeds(first) if seed in study.seeds(second)]
    if not seeds:
        return None
    exact = [
        image_metrics(one.labels, one.total, bootstrap=0)["auc"]
        - image_metrics(other.labels, other.total, bootstrap=0)["auc"]
        for one, other in _pairs(study, first, second, on_subset)
    ]
    resampled = [
        study.resampled(first, seed, on_subset) - study.resampled(second, seed, on_subset)
        for seed in seeds
    ]
    return float(np.mean(exact)), mean_interval(np.stack(resampled, axis=1))


def compared_pixels(
    study: Study, first: str, second: str
) -> tuple[float, list[float] | None] | None:
    """As ``compared``, pixel by pixel."""
    seeds = [seed for seed in study.seeds(first) if seed in study.seeds(second)]
    if not seeds:
        return None
    pairs = [(study.pixels(first, seed), study.pixels(second, seed)) for seed in seeds]
    exact = [one.figures["auc"] - other.figures["auc"] for one, other in pairs]
    resampled = [one.resampled - other.resampled for one, other in pairs]
    return float(np.mean(exact)), mean_interval(np.stack(resampled, axis=1))


def _beside(found: tuple[float, list[float] | None] | None) -> dict[str, float | None]:
    if found is None:
        return {}
    low, high = found[1] or (None, None)
    return {"difference": found[0], "difference_low": low, "difference_high": high}


# --- tables -------------------------------------------------------------------------------------

ENCODERS = ("ziz", "izi", "izi_f")
PIXEL_COLUMNS = ("sensitivity", "specificity", "auc")


def tables(study: Study) -> list[Table]:
    """All tables of the report that this study has something for."""
    honest = honest_rows(study)
    compared_ones = ("ae", "advae", "ali", "critic", "iterative", "izi_f")
    found = [
        Table(
            "table1",
            "Table 1: detection of anomalous images",
            "All test images; the iterative search is tested on a subset, in the next table.",
            [*_image_rows(study, compared_ones), *honest],
        ),
        Table(
            "table1_subset",
            "Table 1 on the subset",
            f"A fixed sample of {len(study.subset):,}, with the shares of labels and subjects "
            "that all test images have. What is compared with the iterative search is compared "
            "here.",
            _image_rows(study, (*compared_ones, "izi", "ziz"), on_subset=True),
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
                {**row, "beside": image_row(study, row["system"].removesuffix("-linear"))}
                for row in _image_rows(study, [f"{name}-linear" for name in ENCODERS])
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
        rows = [pixel_row(study, name) for name in ("ae", "advae", "ali", "izi_f", "izi", "ziz")]
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


def _image_rows(
    study: Study, systems: Sequence[str], on_subset: bool = False
) -> list[dict[str, Any]]:
    rows = [image_row(study, name, on_subset) for name in systems]
    return [row for row in rows if row["seeds"] or row["failed"] or study.seeds(row["system"])]


def write_tables(found: Sequence[Table], folder: Path) -> None:
    """Write each as a CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in found:
        rows = [_flat(row) for row in table.rows]
        write_csv(folder / f"{table.name}.csv", list(rows[0]), rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("paper", "beside")}
    flat |= {f"tanh_{name}": row["beside"][name] for name in COLUMNS if "beside" in row}
    flat["seeds"] = " ".join(map(str, row["seeds"]))
    flat["failed"] = "; ".join(f"seed {seed}: {why}" for seed, why in row["failed"].items())
    flat["delong"] = " ".join(f"{value:.4g}" for value in row["delong"] or ())
    paper = row["paper"] or {}
    return {**flat, **{f"paper_{name}": paper.get(name) for name in COLUMNS}}


def mean_curve(study: Study, system: str, on_subset: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The ROC curve of a system: sensitivity at each false-positive rate, averaged over seeds."""
    curves = []
    for seed in study.seeds(system):
        scored = study.scored(system, seed, on_subset)
        curve = roc_curve_points(scored.labels, scored.total)
        curves.append(np.interp(GRID, curve.false_positive_rate, curve.sensitivity))
    return (GRID, np.mean(curves, axis=0)) if curves else None


def mean_pixel_curve(study: Study, system: str) -> tuple[np.ndarray, np.ndarray] | None:
    """As ``mean_curve``, pixel by pixel."""
    curves = []
    for seed in study.seeds(system):
        pixels = study.pixels(system, seed)
        marked, normal = pixels.flagged(np.ones((1, len(pixels.counts))))
        curves.append(np.interp(GRID, np.append(0, normal[0]), np.append(0, marked[0])))
    return (GRID, np.mean(curves, axis=0)) if curves else None
