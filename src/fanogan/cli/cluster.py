"""Scoring on a Ray cluster: each task scores a shard, and a task that is lost goes on elsewhere.

Tasks and not actors: an actor whose machine is gone waits for another one, and its work with it.
Nor Ray Data, which repeats a block from its beginning: a shard is resumed where its journal ends.
"""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.cli import bars
from fanogan.cli.arguments import UsageError
from fanogan.cli.several import divided, loaded, merged_parts, score_part
from fanogan.errors import FanoganError
from fanogan.remote import is_url
from fanogan.storage import BusyFolder

if TYPE_CHECKING:
    from fanogan.scans import Sharded
    from fanogan.scoring import Model, Table

FILES = 1000
"""Of a shard, at most, so that no task takes long; there are 8 shards or more."""
MOST_SHARDS = 4096
RETRIES = 20
"""Of a shard whose processes are killed: an image that kills them would do so for ever."""
LET_GO = 60
"""Seconds within which a process on a lost machine has let go of the folder of its shard."""


def check_cluster(on: str, devices: int, shard: str | None, listed: str | None) -> None:
    """Refuse what can't be scored on a cluster."""
    if on != "ray" and not on.startswith("ray:"):
        raise UsageError(f"--on {on}: give ray, or ray: and an address such as ray:10.0.0.5:6379")
    if devices > 1 or shard:
        other = f"--shard {shard}" if shard else f"--devices {devices}"
        raise UsageError(f"--on {on} and {other} contradict each other: give one of them")
    if listed and (listed == "-" or is_url(listed)):
        raise UsageError(f"--on {on}: other machines can't read --list {listed}; give a file")
    if not (find_spec("ray") and find_spec("pyarrow")):
        raise UsageError("--on ray needs an extra: pip install 'fanogan[cluster]'")


def score_on_ray(
    model: Model, path: Path, source: Any, out: Path, on: str, files: int, **options: Any
) -> Table:
    """Score by the processors of a cluster, or its GPUs, and put all together in ``out``.

    Model, images and ``out`` lie on a file system that all machines share.

    Args:
        model: in the engine and precision that all use.
        path: where each process reads it.
        source: what is to be read.
        out: the folder.
        on: 'ray', or 'ray:' and an address.
        files: how many there are.
        options: as of ``write_results``.

    Raises:
        FanoganError: there is no such cluster, or it was lost; or as of ``write_results``.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.exceptions import RayError, RayTaskError

    folder = Path(f"{out.resolve()}.parts")
    count = shards_of(folder, files)
    parts = [folder / f"{number}-of-{count}" for number in range(1, count + 1)]
    _, _, address = on.partition(":")
    dashboard = None if address else False  # of a cluster that is there already, none can be said
    try:
        ray.init(
            address or "local",
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        gpus = int(model.device.type == "cuda")
        work = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(_score)
        how = path.resolve(), model.engine, model.precision, model.device.type
        waiting = [
            work.remote(Path.cwd(), how, shard, part, options)
            for shard, part in zip(divided(model, source, parts, options), parts, strict=True)
        ]
        done = 0
        with bars.count_bar(f"scoring, {count} shards", files) as show:
            while waiting:
                finished, waiting = ray.wait(waiting)
                done += sum(ray.get(finished))
                show(done)
    except RayTaskError as error:
        raise error.cause from None
    except (RayError, ConnectionError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise FanoganError(
            f"{on}: the cluster can't be reached, or has lost its processes ({said}); look whether "
            "it runs, and repeat the command, which resumes"
        ) from error
    finally:
        ray.shutdown()
    return merged_parts(parts, out, parquet=True)


def shards_of(folder: Path, files: int) -> int:
    """Return how many shards there are: as many as were begun, else by the number of files."""
    begun = {path.name.partition("-of-")[2] for path in folder.glob("*-of-*")}
    if len(begun) == 1 and (count := begun.pop()).isdecimal():
        return int(count)
    return min(max(8, 1 << (files // FILES).bit_length()), MOST_SHARDS)


def _score(
    folder: Path,
    how: tuple[Path, str, str, str],
    source: Sharded,
    out: Path,
    options: dict[str, Any],
) -> int:
    """In a process of the cluster: score a shard."""
    import torch

    os.chdir(folder)  # relative paths are of where the command was typed
    if how[-1] == "cpu":
        torch.set_num_threads(1)
    begun = time.monotonic()
    while True:
        try:
            return score_part(loaded(*how), source, out, options)
        except BusyFolder:
            if time.monotonic() - begun > LET_GO:
                raise
            time.sleep(1)
