"""A large picture among small ones: how much memory it takes, and what is said if it is short."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fanogan import FAnoGAN
from fanogan.recipes import load_recipe

SIDE = 3000
TINY = load_recipe("smoke").but(critic_updates=2, encoder_updates=2, reestimate_batch_norm=False)
SCORE = """
import resource, sys
from fanogan.cli import main
model, images, out, memory = sys.argv[1:]
def used(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith(name))
def score(images, out):
    main(["score", model, images, "--out", out, "--skip-bad"])
score(f"{images}/small", f"{out}/small")  # all that is imported and prepared once
if memory != "all":
    limit = used("VmSize") + int(memory) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = used("VmRSS")
score(images, f"{out}/all")
print("MB", used("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six small images, and three large ones of equal size."""
    folder, random = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    (folder / "small").mkdir()
    for number in range(6):
        image = Image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8))
        image.save(folder / "small" / f"{number}.png")
        if number < 3:
            image.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    normals = np.random.default_rng(1).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("model")
    FAnoGAN(recipe=TINY).fit(normals).save(folder)
    return folder


def scored(model, scans, out, memory):
    command = [sys.executable, "-c", SCORE, *map(str, (model, scans, out, memory))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_large_images_take_a_bounded_multiple_of_their_memory(model, scans, tmp_path):
    """Float maps in the size of the image, one image at a time, and not 64 of them."""
    done = scored(model, scans, tmp_path, "all")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) << 20 < 60 * SIDE**2


def test_out_of_memory_names_the_image_and_skips_it(model, scans, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(scans / "small", folder / "small")
    with Image.open(scans / "0.png") as image:
        image.resize((6000, 6000), Image.Resampling.NEAREST).save(folder / "huge.png")
    done = scored(model, folder, tmp_path, 200)
    assert done.returncode == 0, done.stderr
    assert "skipped: huge.png does not fit into memory" in done.stdout
    with open(tmp_path / "all" / "scores.csv", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {f"small/{number}.png" for number in range(6)}
    assert "does not fit into memory" in (tmp_path / "all" / "report.html").read_text()
