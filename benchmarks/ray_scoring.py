"""Scoring on a Ray cluster: beside one process, by simulated machines, with workers killed.

    python benchmarks/ray_scoring.py --write             # throughput
    python benchmarks/ray_scoring.py --kill --images 100000 --place DIR --write

PNGs of 64×64, of which a thousand are distinct, and networks of the recipe `small` that have
learnt next to nothing, which costs the same. Times are of the whole command, its start included.
With --kill a worker is killed every ten seconds; what is stopped and started again with the same
--place goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from archive import save
from tables import ROOT, commit, machine, markdown, write_section

from fanogan import FAnoGAN

EVERY = 10
"""Seconds from one killed worker to the next."""
SIDE = 64


def make(place: Path, count: int) -> None:
    """Write model and images, once."""
    if (place / "made").exists():
        return
    noise = np.random.default_rng(0).integers(0, 256, (1064, SIDE, SIDE), dtype=np.uint8)
    normals, images = noise[:64], noise[64:]
    short = {"critic_updates": 2, "encoder_updates": 1, "reestimate_batch_norm": False}
    detector = FAnoGAN("small", device="cpu", batch_size=8, window=SIDE, image_size=SIDE, **short)
    detector.fit(normals).save(place / "model")
    save(images, count, place / "images")
    (place / "made").touch()


def command(place: Path, out: str, *options: str) -> list[str]:
    """Return what is typed."""
    score = [sys.executable, "-m", "fanogan", "score", f"{place}/model", f"{place}/images"]
    return [*score, "--device", "cpu", "--scores-only", "--out", f"{place}/{out}", *options]


def seconds(place: Path, out: str, *options: str) -> float:
    """Return how long a command takes."""
    begun = time.perf_counter()
    subprocess.run(command(place, out, *options), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


@contextlib.contextmanager
def machines(count: int) -> Iterator[str]:
    """Simulate so many machines of one processor; gives the address of the cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count - 1):
        cluster.add_node(num_cpus=1)
    try:
        yield f"ray:{cluster.address}"
    finally:
        cluster.shutdown()


def throughput(place: Path, count: int) -> str:
    """Return the table of times beside those of one process."""
    found = {"one process": seconds(place, "one")}
    found["`--devices 2`"] = seconds(place, "two", "--devices", "2")
    found["`--on ray`"] = seconds(place, "ray", "--on", "ray")
    for machine_count in (1, 2):
        with machines(machine_count) as on:
            name = f"Ray, simulated machines of one processor: {machine_count}"
            found[name] = seconds(place, f"machines{machine_count}", "--on", on)
    rows = [
        [name, f"{took:.1f}", f"{count / took:.0f}", f"{found['one process'] / took:.2f}"]
        for name, took in found.items()
    ]
    return markdown(["", "s", "images a second", "of one process"], rows)


def killed(place: Path, count: int) -> str:
    """Score while a worker is killed every ten seconds; say what came of it."""
    process = subprocess.Popen(command(place, "killed", "--on", "ray"), stdout=subprocess.DEVNULL)
    begun, kills = time.perf_counter(), 0
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EVERY)
            break
        workers = [
            each
            for each in psutil.Process(process.pid).children(recursive=True)
            if any("ray::_score" in word for word in each.cmdline())
        ]
        if workers:
            random.choice(workers).kill()
            kills += 1
    if process.returncode:
        sys.exit(f"the command ended with {process.returncode}; the same command goes on")
    took = time.perf_counter() - begun
    with (place / "killed" / "scores.csv").open(encoding="utf-8", newline="") as file:
        names = Counter(row["name"] for row in csv.DictReader(file))
    expected = {f"{index // 1000}/{index}.png" for index in range(count)}
    missing, more = len(expected - names.keys()), sum(n > 1 for n in names.values())
    return (
        f"{count:,} images in {took:.0f} s, {kills:,} workers killed: {len(names):,} rows, "
        f"{missing:,} missing, {more:,} twice"
    )


def main() -> None:
    """Measure, and print or write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill a worker every ten seconds")
    parser.add_argument("--place", type=Path, help="where all is kept, to go on there")
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    given = parser.parse_args()
    with contextlib.ExitStack() as held:
        place = given.place or Path(held.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        make(place, given.images)
        found = (killed if given.kill else throughput)(place, given.images)
    text = f"{found}\n\n{given.images:,} images, {machine()}, commit {commit()}."
    if given.write:
        name = "ray, killed" if given.kill else "ray"
        write_section(name, text, ROOT / "docs" / "scale.md")
    else:
        print(text)


if __name__ == "__main__":
    main()
