"""Scoring a whole archive: time and memory against the number of files, from folder to CSV.

A folder of PNGs, of which a thousand are distinct, is scored with networks of the recipe `small`
that have learnt next to nothing, which costs the same; each count in a process of its own; and a
thousand with networks twice as wide, of which reading takes a smaller share.
--million adds a million images of 16×16 and networks of width 4: what reading and writing alone
can do. --write puts the table into the docs: only from a machine that does nothing else.

    python benchmarks/archive.py --million --write
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tables import commit, machine, markdown, write_section

from fanogan import FAnoGAN
from fanogan.recipes import load_recipe
from fanogan.scoring import BATCH, Model, read, score_batch, write_results
from fanogan.training import precision_of

DISTINCT = 1000
MOST_WITH_MAPS = 1000


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="and a million tiny images")
    parser.add_argument("--write", action="store_true", help="into docs/benchmark_details.md")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measured(options.folder)))
        return
    found = [in_a_process(count, side=64, width=8) for count in options.images]
    fitted = fits(found)
    found.append(in_a_process(1000, side=64, width=16))
    if options.million:
        found.append(in_a_process(1_000_000, side=16, width=4))
    text = "\n\n".join([caption(), table(found), fitted])
    if options.write:
        write_section("archive", text)
    else:
        print(text)


def in_a_process(count: int, side: int, width: int) -> dict[str, float]:
    """The figures of so many images, from a process whose memory nothing else has touched."""
    rows, columns = np.indices((side, side)) * (12 / side)
    phases = np.random.default_rng(0).uniform(0, 6, (DISTINCT, 2, 1, 1))
    waves = np.sin(rows + phases[:, 0]) + np.sin(columns + phases[:, 1])
    grain = np.random.default_rng(1).normal(scale=4, size=waves.shape)
    images = np.clip(128 + 50 * waves + grain, 0, 255).astype(np.uint8)
    recipe = load_recipe("small").but(
        image_size=(side, side),
        window=(side, side),
        base_width=width,
        batch_size=8,
        reestimate_batch_norm=False,
    )
    detector = FAnoGAN(recipe.but(critic_updates=2, encoder_updates=1)).fit(images[:64])
    with tempfile.TemporaryDirectory() as place:
        detector.save(Path(place) / "model")
        save(images, count, Path(place) / "images")
        command = [sys.executable, __file__, "--folder", place]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the command line has it
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    return {"count": count, "side": side, "width": width, **json.loads(ended.stdout)}


def save(images: np.ndarray, count: int, folder: Path) -> None:
    """PNGs in folders of a thousand; after the first thousand they are links to these."""
    for index in range(count):
        path = folder / f"{index // 1000}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < len(images):
            Image.fromarray(images[index]).save(path)
        else:
            os.link(folder / "0" / f"{index % len(images)}.png", path)


def measured(place: Path) -> dict[str, float]:
    """Seconds and bytes of scoring the images in a folder with the model that lies there."""
    model, images = FAnoGAN.load(place / "model", device="cpu").model, str(place / "images")
    networks, reading = seconds_of_networks(model), seconds_of_reading(model, images)
    before, started, worked = memory(), time.perf_counter(), time.process_time()
    count = len(write_results(model, images, place / "scores", scores_only=True))
    found = {
        **{"seconds": time.perf_counter() - started, "worked": time.process_time() - worked},
        **{"before": before, "peak": memory(), "networks": networks},
        "reading": reading,
    }
    if count <= MOST_WITH_MAPS:
        started = time.perf_counter()
        write_results(model, images, place / "maps")
        found["maps"] = time.perf_counter() - started
    return found


def seconds_of_networks(model: Model) -> float:
    """The CPU time that the networks take for one image, in batches as `score` has them."""
    seen = model.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 1, *seen.image_size), np.uint8)
    seconds = []
    for _ in range(25):
        started = time.process_time()
        with torch.inference_mode(), precision_of("fp32"):
            score_batch(model, seen.resize(seen.to_device(pixels, model.device)))
        seconds.append(time.process_time() - started)
    return float(np.median(seconds[5:])) / BATCH


def seconds_of_reading(model: Model, images: str) -> float:
    """The CPU time that finding, reading and encoding take for one image, scoring left out."""
    started = time.process_time()
    count = sum(1 for _ in itertools.islice(read(model, images), DISTINCT))
    return (time.process_time() - started) / count


def memory() -> int:
    """The most bytes that this process has had in memory; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def caption() -> str:
    """What was measured, and where."""
    return (
        "`fanogan score --scores-only`, from a folder to `scores.csv` and report: waves and grain "
        "in PNGs that lie in the page cache, networks of the recipe `small`. *Networks*: their "
        "share of the CPU time, by the median batch in memory; *reading*: what finding, reading "
        "and encoding cost alone, of the networks' time; *maps*: when maps and overlays are "
        f"written too. {machine()}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, commit {commit()}."
    )


def table(found: Sequence[dict[str, float]]) -> str:
    """One line a count."""
    header = [
        "images",
        "side",
        "width",
        "ms an image",
        "networks",
        "reading",
        "with maps",
        "memory",
    ]
    rows = [
        [
            *(f"{one['count']:,}", f"{one['side']}", f"{one['width']}"),
            f"{1e3 * one['seconds'] / one['count']:.2f}",
            f"{100 * one['networks'] * one['count'] / one['worked']:.0f} %",
            f"{100 * one['reading'] / one['networks']:.0f} %",
            f"{1e3 * one['maps'] / one['count']:.2f}" if "maps" in one else "–",
            f"{one['before'] / 1e6:.0f} MB at the beginning, {one['peak'] / 1e6:.0f} MB at most",
        ]
        for one in found
    ]
    return markdown(header, rows)


def fits(found: Sequence[dict[str, float]]) -> str:
    """Time and memory as straight lines over the number of images."""
    seconds, peak = (
        np.polyfit([one["count"] for one in found], [one[key] for one in found], 1)
        for key in ("seconds", "peak")
    )
    return (
        f"Straight lines through them: {seconds[1]:.1f} s and {1e3 * seconds[0]:.2f} ms an image; "
        f"{peak[1] / 1e6:.0f} MB and {peak[0]:.0f} bytes an image."
    )


if __name__ == "__main__":
    main()
