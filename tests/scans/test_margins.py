"""Filled margins: found where scanners leave them, and not where tissue is black or white."""

from pathlib import Path

import numpy as np
import pytest

from fanogan.scans import filled_margins, read_mask, read_scan


def noise(seed: int, share_of_zeros: float, shape: tuple[int, ...] = (2, 120, 160)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 240, shape).astype(np.uint8)
    pixels[rng.random(shape) < share_of_zeros] = 0
    return pixels


def wedge(height: float) -> np.ndarray:
    """The part above a line from `height` rows at the left to none at the right."""
    rows, columns = np.mgrid[:120, :160]
    return rows < height * (1 - columns / 160)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("zeros", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("turns", [0, 2])
def test_wedges_are_found(value: int, zeros: float, turns: int) -> None:
    pixels = noise(1, zeros)
    expected = np.zeros(pixels.shape, bool)
    expected[1] = np.rot90(wedge(30), turns)
    pixels[0, 60, 80] = 255
    pixels[expected] = value
    found = filled_margins(pixels)
    assert not found[0].any()
    assert (pixels[found] == value).all()
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    # Among many true zeros a margin's border is blurred by those that touch it.
    assert overlap > (0.96 if zeros < 0.5 else 0.92)


def test_strips_of_one_column_and_small_corners_are_found() -> None:
    pixels = noise(2, 0.1)
    pixels[0, :, -1] = 0
    pixels[1, :10, :6] = 255
    found = filled_margins(pixels)
    assert found[0, :, -1].all() and not found[0, :, :-6].any()
    assert found[1].sum() == 60 and found[1, :10, :6].all()


@pytest.mark.parametrize("zeros", [0.1, 0.5, 0.8, 0.9, 0.95])
def test_true_zeros_are_no_margin(zeros: float) -> None:
    pixels = noise(3, zeros, (6, 200, 200))
    assert filled_margins(pixels).mean() < 1e-3


def test_inner_and_small_regions_are_no_margin() -> None:
    pixels = noise(4, 0.1)
    pixels[0, 50:80, 50:90] = 255
    pixels[0, 20:40, 20:60] = 0
    pixels[1, :4, :6] = 255
    pixels[1, 60:62, -20:] = 255
    assert not filled_margins(pixels).any()


def test_every_dtype_has_its_own_extremes() -> None:
    for dtype, scale in ((np.uint16, 16), (np.int16, -30), (np.float32, 0.01)):
        pixels = noise(5, 0.0).astype(np.float64)
        pixels[0, :, :12] = 255
        found = filled_margins((pixels * scale).astype(dtype))
        assert found[0, :, :12].all() and found.sum() == 12 * 120


def test_an_empty_frame_is_margin_all_over() -> None:
    pixels = noise(6, 0.2)
    pixels[1] = 0
    found = filled_margins(pixels)
    assert found[1].all() and not found[0].any()
    assert filled_margins(np.zeros((1, 20, 20), np.uint8)).all()


def test_real_margins(data_folder: Path) -> None:
    folder = data_folder / "oct" / "chiu_dme"
    if not folder.is_dir():
        pytest.skip(f"no Chiu B-scans at {folder}")
    files = sorted((folder / "bscans").iterdir())[::8]
    pixels = np.concatenate([read_scan(file).pixels for file in files])
    fluid = np.concatenate([read_mask(folder / "fluid" / file.name) for file in files])
    found = filled_margins(pixels)
    white = pixels == 255
    assert (white & found).sum() > 0.998 * white.sum()
    assert (white & ~found).sum((1, 2)).max() < 100
    assert not (found & fluid).any()
    # The retina of every column stays: its brightest pixels are no margin.
    assert not (found & (pixels > 60) & ~white).any()
    assert found.mean((1, 2)).max() < 0.25
