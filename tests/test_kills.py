"""Every command is killed at many moments, repeated, and ends as if it had never been killed.

A kill is SIGKILL of the whole process group: half of them just before a change of a file or folder
(a rename of the final move, say), which an audit hook sees, half at a random time. After a kill
each file under a final name is already the one that an undisturbed run leaves, byte for byte, or
still that of the result before; files that grow as training goes on can be read.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors import safe_open

from fanogan.phantom import make_phantom
from fanogan.storage import LOCK

# Processes that are forked from one which has imported everything, and so start at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("fanogan.cli.demo", "fanogan.cli.parser", "fanogan.study.study_page", "pytest"),
        *("lightning_fabric", "torch._dynamo", "tensorboardX", "monai.inferers.utils", "zarr"),
        *("sklearn.metrics", "sklearn.ensemble", "matplotlib.figure", "maxflow", "scipy.stats"),
        *("matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "imagecodecs"),
        *("matplotlib.backends.backend_agg", "rich.progress", "rich.live", "filelock"),
    ]
)
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"}
SMOKE = """
base: smoke
critic_updates: 12
encoder_updates: 6
search_updates: 2
log_every: 2
checkpoint_minutes: 0
reestimate_batch_norm: false
held_out_fraction: 0.5
"""
RETINA = SMOKE + "geometry: retina\nwindow: [64, 64]\nheld_out_fraction: 0.34\n"
# All that may differ: how long something took, and that a resumed system no longer knows it.
TIMES = {
    "metrics.jsonl": rb', "seconds": [0-9.]+',
    "result.json": rb'"minutes": [0-9.e-]+|"minutes": null',
    "times.json": rb'"milliseconds": {[^}]*}',
    "report.html": rb"(?s)<h3>Time per image</h3>.*?</table>",
}

KILLS = {"study": 6}
"""How many; 12 of the others."""
Contents = dict[str, bytes]


def work(arguments: list[str], out: Path, die_at: int, counted: Path | None) -> None:
    """Run a command; die before so many changes in ``out``, or count them."""
    os.setpgid(0, 0)
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    changes = itertools.count()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in CHANGES) or isinstance(details[0], int):
            return
        place = os.fsdecode(details[0])
        inside = place.startswith(str(out)) or not os.path.isabs(place)  # relative: of an rmtree
        if inside and next(changes) == die_at:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(watch)
    from fanogan.cli import main

    main(arguments)
    if counted:
        counted.write_text(str(next(changes)))


@dataclasses.dataclass
class Command:
    """A command, what lies in its ``out`` before, and what an undisturbed run leaves there."""

    arguments: list[str]
    out: Path
    before: Path | None = None
    expected: Contents = dataclasses.field(default_factory=dict)
    changes: int = 0
    seconds: float = 0.0

    def begin(self) -> None:
        """Bring ``out`` into the state before."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before:
            shutil.copytree(self.before, self.out)

    def run(self, die_at: int = -1, after: float | None = None, counted: Path | None = None) -> int:
        """Run it, or resume it; returns the process's exit code."""
        arguments = [*self.arguments, "--out", str(self.out)]
        if self.arguments[0] == "fit" and (self.out / "config.yaml").exists():
            arguments = ["fit", "--resume", str(self.out)]
        process = FORKS.Process(target=work, args=(arguments, self.out, die_at, counted))
        process.start()
        process.join(after)
        if process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet a group
                process.kill()
            process.join()
        assert isinstance(process.exitcode, int)
        return process.exitcode

    def measure(self) -> None:
        """Run it undisturbed."""
        self.begin()
        counted, began = self.out.with_name("changes"), time.monotonic()
        assert self.run(counted=counted) == 0
        self.seconds = time.monotonic() - began
        self.changes = int(counted.read_text())
        self.expected = contents(self.out)

    def check_between(self) -> None:
        """See that nothing half-written has a final name."""
        old = contents(self.before) if self.before else {}
        for name, data in contents(self.out).items():
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            if name.endswith("metrics.jsonl"):
                assert self.expected[name].startswith(data[: data.rfind(b"\n") + 1])
            elif "checkpoints" not in name:  # which have been read, of whatever step
                assert data in (self.expected.get(name), old.get(name)), name
        for model in self.out.rglob("model"):
            assert {path.name for path in model.iterdir()} == {
                *("model.json", "model.safetensors", "card.md")
            }

    def check_end(self) -> None:
        found = contents(self.out)
        assert found.keys() == self.expected.keys()
        assert [name for name in found if found[name] != self.expected[name]] == []


def contents(folder: Path) -> Contents:
    """All files but their times; of TensorBoard's events, which hold times, that there are some.

    An empty lock file may stay where a killed process held it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK:
            name, data = str(path.relative_to(folder)), path.read_bytes()
            if path.parent.name == "events":
                name, data = str(Path(name).parent), b""
            if path.parent.name == "checkpoints":  # safetensors writes metadata in any order
                with safe_open(path, framework="np") as file:
                    tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
                    data = repr((sorted(file.metadata().items()), tensors)).encode()
            if path.suffix == ".csv" and path.parent.name == "tables":
                rows = list(csv.DictReader(data.decode().splitlines()))
                data = repr([{**row, "minutes": ""} for row in rows]).encode()
            found[name] = re.sub(TIMES.get(path.name, rb"(?!)"), b"", data)
    return found


def save_images(folder: Path, first: int, last: int) -> Path:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (200, 16, 16), dtype=np.uint8)
    for index in range(first, last):
        Image.fromarray(noise[index]).save(folder / f"{index}.png")
    return folder


def save_eyes(folder: Path, seeds: Iterable[int], diseased: bool = False) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        spacing = (0.24, 0.00387, 0.022)
        eye = make_phantom(seed, shape=(3, 240, 96), spacing=spacing, diseased=diseased)
        tifffile.imwrite(
            folder / f"{seed}.tif",
            eye.pixels.astype(np.uint8),
            imagej=True,
            resolution=(1 / spacing[2], 1 / spacing[1]),
            metadata={"spacing": spacing[0], "unit": "mm", "axes": "ZYX"},
        )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and volumes, a model of each, and the results of other ones."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "smoke.yaml").write_text(SMOKE)
    (folder / "retina.yaml").write_text(RETINA)
    data = folder / "data"
    for part, first, last in (("train", 0, 20), ("normal", 20, 40), ("anomalous", 40, 50)):
        save_images(data / part, first, last)
    masks = save_images(data / "masks", 40, 50)
    for path in masks.iterdir():
        Image.fromarray((np.asarray(Image.open(path)) > 199) * np.uint8(255)).save(path)
    save_images(folder / "images", 0, 70)  # two batches
    save_images(folder / "other images", 60, 90)
    save_eyes(folder / "eyes", range(3))
    save_eyes(folder / "other eyes", range(2, 4), diseased=True)
    for name, normals in (("smoke", data / "train"), ("retina", folder / "eyes")):
        recipe = folder / f"{name}.yaml"
        made("fit", normals, "--recipe", recipe, "--out", folder / name)
    for name in ("eyes", "other eyes"):
        made("prepare", folder / name, "--recipe", recipe, "--out", folder / f"{name}.zarr")
    made("score", folder / "smoke", folder / "other images", "--out", folder / "scored images")
    made("score", folder / "retina", folder / "other eyes.zarr", "--out", folder / "scored eyes")
    parts = ("--normal", data / "normal", "--anomalous", folder / "other images")
    made("evaluate", folder / "smoke", *parts, "--out", folder / "evaluated")
    return folder


def made(*arguments: object) -> None:
    """Make what lies there before, undisturbed."""
    process = FORKS.Process(target=work, args=([*map(str, arguments)], Path("/nowhere"), -1, None))
    process.start()
    process.join()
    assert process.exitcode == 0


COMMANDS: dict[str, tuple[list[str], str | None]] = {
    "score images": (["score", "smoke", "images"], None),
    "score images over others": (["score", "smoke", "images"], "scored images"),
    "score volumes": (["score", "retina", "eyes.zarr"], None),
    "score volumes over others": (["score", "retina", "eyes.zarr"], "scored eyes"),
    "evaluate": (
        [
            *("evaluate", "smoke", "--normal", "data/normal"),
            *("--anomalous", "data/anomalous", "--masks", "data/masks"),
        ],
        None,
    ),
    "evaluate over others": (
        ["evaluate", "smoke", "--normal", "data/normal", "--anomalous", "data/anomalous"],
        "evaluated",
    ),
    "prepare": (["prepare", "eyes", "--recipe", "retina.yaml"], None),
    "prepare over others": (["prepare", "eyes", "--recipe", "retina.yaml"], "other eyes.zarr"),
    "fit": (["fit", "data/train", "--recipe", "smoke.yaml"], None),
    "study": (
        [
            *("study", "data", "--recipe", "smoke.yaml", "--seeds", "1"),
            *("--systems", "izi_f", "iterative"),
        ],
        None,
    ),
}


def kill(folder: Path, name: str, count: int) -> int:
    """Kill a command so often; returns how many were before a change in its ``out``."""
    words, before = COMMANDS[name]
    arguments = [str(folder / word) if (folder / word).exists() else word for word in words]
    arguments[0] = words[0]
    out = folder / f"out of {name}"
    command = Command(arguments, out, folder / before if before else None)
    command.measure()
    moments = random.Random(name)
    at_changes = killed = 0
    while killed < count:
        command.begin()
        if killed % 2:
            status = command.run(after=moments.uniform(0, command.seconds))
        else:
            status = command.run(die_at=moments.randrange(command.changes))
        if status == 0:  # it had ended before
            continue
        assert status == -signal.SIGKILL
        at_changes += killed % 2 == 0
        killed += 1
        command.check_between()
        assert command.run() == 0
        command.check_end()
    shutil.rmtree(out)
    return at_changes


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_many_moments(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    count = KILLS.get(name, 12)
    at_changes = kill(folder, name, count)
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{name}: {count} kills, {at_changes} before a change, in {seconds:.0f} s")
