"""What the benchmarks share: where data lies, where results go, and tables in the docs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanogan import FAnoGAN, Recipe, Scan
from fanogan.data import Normals
from fanogan.detectors import Detector, linear, new_detector, untrained
from fanogan.evaluation import calibrated_row, compared_rows, trivial_scores
from fanogan.scoring import Model, encode, score, score_encoded
from fanogan.storage import write_whole

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmark_details.md"
SUMMARY = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"  # numbers, kept with the code
RUNS = ROOT / "runs" / "benchmarks"  # networks and prepared scans, which git ignores


def data_folder(argument: str | None) -> Path:
    """The folder of the benchmark data: an argument, FANOGAN_DATA, or ../shared/data."""
    folder = Path(argument or os.environ.get("FANOGAN_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        sys.exit(f"{folder}: no data here; give --data, or set FANOGAN_DATA")
    return folder


def commit() -> str:
    """The commit that is checked out, marked where tracked sources differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "src", "benchmarks")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """The machine in words, without its name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return f"{len(names) or os.cpu_count()} cores {names[0] if names else platform.machine()}"


def conditions(**more: Any) -> dict[str, Any]:
    """What a result must carry."""
    return {
        "commit": commit(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **more,
    }


def done(path: Path) -> dict[str, Any] | None:
    """The result in a file, if it is there already."""
    return json.loads(path.read_text()) if path.exists() else None


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result whole or not at all."""
    write_whole(path, json.dumps(result).encode())


def evaluated(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> dict[str, Any]:
    """The rows of a model on labelled images, and what its calibrated threshold reaches."""
    scores = score(model, images)
    without_training = score(untrained(model), images).total
    trivial = trivial_columns(images)
    if (statistics := model.profile.statistics) is not None:
        distances = [statistics.distance(image / 255) for image in images]
        trivial["three statistics"] = np.array(distances)
    if (projected := linear(model)) is not None:
        trivial["PCA residual"] = score(projected, images).total
    terms = {"total": scores.total, "image": scores.image, "feature": scores.feature}
    return {
        "rows": compared_rows(labels, terms, without_training, trivial, groups),
        "calibrated": calibrated_row(
            labels, scores.total, model.calibration.units.get("image"), alpha
        ),
        "n": len(labels),
        "n_anomalous": int(labels.sum()),
    }


def learnt_and_scored(
    normals: Normals, recipe: Recipe, seed: int, path: Path, tested: Sequence[Scan]
) -> tuple[dict[str, np.ndarray], float | None]:
    """Train f-AnoGAN and an autoencoder of equal cost for a result, and score signals or volumes.

    Returns:
        Scores, (n,) each: 'total', 'image' and 'feature', 'ae', and of what has learnt nothing
        'untrained' and 'PCA residual'; and the minutes as `trained` returns them.
    """
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, normals, path)
    autoencoder = new_detector("ae", recipe, seed=seed)
    trained(autoencoder, normals, path.with_name(f"ae_{path.name}"))
    projected = linear(detector.model)
    assert projected is not None
    others = {
        "ae": autoencoder.model,
        "untrained": untrained(detector.model),
        "PCA residual": projected,
    }
    totals = {name: scan_terms(model, tested)["total"] for name, model in others.items()}
    return {**scan_terms(detector.model, tested), **totals}, minutes


def scan_terms(model: Model, scans: Iterable[Scan]) -> dict[str, np.ndarray]:
    """Total and terms of scans that are one unit each, such as signals or volumes."""
    found = [
        (result.total, result.image, result.feature)
        for batch in score_encoded(model, encode(model, scans))
        for result in batch
    ]
    return dict(zip(("total", "image", "feature"), np.array(found).T, strict=True))


def rows_beside(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    trivial: Mapping[str, np.ndarray],
    groups: Sequence[str],
) -> dict[str, Any]:
    """The rows of scores as `learnt_and_scored` returns them, and counts."""
    rows = compared_rows(
        labels,
        scores,
        scores["untrained"],
        {**trivial, "PCA residual": scores["PCA residual"]},
        groups,
        others={"ae": scores["ae"]},
    )
    return {"rows": rows, "n": len(labels), "n_anomalous": int(labels.sum())}


def auc_rows(*columns: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line for each score: its name, and the AUC over the results of each column."""
    shown = {"ae": "autoencoder of equal cost"}
    names = [row["name"] for row in columns[0][0]["rows"]]
    return [
        [shown.get(name, name), *(spread(column(results, name)) for results in columns)]
        for name in names
    ]


def trivial_columns(images: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that need no learning, of 8-bit images: each (n,)."""
    each = [trivial_scores(image / 255) for image in images]
    return {name: np.array([one[name] for one in each]) for name in each[0]}


def run_of(path: Path) -> Path:
    """Where the networks of the result in ``path``, one of RESULTS, are kept: its place in RUNS."""
    return RUNS / path.relative_to(RESULTS).with_suffix("")


def trained(detector: Detector, normals: Any, path: Path, gan: Path | None = None) -> float | None:
    """Train for the result in ``path``, one of RESULTS, perhaps upon a GAN that is trained.

    Returns:
        The minutes it took, or None where a training that was stopped has been resumed.
    """
    run = run_of(path)
    resume = (run / "config.yaml").exists()
    started = time.monotonic()
    detector.fit(normals, gan=gan, out=run, resume=resume)
    return None if resume else (time.monotonic() - started) / 60


def kept_results(folder: Path) -> list[dict[str, Any]]:
    """The results of all seeds that are there, in the order of their seeds."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*.json"))]
    return sorted(found, key=lambda result: result["seed"])


def column(results: Sequence[Mapping[str, Any]], name: str, key: str = "auc") -> list[float]:
    """One figure of one row, of each result."""
    return [row[key] for result in results for row in result["rows"] if row["name"] == name]


def interval(edges: Sequence[float] | None) -> str:
    """A confidence interval, or a dash where there is none."""
    return f"{edges[0]:.3f} to {edges[1]:.3f}" if edges else "–"


def every_result(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The results of all detectors; principal components take seconds, which no training does."""
    return [
        {**result, "minutes": None} if name.startswith("pca") else result
        for name, results in runs.items()
        for result in results
    ]


def circumstances(results: Sequence[Mapping[str, Any]], recipe: str, each: str = "seed") -> str:
    """Recipe, seeds, time, machines and commits of results, as half a sentence."""
    first = results[0]
    minutes = [result["minutes"] for result in results if result["minutes"] is not None]
    took = f"{np.mean(minutes):.1f} minutes a {each}" if minutes else "resumed"
    seeds = sorted({result["seed"] for result in results})
    machines = sorted({result["machine"] for result in results})
    return (
        f"recipe `{recipe}`, seeds {', '.join(map(str, seeds))}, "
        f"last checkpoint, {took} on {' or '.join(machines)} with "
        f"{first['threads']} thread(s), torch {first['torch']}, "
        f"commit {', '.join(sorted({result['commit'] for result in results}))}"
    )


def reached(results: Sequence[Mapping[str, Any]]) -> str:
    """What the calibrated threshold reaches, beside what was asked for, over all results."""
    rows = [result["calibrated"] for result in results]
    asked = f"Calibrated threshold, false-positive rate asked for {100 * rows[0]['alpha']:g} %: "
    known = [row for row in rows if row["threshold"] is not None]
    if not known:
        return f"{asked}{rows[0]['note']}."
    rates = {
        key: [100 * row[key] for row in known] for key in ("false_positive_rate", "sensitivity")
    }
    said = [
        f"{np.mean(values):.1f} % on average, from {min(values):.1f} % to {max(values):.1f} %"
        for values in rates.values()
    ]
    return f"{asked}reached {said[0]}; sensitivity {said[1]}. Seed {results[0]['seed']}: " + (
        f"{known[0]['note']}."
    )


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds or classes, or the one value."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_section(name: str, text: str, path: Path = DOCS) -> None:
    """Put text between a section's markers in the docs, and print it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    if begin not in page:
        page += f"\n{begin}\n{end}\n"
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    write_whole(path, f"{before}{begin}\n{text}\n{end}{after}".encode())
    print(text)
