"""Bad input, all in one table: one sentence, an exit status that isn't 0, nothing half-written."""

import contextlib
import ctypes
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fanogan import FAnoGAN
from fanogan.cli.parser import main
from fanogan.recipes import load_recipe

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, checkpoint_minutes=5
)


def grey(rows=20, columns=24, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, columns)).astype(np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def good_images(folder, count=6, seed=0):
    for index in range(count):
        save(grey(seed=seed + index), folder / f"{index}.png")
    return folder


def png_bomb(path, side=30_000):
    """A valid PNG of side × side zeros: a few hundred kilobytes on disk, 900 MB once decoded."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    # A hundredth of it is compressed, and repeated. Of n zeros the checksum is n and 1.
    packer = zlib.compressobj(9, wbits=-15)
    part = packer.compress(bytes((side + 1) * side // 100)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">HH", (side + 1) * side % 65_521, 1)
    packed = b"\x78\xda" + 100 * part + packer.flush() + checksum
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@dataclass
class Scene:
    """What a row of the table prepares its folders in."""

    path: Path
    run: Path

    @property
    def out(self):
        return self.path / "out"

    def images(self):
        return good_images(self.path / "images")

    def fit(self, images=None, **options):
        # No image may be learnt from by mistake for long.
        arguments = ["fit", *([str(images)] if images else [])]
        return self._with(arguments, {"recipe": "smoke", "out": self.out} | options)

    def score(self, images, model=None, **options):
        arguments = ["score", str(model or self.run), str(images)]
        return self._with(arguments, {"out": self.out} | options)

    def evaluate(self, **options):
        good_images(self.path / "normal", seed=100)
        good_images(self.path / "ill", seed=200)
        options = {"normal": self.path / "normal", "anomalous": self.path / "ill"} | options
        return self._with(["evaluate", str(self.run)], {"out": self.out} | options)

    def _with(self, arguments, options):
        for name, value in options.items():
            if value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments

    def model_copy(self):
        return Path(shutil.copytree(self.run / "model", self.path / "model"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose model sees windows of 16×16 in grey images of 20×24."""
    folder = tmp_path_factory.mktemp("bad input")
    FAnoGAN(TINY).fit(good_images(folder / "normals", 8), out=folder / "run")
    return folder / "run"


@pytest.fixture
def scene(tmp_path, run):
    return Scene(tmp_path, run)


TABLE = {}


def row(name, *said):
    """Enter a scene into the table: what it returns is typed, and answered by all of ``said``."""

    def enter(prepare):
        TABLE[name] = (prepare, said)
        return prepare

    return enter


# --- folders and files of images ----------------------------------------------------------------


@row("fit: no such path", "nowhere does not exist", "check the spelling")
def _(s):
    return s.fit(s.path / "nowhere")


@row("fit: empty folder", "no images in", "empty", "reads .png")
def _(s):
    (s.path / "empty").mkdir()
    return s.fit(s.path / "empty")


@row("fit: a file of no known format", "notes.txt is of no known format")
def _(s):
    (s.path / "notes.txt").write_text("a note")
    return s.fit(s.path / "notes.txt")


@row("fit: one image", "at least two subjects are needed, 1 subject found", "add images")
def _(s):
    return s.fit(save(grey(), s.path / "one.png"))


@row("fit: mixed sizes, one below the window", "small.png has 12×24", "a smaller window")
def _(s):
    save(grey(12, 24), s.images() / "small.png")
    return s.fit(s.path / "images")


@row("fit: mixed channels", "colour.png has 3 channels", "train on images of one kind")
def _(s):
    save(np.dstack([grey(seed=i) for i in range(3)]), s.images() / "colour.png")
    return s.fit(s.path / "images")


@row("fit: mixed bit depths", "deep.png is uint16", "one bit depth")
def _(s):
    save(grey().astype(np.uint16) * 200, s.images() / "deep.png")
    return s.fit(s.path / "images")


@row("fit: truncated PNG", "cut.png is damaged or cut short", "--skip-bad")
def _(s):
    path = save(grey(200, 200), s.images() / "cut.png")
    path.write_bytes(path.read_bytes()[:5000])
    return s.fit(s.path / "images")


@row("fit: NaN array", "nan.npy holds NaN", "replace them by numbers")
def _(s):
    np.save(s.path / "nan.npy", np.where(grey() < 9, np.nan, grey())[None])
    return s.fit(s.path / "nan.npy")


@row("fit: constant image", "flat.png has the same value in every pixel", "--skip-bad")
def _(s):
    save(np.full((20, 24), 7, np.uint8), s.images() / "flat.png")
    return s.fit(s.path / "images")


@row("fit: constant images alone", "0.png has the same value in every pixel", "replace it")
def _(s):
    for index in range(3):
        save(np.full((20, 24), 7, np.uint8), s.path / "flat" / f"{index}.png")
    return s.fit(s.path / "flat")


@row("fit: decompression bomb", "bomb.png declares a decompression bomb's size", "crop or tile it")
def _(s):
    png_bomb(s.images() / "bomb.png")
    return s.fit(s.path / "images")


@row("fit: text called PNG", "text.png is not an image", "--skip-bad")
def _(s):
    (s.images() / "text.png").write_text("no image")
    return s.fit(s.path / "images")


@row("fit: empty file", "empty.png is empty", "copy it again")
def _(s):
    (s.images() / "empty.png").touch()
    return s.fit(s.path / "images")


@row("fit: nothing but bad files under --skip-bad", "none of 1 images", "text.png is not an image")
def _(s):
    (s.path / "text.png").write_text("no image")
    return [*s.fit(s.path / "text.png"), "--skip-bad"]


# --- subjects -----------------------------------------------------------------------------------


@row("fit: a regex that matches no name", "0.png does not match groups '^patient'")
def _(s):
    return s.fit(s.images(), groups="^patient")


@row("fit: no regex", "groups '(' is no regular expression", "correct it")
def _(s):
    return s.fit(s.images(), groups="(")


@row("fit: a table that lacks a file", "1.png is not listed in", "subjects.csv: add a row")
def _(s):
    (s.path / "subjects.csv").write_text("path,subject\n0.png,ann\n")
    return s.fit(s.images(), groups=s.path / "subjects.csv")


@row("fit: no such table", "missing.csv cannot be read", "check the path")
def _(s):
    return s.fit(s.images(), groups=s.path / "missing.csv")


@row("fit: one subject", "at least two subjects are needed", "--groups")
def _(s):
    return s.fit(s.images(), groups="png")


# --- recipes, devices, rates --------------------------------------------------------------------


@row(
    "fit: unknown recipe",
    "no recipe 'big'",
    "give one of demo, digits, overnight, paper, phantom, signal, signal_overnight, small",
)
def _(s):
    return s.fit(s.images(), recipe="big")


@row("fit: recipe with an unknown field", "recipe mine: no such field as widht", "the fields are")
def _(s):
    (s.path / "mine.yaml").write_text("base: smoke\nwidht: 8\n")
    return s.fit(s.images(), recipe=s.path / "mine.yaml")


@row("fit: recipe with impossible sides", "recipe mine", "30")
def _(s):
    (s.path / "mine.yaml").write_text("base: smoke\nsides: 30\n")
    return s.fit(s.images(), recipe=s.path / "mine.yaml")


@row("fit: unknown device", "no device 'abacus'", "give auto, cpu, cuda or mps")
def _(s):
    return s.fit(s.images(), device="abacus")


@row("fit: more devices than share a batch", "can't be shared by 5 devices", "divides it")
def _(s):
    return s.fit(s.images(), devices=5)


@row("score: alpha 0", "--alpha is 0", "give a false-positive rate between 0 and 1")
def _(s):
    return s.score(s.images(), alpha=0)


@row("evaluate: alpha 2", "--alpha is 2", "give a false-positive rate between 0 and 1")
def _(s):
    return s.evaluate(alpha=2)


if not torch.cuda.is_available():

    @row("fit: no GPU", "no cuda device on this machine", "--device cpu")
    def _(s):
        return s.fit(s.images(), device="cuda")

    @row("fit: no second GPU", "no cuda device on this machine", "--device cpu")
    def _(s):
        return s.fit(s.images(), device="cuda:1")

    @row("score: no GPU", "no cuda device on this machine", "--device cpu")
    def _(s):
        return s.score(s.images(), device="cuda")


# --- run folders --------------------------------------------------------------------------------


@row("fit: no images", "no normal images", "fanogan fit NORMALS --out RUN")
def _(s):
    return s.fit()


@row("fit: no run folder", "no run folder", "give --out RUN")
def _(s):
    return s.fit(s.images(), out=None)


@row("fit: a file where a folder is wanted", "file: is a file", "give --out a folder")
def _(s):
    (s.path / "file").touch()
    return s.fit(s.images(), out=s.path / "file")


@row("fit: a file above the run folder", "file", "not a directory; give a folder")
def _(s):
    (s.path / "file").touch()
    return s.fit(s.images(), out=s.path / "file" / "run")


@row("fit: a run that exists", "run: holds a run already", "fanogan fit --resume")
def _(s):
    return s.fit(s.images(), out=s.run)


@row("fit: resume without a run", "images: no run here to resume")
def _(s):
    return ["fit", "--resume", str(s.images())]


@row("fit: resume with another recipe", "run: a run is resumed as it was begun", "without images")
def _(s):
    return ["fit", "--resume", str(s.run), "--recipe", "paper"]


@row("fit: resume a damaged run", "begun: damaged, its config.yaml has no 'recipe'")
def _(s):
    (s.path / "begun").mkdir()
    (s.path / "begun" / "config.yaml").write_text("seed: 0\n")
    return ["fit", "--resume", str(s.path / "begun")]


@row("fit: resume a run begun with arrays", "begun in Python", "resume it there")
def _(s):
    FAnoGAN(TINY).fit(np.stack([grey(seed=i) for i in range(4)]), out=s.path / "begun")
    return ["fit", "--resume", str(s.path / "begun")]


# --- model folders ------------------------------------------------------------------------------


@row("score: no model", "images: no model here", "makes one")
def _(s):
    return s.score(s.images(), model=s.path / "images")


@row("score: a file for a model", "file: is a file, not a model folder")
def _(s):
    (s.path / "file").touch()
    return s.score(s.images(), model=s.path / "file")


@row("score: a run that has no model yet", "begun: this run has no model yet", "--resume")
def _(s):
    (s.path / "begun").mkdir()
    (s.path / "begun" / "config.yaml").write_text("seed: 0\n")
    return s.score(s.images(), model=s.path / "begun")


for file in ("model.json", "model.safetensors"):

    @row(f"score: a byte flipped in {file}", "model: damaged", file, "copy the whole folder again")
    def _(s, file=file):
        flip_a_byte(s.model_copy() / file)
        return s.score(s.images(), model=s.path / "model")

    @row(f"score: {file} is missing", "model: ", file, "copy the whole folder again")
    def _(s, file=file):
        (s.model_copy() / file).unlink()
        return s.score(s.images(), model=s.path / "model")


# --- images that don't fit the model ------------------------------------------------------------


@row("score: no images", "no images", "fanogan score MODEL IMAGES")
def _(s):
    return ["score", str(s.run)]


@row("score: no such path", "nowhere does not exist", "check the spelling")
def _(s):
    return s.score(s.path / "nowhere")


@row("score: truncated PNG", "cut.png is damaged or cut short", "--skip-bad")
def _(s):
    path = save(grey(200, 200), s.images() / "z" / "cut.png")
    path.write_bytes(path.read_bytes()[:5000])
    return s.score(s.path / "images")


@row("score: other channels", "colour.png is RGB", "trained on grey images: convert it")
def _(s):
    save(np.dstack([grey(seed=i) for i in range(3)]), s.images() / "colour.png")
    return s.score(s.path / "images")


@row("score: below the window", "small.png has 9×24 pixels", "give the image in the size")
def _(s):
    save(grey(9, 24), s.images() / "small.png")
    return s.score(s.path / "images")


@row("score: a file where a folder is wanted", "file: file exists; give a folder")
def _(s):
    (s.path / "file").touch()
    return s.score(s.images(), out=s.path / "file")


# --- masks --------------------------------------------------------------------------------------


@row("evaluate: missing mask", "5.png has no mask", "put one of the same name")
def _(s):
    good_images(s.path / "masks", count=5)
    return s.evaluate(masks=s.path / "masks")


@row("evaluate: mask of another size", "the mask of 2.png has 20×25", "masks of the images' sizes")
def _(s):
    save(grey(20, 25), good_images(s.path / "masks") / "2.png")
    return s.evaluate(masks=s.path / "masks")


@row(
    "evaluate: training images",
    "of 6 normal images 5 were trained on and 1 calibrated on",
    "leave them out; evaluate --allow-seen takes",
)
def _(s):
    return s.evaluate(normal=s.images())


@row("evaluate: one folder for both labels", "0.png among the normal images", "give each image one")
def _(s):
    return s.evaluate(anomalous=s.path / "normal")


@row("evaluate: empty folder of normals", "no images in", "normals")
def _(s):
    (s.path / "normals").mkdir()
    return s.evaluate(normal=s.path / "normals")


# ------------------------------------------------------------------------------------------------


def assert_nothing_half_written(out):
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert not any(Path(name).name.startswith(".") for name in left), left
    assert not left & {"scores.csv", "metrics.json", "report.html"}
    assert not {name for name in left if name.startswith(("model", "maps", "overlays"))}


def assert_one_sentence(stderr, said):
    assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert stderr.startswith("fanogan: ")
    assert "Traceback" not in stderr
    for words in said:
        assert words in stderr


def refusal(arguments, capsys):
    """The sentence that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_answered_in_one_sentence(name, scene, capsys):
    prepare, said = TABLE[name]
    arguments = prepare(scene)
    assert_one_sentence(refusal(arguments, capsys), said)
    assert_nothing_half_written(scene.out)


# --- no permission, no room ---------------------------------------------------------------------


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


@contextlib.contextmanager
def without_privileges():
    """Root may read and write everywhere; without two capabilities it may not."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _CapabilityHeader(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(ctypes.byref(header), sets) == 0


@contextlib.contextmanager
def small_files(most):
    """No file may become larger, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    size = f"size={kilobytes}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("verb", ["fit", "score", "evaluate"])
def test_no_permission(verb, scene, capsys):
    closed = scene.path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    images = [] if verb == "evaluate" else [scene.images()]
    arguments = getattr(scene, verb)(*images, out=closed / "out")
    with without_privileges():
        stderr = refusal(arguments, capsys)
    assert_one_sentence(stderr, ["closed/out", "permission denied; check its permissions"])
    assert list(closed.iterdir()) == []


def test_an_image_that_may_not_be_read(scene, capsys):
    (scene.images() / "3.png").chmod(0)
    with without_privileges():
        stderr = refusal(scene.score(scene.path / "images"), capsys)
    assert_one_sentence(stderr, ["3.png may not be read", "change its permissions"])
    assert_nothing_half_written(scene.out)


@pytest.mark.parametrize("verb", ["fit", "score", "evaluate"])
def test_no_room_for_a_file(verb, scene, capsys):
    images = [] if verb == "evaluate" else [scene.images()]
    arguments = getattr(scene, verb)(*images)
    with small_files(3000):
        stderr = refusal(arguments, capsys)
    assert_one_sentence(stderr, ["/out", "file too large; raise the limit"])
    assert_nothing_half_written(scene.out)


@pytest.mark.parametrize("verb", ["fit", "score", "evaluate"])
def test_no_room_on_the_disk(verb, scene, capsys):
    disk = scene.path / "disk"
    disk.mkdir()
    images = [] if verb == "evaluate" else [scene.images()]
    arguments = getattr(scene, verb)(*images, out=disk / "out")
    with small_disk(disk, 16):
        stderr = refusal(arguments, capsys)
        assert_one_sentence(stderr, ["disk/out", "no space left on device; make room"])
        assert_nothing_half_written(disk / "out")


# --- --skip-bad ---------------------------------------------------------------------------------


def test_fit_skips_bad_files_by_name(scene, capsys, caplog):
    (scene.images() / "text.png").write_text("no image")
    recipe = scene.path / "tiny.yaml"
    recipe.write_text("base: smoke\ncritic_updates: 2\nencoder_updates: 2\n")
    main([*scene.fit(scene.path / "images", recipe=recipe), "--skip-bad"])
    shown = capsys.readouterr()
    assert "text.png is not an image" in caplog.text
    assert "6 images of 6 subjects" in shown.out
    assert shown.err == ""
    assert (scene.out / "model" / "model.json").exists()


def test_score_skips_bad_files_by_name(scene):
    """In a process of its own, for what is really shown where."""
    (scene.images() / "text.png").write_text("no image")
    (scene.path / "images" / "empty.png").touch()
    save(grey(9, 24), scene.path / "images" / "small.png")
    cut = scene.path / "images" / "cut.tif"
    tifffile.imwrite(cut, np.stack([grey(seed=page) for page in range(4)]), imagej=True)
    cut.write_bytes(cut.read_bytes()[:500])
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "fanogan"),
            *(*scene.score(scene.path / "images"), "--skip-bad"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    page = (scene.out / "report.html").read_text()
    for said in (
        *("text.png is not an image", "empty.png is empty", "small.png has 9×24 pixels"),
        "cut.tif is damaged or cut short",
    ):
        assert said in ended.stdout
        assert said in page
    assert "tifffile" not in ended.stdout  # which has its own words
    assert len((scene.out / "scores.csv").read_text().splitlines()) == 1 + 6
