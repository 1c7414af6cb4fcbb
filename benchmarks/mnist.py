"""MNIST, one digit normal: the usual protocol of one-class papers.

For each digit: train on that digit's training images, test on the whole test set, the other nine
digits being anomalous. Resumable: what is done is not done again, and a killed training goes on.

    python benchmarks/mnist.py --recipe small --seeds 3
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
from tables import (
    RESULTS,
    circumstances,
    conditions,
    data_folder,
    done,
    evaluated,
    keep,
    markdown,
    reached,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, load_recipe


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds mnist.npz")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--digits", type=int, nargs="*", default=list(range(10)))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    file = np.load(data_folder(options.data) / "mnist.npz")
    data = {name: file[name] for name in file.files}
    for seed in range(options.seeds):
        for digit in options.digits:
            one(data, digit, seed, options.recipe)
    table(options.recipe)


def one(data: dict[str, np.ndarray], digit: int, seed: int, recipe: str) -> None:
    """One digit and seed."""
    path = RESULTS / "mnist" / recipe / f"digit{digit}_seed{seed}.json"
    if done(path):
        return
    # A mirrored digit is not that digit.
    detector = FAnoGAN(load_recipe(recipe).but(horizontal_flip=False), seed=seed)
    normals = data["train_images"][data["train_labels"] == digit]
    minutes = trained(detector, normals, path)
    labels = (data["test_labels"] != digit).astype(int)
    result = evaluated(detector.model, data["test_images"], labels)
    keep(path, {**result, **conditions(digit=digit, seed=seed, minutes=minutes)})
    print(f"digit {digit}, seed {seed}: AUC {result['rows'][0]['auc']:.4f}", flush=True)


def table(recipe: str) -> None:
    """Write the table of all results that are there."""
    results = [done(path) for path in sorted((RESULTS / "mnist" / recipe).glob("digit*.json"))]
    digits = sorted({r["digit"] for r in results})
    seeds = sorted({r["seed"] for r in results})
    names = [row["name"] for row in results[0]["rows"]]

    def aucs(name: str, digit: int | None = None) -> list[float]:
        """AUCs of one row, of one digit or averaged over the digits of each seed."""
        chosen = {
            (r["digit"], r["seed"]): next(x["auc"] for x in r["rows"] if x["name"] == name)
            for r in results
        }
        if digit is not None:
            return [auc for (d, _), auc in chosen.items() if d == digit]
        return [
            float(np.mean([auc for (_, s), auc in chosen.items() if s == seed])) for seed in seeds
        ]

    rows = [
        [name, *(spread(aucs(name, digit)) for digit in digits), f"**{spread(aucs(name))}**"]
        for name in names
    ]
    text = (
        "AUC on the whole test set (10,000 digits) with one digit normal, trained without flips on "
        "that digit's training images, a tenth of them held out for calibration; "
        f"{circumstances(results, recipe, 'digit')}.\n\n"
        f"{markdown(['score', *map(str, digits), 'mean'], rows)}\n\n{reached(results)}"
    )
    write_section("mnist", text)


if __name__ == "__main__":
    main()
