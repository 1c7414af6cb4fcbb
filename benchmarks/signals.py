"""Signals: heart beats of MIT-BIH, and heart sounds of the Challenge of 2016.

MIT-BIH: beats of other people, ventricular and other abnormal ones against normal ones. Records are
split as de Chazal et al. (2004) split them (DS1 to learn from, DS2 to test), as far as they are
here. A window of a second around each annotated beat is a signal of its own. Heart sounds: by
recording, normal ones learned, others and abnormal ones tested. Resumable: what is done is not done
again, and a killed training goes on.

    python benchmarks/signals.py --which mitbih sounds --recipe signal --seeds 3
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tables import (
    RESULTS,
    circumstances,
    conditions,
    data_folder,
    done,
    keep,
    kept_results,
    markdown,
    spread,
    trained,
    write_section,
)

from fanogan import FAnoGAN, load_recipe
from fanogan.data import Normals
from fanogan.detectors import linear, new_detector, untrained
from fanogan.evaluation import compared_rows
from fanogan.recipes import Recipe
from fanogan.scans import Signal, read_scans
from fanogan.scoring import Model, encode, score_encoded

RATE, PER_MILLIVOLT = 125, 2000
# Of de Chazal's DS1, what is here; the last three are held out for calibration.
LEARNT = (
    *("101", "106", "109", "112", "115", "119", "122", "124", "203", "207", "208", "209", "215"),
    *("205", "220", "230"),
)
HELD_OUT = 3
TESTED = ["100", "105", "111", "121", "202", "210", "213", "214", "231", "234"]  # of DS2
# As the AAMI groups the annotations; what is in no group is no beat, or can't be told.
NORMAL, VENTRICULAR, OTHER = "NLRej", "VE", "AaJSF"
LEARNT_BEATS = 400
"""Normal beats of a record at most, evenly over it, so that no record counts for several."""


def main() -> None:
    """Train and test what isn't done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds signals/mitbih and heart_sounds")
    parser.add_argument("--which", nargs="+", choices=("mitbih", "sounds"), default=["mitbih"])
    parser.add_argument("--recipe", default="signal")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    recipe = load_recipe(options.recipe)
    data = data_folder(options.data) / "signals"
    if "mitbih" in options.which:
        folder = RESULTS / "signals" / recipe.name
        for seed in range(options.seeds):
            one(data / "mitbih" / "mitbih_125hz.npz", seed, recipe, folder / f"seed{seed}.json")
        table(folder, recipe.name)
    if "sounds" in options.which:
        folder = RESULTS / "heart_sounds" / recipe.name
        for seed in range(options.seeds):
            sounds(data / "heart_sounds", seed, recipe, folder / f"seed{seed}.json")
        sounds_table(folder, recipe.name)


def beats(file: Any, record: str, window: int, kinds: str) -> list[tuple[Signal, str]]:
    """Windows around the beats of a record of these kinds, and the kind of each."""
    lead = file[f"{record}_mV"].astype(np.float32) / PER_MILLIVOLT
    found = []
    for at, kind in zip(file[f"{record}_sample"], file[f"{record}_symbol"], strict=True):
        start = int(at) - window // 2
        if kind in kinds and start >= 0 and start + window <= len(lead):
            pixels = lead[None, None, start : start + window]
            signal = Signal(pixels, f"{record}/{at}", record, rate=RATE, channel_names=("lead",))
            found.append((signal, str(kind)))
    return found


def one(path_of_data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed, on every beat tested or every so many."""
    if done(path):
        return
    file, window = np.load(path_of_data), recipe.window[1]
    normals: list[list[Signal]] = []
    for record in LEARNT:
        found = [signal for signal, _ in beats(file, record, window, NORMAL)]
        normals.append(found[:: -(-len(found) // LEARNT_BEATS)])
    learnt = [signal for record in normals[:-HELD_OUT] for signal in record]
    held_out = [signal for record in normals[-HELD_OUT:] for signal in record]
    settled = Normals.of(learnt, held_out, recipe)
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, settled, path)
    autoencoder = new_detector("ae", recipe, seed=seed)
    trained(autoencoder, settled, path.with_name(f"ae_{path.name}"))

    tested = [
        pair for r in TESTED for pair in beats(file, r, window, NORMAL + VENTRICULAR + OTHER)
    ][::every]
    signals, kinds = [signal for signal, _ in tested], np.array([kind for _, kind in tested])
    records = np.array([signal.group for signal in signals])
    values = np.stack([signal.pixels[0, 0] for signal in signals])
    template = np.mean([signal.pixels[0, 0] for signal in learnt], axis=0)
    model = detector.model
    projected = linear(model)
    assert projected is not None
    terms = scores(model, signals)
    without_training = scores(untrained(model), signals)["total"]
    others = {"ae": scores(autoencoder.model, signals)["total"]}
    trivial = {
        "amplitude": np.ptp(values, axis=1),
        "steepness": np.abs(np.diff(values)).max(1),
        "distance to the mean normal beat": np.square(values - template).mean(1),
        "PCA residual": scores(projected, signals)["total"],
    }
    result: dict[str, Any] = {}
    for name, abnormal in (("ventricular", VENTRICULAR), ("other", OTHER)):
        chosen = np.isin(kinds, [*NORMAL, *abnormal])
        labels = np.isin(kinds, [*abnormal])[chosen].astype(int)
        result[name] = {
            "rows": compared_rows(
                labels,
                {key: value[chosen] for key, value in terms.items()},
                without_training[chosen],
                {key: value[chosen] for key, value in trivial.items()},
                records[chosen].tolist(),
                others={key: value[chosen] for key, value in others.items()},
            ),
            "n": len(labels),
            "n_anomalous": int(labels.sum()),
        }
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['ventricular']['rows'][0]['auc']:.3f} ventricular", flush=True)


def scores(model: Model, signals: Iterable[Signal]) -> dict[str, np.ndarray]:
    """Total and terms of each signal."""
    found = [
        (result.total, result.image, result.feature)
        for batch in score_encoded(model, encode(model, signals))
        for result in batch
    ]
    return dict(zip(("total", "image", "feature"), np.array(found).T, strict=True))


def table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    first = results[0]

    def auc(kind: str, name: str) -> str:
        rows = [row for result in results for row in result[kind]["rows"] if row["name"] == name]
        return spread([row["auc"] for row in rows])

    kinds = ("ventricular", "other")
    heading = ["score"]
    for kind in kinds:
        counts = first[kind]
        normal = counts["n"] - counts["n_anomalous"]
        heading.append(f"{kind} ({counts['n_anomalous']:,} against {normal:,} normal)")
    shown = {"ae": "autoencoder of equal cost"}
    names = [row["name"] for row in first["ventricular"]["rows"]]
    rows = [[shown.get(name, name), *(auc(kind, name) for kind in kinds)] for name in names]
    write_section(
        "signals",
        f"MIT-BIH, AUC by beat of {len(TESTED)} records that weren't trained on; normal beats of "
        f"{len(LEARNT) - HELD_OUT} others learned; {circumstances(results, recipe)}. Data: Moody "
        f"and Mark 2001, Open Data Commons Attribution.\n\n{markdown(heading, rows)}",
    )


# --- heart sounds ---

SOUNDS = {"learnt": slice(48), "held_out": slice(48, 67), "tested": slice(67, None)}
"""Of the normal recordings by their names; 19 held out are what a flag at 5 % needs."""

LOW = 150.0
"""Hz below which most of a normal heart sound is."""


def sounds(data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed: half a second of a recording at a time, by recording."""
    if done(path):
        return
    recipe = recipe.but(window=[1, 1024], image_size=[1, 512])

    def read(kind: str, which: slice = slice(None)) -> list[Signal]:
        files = sorted((data / kind).glob("*.wav"))[which][::every]
        found = [scan for scan in read_scans(files, kind="signal") if isinstance(scan, Signal)]
        return [replace(scan, group=f"{kind} {scan.name}") for scan in found]

    settled = Normals.of(
        read("normal", SOUNDS["learnt"]), read("normal", SOUNDS["held_out"]), recipe
    )
    detector = FAnoGAN(recipe, seed=seed)
    minutes = trained(detector, settled, path)
    autoencoder = new_detector("ae", recipe, seed=seed)
    trained(autoencoder, settled, path.with_name(f"ae_{path.name}"))
    tested = [*read("normal", SOUNDS["tested"]), *read("abnormal")]
    labels = np.array([signal.group.startswith("abnormal") for signal in tested]).astype(int)
    model = detector.model
    projected = linear(model)
    assert projected is not None
    rows = compared_rows(
        labels,
        scores(model, tested),
        scores(untrained(model), tested)["total"],
        {
            **plain_sounds(tested),
            "PCA residual": scores(projected, tested)["total"],
        },
        [signal.group for signal in tested],
        others={"ae": scores(autoencoder.model, tested)["total"]},
    )
    counts = {"n": len(labels), "n_anomalous": int(labels.sum())}
    keep(path, {"rows": rows, **counts, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {rows[0]['auc']:.3f} heart sounds", flush=True)


def plain_sounds(signals: Iterable[Signal]) -> dict[str, np.ndarray]:
    """Scores by amplitude and by spectrum, which need no network."""
    found: dict[str, list[float]] = {"loudness": [], "crest": [], "share above 150 Hz": []}
    for signal in signals:
        samples = signal.pixels.reshape(-1).astype(np.float64)
        power = np.abs(np.fft.rfft(samples - samples.mean())) ** 2
        frequencies = np.fft.rfftfreq(len(samples), 1 / (signal.rate or 1.0))
        found["loudness"].append(float(samples.std()))
        found["crest"].append(float(np.abs(samples).max() / samples.std()))
        found["share above 150 Hz"].append(float(power[frequencies > LOW].sum() / power.sum()))
    return {name: np.array(values) for name, values in found.items()}


def sounds_table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    shown = {"ae": "autoencoder of equal cost"}
    rows = [
        [
            shown.get(name, name),
            spread([row["auc"] for of in results for row in of["rows"] if row["name"] == name]),
        ]
        for name in (row["name"] for row in results[0]["rows"])
    ]
    n, ill = results[0]["n"], results[0]["n_anomalous"]
    write_section(
        "heart sounds",
        f"Heart sounds, AUC by recording: {ill} abnormal against {n - ill} normal ones, of "
        f"database e alone; windows of 1,024 samples at 2 kHz, seen at 512; "
        f"{circumstances(results, recipe)}. Data: PhysioNet/CinC Challenge 2016, Open Data "
        f"Commons Attribution.\n\n{markdown(['score', 'AUC'], rows)}",
    )


if __name__ == "__main__":
    main()
