"""PneumoniaMNIST: chest radiographs of children at 28×28, normal ones against pneumonia.

Trained on the normals of the training split, tested on the whole test split, beside scores that
need no learning. Resumable: what is done is not done again, and a killed training goes on.

    python benchmarks/pneumoniamnist.py --recipe small --seeds 3
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
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

from fanogan import FAnoGAN, Recipe, load_recipe


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds pneumoniamnist.npz")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    file = np.load(data_folder(options.data) / "pneumoniamnist.npz")
    data = {name: file[name] for name in file.files}
    # A mirrored chest has its heart on the wrong side.
    recipe = load_recipe(options.recipe).but(horizontal_flip=False)
    folder = RESULTS / "pneumoniamnist" / recipe.name
    for seed in range(options.seeds):
        one(data, seed, recipe, folder)
    table(folder, recipe.name)


def one(data: dict[str, np.ndarray], seed: int, recipe: Recipe, folder: Path) -> None:
    """One seed."""
    path = folder / f"seed{seed}.json"
    if done(path):
        return
    detector = FAnoGAN(recipe, seed=seed)
    normals = data["train_images"][data["train_labels"].ravel() == 0]
    minutes = trained(detector, normals, path)
    result = evaluated(detector.model, data["test_images"], data["test_labels"].ravel().astype(int))
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: AUC {result['rows'][0]['auc']:.4f}", flush=True)


def table(folder: Path, recipe: str) -> None:
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
        f"{first['n_anomalous'] / first['n']:.2f}), 28×28 pixels; trained on the normals of the "
        "training split without flips, a tenth of them held out for calibration; mean ± standard "
        "deviation over seeds; intervals resample images, since the file names no patients; "
        f"{circumstances(results, recipe)}.\n\n{markdown(header, rows)}\n\n{reached(results)}"
    )
    write_section("pneumoniamnist", text)


if __name__ == "__main__":
    main()
