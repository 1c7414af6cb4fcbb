"""Commands on what was written before: what a folder is, and a model as one graph."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fanogan.cli import console
from fanogan.cli.arguments import UsageError
from fanogan.cli.commands import RESEARCH_ONLY
from fanogan.cli.console import say
from fanogan.text import counted, plural, seen_through

if TYPE_CHECKING:
    from fanogan.recipes import Recipe

ALPHAS = (0.05, 0.01)


def info(path: Path) -> None:
    """Say what a model, a run, a prepared store or a folder of results is.

    Example: fanogan info runs/retina

    Args:
        path: the folder.
    """
    from fanogan.retina import is_store

    if is_store(path):
        _store(path)
    elif (path / "model.json").exists() or (path / "model" / "model.json").exists():
        _model(path)
    elif (path / "config.yaml").exists():
        _unfinished(path)
    elif (path / "scores.csv").exists():
        _results(path)
    else:
        raise UsageError(
            f"{path}: no model, run, prepared store or results here; give the folder that fit, "
            "prepare, score or evaluate has written"
        )


def export(model: Path, to: str, out: Path) -> None:
    """Write a model as one graph, alone or in a folder that scores images without PyTorch.

    Example: fanogan export runs/retina --to onnx --out retina.onnx

    Args:
        model: a run folder or a model folder.
        to: onnx (for ONNX Runtime and others) or openvino, a file that holds preprocessing, score,
            map and threshold of a window; folder, which scores whole images with ONNX Runtime; or
            triton, a folder for the repository of Triton or OpenVINO Model Server.
        out: the file to write, .onnx, or .xml and beside it .bin; or the folder.
    """
    from fanogan.detectors import Detector
    from fanogan.export import export as export_model

    with console.status("writing the graph, and comparing it with PyTorch"):
        difference = export_model(Detector.load(model, device="cpu").model, to, out)
    say(f"{out}: equal to PyTorch within {difference:.1g} when read back")
    say(RESEARCH_ONLY)


def merge(results: Sequence[Path], out: Path) -> None:
    """Put the results of all shards together: one table, one page, all maps.

    Example: fanogan merge shards/* --out results

    Args:
        results: the folders that score --shard has written, in any order.
        out: the folder for the whole.
    """
    from fanogan.scoring import merge as merge_results

    if not results:
        raise UsageError("no results: fanogan merge RESULTS RESULTS … --out DIR")
    with console.status("putting the shards together"):
        merged = merge_results(results, out)
    console.say_scores(merged.table)
    shards, files = counted(len(results), "shard"), counted(merged.linked, "file")
    say(f"{shards} · {files} of maps under a second name (hard links), {merged.copied:,} copied")
    say(f"{out}/report.html · {out}/scores.csv")
    say(RESEARCH_ONLY)


def _model(path: Path) -> None:
    from fanogan.scoring import read_model

    model = read_model(path)
    data, seen = model.provenance["fingerprint"], model.preprocessing
    say(f"model of the detector {model.detector}, made by fanogan {model.fanogan}")
    say(f"recipe {_recipe(model.recipe)}")
    images, subjects = counted(data["images"], seen.kind), counted(data["subjects"], "subject")
    sides = " and ".join(
        f"{low:,} to {high:,} {name}" if low < high else f"{low:,} {name}"
        for name, (low, high) in (("rows", model.profile.rows), ("columns", model.profile.columns))
    )
    say(
        f"learned from {images} of {subjects}: {sides}, {counted(seen.channels, 'channel')}, "
        f"{seen.depth}, grey values from {seen.low:g} to {seen.high:g}"
    )
    flat = ", the retina flattened" if seen.retina else ""
    say(f"{seen_through(seen.window, seen.image_size, seen.kind)}{flat}")
    every = {"fp32": model.calibration, **model.calibrations}
    for precision, calibration in every.items():
        within = f" in {precision}" if len(every) > 1 else ""
        for unit, held_out in calibration.units.items():
            noun = seen.noun if unit == "image" else unit
            for alpha in ALPHAS:
                say(f"{plural(noun)}{within}: {held_out.describe(alpha, noun)}")
    for warning in model.provenance["warnings"]:
        say(f"training: {warning}", "yellow")
    if not model.provenance["warnings"]:
        say("training: no warning")
    say(f"seed {model.provenance['seed']}")
    say(f"SHA-256 of the images {data['sha256']}")
    say(f"SHA-256 of the weights {model.weights_sha256}")


def _recipe(recipe: Recipe) -> str:
    """Return a recipe's name, and what differs from the shipped one of that name."""
    from fanogan.recipes import load_recipe, recipe_names

    base = recipe.name.split(" with ")[0]
    if base not in recipe_names():
        return f"{recipe.name}, of your own"
    shipped = vars(load_recipe(base))
    changed = [
        f"{key}={value} (shipped: {shipped[key]})"
        for key, value in vars(recipe).items()
        if key not in ("name", "about") and value != shipped[key]
    ]
    return f"{base}, {', '.join(changed) or 'as it is shipped'}"


def _unfinished(path: Path) -> None:
    from fanogan.training import RunFolder, read_metrics

    config = RunFolder(path, resume=True).config
    if "recipe" not in config:
        raise UsageError(f"{path}: its config.yaml is not of a run of fanogan fit")
    say(f"run of the detector {config.get('detector')}, not finished")
    for last in read_metrics(path)[-1:]:
        say(f"last line of metrics: {last['stage']}, step {last['step']:,}")
        for warning in last.get("warnings", ()):
            say(f"training: {warning}", "yellow")
    if config.get("origin") is None:
        say("it was begun in Python: resume it there, with fit(normals, out=…, resume=True)")
    else:
        say(f"resume it: fanogan fit --resume {path}")


def _store(path: Path) -> None:
    from fanogan.retina import stored_volumes

    volumes = stored_volumes(path)
    known = [volume.attributes for volume in volumes]
    bscans = sum(each["bscans"] for each in known)
    found = sum(each["found"] * each["bscans"] for each in known) / bscans
    space = volumes[0].space
    say(
        f"prepared store of {counted(len(volumes), 'scan')}, "
        f"{counted(bscans, 'B-scan')}, of "
        f"{counted(len({volume.group for volume in volumes}), 'subject')}"
    )
    stretched = ", the retina stretched to one thickness" if space.stretched else ""
    say(f"flattened to {space.rows} rows{stretched}")
    say(f"retina found in {100 * found:.1f} % of columns")
    spacings = Counter(tuple(each["spacing"]) for each in known)
    for spacing, count in spacings.most_common(3):
        lengths = " × ".join("?" if length is None else f"{length:.3g}" for length in spacing)
        say(f"spacing {lengths} mm: {count:,}")
    if len(spacings) > 3:
        say(f"and {counted(len(spacings) - 3, 'other spacing')}")


def _results(path: Path) -> None:
    from fanogan.scoring import Table, read_csv

    kind = "evaluation" if (path / "metrics.json").exists() else "results"
    subjects, units, flagged, warned = set(), Counter[str](), Counter[str](), 0
    try:
        table = Table(path / "scores.csv", sum(1 for _ in read_csv(path / "scores.csv")))
        for row in table:
            subjects.add(row["subject"])
            units[row["unit"]] += 1
            flagged[row["unit"]] += row["flag"] == "yes"
            warned += bool(row["warnings"])
    except (KeyError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{path / 'scores.csv'}: neither score nor evaluate has written it so "
            f"({type(error).__name__} {error})"
        ) from None
    counts = ", ".join(
        f"{counted(count, unit)} ({flagged[unit]:,} flagged)" for unit, count in units.items()
    )
    say(f"{kind}: {counts}, of {counted(len(subjects), 'subject')}")
    if warned:
        say(f"{counted(warned, 'row')} with a warning, such as unlike training", "yellow")
    if len(table):
        console.say_scores(table)
    say(f"{path}/report.html")
