"""A folder of B-scans as one volume, and notes of empty ones."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan.scans import BadScan, EmptyFrames, read_scan, read_volume

BSCANS = np.random.default_rng(0).integers(0, 256, (11, 12, 14), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "eye").mkdir()
    for i, pixels in enumerate(BSCANS):
        Image.fromarray(pixels).save(tmp_path / "eye" / f"scan{i}.png")
    (tmp_path / "eye" / "notes.txt").write_text("nothing")
    (tmp_path / "eye" / ".hidden.png").write_bytes(b"x")
    return tmp_path / "eye"


def test_bscans_are_stacked_in_natural_order(folder: Path) -> None:
    scan = read_volume(folder, (0.1, 0.004, 0.01))
    np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert scan.is_volume and scan.spacing == (0.1, 0.004, 0.01)
    assert (scan.name, scan.group) == ("eye", "eye")
    named = read_volume(folder, name="left", group="subject")
    assert (named.name, named.group, named.spacing) == ("left", "subject", (None, None, None))


def test_an_empty_bscan_is_noted_and_kept(folder: Path) -> None:
    Image.fromarray(np.zeros_like(BSCANS[0])).save(folder / "scan3.png")
    scan = read_volume(folder)
    assert scan.notes == (EmptyFrames((3,), of=11),) and len(scan.pixels) == 11


@pytest.mark.parametrize("empty", [(0, 2), tuple(range(12))])
def test_empty_bscans_of_a_volume_are_noted(tmp_path: Path, empty: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 12, 14), dtype=np.uint8)
    pixels[list(empty)] = 0
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    assert read_scan(tmp_path / "a.tif").notes == (EmptyFrames(empty, of=20),)
    np.save(tmp_path / "a.npy", pixels)
    assert read_scan(tmp_path / "a.npy").notes == ()


def test_pictures_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    for pixels in (BSCANS[0, :5], BSCANS[0].astype(np.uint16)):
        Image.fromarray(pixels).save(folder / "scan4.png")
        with pytest.raises(BadScan, match=r"scan4\.png differs in size or type from scan0\.png"):
            read_volume(folder)
    (folder / "scan4.png").write_bytes(b"")
    with pytest.raises(BadScan, match=r"scan4\.png is empty"):
        read_volume(folder)
    (folder / "scan4.png").unlink()
    tifffile.imwrite(folder / "all.tif", BSCANS, photometric="minisblack")
    with pytest.raises(BadScan, match=r"all\.tif is a volume itself"):
        read_volume(folder)
    (tmp_path / "none").mkdir()
    for path, message in (("none", "holds no pictures"), ("nowhere", "is no folder")):
        with pytest.raises(BadScan, match=message):
            read_volume(tmp_path / path)


def test_nothing_but_empty_bscans_is_no_volume(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.zeros_like(BSCANS[0])).save(tmp_path / f"{i}.png")
    with pytest.raises(BadScan, match="same value in every pixel"):
        read_volume(tmp_path)
