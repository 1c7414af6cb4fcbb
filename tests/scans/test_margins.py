"""Margins: found where scanners and exports leave them, and not where tissue is black or white."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fanogan.phantom import make_phantom
from fanogan.scans import filled_margins, read_mask, read_scan

EYE = make_phantom(7, shape=(1, 320, 256), spacing=(0.5, 0.00387, 0.0114)).pixels[0]


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def behind_a_line(angle: float, distance: float) -> np.ndarray:
    """What of `EYE` lies so many pixels or more from the centre in a direction in degrees."""
    rows, columns = np.indices(EYE.shape) - (np.array(EYE.shape)[:, None, None] - 1) / 2
    return rows * np.sin(np.deg2rad(angle)) + columns * np.cos(np.deg2rad(angle)) > distance


def within(mask: np.ndarray, pixels: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=pixels)


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


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 50), (1, 50, 1), (1, 2, 2), (1, 20, 7)])
def test_frames_may_be_small(shape: tuple[int, int, int]) -> None:
    found = filled_margins(np.random.default_rng(1).integers(1, 255, shape).astype(np.uint8))
    assert found.shape == shape and not found.any()


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


# --- as files come ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0, 360), st.floats(0.3, 0.9), st.sampled_from([0, 128, 255]), st.integers(60, 100))
def test_margins_are_found_in_jpegs(angle: float, share: float, value: int, quality: int) -> None:
    """A wedge or strip at any angle; what JPEG smears of it reaches a block at most."""
    corner = np.abs([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))]) @ EYE.shape / 2
    margin = behind_a_line(angle, corner - 24 - 40 * share)
    found = filled_margins(jpeg(np.where(margin, value, EYE).astype(np.uint8), quality)[None])[0]
    # A white margin is found to its edge but for sharp tips, another one to a block from it.
    inner = ~within(~margin, 3 if value == 255 else 10)
    assert (found & inner).sum() >= 0.99 * inner.sum()
    assert value != 255 or (found & margin).sum() >= 0.95 * margin.sum()
    assert not (found & ~within(margin, 10)).any()


@pytest.mark.parametrize("quality", [60, 75, 90, 100])
def test_tissue_is_no_margin_in_jpegs(quality: int) -> None:
    saturated = np.clip(EYE * 1.6, 0, 255).astype(np.uint8)
    dark = np.clip(EYE * 1.3 - 20.0, 0, 255).astype(np.uint8)
    for pixels in (EYE, saturated, dark, saturated[:, ::-1]):
        assert filled_margins(jpeg(pixels, quality)[None]).mean() < 1e-3


def test_a_soft_edge_belongs_to_a_margin() -> None:
    """Made twice as large and resampled, as a viewer's window does."""
    large = Image.fromarray(EYE).resize((512, 640))
    margin = np.asarray(Image.fromarray(behind_a_line(80, 130)).resize((512, 640)))
    painted = Image.fromarray(np.where(margin, 255, np.asarray(large)).astype(np.uint8))
    share = Image.fromarray((margin * 255).astype(np.uint8))
    for size in ((256, 320), (301, 377), (700, 800)):
        [found] = filled_margins(np.asarray(painted.resize(size, Image.Resampling.BILINEAR))[None])
        touched = np.asarray(share.resize(size, Image.Resampling.BILINEAR)) > 25
        assert (found & touched).sum() > 0.995 * touched.sum()
        assert not (found & ~within(touched, 3)).any()


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("quality", [None, 75])
def test_pads_that_repeat_the_picture_are_margins(
    mode: str, side: int, quality: int | None
) -> None:
    eye = np.rot90(EYE[60:300], side)
    padded = np.rot90(np.pad(eye, ((30, 0), (0, 0)), mode=mode), -side)  # type: ignore[call-overload]
    pixels = padded if quality is None else jpeg(padded, quality)
    found = np.rot90(filled_margins(np.ascontiguousarray(pixels)[None])[0], side)
    assert found[:26].all() and not found[32:].any()
    assert not filled_margins(np.ascontiguousarray(np.rot90(eye, -side))[None]).any()


def test_a_lossless_margin_takes_nothing_beyond_its_value() -> None:
    """Its pixels are those of earlier versions, whatever JPEG needs."""
    for value in (0, 255):
        margin = behind_a_line(75, 110)
        pixels = np.where(margin, value, EYE)[None].astype(np.uint8)
        found = filled_margins(pixels)
        assert (pixels[found] == value).all() and found.sum() >= margin.sum()


@pytest.mark.parametrize("name", ["kermany", "octdl"])
def test_margins_of_published_jpegs(data_folder: Path, name: str) -> None:
    """Kermany's white corners are 250 to 255; OCTDL's edges hold one white line at most."""
    files = sorted((data_folder / "oct" / name).rglob("*.jp*g"))[::20]
    if not files:
        pytest.skip(f"no pictures at {data_folder / 'oct' / name}")
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"))
        [found] = filled_margins(pixels[None])
        if name == "octdl":
            assert not found[4:-4, 4:-4].any(), file.name
        # What is white in whole squares of 9×9 pixels is a margin, or far from the edge.
        solid = ndimage.minimum_filter(pixels, 9) >= 250
        labels, _ = ndimage.label(solid)
        edge = np.unique(np.concatenate([labels[4], labels[-5], labels[:, 4], labels[:, -5]]))
        missed = np.isin(labels, edge[edge > 0]) & ~found
        assert missed.sum() < 20, file.name


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
