"""The paper's experiment on real OCT, as far as public data goes, and what an expert would try.

Trained on two healthy eyes (Spectralis), a third held out; tested on six eyes with diabetic macular
edema (Chiu et al. 2015): patches of 64×64 flat pixels on the scoring grid, with at least half of
retina in them, in the columns that were graded. A patch is anomalous where the grader marked fluid
in it. Each variant is a change in the recipe, and a row of the table; none is chosen.

Volumes are straightened once, into a store under ``runs/``. Nothing made of these scans may be
published but numbers: all else stays there. Resumable; a result that is in ``benchmarks/results/``
isn't made again.

    python benchmarks/oct.py --recipe small --seeds 1
    python benchmarks/oct.py --recipe overnight --devices 2 --variants "as published"
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from oct_patches import GRADED, LEVELS, all_rows, at_level
from PIL import Image
from tables import (
    RESULTS,
    RUNS,
    circumstances,
    column,
    conditions,
    data_folder,
    done,
    every_result,
    keep,
    kept_results,
    markdown,
    reached,
    spread,
    trained,
    write_section,
)

from fanogan import Recipe, Scan, load_recipe
from fanogan.calibration import UNCALIBRATED
from fanogan.data import Normals
from fanogan.detectors import new_detector, untrained
from fanogan.evaluation import PixelROC, calibrated_row
from fanogan.evaluation.plain import PCA_RESIDUAL, ROW_MEANS, plain_scores_of_patch
from fanogan.retina import FlatSpace, FlatVolume, prepare, read_store, read_volumes
from fanogan.scans import read_scan
from fanogan.scoring import Model, calibrate, results

SPACING = (0.12, 0.00387, 0.0114)  # of Chiu's B-scans, whose files say nothing
HELD_OUT = "healthy_subject3"
ALPHA = 0.05
METHOD = "f-AnoGAN (A)"
RESIDUAL = "image residual (A_R)"
PAPER_PATCHES = ("0.786", "0.809", "0.905", "0.798", "0.930")  # its table 1
PAPER_PIXELS = ("–", "0.691", "0.753", "–", "0.783")  # its table B1
FULL_DEPTH = {"stretch_retina": True, "flat_rows": 64, "flat_base": 60}

# What is trained, and then scored in several ways: name → changes in the recipe.
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "full retinal depth": FULL_DEPTH,
    "full depth, layers matched": {**FULL_DEPTH, "match_layers": True},
    "full depth, depth channel": {**FULL_DEPTH, "depth_channel": True},
    "full depth, critic augmented": {**FULL_DEPTH, "augment_critic": True},
    "full depth, critic and normals augmented": {
        **FULL_DEPTH,
        "augment_critic": True,
        "augment_normals": True,
    },
    "full depth, generator averaged": {**FULL_DEPTH, "generator_average": 0.99},
    "full depth, three times longer": FULL_DEPTH,
}
# Other detectors, which have one term.
OTHERS: dict[str, dict[str, Any]] = {
    f"{name}{depth}": change
    for name in ("ae", "pca")
    for depth, change in {"": {}, ", full depth": FULL_DEPTH}.items()
}
NAMES = [*VARIANTS, *OTHERS]
BESIDE = {"pca": PCA_RESIDUAL, "ae": "autoencoder of equal cost"}
SCORED: dict[str, dict[str, Any]] = {
    "": {},
    ", retina alone scored": {"score_retina_only": True},
    ", terms standardised": {"standardise_terms": True},
}


@dataclasses.dataclass(frozen=True)
class Patches:
    """What is scored of the test volumes: (n,) each."""

    share: np.ndarray  # of fluid
    subjects: tuple[str, ...]
    totals: np.ndarray
    image: np.ndarray
    feature: np.ndarray
    trivial: Mapping[str, np.ndarray]
    pixels: Mapping[str, PixelROC]  # of the residual over what the patches cover, of each eye
    dark: Mapping[str, PixelROC]


# --- data ---------------------------------------------------------------------------------------


def healthy(data: Path, space: FlatSpace) -> Iterator[FlatVolume]:
    """The healthy eyes, from the store."""
    store = RUNS / "oct" / "spectralis.zarr"
    prepare([data / "oct" / "spectralis"], store)
    return (volume for volume in read_store(store, space) if "healthy" in volume.name)


def edema(data: Path, space: FlatSpace) -> Iterator[tuple[FlatVolume, np.ndarray]]:
    """The graded columns of the eyes with edema, and the fluid in them (B-scans, rows, columns)."""
    folder = data / "oct" / "chiu_dme"
    graded = slice(GRADED.start, GRADED.stop)
    files: dict[str, list[Path]] = {}
    for file in sorted((folder / "bscans").glob("*.png")):
        files.setdefault(file.name.split("_")[0], []).append(file)
    scans, masks = [], {}
    for subject, parts in files.items():
        pixels = np.concatenate([read_scan(file).pixels for file in parts])[..., graded]
        scans.append(Scan(pixels, subject, subject, SPACING, is_volume=True))
        marks = [Image.open(folder / "fluid" / file.name).convert("L") for file in parts]
        masks[subject] = np.stack([np.asarray(mark) > 127 for mark in marks])[..., graded]
    for volume in read_volumes(scans, space):
        yield volume, masks[volume.name]


# --- measuring ----------------------------------------------------------------------------------


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1, help="processes that train together")
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    data, recipe = data_folder(options.data), load_recipe(options.recipe)
    folder = RESULTS / "oct" / recipe.name
    for seed in range(options.seeds):
        for variant in options.variants:
            path = folder / named(variant) / f"seed{seed}.json"
            one(variant, seed, recipe, data, path, options.devices)
    if is_first():
        table(folder, recipe.name)


def is_first() -> bool:
    """Whether this process is the first of those that train together, which does all else."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def named(variant: str) -> str:
    """The name of a variant's folder."""
    return variant.replace(" ", "_").replace(",", "")


def one(variant: str, seed: int, recipe: Recipe, data: Path, path: Path, devices: int) -> None:
    """One training, scored in each way."""
    if done(path):
        return
    longer = 3 if "three times longer" in variant else 1
    recipe = recipe.but(
        **{**VARIANTS, **OTHERS}[variant],
        critic_updates=longer * recipe.critic_updates,
        encoder_updates=longer * recipe.encoder_updates,
    )
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    eyes = list(healthy(data, space))
    kept = [eye for eye in eyes if HELD_OUT not in eye.name]
    held_out = [eye for eye in eyes if HELD_OUT in eye.name]
    normals = Normals.of(kept, held_out, recipe)
    tested = list(edema(data, space))
    name = variant.split(",")[0] if variant in OTHERS else "izi_f"
    detector = new_detector(name, recipe, seed=seed, devices=devices)
    minutes = trained(detector, normals, path)
    if not is_first():
        return
    scored = {
        f"{variant}{way}": result(scored_as(detector.model, normals, change), tested)
        for way, change in SCORED.items()
        if not (variant in OTHERS and "standardise_terms" in change)
    }
    keep(path, {"variants": scored, **conditions(seed=seed, minutes=minutes, devices=devices)})
    first = scored[variant]["levels"]["any"]["rows"][0]
    print(f"{variant}, seed {seed}: AUC {first['auc']:.4f}", flush=True)


def scored_as(model: Model, normals: Normals, change: Mapping[str, Any]) -> Model:
    """The same networks with another score, calibrated anew on the held-out normals."""
    recipe, view = model.recipe.but(**change), model.preprocessing.retina
    assert view is not None
    preprocessing = dataclasses.replace(
        model.preprocessing,
        retina=dataclasses.replace(view, score_retina_only=recipe.score_retina_only),
    )
    other = model.but(recipe=recipe, preprocessing=preprocessing, calibration=UNCALIBRATED)
    return calibrate(other, normals.held_out)


def result(model: Model, tested: Sequence[tuple[FlatVolume, np.ndarray]]) -> dict[str, Any]:
    """All figures of a model."""
    patches = patches_of(model, tested)
    without_training = patches_of(untrained(model), tested)
    terms = {"total": patches.totals, "image": patches.image, "feature": patches.feature}
    labels = (patches.share > 0).astype(int)
    eyes = np.array(patches.subjects)
    pixels = whole(patches.pixels)
    held_out = model.calibration.units["patch"]
    return {
        "levels": {
            level: at_level(least, patches, terms, without_training.totals, patches.trivial)
            for level, least in LEVELS.items()
        },
        "calibrated": calibrated_row(labels, patches.totals, held_out, ALPHA),
        "pixel": {
            METHOD: pixels.auc(),
            "score inverted (−A)": 1 - pixels.auc(),
            "untrained networks": whole(without_training.pixels).auc(),
            "darkness": whole(patches.dark).auc(),
        },
        "pixel_youden": pixels.youden().as_dict(),
        "eyes": {
            eye: {
                "n": int((eyes == eye).sum()),
                "n_anomalous": int(labels[eyes == eye].sum()),
                "pixel": patches.pixels[eye].auc(),
                "pixel_darkness": patches.dark[eye].auc(),
            }
            for eye in sorted(set(eyes))
        },
    }


def whole(parts: Mapping[str, PixelROC]) -> PixelROC:
    """The pixels of all eyes together."""
    total = copy.deepcopy(next(iter(parts.values())))
    for part in [*parts.values()][1:]:
        total.merge(part)
    return total


def patches_of(model: Model, tested: Sequence[tuple[FlatVolume, np.ndarray]]) -> Patches:
    """The patches of the test volumes, as a model scores them."""
    masks = {volume.name: mask for volume, mask in tested}
    window = model.preprocessing.window
    assert window is not None
    pixels = {name: PixelROC() for name in masks}
    dark = {name: PixelROC(low=-1, high=1) for name in masks}
    found: list[tuple[float, ...]] = []
    subjects: list[str] = []
    trivial: list[dict[str, float]] = []
    for one in results(model, [volume for volume, _ in tested]):
        if one.unit == "volume":
            continue
        assert one.volume is not None and one.patches is not None
        assert one.residual is not None and one.picture is not None
        mask = masks[one.volume.name][one.frame]
        known = np.isfinite(one.residual)
        pixels[one.volume.name].update(one.residual[known], mask[known])
        dark[one.volume.name].update(-one.picture[known], mask[known])
        fluid = one.volume.forward(one.frame, mask)
        for row, at, *scores in one.patches:
            place = np.s_[int(row) : int(row) + window[0], int(at) : int(at) + window[1]]
            found.append((fluid[place].mean(), *scores))
            subjects.append(one.volume.name)
            statistics = model.profile.statistics
            trivial.append(plain_scores_of_patch(statistics, one.volume, one.frame, place))
    columns = np.array(found).T
    return Patches(
        share=columns[0],
        subjects=tuple(subjects),
        totals=columns[1],
        image=columns[2],
        feature=columns[3],
        trivial={name: np.array([each[name] for each in trivial]) for name in trivial[0]},
        pixels=pixels,
        dark=dark,
    )


# --- table --------------------------------------------------------------------------------------

PREAMBLE = """Real scans. Trained on the flattened volumes of two healthy eyes (98 B-scans), a \
third held out; tested on the flattened graded columns of six eyes with diabetic macular edema, \
another setting of the scanner. Patches of 64×64 flat pixels on the scoring grid (stride 32), at \
least half of retina in them. Anomalous: fluid in at least one pixel, 1 % or 5 % of the patch, \
against patches with none (which may hold other lesions). Within an eye: mean of the eyes' own \
AUCs. Per pixel: over what the patches cover. 'ae' is an autoencoder of equal budget, 'pca' the \
residual of principal components. Intervals resample the six eyes and are rough."""


def table(folder: Path, recipe: str) -> None:
    """Write the tables of all results that are there."""
    found = {path.name: kept_results(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    results = {name: kept for name, kept in found.items() if kept}
    parts = [PREAMBLE, variants_table(results, recipe)]
    if "as_published" in results:
        parts.append(rows_table("as published", results["as_published"], results))
    write_section(f"oct, {recipe}", "\n\n".join(parts))


def variants_table(results: Mapping[str, Sequence[Mapping[str, Any]]], recipe: str) -> str:
    """A row for each variant and each way of scoring it, beside darkness on its own patches."""
    rows = []
    order = map(named, NAMES)
    for name in (name for name in order if name in results):
        minutes = [one["minutes"] for one in results[name] if one["minutes"] is not None]
        for variant in results[name][0]["variants"]:
            found = [one["variants"][variant] for one in results[name]]
            levels = {level: [one["levels"][level] for one in found] for level in LEVELS}
            scores = {variant: METHOD}
            if variant in OTHERS and name.startswith("pca"):
                scores[variant.replace("pca", ROW_MEANS)] = ROW_MEANS
            for title, scored in scores.items():
                own = scored == METHOD
                rows.append(
                    [
                        title,
                        str(len(found)),
                        f"{levels['any'][0]['n']:,}",
                        *(spread(column(levels[level], scored)) for level in LEVELS),
                        spread(column(levels["any"], RESIDUAL)) if own else "–",
                        spread(column(levels["any"], scored, "within")),
                        spread([one["pixel"][METHOD] for one in found]) if own else "–",
                        " · ".join(f"{column(levels[at], 'darkness')[0]:.3f}" for at in LEVELS),
                        f"{np.mean(minutes):.0f}" if own and minutes else "–",
                    ]
                )
    header = ["variant", "seeds", "patches", *LEVELS, "any, A_R alone", "within an eye"]
    header += ["per pixel", "darkness there", "minutes"]
    every = every_result(results)
    processes = max(one.get("devices", 1) for one in every)
    return (
        f"AUC; {circumstances(every, recipe, 'training')}; {processes} process(es) a training."
        f"\n\n{markdown(header, rows)}"
    )


def rows_table(
    variant: str,
    results: Sequence[Mapping[str, Any]],
    others: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """All rows of one variant, the honest ones too, and each eye.

    ``others`` are results by variant; those of other detectors, on the same patches, join in.
    """
    found = [copy.deepcopy(one["variants"][variant]) for one in results]
    for name, title in BESIDE.items():
        for one, each in zip(found, others.get(name, []), strict=False):
            other = each["variants"][name]
            for level in LEVELS:
                same = {row["name"]: row for row in other["levels"][level]["rows"]}
                assert other["levels"][level]["n"] == one["levels"][level]["n"]
                one["levels"][level]["rows"].append({**same[METHOD], "name": title})
            one["pixel"][title] = other["pixel"][METHOD]
    some = found[0]["levels"]["any"]
    calibrated = [{**one, "seed": each["seed"]} for one, each in zip(found, results, strict=True)]
    return (
        f"Variant '{variant}', AUC: {some['n'] - some['n_anomalous']} patches without fluid, "
        f"{some['n_anomalous']} with.\n\n"
        f"{all_rows(found, results[0]['seed'])}\n\n"
        f"{reached(calibrated)}\n\n"
        f"{eyes_table(found)}\n\n"
        f"{paper_table(found)}"
    )


def eyes_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Each eye's own AUCs."""
    levels = [one["levels"]["any"] for one in found]
    rows = []
    for eye, first in found[0]["eyes"].items():
        of_patches = {
            row["name"]: spread([each["rows"][place]["eyes"][eye] for each in levels])
            for place, row in enumerate(levels[0]["rows"])
        }
        rows.append(
            [
                eye,
                f"{first['n_anomalous']} of {first['n']}",
                *(of_patches[name] for name in (METHOD, "darkness", "low contrast")),
                spread([one["eyes"][eye]["pixel"] for one in found]),
                f"{first['pixel_darkness']:.3f}",
            ]
        )
    header = ["eye", "patches with fluid", METHOD, "darkness", "low contrast"]
    return "Each eye on its own, any fluid:\n\n" + markdown(
        [*header, "per pixel", "darkness per pixel"], rows
    )


def paper_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The figures of the paper's tables 1 and B1, beside the paper's own."""
    points = [one["levels"]["any"]["rows"][0]["youden"] for one in found]
    pixels = [one["pixel_youden"] for one in found]
    aucs = column([one["levels"]["any"] for one in found], METHOD)
    precision, f_score = zip(*(at_prevalence(point) for point in points), strict=True)
    rows = [
        [
            "patches",
            spread(precision),
            spread([point["sensitivity"] for point in points]),
            spread([point["specificity"] for point in points]),
            spread(f_score),
            spread(aucs),
        ],
        ["patches, the paper", *PAPER_PATCHES],
        [
            "pixels",
            "–",
            spread([point["sensitivity"] for point in pixels]),
            spread([point["specificity"] for point in pixels]),
            "–",
            spread([one["pixel"][METHOD] for one in found]),
        ],
        ["pixels, the paper", *PAPER_PIXELS],
    ]
    header = ["f-AnoGAN", "precision", "sensitivity", "specificity", "f-score", "AUC"]
    return (
        "As the paper's tables 1 and B1: at Youden's point, which is chosen on the test labels; "
        "precision and f-score as they would be with the paper's 30 % of anomalous patches.\n\n"
        + markdown(header, rows)
    )


def at_prevalence(point: Mapping[str, float], share: float = 0.3) -> tuple[float, float]:
    """Precision and F-score of an operating point where this share is anomalous."""
    hits = share * point["sensitivity"]
    precision = hits / (hits + (1 - share) * point["false_positive_rate"])
    return precision, 2 * hits / (hits / precision + share)


if __name__ == "__main__":
    main()
