"""How windows become a picture's score: measured on held-out normals with made-up lesions.

Neither a test picture nor a label of one is used. Cysts are drawn into the held-out normals of
`oct_pictures.py` as the phantom draws them (darker tissue, its speckle kept), few or many; a
reduction is better if it tells pictures with lesions from the same pictures without.

    python benchmarks/oct_pictures.py --seeds 1 --detectors izi_f
    python benchmarks/reduction.py --seeds 1
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from oct_pictures import SETS, auc, flat, split
from tables import RUNS, commit, data_folder, markdown, spread, write_section

from fanogan.detectors import Detector
from fanogan.retina import FlatVolume
from fanogan.scoring import Model, results

COUNTS = (1, 3, 10)
REDUCTIONS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda totals: float(totals.mean()),
    "median": lambda totals: float(np.median(totals)),
    "top half": lambda totals: top(totals, 0.5),
    "top quarter": lambda totals: top(totals, 0.25),
    "top 5 %": lambda totals: top(totals, 0.05),
    "soft maximum": lambda totals: float(np.log(np.mean(np.exp(8 * totals / totals.mean())))),
}


def top(totals: np.ndarray, share: float) -> float:
    """The mean of the highest share, at least one."""
    return float(np.sort(totals)[-max(1, int(np.ceil(share * len(totals)))) :].mean())


def main() -> None:
    """Measure each reduction for each set and seed, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = data_folder(options.data) / "oct"
    rows, pictures = [], []
    for name in SETS:
        found: dict[tuple[str, int], list[float]] = {}
        for seed in range(options.seeds):
            run = RUNS / "oct_pictures" / options.recipe / name / "izi_f" / f"seed{seed}"
            model = Detector.load(run, device="cpu").model
            assert model.preprocessing.retina
            found = flat(name, data, model.preprocessing.retina.space)
            held_out = split(found, {})[1]
            random = np.random.default_rng(seed)
            healthy = reduced(model, held_out)
            for count in COUNTS:
                ill = reduced(model, [with_cysts(each, count, random) for each in held_out])
                labels = np.repeat([0, 1], len(held_out))
                for key in REDUCTIONS:
                    both = np.concatenate([healthy[key], ill[key]])
                    found.setdefault((key, count), []).append(auc(labels, both))
        pictures.append(f"{len(held_out)} of {name}")
        rows += [
            [name, key, *(spread(found[key, count]) for count in COUNTS)] for key in REDUCTIONS
        ]
    header = ["set", "a picture's score", *(f"{count} cysts" for count in COUNTS)]
    write_section(
        "reduction",
        f"Synthetic lesions in held-out normals ({', '.join(pictures)}), recipe "
        f"`{options.recipe}`, {options.seeds} seed(s), commit {commit()}. AUC, pictures with cysts "
        f"against the same without:\n\n{markdown(header, rows)}",
    )


def reduced(model: Model, volumes: Sequence[FlatVolume]) -> dict[str, np.ndarray]:
    """Each reduction of the windows' totals of each picture."""
    windows = [each.patches[:, 2] for each in results(model, volumes) if each.patches is not None]
    return {key: np.array([reduce(each) for each in windows]) for key, reduce in REDUCTIONS.items()}


def with_cysts(volume: FlatVolume, count: int, random: np.random.Generator) -> FlatVolume:
    """The flat picture with so many cysts, sizes and greys as `phantom.lesions` draws them."""
    rows, columns = volume.pixels.shape[1:]
    _, row_mm, column_mm = volume.spacing
    assert row_mm and column_mm
    flat_row_mm = np.nanmedian((volume.outer - volume.inner)[0]) * row_mm / volume.flat.space.base
    pixels = volume.pixels.astype(np.float64)
    y, x = np.mgrid[:rows, :columns]
    for _ in range(count):
        radius = random.uniform(0.07, 0.35)
        half = min(random.uniform(0.015, 0.09), 0.4 * radius)
        at = random.uniform(0.25, 0.7) * volume.flat.space.base, random.uniform(0, columns)
        inside = ((y - at[0]) * flat_row_mm / half) ** 2 + ((x - at[1]) * column_mm / radius) ** 2
        pixels[0][inside < 1] *= random.uniform(15, 45) / 120  # of tissue's mean grey
    return dataclasses.replace(volume, pixels=np.rint(pixels).astype(np.uint8))


if __name__ == "__main__":
    main()
