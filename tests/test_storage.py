"""What is written to disk is whole or not there, and what is damaged is refused."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fanogan.storage
from fanogan import FAnoGAN
from fanogan.evaluation import evaluate
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import prepare
from fanogan.scans import Scan
from fanogan.scoring import write_results
from fanogan.storage import (
    FORMAT,
    TEMPORARY,
    BadFolder,
    exclusive,
    model_folder,
    read_model_folder,
    write_model_folder,
    write_whole,
)
from fanogan.study import run_study

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
    write_model_folder(folder, tensors(), FACTS, CARD)
    return folder


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return [path.name for path in folder.rglob(".*")]


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# --- one file -----------------------------------------------------------------------------------


HOLDER = """
import os, sys, time
from pathlib import Path
from fanogan.storage import exclusive
with exclusive(Path(sys.argv[1]), OSError()):
    if os.fork() == 0:  # a worker, which lives on when its parent is killed
        print(flush=True)  # it has let go of the lock by now
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_one_process_alone_holds_a_lock_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    lock, busy = tmp_path / ".lock", BadFolder("busy")
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(BadFolder, match="busy"), exclusive(lock, busy):
            pass
        other.kill()
        other.wait()
        assert lock.exists()
        with exclusive(lock, busy):
            pass
        os.killpg(other.pid, signal.SIGKILL)
    assert not lock.exists()


@pytest.mark.parametrize("fault", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(fault, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock, busy = tmp_path / ".lock", BadFolder("busy")
    with exclusive(lock, busy), exclusive(lock, busy):
        pass
    assert not lock.exists()


def test_a_lock_that_is_removed_by_its_holder_is_held_by_one_process_at_a_time(
    tmp_path: Path,
) -> None:
    held = at_once = most = 0

    def work() -> None:
        nonlocal held, at_once, most
        for _ in range(300):
            try:
                with exclusive(tmp_path / ".lock", BadFolder("busy")):
                    at_once += 1
                    most, held = max(most, at_once), held + 1
                    at_once -= 1
            except BadFolder:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held > 300 and most == 1


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
        found, facts = read_model_folder(path)
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
            read_model_folder(model)
    (model / name).write_bytes(whole)
    read_model_folder(model)


def test_a_flip_that_reading_would_not_notice_is_noticed(model: Path) -> None:
    # ...04 and ...05 are the same float64.
    text = (model / "model.json").read_text()
    other = text.replace("0.30000000000000004", "0.30000000000000005")
    assert json.loads(text) == json.loads(other) and text != other
    (model / "model.json").write_text(other)
    with pytest.raises(BadFolder, match=r"damaged, model\.json has changed.*copy the whole folder"):
        read_model_folder(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(model: Path, name: str, keep: float) -> None:
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BadFolder, match=rf"damaged, {name}.*copy the whole folder again"):
        read_model_folder(model)


@pytest.mark.parametrize("text", ["[]", "3", '"format"', "{}", "null", "[NaN]"])
def test_json_that_is_no_model_is_noticed(model: Path, text: str) -> None:
    (model / "model.json").write_text(text)
    with pytest.raises(BadFolder, match=r"damaged, model\.json can't be read"):
        read_model_folder(model)


def test_a_model_without_a_checksum_is_noticed(model: Path) -> None:
    (model / "model.json").write_text('{"format": 1}')
    with pytest.raises(BadFolder, match=r"damaged, model\.json has changed"):
        read_model_folder(model)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    (model.parent / "config.yaml").write_text("seed: 0\n")
    for path in (model, model.parent):
        with pytest.raises(BadFolder, match=rf"{name}.*copy the whole folder again"):
            read_model_folder(path)


def test_a_newer_format_says_which_version_reads_it(model: Path) -> None:
    body = json.loads((model / "model.json").read_text())
    body |= {"format": FORMAT + 1, "fanogan": "9.2.0"}
    (model / "model.json").write_text(json.dumps(body))
    sentence = rf"format {FORMAT + 1}, this version.* up to {FORMAT}; update to fanogan 9\.2\.0 or"
    with pytest.raises(BadFolder, match=sentence):
        read_model_folder(model)


def test_what_is_no_model_folder(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "scan.png"
    file.touch()
    run = tmp_path / "unfinished"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
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
    write_model_folder(model, tensors(1), {**FACTS, "n": 3}, "another")
    found, facts = read_model_folder(model)
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
        write_model_folder(model, tensors(seed), FACTS, CARD)
    done.set()
    reader.join()
    assert looks > 1000
    if sys.platform == "linux":
        assert missed == 0


KILLED_AT_EACH_STEP = """
import os, signal, sys
from pathlib import Path
import torch
from fanogan import storage

folder, how = Path(sys.argv[1]), sys.argv[2]
left = 0  # steps until the process is killed

def counted(step):
    def counting(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return step(*arguments, **options)
    return counting

os.replace = counted(os.replace)
storage._exchanged = counted(storage._exchanged) if how == "exchanged" else lambda *_: False
storage.shutil.rmtree = counted(storage.shutil.rmtree)
for killed in range(20):
    child = os.fork()
    if child == 0:
        left = killed
        storage.write_model_folder(folder, {"G.weight": torch.ones(3)}, {}, "")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if folder.exists():
        storage.read_model_folder(folder)
    else:
        print("no model")
        (replaced,) = folder.parent.glob(".model.*.old")
        replaced.rename(folder)
    if status == 0:
        break
assert 4 < killed < 19  # three files, the exchange, what is removed
"""


@pytest.mark.parametrize(("how", "missing"), [("exchanged", 0), ("in two steps", 1)])
def test_a_process_killed_at_any_step_leaves_a_model_where_folders_can_be_exchanged(
    model: Path, how: str, missing: int
) -> None:
    if how == "exchanged" and sys.platform != "linux":
        pytest.skip("only Linux exchanges two folders in a single step")
    ended = run_python(KILLED_AT_EACH_STEP, model, how)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("no model") == missing


def test_replacing_in_two_steps_goes_back_where_the_second_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanogan.storage, "_exchanged", lambda *_: False)
    write_model_folder(model, tensors(1), FACTS, CARD)
    assert torch.equal(read_model_folder(model)[0]["G.weight"], tensors(1)["G.weight"])
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]
    rename, renamed = os.replace, []

    def failing(old: Path, new: Path) -> None:
        renamed.append(new)
        if new == model and renamed.count(new) == 1:
            raise OSError("the disk is gone")
        rename(old, new)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        write_model_folder(model, tensors(2), FACTS, CARD)
    assert torch.equal(read_model_folder(model)[0]["G.weight"], tensors(1)["G.weight"])
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]


MODEL_ON_FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from fanogan.storage import write_model_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_model_folder(Path(sys.argv[1]), {"G": torch.zeros(100_000)}, {}, "")
except OSError:
    sys.exit(0)
sys.exit(4)
"""


def test_a_full_disk_leaves_the_model_that_was_there(model: Path) -> None:
    assert run_python(MODEL_ON_FULL_DISK, model).returncode == 0
    assert torch.equal(read_model_folder(model)[0]["G.weight"], tensors()["G.weight"])
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    write_model_folder(folder, tensors(), FACTS, CARD)  # an empty folder may be
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("more")
    for path, sentence in [
        (tmp_path / "thesis", "holds other files, give a new folder"),
        (tmp_path / "file", "is a file, give the path of a folder"),
    ]:
        with pytest.raises(BadFolder, match=sentence):
            write_model_folder(path, tensors(), FACTS, CARD)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more"
    assert left_over(tmp_path) == []


def test_a_link_to_a_model_stays_a_link(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(model)
    write_model_folder(link, tensors(1), FACTS, CARD)
    assert link.is_symlink()
    assert torch.equal(read_model_folder(model)[0]["G.weight"], tensors(1)["G.weight"])
    assert left_over(tmp_path) == []


def test_facts_that_json_cannot_hold_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_model_folder(tmp_path / "model", tensors(), {"threshold": float("nan")}, CARD)
    assert list(tmp_path.iterdir()) == []


def test_the_weights_checksum_is_that_of_the_file(model: Path) -> None:
    body = json.loads((model / "model.json").read_text())
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert body["weights_sha256"] == digest


# --- what a killed process has left ---------------------------------------------------------------

KILLED_BEFORE_RENAMING = """
import os, signal, sys
from pathlib import Path
from fanogan import storage

os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage.write_whole(Path(sys.argv[1]), b"data")
"""


def leave_unfinished(folder: Path) -> None:
    """Leave in a folder what a process leaves that is killed while it writes a file there."""
    ended = run_python(KILLED_BEFORE_RENAMING, folder / ("n" * 251 + ".txt"))
    assert ended.returncode == -signal.SIGKILL
    (left,) = (path for path in folder.iterdir() if path.name.startswith(TEMPORARY))
    (folder / f"{TEMPORARY}folder").mkdir()
    (folder / f"{TEMPORARY}folder" / "half.txt").write_text("half")
    (folder / "mine.txt").write_text("my own")
    assert left.read_bytes() == b"data"


def test_what_a_killed_command_left_goes_at_the_next_start(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 16, 16)).astype(np.uint8)
    recipe = load_recipe("smoke").but(
        critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
    )
    model = FAnoGAN(recipe).fit(images, out=tmp_path / "run").model
    eye = make_phantom(1, shape=(3, 240, 72), spacing=(0.5, 0.00387, 0.022))
    scan = Scan(eye.pixels, "eye", "eye", is_volume=True)
    prepare(scan, tmp_path / "store.zarr")
    for divisor, part in enumerate(("train", "normal", "anomalous"), 1):
        (tmp_path / "data" / part).mkdir(parents=True)
        for index, image in enumerate(images):
            np.save(tmp_path / "data" / part / f"{index}.npy", image // divisor)

    commands = {
        "run": lambda out: FAnoGAN(recipe).fit(images, out=out, resume=True),
        "scores": lambda out: write_results(model, images, out),
        "evaluation": lambda out: evaluate(model, images // 2, 255 - images, out),
        "store.zarr": lambda out: prepare(scan, out),
        "study": lambda out: run_study(
            tmp_path / "data", out, recipe=recipe, seeds=1, systems=["pca"]
        ),
    }
    for name, command in commands.items():
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        leave_unfinished(out)
        if name in ("run", "study"):
            (out / "samples").mkdir(exist_ok=True)
            leave_unfinished(out / "samples")
        command(out)
        assert not list(out.rglob(f"{TEMPORARY}*")), name
        assert (out / "mine.txt").read_text() == "my own"
