"""A run that is killed, stopped or shared by processes ends as one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from fanogan.detectors import FAnoGAN
from fanogan.recipes.recipe import Recipe, load_recipe
from fanogan.storage import LOCK, BadFolder, exclusive
from fanogan.training.run import Run

RECIPE = load_recipe("smoke").but(critic_updates=24, encoder_updates=12, log_every=4)
ROUNDS, UPDATES = 12, 12
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
# Processes that are forked from one which has imported everything, and so start at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["fanogan.training", "fanogan.detectors", "lightning_fabric", "tensorboardX", "pytest"]
)


def fit(
    out: Path,
    die_at: tuple[str, int] | None = None,
    seed: int = 0,
    recipe: Recipe = RECIPE,
    normals: np.ndarray = IMAGES,
) -> None:
    """Begin a run, or resume it; SIGKILL on the way where asked for."""
    Run.HEALTH_IMAGES, Run.REESTIMATE_BATCHES = 16, 10

    def progress(stage: str, step: int, steps: int, figures: Any) -> None:
        if (stage, step) == die_at and not figures:
            os.kill(os.getpid(), signal.SIGKILL)

    resume = (out / "config.yaml").exists()
    detector = FAnoGAN(recipe, seed=seed, device="cpu")
    detector.fit(normals, out=out, resume=resume, progress=progress)


def start(*arguments: Any) -> Any:
    process = FORKS.Process(target=fit, args=arguments)
    process.start()
    return process


def finish(out: Path) -> None:
    process = start(out)
    process.join()
    assert process.exitcode == 0


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def metric_steps(out: Path) -> list[tuple[str, int]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [(line["stage"], line["step"]) for line in map(json.loads, lines)]


def checkpoint_step(out: Path, stage: str) -> int:
    path = out / "checkpoints" / f"{stage}.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="np") as file:
        return int(file.metadata()["step"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run that never was killed; its process is a fork too, with the same threads."""
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(out)
    yield out


def assert_ended_the_same(out: Path, uninterrupted: Path) -> None:
    assert weights(out) == weights(uninterrupted)
    assert metric_steps(out) == metric_steps(uninterrupted)
    ours, theirs = (
        json.loads((run / "model" / "model.json").read_text()) for run in (out, uninterrupted)
    )
    assert ours == theirs


def test_a_run_of_its_own_has_metrics_of_each_tick(uninterrupted: Path) -> None:
    ticks = [(stage, step) for stage in ("gan", "encoder") for step in (4, 8, 12)]
    assert metric_steps(uninterrupted) == ticks
    assert (checkpoint_step(uninterrupted, "gan"), checkpoint_step(uninterrupted, "encoder")) == (
        ROUNDS,
        UPDATES,
    )


def test_killed_at_chosen_steps_of_both_stages(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    moments = [
        ("gan", 1),
        ("gan", 6),
        ("gan", ROUNDS),  # after the last round, before the statistics are estimated anew
        ("encoder", 2),
        ("encoder", UPDATES),
    ]
    for stage, step in moments:
        process = start(out, (stage, step))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert checkpoint_step(out, stage) == step - 1  # killed before this step's was written
        assert not (out / "model").exists()
    finish(out)
    assert_ended_the_same(out, uninterrupted)


def test_killed_with_all_that_a_recipe_can_add(tmp_path: Path) -> None:
    """The strength of the augmentation and the average of G are in the checkpoint too."""
    recipe = RECIPE.but(augment_critic=True, generator_average=0.9)
    whole, out = tmp_path / "whole", tmp_path / "run"
    for run, die_at in ((whole, None), (out, ("gan", 6)), (out, None)):
        process = FORKS.Process(target=fit, args=(run, die_at, 0, recipe))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if die_at else 0)
    assert weights(out) == weights(whole)
    assert (out / "metrics.jsonl").read_text().count("augmentation") == 3


@pytest.mark.parametrize("sides", [(1, 64), (16, 16, 16)])
def test_killed_with_one_and_with_three_sides(sides: tuple[int, ...], tmp_path: Path) -> None:
    """Windows of signals and of volumes are drawn at places of their own."""
    recipe = RECIPE.but(window=sides, image_size=sides, horizontal_flip=False, batch_size=4)
    shape = [side + 8 for side in sides if side > 1]
    normals = np.random.default_rng(0).integers(0, 256, (10, *shape), np.uint8)
    whole, out = tmp_path / "whole", tmp_path / "run"
    for run, die_at in ((whole, None), (out, ("gan", 6)), (out, ("encoder", 5)), (out, None)):
        process = FORKS.Process(target=fit, args=(run, die_at, 0, recipe, normals))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if die_at else 0)
    assert_ended_the_same(out, whole)


def test_killed_from_outside_while_it_writes(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for stage, first in (("gan", 2), ("encoder", 3)):
        process = start(out)
        while checkpoint_step(out, stage) < first:
            assert process.is_alive()
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(out)
    assert_ended_the_same(out, uninterrupted)


@pytest.mark.slow
def test_killed_at_many_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    killed = 0
    for attempt in range(6):
        out = tmp_path / str(attempt)
        for _ in range(100):
            process = start(out)
            process.join(moments.uniform(0.05, 0.8))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            killed += 1
        finish(out)
        assert_ended_the_same(out, uninterrupted)
    assert killed > 6  # how many it takes depends on the machine


@pytest.mark.parametrize("stage", ["gan", "encoder"])
def test_ctrl_c_saves_and_the_run_can_be_resumed(
    uninterrupted: Path, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "run"
    script = f"""
        import os, signal
        import numpy as np
        from fanogan.training.run import Run
        from fanogan.detectors import FAnoGAN
        from fanogan.recipes.recipe import load_recipe

        Run.HEALTH_IMAGES, Run.REESTIMATE_BATCHES = 16, 10

        def press_ctrl_c(stage, step, steps, figures):
            if (stage, step) == ({stage!r}, 5):
                os.kill(os.getpid(), signal.SIGINT)

        recipe = load_recipe("smoke").but(
            critic_updates=24, encoder_updates=12, log_every=4, checkpoint_minutes=60.0
        )
        images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
        FAnoGAN(recipe, device="cpu").fit(images, out={str(out)!r}, progress=press_ctrl_c)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGINT, ended.stderr
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert checkpoint_step(out, stage) == 5
    process = start(out, None, 0, RECIPE.but(checkpoint_minutes=60.0))
    process.join()
    assert process.exitcode == 0
    assert weights(out) == weights(uninterrupted)
    assert metric_steps(out) == metric_steps(uninterrupted)


def test_a_finished_run_is_left_as_it_is(uninterrupted: Path) -> None:
    before = weights(uninterrupted), metric_steps(uninterrupted)
    finish(uninterrupted)
    assert (weights(uninterrupted), metric_steps(uninterrupted)) == before


def test_another_seed_is_another_model(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", None, 1)
    process.join()
    assert weights(tmp_path / "run") != weights(uninterrupted)


@pytest.mark.parametrize(
    ("images", "recipe", "seed", "words"),
    [
        (IMAGES[:-1], RECIPE, 0, "other normals;"),
        (IMAGES[::-1], RECIPE, 0, "other normals;"),
        (IMAGES, RECIPE.but(kappa=2.0), 0, "another recipe;"),
        (IMAGES, RECIPE, 1, "another seed and other normals;"),  # another seed splits otherwise
    ],
)
def test_a_run_is_not_resumed_as_another(
    uninterrupted: Path, images: np.ndarray, recipe: Recipe, seed: int, words: str
) -> None:
    before = weights(uninterrupted)
    with pytest.raises(BadFolder) as refusal:
        FAnoGAN(recipe, seed=seed, device="cpu").fit(images, out=uninterrupted, resume=True)
    assert f"{uninterrupted}: can't be resumed, it was begun with {words}" in str(refusal.value)
    assert weights(uninterrupted) == before


def test_two_at_a_time_are_refused_and_the_first_is_not_disturbed(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "HEALTH_IMAGES", 16)
    monkeypatch.setattr(Run, "REESTIMATE_BATCHES", 10)
    out, refused = tmp_path / "run", []

    def another(stage: str, step: int, steps: int, figures: Any) -> None:
        if (stage, step) == ("gan", 5) and not refused:
            with pytest.raises(BadFolder, match="another process is training it") as error:
                FAnoGAN(RECIPE, device="cpu").fit(IMAGES, out=out, resume=True)
            refused.append(error.value)

    FAnoGAN(RECIPE, device="cpu").fit(IMAGES, out=out, progress=another)
    assert refused and metric_steps(out) == metric_steps(uninterrupted)


def test_a_run_is_not_begun_over_another_nor_resumed_from_nothing(
    uninterrupted: Path, tmp_path: Path
) -> None:
    detector = FAnoGAN(RECIPE, device="cpu")
    with pytest.raises(BadFolder, match="holds a run already"):
        detector.fit(IMAGES, out=uninterrupted)
    with pytest.raises(BadFolder, match="no run here to resume"):
        detector.fit(IMAGES, out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_what_the_first_process_refuses_is_said_once_and_the_other_ends(
    uninterrupted: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import atexit, sys
        import numpy as np
        import torch.distributed
        from fanogan.detectors import FAnoGAN
        from fanogan.storage import BadFolder
        from fanogan.recipes.recipe import load_recipe

        @atexit.register  # of what is registered first, it runs last
        def left() -> None:
            if torch.distributed.is_initialized():
                print("Gloo's threads are left to the end of the interpreter, and may abort it")

        seed, out = int(sys.argv[1]), sys.argv[2]
        recipe = load_recipe("smoke").but(critic_updates=24, encoder_updates=12, log_every=4)
        images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
        try:
            FAnoGAN(recipe, seed=seed, device="cpu", devices=2).fit(images, out=out, resume=True)
        except BadFolder as error:
            print(error)
        """)
    )

    def refusal(seed: int) -> str:
        ended = subprocess.run(
            [sys.executable, str(script), str(seed), str(uninterrupted)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    before = weights(uninterrupted)
    with exclusive(uninterrupted / LOCK, BadFolder("held")):
        assert refusal(0) == (
            f"{uninterrupted}: another process is training it; wait for its end\n"
        )
    refused = refusal(1)
    assert refused.count("\n") == 1 and "can't be resumed" in refused and "another seed" in refused
    assert weights(uninterrupted) == before


@pytest.mark.slow
def test_two_processes_stay_in_step(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from safetensors.torch import save_file
        from fanogan.detectors import FAnoGAN
        from fanogan.recipes.recipe import load_recipe

        stop_at = int(sys.argv[1])
        rank = int(os.environ.get("LOCAL_RANK", 0))
        out = Path(__file__).parent

        def progress(stage, step, steps, figures):
            with (out / f"progress{rank}.txt").open("a") as file:
                file.write(f"{stage} {step}\\n")
            if stage == "encoder" and step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)  # one process alone is asked to stop

        recipe = load_recipe("smoke").but(
            critic_updates=16, encoder_updates=12, log_every=4, checkpoint_minutes=60.0
        )
        images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
        detector = FAnoGAN(recipe, device="cpu", devices=2)
        try:
            detector.fit(images, out=out / "run", resume=stop_at == 0, progress=progress)
        except KeyboardInterrupt:
            (out / f"stopped{rank}.txt").touch()
            sys.exit(0)
        weights = {
            f"{name}.{key}": tensor.contiguous()
            for name, network in detector.model.networks.items()
            for key, tensor in network.state_dict().items()
        }
        save_file(weights, out / f"rank{rank}.safetensors")
        """)
    )

    def run(stop_at: int) -> None:
        ended = subprocess.run(
            [sys.executable, str(script), str(stop_at)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr

    run(5)
    assert (tmp_path / "stopped0.txt").exists() and (tmp_path / "stopped1.txt").exists()
    assert checkpoint_step(tmp_path / "run", "encoder") == 5
    run(0)
    assert not (tmp_path / "progress1.txt").exists()  # a single bar
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    model = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for rank in ranks:
        assert set(rank) == {name for name in model if not name.startswith("seen.")}
        for name, tensor in rank.items():
            np.testing.assert_array_equal(tensor, model[name])
    ticks = [*(("gan", step) for step in (4, 8)), *(("encoder", step) for step in (4, 8, 12))]
    assert metric_steps(tmp_path / "run") == ticks
    scores = FAnoGAN.load(tmp_path / "run", device="cpu").score(IMAGES)
    assert np.isfinite(scores.total).all()
