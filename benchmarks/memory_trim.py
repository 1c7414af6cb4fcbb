"""What the commands gain by keeping freed memory (`keep_memory` of fanogan.cli).

Scoring 300 images with maps and report, and rounds of GAN training (five critic updates and one of
the generator), each in a process of its own, with and without in turns. The table shows CPU time,
since other programs disturb it less than time on the clock, and the system's part of it, which
holds the work of handing out and clearing pages.

    python benchmarks/memory_trim.py --pairs 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from speed import CPU, OURS, step_of
from tables import machine, markdown

from fanogan import FAnoGAN
from fanogan.cli import keep_memory
from fanogan.recipes import load_recipe
from fanogan.scoring import write_results
from fanogan.training import half_batches

SIZES = ((8, 32), (16, 64))  # base width, side
IMAGES = 300
ROUNDS = {32: 5, 64: 1}  # by side


def cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU time, and the system's part of it."""
    before = os.times()
    work()
    after = os.times()
    system = after.system - before.system
    return after.user - before.user + system, system


def score(width: int, side: int) -> tuple[float, float]:
    """CPU time of scoring."""
    pixels = np.round(load_digits().images[:IMAGES] * (255 / 16)).astype(np.uint8)
    images = pixels.repeat(8, 1).repeat(8, 2)
    recipe = load_recipe("small").but(image_size=(side, side), base_width=width, batch_size=8)
    recipe = recipe.but(critic_updates=2, encoder_updates=1, reestimate_batch_norm=False)
    detector = FAnoGAN(recipe, device="cpu").fit(images[:32])
    with tempfile.TemporaryDirectory() as place:
        return cpu_seconds(lambda: write_results(detector.model, images, Path(place) / "results"))


def training(width: int, side: int) -> tuple[float, float]:
    """CPU time of some rounds of GAN training, warm."""
    with half_batches(CPU) as for_each_half:
        critic, _, _ = step_of("critic step", width, side, OURS, CPU, for_each_half)
        generator, _, _ = step_of("generator step", width, side, OURS, CPU, for_each_half)

        def rounds(count: int) -> None:
            for _ in range(count):
                for _ in range(5):
                    critic()
                generator()

        rounds(1)
        return cpu_seconds(lambda: rounds(ROUNDS[side]))


WORK = {"score": score, "training": training}


def in_a_process(*words: object) -> tuple[float, float]:
    """One measurement, by a process that does nothing else."""
    command = [sys.executable, __file__, "--one", *map(str, words)]
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the commands have it
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    total, system = json.loads(done.stdout.splitlines()[-1])
    return total, system


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, width, side, memory = options.one
        if memory == "kept":
            keep_memory()
        print(json.dumps(WORK[what](int(width), int(side))))
        return
    rows = []
    for what in WORK:
        for width, side in SIZES:
            found: dict[str, list[tuple[float, float]]] = {"kept": [], "returned": []}
            for turn in range(options.pairs):
                for memory in sorted(found, reverse=bool(turn % 2)):
                    found[memory].append(in_a_process(what, width, side, memory))
            ratios = sorted(
                other[0] / kept[0]
                for kept, other in zip(found["kept"], found["returned"], strict=True)
            )
            cells = [
                f"{statistics.median(total for total, _ in one):.2f} s, "
                f"{statistics.median(system for _, system in one):.2f} s"
                for one in found.values()
            ]
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append([f"{what}, width {width} at {side}×{side}", *cells, ratio])
            print(rows[-1], file=sys.stderr)
    print(f"{machine()}, {torch.get_num_threads()} threads, {options.pairs} pairs\n")
    header = ["", "kept: all, system", "returned: all, system", "returned / kept"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
