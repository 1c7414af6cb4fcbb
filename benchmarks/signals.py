"""Signals: heart beats of MIT-BIH, inserted anomalies, and heart sounds of the Challenge of 2016.

MIT-BIH: beats of other people, ventricular and other abnormal ones against normal ones. Records are
split as de Chazal et al. (2004) split them (DS1 to learn from, DS2 to test), as far as they are
here. A window of a second around each annotated beat is a signal of its own. Inserted anomalies are
synthetic: stretches of the same records that hold normal beats alone, in half of which something
was changed at a known place (scipy's electrocardiogram won't do: it is a part of record 208, of
which one stretch in 225 is such). Heart sounds: by recording, normal ones learned, others and
abnormal ones tested. Resumable: what is done is not done again, and a killed training goes on.

    python benchmarks/signals.py --which mitbih ecg sounds --recipe signal --seeds 3
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable
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
    run_of,
    spread,
    write_section,
)

from fanogan import FAnoGAN, load_recipe
from fanogan.data import Normals
from fanogan.detectors import linear, untrained
from fanogan.evaluation import PixelROC
from fanogan.recipes import Recipe
from fanogan.scans import Signal, read_scans
from fanogan.scoring import Model, encode, score_encoded

MITBIH = "mitbih/mitbih_125hz.npz"
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
    parser.add_argument("--which", nargs="+", choices=[*SETS], default=["mitbih"])
    parser.add_argument("--recipe", default="signal")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    recipe = load_recipe(options.recipe)
    data = data_folder(options.data) / "signals"
    for which in options.which:
        place, source, one, table = SETS[which]
        folder = RESULTS / place / recipe.name
        for seed in range(options.seeds):
            path = folder / f"seed{seed}.json"
            if not done(path):
                one(data / source, seed, recipe, path)
        table(folder, recipe.name)


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


def mitbih(path_of_data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed, on every beat tested or every so many."""
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


def mitbih_table(folder: Path, recipe: str) -> None:
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


# --- inserted anomalies ---

STRETCH, HALF = 8 * RATE, RATE // 4
LEARNT_STRETCHES, TESTED_STRETCHES = 30, 24
"""Of a record at most, evenly over it."""

INSERTED = ("flat", "noise", "spike", "beat turned over", "beat left out", "beat widened")
SLOW = 20.0
"""Hz below which most of an electrocardiogram is."""


def stretches(file: Any, record: str, count: int) -> list[tuple[Signal, int]]:
    """Stretches of a record that hold normal beats alone, and where a beat in the middle is."""
    lead = file[f"{record}_mV"].astype(np.float32) / PER_MILLIVOLT
    at, kinds, found = file[f"{record}_sample"], file[f"{record}_symbol"], []
    for start in range(0, len(lead) - STRETCH + 1, STRETCH):
        inside = (at >= start) & (at < start + STRETCH)
        if inside.any() and np.isin(kinds[inside], [*NORMAL]).all():
            beat = int(at[inside][inside.sum() // 2]) - start
            pixels = lead[None, None, start : start + STRETCH]
            signal = Signal(pixels, f"{record}/{start}", record, rate=RATE, channel_names=("lead",))
            found.append((signal, beat))
    return found[:: -(-len(found) // count)]


def changed(
    samples: np.ndarray, beat: int, kind: str, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples (n,) in which something of a kind was inserted, and where, (n,) bool."""
    start = beat - HALF if kind.startswith("beat") else int(random.integers(RATE, STRETCH - RATE))
    part = slice(start, start + (2 if kind == "spike" else 2 * HALF))
    before, found = samples[part], samples.copy()
    line = np.linspace(before[0], before[-1], len(before))
    if kind == "flat":
        found[part] = before[0]
    elif kind == "noise":
        found[part] += random.normal(0, 0.1, len(before))  # mV
    elif kind == "spike":
        found[part] += random.choice([-1, 1])
    elif kind == "beat turned over":
        found[part] = 2 * line - before
    elif kind == "beat left out":
        found[part] = line
    else:
        middle = samples[beat - HALF // 2 : beat + HALF - HALF // 2]
        middle = middle - np.linspace(middle[0], middle[-1], len(middle))
        wide = np.linspace(0, len(middle) - 1, len(before))
        found[part] = line + np.interp(wide, np.arange(len(middle)), middle)
    marked = np.zeros(len(samples), np.bool_)
    marked[part] = True
    return found, marked


def inserted(path_of_data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed, on every stretch tested or every so many; what is inserted is the same for all."""
    file, random = np.load(path_of_data), np.random.default_rng(0)
    normals = [[one for one, _ in stretches(file, r, LEARNT_STRETCHES)] for r in LEARNT]
    settled = Normals.of(
        [signal for record in normals[:-HELD_OUT] for signal in record],
        [signal for record in normals[-HELD_OUT:] for signal in record],
        recipe,
    )
    tested, kinds, masks = [], [], []
    found = [pair for r in TESTED for pair in stretches(file, r, TESTED_STRETCHES)][::every]
    for number, (signal, beat) in enumerate(found):
        kind = INSERTED[number // 2 % len(INSERTED)] if number % 2 else ""
        samples, marked = signal.pixels[0, 0], np.zeros(STRETCH, np.bool_)
        if kind:
            samples, marked = changed(samples, beat, kind, random)
        tested.append(replace(signal, pixels=samples[None, None]))
        kinds.append(kind)
        masks.append(marked)
    scores, minutes = learnt_and_scored(settled, recipe, seed, path, tested)
    values = np.stack([signal.pixels[0, 0] for signal in tested])
    power = np.abs(np.fft.rfft(values - values.mean(1, keepdims=True))) ** 2
    fast = np.fft.rfftfreq(STRETCH, 1 / RATE) > SLOW
    trivial = {
        "amplitude": np.ptp(values, axis=1),
        "steepness": np.abs(np.diff(values)).max(1),
        "share above 20 Hz": power[:, fast].sum(1) / power.sum(1),
        "longest flat run": np.array([flat_run(each) for each in values]),
    }
    result: dict[str, Any] = {}
    for kind in ("all", *INSERTED):
        chosen = np.array([kind == "all" or each in ("", kind) for each in kinds])
        labels = np.array([each != "" for each in kinds]).astype(int)[chosen]
        of_chosen, trivial_of_chosen = (
            {key: value[chosen] for key, value in each.items()} for each in (scores, trivial)
        )
        groups = [signal.group for signal, of in zip(tested, chosen, strict=True) if of]
        result[kind] = rows_beside(labels, of_chosen, trivial_of_chosen, groups)
    model = FAnoGAN.load(run_of(path)).model
    steep = PixelROC()
    for each, marked in zip(values, masks, strict=True):
        steep.update(np.abs(np.gradient(each)), marked)
    projected = linear(model)
    assert projected is not None
    result["samples"] = {
        result["all"]["rows"][0]["name"]: by_sample(model, tested, masks),
        "untrained networks": by_sample(untrained(model), tested, masks),
        "steepness": steep.auc(),
        "PCA residual": by_sample(projected, tested, masks),
    }
    keep(path, {**result, **conditions(seed=seed, minutes=minutes)})
    print(f"seed {seed}: {result['all']['rows'][0]['auc']:.3f} inserted", flush=True)


def flat_run(samples: np.ndarray) -> int:
    """Samples in a row that don't differ, at most."""
    changes = np.flatnonzero(np.diff(samples, prepend=np.nan, append=np.nan))
    return int(np.diff(changes).max())


def by_sample(model: Model, signals: Iterable[Signal], masks: Iterable[np.ndarray]) -> float:
    """AUC of the map over all samples."""
    roc = PixelROC()
    found = (one for batch in score_encoded(model, encode(model, signals)) for one in batch)
    for result, marked in zip(found, masks, strict=True):
        assert result.residual is not None
        roc.update(result.residual[0], marked)
    return roc.auc()


def inserted_table(folder: Path, recipe: str) -> None:
    """Write the table of all results that are there."""
    results = kept_results(folder)
    kinds = ("all", *INSERTED)
    rows = auc_rows(*([result[kind] for result in results] for kind in kinds))
    for row in rows:
        aucs = [result["samples"][row[0]] for result in results if row[0] in result["samples"]]
        row.append(spread(aucs) if aucs else "–")
    n, ill = results[0]["all"]["n"], results[0]["all"]["n_anomalous"]
    write_section(
        "signals, ecg",
        f"Synthetic: {n - ill} stretches of 8 s with normal beats alone, of {len(TESTED)} records "
        f"that weren't trained on, against {ill} others in which half a second was changed (a "
        f"spike: two samples), as many of each kind; AUC by stretch, and by sample; "
        f"{circumstances(results, recipe)}. Data: MIT-BIH, Moody and Mark 2001, Open Data Commons "
        f"Attribution.\n\n{markdown(['score', *kinds, 'by sample'], rows)}",
    )


# --- heart sounds ---

SOUNDS = {"learnt": slice(48), "held_out": slice(48, 67), "tested": slice(67, None)}
"""Of the normal recordings by their names; 19 held out are what a flag at 5 % needs."""

LOW = 150.0
"""Hz below which most of a normal heart sound is."""


def sounds(data: Path, seed: int, recipe: Recipe, path: Path, every: int = 1) -> None:
    """One seed: half a second of a recording at a time, by recording."""
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


SETS: dict[str, tuple[str, str, Callable[..., None], Callable[[Path, str], None]]] = {
    "mitbih": ("signals", MITBIH, mitbih, mitbih_table),
    "ecg": ("ecg", MITBIH, inserted, inserted_table),
    "sounds": ("heart_sounds", "heart_sounds", sounds, sounds_table),
}
"""Of each set the folder of its results, where its data lies, what makes one, and its table."""


if __name__ == "__main__":
    main()
