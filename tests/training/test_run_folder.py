"""The run folder: settings, checkpoints, metrics and sample pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fanogan.models.networks import Encoder, Generator
from fanogan.storage import BadFolder
from fanogan.training.run_folder import RunFolder
from fanogan.training.updates import TensorFlowRMSprop


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    folder.begin({"seed": 3, "recipe": {"kappa": 5e-05, "window": [32, 32], "about": "für"}})
    yield folder
    folder.close()


def test_settings_come_back(run: RunFolder) -> None:
    again = RunFolder(run.path, resume=True)
    assert again.config == {
        "seed": 3,
        "recipe": {"kappa": 5e-05, "window": [32, 32], "about": "für"},
    }


def test_which_folders_serve_a_run(run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, resume, sentence in [
        (
            run.path,
            False,
            rf"holds a run already; resume it with `fanogan fit --resume {run.path}`",
        ),
        (tmp_path / "new", True, "no run here to resume"),
        (file, False, "is a file; give --out a folder"),
        (file, True, "is a file"),
    ]:
        with pytest.raises(BadFolder, match=rf"^{path}: {sentence}"):
            RunFolder(path, resume=resume)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"", b"- a", b"seed: [", b"\xff\xfe\xff", b"\0\0"])
def test_damaged_settings_are_refused(run: RunFolder, content: bytes) -> None:
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(BadFolder, match=r"config\.yaml: damaged"):
        _ = RunFolder(run.path, resume=True).config


State = dict[str, nn.Module | torch.optim.Optimizer]


def learner(seed: int, width: int = 2) -> State:
    torch.manual_seed(seed)
    G, E = Generator((16, 16), width=width, latent=4), Encoder((16, 16), width=width, latent=4)
    adam = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.0, 0.9), fused=True)
    return {"G": G, "E": E, "adam_G": adam, "rmsprop": TensorFlowRMSprop(E.parameters(), 1e-3)}


def learn(state: State, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        z = torch.randn(4, 4)
        loss = (state["E"](state["G"](z)) - z).square().mean()  # type: ignore[operator]
        for optimiser in (state["adam_G"], state["rmsprop"]):
            optimiser.zero_grad()  # type: ignore[union-attr]
        loss.backward()
        for optimiser in (state["adam_G"], state["rmsprop"]):
            optimiser.step()  # type: ignore[union-attr, call-arg]


def everything(state: State) -> dict[str, Tensor]:
    found = {}
    for name, part in state.items():
        entries: Any = part.state_dict()
        nested = entries["state"] if isinstance(part, torch.optim.Optimizer) else {"": entries}
        for index, values in nested.items():
            found |= {f"{name}.{index}.{key}": value.clone() for key, value in values.items()}
    return found


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


def test_a_checkpoint_holds_all_that_learning_goes_on_with(run: RunFolder) -> None:
    never_stopped = learner(0)
    learn(never_stopped, 5, seed=1)
    losses = [torch.tensor(1.5), torch.tensor(-0.25)]
    run.save_checkpoint("gan", 5, never_stopped, {"image": losses})
    at_five = everything(never_stopped)
    learn(never_stopped, 5, seed=2)

    resumed = learner(7)
    assert run.load_checkpoint("gan", resumed) == (5, {"image": losses})
    assert_equal(everything(resumed), at_five)
    moments = [name for name in at_five if "exp_avg" in name or "mean_square" in name]
    assert len(moments) > 40 and any(bool(at_five[name].any()) for name in moments)
    learn(resumed, 5, seed=2)
    assert_equal(everything(resumed), everything(never_stopped))
    assert not list(run.path.rglob(".*"))  # no temporary files


def test_a_checkpoint_before_the_first_step(run: RunFolder) -> None:
    state = learner(0)
    run.save_checkpoint("gan", 0, state, {})
    other = learner(1)
    assert run.load_checkpoint("gan", other)[0] == 0
    assert_equal(everything(other), everything(state))


def test_stages_keep_their_own_checkpoints(run: RunFolder) -> None:
    state = learner(0)
    assert run.load_checkpoint("gan", state)[0] == 0
    run.save_checkpoint("gan", 5, state, {})
    run.save_checkpoint("encoder", 7, state, {})
    run.save_checkpoint("gan", 6, state, {})
    assert run.load_checkpoint("gan", state)[0] == 6
    assert run.load_checkpoint("encoder", state)[0] == 7


def test_a_damaged_checkpoint_is_refused(run: RunFolder) -> None:
    state = learner(0)
    learn(state, 1, seed=1)
    run.save_checkpoint("gan", 5, state, {})
    path = run.path / "checkpoints" / "gan.safetensors"
    whole = path.read_bytes()
    damaged = [whole[:0], whole[:4], whole[:100], whole[:-1], whole + b"\0"]
    for at in np.linspace(0, len(whole) - 1, 60).astype(int):
        flipped = bytearray(whole)
        flipped[at] ^= 0x01
        damaged.append(bytes(flipped))
    step = whole.index(b'"step":"5"') + len('"step":"')
    damaged.append(whole[:step] + b"6" + whole[step + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(BadFolder, match=r"gan\.safetensors: damaged checkpoint.*delete it"):
            run.load_checkpoint("gan", state)
    path.write_bytes(whole)
    assert run.load_checkpoint("gan", state)[0] == 5


def test_a_checkpoint_of_other_networks_is_refused(run: RunFolder) -> None:
    run.save_checkpoint("gan", 5, learner(0), {})
    with pytest.raises(BadFolder, match="checkpoint"):
        run.load_checkpoint("gan", learner(0, width=3))


def test_metrics_are_lines_of_json_and_events(run: RunFolder) -> None:
    run.metrics("gan", 25, {"wasserstein": 1.5, "warnings": ["samples collapse"]})
    run.metrics("gan", 50, {"wasserstein": 2.5})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "gan", "step": 25, "wasserstein": 1.5, "warnings": ["samples collapse"]},
        {"stage": "gan", "step": 50, "wasserstein": 2.5},
    ]
    run.close()
    assert sum(path.stat().st_size for path in (run.path / "events").iterdir()) > 0


def test_lines_that_will_be_written_again_are_forgotten(run: RunFolder) -> None:
    run.forget_metrics_after("gan", 0)  # there are none yet
    for stage, step in [("gan", 10), ("gan", 20), ("gan", 30), ("encoder", 5), ("encoder", 40)]:
        run.metrics(stage, step, {"loss": 0.5})
    path = run.path / "metrics.jsonl"

    def steps() -> list[tuple[str, int]]:
        lines = path.read_text().splitlines()
        return [(entry["stage"], entry["step"]) for entry in map(json.loads, lines)]

    with path.open("ab") as file:
        file.write(b'\xff{"stage": "gan", "step": 1}\n5\n{}\n{"stage": "encoder", "step": 41, "lo')
    run.forget_metrics_after("encoder", 30)
    assert steps() == [("gan", 10), ("gan", 20), ("gan", 30), ("encoder", 5)]
    run.forget_metrics_after("gan", 20)
    assert steps() == [("gan", 10), ("gan", 20), ("encoder", 5)]
    run.metrics("gan", 30, {"loss": 0.25})
    assert steps()[-1] == ("gan", 30)
    assert not list(run.path.rglob(".*"))  # no temporary files


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "across", "down"), [(64, 8, 8), (8, 8, 1), (13, 8, 2), (3, 3, 1)]
)
def test_a_sample_grid_shows_every_image(
    run: RunFolder, channels: int, count: int, across: int, down: int
) -> None:
    images = np.random.default_rng(0).uniform(-1.2, 1.2, (count, channels, 6, 5))
    run.sample_grid("round_000001", images.astype(np.float32))
    with Image.open(run.path / "samples" / "round_000001.png") as picture:
        assert picture.mode == {1: "L", 3: "RGB"}[channels]
        assert picture.size == (across * 5 * 2, down * 6 * 2)
        grid = np.asarray(picture).reshape(down * 12, across * 10, channels)[::2, ::2]
    expected = np.clip((images + 1) * 127.5, 0, 255)
    for number in range(count):
        row, column = divmod(number, across)
        cell = grid[row * 6 : (row + 1) * 6, column * 5 : (column + 1) * 5]
        assert np.abs(cell - np.moveaxis(expected[number], 0, -1)).max() <= 0.51
    left = grid[-6:, (count - 1) % across * 5 + 5 :]
    assert bool((left == 128).all())


def test_whole_bscans_lie_below_each_other_and_signals_are_curves(run: RunFolder) -> None:
    bscans = np.random.default_rng(0).uniform(-1, 1, (6, 1, 16, 128))
    run.sample_grid("wide", bscans)
    wave = np.sin(np.arange(128) / 8)
    run.sample_grid("waves", np.stack([wave, -wave, 0.5 * wave])[:, None, None])
    wide, waves = (
        np.asarray(Image.open(run.path / "samples" / f"{name}.png"))[::2, ::2]
        for name in ("wide", "waves")
    )
    assert np.abs(wide.reshape(6, 16, 128) - (bscans[:, 0] + 1) * 127.5).max() <= 0.51
    for number, sign in enumerate((1, -1, 0.5)):
        drawn = waves[:64, number * 128 : (number + 1) * 128]
        assert (drawn[-1] == 128).all() and (drawn[:, -1] == 128).all()  # a line around it
        drawn = drawn[:-1, :-1] == 255
        middle = (drawn.argmax(0) + 62 - drawn[::-1].argmax(0)) / 2
        assert np.abs(middle - (1 - sign * wave[:-1]) / 2 * 62).max() < 3
