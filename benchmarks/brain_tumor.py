"""Brain Tumor MRI: the published split, and the same without its leaks.

Axial slices at 64×64, the split of DDAD-ASR (Cai et al. 2023): 1,000 normal to train on, 600 normal
and 600 with a tumour to test. 94 of the tested normals are pixel by pixel a training picture, and
most others nearly one, while no tumour is; without leaks, those that share no cluster of
near-duplicates with a training picture are tested against all tumours. Unlabelled normals without
a twin elsewhere calibrate. Normals and tumours come from different sources: read the trivial rows.
For internal evaluation only: nothing made of these slices may be published but numbers. Resumable.

    python benchmarks/brain_tumor.py --recipe small --seeds 3
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from tables import (
    RESULTS,
    circumstances,
    conditions,
    data_folder,
    done,
    evaluated,
    keep,
    kept_results,
    markdown,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, Scan, load_recipe
from fanogan.data import Normals

SPLITS = ("published split", "without leaks")


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds brain_tumor_mri.npz")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder = RESULTS / "brain_tumor" / options.recipe
    for seed in range(options.seeds):
        path = folder / f"seed{seed}.json"
        if done(path) is None:
            one(data_folder(options.data), options.recipe, seed, path)
    table(folder, options.recipe)


def one(data: Path, recipe: str, seed: int, path: Path) -> None:
    """One seed, tested on both splits."""
    file = np.load(data / "brain_tumor_mri.npz")
    images, role, cluster = file["images"], file["role"], file["twin_cluster"]
    learnt, tested, ill = (
        role == f"{part}" for part in ("train/normal", "test/normal", "test/tumour")
    )
    alone = ~np.isin(cluster, cluster[learnt])
    held_out = (role == "unlabelled/normal") & alone & ~np.isin(cluster, cluster[tested])

    def scans(chosen: np.ndarray) -> list[Scan]:
        return [Scan(images[at][None], f"{at:04d}", f"{at:04d}") for at in np.flatnonzero(chosen)]

    detector = FAnoGAN(load_recipe(recipe), seed=seed)
    normals = Normals.of(scans(learnt), scans(held_out), detector.recipe)
    minutes = trained(detector, normals, path)
    found = {}
    for name, normal in zip(SPLITS, (tested, tested & alone), strict=True):
        at = np.flatnonzero(normal | ill)
        found[name] = evaluated(detector.model, images[at], ill[at].astype(int))
    keep(path, {"splits": found, **conditions(seed=seed, minutes=minutes)})


def table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    parts = {name: [result["splits"][name] for result in results] for name in SPLITS}
    rows = []
    for at, row in enumerate(parts[SPLITS[0]][0]["rows"]):
        aucs = ([each["rows"][at]["auc"] for each in found] for found in parts.values())
        rows.append([row["name"], *map(spread, aucs)])
    counts = [found[0]["n"] - found[0]["n_anomalous"] for found in parts.values()]
    header = [
        "AUC by slice",
        *(f"{name}, {n} normal" for name, n in zip(SPLITS, counts, strict=True)),
    ]
    write_section(
        "brain_tumor",
        f"600 slices with a tumour; {circumstances(results, recipe)}.\n\n{markdown(header, rows)}",
    )


if __name__ == "__main__":
    main()
