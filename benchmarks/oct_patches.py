"""Retinal OCT as plain images: healthy eyes learnt, patches of eyes with macular edema scored.

Split ``healthy``: trained on whole B-scans of two healthy eyes (Spectralis), a third held out;
tested on 64×64 patches of six eyes with diabetic macular edema (Chiu et al. 2015). Split
``in-domain``: trained on the fluid-free patches of two of three Chiu eyes, the third held out;
tested on the other three eyes, and the other way round. A patch is anomalous where the grader
marked fluid in it.

The patches lie on a grid with stride 32, in the columns that were graded, with their centre in the
retina as ``retina_band`` finds it, and none touches a filled margin. Nothing made of these scans
may be published but numbers: all else stays under ``runs/``. Resumable; a result that is in
``benchmarks/results/`` isn't made again.

    python benchmarks/oct_patches.py --recipe small --seeds 3
    python benchmarks/oct_patches.py --recipe small --seeds 3 --split in-domain
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from tables import (
    RESULTS,
    circumstances,
    column,
    conditions,
    data_folder,
    done,
    interval,
    keep,
    kept_results,
    markdown,
    reached,
    spread,
    trained,
    trivial_columns,
    write_section,
)

from fanogan import FAnoGAN, Recipe, Scan, load_recipe, read_scan
from fanogan.calibration import HeldOut
from fanogan.data import Normals
from fanogan.detectors import untrained
from fanogan.evaluation import PixelROC, calibrated_row, compared_rows
from fanogan.scoring import Model, results, score

SIDE = 64
STRIDE = 32
TRAINING_STRIDE = 8  # of the fluid-free patches that are learnt: nearly every position
GRADED = range(109, 625)  # columns of the Chiu B-scans in which fluid was marked
BSCAN = (496, 512)  # of Spectralis; the localizer beside the B-scans is 768×768
WHITE = 255
LEAST_MARGIN = 50  # pixels; smaller white regions at the frame are saturated tissue
LEVELS = {"any": 0.0, "1 %": 0.01, "5 %": 0.05}  # least share of fluid in an anomalous patch
ALPHA = 0.05
METHOD = "f-AnoGAN (A)"


@dataclasses.dataclass(frozen=True)
class Patches:
    """Patches cut from B-scans, with what the grader marked in them."""

    pixels: np.ndarray  # (n, SIDE, SIDE) uint8
    fluid: np.ndarray  # (n, SIDE, SIDE) bool
    subjects: tuple[str, ...]  # (n,) the eye of each

    def __getitem__(self, chosen: np.ndarray) -> Patches:
        """Some of the patches, by a mask (n,)."""
        subjects = np.array(self.subjects)[chosen]
        return Patches(self.pixels[chosen], self.fluid[chosen], tuple(subjects.tolist()))

    @property
    def share(self) -> np.ndarray:
        """The share of fluid in each patch, (n,)."""
        return self.fluid.mean((1, 2))

    def of(self, subjects: Sequence[str]) -> Patches:
        """The patches of some eyes."""
        return self[np.isin(self.subjects, subjects)]

    def scans(self) -> list[Scan]:
        """Each patch as a scan of its eye."""
        return [
            Scan(pixels[None], f"{subject} patch {number:05d}", subject)
            for number, (pixels, subject) in enumerate(zip(self.pixels, self.subjects, strict=True))
        ]


@dataclasses.dataclass(frozen=True)
class Fold:
    """What is learnt, what calibrates, and what is tested."""

    name: str
    normals: Normals
    held_out: Patches  # of the held-out eye, cut like the tested ones: the unit that is scored
    tested: Patches


# --- patches ------------------------------------------------------------------------------------


def filled_margin(bscan: np.ndarray) -> np.ndarray:
    """Where the exporter filled the frame: white regions that touch it, (rows, columns) bool."""
    regions, _ = ndimage.label(bscan == WHITE)
    frame = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    sizes = np.bincount(regions.ravel())
    touching = [n for n in np.unique(frame) if n > 0 and sizes[n] >= LEAST_MARGIN]
    return np.isin(regions, touching)


def retina_band(bscan: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of the retina in each column, (columns,) each; some choroid is within.

    The B-scan is smoothed (Gaussian, 3 rows and 8 columns); bright is what exceeds 0.4 of the
    column's maximum; the band lies between the 5th and the 95th percentile of the bright rows,
    and its two edges are smoothed by a median over 31 columns.
    """
    smooth = ndimage.gaussian_filter(np.where(margin, 0, bscan).astype(np.float32), (3, 8))
    bright = smooth > 0.4 * smooth.max(axis=0)
    share = bright.cumsum(axis=0) / np.maximum(bright.sum(axis=0), 1)
    first, last = ((share >= edge).argmax(axis=0) for edge in (0.05, 0.95))
    return ndimage.median_filter(first, 31), ndimage.median_filter(last, 31)


def corners(bscan: np.ndarray, columns: range, stride: int) -> Iterator[tuple[int, int]]:
    """The upper left corners (row, column) of the patches of a B-scan, within some columns."""
    margin = filled_margin(bscan)
    first, last = retina_band(bscan, margin)
    for row in range(0, bscan.shape[0] - SIDE + 1, stride):
        for at in range(columns.start, columns.stop - SIDE + 1, stride):
            middle = at + SIDE // 2
            in_retina = first[middle] <= row + SIDE // 2 <= last[middle]
            if in_retina and not margin[row : row + SIDE, at : at + SIDE].any():
                yield row, at


def cut(
    bscans: Sequence[tuple[str, np.ndarray, np.ndarray]], columns: range, stride: int = STRIDE
) -> Patches:
    """Cut B-scans, each (eye, pixels, fluid), into patches."""
    pixels, fluid, subjects = [], [], []
    for subject, bscan, mask in bscans:
        for row, at in corners(bscan, columns, stride):
            window = np.s_[row : row + SIDE, at : at + SIDE]
            pixels.append(bscan[window])
            fluid.append(mask[window])
            subjects.append(subject)
    return Patches(np.stack(pixels), np.stack(fluid), tuple(subjects))


# --- data ---------------------------------------------------------------------------------------


def healthy_bscans(data: Path, eye: int) -> list[Scan]:
    """The B-scans of a healthy eye."""
    group = f"healthy_subject{eye}"
    files = sorted((data / "oct" / "spectralis" / group).glob("*.tif"))
    scans = (read_scan(file, f"{group}/{file.name}", group) for file in files)
    return [scan for scan in scans if scan.pixels.shape[1:3] == BSCAN]


def healthy_patches(scans: Sequence[Scan]) -> Patches:
    """The patches of healthy B-scans, cut like the tested ones."""
    without = np.zeros(BSCAN, dtype=bool)
    return cut([(scan.group, scan.pixels[0], without) for scan in scans], range(BSCAN[1]))


def edema_bscans(data: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The Chiu B-scans: (eye, pixels, fluid)."""
    folder = data / "oct" / "chiu_dme"
    found = []
    for file in sorted((folder / "bscans").glob("*.png")):
        mask = np.asarray(Image.open(folder / "fluid" / file.name).convert("L")) > 127
        found.append((file.name.split("_")[0], read_scan(file).pixels[0], mask))
    return found


def folds(split: str, data: Path, recipe: Recipe, seed: int) -> Iterator[Fold]:
    """The trainings of a split. In-domain, the seed chooses which eye is held out."""
    bscans = edema_bscans(data)
    tested = cut(bscans, GRADED)
    if split == "healthy":
        kept = [scan for eye in (1, 2) for scan in healthy_bscans(data, eye)]
        held_out = healthy_bscans(data, 3)
        normals = Normals.of(kept, held_out, recipe)
        yield Fold("healthy", normals, healthy_patches(held_out), tested)
        return
    dense = cut(bscans, GRADED, TRAINING_STRIDE)
    dense, free = dense[dense.share == 0], tested[tested.share == 0]
    eyes = sorted(set(tested.subjects))
    for name, own, others in (
        ("trained on 1–3", eyes[:3], eyes[3:]),
        ("trained on 4–6", eyes[3:], eyes[:3]),
    ):
        held = own[seed % len(own)]
        held_out = free.of([held])
        kept = dense.of([eye for eye in own if eye != held]).scans()
        normals = Normals.of(kept, held_out.scans(), recipe)
        yield Fold(name, normals, held_out, tested.of(others))


# --- measuring ----------------------------------------------------------------------------------


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=("healthy", "in-domain"), default="healthy")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    data, recipe = data_folder(options.data), load_recipe(options.recipe)
    folder = RESULTS / "oct_patches" / options.split / recipe.name
    for seed in range(options.seeds):
        for fold in folds(options.split, data, recipe, seed):
            one(fold, seed, recipe, folder / fold.name.replace(" ", "_").replace("–", "-"))
    table(options.split, folder, recipe.name)


def one(fold: Fold, seed: int, recipe: Recipe, folder: Path) -> None:
    """One training."""
    path = folder / f"seed{seed}.json"
    if done(path):
        return
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, fold.normals, path)
    result = tested(detector.model, fold)
    keep(path, {**result, **conditions(fold=fold.name, seed=seed, minutes=minutes)})
    auc = column([result["levels"]["any"]], METHOD)[0]
    print(f"{fold.name}, seed {seed}: AUC {auc:.4f}", flush=True)


def tested(model: Model, fold: Fold) -> dict[str, Any]:
    """All figures of a trained model."""
    patches = fold.tested
    terms, pixels = scored(model, patches)
    untrained_terms, untrained_pixels = scored(untrained(model), patches)
    trivial = trivial_columns(patches.pixels)
    # The threshold comes from the unit that is scored here: a patch, not a B-scan.
    held_out = HeldOut(score(model, fold.held_out.pixels).total, fold.held_out.subjects)
    labels = (patches.share > 0).astype(int)
    return {
        "levels": {
            level: at_level(least, patches, terms, untrained_terms["total"], trivial)
            for level, least in LEVELS.items()
        },
        "calibrated": calibrated_row(labels, terms["total"], held_out, ALPHA),
        "pixel": {
            METHOD: pixels,
            "score inverted (−A)": 1 - pixels,
            "untrained networks": untrained_pixels,
            **grey_pixels(patches),
        },
        "fluid_pixels": float(patches.fluid.mean()),
    }


def scored(model: Model, patches: Patches) -> tuple[dict[str, np.ndarray], float]:
    """The terms of each patch, (n,) each, and the AUC of the residual over all their pixels."""
    pixels = PixelROC()
    found = []
    for result, fluid in zip(results(model, patches.pixels), patches.fluid, strict=True):
        assert result.residual is not None
        pixels.update(result.residual, fluid)
        found.append((result.total, result.image, result.feature))
    columns = np.array(found).T
    return dict(zip(("total", "image", "feature"), columns, strict=True)), pixels.auc()


def grey_pixels(patches: Patches) -> dict[str, float]:
    """AUC of brightness and darkness over all pixels."""
    pixels = PixelROC(high=1.0)
    pixels.update(1 - patches.pixels / 255, patches.fluid)
    return {"brightness": 1 - pixels.auc(), "darkness": pixels.auc()}


def at_level(
    least: float,
    patches: Patches,
    terms: Mapping[str, np.ndarray],
    untrained: np.ndarray,
    trivial: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The rows for patches with at least this share of fluid against patches with none.

    ``eyes`` holds the AUC inside each eye that has both kinds of patch, and ``within`` is their
    mean: not owed to eyes that differ in brightness.
    """
    share = patches.share
    chosen = (share == 0) | (share >= least)
    labels, eyes = (share > 0).astype(int), np.array(patches.subjects)

    def rows(some: np.ndarray) -> list[dict[str, Any]]:
        return compared_rows(
            labels[some],
            {name: values[some] for name, values in terms.items()},
            untrained[some],
            {name: values[some] for name, values in trivial.items()},
            tuple(eyes[some].tolist()),
        )

    inside = {eye: chosen & (eyes == eye) for eye in sorted(set(patches.subjects))}
    each = {
        eye: [row["auc"] for row in rows(some)]
        for eye, some in inside.items()
        if 0 < labels[some].sum() < some.sum()
    }
    found = rows(chosen)
    for place, row in enumerate(found):
        row["eyes"] = {eye: aucs[place] for eye, aucs in each.items()}
        row["within"] = float(np.mean([*row["eyes"].values()]))
    return {
        "rows": found,
        "n": int(chosen.sum()),
        "n_anomalous": int(labels[chosen].sum()),
        "eyes_with_both": len(each),
    }


# --- table --------------------------------------------------------------------------------------

PREAMBLE = {
    "healthy": "Trained on the whole B-scans of two healthy eyes, a third held out; tested on "
    "patches of six eyes with diabetic macular edema.",
    "in-domain": "Trained on the fluid-free patches of two of three eyes with diabetic macular "
    "edema, the third held out (the seed chooses it); tested on the other three eyes.",
}


def table(split: str, folder: Path, recipe: str) -> None:
    """Write the tables of all results that are there, one a fold."""
    parts = [
        PREAMBLE[split]
        + " Real scans, as plain images: the retina is not flattened. Patches of 64×64 pixels on a "
        "grid with stride 32, centre in a band around the retina (bright rows; see the script), "
        "in the graded columns, none touching a filled margin. Anomalous: fluid in at least one "
        "pixel, 1 % or 5 % of the patch, against patches with none (which may hold other "
        "lesions). Within an eye: mean of the eyes' own AUCs. Per pixel: raw residual map over "
        "all patches, which overlap. Mean ± standard deviation over seeds; intervals resample "
        "eyes."
    ]
    for fold in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts.append(fold_table(kept_results(fold), recipe))
    write_section(f"oct_patches, {split}", "\n\n".join(parts))


def fold_table(results: Sequence[Mapping[str, Any]], recipe: str) -> str:
    """One fold's counts, table and calibrated threshold."""
    first = results[0]
    levels = {level: [result["levels"][level] for result in results] for level in LEVELS}
    some = first["levels"]["any"]
    anomalous = ", ".join(
        f"{result[0]['n_anomalous']} ({level})" for level, result in levels.items()
    )
    return (
        f"AUC, {first['fold']}: {some['n'] - some['n_anomalous']} patches without fluid, anomalous "
        f"{anomalous}; {some['eyes_with_both']} eyes; {100 * first['fluid_pixels']:.1f} % of the "
        f"pixels are fluid; {circumstances(results, recipe)}.\n\n"
        f"{all_rows(results, first['seed'])}\n\n{reached(results)}"
    )


def all_rows(results: Sequence[Mapping[str, Any]], seed: int) -> str:
    """Every score of the same thing, over seeds; the interval is of the first, ``seed``."""
    levels = {level: [result["levels"][level] for result in results] for level in LEVELS}
    rows = []
    for row in levels["any"][0]["rows"]:
        name = row["name"]
        pixel = [result["pixel"][name] for result in results if name in result["pixel"]]
        rows.append(
            [
                name,
                spread(column(levels["any"], name)),
                interval(row["auc_interval"]),
                spread(column(levels["any"], name, "within")),
                spread(column(levels["1 %"], name)),
                spread(column(levels["5 %"], name)),
                spread(pixel) if pixel else "–",
            ]
        )
    header = [
        *("score", "any fluid", f"95 % interval, seed {seed}", "within an eye"),
        *("≥ 1 % fluid", "≥ 5 % fluid", "per pixel"),
    ]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
