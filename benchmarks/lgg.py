"""Low-grade glioma on FLAIR slices: by slice, and by pixel where a map covers the head.

TCGA-LGG, masks of Buda et al. 2019. Split by patient, sorted by name: 55 to train, 15 to calibrate,
40 to test; slices with a tenth of the pixels in the head. Tumour-free slices lie mostly at the
skull's base and apex, which is a shortcut: read the pixels, and the scores without a network.
For internal evaluation only: nothing made of these scans may be published but numbers. Resumable; a
result that is in ``benchmarks/results/`` isn't made again.

    python benchmarks/lgg.py --recipe small --seeds 1
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from oct_pictures import auc
from PIL import Image
from tables import (
    RESULTS,
    circumstances,
    column,
    conditions,
    data_folder,
    done,
    keep,
    kept_results,
    markdown,
    run_of,
    spread,
    trained,
    trivial_columns,
    write_section,
)

from fanogan import FAnoGAN, Recipe, Scan, load_recipe
from fanogan.data import Normals
from fanogan.evaluation import evaluate
from fanogan.scoring import read_csv

TRAINED, CALIBRATED = 55, 15  # patients; the others are tested
LEAST_HEAD = 6554  # pixels in the head, of 256×256


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds lgg_flair.npz")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    recipe = recipe_of(options.recipe)
    folder = RESULTS / "lgg" / options.recipe
    for seed in range(options.seeds):
        one(data_folder(options.data), seed, recipe, folder / f"seed{seed}.json")
    table(folder, options.recipe)


def recipe_of(name: str) -> Recipe:
    """A recipe that sees slices whole; a mirrored head is a head."""
    return load_recipe(name).but(window=(128, 128))


def one(data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed, on every slice or every so many."""
    if done(path):
        return
    file = np.load(data / "lgg_flair.npz")
    kept = np.flatnonzero(file["brain_px"] >= LEAST_HEAD)[::every]
    images, patients = file["images"][kept], file["patient"][kept]
    masks = np.unpackbits(file["masks"][kept], axis=-1)
    of_patient = np.unique(file["patient"], return_inverse=True)[1][kept]
    tumour = file["tumour_px"][kept] > 0
    part = np.digitize(of_patient, [TRAINED, TRAINED + CALIBRATED])
    scans = [
        Scan(image[None], f"{patient}/{number}", patient, (None, None, None))
        for image, patient, number in zip(images, patients, file["slice"][kept], strict=True)
    ]
    learnt, held_out = (
        [scans[at] for at in np.flatnonzero((part == which) & ~tumour)] for which in (0, 1)
    )
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, Normals.of(learnt, held_out, recipe), path)
    folder = run_of(path) / "tested"  # files, whose folders name the patients
    for at in np.flatnonzero(part == 2):
        name = f"{scans[at].name}.png"
        write(images[at], folder / ("ill" if tumour[at] else "normal") / name)
        if tumour[at]:
            write(255 * masks[at], folder / "masks" / name)
    found = evaluate(
        detector.model,
        folder / "normal",
        folder / "ill",
        run_of(path) / "evaluation",
        masks=folder / "masks",
    )
    shown = {
        key: found[key]
        for key in (
            "rows",
            "ahead_of_best",
            "calibrated",
            "pixel",
            "n",
            "n_anomalous",
            "n_subjects",
        )
    }
    # Slices halfway up the head alone, where the skull's base and apex are no shortcut.
    chosen = np.flatnonzero((part == 2) & in_the_middle(of_patient, file["slice"][kept]))
    of_slice = {
        line["name"]: float(line["score"])
        for line in read_csv(run_of(path) / "evaluation" / "scores.csv")
    }
    scores = {
        "f-AnoGAN (A)": np.array([of_slice[f"{scans[at].name}.png"] for at in chosen]),
        **trivial_columns(images[chosen]),
    }
    middle = {name: auc(tumour[chosen].astype(int), each) for name, each in scores.items()}
    counts = {"n": len(chosen), "n_anomalous": int(tumour[chosen].sum())}
    shown["middle"] = {"auc": middle, **counts}
    keep(path, {**shown, **conditions(seed=seed, minutes=minutes)})


def in_the_middle(patients: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Tell which slices lie in the middle half of their patient's, (n,) bool; all (n,)."""
    found = np.zeros(len(patients), dtype=bool)
    for patient in np.unique(patients):
        own = np.flatnonzero(patients == patient)
        low, high = np.quantile(numbers[own], [0.25, 0.75])
        found[own] = (numbers[own] >= low) & (numbers[own] <= high)
    return found


def write(pixels: np.ndarray, path: Path) -> None:
    """Write a slice or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    middle = {
        name.replace("_", " "): spread([result["middle"]["auc"][name] for result in results])
        for name in results[0]["middle"]["auc"]
    }
    rows = [
        [row["name"], spread(column(results, row["name"])), middle.get(row["name"], "–")]
        for row in results[0]["rows"]
    ]
    pixels = {"f-AnoGAN": [result["pixel"]["auc"] for result in results]}
    for name in results[0]["pixel"]["trivial"]:
        pixels[name] = [result["pixel"]["trivial"][name] for result in results]
    by_pixel = [[name, spread(aucs)] for name, aucs in pixels.items()]
    write_section(
        "lgg",
        f"Low-grade glioma, 40 patients tested, {n_of(results[0])} slices of all levels and "
        f"{n_of(results[0]['middle'])} of the middle half of each patient's; "
        f"{circumstances(results, recipe)}.\n\n"
        f"{markdown(['score', 'AUC by slice', 'in the middle half'], rows)}\n\n"
        f"{markdown(['map', 'AUC by pixel'], by_pixel)}",
    )


def n_of(counts: Mapping[str, int]) -> str:
    """How many slices there are, and how many with a tumour."""
    return f"{counts['n']:,} ({counts['n_anomalous']:,} with a tumour)"


if __name__ == "__main__":
    main()
