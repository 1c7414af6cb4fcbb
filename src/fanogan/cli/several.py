"""Scoring by several processes, each with a shard of the images and a device of its own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.cli import bars
from fanogan.remote import is_url
from fanogan.storage import write_whole

if TYPE_CHECKING:
    from fanogan.scans import Sharded
    from fanogan.scoring import Model, Result, Table

DONE = ".done"
FOUND = ".found"
_done: Synchronized[int]
"""In a process that scores: how many images all of them have done."""


def devices_for(count: int, device: str) -> list[str]:
    """Return the device of each process: GPUs each their own, a processor the same for all.

    Raises:
        ValueError: fewer GPUs than processes, or a single one is named.
    """
    import torch

    from fanogan.training import device_of

    chosen = device_of(device)
    if chosen.type == "cpu":
        return ["cpu"] * count
    gpus = 1 if ":" in device or chosen.type == "mps" else torch.cuda.device_count()
    if gpus < count:
        raise ValueError(
            f"{count} devices are to score, and --device {device} means {gpus}: give fewer, or "
            "--device cpu"
        )
    return [f"cuda:{number}" for number in range(count)]


def score_in_parts(
    model: Model, path: Path, source: Any, out: Path, devices: list[str], files: int, **options: Any
) -> Table:
    """Score a shard on each device, and put them together in ``out``.

    Until then each shard is a job of its own beside ``out``, and resumes as one.

    Args:
        model: in the engine and precision that all use.
        path: where each process reads it.
        source: what is to be read.
        out: the folder.
        devices: of the processes.
        files: how many there are, for the bar.
        options: as of ``write_results``.
    """
    from fanogan.scoring import images_done

    folder, count = Path(f"{out.resolve()}.parts"), len(devices)
    parts = [folder / f"{number}-of-{count}" for number in range(1, count + 1)]
    how = path, model.engine, model.precision
    sources = divided(model, source, parts, options)
    context = multiprocessing.get_context("spawn")  # CUDA can't be forked
    done = context.Value("q", 0)
    threads = max(1, (os.cpu_count() or 1) // count)
    left = max(files - sum(map(images_done, parts)), 0)
    with (
        bars.count_bar(f"scoring, {count} processes", left) as show,
        ProcessPoolExecutor(count, context, _share, (done, threads)) as pool,
    ):
        scored = [
            pool.submit(_score, *how, device, shard, part, options)
            for device, shard, part in zip(devices, sources, parts, strict=True)
        ]
        while wait(scored, timeout=0.5).not_done:
            show(done.value)
        for future in scored:
            future.result()
    return merged_parts(parts, out)


def divided(
    model: Model, source: Any, parts: Sequence[Path], options: dict[str, Any]
) -> list[Sharded]:
    """Search once for all shards, and keep in the folder of each what it is to read.

    Each searches for itself in a prepared store, which says what it holds, and in the copy of what
    lies at a URL, which other machines don't have.
    """
    from fanogan.scans import ScanSource, Shard, Sharded, composed, keep_sources

    count, left_out = len(parts), list[str]()
    found: Iterable[Any] = model.preprocessing.find(
        source,
        options["groups"],
        options["pictures"],
        lambda sentence: left_out.append(str(sentence)),
    )
    shards = [Sharded(source, Shard(number, count)) for number in range(1, count + 1)]
    entries = source if isinstance(source, list) else [source]
    if model.preprocessing.retina or any(map(is_url, entries)):
        found = list(found)
        if not all(isinstance(each, ScanSource) for each in found):
            return shards
        if any(map(is_url, entries)) and not all(each.url for each in found):
            return shards
    files = [part / FOUND for part in parts]
    keep_sources(
        ((Shard.index_of(composed(each.name), count), each) for each in found), left_out, files
    )
    return [replace(shard, found=file) for shard, file in zip(shards, files, strict=True)]


def merged_parts(parts: Sequence[Path], out: Path, *, parquet: bool = False) -> Table:
    """Put the parts together in ``out``, and remove them."""
    from fanogan.scoring import merge

    table = merge(parts, out, parquet=parquet).table
    for part in parts:
        shutil.rmtree(part)
    with contextlib.suppress(OSError):  # something else lies there too
        parts[0].parent.rmdir()
    return table


def _share(done: Synchronized[int], threads: int) -> None:
    import torch

    global _done
    _done = done
    torch.set_num_threads(threads)


def _score(
    path: Path,
    engine: str,
    precision: str,
    device: str,
    source: Sharded,
    out: Path,
    options: dict[str, Any],
) -> None:
    def on_result(result: Result) -> None:
        with _done.get_lock():
            _done.value += result.unit == "image"

    model = loaded(path, engine, precision, device)
    score_part(model, source, out, options, on_result)


@functools.cache
def loaded(path: Path, engine: str, precision: str, device: str) -> Model:
    """Return a model, read once in a process."""
    from fanogan.detectors import Detector
    from fanogan.scoring import in_precision

    model, _ = in_precision(Detector.load(path, device=device).model, precision)
    if engine != "torch":
        from fanogan.export import use_engine

        model, _ = use_engine(model, engine)
    return model


def score_part(
    model: Model,
    part: Sharded,
    out: Path,
    options: dict[str, Any],
    on_result: Callable[[Result], None] = lambda result: None,
) -> int:
    """Score a shard into a folder of its own, unless that is done; returns how many files it has.

    A mark in the folder tells of which job, and of which files, it holds the results.
    """
    from fanogan.scoring import job_of, write_results

    count = 0
    digest = hashlib.sha256(json.dumps(job_of(model, part, **options)).encode())
    for each in model.preprocessing.find(part, options["groups"], options["pictures"]):
        digest.update(repr((each.name, each.identity)).encode())
        count += 1
    mark, found = out / DONE, digest.hexdigest().encode()
    if not (mark.exists() and mark.read_bytes() == found):
        write_results(model, part, out, on_result=on_result, **options)
        write_whole(mark, found)
    return count
