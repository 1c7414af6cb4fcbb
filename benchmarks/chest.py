"""Chest radiographs of children, normal ones against pneumonia: PneumoniaMNIST, and larger ones.

PneumoniaMNIST at 28×28: trained on the normals of the training split, tested on the whole test
split. 320 normal radiographs and 321 with pneumonia at 224×224, of the same source (Kermany et al.
2018, CC BY 4.0; resized, aspect ratio lost): a fixed split by patient, a fifth of the training
patients held out; the other pneumonias aren't used. Beside them stands what needs no learning.
Resumable: what is done is not done again, and a killed training goes on.

    python benchmarks/chest.py --recipe small --seeds 3
    python benchmarks/chest.py --sets chest_xray
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from oct_pictures import part_of
from PIL import Image
from tables import (
    RESULTS,
    circumstances,
    column,
    conditions,
    data_folder,
    done,
    evaluated,
    interval,
    keep,
    kept_results,
    markdown,
    reached,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, Recipe, Scan, load_recipe
from fanogan.data import Normals


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learnt and what is tested."""

    normals: Any  # as a detector takes them
    recipe: Recipe
    images: np.ndarray  # (n, H, W) uint8
    labels: np.ndarray  # (n,) 1: pneumonia
    patients: list[str] | None  # (n,); None: unknown
    about: str


def pneumoniamnist(data: Path, recipe: Recipe) -> Data:
    """MedMNIST's counts and splits."""
    file = np.load(data / "pneumoniamnist.npz")
    return Data(
        file["train_images"][file["train_labels"].ravel() == 0],
        recipe,
        file["test_images"],
        file["test_labels"].ravel().astype(int),
        None,
        "28×28 pixels; trained on the normals of the training split, a tenth of them held out for "
        "calibration; intervals resample images, since the file names no patients",
    )


def chest_xray(data: Path, recipe: Recipe) -> Data:
    """The split of the manifest, by patient."""
    with (data / "chest_xray" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def read(row: dict[str, str]) -> np.ndarray:
        with Image.open(data / "chest_xray" / row["path"]) as image:
            return np.asarray(image.convert("L"))

    learnt, tested = (
        [row for row in rows if row["suggested_split"] == part] for part in ("train", "test")
    )
    recipe = recipe.but(window=(224, 224))
    parts: tuple[list[Scan], list[Scan]] = [], []
    for row in learnt:
        scan = Scan(read(row)[None], row["path"], row["patient_key"])
        parts[part_of(scan.group) < 0.2].append(scan)
    return Data(
        Normals.of(*parts, recipe),
        recipe,
        np.stack([read(row) for row in tested]),
        np.array([int(row["label"]) for row in tested]),
        [row["patient_key"] for row in tested],
        f"224×224 pixels, seen whole; trained on {len(learnt)} normals, a fifth of whose patients "
        "are held out for calibration; intervals resample patients",
    )


SETS: dict[str, Callable[[Path, Recipe], Data]] = {
    "pneumoniamnist": pneumoniamnist,
    "chest_xray": chest_xray,
}


def main() -> None:
    """Train and test what isn't done yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds pneumoniamnist.npz and chest_xray/")
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # A mirrored chest has its heart on the wrong side.
    recipe = load_recipe(options.recipe).but(horizontal_flip=False)
    for name in options.sets:
        data = SETS[name](data_folder(options.data), recipe)
        folder = RESULTS / name / options.recipe
        for seed in range(options.seeds):
            one(data, seed, folder / f"seed{seed}.json")
        table(name, data, folder, options.recipe)


def one(data: Data, seed: int, path: Path) -> None:
    """One seed."""
    if done(path):
        return
    detector = FAnoGAN(data.recipe, seed=seed)
    minutes = trained(detector, data.normals, path)
    result = evaluated(detector.model, data.images, data.labels, data.patients)
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: AUC {result['rows'][0]['auc']:.4f}", flush=True)


def table(name: str, data: Data, folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    first = results[0]
    rows = [
        [
            row["name"],
            spread(column(results, row["name"])),
            interval(row["auc_interval"]),
            spread(column(results, row["name"], "average_precision")),
        ]
        for row in first["rows"]
    ]
    normal = first["n"] - first["n_anomalous"]
    header = ["score", "AUC", f"95 % interval, seed {first['seed']}", "average precision"]
    text = (
        f"Whole test split: {normal} normal and {first['n_anomalous']} with pneumonia (prevalence "
        f"{first['n_anomalous'] / first['n']:.2f}), {data.about}; without flips; mean ± standard "
        f"deviation over seeds; {circumstances(results, recipe)}.\n\n{markdown(header, rows)}\n\n"
        f"{reached(results)}"
    )
    write_section(name, text)


if __name__ == "__main__":
    main()
