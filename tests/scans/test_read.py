"""Reading many files in order, bad ones among them."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanogan.scans import BadScan, Scan, read_scan, read_scans
from fanogan.scans.raster import read_raster
from fanogan.scans.read import _READERS

GREY = np.random.default_rng(0).integers(0, 256, (16, 18), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, each of which shows its number in its first pixel."""
    (tmp_path / "scans").mkdir()
    for number in range(12):
        pixels = GREY.copy()
        pixels[0, 0] = number
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{number}.png")
    return tmp_path / "scans"


@pytest.mark.parametrize("workers", [1, 2, 5, 30])
def test_files_come_in_order(folder: Path, workers: int) -> None:
    scans = list(read_scans(folder, workers=workers))
    assert [int(scan.pixels[0, 0, 0]) for scan in scans] == list(range(12))
    assert [scan.name for scan in scans] == [f"{number}.png" for number in range(12)]


def test_reading_stops_with_the_reader(folder: Path) -> None:
    scans = read_scans(folder)
    next(scans)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(BadScan, match="does not exist"):
        list(scans)


def test_no_more_than_a_few_files_are_read_ahead(folder: Path) -> None:
    scans = read_scans(folder, workers=2)
    first = [next(scans) for _ in range(2)]
    (folder / "8.png").write_bytes(b"")
    with pytest.raises(BadScan, match=r"8\.png is empty"):
        list(scans)
    assert len(first) == 2


def test_a_reader_that_is_left_waits_for_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers, read = threading.Event(), []

    def from_slow_disk(path: Path) -> Scan:
        if path.name != "0.png":
            disk_answers.wait(10)
            read.append(path.name)
        return read_raster(path)

    monkeypatch.setitem(_READERS, "PNG", from_slow_disk)
    scans = read_scans(folder, workers=2)
    next(scans)
    del scans
    assert not read
    disk_answers.set()


def test_a_bad_file_stops_or_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "5.png").write_bytes(b"no image")
    with pytest.raises(BadScan, match=r"5\.png is not an image of a known format"):
        list(read_scans(folder))
    errors: list[BadScan] = []
    with caplog.at_level(logging.WARNING):
        scans = list(read_scans(folder, skip_bad=True, on_bad=errors.append))
    assert [scan.name for scan in scans] == [f"{i}.png" for i in range(12) if i != 5]
    assert len(errors) == 1 and "5.png" in str(errors[0])
    assert "5.png" in caplog.text


def test_nothing_but_bad_files_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadScan, match=r"none of 2 images could be used; the first: .*a\.png"):
        list(read_scans(tmp_path, skip_bad=True))


def test_names_and_groups_reach_the_scan(folder: Path) -> None:
    scan = next(read_scans(folder, groups=r"(\d)\.png"))
    assert (scan.name, scan.group) == ("0.png", "0")


def test_errors_come_when_asked_and_not_later(tmp_path: Path) -> None:
    with pytest.raises(BadScan, match="does not exist"):
        read_scans(tmp_path / "nowhere")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (
        ("folder.png", "is no file"),
        ("empty.png", "is empty"),
        ("absent.png", "does not exist"),
    ):
        with pytest.raises(BadScan, match=f"{name} {message}"):
            read_scan(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "0.png").chmod(0)
    with pytest.raises(BadScan, match=r"0\.png may not be read"):
        read_scan(folder / "0.png")


def test_importing_stays_cheap() -> None:
    code = (
        "import sys, fanogan.scans; "
        "heavy = {'torch', 'scipy', 'pydicom', 'nibabel', 'tifffile', 'imagecodecs', 'PIL'}; "
        "print(heavy & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
