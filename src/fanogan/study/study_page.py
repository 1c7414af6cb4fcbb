"""The page of a study: claims first, then tables, figures and pictures, in one file."""

from __future__ import annotations

import json
from pathlib import Path

from fanogan.recipes import Recipe
from fanogan.report import histogram_figure
from fanogan.storage import write_whole
from fanogan.study import claims
from fanogan.study.drawings import ANOMALOUS, LINE, NORMAL, curves_figure, save_figure
from fanogan.study.outcomes import Level, Study
from fanogan.study.paper import RATER_ACCURACY, SECONDS
from fanogan.study.reconstructions import Pictures, detail, grids, interpolations, times
from fanogan.study.systems import GAN, SYSTEMS
from fanogan.study.tables import (
    FALSE_POSITIVE_RATES,
    mean_curve,
    row_of,
    rows_without_learning,
    tables,
    write_tables,
)
from fanogan.study.test_sets import StudyData
from fanogan.text import counted, harmless, number, percent, plural, share

CURVES: dict[str, tuple[str, Level, tuple[str, ...]]] = {
    "fig8a": ("Fig. 8a", "images", ("ae", "advae", "ali", "critic", "iterative", "izi_f")),
    "fig8b": ("Fig. 8b", "images", ("ziz", "izi", "izi_f")),
    "figB2": ("Fig. B2", "pixels", ("ae", "advae", "ali", "izi_f")),
}


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
    all_tables, findings = tables(study), claims.findings(study)
    write_tables(all_tables, study.folder / "tables")
    claims.write_claims(findings, study.folder / "tables" / "claims.csv")
    recipe = Recipe.from_dict(study.settings["recipe"])
    data = StudyData.find(Path(study.settings["data"]))
    data = data.flattened(recipe, study.folder / "prepared")
    # The pictures are of the first seed of f-AnoGAN, or of any system.
    seeds = study.seeds("izi_f") or study.seeds()
    pictures = Pictures(study, seeds[0] if seeds else 0, data, device)
    figures = study.folder / "figures"
    curves = _curves(study, figures)
    picture_grids = grids(pictures, figures)
    paths, smoothness = interpolations(pictures, figures)
    numbers = {
        "smoothness": smoothness,
        "smoothness_seed": pictures.seed,
        "detail": detail(pictures),
        "raters": [{"seed": at, **study.result(GAN, at)["rater"]} for at in study.seeds(GAN)],
        "false_positive_rates": claims.false_positive_rates(study),
        "orders": claims.detection_and_localisation(study),
    }
    write_whole(study.folder / "tables" / "numbers.json", json.dumps(numbers, indent=1).encode())
    environment = Environment(
        loader=PackageLoader("fanogan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,  # no markup
    )
    environment.filters.update(amount=amount, signed=claims.signed, counted=counted)
    environment.filters.update(number=number, percent=percent, share=share)
    tested = study.first_tested()
    html = environment.get_template("study.html").render(
        numbers,
        study=study,
        others=sum(bool(study.seeds(name)) for name in study.systems) - 1,
        recipe=recipe,
        data=study.successes[0]["fingerprint"],
        tested=tested,
        tested_subjects=len(set(tested.subjects)),
        seeds=sorted({outcome["seed"] for outcome in study.outcomes}),
        notes=_notes(study),
        findings=findings,
        tables=all_tables,
        curves=curves,
        pictures=[*paths, *picture_grids],
        timed=times(pictures),
        paper_seconds=SECONDS,
        paper_rater_accuracy=RATER_ACCURACY,
    )
    page = study.folder / "report.html"
    write_whole(page, html.encode())
    return page


def _notes(study: Study) -> list[str]:
    """Return what a reader must know before the numbers."""
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
    own = row_of(study, "izi_f")["auc"]
    notes += [
        f"{row['title']}, which needs no trained network, has AUC {share(row['auc'])} where "
        f"f-AnoGAN has {share(own)}"
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


def _curves(study: Study, folder: Path) -> list[dict[str, str]]:
    """Fig. 8, B2 and B3."""
    figures = []
    for name, (title, level, systems) in CURVES.items():
        curves = {}
        for system in systems:
            of: Level = "subset" if SYSTEMS[system].on_subset else level
            curve = mean_curve(study, system, of)
            if curve is not None:
                curves[system] = (curve, row_of(study, system, of)["auc"])
        if curves:
            what = "Detection" if level == "images" else "Localisation, pixel by pixel"
            caption = f"{what}: ROC curves and AUC. Mean over seeds."
            if "iterative" in curves:
                caption += " The iterative search on its subset."
            drawing = curves_figure(FALSE_POSITIVE_RATES, curves)
            figures.append(save_figure(folder, name, title, caption, drawing))
    if study.seeds("izi_f"):
        seed = study.seeds("izi_f")[0]
        scored = study.scored("izi_f", seed)
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


def amount(count: float) -> str:
    """Return a large count with three digits: 2.24 G, 14.1 T."""
    for letter, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return f"{count:,.0f}"
