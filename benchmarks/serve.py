"""The service under load: throughput beside the bare model, delays at half of it, three times it.

    python benchmarks/serve.py --write

A model of width 8 sees images of 64×64 whole; nothing is learnt, for the cost is the same. One
process serves, and hey (Debian's package, in Go) asks over the loopback, so that both share the
cores.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from tables import ROOT, commit, machine, markdown, write_section

from fanogan import FAnoGAN
from fanogan.scoring import Model, score

SIDE = 64
BOUNDARY = "fanogan-form"


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


def pictures(count: int) -> list[bytes]:
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


def load(
    url: str, form: Path, seconds: float, clients: int, rate: float | None = None
) -> dict[str, list[float]]:
    """Let so many clients ask for so long, at a rate or as fast as answers come.

    Returns:
        Seconds of each request by the status of its answer.
    """
    pace = ["-q", f"{rate / clients:.4f}"] if rate else []
    how = ["-z", f"{seconds:g}s", "-c", str(clients), *pace, "-t", "120", "-o", "csv"]
    body = ["-m", "POST", "-T", f"multipart/form-data; boundary={BOUNDARY}", "-D", str(form)]
    table = subprocess.run(["hey", *how, *body, url], check=True, capture_output=True, text=True)
    delays: dict[str, list[float]] = {}
    for row in csv.DictReader(table.stdout.splitlines()):
        delays.setdefault(row["status-code"], []).append(float(row["response-time"]))
    return delays


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
        yield process.stdout.readline().split()[1], process.pid
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
    files = pictures(given.images)
    rows = []
    with TemporaryDirectory() as temporary:
        folder, form = Path(temporary) / "model", Path(temporary) / "form"
        model = make_model(folder)
        bare_speed(model, files[:20])
        bare = bare_speed(model, files)
        field = b'Content-Disposition: form-data; name="file"; filename="a.png"'
        mark = b"--" + BOUNDARY.encode()
        form.write_bytes(b"\r\n".join([mark, field, b"", files[0], mark + b"--", b""]))

        def measured(name: str, url: str, process: int, clients: int, rate: float | None) -> float:
            before = resident(process)
            delays = load(url, form, given.seconds, clients, rate)
            good = np.array(delays.get("200", [np.nan]))
            counts = {status: len(each) for status, each in sorted(delays.items())}
            rows.append(
                [
                    name,
                    f"{sum(counts.values()) / given.seconds:.0f}",
                    f"{len(good) / given.seconds:.0f} ({len(good) / given.seconds / bare:.2f}×)",
                    f"{1000 * np.percentile(good, 50):.0f}",
                    f"{1000 * np.percentile(good, 99):.0f}",
                    ", ".join(f"{count} × {status}" for status, count in counts.items()),
                    f"{before:.0f} → {resident(process):.0f}",
                ]
            )
            print(rows[-1], flush=True)
            return len(good) / given.seconds

        with serving(folder, alone=True) as (url, process):
            load(url, form, 2, 32)
            alone = measured("32 ask, batches not fused", url, process, 32, None)
        with serving(folder) as (url, process):
            load(url, form, 2, 32)
            measured("one client asks", url, process, 1, None)
            capacity = measured("32 ask", url, process, 32, None)
            measured("half of that", url, process, 32, 0.5 * capacity)
            measured("three times that", url, process, 200, 3 * capacity)
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
