"""The service under load: throughput beside the bare model, delays at half of it, three times it.

    python benchmarks/serve.py --write

A model of width 8 sees images of 64×64 whole; nothing is learnt, for the cost is the same. One
process serves, another (this one) asks with httpx over the loopback, so that both share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import torch
from PIL import Image
from tables import ROOT, commit, machine, markdown, write_section

from fanogan import FAnoGAN
from fanogan.scoring import Model, score

SIDE = 64


def make_model(folder: Path) -> Model:
    """Return a model that has learnt nothing, and save it."""
    random = np.random.default_rng(0)
    detector = FAnoGAN(
        "smoke",
        device="cpu",
        base_width=8,
        image_size=(SIDE, SIDE),
        window=(SIDE, SIDE),
        critic_updates=2,
        encoder_updates=2,
        reestimate_batch_norm=False,
    ).fit(random.integers(0, 256, (40, SIDE, SIDE)).astype(np.uint8))
    detector.save(folder)
    return detector.model


def bodies(count: int) -> list[bytes]:
    """Return images as PNG files."""
    random = np.random.default_rng(1)
    found = []
    for pixels in random.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def bare_speed(model: Model, files: list[bytes]) -> float:
    """Return images a second of the model itself, decoding included, in one process."""
    started = time.perf_counter()
    images = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files])
    score(model, images)
    return len(files) / (time.perf_counter() - started)


async def load(
    url: str, files: list[bytes], seconds: float, rate: float | None, clients: int
) -> tuple[dict[str, list[float]], float, float]:
    """Ask for so long, at a rate or as fast as answers come; returns delays by status."""
    delays: dict[str, list[float]] = {}
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def ask(number: int) -> None:
            body = files[number % len(files)]
            begun = time.perf_counter()
            try:
                answer = await client.post("/score", files={"file": ("a.png", body)})
                status = str(answer.status_code)
            except httpx.TransportError as error:
                status = type(error).__name__
            delays.setdefault(status, []).append(time.perf_counter() - begun)

        begun, number, asked = time.perf_counter(), 0, set[asyncio.Task[None]]()
        while (gone := time.perf_counter() - begun) < seconds:
            due = gone * rate if rate else number + 1
            while number < due and (rate or len(asked) < clients):
                asked.add(task := asyncio.create_task(ask(number)))
                task.add_done_callback(asked.discard)
                number += 1
            await asyncio.sleep(0.001)
        offered = number / seconds
        await asyncio.gather(*asked)
        took = time.perf_counter() - begun
    return delays, offered, took


def resident(process: int) -> float:
    """Return a process's memory in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


ALONE = """
import sys
import fanogan.serve.fused
from fanogan.__main__ import main
fanogan.serve.fused.BATCH = 1
sys.argv = ["fanogan", *sys.argv[1:]]
main()
"""
"""The service without fused batches: the windows of each request go through the networks alone."""


@contextlib.contextmanager
def serving(folder: Path, *, alone: bool = False) -> Iterator[tuple[str, int]]:
    """Give the address and the number of a process that serves a model."""
    how = ["-c", ALONE] if alone else ["-m", "fanogan"]
    process = subprocess.Popen(
        [sys.executable, *how, "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        url = process.stdout.readline().split()[1].removesuffix("/score")
        asyncio.run(load(url, bodies(50), 2, None, 32))
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="into docs/service.md")
    given = parser.parse_args()
    files = bodies(given.images)
    rows = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        model = make_model(folder)
        bare_speed(model, files[:20])
        bare = bare_speed(model, files)

        def measured(name: str, url: str, process: int, rate: float | None, clients: int) -> float:
            before = resident(process)
            delays, offered, took = asyncio.run(load(url, files, given.seconds, rate, clients))
            good = np.array(delays.get("200", [np.nan]))
            counts = Counter({status: len(each) for status, each in delays.items()})
            rows.append(
                [
                    name,
                    f"{offered:.0f}",
                    f"{len(good) / took:.0f} ({len(good) / took / bare:.2f}×)",
                    f"{1000 * np.percentile(good, 50):.0f}",
                    f"{1000 * np.percentile(good, 99):.0f}",
                    ", ".join(f"{count} × {status}" for status, count in sorted(counts.items())),
                    f"{before:.0f} → {resident(process):.0f}",
                ]
            )
            print(rows[-1], flush=True)
            return len(good) / took

        with serving(folder, alone=True) as (url, process):
            alone = measured("32 ask, batches not fused", url, process, None, 32)
        with serving(folder) as (url, process):
            measured("one client asks", url, process, None, 1)
            capacity = measured("32 ask", url, process, None, 32)
            measured("half of that", url, process, 0.5 * capacity, 500)
            measured("three times that", url, process, 3 * capacity, 500)
    header = ["requests", "asked a second", "scored a second", "p50 in ms", "p99 in ms"]
    lines = markdown([*header, "answers", "memory in MB"], rows)
    text = (
        f"Fused batches make {capacity / alone:.2f} times the throughput of 32 clients. Images of "
        f"{SIDE}×{SIDE} as PNG, each a request, for {given.seconds:g} s; in brackets the "
        f"ratio to the model alone, {bare:.0f} a second in one process. {machine()}, torch "
        f"{torch.__version__}, commit {commit()}.\n\n{lines}"
    )
    if given.write:
        write_section("serve", text, ROOT / "docs" / "service.md")
    else:
        print(text)


if __name__ == "__main__":
    main()
