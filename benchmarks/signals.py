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
    write_section,
)

from fanogan import load_recipe
from fanogan.data import Normals
from fanogan.recipes import Recipe
from fanogan.scans import Signal, read_scans

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
    tested = [
        pair for r in TESTED for pair in beats(file, r, window, NORMAL + VENTRICULAR + OTHER)
    ][::every]
    signals, kinds = [signal for signal, _ in tested], np.array([kind for _, kind in tested])
    records = np.array([signal.group for signal in signals])
    values = np.stack([signal.pixels[0, 0] for signal in signals])
    template = np.mean([signal.pixels[0, 0] for signal in learnt], axis=0)
    scores, minutes = learnt_and_scored(settled, recipe, seed, path, signals)
    trivial = {
        "amplitude": np.ptp(values, axis=1),
        "steepness": np.abs(np.diff(values)).max(1),
        "distance to the mean normal beat": np.square(values - template).mean(1),
    }
    result: dict[str, Any] = {}
    for name, abnormal in (("ventricular", VENTRICULAR), ("other", OTHER)):
        chosen = np.isin(kinds, [*NORMAL, *abnormal])
        labels = np.isin(kinds, [*abnormal])[chosen].astype(int)
        of_chosen, trivial_of_chosen = (
            {key: value[chosen] for key, value in each.items()} for each in (scores, trivial)
        )
        groups = records[chosen].tolist()
        result[name] = rows_beside(labels, of_chosen, trivial_of_chosen, groups)
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['ventricular']['rows'][0]['auc']:.3f} ventricular", flush=True)


def table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    first = results[0]

    kinds = ("ventricular", "other")
    heading = ["score"]
    for kind in kinds:
        counts = first[kind]
        normal = counts["n"] - counts["n_anomalous"]
        heading.append(f"{kind} ({counts['n_anomalous']:,} against {normal:,} normal)")
    rows = auc_rows(*([result[kind] for result in results] for kind in kinds))
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
    tested = [*read("normal", SOUNDS["tested"]), *read("abnormal")]
    labels = np.array([signal.group.startswith("abnormal") for signal in tested]).astype(int)
    scores, minutes = learnt_and_scored(settled, recipe, seed, path, tested)
    groups = [signal.group for signal in tested]
    result = rows_beside(labels, scores, plain_sounds(tested), groups)
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['rows'][0]['auc']:.3f} heart sounds", flush=True)


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
    n, ill = results[0]["n"], results[0]["n_anomalous"]
    write_section(
        "heart sounds",
        f"Heart sounds, AUC by recording: {ill} abnormal against {n - ill} normal ones, of "
        f"database e alone; windows of 1,024 samples at 2 kHz, seen at 512; "
        f"{circumstances(results, recipe)}. Data: PhysioNet/CinC Challenge 2016, Open Data "
        f"Commons Attribution.\n\n{markdown(['score', 'AUC'], auc_rows(results))}",
    )


if __name__ == "__main__":
    main()
