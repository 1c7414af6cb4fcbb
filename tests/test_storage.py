"""What is written to disk is whole or not there, and what is damaged is refused."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fanogan.models.networks import Encoder, Generator
from fanogan.storage import (
    FORMAT,
    BadFolder,
    RunFolder,
    _replaced_in_two_steps,
    alone,
    model_folder,
    read_model,
    write_model,
    write_whole,
)
from fanogan.training.wgan import TensorFlowRMSprop

FACTS = {"fanogan": "0.1.0", "recipe": {"name": "Größe", "rate": 0.30000000000000004}, "n": [1, 2]}
CARD = "# A model of normal retinas\n"


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "G.weight": torch.randn(3, 4, 5, generator=generator),
        "G.transposed": torch.randn(6, 7, generator=generator).T,
        "G.count": torch.tensor(12345678901),
        "D.half": torch.randn(9, generator=generator).half(),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "model"
    write_model(folder, tensors(), FACTS, CARD)
    return folder


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return [path.name for path in folder.rglob(".*")]


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# --- one file -----------------------------------------------------------------------------------


def test_one_process_alone_holds_a_lock_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    lock, busy = tmp_path / ".lock", BadFolder("busy")
    script = (
        "import sys; from pathlib import Path; from fanogan.storage import alone\n"
        "with alone(Path(sys.argv[1]), OSError()): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(lock)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(BadFolder, match="busy"), alone(lock, busy):
            pass
        other.kill()
    assert lock.exists()
    with alone(lock, busy):
        pass
    assert not lock.exists()


def test_a_file_is_written_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.bin"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert left_over(tmp_path) == []


DISK_FULL = """
import errno, resource, sys
from pathlib import Path
from fanogan.storage import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_whole(Path(sys.argv[1]), bytes(100_000))
except OSError as error:
    sys.exit(0 if error.errno == errno.EFBIG else 3)
sys.exit(4)
"""


@pytest.mark.parametrize("before", [b"the old file", None])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "metrics.jsonl"
    if before is not None:
        path.write_bytes(before)
    assert run_python(DISK_FULL, path).returncode == 0
    assert (path.read_bytes() if path.exists() else None) == before
    assert left_over(tmp_path) == []


# --- model folder -------------------------------------------------------------------------------


def test_a_model_comes_back_bit_equal(model: Path) -> None:
    assert sorted(p.name for p in model.iterdir()) == ["card.md", "model.json", "model.safetensors"]
    assert left_over(model.parent) == []
    assert model.stat().st_mode == model.parent.stat().st_mode
    for path in (model, model.parent, str(model)):
        found, facts = read_model(path)
        assert found.keys() == tensors().keys()
        for name, tensor in tensors().items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
        assert {key: facts[key] for key in FACTS} == FACTS
        assert facts["format"] == FORMAT
    assert (model / "card.md").read_text() == CARD


def flips(size: int) -> list[int]:
    return sorted({int(at) for at in np.linspace(0, size - 1, 60)})


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_a_flipped_byte_is_noticed(model: Path, name: str, mask: int) -> None:
    whole = (model / name).read_bytes()
    for at in flips(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= mask
        (model / name).write_bytes(damaged)
        with pytest.raises(BadFolder, match="model"):
            read_model(model)
    (model / name).write_bytes(whole)
    read_model(model)


def test_a_flip_that_reading_would_not_notice_is_noticed(model: Path) -> None:
    # ...04 and ...05 are the same float64.
    text = (model / "model.json").read_text()
    other = text.replace("0.30000000000000004", "0.30000000000000005")
    assert json.loads(text) == json.loads(other) and text != other
    (model / "model.json").write_text(other)
    with pytest.raises(BadFolder, match=r"damaged, model\.json has changed.*copy the whole folder"):
        read_model(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(model: Path, name: str, keep: float) -> None:
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BadFolder, match=rf"damaged, {name}.*copy the whole folder again"):
        read_model(model)


@pytest.mark.parametrize("text", ["[]", "3", '"format"', "{}", "null", '{"format": 1}'])
def test_json_that_is_no_model_is_noticed(model: Path, text: str) -> None:
    (model / "model.json").write_text(text)
    with pytest.raises(BadFolder, match=r"damaged, model\.json can't be read"):
        read_model(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    (model.parent / "config.yaml").write_text("seed: 0\n")
    for path in (model, model.parent):
        with pytest.raises(BadFolder, match=rf"{name}.*copy the whole folder again"):
            read_model(path)


def test_a_newer_format_says_which_version_reads_it(model: Path) -> None:
    body = json.loads((model / "model.json").read_text())
    body |= {"format": FORMAT + 1, "fanogan": "9.2.0"}
    (model / "model.json").write_text(json.dumps(body))
    sentence = rf"format {FORMAT + 1}, this version.* up to {FORMAT}; update to fanogan 9\.2\.0 or"
    with pytest.raises(BadFolder, match=sentence):
        read_model(model)


def test_what_is_no_model_folder(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "scan.png"
    file.touch()
    run = tmp_path / "unfinished"
    RunFolder(run).begin({"seed": 0})
    for path, sentence in [
        (file, "is a file, not a model folder"),
        (model / "model.json", "is a file, not a model folder"),
        (tmp_path / "none", "no model here; `fanogan fit NORMALS --out RUN` makes one"),
        (tmp_path, "no model here"),
        (run, rf"this run has no model yet; finish it with `fanogan fit --resume {run}`"),
    ]:
        with pytest.raises(BadFolder, match=rf"^{path}: {sentence}"):
            model_folder(path)


def test_a_model_is_replaced(model: Path) -> None:
    write_model(model, tensors(1), {**FACTS, "n": 3}, "another")
    found, facts = read_model(model)
    assert torch.equal(found["G.weight"], tensors(1)["G.weight"])
    assert facts["n"] == 3
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]


def test_a_reader_finds_a_model_at_any_moment_of_a_replacement(model: Path) -> None:
    missed, looks = 0, 0
    done = threading.Event()

    def look() -> None:
        nonlocal missed, looks
        while not done.is_set():
            looks += 1
            missed += not os.path.isdir(model)

    reader = threading.Thread(target=look)
    reader.start()
    for seed in range(40):
        write_model(model, tensors(seed), FACTS, CARD)
    done.set()
    reader.join()
    assert looks > 1000
    if sys.platform == "linux":
        assert missed == 0


def test_replacing_in_two_steps_goes_back_where_the_second_fails(model: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _replaced_in_two_steps(model.with_name(".none"), model)
    assert torch.equal(read_model(model)[0]["G.weight"], tensors()["G.weight"])
    other = model.with_name(".model.new")
    write_model(other, tensors(1), FACTS, CARD)
    _replaced_in_two_steps(other, model)
    assert torch.equal(read_model(model)[0]["G.weight"], tensors(1)["G.weight"])
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]


MODEL_ON_FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from fanogan.storage import write_model
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_model(Path(sys.argv[1]), {"G": torch.zeros(100_000)}, {}, "")
except OSError:
    sys.exit(0)
sys.exit(4)
"""


def test_a_full_disk_leaves_the_model_that_was_there(model: Path) -> None:
    assert run_python(MODEL_ON_FULL_DISK, model).returncode == 0
    assert torch.equal(read_model(model)[0]["G.weight"], tensors()["G.weight"])
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    write_model(folder, tensors(), FACTS, CARD)  # an empty folder may be
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("more")
    for path, sentence in [
        (tmp_path / "thesis", "holds other files, give a new folder"),
        (tmp_path / "file", "is a file, give the path of a folder"),
    ]:
        with pytest.raises(BadFolder, match=sentence):
            write_model(path, tensors(), FACTS, CARD)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more"
    assert left_over(tmp_path) == []


def test_a_link_to_a_model_stays_a_link(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(model)
    write_model(link, tensors(1), FACTS, CARD)
    assert link.is_symlink()
    assert torch.equal(read_model(model)[0]["G.weight"], tensors(1)["G.weight"])
    assert left_over(tmp_path) == []


def test_facts_that_json_cannot_hold_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_model(tmp_path / "model", tensors(), {"threshold": float("nan")}, CARD)
    assert list(tmp_path.iterdir()) == []


# --- run folder ---------------------------------------------------------------------------------


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
        (run.path, False, rf"holds a run already; go on with `fanogan fit --resume {run.path}`"),
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
    run.save_checkpoint("gan", 5, never_stopped)
    at_five = everything(never_stopped)
    learn(never_stopped, 5, seed=2)

    resumed = learner(7)
    assert run.load_checkpoint("gan", resumed) == 5
    assert_equal(everything(resumed), at_five)
    moments = [name for name in at_five if "exp_avg" in name or "mean_square" in name]
    assert len(moments) > 40 and any(bool(at_five[name].any()) for name in moments)
    learn(resumed, 5, seed=2)
    assert_equal(everything(resumed), everything(never_stopped))
    assert left_over(run.path) == []


def test_a_checkpoint_before_the_first_step(run: RunFolder) -> None:
    state = learner(0)
    run.save_checkpoint("gan", 0, state)
    other = learner(1)
    assert run.load_checkpoint("gan", other) == 0
    assert_equal(everything(other), everything(state))


def test_stages_keep_their_own_checkpoints(run: RunFolder) -> None:
    state = learner(0)
    assert run.load_checkpoint("gan", state) == 0
    run.save_checkpoint("gan", 5, state)
    run.save_checkpoint("encoder", 7, state)
    run.save_checkpoint("gan", 6, state)
    assert run.load_checkpoint("gan", state) == 6
    assert run.load_checkpoint("encoder", state) == 7


def test_a_damaged_checkpoint_is_refused(run: RunFolder) -> None:
    state = learner(0)
    learn(state, 1, seed=1)
    run.save_checkpoint("gan", 5, state)
    path = run.path / "checkpoints" / "gan.safetensors"
    whole = path.read_bytes()
    damaged = [whole[:0], whole[:4], whole[:100], whole[:-1], whole + b"\0"]
    for at in flips(len(whole)):
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
    assert run.load_checkpoint("gan", state) == 5


def test_a_checkpoint_of_other_networks_is_refused(run: RunFolder) -> None:
    run.save_checkpoint("gan", 5, learner(0))
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
    assert left_over(run.path) == []


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


def test_the_weights_checksum_is_that_of_the_file(model: Path) -> None:
    body = json.loads((model / "model.json").read_text())
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert body["weights_sha256"] == digest
