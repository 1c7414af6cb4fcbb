"""Single B-scans of healthy and ill retinas, by picture: trained on one set, tested on both.

Kermany (Spectralis; CNV, DME, drusen) and OCTDL (Optovue; six diseases), CC BY 4.0; and, by patch
and pixel, six eyes with edema of Chiu et al. 2015, as in `oct.py`. The split is by patient, over
all classes: a stable hash of the number takes 60 % of the healthy patients to train and 15 % to
calibrate; the rest and all who are ill are tested. The retina is seen at full depth; a picture's
score is the recipe's, and the mean over all its windows stands beside it. The critic alone is that
of f-AnoGAN's GAN. Beside the detectors stand the scores that need no network.

Pictures are flattened once, into stores under ``runs/``. Resumable; a result that is in
``benchmarks/results/`` isn't made again.

    python benchmarks/oct_pictures.py --recipe small --seeds 3
    python benchmarks/oct_pictures.py --seeds 1 --detectors izi_f --sets kermany
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from oct import edema
from oct_patches import LEVELS
from PIL import Image
from tables import (
    RESULTS,
    RUNS,
    circumstances,
    conditions,
    data_folder,
    done,
    every_result,
    keep,
    kept_results,
    markdown,
    run_of,
    spread,
    trained,
    write_section,
)

from fanogan import Recipe, Scan, load_recipe
from fanogan.data import Normals
from fanogan.detectors import Detector, new_detector, untrained
from fanogan.evaluation import mean_interval, resampled_aucs, trivial_scores
from fanogan.retina import FlatSpace, FlatVolume, prepare, read_store
from fanogan.scans import read_scan
from fanogan.scoring import Model, calibrate, results

# The classes of each set, the healthy one first; the patient in a name; mm of rows and columns.
SETS: dict[str, tuple[tuple[str, ...], str, tuple[None, float, float]]] = {
    "kermany": (("NORMAL", "CNV", "DME", "DRUSEN"), r"-(\d+)-", (None, 0.00387, 0.0115)),
    "octdl": (
        ("NO", "AMD", "DME", "ERM", "RVO", "RAO", "VID"),
        r"_(\d+)_",
        (None, 0.0054, 0.0136),
    ),
}
OCTDL_COLUMNS = 882  # of most of its pictures; others were resized, and show as much
FULL_DEPTH = {"flat_rows": 64, "flat_base": 60, "stretch_retina": True}
# Of two thumbnails: the same pictures correlate by .988 and more, others by .944 at most.
SAME_PICTURE = 0.97
Named = TypeVar("Named", Scan, FlatVolume)
SCORES = ("total", "mean", "image", "feature", "shape", "combined")
WITHOUT = "without_network.json"
SHOWN = {
    "izi_f": "f-AnoGAN",
    "ae": "autoencoder of equal cost",
    "critic": "its critic alone",
    "pca": "PCA residual",
}


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--detectors", nargs="+", default=[*SHOWN])
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    data = data_folder(options.data) / "oct"
    recipe = load_recipe(options.recipe).but(**FULL_DEPTH, held_out_fraction=0.2)
    folder = RESULTS / "oct_pictures" / options.recipe
    for name in options.sets:
        if done(folder / name / WITHOUT) is None:
            without_network(name, recipe, data, folder / name / WITHOUT)
    for seed in range(options.seeds):
        for name in options.sets:
            for detector in options.detectors:
                path = folder / name / detector / f"seed{seed}.json"
                if done(path) is None:
                    one(name, detector, seed, recipe, data, path)
                of_fluid = folder / "chiu" / name / detector / path.name
                if done(of_fluid) is None:
                    fluid(run_of(path), seed, recipe, data, of_fluid)
    table(folder, options.recipe)


# --- data ---------------------------------------------------------------------------------------


def pictures(name: str, data: Path) -> Iterator[Scan]:
    """The pictures of a set, named by class and file."""
    classes, pattern, (between, row, column) = SETS[name]
    for kind in classes:
        for file in sorted((data / name / kind).iterdir()):
            scan = read_scan(file)
            width = scan.pixels.shape[2]
            # Kermany's pictures of 1,536 columns were taken twice as densely.
            share = OCTDL_COLUMNS / width if name == "octdl" else 0.5 if width > 1000 else 1.0
            rows = row * share if name == "octdl" else row
            spacing = (between, rows, column * share)
            yield Scan(scan.pixels, f"{kind}/{file.name}", patient_of(file, pattern), spacing)


def by_class(name: str, found: Iterable[Named]) -> dict[str, list[Named]]:
    """The pictures of a set by class, the healthy ones first."""
    of: dict[str, list[Named]] = {kind: [] for kind in SETS[name][0]}
    for picture in found:
        of[picture.name.split("/")[0]].append(picture)
    return of


def flat(name: str, data: Path, space: FlatSpace) -> dict[str, list[FlatVolume]]:
    """The flattened pictures of a set by class, from its store."""
    store = RUNS / "oct_pictures" / f"{name}.zarr"
    if not store.exists():
        summary = prepare(list(pictures(name, data)), store, space=space)
        assert not summary.failed, summary.failed  # every picture has a score
        print(f"{name}: {summary}", flush=True)
    return by_class(name, read_store(store, space))


def second_numbers(name: str, data: Path) -> dict[str, str]:
    """Second numbers of a set's patients, and the first ones."""
    classes, pattern, _ = SETS[name]
    every = [file for kind in classes for file in sorted((data / name / kind).iterdir())]
    return seconds(every, pattern)


def patient_of(file: Path, pattern: str) -> str:
    """The patient's number in a name."""
    found = re.search(pattern, file.name)
    assert found
    return found[1]


def seconds(files: Sequence[Path], pattern: str) -> dict[str, str]:
    """Numbers of patients who have a lower one too, and that: a picture is nearly the same."""
    thumbnails = []
    for file in files:
        with Image.open(file) as image:
            small = np.asarray(image.resize((64, 24), Image.Resampling.LANCZOS), dtype=np.float64)
        thumbnails.append((small - small.mean()).ravel() / np.linalg.norm(small - small.mean()))
    correlations = np.array(thumbnails) @ np.array(thumbnails).T
    numbers = [patient_of(file, pattern) for file in files]
    pairs = [
        {numbers[one], numbers[other]} for one, other in np.argwhere(correlations > SAME_PICTURE)
    ]
    return {max(pair, key=int): min(pair, key=int) for pair in pairs if len(pair) == 2}


def part_of(patient: str) -> float:
    """A stable number in [0, 1) for a patient."""
    return int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32


def split(
    found: Mapping[str, Sequence[Named]], second: Mapping[str, str]
) -> tuple[list[Named], ...]:
    """Pictures to train on, to calibrate on and to test on; who is ill is tested alone.

    Who is trained or calibrated on under another number isn't tested.
    """
    healthy, *ill = found.values()
    tested = [volume for kind in ill for volume in kind]
    of_ill = {volume.group for volume in tested}
    parts: tuple[list[Named], ...] = [], [], tested
    for volume in healthy:
        at = 2 if volume.group in of_ill else int(np.digitize(part_of(volume.group), [0.6, 0.75]))
        parts[at].append(volume)

    def person(volume: Named) -> str:
        return second.get(volume.group, volume.group)

    known = {person(volume) for volume in (*parts[0], *parts[1])}
    return (*parts[:2], [volume for volume in parts[2] if person(volume) not in known])


# --- scores -------------------------------------------------------------------------------------


def one(name: str, detector: str, seed: int, recipe: Recipe, data: Path, path: Path) -> None:
    """Train a detector on a set, and score what is tested of both."""
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    learnt, held_out, _ = split(flat(name, data, space), second_numbers(name, data))
    normals = Normals.of(learnt, held_out, recipe)
    made = new_detector(detector, recipe, seed=seed)
    gan = run_of(path.parent.parent / "izi_f" / path.name) if detector == "critic" else None
    minutes = trained(made, normals, path, gan=gan)
    scored: dict[str, Any] = {}
    for other in SETS:
        tested = split(flat(other, data, space), second_numbers(other, data))[2]
        scored[other] = {
            "names": [volume.name for volume in tested],
            "patients": [volume.group for volume in tested],
            "trained": of_model(made.model, tested),
            "found": [volume.found for volume in tested],
        }
        if detector == "izi_f" and seed == 0:
            plain = calibrate(untrained(made.model), normals.held_out)
            scored[other]["untrained"] = of_model(plain, tested)
    facts = conditions(seed=seed, minutes=minutes)
    keep(path, {"tested": scored, "pictures": len(learnt), **facts})


def of_model(model: Model, tested: Sequence[FlatVolume]) -> dict[str, list[float]]:
    """What a model makes of each picture: all `SCORES`."""
    found = {each.scan_name: each.without_arrays() for each in results(model, tested)}
    missing = [volume.name for volume in tested if volume.name not in found]
    assert not missing, missing
    return {key: [rounded(getattr(found[v.name], key)) for v in tested] for key in SCORES}


def rounded(score: float) -> float:
    """Six digits, which are enough to rank."""
    return float(f"{score:.6g}")


def without_network(name: str, recipe: Recipe, data: Path, path: Path) -> None:
    """Score flat pictures of both sets by what needs no network, and knows the normals of one."""
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    learnt, held_out, _ = split(flat(name, data, space), second_numbers(name, data))
    statistics = Normals.of(learnt, held_out, recipe).profile.statistics
    assert statistics is not None
    scored: dict[str, dict[str, list[float]]] = {}
    for other in SETS:
        scores: dict[str, list[float]] = {}
        for volume in split(flat(other, data, space), second_numbers(other, data))[2]:
            pixels, recorded = volume.pixels[0], volume.recorded[0]
            each = {
                "row means as z-scores": statistics.rows_distance(pixels / 255, recorded),
                "three statistics": statistics.distance(pixels / 255, recorded),
                "columns not seen clearly": float(1 - volume.boundaries.clear.mean()),
                **trivial_scores(pixels[:, recorded.all(axis=0)] / 255),
            }
            for key, value in each.items():
                scores.setdefault(key, []).append(rounded(value))
        scored[other] = scores
    keep(path, {"tested": scored, **conditions()})


# --- fluid --------------------------------------------------------------------------------------


def fluid(run: Path, seed: int, recipe: Recipe, data: Path, path: Path) -> None:
    """Score the eyes with edema, with what was trained on a set in ``run``."""
    space = FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina)
    tested = list(edema(data.parent, space))
    model = Detector.load(run, device="cpu").model
    scored = {"trained": aucs_of_fluid(model, tested)}
    if run.parent.name == "izi_f" and seed == 0:
        scored["untrained"] = aucs_of_fluid(untrained(model), tested)
    keep(path, {"scored": scored, **conditions(seed=seed, minutes=None)})


def aucs_of_fluid(
    model: Model, tested: Sequence[tuple[FlatVolume, np.ndarray]]
) -> dict[str, list[float]]:
    """AUCs of scores that need a network and of others, the same patches and pixels for each.

    Of patches with any fluid, 1 % and 5 % of it; of pixels; of pixels within a flat row.
    """
    window, statistics = model.preprocessing.window, model.profile.statistics
    assert window is not None and statistics is not None
    masks = {volume.name: mask for volume, mask in tested}
    shares: list[float] = []
    patches: dict[str, list[float]] = {}
    maps: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for one in results(model, [volume for volume, _ in tested]):
        if one.unit == "volume":
            continue
        volume, frame = one.volume, one.frame
        assert volume is not None and one.patches is not None and one.residual is not None
        mask = masks[volume.name][frame]
        marked = volume.forward(frame, mask)
        flat_pixels = np.where(volume.recorded[frame], volume.pixels[frame] / 255, np.nan)
        plain = {
            "darkness": -flat_pixels,
            "row means as z-scores": statistics.z_scores(flat_pixels) ** 2,
        }
        for row, column, *terms in one.patches:
            at = np.s_[int(row) : int(row) + window[0], int(column) : int(column) + window[1]]
            shares.append(float(marked[at].mean()))
            each = dict(zip(("total", "image", "feature"), terms, strict=True))
            each |= {key: float(np.nanmean(of[at])) for key, of in plain.items()}
            for key, value in each.items():
                patches.setdefault(key, []).append(value)
        depths = volume.to_original(frame, rows_of_flat(flat_pixels.shape))
        shown = {
            key: volume.to_original(frame, np.nan_to_num(of).astype(np.float32))
            for key, of in plain.items()
        }
        for key, of in {"total": one.residual, **shown}.items():
            known = np.isfinite(one.residual) & np.isfinite(depths)
            maps.setdefault(key, []).append((mask[known], of[known], np.rint(depths[known])))
    found = {key: at_levels(np.array(shares), np.array(of)) for key, of in patches.items()}
    for key, parts in maps.items():
        labels, scores, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
        of_rows = [(labels[rows == row], scores[rows == row]) for row in np.unique(rows)]
        within = [auc(ill, of) for ill, of in of_rows if ill.any() and not ill.all()]
        found[key] += [rounded(auc(labels, scores)), rounded(float(np.mean(within)))]
    return found


def rows_of_flat(shape: tuple[int, ...]) -> np.ndarray:
    """The number of its row in each pixel."""
    return np.repeat(np.arange(shape[0], dtype=np.float32)[:, None], shape[1], axis=1)


def at_levels(share: np.ndarray, scores: np.ndarray) -> list[float]:
    """AUC of patches with at least so much fluid against those with none, for each level."""
    aucs = []
    for least in LEVELS.values():
        ill = (share > 0) & (share >= least)
        chosen = ill | (share == 0)
        aucs.append(rounded(auc(ill[chosen].astype(int), scores[chosen])))
    return aucs


# --- the table ----------------------------------------------------------------------------------


def table(folder: Path, recipe: str) -> None:
    """Write the section from all results that are there."""
    parts = []
    for name in SETS:
        runs = {kind: kept_results(folder / name / kind) for kind in SHOWN}
        runs = {kind: found for kind, found in runs.items() if found}
        if not runs:
            continue
        every = every_result(runs)
        plain = done(folder / name / WITHOUT)
        assert plain is not None
        parts.append(
            f"Trained on {every[0]['pictures']} healthy pictures of {name}; "
            f"{circumstances(every, recipe, 'detector')}."
        )
        for other in SETS:
            tested = every[0]["tested"][other]
            counts = Counter(each.split("/")[0] for each in tested["names"])
            said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            unknown: dict[str, list[float]] = {}
            for each, share in zip(tested["names"], tested["found"], strict=True):
                unknown.setdefault(each.split("/")[0], []).append(100 * (1 - share))
            lost = ", ".join(f"{kind} {np.mean(of):.2f}" for kind, of in unknown.items())
            rows = [*rows_of(runs, plain, other)]
            header = ["score", "all ill (95 % interval)", *SETS[other][0][1:]]
            parts.append(
                f"Tested on {other}: {said}. Columns without boundaries, margins "
                f"included, mean in %: {lost}. AUC by picture:\n\n{markdown(header, rows)}"
            )
        parts += fluid_table(folder / "chiu" / name)
    write_section("oct_pictures", "\n\n".join(parts))


def fluid_table(folder: Path) -> list[str]:
    """The table of the eyes with edema, if there are results."""
    runs = {kind: kept_results(folder / kind) for kind in SHOWN}
    scored = {kind: [result["scored"] for result in found] for kind, found in runs.items() if found}
    if not scored:
        return []
    groups = [
        (f"{SHOWN[kind]}{title}", [each["trained"] for each in found], key)
        for kind, found in scored.items()
        for key, title in {"total": "", "image": ": A_R", "feature": ": A_D"}.items()
        if kind == "izi_f" or key == "total"
    ]
    first = next(iter(scored.values()))
    groups += [("untrained", [each["untrained"] for each in scored.get("izi_f", [])[:1]], "total")]
    groups += [(key, [first[0]["trained"]], key) for key in ("darkness", "row means as z-scores")]
    rows = [
        [title, *map(spread, zip(*(each[key] for each in found), strict=True))]
        for title, found, key in groups
        if found
    ]
    widest = max(map(len, rows))
    rows = [[*row, *["–"] * (widest - len(row))] for row in rows]
    header = ["score", *LEVELS, "per pixel", "within a flat row"]
    return [
        f"Tested on the eyes with edema, AUC by patch and by pixel:\n\n{markdown(header, rows)}"
    ]


def rows_of(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], plain: Mapping[str, Any], other: str
) -> Iterable[list[str]]:
    """Rows of the table: each score of each detector, over its seeds."""
    groups: list[tuple[str, list[Mapping[str, Any]], str, str]] = []
    for kind, found in runs.items():
        tested = [result["tested"][other] for result in found]
        titles = {"total": "", "mean": ", mean over windows"}
        if kind == "izi_f":
            titles |= {"image": ": A_R", "feature": ": A_D"}
        if kind in ("izi_f", "ae"):
            titles["combined"] = " and shape combined"
        groups += [
            (f"{SHOWN[kind]}{title}", tested, "trained", key) for key, title in titles.items()
        ]
        if kind == "izi_f":
            groups.append(("shape", tested[:1], "trained", "shape"))
            groups.append(("untrained", tested[:1], "untrained", "total"))
            without = [{**tested[0], "plain": plain["tested"][other]}]
            groups += [(key, without, "plain", key) for key in without[0]["plain"]]
    for title, tested, which, key in groups:
        names, patients = tested[0]["names"], tested[0]["patients"]
        kinds = np.array([name.split("/")[0] for name in names])
        healthy, *ill = SETS[other][0]
        scores = np.array([each[which][key] for each in tested])
        cells = []
        for chosen in (kinds == kinds, *(np.isin(kinds, [healthy, kind]) for kind in ill)):
            labels = (kinds[chosen] != healthy).astype(int)
            aucs = [auc(labels, one[chosen]) for one in scores]
            cells.append(spread(aucs))
            if len(cells) == 1:
                low, high = mean_interval(resampled_aucs(labels, scores, patients)) or (0, 0)
                cells[0] += f" ({low:.3f} to {high:.3f})"
        yield [title, *cells]


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The AUC of scores."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


if __name__ == "__main__":
    main()
