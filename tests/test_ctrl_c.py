"""Ctrl-C at any moment ends the command ``fanogan`` with one line and status 130."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanogan.cli import main
from fanogan.phantom import make_phantom

# Runs before anything of ours. Moments count from the first import after Ctrl-C is taken over:
# before that Python itself answers.
WATCH = """
    import itertools, os, signal, sys

    class Imports:
        def __init__(self):
            self.count = None

        def find_spec(self, name, path=None, target=None):
            if name == "fanogan.cli":
                self.count = itertools.count()
                open(os.environ["BEGUN"], "x").close()
            if self.count and next(self.count) == int(os.environ["AT_IMPORT"]):
                os.kill(os.getpid(), signal.SIGINT)

    sys.meta_path.insert(0, Imports())
"""
CHECKOUT = Path(__file__).parents[1]
SMOKE = "base: smoke\ncritic_updates: 60\nencoder_updates: 30\nsearch_updates: 4\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, volumes, a model, and the console script as pip writes it."""
    folder = tmp_path_factory.mktemp("ctrl_c")
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["fanogan"].split(":")
    text = f"import re\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"
    (folder / "fanogan").write_text(text)
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(textwrap.dedent(WATCH))
    (folder / "smoke.yaml").write_text(SMOKE)
    noise = np.random.default_rng(0).integers(0, 256, (300, 16, 16), dtype=np.uint8)
    for part, first, last in (("train", 0, 40), ("normal", 40, 120), ("anomalous", 120, 300)):
        (folder / "data" / part).mkdir(parents=True)
        for index in range(first, last):
            Image.fromarray(noise[index]).save(folder / "data" / part / f"{index}.png")
    (folder / "eyes").mkdir()
    for seed in range(4):
        phantom = make_phantom(seed, shape=(4, 320, 256), spacing=(0.24, 0.00387, 0.022))
        np.save(folder / "eyes" / f"{seed}.npy", phantom.pixels)
    recipe = ["--recipe", str(folder / "smoke.yaml")]
    main(["fit", str(folder / "data" / "train"), *recipe, "--out", str(folder / "run")])
    return folder


def commands(folder: Path) -> dict[str, list[object]]:
    data, recipe = folder / "data", ("--recipe", folder / "smoke.yaml")
    return {
        "fit": ["fit", data / "train", *recipe],
        "score": ["score", folder / "run", data / "anomalous"],
        "evaluate": [
            *("evaluate", folder / "run"),
            *("--normal", data / "normal", "--anomalous", data / "anomalous"),
        ],
        "prepare": ["prepare", folder / "eyes", *recipe],
        "study": ["study", data, *recipe, "--seeds", 1, "--systems", "ae", "pca"],
        "demo": ["demo", "--digits"],
    }


class Run:
    """A command in a process group of its own, as a terminal starts it."""

    numbers = itertools.count()

    def __init__(self, folder: Path, verb: str, at_import: int = -1, threads: int = 1):
        number = next(Run.numbers)
        self.begun, self.out = folder / f"begun{number}", folder / f"out{number}"
        path = os.pathsep.join([str(folder / "watch"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [
                *(sys.executable, folder / "fanogan", *map(str, commands(folder)[verb])),
                *("--out", self.out),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                **{"PYTHONPATH": path, "BEGUN": str(self.begun), "AT_IMPORT": str(at_import)},
                **{"OMP_NUM_THREADS": str(threads), "LOKY_MAX_CPU_COUNT": "2"},
            },
        )

    def press(self, after: float) -> None:
        """Send what a terminal sends, so long after Ctrl-C was taken over, if it still runs."""
        while not self.begun.exists() and self.process.poll() is None:
            time.sleep(0.001)
        time.sleep(after)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for the end; returns status, lines and errors, and sees that no process is left."""
        shown, errors = self.process.communicate(timeout=300)
        deadline = time.monotonic() + 10
        while True:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                break
            assert time.monotonic() < deadline, "left a process behind"
            time.sleep(0.01)
        return self.process.returncode, shown.splitlines(), errors


def assert_stopped(run: Run) -> None:
    status, lines, errors = run.end()
    assert (status, errors) == (130, ""), (status, lines, errors)
    assert lines[-1].startswith("stopped"), lines
    assert sum(line.startswith("stopped") for line in lines) == 1, lines


@pytest.fixture(autouse=True, scope="module")
def not_ignored() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("at_import", [0, 60, 900])  # jsonargparse; torch
def test_stopped_within_an_import(folder: Path, at_import: int) -> None:
    assert_stopped(Run(folder, "score", at_import))


def test_stopped_at_work(folder: Path) -> None:
    run = Run(folder, "score")
    while not (run.out / ".unfinished").exists():
        time.sleep(0.01)
    run.press(0)
    run.press(0.01)  # again, while it tidies up
    assert_stopped(run)


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 3])
@pytest.mark.parametrize("verb", ["fit", "score", "evaluate", "prepare", "study", "demo"])
def test_stopped_at_many_moments(folder: Path, verb: str, presses: int, capsys) -> None:
    random_moments = random.Random(f"{verb} {presses}")
    lasts = 20.0  # of a demo, which takes longer
    if verb != "demo":
        began = time.monotonic()
        status, _, errors = Run(folder, verb).end()
        assert (status, errors) == (0, ""), errors
        lasts = time.monotonic() - began
    stopped = 0
    while stopped < 8:
        at_import = random_moments.randrange(3000) if stopped % 4 == 3 else -1
        run = Run(folder, verb, at_import, threads=1 + stopped % 2)
        if at_import < 0:
            run.press(random_moments.uniform(0, lasts))
            for _ in range(presses - 1):
                run.press(random_moments.uniform(0, 0.2))
        if run.process.wait(300) == 0:  # it had ended before
            assert not any(line.startswith("stopped") for line in run.end()[1])
            continue
        assert_stopped(run)
        stopped += 1
    with capsys.disabled():
        print(f"\n{verb}: {stopped} times stopped by {presses}")


def test_compiled_code_that_catches_it_does_not_keep_it() -> None:
    """The code has the file name that Cython gives, and catches all, as imagecodecs does."""
    catching = "try:\n    os.kill(os.getpid(), 2); time.sleep(9)\nexcept BaseException:\n    pass"
    script = f"""
        import os, time
        import fanogan.cli
        from fanogan.__main__ import main
        fanogan.cli.main = lambda: exec(compile({catching!r}, "codec.pyx", "exec"))
        main()
        print("went on")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "stopped\n")
