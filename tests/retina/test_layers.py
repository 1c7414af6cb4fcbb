"""Boundaries of the retina, against the phantom's exact ones."""

from pathlib import Path

import numpy as np
import pytest

from fanogan.phantom.eye import make_phantom
from fanogan.retina import Boundaries, find_boundaries
from fanogan.scans import read_scan

SHAPE = (3, 320, 160)
SPACING = (0.4, 0.00387, 0.0228)


def errors(found: Boundaries, boundaries: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors of both surfaces in rows, NaN where nothing was found."""
    return np.abs(found.inner - boundaries["ILM"]), np.abs(found.outer - boundaries["Bruch"])


@pytest.mark.parametrize("seed", [20, 21])
def test_healthy_eye_within_a_row_and_a_half(seed):
    eye = make_phantom(seed, shape=SHAPE, spacing=SPACING)
    found = find_boundaries(eye.pixels, SPACING)
    assert found.found.mean() > 0.97
    for error in errors(found, eye.boundaries):
        assert np.nanmean(error) <= 1.5
        assert np.nanmax(error) <= 12


@pytest.mark.parametrize("kind", ["cyst", "subretinal fluid", "drusen"])
def test_diseased_eye_within_four_rows(kind):
    eye = make_phantom(20, shape=SHAPE, spacing=SPACING, diseased=True, lesions=[kind])
    found = find_boundaries(eye.pixels, SPACING)
    assert found.found.mean() > 0.9
    for error in errors(found, eye.boundaries):
        assert np.nanmean(error) <= 4


@pytest.mark.parametrize("seed", [20, 22, 23, 24])
def test_a_detachment_lifts_the_epithelium_off_bruchs_membrane(seed):
    kind = "pigment epithelium detachment"
    eye = make_phantom(seed, shape=SHAPE, spacing=SPACING, diseased=True, lesions=[kind])
    found = find_boundaries(eye.pixels, SPACING)
    lift = eye.boundaries["Bruch"] - eye.boundaries["RPE outer"]
    raised = (lift > 20) & found.found
    assert raised.sum() >= 17
    assert np.abs(found.epithelium - eye.boundaries["RPE outer"])[raised].max() <= 4
    error = np.abs(found.outer - eye.boundaries["Bruch"])[raised]
    assert error.mean() < 0.5 * lift[raised].mean()


def test_the_membrane_lies_below_drusen_and_on_the_epithelium_elsewhere():
    spacing = (0.5, 0.00387, 0.0114)
    eye = make_phantom(6, shape=(2, 496, 512), spacing=spacing, diseased=True, lesions=["drusen"])
    found = find_boundaries(eye.pixels, spacing)
    lift = eye.boundaries["Bruch"] - eye.boundaries["RPE outer"]
    error = np.abs(found.outer - eye.boundaries["Bruch"])
    assert error[lift > 4].mean() < 4 < 10 < lift[lift > 4].mean()
    assert error[lift < 1].mean() < 1
    assert (found.epithelium <= found.outer).all()


@pytest.mark.parametrize("change", ["float", "brighter and scaled", "single B-scans"])
def test_grey_scale_and_company_hardly_matter(change):
    eye = make_phantom(22, shape=SHAPE, spacing=SPACING)
    pixels = eye.pixels
    if change == "float":
        pixels = pixels.astype(np.float32) / 255
    if change == "brighter and scaled":
        pixels = pixels.astype(np.int16) * 100 - 20000
    if change == "single B-scans":
        pixels = pixels[:1]
    found = find_boundaries(pixels, SPACING)
    truth = {name: rows[: len(pixels)] for name, rows in eye.boundaries.items()}
    assert all(np.nanmean(error) <= 1.5 for error in errors(found, truth))


def test_same_input_gives_same_output_and_is_left_alone():
    eye = make_phantom(22, shape=(2, 320, 128), spacing=(0.3, 0.00387, 0.0456))
    before = eye.pixels.copy()
    one, other = (find_boundaries(eye.pixels, eye.spacing) for _ in range(2))
    np.testing.assert_array_equal(one.inner, other.inner)
    np.testing.assert_array_equal(one.outer, other.outer)
    np.testing.assert_array_equal(eye.pixels, before)


@pytest.mark.parametrize("colour", [0, 255])
def test_columns_in_a_margin_are_not_known_and_its_neighbours_are(colour):
    eye = make_phantom(23, shape=SHAPE, spacing=SPACING)
    pixels = eye.pixels.copy()
    pixels[:, :, :40] = colour
    pixels[:, :12] = colour
    found = find_boundaries(pixels, SPACING)
    assert not found.found[:, :40].any()
    assert (found.confidence[:, :40] == 0).all()
    assert found.found[:, 50:].mean() > 0.95
    for error in errors(found, eye.boundaries):
        assert np.nanmean(error) <= 1.5


def test_a_mask_says_what_is_no_recording():
    eye = make_phantom(23, shape=(2, 320, 128), spacing=(0.3, 0.00387, 0.0456))
    valid = np.ones(eye.pixels.shape, dtype=bool)
    valid[1, :, 60:] = False
    found = find_boundaries(eye.pixels, eye.spacing, valid)
    assert found.found[0].mean() > 0.9
    assert not found.found[1, 60:].any()


def test_where_there_is_no_retina_nothing_is_found():
    noise = np.random.default_rng(0).normal(60, 20, (2, 320, 128)).clip(0, 255).astype(np.uint8)
    empty = np.zeros_like(noise)
    for pixels in (noise, empty):
        found = find_boundaries(pixels, SPACING)
        assert found.found.mean() < 0.05
        assert np.isnan(found.inner).mean() > 0.95


def test_a_retina_cut_off_by_the_frame_is_not_known_there():
    eye = make_phantom(24, shape=(2, 320, 128), spacing=(2.0, 0.00387, 0.006))
    cut = int(eye.boundaries["ILM"].max()) + 20
    found = find_boundaries(eye.pixels[:, cut:], eye.spacing)
    assert found.found.mean() < 0.1


def test_both_surfaces_are_unknown_together_and_in_order():
    eye = make_phantom(25, shape=SHAPE, spacing=SPACING, diseased=True)
    found = find_boundaries(eye.pixels, SPACING)
    assert found.inner.dtype == found.outer.dtype == found.confidence.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found.inner), np.isnan(found.outer))
    assert (found.outer - found.inner)[found.found].min() > 0.09 / SPACING[1]
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1


def test_unknown_spacing_is_taken_for_the_usual():
    eye = make_phantom(22, shape=(2, 320, 128))
    one = find_boundaries(eye.pixels, (None, None, None))
    other = find_boundaries(eye.pixels, (0.12, 0.00387, 0.0114))
    np.testing.assert_array_equal(one.outer, other.outer)


def test_coarser_rows_and_other_sizes():
    spacing = (0.3, 0.0077, 0.0456)
    eye = make_phantom(26, shape=(3, 157, 101), spacing=spacing)
    found = find_boundaries(eye.pixels, spacing)
    assert found.inner.shape == (3, 101)
    assert all(np.nanmean(error) <= 1.5 for error in errors(found, eye.boundaries))


def test_rows_thicker_than_a_boundary_show_none():
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 50))
    assert not find_boundaries(noise, (1, 1, 1)).found.any()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="three axes"):
        find_boundaries(np.zeros((10, 10)), SPACING)
    with pytest.raises(ValueError, match="shape"):
        find_boundaries(np.zeros((1, 10, 10)), SPACING, np.ones((1, 10, 9), dtype=bool))


@pytest.mark.parametrize("name", ["655981-3", "5997818-16", "3956983-2"])
def test_the_inner_line_stays_above_a_dark_fovea(data_folder: Path, name: str) -> None:
    file = data_folder / "oct" / "kermany" / "NORMAL" / f"NORMAL-{name}.jpeg"
    if not file.exists():
        pytest.skip(f"no picture {file}")
    spacing = (None, 0.00387, 0.0115)
    found = find_boundaries(read_scan(file).pixels, spacing)
    # The retina of a healthy fovea is about 0.2 mm thick, and its photoreceptors about 0.1 mm.
    assert np.nanmin(found.outer - found.inner) * spacing[1] > 0.15
