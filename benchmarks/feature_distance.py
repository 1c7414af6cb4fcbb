"""A second opinion beside Eq. 4: how unusual D's and E's features of an image are.

A residual is low where an anomaly is smooth. The score here is two-sided: the Mahalanobis distance,
with a shrunken covariance (Ledoit and Wolf 2004), of each channel's mean and log deviation after
every residual block of D and E, from those of the training normals. Beside it stand A, the same
distance in untrained networks, and three statistics of the image. Intervals resample patients
(images of PneumoniaMNIST, which names none) and seeds.

It trains nothing: the networks are those that `oct_pictures.py` and `chest.py` keep.

    python benchmarks/feature_distance.py
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oct_pictures import FULL_DEPTH, SETS, auc, flat, second_numbers, split
from sklearn.covariance import LedoitWolf
from tables import (
    RESULTS,
    RUNS,
    conditions,
    data_folder,
    done,
    keep,
    markdown,
    spread,
    write_section,
)
from torch import Tensor, nn

from fanogan import load_recipe
from fanogan.data import Normals, seeded
from fanogan.detectors import Detector, untrained
from fanogan.evaluation import mean_interval, resampled_aucs
from fanogan.retina import FlatSpace
from fanogan.scoring import Model, results, score

WINDOWS = 4096  # random ones of the training normals
A, DISTANCE, TWIN, PLAIN = "A", "feature distance", "the same, untrained", "three statistics"


class FeatureDistance(nn.Module):
    """How far an image's features are from the training normals'; a score module."""

    def __init__(self, model: Model, normals: Normals):
        """Fit mean and covariance to windows of the training normals."""
        super().__init__()
        self.trunks = nn.ModuleList([model.networks[name].trunk for name in "DE"]).eval()
        training, _ = normals.patches(flip=False, device=model.device)
        random = seeded(model.device, 0, "feature distance")
        with torch.no_grad():
            vectors = torch.cat(
                [self.vectors(training.draw(64, random)) for _ in range(WINDOWS // 64)]
            )
        fitted = LedoitWolf().fit(vectors.double().numpy())
        self.mean = torch.from_numpy(fitted.location_)
        self.precision = torch.from_numpy(fitted.precision_)

    def vectors(self, x: Tensor) -> Tensor:
        """Means and log deviations over pixels of each channel after each block, (B, n)."""
        found = []
        for trunk in self.trunks:
            features = trunk.conv(x)
            for block in trunk.blocks:
                features = block(features)
                flat = features.flatten(2)
                found += [flat.mean(2), torch.log(flat.std(2) + 1e-6)]
        return torch.cat(found, 1)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Terms (B, 2), of which the second is 0, and a map without values."""
        centred = self.vectors(x).double() - self.mean
        squared = ((centred @ self.precision) * centred).sum(1)
        terms = torch.stack([squared.sqrt().float(), torch.zeros(len(x))], 1)
        return terms, x.new_zeros(len(x), 1 + x.shape[1], *x.shape[2:])


def main() -> None:
    """Score what isn't scored yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/ and pneumoniamnist.npz")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_grad_enabled(False)
    data = data_folder(options.data)
    scorers: dict[str, Callable[[Model, Path], dict[str, Any]]] = {
        name: lambda model, data, name=name: of_pictures(name, model, data) for name in SETS
    }
    runs = {name: RUNS / "oct_pictures" / "small" / name / "izi_f" for name in SETS}
    scorers["pneumoniamnist"] = of_chests
    runs["pneumoniamnist"] = RUNS / "pneumoniamnist" / "small"
    for name, run in runs.items():
        for seed in range(options.seeds):
            path = RESULTS / "feature_distance" / name / f"seed{seed}.json"
            if done(path) is None and (run / f"seed{seed}" / "model").exists():
                model = Detector.load(run / f"seed{seed}", device="cpu").model
                found = scorers[name](model, data)
                keep(path, {**found, **conditions(seed=seed)})
                print(name, seed, flush=True)
    table([*runs])


def distances(model: Model, normals: Normals) -> dict[str, Model]:
    """The model and its untrained twin, each scoring by its features."""
    return {
        name: each.but(score=FeatureDistance(each, normals))
        for name, each in ((DISTANCE, model), (TWIN, untrained(model)))
    }


def of_pictures(name: str, model: Model, data: Path) -> dict[str, Any]:
    """B-scans, as a mean over all windows of each."""
    recipe = load_recipe("small").but(**FULL_DEPTH, held_out_fraction=0.2)
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    learnt, held_out, tested = split(
        flat(name, data / "oct", space), second_numbers(name, data / "oct")
    )
    normals = Normals.of(learnt, held_out, recipe)
    statistics = normals.profile.statistics
    assert statistics is not None
    found = {}
    for key, each in {A: model, **distances(model, normals)}.items():
        means = {result.scan_name: result.mean for result in results(each, tested)}
        found[key] = [means[volume.name] for volume in tested]
    found[PLAIN] = [statistics.distance(v.pixels[0] / 255, v.recorded[0]) for v in tested]
    healthy = SETS[name][0][0]
    return {
        "scores": found,
        "labels": [int(volume.name.split("/")[0] != healthy) for volume in tested],
        "groups": [volume.group for volume in tested],
    }


def of_chests(model: Model, data: Path) -> dict[str, Any]:
    """Radiographs, each seen whole."""
    file = np.load(data / "pneumoniamnist.npz")
    images = file["train_images"][file["train_labels"].ravel() == 0]
    recipe = load_recipe("small").but(horizontal_flip=False)
    # As in training: the same images are held out.
    normals = Normals.read(images, recipe, seed=model.provenance["seed"])
    statistics = normals.profile.statistics
    assert statistics is not None
    found = {
        key: score(each, file["test_images"]).total.tolist()
        for key, each in {A: model, **distances(model, normals)}.items()
    }
    found[PLAIN] = [statistics.distance(image / 255) for image in file["test_images"]]
    labels = file["test_labels"].ravel().astype(int).tolist()
    return {"scores": found, "labels": labels, "groups": list(range(len(labels)))}


def table(names: Sequence[str]) -> None:
    """Write the section from all results that are there."""
    folders = {name: sorted((RESULTS / "feature_distance" / name).glob("*.json")) for name in names}
    rows = []
    for name, paths in folders.items():
        kept = [result for path in paths if (result := done(path)) is not None]
        if not kept:
            continue
        labels, groups = np.array(kept[0]["labels"]), kept[0]["groups"]
        scores = {
            key: np.array([each["scores"][key] for each in kept]) for key in kept[0]["scores"]
        }
        row = [name, *(spread([auc(labels, one) for one in found]) for found in scores.values())]
        row += [against(scores, key, labels, groups) for key in (A, TWIN, PLAIN)]
        rows.append(row)
    header = [
        "data",
        A,
        DISTANCE,
        TWIN,
        PLAIN,
        *(f"{DISTANCE} − {key}" for key in (A, TWIN, PLAIN)),
    ]
    write_section("feature_distance", markdown(header, rows))


def against(
    scores: Mapping[str, np.ndarray], key: str, labels: np.ndarray, groups: Sequence[Any]
) -> str:
    """The difference of two AUCs, with its interval over patients, paired."""
    both = [resampled_aucs(labels, scores[name], groups) for name in (DISTANCE, key)]
    low, high = mean_interval(both[0] - both[1]) or (0, 0)
    return f"{low:+.3f} to {high:+.3f}"


if __name__ == "__main__":
    main()
