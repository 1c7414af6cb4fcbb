"""All that wants a GPU, the most valuable first, in pieces of some minutes that resume.

Each call goes on where the last one stopped, and ends after its minutes, after a checkpoint: call
it until it says that all is done. Results are kept as numbers in ``benchmarks/results/``, from
which the scripts that they belong to write their tables (the speed is in ``results/gpu/``).

    python benchmarks/gpu.py --minutes 10
    python benchmarks/gpu.py --tiny --device cpu      # all of it once, to see that it runs
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tables
import torch
from tables import ROOT, conditions, data_folder, done, keep

RESERVE = 60  # seconds for the last checkpoint, and until the timer is looked at


def main() -> None:
    """Do what isn't done yet, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder that holds oct/, lgg_flair.npz and mnist.npz")
    parser.add_argument("--minutes", type=float, default=10.0, help="until this call ends")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="seconds of each, on a few images")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; --tiny --device cpu tries all of it on the processor")
    data = data_folder(options.data)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.tiny:  # apart from real results, before the other scripts take over where they go
        tiny = ROOT / "runs" / "tiny"
        tables.RESULTS, tables.RUNS = tiny / "results", tiny / "runs"
        data = few(data, tiny / "data")
    # A shell starts what runs in its background with this signal ignored, and it would never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(
        max(60 * options.minutes - RESERVE, 1), os.kill, (os.getpid(), signal.SIGINT)
    )
    timer.daemon = True
    timer.start()
    try:
        for name, piece in pieces(data, torch.device(options.device), options.tiny).items():
            print(name, flush=True)
            piece()
    except KeyboardInterrupt:
        sys.exit("the time is over; the same call goes on from here")
    finally:
        timer.cancel()
    print("all is done")


def pieces(data: Path, device: torch.device, tiny: bool) -> dict[str, Callable[[], None]]:
    """What there is to do, by its name; each skips what is done."""
    import lgg
    import mnist
    import oct_pictures
    import speed

    from fanogan import load_recipe

    recipe = "smoke" if tiny else "paper"
    results = tables.RESULTS

    def rates() -> None:
        path = results / "gpu" / "speed.json"
        if done(path) is None:
            rows = [*speed.whole_runs(device, recipe, 0.02 if tiny else 1.5)]
            keep(path, {"rows": rows, **conditions()})

    def pictures(name: str) -> Callable[[], None]:
        def piece() -> None:
            path = results / "oct_pictures" / recipe / name / "izi_f" / "seed0.json"
            # The score of the shape stands beside in that table; no network knows of it.
            changes = {**oct_pictures.FULL_DEPTH, "held_out_fraction": 0.2, "score_shape": True}
            seen = load_recipe(recipe).but(**changes)
            if done(path) is None:
                oct_pictures.one(name, "izi_f", 0, seen, data / "oct", path)

        return piece

    def slices() -> None:
        path = results / "lgg" / recipe / "seed0.json"
        lgg.one(data, 0, lgg.recipe_of(recipe), path, every=30 if tiny else 1)

    def digits() -> None:
        file = np.load(data / "mnist.npz")
        arrays = {name: file[name][: 400 if tiny else None] for name in file.files}
        for digit in range(2 if tiny else 10):
            mnist.one(arrays, digit, 0, recipe)

    return {
        "speed, and 70,000 patches": rates,
        "Kermany": pictures("kermany"),
        "OCTDL": pictures("octdl"),
        "LGG": slices,
        "MNIST": digits,
    }


def few(data: Path, place: Path) -> Path:
    """A folder of data that holds a few pictures of each class, and links to all else."""
    for name in ("mnist.npz", "lgg_flair.npz"):
        link(data / name, place / name)
    for kind in sorted((data / "oct").glob("kermany/*/")) + sorted((data / "oct").glob("octdl/*/")):
        every = 10 if kind.name in ("NORMAL", "NO") else 100
        for file in sorted(kind.iterdir())[::every]:
            link(file, place / "oct" / kind.parent.name / kind.name / file.name)
    return place


def link(to: Path, place: Path) -> None:
    """A link to what is there, unless it exists."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(to.resolve())


if __name__ == "__main__":
    main()
