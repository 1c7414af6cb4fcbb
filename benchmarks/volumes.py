"""Volumes: AdrenalMNIST3D, and made-up vessels with nodules in three dimensions against two.

AdrenalMNIST3D's volumes are binary shapes, 28³, seen at 16³: a residual then says where a shape
differs, not how bright it is. The vessels are synthetic (``fanogan.phantom``): the same volumes are
learned through windows of 16×16×16 voxels, and through windows of 32×32 pixels slice by slice, with
as many updates as cost the same multiply-adds. Resumable: what is done is not done again, and a
killed training goes on.

    python benchmarks/volumes.py --which adrenal vessels --recipe volume --seeds 3
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from tables import (
    RESULTS,
    auc_rows,
    circumstances,
    conditions,
    data_folder,
    done,
    keep,
    kept_results,
    learnt_and_scored,
    markdown,
    rows_beside,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, load_recipe
from fanogan.data import Normals
from fanogan.detectors import untrained
from fanogan.evaluation import PixelROC
from fanogan.phantom import make_vessels
from fanogan.recipes import Recipe
from fanogan.scans import Scan
from fanogan.scoring import encode, score_encoded
from fanogan.training import encoder_cost, gan_cost

LEARNT, HELD_OUT, HEALTHY, DISEASED = (
    range(40),
    range(40, 60),
    range(1000, 1030),
    range(2000, 2030),
)
"""Seeds of made-up volumes."""


def main() -> None:
    """Train and test what isn't done yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds adrenalmnist3d.npz")
    parser.add_argument("--recipe", default="volume")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--which", nargs="+", choices=("adrenal", "vessels"), default=["adrenal"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    recipe = load_recipe(options.recipe)
    for which in options.which:
        folder = RESULTS / "volumes" / which / recipe.name
        for seed in range(options.seeds):
            path = folder / f"seed{seed}.json"
            if done(path):
                continue
            if which == "adrenal":
                adrenal(data_folder(options.data) / "adrenalmnist3d.npz", seed, recipe, path)
            else:
                vessels(seed, recipe, path)
        {"adrenal": adrenal_table, "vessels": vessels_table}[which](folder, recipe.name)


# --- AdrenalMNIST3D -------------------------------------------------------------------------------


def adrenal(data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed: the normals of the training split learned, the test split (or a part) scored."""
    file = np.load(data)

    def shapes(split: str, label: int) -> list[Scan]:
        found = file[f"{split}_images"][file[f"{split}_labels"][:, 0] == label][::every]
        found = (found > 0).astype(np.uint8) * np.uint8(255)
        return [
            Scan(shape, f"{split} {label} {i}", f"{split} {label} {i}")
            for i, shape in enumerate(found)
        ]

    recipe = recipe.but(window=[28] * 3, image_size=[16] * 3)
    normals = Normals.of(shapes("train", 0), shapes("val", 0), recipe)
    tested = [*shapes("test", 0), *shapes("test", 1)]
    labels = np.array([scan.group.split()[1] == "1" for scan in tested]).astype(int)
    scores, minutes = learnt_and_scored(normals, recipe, seed, path, tested)
    marked = np.stack([scan.pixels > 0 for scan in tested])
    # Faces between marked and unmarked voxels.
    surface = sum(np.diff(marked, axis=axis).sum((1, 2, 3)) for axis in (1, 2, 3))
    size = marked.sum((1, 2, 3))
    template = np.mean([scan.pixels / 255 for scan in shapes("train", 0)], axis=0)
    trivial = {
        "volume of the shape": size,
        "surface": surface,
        "surface over volume": surface / size,
        "distance to the mean normal shape": np.square(marked - template).mean((1, 2, 3)),
    }
    result = rows_beside(labels, scores, trivial, [scan.group for scan in tested])
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['rows'][0]['auc']:.3f}", flush=True)


def adrenal_table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    n, ill = results[0]["n"], results[0]["n_anomalous"]
    write_section(
        "volumes, adrenal",
        f"AdrenalMNIST3D, test split: {ill} with a mass against {n - ill} normal shapes, 28³ seen "
        f"at 16³; {circumstances(results, recipe)}. The shapes are binary: a score sees form, "
        "and nothing of tissue. Data: MedMNIST v2, CC BY 4.0.\n\n"
        f"{markdown(['score', 'AUC'], auc_rows(results))}",
    )


# --- three dimensions against two -----------------------------------------------------------------


def in_two_dimensions(recipe: Recipe) -> Recipe:
    """A recipe for slices that costs as many multiply-adds."""
    flat = recipe.but(window=[32, 32], image_size=[32, 32], geometry="image")
    gan = gan_cost(recipe, (1, *recipe.image_size)) / gan_cost(flat, (1, *flat.image_size))
    encoder = encoder_cost(recipe, (1, *recipe.image_size)) / encoder_cost(flat, (1, 32, 32))
    return flat.but(
        critic_updates=max(1, round(gan * recipe.critic_updates)),
        encoder_updates=max(1, round(encoder * recipe.encoder_updates)),
    )


def vessels(seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed, of all made-up volumes or every so many."""
    result: dict[str, Any] = {}
    tested = [(seeds, ill) for seeds, ill in ((HEALTHY, False), (DISEASED, True))]
    made = [make_vessels(s, diseased=ill) for seeds, ill in tested for s in seeds[::every]]
    labels = np.array([each.nodules.any() for each in made]).astype(int)
    brightness = np.array([each.voxels.mean() for each in made])
    for name, of in (("3-D", recipe), ("2-D", in_two_dimensions(recipe))):

        def scan(voxels: np.ndarray, seed: int, is_volume: bool = name == "2-D") -> Scan:
            return Scan(voxels, str(seed), str(seed), is_volume=is_volume)

        learnt, held_out = (
            [scan(make_vessels(s).voxels, s) for s in seeds[::every]]
            for seeds in (LEARNT, HELD_OUT)
        )
        detector = FAnoGAN(of, seed=seed)
        normals = Normals.of(learnt, held_out, of)
        minutes = trained(detector, normals, path.with_name(f"{name}_{path.name}"))
        for title, model in (
            ("f-AnoGAN", detector.model),
            ("untrained", untrained(detector.model)),
        ):
            roc, totals = PixelROC(), []
            for number, each in enumerate(made):
                encoded = encode(model, [scan(each.voxels, number)])
                *parts, last = [one for batch in score_encoded(model, encoded) for one in batch]
                totals.append(last.total)  # a volume follows its slices
                for part in parts or [last]:
                    assert part.residual is not None
                    roc.update(part.residual, each.nodules[part.frame] if parts else each.nodules)
            result[f"{title}, {name}"] = {
                "auc": float(roc_auc_score(labels, totals)),
                "voxels": roc.auc(),
            }
        result[f"minutes {name}"] = minutes
        result[f"updates {name}"] = [of.critic_updates, of.encoder_updates]
    roc = PixelROC(low=0.0, high=255.0)
    for each in made:
        roc.update(each.voxels.astype(np.float32), each.nodules)
    result["brightness"] = {"auc": float(roc_auc_score(labels, brightness)), "voxels": roc.auc()}
    parts = [result[f"minutes {name}"] for name in ("3-D", "2-D")]
    minutes = None if None in parts else sum(parts)  # of one that was resumed nobody knows
    keep(path, {**result, "n": len(labels), **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['f-AnoGAN, 3-D']} {result['f-AnoGAN, 2-D']}", flush=True)


def vessels_table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    rows = [
        [
            name,
            *(
                spread(
                    [result.get(f"{name}, {sides}", result.get(name))[key] for result in results]
                )
                for key in ("auc", "voxels")
                for sides in ("3-D", "2-D")
            ),
        ]
        for name in ("f-AnoGAN", "untrained", "brightness")
    ]
    updates = "; ".join(
        f"{name}: {results[0][f'updates {name}'][0]:,} critic and "
        f"{results[0][f'updates {name}'][1]:,} encoder updates"
        for name in ("3-D", "2-D")
    )
    write_section(
        "volumes, vessels",
        f"Synthetic: {results[0]['n']} made-up volumes of vessels, 48³, half of them with nodules "
        f"as bright as the vessels; AUC by volume and by voxel. 3-D sees windows of 16×16×16, 2-D "
        f"windows of 32×32 slice by slice, at equal cost in multiply-adds ({updates}); "
        f"{circumstances(results, recipe)}.\n\n"
        + markdown(
            ["score", "volumes, 3-D", "volumes, 2-D", "voxels, 3-D", "voxels, 2-D"],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
