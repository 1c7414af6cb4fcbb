"""The page of a study: claims first, then tables, figures and pictures, in one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fanogan.amounts import counted, number, percent, plural, share
from fanogan.recipes import Recipe
from fanogan.report import histogram_figure
from fanogan.storage import write_whole
from fanogan.study.claims import (
    Finding,
    detection_and_localisation,
    false_positive_rates,
    findings,
    signed,
    write_claims,
)
from fanogan.study.drawings import (
    ANOMALOUS,
    LINE,
    NORMAL,
    PageFigure,
    curves_figure,
    save_figure,
)
from fanogan.study.outcomes import Study
from fanogan.study.paper import PIXELS, RATER_ACCURACY, SECONDS
from fanogan.study.reconstructions import Pictures, grids, interpolations, times
from fanogan.study.systems import GAN, SYSTEMS
from fanogan.study.tables import (
    FALSE_POSITIVE_RATES,
    Row,
    Table,
    image_row,
    mean_curve,
    mean_pixel_curve,
    pixel_row,
    rows_without_learning,
    tables,
    write_tables,
)
from fanogan.study.test_sets import StudyData

FIG_8A = ("ae", "advae", "ali", "critic", "iterative", "izi_f")
FIG_8B = ("ziz", "izi", "izi_f")
VERDICTS = {"holds": "holds", "reverse": "does not hold", "open": "open", "unknown": "not known"}


def write_study_report(folder: str | Path, *, device: str = "auto") -> Path:
    """Write ``report.html``, ``tables/*.csv`` and ``figures/*.svg, *.pdf`` of what is done.

    Args:
        folder: The study's.
        device: For pictures and times.

    Returns:
        The page.

    Raises:
        BadStudy: There is no study, or nothing of it is done.
        OSError: The folder can't be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    study = Study(Path(folder))
    all_tables, all_findings = tables(study), findings(study)
    write_tables(all_tables, study.folder / "tables")
    write_claims(all_findings, study.folder / "tables" / "claims.csv")
    recipe = Recipe.from_dict(study.settings["recipe"])
    data = StudyData.find(Path(study.settings["data"])).flattened(recipe, study.folder / "prepared")
    # The pictures are of the first seed of f-AnoGAN, or of any system.
    seeds = study.seeds("izi_f") or study.seeds()
    pictures = Pictures(study, seeds[0] if seeds else 0, data, device)
    figures = study.folder / "figures"
    curves = _curves(study, figures)
    picture_grids = grids(pictures, figures)
    paths, smoothness = interpolations(pictures, figures)
    timed = times(pictures)
    milliseconds = timed["milliseconds"]
    own = milliseconds.get("izi_f")
    numbers = {
        "smoothness": {name: dataclasses.asdict(each) for name, each in smoothness.items()},
        "smoothness_seed": pictures.seed,
        "raters": [{"seed": at, **study.result(GAN, at)["rater"]} for at in study.seeds(GAN)],
        "false_positive_rates": false_positive_rates(study),
        "orders": detection_and_localisation(study),
    }
    write_whole(study.folder / "tables" / "numbers.json", json.dumps(numbers, indent=1).encode())
    environment = Environment(
        loader=PackageLoader("fanogan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=share, percent=percent, number=number)
    others = sum(bool(study.seeds(name)) for name in study.systems) - 1
    html = environment.get_template("study.html").render(
        numbers,
        title=f"f-AnoGAN beside {counted(others, 'other system')}",
        conditions=_conditions(study, recipe),
        notes=_notes(study),
        claims=_grouped(all_findings),
        tables=[_shown_table(study, table) for table in all_tables],
        curves=curves,
        pictures=[*paths, *picture_grids],
        times=[
            {
                "title": study.systems[name].title,
                "milliseconds": number(value),
                "ratio": "" if own is None else f"{value / own:,.3g}",
            }
            for name, value in sorted(milliseconds.items(), key=lambda item: item[1])
        ],
        timed=timed,
        ratio=milliseconds["iterative"] / own if own and "iterative" in milliseconds else None,
        paper_ratio=SECONDS["iterative"] / SECONDS["izi_f"],
        rater_paper=RATER_ACCURACY,
    )
    page = study.folder / "report.html"
    write_whole(page, html.encode())
    return page


def _conditions(study: Study, recipe: Recipe) -> dict[str, str]:
    scored, data = study.first_tested(), study.successes[0]["fingerprint"]
    subjects = len(set(scored.subjects))
    return {
        "recipe": " · ".join(filter(None, (recipe.name, recipe.about))),
        "trained on": f"{counted(data['images'], 'normal image')} of "
        f"{counted(data['subjects'], 'subject')}, {data['held_out_images']:,} of "
        f"{data['held_out_subjects']:,} held out",
        "tested on": f"{counted(len(scored.keys), scored.unit)} of {counted(subjects, 'subject')}, "
        f"{int(scored.labels.sum()):,} anomalous ({percent(float(scored.labels.mean()))})",
        "subset": f"{len(study.subset):,}",
        "seeds": ", ".join(map(str, sorted({outcome["seed"] for outcome in study.outcomes}))),
    }


def _notes(study: Study) -> list[str]:
    """What a reader must know before the numbers."""
    seeds = {outcome["seed"] for outcome in study.outcomes}
    subjects = len(set(study.first_tested().subjects))
    notes = []
    if len(seeds) < 3:
        notes.append(
            f"{counted(len(seeds), 'seed')}: what differs between trainings "
            "can't be told from what differs between systems; give --seeds 3 or more"
        )
    if subjects < 20:
        notes.append(
            f"intervals resample {counted(subjects, 'subject')}, which makes them too narrow"
        )
    own = image_row(study, "izi_f")["auc"]
    notes += [
        f"{row['title']}, which needs no learning, has AUC {share(row['auc'])} where f-AnoGAN has "
        f"{share(own)}"
        for row in rows_without_learning(study)
        if row["auc"] > own
    ]
    notes += [
        f"{system.title}, seed {seed}, failed: {why}"
        for name, system in study.systems.items()
        for seed, why in study.failures(name).items()
    ]
    warned: dict[str, list[str]] = {}
    for outcome in study.successes:
        whose = f"{study.systems[outcome['system']].title}, seed {outcome['seed']}"
        for sentence in outcome["warnings"]:
            warned.setdefault(sentence, []).append(whose)
    for sentence, systems in warned.items():
        whose = "all" if len(systems) == len(study.successes) else "; ".join(systems)
        notes.append(f"{sentence} ({whose})")
    return notes


def _grouped(findings: list[Finding]) -> list[dict[str, Any]]:
    """Claims under their headings, as the page lists them."""
    groups: dict[str, list[dict[str, str]]] = {}
    for finding in findings:
        verdict = finding.verdict
        entry = {"verdict": verdict, "word": VERDICTS[verdict], "sentence": finding.sentence}
        groups.setdefault(finding.claim.group, []).append(entry)
    return [{"heading": name, "claims": claims} for name, claims in groups.items()]


def _curves(study: Study, folder: Path) -> list[PageFigure]:
    """Fig. 8, B2 and B3."""
    figures = []
    curves = {}
    for name in dict.fromkeys((*FIG_8A, *FIG_8B)):
        on_subset = SYSTEMS[name].on_subset
        curve = mean_curve(study, name, on_subset)
        if curve is not None:
            curves[name] = (curve, image_row(study, name, on_subset)["auc"])
    for name, title, systems in (("fig8a", "Fig. 8a", FIG_8A), ("fig8b", "Fig. 8b", FIG_8B)):
        shown = {each: curves[each] for each in systems if each in curves}
        if shown:
            caption = "Detection: ROC curves and AUC. Mean over seeds."
            if "iterative" in shown:
                caption += " The iterative search on its subset."
            drawing = curves_figure(FALSE_POSITIVE_RATES, shown)
            figures.append(save_figure(folder, name, title, caption, drawing))
    pixels = {name: mean_pixel_curve(study, name) for name in PIXELS}
    shown = {
        name: (curve, pixel_row(study, name)["auc"])
        for name, curve in pixels.items()
        if curve is not None
    }
    if shown:
        caption = "Localisation, pixel by pixel: ROC curves and AUC. Mean over seeds."
        drawing = curves_figure(FALSE_POSITIVE_RATES, shown)
        figures.append(save_figure(folder, "figB2", "Fig. B2", caption, drawing))
    if study.seeds("izi_f"):
        seed = study.seeds("izi_f")[0]
        scored = study.scored("izi_f", seed, False)
        series = [
            ("normal", scored.total[scored.labels == 0], NORMAL),
            ("anomalous", scored.total[scored.labels == 1], ANOMALOUS),
        ]
        threshold = study.metrics("izi_f", seed)["calibrated"]["threshold"]
        caption = f"Scores of f-AnoGAN on all test {plural(scored.unit)}, seed {seed}."
        drawing = histogram_figure(series, threshold)
        for axes in drawing.axes:
            axes.grid(axis="y", color=LINE)
        figures.append(save_figure(folder, "figB3", "Fig. B3", caption, drawing))
    return figures


# --- tables on the page -------------------------------------------------------------------------


def _shown_table(study: Study, table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "about": table.about,
        "columns": [name.replace("_", "-") for name in table.columns],
        "rows": [_shown_row(study, table, row) for row in table.rows],
        "delong": any(row["delong"] for row in table.rows),
    }


def _shown_row(study: Study, table: Table, row: Row) -> dict[str, Any]:
    beside = row.get("beside") or {}  # in parentheses
    paper, paper_beside = row["paper"] or {}, beside.get("paper") or {}
    cells = [
        {
            "value": share(row[name]) + _in_parentheses(beside.get(name), share),
            "spread": "" if row[f"{name}_spread"] is None else f"± {row[f'{name}_spread']:.3f}",
            "paper": f"{paper[name]:.4f}" + _in_parentheses(paper_beside.get(name), "{:.4f}".format)
            if name in paper
            else "",
        }
        for name in table.columns
    ]
    return {
        "title": row["title"],
        "kind": "method" if row["system"] == "izi_f" else "",
        "needs_no_learning": row["system"] not in study.systems,
        "cells": cells,
        "interval": _edges(row["auc_low"], row["auc_high"], share),
        "difference": "" if row["difference"] is None else signed(row["difference"]),
        "difference_interval": _edges(row["difference_low"], row["difference_high"], signed),
        "delong": ", ".join(f"{value:.2g}" for value in row["delong"] or ()),
        "untrained": share(row["untrained"]),
        "cost": "" if row["multiply_adds"] is None else amount(row["multiply_adds"]),
        "seeds": len(row["seeds"]),
        "failed": [f"seed {seed} failed: {why}" for seed, why in row["failed"].items()],
    }


def _edges(low: float | None, high: float | None, written: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f"{written(low)} to {written(high)}"


def _in_parentheses(value: float | None, written: Callable[[float], str]) -> str:
    return "" if value is None else f" ({written(value)})"


def amount(count: float) -> str:
    """Return a large count with three digits: 2.24 G, 14.1 T."""
    for letter, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:,.0f}"
