"""Scoring that is stopped is resumed, and ends as if never stopped; memory stays flat."""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan import FAnoGAN
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import FlatSpace, prepare
from fanogan.scans import BadScan
from fanogan.scoring import Table, images_done, score, write_results
from fanogan.scoring.results_folder import WRITTEN
from fanogan.storage import BadFolder

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
COUNT = 150
RUN_MAIN = [sys.executable, "-m", "fanogan"]


class Stop(Exception):
    """What stops a scoring in these tests."""


def images_of(count, side=16, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side)).astype(np.uint8)


def save_images(folder, count, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images_of(count, **options)):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def change(path):
    """Put another image in the place of one."""
    Image.fromarray(images_of(1, seed=99)[0]).save(path)


def stopping_after(count):
    """An ``on_result`` that stops the scoring, and the names that it saw."""
    seen = []

    def on_result(result):
        seen.append(result.name)
        if len(seen) == count:
            raise Stop

    return seen, on_result


def stopped(model, images, out, after, **options):
    """Score until so many results have been seen; returns how many images are done."""
    with pytest.raises(Stop):
        write_results(model, images, out, on_result=stopping_after(after)[1], **options)
    return images_done(out)


def killed(model, images, out, after, **options):
    """Leave in ``out`` what a process leaves that is killed when so many results have passed."""
    count = itertools.count(1)

    def on_result(result):
        if next(count) == after:
            shutil.copytree(out.with_name("alive"), out)
            raise Stop

    with pytest.raises(Stop):
        write_results(model, images, out.with_name("alive"), on_result=on_result, **options)


@pytest.fixture(scope="module")
def model():
    """Sees images of 16×16 whole."""
    return FAnoGAN(TINY).fit(images_of(40)).model


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """150 images, a volume that stands among them, and what an undisturbed scoring leaves."""
    folder = tmp_path_factory.mktemp("archive")
    save_images(folder / "scans", COUNT, seed=1)
    tifffile.imwrite(folder / "scans" / "80b.tif", images_of(3, seed=2), photometric="minisblack")
    return folder / "scans"


@pytest.fixture(scope="module")
def expected(model, archive):
    out = archive.parent / "undisturbed"
    write_results(model, archive, out)
    return contents(out)


# Batches end after 64, 81 and 84 (the volume) and 148 images of 153.
@pytest.mark.parametrize(("after", "done"), [(64, 0), (83, 81), (154, 148)])
def test_a_stopped_scoring_goes_on(model, archive, expected, tmp_path, after, done):
    out = tmp_path / "out"
    assert stopped(model, archive, out, after) == done
    assert out.exists() == (done > 0)
    seen = []
    rows = write_results(model, archive, out, on_result=lambda result: seen.append(result))
    assert sum(result.unit == "image" for result in seen) == COUNT + 3 - done
    assert contents(out) == expected
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) == COUNT + 4


@pytest.mark.parametrize("after", [1, 64, 65, 82, 84, 85, 120, 149, 154])
def test_a_killed_scoring_is_resumed(model, archive, expected, tmp_path, after):
    out = tmp_path / "out"
    killed(model, archive, out, after)
    ends = {64: 64, 81: 81, 85: 84, 149: 148}  # results, of which one is the volume's: images
    done = max((images for end, images in ends.items() if end < after), default=0)
    assert images_done(out) == done
    seen = []
    write_results(model, archive, out, on_result=seen.append)
    assert sum(result.unit == "image" for result in seen) == COUNT + 3 - done
    assert contents(out) == expected


def test_a_batch_half_written_is_scored_again(model, archive, expected, tmp_path):
    out = tmp_path / "out"
    killed(model, archive, out, 100)
    log = out / ".unfinished" / "rows.sqlite-wal"
    os.truncate(log, log.stat().st_size - 100)
    assert stopped(model, archive, out, 1) == 81
    write_results(model, archive, out)
    assert contents(out) == expected


@pytest.mark.parametrize("damage", ["beginning", "middle", "end", "a row"])
def test_a_damaged_beginning_is_dropped(model, archive, expected, tmp_path, caplog, damage):
    out = tmp_path / "out"
    assert stopped(model, archive, out, 100) == 84
    database = out / ".unfinished" / "rows.sqlite"
    size = database.stat().st_size
    if damage == "end":
        os.truncate(database, size // 2)
    elif damage == "a row":
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE rows SET row = substr(row, 1, 20) WHERE id = 70")
    else:
        with database.open("r+b") as file:
            file.seek(0 if damage == "beginning" else size // 2 // 4096 * 4096)
            file.write(bytes(4096))
    write_results(model, archive, out)
    assert caplog.text.count("is damaged, and is dropped") == 1
    assert contents(out) == expected


@pytest.mark.parametrize("left", [b"", None])
def test_maps_that_a_power_cut_lost_are_made_again(model, archive, expected, tmp_path, left):
    out = tmp_path / "out"
    assert stopped(model, archive, out, 100) == 84
    lost = out / ".unfinished" / "results" / "maps" / "70.png.tif"
    lost.unlink() if left is None else lost.write_bytes(left)
    assert stopped(model, archive, out, 1) == 64
    write_results(model, archive, out)
    assert contents(out) == expected


@contextlib.contextmanager
def failing_at(place):
    """Let the disk fail as the results come into their folder, when one of them does."""

    def replace(source, target, move=os.replace):
        if str(target).endswith(place):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        move(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield


def test_results_half_moved_are_moved_on(model, archive, expected, tmp_path):
    out = tmp_path / "out"
    with failing_at("out/overlays/5.png.png"), pytest.raises(OSError, match="out"):
        write_results(model, archive, out)
    assert (out / "maps" / "5.png.tif").exists()  # maps are there by then
    seen = []
    write_results(model, archive, out, on_result=seen.append)
    assert seen == []
    assert contents(out) == expected


@pytest.mark.parametrize("other", ["model", "images"])
def test_another_job_begins_anew(model, archive, tmp_path, caplog, other):
    out = tmp_path / "out"
    save_images(tmp_path / "others", 66, seed=3)
    assert stopped(model, archive, out, 70, scores_only=True) == 64
    if other == "model":
        model = FAnoGAN(TINY, seed=1).fit(images_of(40)).model
    else:  # of the same names
        archive = tmp_path / "others"
    write_results(model, archive, out, scores_only=True)
    assert caplog.text.count("the beginning of another scoring") == 1
    write_results(model, archive, tmp_path / "fresh", scores_only=True)
    assert contents(out) == contents(tmp_path / "fresh")


def test_arrays_have_no_name_and_begin_anew(model, tmp_path):
    images = images_of(100)
    assert stopped(model, images, tmp_path / "out", 70) == 0
    assert not (tmp_path / "out").exists()
    scores = [float(row["score"]) for row in write_results(model, images, tmp_path / "out")]
    assert scores == sorted(score(model, images).total, reverse=True)


@pytest.mark.parametrize("remedy", ["skip", "remove"])
def test_after_a_bad_file_it_goes_on(model, tmp_path, remedy):
    folder, out = save_images(tmp_path / "scans", 140), tmp_path / "out"
    bad = [folder / "20.png", folder / "100.png", folder / "139.png"]
    for path in bad[: 1 if remedy == "remove" else 3]:
        path.write_bytes(b"no image")
    skip = remedy == "skip"
    if skip:
        assert stopped(model, folder, out, 70, skip_bad=True, scores_only=True) == 64
    else:
        bad[0].unlink()
        bad[1].write_bytes(b"no image")
        with pytest.raises(BadScan, match=r"100\.png"):
            write_results(model, folder, out, scores_only=True)
        assert images_done(out) == 64
        bad[1].unlink()
    write_results(model, folder, out, skip_bad=skip, scores_only=True)
    write_results(model, folder, tmp_path / "fresh", skip_bad=skip, scores_only=True)
    assert contents(out) == contents(tmp_path / "fresh")
    page = (out / "report.html").read_text()
    assert len(re.findall(r"skipped: \S*(20|100|139)\.png", page)) == (3 if skip else 0)


def test_scores_only(model, archive, expected, tmp_path):
    out = tmp_path / "out"
    assert stopped(model, archive, out, 70, scores_only=True) == 64
    write_results(model, archive, out, scores_only=True)
    names = ("scores.csv", "report.html", "drift.json", "scans.csv")
    written = contents(out)
    listed = [json.loads(line) for line in written.pop(WRITTEN).splitlines()]
    about = json.loads(written["about.json"])
    assert about == json.loads(expected["about.json"]) | {"scores_only": True}
    same = {name: expected[name] for name in names} | {"about.json": written["about.json"]}
    assert written == same
    assert {name: hashed for name, hashed in listed} == {
        name: hashlib.sha256(content).hexdigest() for name, content in same.items()
    }


def test_two_at_a_time_are_refused(model, archive, tmp_path):
    def also(result):
        with pytest.raises(BadFolder, match="another process is writing into it"):
            write_results(model, archive, tmp_path / "out")
        raise Stop

    with pytest.raises(Stop):
        write_results(model, archive, tmp_path / "out", on_result=also)


def test_frames_of_an_array_file_are_left_out_too(model, tmp_path):
    np.save(tmp_path / "many.npy", images_of(100))
    assert stopped(model, tmp_path / "many.npy", tmp_path / "out", 70) == 64
    seen = []
    write_results(model, tmp_path / "many.npy", tmp_path / "out", on_result=seen.append)
    assert [result.name for result in seen] == [f"many.npy#{index}" for index in range(64, 100)]


def test_rows_are_read_as_they_are_asked_for(archive, expected):
    rows = Table(archive.parent / "undisturbed" / "scores.csv", COUNT + 4)
    table = list(csv.DictReader(expected["scores.csv"].decode().splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in table]
    assert [row["name"] for row in rows[2:5]] == [row["name"] for row in table[2:5]]
    assert rows[-1]["name"] == table[-1]["name"] and rows[0]["windows"] == 1
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_memory_does_not_grow_with_the_images(model, tmp_path):
    np.save(tmp_path / "many.npy", images_of(1000))
    used = []

    def on_result(result):
        used.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    write_results(
        model, tmp_path / "many.npy", tmp_path / "out", scores_only=True, on_result=on_result
    )
    tracemalloc.stop()
    assert len(used) == 1000
    each = (used[64 * 14] - used[64 * 6]) / (64 * 8)  # as far into a batch; a row: 1,000
    assert each < 400, f"{each:.0f} bytes an image, beyond its place and its score"


# --- what changes while a scoring is stopped ------------------------------------------------------


def subjects(folder, of):
    """A groups table of all files."""
    lines = [f"{path.name},{of.get(path.name, 'one')}" for path in sorted(folder.iterdir())]
    (folder.parent / "groups.csv").write_text("\n".join(["path,subject", *lines]))
    return str(folder.parent / "groups.csv")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *(("3.png", "replaced"), ("70.png", "gone"), ("80b.tif", "replaced"), ("80b.tif", "gone")),
        *(("80.png", "added"), ("149.png", "added"), ("63.png", "another subject")),
    ],
)
def test_what_changed_is_scored_anew(model, archive, tmp_path, name, what, caplog):
    scans, out = shutil.copytree(archive, tmp_path / "scans"), tmp_path / "out"
    groups = subjects(scans, {})
    # Batches end after 64, 81 and 84 (the volume) and 148 images: two, three or four are done.
    killed(model, scans, out, 110, groups=groups)
    if what == "replaced":
        change(scans / name)
    elif what == "gone":
        (scans / name).unlink()
    elif what == "added":
        change(scans / f"{name}+.png")
    groups = subjects(scans, {name: "another"} if what == "another subject" else {})
    seen = []
    write_results(model, scans, out, groups=groups, on_result=seen.append)
    write_results(model, scans, tmp_path / "fresh", groups=groups)
    assert contents(out) == contents(tmp_path / "fresh")
    assert "has changed, was added or is gone since this scoring was begun" in caplog.text
    assert (len(seen) >= COUNT) == (name in ("3.png", "63.png"))  # of the first batch


def test_a_replaced_file_of_the_same_size_and_an_older_time_is_scored_anew(model, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for index, image in enumerate(images_of(70)):
        np.save(scans / f"{index}.npy", image)
    assert stopped(model, scans, out, 70, scores_only=True) == 64
    np.save(scans / "5.npy", images_of(1, seed=99)[0])
    os.utime(scans / "5.npy", (0, 0))
    write_results(model, scans, out, scores_only=True)
    write_results(model, scans, tmp_path / "fresh", scores_only=True)
    assert contents(out) == contents(tmp_path / "fresh")


def test_what_changed_after_all_was_scored_is_scored_anew(model, archive, tmp_path):
    scans, out = shutil.copytree(archive, tmp_path / "scans"), tmp_path / "out"
    with failing_at("out/overlays/5.png.png"), pytest.raises(OSError, match="out"):
        write_results(model, scans, out)
    change(scans / "100.png")
    (scans / "120.png").unlink()
    write_results(model, scans, out)
    write_results(model, scans, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


# --- retinal volumes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Three made-up eyes, made straight, in a store."""
    folder = tmp_path_factory.mktemp("eyes")
    (folder / "files").mkdir()
    for seed in range(3):
        made = make_phantom(seed, shape=(2, 240, 96), spacing=(0.24, 0.00387, 0.022))
        tifffile.imwrite(
            folder / "files" / f"{seed}.tif",
            made.pixels,
            imagej=True,
            resolution=(1 / 0.022, 1 / 0.00387),
            metadata={"spacing": 0.24, "unit": "mm", "axes": "ZYX"},
        )
    prepare(folder / "files", folder / "eyes.zarr", space=FlatSpace(128, 120, False))
    return folder / "eyes.zarr"


@pytest.fixture(scope="module")
def of_eyes(eyes):
    """Finds regions, though it has learnt nothing: its threshold is low."""
    recipe = TINY.but(window=(64, 64), geometry="retina", held_out_fraction=0.34)
    model = FAnoGAN(recipe).fit(eyes).model
    assert model.calibration.en_face is not None
    low = model.calibration.en_face[0]
    calibration = dataclasses.replace(model.calibration, en_face=(0.8 * low, low))
    return model.but(calibration=calibration)


@pytest.fixture(scope="module")
def expected_of_eyes(of_eyes, eyes):
    out = eyes.parent / "undisturbed"
    write_results(of_eyes, eyes, out)
    return contents(out)


def test_a_volume_cut_off_is_scored_whole_again(of_eyes, eyes, expected_of_eyes, tmp_path):
    assert {"patches.csv", "regions.csv", "regions.json"} < set(expected_of_eyes)
    assert expected_of_eyes["regions.csv"].count(b"\n") > 1
    patches = expected_of_eyes["patches.csv"].splitlines()
    assert len(patches) == len(set(patches))
    out = tmp_path / "out"
    assert stopped(of_eyes, eyes, out, 5) == 2  # in the second of three eyes
    write_results(of_eyes, eyes, out)
    assert contents(out) == expected_of_eyes


@pytest.mark.parametrize("after", [1, 3, 5, 9])  # an eye: two B-scans and the volume
def test_a_killed_scoring_of_volumes_is_resumed(of_eyes, eyes, expected_of_eyes, tmp_path, after):
    out = tmp_path / "out"
    killed(of_eyes, eyes, out, after)
    assert images_done(out) == (after - 1) // 3 * 2
    write_results(of_eyes, eyes, out)
    assert contents(out) == expected_of_eyes


def test_patches_that_a_power_cut_lost_are_written_again(of_eyes, eyes, expected_of_eyes, tmp_path):
    out = tmp_path / "out"
    assert stopped(of_eyes, eyes, out, 8) == 4
    patches = out / ".unfinished" / "results" / "patches.csv"
    os.truncate(patches, patches.stat().st_size // 2)
    assert stopped(of_eyes, eyes, out, 1) == 2
    write_results(of_eyes, eyes, out)
    assert contents(out) == expected_of_eyes


# --- processes ----------------------------------------------------------------------------------


def ended_by(signal_, command, results, least):
    """Start a command, end it once so many maps lie there; returns what it said and its status."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(results.glob("maps/*"))) < least:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_)
    shown, _ = process.communicate(timeout=120)
    return shown, process.returncode


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    """A model, 1,500 images, and the results of a command that nothing ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model.save(folder / "model")
    save_images(folder / "scans", 1500)
    command = [*RUN_MAIN, "score", folder / "model", folder / "scans", "--out", folder / "out"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "least"),
    [(signal.SIGKILL, 65), (signal.SIGKILL, 650), (signal.SIGKILL, 1300), (signal.SIGINT, 129)],
)
def test_a_killed_process_is_resumed(undisturbed, tmp_path, ending, least):
    out = tmp_path / "out"
    model, folder = undisturbed / "model", undisturbed / "scans"
    command = [*RUN_MAIN, "score", model, folder, "--out", out]
    shown, status = ended_by(ending, command, out / ".unfinished" / "results", least)
    if ending == signal.SIGINT:
        assert status == 130
        # The first where a map was just being compressed (see fanogan.__main__).
        assert shown.splitlines()[-1] in ("stopped", "stopped; the same command resumes")
    done = images_done(out)
    assert least - 128 < done < 1500 and done % 64 == 0
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"resumes after {done:,} images scored before" in ended.stdout or not done
    assert contents(out) == contents(undisturbed / "out")


@pytest.mark.slow
def test_a_killed_process_that_scores_volumes_is_resumed(of_eyes, eyes, expected_of_eyes, tmp_path):
    of_eyes.save(tmp_path / "model")
    out = tmp_path / "out"
    command = [*RUN_MAIN, "score", tmp_path / "model", eyes, "--out", out]
    ended_by(signal.SIGKILL, command, out / ".unfinished" / "results", 1)
    done = images_done(out)
    assert done in (0, 2, 4)
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"resumes after {done:,} images scored before" in ended.stdout or not done
    assert contents(out) == expected_of_eyes
