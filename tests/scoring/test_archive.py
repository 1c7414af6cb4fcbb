"""Scoring that is stopped goes on where it was, and ends as if never stopped; memory stays flat."""

import csv
import dataclasses
import re
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan import FAnoGAN
from fanogan.phantom.eye import make_phantom
from fanogan.recipes.recipe import load_recipe
from fanogan.retina import FlatSpace
from fanogan.retina.preparation import prepare
from fanogan.scans import BadScan
from fanogan.scoring.job import images_done
from fanogan.scoring.table import Rows
from fanogan.scoring.write import write_results
from fanogan.storage import BadFolder

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
COUNT = 150
RUN_MAIN = [sys.executable, "-c", "from fanogan.cli import main; main()"]


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


def stopping_after(count):
    """An ``on_result`` that stops the scoring, and the names that it saw."""
    seen = []

    def on_result(result):
        seen.append(result.name)
        if len(seen) == count:
            raise Stop

    return seen, on_result


def stopped(detector, images, out, after, **options):
    """Score until so many results have been seen; returns how many images are done."""
    with pytest.raises(Stop):
        write_results(detector, images, out, on_result=stopping_after(after)[1], **options)
    return images_done(out)


@pytest.fixture(scope="module")
def detector():
    """Sees images of 16×16 whole."""
    return FAnoGAN(TINY).fit(images_of(40))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """150 images, a volume that stands among them, and what an undisturbed scoring leaves."""
    folder = tmp_path_factory.mktemp("archive")
    save_images(folder / "scans", COUNT, seed=1)
    tifffile.imwrite(folder / "scans" / "80b.tif", images_of(3, seed=2), photometric="minisblack")
    return folder / "scans"


@pytest.fixture(scope="module")
def expected(detector, archive):
    out = archive.parent / "undisturbed"
    write_results(detector, archive, out)
    return contents(out)


# Batches end after 64, 81 and 84 (the volume) and 148 images of 153.
@pytest.mark.parametrize(("after", "done"), [(64, 0), (83, 81), (154, 148)])
def test_a_stopped_scoring_goes_on(detector, archive, expected, tmp_path, after, done):
    out = tmp_path / "out"
    assert stopped(detector, archive, out, after) == done
    assert out.exists() == (done > 0)
    seen = []
    rows = write_results(detector, archive, out, on_result=lambda result: seen.append(result))
    assert sum(result.unit == "image" for result in seen) == COUNT + 3 - done
    assert contents(out) == expected
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) == COUNT + 4


def test_what_a_kill_left_half_written_is_scored_again(detector, archive, expected, tmp_path):
    out = tmp_path / "out"
    assert stopped(detector, archive, out, 100) == 84
    journal = out / ".unfinished" / "rows.jsonl"
    whole = journal.read_bytes()
    # A row of the next batch, which is no whole one, and the beginning of another.
    journal.write_bytes(whole + whole.splitlines(keepends=True)[0] + b'{"name": "x')
    assert stopped(detector, archive, out, 1) == 84
    assert journal.read_bytes() == whole
    write_results(detector, archive, out)
    assert contents(out) == expected


def test_maps_that_a_power_cut_lost_are_made_again(detector, archive, expected, tmp_path):
    out = tmp_path / "out"
    assert stopped(detector, archive, out, 100) == 84
    (out / ".unfinished" / "results" / "maps" / "70.png.tif").write_bytes(b"")
    assert stopped(detector, archive, out, 1) == 64
    write_results(detector, archive, out)
    assert contents(out) == expected


def test_results_half_moved_are_moved_on(detector, archive, expected, tmp_path):
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / "overlays" / "5.png.png").mkdir()  # in the way of a file: maps are there by then
    with pytest.raises(OSError, match="out"):
        write_results(detector, archive, out)
    assert (out / "maps" / "5.png.tif").exists()
    (out / "overlays" / "5.png.png").rmdir()
    seen = []
    write_results(detector, archive, out, on_result=seen.append)
    assert seen == []
    assert contents(out) == expected


@pytest.mark.parametrize("other", ["model", "images"])
def test_another_job_begins_anew(detector, archive, tmp_path, caplog, other):
    out = tmp_path / "out"
    save_images(tmp_path / "others", 66, seed=3)
    assert stopped(detector, archive, out, 70, scores_only=True) == 64
    if other == "model":
        detector = FAnoGAN(TINY, seed=1).fit(images_of(40))
    else:  # of the same names
        archive = tmp_path / "others"
    write_results(detector, archive, out, scores_only=True)
    assert caplog.text.count("the beginning of another scoring") == 1
    write_results(detector, archive, tmp_path / "fresh", scores_only=True)
    assert contents(out) == contents(tmp_path / "fresh")


def test_arrays_have_no_name_and_begin_anew(detector, tmp_path):
    images = images_of(100)
    assert stopped(detector, images, tmp_path / "out", 70) == 0
    assert not (tmp_path / "out").exists()
    scores = [float(row["score"]) for row in write_results(detector, images, tmp_path / "out")]
    assert scores == sorted(detector.score(images).total, reverse=True)


@pytest.mark.parametrize("remedy", ["skip", "remove"])
def test_after_a_bad_file_it_goes_on(detector, tmp_path, remedy):
    folder, out = save_images(tmp_path / "scans", 140), tmp_path / "out"
    bad = [folder / "20.png", folder / "100.png", folder / "139.png"]
    for path in bad[: 1 if remedy == "remove" else 3]:
        path.write_bytes(b"no image")
    skip = remedy == "skip"
    if skip:
        assert stopped(detector, folder, out, 70, skip_bad=True, scores_only=True) == 64
    else:
        bad[0].unlink()
        bad[1].write_bytes(b"no image")
        with pytest.raises(BadScan, match=r"100\.png"):
            write_results(detector, folder, out, scores_only=True)
        assert images_done(out) == 64
        bad[1].unlink()
    write_results(detector, folder, out, skip_bad=skip, scores_only=True)
    write_results(detector, folder, tmp_path / "fresh", skip_bad=skip, scores_only=True)
    assert contents(out) == contents(tmp_path / "fresh")
    page = (out / "report.html").read_text()
    assert len(re.findall(r"skipped: \S*(20|100|139)\.png", page)) == (3 if skip else 0)


def test_scores_only(detector, archive, expected, tmp_path):
    out = tmp_path / "out"
    assert stopped(detector, archive, out, 70, scores_only=True) == 64
    write_results(detector, archive, out, scores_only=True)
    assert contents(out) == {name: expected[name] for name in ("scores.csv", "report.html")}


def test_two_at_a_time_are_refused(detector, archive, tmp_path):
    def also(result):
        with pytest.raises(BadFolder, match="another process is scoring into it"):
            write_results(detector, archive, tmp_path / "out")
        raise Stop

    with pytest.raises(Stop):
        write_results(detector, archive, tmp_path / "out", on_result=also)


def test_frames_of_an_array_file_are_left_out_too(detector, tmp_path):
    np.save(tmp_path / "many.npy", images_of(100))
    assert stopped(detector, tmp_path / "many.npy", tmp_path / "out", 70) == 64
    seen = []
    write_results(detector, tmp_path / "many.npy", tmp_path / "out", on_result=seen.append)
    assert [result.name for result in seen] == [f"many.npy#{index}" for index in range(64, 100)]


def test_rows_are_read_as_they_are_asked_for(archive, expected):
    rows = Rows(archive.parent / "undisturbed" / "scores.csv", COUNT + 4)
    table = list(csv.DictReader(expected["scores.csv"].decode().splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in table]
    assert [row["name"] for row in rows[2:5]] == [row["name"] for row in table[2:5]]
    assert rows[-1]["name"] == table[-1]["name"] and rows[0]["windows"] == 1
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_memory_does_not_grow_with_the_images(detector, tmp_path):
    np.save(tmp_path / "many.npy", images_of(1000))
    used = []

    def on_result(result):
        used.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    write_results(
        detector, tmp_path / "many.npy", tmp_path / "out", scores_only=True, on_result=on_result
    )
    tracemalloc.stop()
    assert len(used) == 1000
    each = (used[64 * 14] - used[64 * 6]) / (64 * 8)  # as far into a batch; a row: 1,000
    assert each < 400, f"{each:.0f} bytes an image, beyond its place and its score"


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


def test_a_volume_cut_off_is_scored_whole_again(eyes, tmp_path):
    detector = FAnoGAN(TINY.but(window=(64, 64), geometry="retina", held_out_fraction=0.34)).fit(
        eyes
    )
    # A lower threshold, for networks that have learnt nothing: regions are to be found.
    assert detector.calibration.en_face is not None
    low = detector.calibration.en_face[0]
    detector.calibration = dataclasses.replace(detector.calibration, en_face=(0.8 * low, low))
    write_results(detector, eyes, tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed")
    assert {"patches.csv", "regions.csv", "regions.json"} < set(expected)
    assert expected["regions.csv"].count(b"\n") > 1
    patches = expected["patches.csv"].splitlines()
    assert len(patches) == len(set(patches))
    out = tmp_path / "out"
    assert stopped(detector, eyes, out, 5) == 2  # in the second of three eyes
    write_results(detector, eyes, out)
    assert contents(out) == expected


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_is_gone_on_with(detector, tmp_path, ending):
    detector.save(tmp_path / "model")
    folder = save_images(tmp_path / "scans", 1500)

    def command(out):
        return [*RUN_MAIN, "score", tmp_path / "model", folder, "--out", out]

    subprocess.run(command(tmp_path / "undisturbed"), check=True, capture_output=True)
    out = tmp_path / "out"
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while images_done(out) < 128:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(ending)
    shown, _ = process.communicate(timeout=120)
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert shown.splitlines()[-1] == "stopped; the same command goes on"
    done = images_done(out)
    assert 128 <= done < 1500 and done % 64 == 0
    ended = subprocess.run(command(out), check=True, capture_output=True, text=True)
    assert f"goes on after {done:,} images scored before" in ended.stdout
    assert contents(out) == contents(tmp_path / "undisturbed")
