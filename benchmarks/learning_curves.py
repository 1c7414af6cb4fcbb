"""How many normals, and which changes to the recipe: B-scans by picture, digits, radiographs.

The split, pictures and scores of Kermany's are those of `oct_pictures.py`; fewer normals are those
whose patients come first by a stable hash. Of MNIST one digit is normal, seen at 16×16; fewer
normals are the first. PneumoniaMNIST is that of `chest.py`. The same held-out normals calibrate
throughout. All runs have half of the recipe `small`'s updates, so that many fit into a night; a
variant is a change to that.

Resumable: a result that is in ``benchmarks/results/`` isn't made again.

    python benchmarks/learning_curves.py
    python benchmarks/learning_curves.py --seeds 0 --sets kermany --counts 30 all
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from chest import pneumoniamnist as radiographs
from oct_pictures import FULL_DEPTH, auc, flat, of_model, part_of, second_numbers, split
from tables import (
    RESULTS,
    ROOT,
    circumstances,
    conditions,
    data_folder,
    done,
    keep,
    kept_results,
    markdown,
    run_of,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, Recipe, Scan, load_recipe
from fanogan.data import Normals
from fanogan.retina import FlatSpace
from fanogan.scoring import score

HALF = {"critic_updates": 875, "encoder_updates": 1000}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "critic augmented": {"augment_critic": True},
    "critic and normals augmented": {"augment_critic": True, "augment_normals": True},
    "generator averaged": {"generator_average": 0.99},
    # A round of width 16 takes twice as long as one of width 8, in either precision.
    "wider, as long": {"base_width": 16, "critic_updates": 438, "encoder_updates": 500},
}
PLAIN = ("as it is",)
ABLATED = ("as it is", "critic augmented", "critic and normals augmented", "generator averaged")
# Which variants are tried, by set and number of normals.
TRIED: dict[str, dict[str, Sequence[str]]] = {
    "kermany": {"10": PLAIN, "30": ABLATED, "100": PLAIN, "all": (*ABLATED, "wider, as long")},
    "mnist_8": {"30": ABLATED, "100": PLAIN, "1000": PLAIN, "all": ABLATED},
    "mnist_2": {"30": ABLATED, "all": ABLATED},
    "pneumoniamnist": {"all": ABLATED},
}
CURVES = ("kermany", "mnist_8")
TITLES = {
    "kermany": "Kermany, by picture",
    "mnist_8": "MNIST, digit 8 at 16×16",
    "mnist_2": "MNIST, digit 2 at 16×16",
    "pneumoniamnist": "PneumoniaMNIST",
}


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/, mnist.npz and more")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", choices=[*TRIED], default=[*TRIED])
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS], default=[*VARIANTS])
    parser.add_argument("--counts", nargs="+", help="of normals; default: all")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    data = data_folder(options.data)
    for seed in options.seeds:
        for name in options.sets:
            for count, variants in TRIED[name].items():
                for variant in variants:
                    path = RESULTS / "learning_curves" / name / variant / count / f"seed{seed}.json"
                    wanted = variant in options.variants and count in (options.counts or [count])
                    if wanted and done(path) is None:
                        one(name, variant, count, seed, data, path)
    table()


def one(name: str, variant: str, count: str, seed: int, data: Path, path: Path) -> None:
    """Train on so many normals, and test."""
    recipe = load_recipe("small").but(**{**HALF, **VARIANTS[variant]})
    many = None if count == "all" else int(count)
    if name == "kermany":
        recipe = recipe.but(**FULL_DEPTH, held_out_fraction=0.2)
        keep(path, kermany(recipe, many, seed, data, path))
        return
    recipe = recipe.but(horizontal_flip=False)
    if name == "pneumoniamnist":
        chests = radiographs(data, recipe)
        normals = Normals.read(chests.normals, recipe)
        images, labels = chests.images, chests.labels
    else:
        recipe = recipe.but(image_size=16)
        digit = int(name.removeprefix("mnist_"))
        file = np.load(data / "mnist.npz")
        normals = digits(file["train_images"][file["train_labels"] == digit], many, recipe)
        images, labels = file["test_images"], (file["test_labels"] != digit).astype(int)
    keep(path, by_image(recipe, normals, images, labels, seed, path))


def kermany(recipe: Recipe, count: int | None, seed: int, data: Path, path: Path) -> dict[str, Any]:
    """Learn so many healthy B-scans; AUC of all who are ill, by picture."""
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    second = second_numbers("kermany", data / "oct")
    learnt, held_out, tested = split(flat("kermany", data / "oct", space), second)
    of_patient: Counter[str] = Counter()
    rank: dict[str, int] = {}  # one picture of each patient comes first, then the second ones
    for volume in sorted(learnt, key=lambda volume: (part_of(volume.group), volume.name)):
        rank[volume.name] = of_patient[volume.group]
        of_patient[volume.group] += 1
    chosen = sorted(learnt, key=lambda v: (rank[v.name], part_of(v.group)))
    normals = Normals.of(chosen[:count], held_out, recipe)
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, normals, path)
    scores = of_model(detector.model, tested)
    labels = np.array([not volume.name.startswith("NORMAL") for volume in tested]).astype(int)
    aucs = {key: auc(labels, np.array(scores[key])) for key in ("total", "mean", "image")}
    return {
        "auc": aucs,
        "normals": len(normals.training),
        **figures(path),
        **conditions(seed=seed, minutes=minutes),
    }


def digits(images: np.ndarray, count: int | None, recipe: Recipe) -> Normals:
    """The first so many images of a digit; 500 others are held out."""
    scans = [Scan(image[None], f"{at:05d}", f"{at:05d}") for at, image in enumerate(images)]
    return Normals.of(scans[500:][:count], scans[:500], recipe)


def by_image(
    recipe: Recipe, normals: Normals, images: np.ndarray, labels: np.ndarray, seed: int, path: Path
) -> dict[str, Any]:
    """Learn the normals; AUC of the anomalous images."""
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, normals, path)
    scores = score(detector.model, images)
    aucs = {"total": auc(labels, scores.total), "image": auc(labels, scores.image)}
    return {
        "auc": aucs,
        "normals": len(normals.training),
        **figures(path),
        **conditions(seed=seed, minutes=minutes),
    }


def figures(path: Path) -> dict[str, Any]:
    """What the training says of itself: the critic's gap and the encoder's residuals, each line."""
    lines = [json.loads(line) for line in (run_of(path) / "metrics.jsonl").open()]
    return {
        stage: [{key: each[key] for key in keys} for each in lines if each["stage"] == stage]
        for stage, keys in {
            "gan": ("step", "wasserstein_seen", "wasserstein_held_out", "diversity"),
            "encoder": ("step", "image", "image_held_out", "feature", "feature_held_out"),
        }.items()
    }


def table() -> None:
    """Write the section from all results that are there, and draw how training went."""
    rows = []
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for name, counts in TRIED.items():
        for count, variants in counts.items():
            for variant in variants:
                kept = kept_results(RESULTS / "learning_curves" / name / variant / count)
                if kept:
                    found[name, count, variant] = kept
    for (name, _, variant), kept in found.items():
        apart = [last(each["gan"], "wasserstein_seen") for each in kept]
        held_out = [last(each["gan"], "wasserstein_held_out") for each in kept]
        residuals = [last(each["encoder"], "image_held_out") for each in kept]
        seen = [last(each["encoder"], "image") for each in kept]
        rows.append(
            [
                TITLES[name],
                str(kept[0]["normals"]),
                variant,
                str(len(kept)),
                spread([each["auc"]["total"] for each in kept]),
                spread([each["auc"]["mean"] for each in kept]) if name == "kermany" else "–",
                f"{np.mean(residuals):.4f}",
                f"{np.mean(residuals) / np.mean(seen):.2f}",
                f"{np.mean(held_out) / np.mean(apart):.2f}",
            ]
        )
    header = ["data", "normals", "recipe", "seeds", "AUC", "mean over windows"]
    header += ["residual of held-out normals", "the same over that of training normals"]
    header += ["critic's distance, held-out over training"]
    every = [result for kept in found.values() for result in kept]
    text = (
        f"Half of `small`'s updates; {circumstances(every, 'small', 'run')}.\n\n"
        f"{markdown(header, rows)}"
    )
    draw(found)
    write_section("learning_curves", text)


def last(lines: Sequence[Mapping[str, float]], key: str) -> float:
    """The mean of a figure's last five lines."""
    return float(np.mean([line[key] for line in lines[-5:]]))


def draw(found: Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]) -> None:
    """Draw AUC over the number of normals, and residuals over the encoder's updates."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name in CURVES:
        for variant in ("as it is", "critic augmented"):
            lines = [
                (kept[0]["normals"], [each["auc"]["total"] for each in kept])
                for (of, _, kind), kept in found.items()
                if (of, kind) == (name, variant)
            ]
            if lines:
                counts, aucs = zip(*lines, strict=True)
                label = TITLES[name] if variant == "as it is" else f"{TITLES[name]}, {variant}"
                style = "o-" if variant == "as it is" else "s--"
                (line,) = left.plot(counts, [np.mean(of) for of in aucs], style, label=label)
                low, high = ([edge(of) for of in aucs] for edge in (min, max))
                left.fill_between(counts, low, high, color=line.get_color(), alpha=0.15)
    left.set(xscale="log", xlabel="normals to learn from", ylabel="AUC, mean and range of seeds")
    counts = sorted({kept[0]["normals"] for (name, *_), kept in found.items() if name in CURVES})
    left.set_xticks(counts, labels=map(str, counts))
    left.minorticks_off()
    left.legend(fontsize=8, loc="lower right")
    for (name, _, variant), kept in found.items():
        if name == "kermany" and variant == "as it is":
            steps = [line["step"] for line in kept[0]["encoder"]]
            for key, style in (("image_held_out", "-"), ("image", ":")):
                curves = np.mean([[line[key] for line in each["encoder"]] for each in kept], 0)
                of = "held-out" if style == "-" else "training"
                label = f"{kept[0]['normals']} normals, {of}"
                color = None if style == "-" else right.lines[-1].get_color()
                right.plot(steps, curves, style, label=label, color=color)
    right.set(xlabel="encoder updates", ylabel="image residual, Kermany", yscale="log")
    right.legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "learning_curves.png", dpi=120)


if __name__ == "__main__":
    main()
