"""The command that lays models and runs side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.cli import bars, console
from fanogan.cli.arguments import UsageError, pictures_as, value_errors_as_usage
from fanogan.cli.commands import RESEARCH_ONLY, count_images
from fanogan.cli.console import say
from fanogan.text import counted, number, plural, share

if TYPE_CHECKING:
    from fanogan.recipes import Recipe
    from fanogan.report import SideBySide

ALPHAS = (0.05, 0.01)
NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class _Column:
    """What is known of one model or run.

    Attributes:
        finished: Whether there is a model.
        settings: What it was made with, by names.
        calibration: What can be flagged, by names.
        metrics: The lines of its ``metrics.jsonl``.
        warnings: Of its training.
    """

    finished: bool
    settings: Mapping[str, Any]
    calibration: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]


def compare(
    models: Sequence[Path],
    out: Path | None = None,
    normal: Sequence[str] | None = None,
    anomalous: Sequence[str] | None = None,
    groups: str | None = None,
    bscans: bool = False,
    volumes: bool = False,
    device: str = "auto",
) -> None:
    """Lay models or runs side by side: settings that differ, training, calibration, scores.

    Example: fanogan compare runs/first runs/second --out comparison

    Args:
        models: two or more run folders or model folders; a run need not be finished.
        out: the folder for report.html, which has the curves of training too.
        normal: normal images that none of them has seen, to score all of them on.
        anomalous: anomalous images; fanogan evaluate with --beside takes masks and says more.
        groups: how subjects are named, as for fit; intervals resample subjects.
        bscans: the pictures of a folder are single B-scans of the retina, as for prepare.
        volumes: the pictures of a folder are a volume of the retina, as for prepare.
        device: auto, cpu, cuda, one of several GPUs as cuda:1, or mps.
    """
    if len(models) < 2:
        raise UsageError("one alone can't be compared: give two or more runs or models")
    if bool(normal) != bool(anomalous):
        raise UsageError("scores need both kinds: give --normal and --anomalous, or neither")
    reading = {"groups": groups, "pictures": pictures_as(bscans, volumes)}
    names = {f"#{place}": str(path) for place, path in enumerate(models, 1)}
    columns = list(map(_column, models))
    tables = [_settings(columns)]
    if normal and anomalous:
        for path, column in zip(models, columns, strict=True):
            if not column.finished:
                raise UsageError(
                    f"{path}: has no model yet to score with; leave it out, or --normal and "
                    "--anomalous"
                )
        tables.append(_scores(models, list(normal), list(anomalous), device, reading))
    tables += [_training(columns), _calibration(columns)]
    for heading, name in names.items():
        say(f"{heading}  {name}")
    for table in tables:
        console.say_side_by_side(list(names), table)
    warnings = {heading: each.warnings for heading, each in zip(names, columns, strict=True)}
    for heading, sentences in warnings.items():
        for sentence in sentences or ["none"]:
            say(f"{heading} warning of training: {sentence}", "yellow" if sentences else "")
    if out:
        from fanogan.report import write_comparison
        from fanogan.scoring import whole_folder

        metrics = {heading: each.metrics for heading, each in zip(names, columns, strict=True)}
        with whole_folder(out, ["report.html"]) as folder:
            write_comparison(folder / "report.html", names, tables, metrics, warnings)
        say(f"{out}/report.html")
    say(RESEARCH_ONLY)


def _column(path: Path) -> _Column:
    from fanogan.training import read_metrics

    metrics = read_metrics(path)
    if any((path / name).exists() for name in ("model.json", "model/model.json")):
        from fanogan.calibration import held_out_needed
        from fanogan.scoring import read_model

        model = read_model(path)
        data = model.provenance["fingerprint"]
        settings = {
            "detector": model.detector,
            **_recipe(model.recipe),
            "seed": model.provenance["seed"],
            "images": data["images"],
            "subjects": data["subjects"],
            "held-out subjects": data["held_out_subjects"],
            "SHA-256 of the images": data["sha256"][:12],
            "fanogan": model.fanogan,
        }
        calibration = {}
        for unit, held_out in model.calibration.units.items():
            noun = plural(model.preprocessing.noun if unit == "image" else unit)
            of = counted(held_out.n_subjects, "subject")
            calibration[f"held-out {noun}"] = f"{held_out.n:,} of {of}"
            for alpha in ALPHAS:
                threshold, needed = held_out.threshold(alpha), held_out_needed(alpha)
                calibration[f"{noun} flagged at {100 * alpha:g} %"] = (
                    f"none: {counted(needed - held_out.n_subjects, 'more held-out subject')} needed"
                    if threshold is None
                    else f"above {number(threshold)}"
                )
        return _Column(True, settings, calibration, metrics, model.provenance["warnings"])
    if (path / "config.yaml").exists():
        from fanogan.recipes import Recipe
        from fanogan.training import RunFolder

        config = RunFolder(path, resume=True).config
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            settings = {
                "detector": config["detector"],
                **_recipe(Recipe.from_dict(config["recipe"])),
                "seed": config["seed"],
                "SHA-256 of the images": config["data"][:12],
                "fanogan": config["fanogan"],
            }
            last = metrics[-1].get("warnings", []) if metrics else []
            return _Column(False, settings, {}, metrics, ["not finished", *last])
    there = "neither a model nor a run" if path.exists() else "no such folder"
    raise UsageError(f"{path}: {there}; give folders that fanogan fit has written")


def _recipe(recipe: Recipe) -> dict[str, Any]:
    fields = {"recipe": recipe.name, **vars(recipe)}
    return {key: value for key, value in fields.items() if key not in ("name", "about")}


def _settings(columns: Sequence[_Column]) -> SideBySide:
    from fanogan.report import SideBySide

    keys = dict.fromkeys(key for column in columns for key in column.settings)
    rows = {key: [_text(column.settings.get(key)) for column in columns] for key in keys}
    rows = {key: cells for key, cells in rows.items() if len(set(cells)) > 1}
    return SideBySide("Settings that differ", rows, [] if rows else ["None: all are the same."])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return NOTHING if value is None else f"{value}"


def _training(columns: Sequence[_Column]) -> SideBySide:
    """Return the last figures of each stage."""
    from fanogan.report import SideBySide

    rows: dict[str, list[str]] = {}
    for place, column in enumerate(columns):
        last = {line["stage"]: line for line in column.metrics}
        for stage, line in last.items():
            for key, value in line.items():
                if isinstance(value, int | float):
                    name = f"{stage}: {key.replace('_', ' ')}"
                    cells = rows.setdefault(name, [NOTHING] * len(columns))
                    cells[place] = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    none = [] if rows else ["No run folder among them, or none with stages: nothing is known."]
    return SideBySide("Training, the last figures", rows, none)


def _calibration(columns: Sequence[_Column]) -> SideBySide:
    from fanogan.report import SideBySide

    keys = dict.fromkeys(key for column in columns for key in column.calibration)
    rows = {key: [column.calibration.get(key, NOTHING) for column in columns] for key in keys}
    return SideBySide("Calibration", rows, [] if rows else ["No model yet."])


def _scores(
    models: Sequence[Path],
    normal: list[str],
    anomalous: list[str],
    device: str,
    reading: Mapping[str, Any],
) -> SideBySide:
    """Evaluate the models on one labelled set: the first, with the others beside it."""
    from fanogan.detectors import Detector, linear
    from fanogan.evaluation import evaluate
    from fanogan.report import SideBySide, alarms, lead

    with value_errors_as_usage():
        first, *others = (Detector.load(path, device=device).model for path in models)
    files = sum(count_images(first, source, **reading) for source in (normal, anomalous))
    passes = 2 + (linear(first) is not None) + len(others)
    with (
        tempfile.TemporaryDirectory() as page,
        bars.counting_bar("scoring, trained and untrained", passes * files) as on_result,
    ):
        found = evaluate(
            first, normal, anomalous, page, beside=others, on_result=on_result, **reading
        )
    ours = [row for row in found["rows"] if row["kind"] in ("method", "other")]
    rows = {
        "AUC": [share(row["auc"]) for row in ours],
        "95 % interval": [
            " to ".join(map(share, row["auc_interval"])) if row["auc_interval"] else NOTHING
            for row in ours
        ],
        "average precision": [share(row["average_precision"]) for row in ours],
    }
    sentences = [f"#1: {sentence}" for sentence in (*lead(found), *alarms(found))]
    return SideBySide("Scores on the labelled images", rows, sentences)
