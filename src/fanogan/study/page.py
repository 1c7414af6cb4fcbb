"""The page of a study: claims first, then tables, figures and pictures, in one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.amounts import counted, number, percent, plural, share
from fanogan.recipes import Recipe
from fanogan.report import histogram_figure
from fanogan.storage import write_whole
from fanogan.study.claims import (
    Finding,
    false_positive_rates,
    findings,
    orders,
    signed,
    write_claims,
)
from fanogan.study.drawings import ANOMALOUS, LINE, NORMAL, Drawn, curves_figure, keep
from fanogan.study.outcomes import Study
from fanogan.study.paper import PIXELS, RATER_ACCURACY, SECONDS
from fanogan.study.reconstructions import Shown, Smoothness, grids, interpolations, times
from fanogan.study.systems import GAN, SYSTEMS
from fanogan.study.tables import (
    Table,
    honest_rows,
    image_row,
    mean_curve,
    mean_pixel_curve,
    pixel_row,
    tables,
    write_tables,
)
from fanogan.study.test_sets import StudyData

FIG8A = ("ae", "advae", "ali", "critic", "iterative", "izi_f")
FIG8B = ("ziz", "izi", "izi_f")
VERDICTS = {"holds": "holds", "reverse": "does not hold", "open": "open", "unknown": "not known"}


def write_study_report(folder: str | Path, *, device: str = "auto") -> Path:
    """Write ``report.html``, ``tables/*.csv`` and ``figures/*.svg, *.pdf`` of what is done.

    Args:
        folder: the study's.
        device: of the networks, for pictures and times.

    Returns:
        The page.

    Raises:
        BadStudy: no study lies there, or nothing of it is done.
        OSError: the folder can't be written.
    """
    study = Study(Path(folder))
    found = tables(study)
    write_tables(found, study.folder / "tables")
    claims = findings(study)
    write_claims(claims, study.folder / "tables" / "claims.csv")
    recipe = Recipe.from_dict(study.settings["recipe"])
    data = StudyData.find(Path(study.settings["data"])).straight(recipe, study.folder / "prepared")
    shown = Shown(study, _first_seed(study), data, device)
    at = study.folder / "figures"
    drawn = _curves(study, at)
    pictures = grids(shown, at)
    between = interpolations(shown, at)
    timed = times(shown)
    smooth = {} if between is None else between[1]
    _write_numbers(study, smooth, shown.seed)
    page = study.folder / "report.html"
    write_whole(
        page,
        _rendered(
            title=f"f-AnoGAN beside {counted(len(_systems(study)) - 1, 'other system')}",
            facts=_facts(study, recipe),
            notes=_notes(study),
            claims=_grouped(claims),
            tables=[_shown_table(table) for table in found],
            figures=drawn,
            pictures=[*([] if between is None else [between[0]]), *pictures],
            smooth=smooth,
            times=_time_rows(timed),
            timed=timed,
            ratio=_ratio(timed["milliseconds"]),
            paper_ratio=SECONDS["iterative"] / SECONDS["izi_f"],
            raters=_raters(study),
            rater_paper=RATER_ACCURACY,
            orders=orders(study),
            alarms=false_positive_rates(study, ("izi_f", "denoising")),
        ).encode(),
    )
    return page


def _first_seed(study: Study) -> int:
    """The seed of the pictures: the first of which f-AnoGAN is done, else the first of any."""
    seeds = study.seeds("izi_f") or [
        outcome["seed"] for outcome in study.outcomes if "failed" not in outcome
    ]
    return seeds[0] if seeds else 0


def _systems(study: Study) -> list[str]:
    return [name for name in SYSTEMS if study.seeds(name)]


def _facts(study: Study, recipe: Recipe) -> dict[str, str]:
    scored = study.scored(*_whole(study), False)
    data = next(outcome["fingerprint"] for outcome in study.outcomes if "failed" not in outcome)
    seeds = sorted({outcome["seed"] for outcome in study.outcomes})
    subjects = len(set(scored.subjects))
    return {
        "recipe": " · ".join(filter(None, (recipe.name, recipe.about))),
        "trained on": f"{counted(data['images'], 'normal image')} of "
        f"{counted(data['subjects'], 'subject')}, {data['held_out_images']:,} of "
        f"{data['held_out_subjects']:,} held out",
        "tested on": f"{counted(len(scored.keys), scored.unit)} of {counted(subjects, 'subject')}, "
        f"{int(scored.labels.sum()):,} anomalous ({percent(float(scored.labels.mean()))})",
        "subset": f"{len(study.subset):,}",
        "seeds": ", ".join(map(str, seeds)),
    }


def _whole(study: Study) -> tuple[str, int]:
    """A system and seed that were tested on all images."""
    for name in SYSTEMS:
        if study.seeds(name) and not SYSTEMS[name].on_subset:
            return name, study.seeds(name)[0]
    return GAN, 0


def _notes(study: Study) -> list[str]:
    seeds = {outcome["seed"] for outcome in study.outcomes}
    subjects = len(set(study.scored(*_whole(study), False).subjects))
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
    notes += _unlearned(study)
    for name in SYSTEMS:
        notes += [
            f"{SYSTEMS[name].title}, seed {seed}, failed: {why}"
            for seed, why in study.failures(name).items()
        ]
    warned: dict[str, list[str]] = {}
    for outcome in study.outcomes:
        for sentence in outcome.get("warnings", ()):
            warned.setdefault(sentence, []).append(
                f"{SYSTEMS[outcome['system']].title}, seed {outcome['seed']}"
            )
    total = sum("failed" not in outcome for outcome in study.outcomes)
    for sentence, whose in warned.items():
        notes.append(f"{sentence} ({'all' if len(whose) == total else '; '.join(whose)})")
    return notes


def _unlearned(study: Study) -> list[str]:
    """What needs no learning and is better than f-AnoGAN."""
    own = image_row(study, "izi_f")["auc"]
    return [
        f"{row['title']}, which needs no learning, has AUC {share(row['auc'])} where f-AnoGAN has "
        f"{share(own)}"
        for row in honest_rows(study)
        if row["auc"] > own
    ]


def _grouped(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Claims by what they are part of, as the page lists them."""
    groups: dict[str, list[dict[str, str]]] = {}
    for one in found:
        entry = {
            "verdict": one.verdict,
            "word": VERDICTS[one.verdict],
            "sentence": one.sentence,
        }
        groups.setdefault(one.claim.group, []).append(entry)
    return [{"heading": name, "claims": claims} for name, claims in groups.items()]


def _curves(study: Study, folder: Path) -> list[Drawn]:
    """Fig. 8, B2 and B3."""
    found = []
    curves = {
        name: (curve, image_row(study, name, SYSTEMS[name].on_subset)["auc"])
        for name in dict.fromkeys((*FIG8A, *FIG8B))
        if (curve := mean_curve(study, name, SYSTEMS[name].on_subset))
    }
    for name, title, systems in (("fig8a", "Fig. 8a", FIG8A), ("fig8b", "Fig. 8b", FIG8B)):
        chosen = {one: curves[one] for one in systems if one in curves}
        if chosen:
            caption = "Detection: ROC curves and AUC. Mean over seeds."
            if "iterative" in chosen:
                caption += " The iterative search on its subset."
            found.append(keep(folder, name, title, caption, curves_figure(chosen)))
    if study.has_pixels():
        pixels = {
            name: (curve, pixel_row(study, name)["auc"])
            for name in PIXELS
            if (curve := mean_pixel_curve(study, name))
        }
        if pixels:
            caption = "Localisation, pixel by pixel: ROC curves and AUC. Mean over seeds."
            found.append(keep(folder, "figB2", "Fig. B2", caption, curves_figure(pixels)))
    if study.seeds("izi_f"):
        found.append(_histogram(study, folder))
    return found


def _histogram(study: Study, folder: Path) -> Drawn:
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
    return keep(folder, "figB3", "Fig. B3", caption, drawing)


# --- tables on the page -------------------------------------------------------------------------


def _shown_table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "about": table.about,
        "columns": [name.replace("_", "-") for name in table.columns],
        "rows": [_shown_row(table, row) for row in table.rows],
        "delong": any(row["delong"] for row in table.rows),
    }


def _shown_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    paper, other = row["paper"] or {}, row.get("beside") or dict.fromkeys(row)
    papers_other = other["paper"] or {}
    cells = [
        {
            "value": share(row[name]) + _in_parentheses(other[name], share),
            "spread": "" if row[f"{name}_spread"] is None else f"± {row[f'{name}_spread']:.3f}",
            "paper": f"{paper[name]:.4f}" + _in_parentheses(papers_other.get(name), _four_digits)
            if name in paper
            else "",
        }
        for name in table.columns
    ]
    return {
        "title": row["title"],
        "kind": "method" if row["system"] == "izi_f" else "",
        "honest": row["system"] not in SYSTEMS,
        "cells": cells,
        "interval": _edges(row["auc_low"], row["auc_high"]),
        "difference": "" if row["difference"] is None else signed(row["difference"]),
        "difference_interval": _edges(row["difference_low"], row["difference_high"], signed),
        "delong": ", ".join(f"{value:.2g}" for value in row["delong"] or ()),
        "untrained": share(row["untrained"]),
        "cost": "" if row["multiply_adds"] is None else amount(row["multiply_adds"]),
        "seeds": len(row["seeds"]),
        "failed": [f"seed {seed} failed: {why}" for seed, why in row["failed"].items()],
    }


def _edges(low: float | None, high: float | None, said: Callable[[float], str] = share) -> str:
    return "" if low is None or high is None else f"{said(low)} to {said(high)}"


def _in_parentheses(value: float | None, said: Callable[[float], str]) -> str:
    return "" if value is None else f" ({said(value)})"


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


def amount(count: float) -> str:
    """A large count with three digits: 2.24 G, 14.1 T."""
    for letter, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:,.0f}"


def _time_rows(timed: Mapping[str, Any]) -> list[dict[str, str]]:
    milliseconds = timed["milliseconds"]
    of = milliseconds.get("izi_f")
    return [
        {
            "title": SYSTEMS[name].title,
            "milliseconds": number(value),
            "ratio": "" if of is None else f"{value / of:,.3g}",
        }
        for name, value in sorted(milliseconds.items(), key=lambda item: item[1])
    ]


def _ratio(milliseconds: Mapping[str, float]) -> float | None:
    if not {"iterative", "izi_f"} <= set(milliseconds):
        return None
    return milliseconds["iterative"] / milliseconds["izi_f"]


def _raters(study: Study) -> list[dict[str, Any]]:
    return [{"seed": seed, **study.result(GAN, seed)["rater"]} for seed in study.seeds(GAN)]


def _write_numbers(study: Study, smooth: Mapping[str, Smoothness], seed: int) -> None:
    """What isn't in a table: how smooth the latents are, raters, false alarms, and the order."""
    found = {
        "smoothness": {name: dataclasses.asdict(one) for name, one in smooth.items()},
        "smoothness_seed": seed,
        "raters": _raters(study),
        "false_positive_rates": false_positive_rates(study, ("izi_f", "denoising")),
        "orders": orders(study),
    }
    write_whole(study.folder / "tables" / "numbers.json", json.dumps(found, indent=1).encode())


def _rendered(**content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fanogan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=share, percent=percent, number=number)
    environment.globals["mean"] = lambda values: float(np.mean(list(values)))
    return environment.get_template("study.html").render(**content)
