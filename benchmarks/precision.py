"""bfloat16 beside fp32: scores, AUC and flags of the same models, and training in either.

Short trainings, which is enough to compare the two and not for the best AUC. Scores: on MNIST,
made-up retinas and OCTDL. Training: on MNIST, also with the penalty in bfloat16, which the package
doesn't offer. Needs a machine with bfloat16. What is done is not done again; --write puts the
tables into docs/benchmark_details.md.

    python benchmarks/precision.py --write
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tables import (
    RESULTS,
    RUNS,
    conditions,
    data_folder,
    done,
    keep,
    kept_results,
    markdown,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, load_recipe
from fanogan.cli.demo import flat_phantom
from fanogan.export import use_engine
from fanogan.phantom import make_phantom
from fanogan.recipes import Recipe
from fanogan.scoring import Model, in_precision, read, score_encoded
from fanogan.training import wgan

DATA = ("mnist", "phantom", "octdl")
TRAININGS = ("fp32", "bf16", "bf16, penalty too")
SHORT = {"critic_updates": 400, "encoder_updates": 400, "batch_size": 32, "log_every": 20}
ENGINES = ("torch", "openvino")


def of_mnist(folder: Path, seed: int) -> tuple[Recipe, Any, Any, np.ndarray, dict[str, Any]]:
    """A recipe, normals, test images, their labels and how to read them: digit 3 + seed."""
    file = np.load(folder / "mnist.npz")
    digit = 3 + seed
    normals = file["train_images"][file["train_labels"] == digit][:3000]
    labels = (file["test_labels"][:2000] != digit).astype(int)
    recipe = load_recipe("small").but(horizontal_flip=False, image_size=(28, 28), **SHORT)
    return recipe, normals, file["test_images"][:2000], labels, {}


def of_phantom(folder: Path, seed: int) -> tuple[Recipe, Any, Any, np.ndarray, dict[str, Any]]:
    """The same of made-up retinas: B-scans of eyes, anomalous where a lesion is."""
    shape, spacing = (6, 240, 192), (0.24, 0.00387, 0.022)
    normals, tests, labels = [], [], []
    for number in range(34):
        ill = number >= 28
        eye = make_phantom(100 * seed + number, shape=shape, spacing=spacing, diseased=ill)
        (tests if number >= 22 else normals).append(flat_phantom(eye))
        if number >= 22:
            labels += list(eye.mask.any((1, 2)).astype(int) if ill else np.zeros(6, int))
    recipe = load_recipe("phantom").but(held_out_fraction=0.45, **SHORT)
    return recipe, normals, tests, np.array(labels), {}


def of_octdl(folder: Path, seed: int) -> tuple[Recipe, Any, Any, np.ndarray, dict[str, Any]]:
    """The same of single B-scans: one picture a patient, other patients for each seed."""
    root = folder / "oct" / "octdl"
    with (root / "manifest.csv").open(newline="") as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    random = np.random.default_rng(seed)
    normal = sorted(row["file"] for row in rows.values() if row["class"] == "NO")
    ill = sorted(row["file"] for row in rows.values() if row["class"] != "NO")
    normal, ill = ([str(root / name) for name in random.permutation(of)] for of in (normal, ill))
    tests = [*normal[50:], *ill[:50]]
    labels = np.array([name in ill for name in tests], dtype=int)
    recipe = load_recipe("demo").but(geometry="retina", **SHORT)
    reading = {"groups": r"_(\d+)_", "pictures": "bscans", "skip_bad": True}
    return recipe, normal[:50], tests, labels, reading


def scores_of(data: str, seed: int, folder: Path) -> None:
    """Train once, and score in both precisions."""
    path = RESULTS / "precision" / data / f"seed{seed}.json"
    if done(path):
        return
    recipe, normals, tests, labels, reading = globals()[f"of_{data}"](folder, seed)
    detector = FAnoGAN(recipe, seed=seed, device="cpu").fit(normals, **reading)
    model = detector.model
    encoded = list(read(model, tests, **reading))
    found = {"fp32": rows_of(model, encoded)}
    for engine in ENGINES:
        half, _ = use_engine(in_precision(model, "bf16")[0], engine)
        found[engine] = rows_of(half, encoded)
    if reading:  # what couldn't be read is left out
        of = dict(zip((Path(name).name for name in tests), labels, strict=True))
        labels = np.array([of[Path(each.scan.name).name] for each in encoded])
    held_out = model.calibration.subjects("image")
    result = conditions(seed=seed, data=data, held_out_subjects=held_out)
    keep(path, {**result, "labels": labels.tolist(), "found": found})
    print(data, seed, flush=True)


def rows_of(model: Model, encoded: list[Any]) -> dict[str, Any]:
    """Scores and p-values of all images."""
    results = [r for batch in score_encoded(model, encoded) for r in batch if r.unit == "image"]
    held_out = model.calibration.units["image"]
    scores = [result.total for result in results]
    flags = held_out.flags(scores, 0.05)
    return {"scores": scores, "p_values": held_out.p_values(scores).tolist(), "flags": flags}


# --- training -------------------------------------------------------------------------------------


@contextlib.contextmanager
def penalty_in(kind: str) -> Iterator[None]:
    """Compute the gradient penalty under autocast too, where that is the kind."""
    before = wgan.gradient_penalty

    def in_bf16(*arguments: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return before(*arguments)

    if kind == TRAININGS[2]:
        wgan.gradient_penalty = in_bf16
    try:
        yield
    finally:
        wgan.gradient_penalty = before


def training_in(kind: str, seed: int, folder: Path) -> None:
    """Train in one kind, and score in fp32."""
    name = kind.replace(", ", "_").replace(" ", "_")
    path = RESULTS / "precision" / "training" / name / f"seed{seed}.json"
    if done(path):
        return
    recipe, normals, tests, labels, _ = of_mnist(folder, seed)
    precision = "fp32" if kind == "fp32" else "bf16"
    detector = FAnoGAN(recipe.but(precision=precision), seed=seed, device="cpu")
    with penalty_in(kind):
        minutes = trained(detector, normals, path)
    lines = (RUNS / path.relative_to(RESULTS).with_suffix("") / "metrics.jsonl").read_text()
    of_gan = [line for line in map(json.loads, lines.splitlines()) if line["stage"] == "gan"]
    keys = ("wasserstein", "penalty", "wasserstein_seen", "wasserstein_held_out")
    last = {key: float(np.mean([line[key] for line in of_gan[-3:]])) for key in keys}
    curve = [line["wasserstein"] for line in of_gan]
    auc = float(roc_auc_score(labels, detector.score(tests).total))
    keep(path, {"auc": auc, **last, "curve": curve, **conditions(seed=seed, minutes=minutes)})
    print(kind, seed, f"{auc:.4f}", last, flush=True)


# --- tables ---------------------------------------------------------------------------------------


def table_of_scores() -> str:
    """One line for each set and engine."""
    lines = []
    for data in DATA:
        results = kept_results(RESULTS / "precision" / data)
        for engine in ENGINES if results else ():
            relative, aucs, changes, flips, n = [], [], [], 0, 0
            for result in results:
                in_fp32, in_bf16 = (result["found"][kind] for kind in ("fp32", engine))
                plain, half = (np.array(each["scores"]) for each in (in_fp32, in_bf16))
                relative += list(np.abs(half / plain - 1))
                both = [roc_auc_score(result["labels"], each) for each in (plain, half)]
                aucs.append(float(both[0]))
                changes.append(float(both[1] - both[0]))
                if in_fp32["flags"] is not None:
                    pairs = zip(in_fp32["flags"], in_bf16["flags"], strict=True)
                    flips += sum(one != other for one, other in pairs)
                    n += len(plain)
            lines.append(
                [
                    *(data, engine, str(len(results)), f"{np.max(relative):.2g}"),
                    *(f"{np.median(relative):.2g}", spread(aucs)),
                    ", ".join(f"{change:+.4f}" for change in changes),
                    f"{flips} of {n:,}" if n else "too few held out",
                ]
            )
    header = ["data", "bf16 by", "seeds", "largest relative difference of a score", "median"]
    return markdown([*header, "AUC, fp32", "change, each seed", "flags that flip"], lines)


def table_of_training() -> str:
    """One line for each kind."""
    lines = []
    keys = ("auc", "wasserstein", "penalty", "wasserstein_seen", "wasserstein_held_out")
    for kind in TRAININGS:
        name = kind.replace(", ", "_").replace(" ", "_")
        results = kept_results(RESULTS / "precision" / "training" / name)
        if results:
            cells = [spread([result[key] for result in results]) for key in keys]
            lines.append([kind, str(len(results)), *cells])
    header = ["training", "seeds", "AUC", "Wasserstein", "penalty", "of training normals"]
    return markdown([*header, "of held-out normals"], lines)


def main() -> None:
    """Do what isn't done yet, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder of the benchmark data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[*DATA, "training"])
    parser.add_argument("--write", action="store_true", help="into docs/benchmark_details.md")
    options = parser.parse_args()
    folder = data_folder(options.data)
    for seed in range(options.seeds):
        for data in DATA:
            if data in options.only:
                scores_of(data, seed, folder)
        for kind in TRAININGS if "training" in options.only else ():
            training_in(kind, seed, folder)
    about = conditions()
    text = (
        f"{about['machine']}, {about['threads']} thread(s), torch {about['torch']}, commit "
        f"{about['commit']}. {SHORT['critic_updates']} critic and {SHORT['encoder_updates']} "
        "encoder updates of 32 images; other normals for each seed.\n\n"
        f"{table_of_scores()}\n\n{table_of_training()}"
    )
    if options.write:
        write_section("precision", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
