"""Two machines train together: two torchruns on the loopback, which meet as machines do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from noise import pictures
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

LIMIT = 600  # seconds, of a machine that is busy
SMALL = ["--recipe", "smoke", "--set", "critic_updates=16", "encoder_updates=8", "--device", "cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), 40)


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )


class Machines:
    """Two of them, each with what was typed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[subprocess.Popen[bytes]] = []

    def fit(self, *typed: list[str]) -> list[subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meet = f"127.0.0.1:{free.getsockname()[1]}"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", meet, "-m", "fanogan", "fit"]
        self.begun = [
            start([*torchrun, *arguments], self.folder / f"{number}.txt")
            for number, arguments in enumerate(typed)
        ]
        return self.begun

    def end(self) -> list[str]:
        for machine in self.begun:
            machine.wait(LIMIT)
        return [(self.folder / f"{number}.txt").read_text() for number in range(len(self.begun))]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    yield machines
    for machine in machines.begun:
        if machine.poll() is None:
            os.killpg(machine.pid, signal.SIGTERM)
            machine.wait(60)


def test_a_machine_is_lost_and_the_run_ends_as_on_one_machine(
    images: Path, machines: Machines, tmp_path: Path
) -> None:
    out, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "gan.safetensors"
    typed = [str(images), *SMALL, "--out", str(out)]
    _, lost = machines.fit(typed, typed)
    begun = time.monotonic()
    while not checkpoint.exists() and time.monotonic() - begun < LIMIT:
        time.sleep(0.05)
    (worker,) = Path(f"/proc/{lost.pid}/task/{lost.pid}/children").read_text().split()
    for process in (lost.pid, int(worker)):  # torchrun first, so that it can't tell anyone
        os.kill(process, signal.SIGKILL)
    said, _ = machines.end()
    assert machines.begun[0].returncode != 0
    assert "one of the 2 processes that train together is gone" in said
    assert "fanogan fit --resume RUN" in said
    assert not (out / "model").exists()

    machines.fit(*[["--resume", str(out), "--device", "cpu"]] * 2)
    logs = machines.end()
    assert [machine.returncode for machine in machines.begun] == [0, 0], logs
    assert sorted(log.count("model: ") for log in logs) == [0, 1]  # the first alone speaks

    alone = tmp_path / "alone"
    fit = [sys.executable, "-m", "fanogan", "fit", *typed[:-1], str(alone), "--devices", "2"]
    one = start(fit, tmp_path / "alone.txt")
    assert one.wait(LIMIT) == 0, (tmp_path / "alone.txt").read_text()
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (out, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name])


def test_machines_that_disagree_are_told(images: Path, machines: Machines, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = [str(images), *SMALL, "--out", str(out)]
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[:30]:
        (few / path.name).symlink_to(path)
    machines.fit(typed, [str(few), *typed[1:], "--seed", "1"])
    for said in machines.end():
        assert "was started with another seed and other normals than the first" in said
    assert all(machine.returncode for machine in machines.begun)
    assert not out.exists()


def test_what_one_machine_lacks_ends_both(images: Path, machines: Machines, tmp_path: Path) -> None:
    typed = [str(images), *SMALL, "--out", str(tmp_path / "run")]
    machines.fit(typed, [str(tmp_path / "nowhere"), *typed[1:]])
    for said in machines.end():
        assert f"{tmp_path / 'nowhere'} does not exist" in said
    assert all(machine.returncode for machine in machines.begun)
    assert not (tmp_path / "run").exists()
