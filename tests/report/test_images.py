"""Pictures: what the colours of residuals mean, and where an outline runs."""

import numpy as np
import pytest

from fanogan.report.images import (
    LAYER_LEVELS,
    OUTLINE_COLOUR,
    edge,
    outline,
    overlay,
    residual_layer,
    scale_bar,
    shrink,
)

# colours


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_no_residual_leaves_the_picture_as_it_is(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    layer = overlay(picture, np.zeros((5, 7), dtype=np.float32), 0.3)
    grey = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
    assert layer.dtype == np.uint8
    np.testing.assert_array_equal(layer, grey)


def test_one_residual_has_one_colour_whatever_else_the_map_holds():
    picture = np.full((1, 2), 90, dtype=np.uint8)
    calm = overlay(picture, np.array([[0.1, 0.0]], dtype=np.float32), 0.5)
    wild = overlay(picture, np.array([[0.1, 1.9]], dtype=np.float32), 0.5)
    np.testing.assert_array_equal(calm[0, 0], wild[0, 0])
    assert (calm[0, 0] != 90).any()


def test_one_residual_is_laid_on_alike_whatever_the_picture_brightest_pixel():
    residual = np.array([[0.2, 0.2]], dtype=np.float32)
    dark = overlay(np.array([[40, 41]], dtype=np.uint8), residual, 0.5)
    bright = overlay(np.array([[40, 255]], dtype=np.uint8), residual, 0.5)
    np.testing.assert_array_equal(dark[0, 0], bright[0, 0])


def test_colour_saturates_at_the_scale_and_not_before():
    picture = np.full((1, 4), 60, dtype=np.uint8)
    below, at, above, far = overlay(picture, np.array([[0.35, 0.4, 0.41, 2.0]]), 0.4)[0]
    np.testing.assert_array_equal(at, above)
    np.testing.assert_array_equal(at, far)
    assert (below != at).any()


def test_colour_departs_from_black_in_order_of_the_residual():
    layer = overlay(np.zeros((1, 64), dtype=np.uint8), np.linspace(0, 0.4, 64)[np.newaxis], 0.4)
    luminance = layer[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= 0).all()
    assert luminance[-1] > 150


def test_scale_zero_shows_any_residual_at_the_strongest():
    picture = np.zeros((1, 3), dtype=np.uint8)
    none, little, much = overlay(picture, np.array([[0.0, 1e-6, 1.0]]), 0.0)[0]
    assert (none == 0).all()
    np.testing.assert_array_equal(little, much)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_a_scale_that_means_nothing_is_refused(scale):
    with pytest.raises(ValueError, match="colour scale"):
        overlay(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2)), scale)


@pytest.mark.parametrize(
    ("picture", "residual", "sentence"),
    [
        (np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3)), "doesn't fit"),
        (np.zeros((2, 2), dtype=np.float32), np.zeros((2, 2)), "must be uint8"),
        (np.zeros((2, 2, 4), dtype=np.uint8), np.zeros((2, 2)), "must be uint8"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(picture, residual, sentence):
    with pytest.raises(ValueError, match=sentence):
        overlay(picture, residual, 1.0)


def test_outline_is_the_inner_edge_closed_at_the_border():
    picture = np.full((6, 6), 50, dtype=np.uint8)
    mask = np.zeros((6, 6), dtype=bool)
    mask[2:, 2:] = True
    drawn = (outline(picture, mask) == OUTLINE_COLOUR).all(axis=-1)
    expected = mask.copy()
    expected[3:5, 3:5] = False
    np.testing.assert_array_equal(drawn, expected)
    assert (picture == 50).all()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_outline_is_as_wide_as_asked_for(width):
    mask = np.zeros((12, 12), dtype=bool)
    mask[:, 3:] = True
    expected = mask.copy()
    expected[width : 12 - width, 3 + width : 12 - width] = False
    np.testing.assert_array_equal(edge(mask, width), expected)


def test_what_is_not_known_is_not_painted():
    picture = np.full((1, 3), 77, dtype=np.uint8)
    residual = np.array([[np.nan, 0.4, 0.0]], dtype=np.float16)
    unknown, painted, none = overlay(picture, residual, 0.4)[0]
    assert (unknown == 77).all() and (none == 77).all()
    assert (painted != 77).any()
    np.testing.assert_array_equal(residual_layer(residual, 0.4)[0, :, 3], [0, 217, 0])


def test_a_layer_laid_over_a_picture_is_its_overlay():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (20, 30), dtype=np.uint8)
    residual = random.random((20, 30)) * 0.6
    layer = residual_layer(residual, 0.4).astype(float)
    alpha = layer[..., 3:] / 255
    laid = picture[..., np.newaxis] * (1 - alpha) + layer[..., :3] * alpha
    assert np.abs(laid - overlay(picture, residual, 0.4)).max() < 256 / 20
    assert len(np.unique(layer.reshape(-1, 4), axis=0)) <= LAYER_LEVELS


def test_scale_bar_runs_from_nothing_to_the_strongest():
    bar = scale_bar(0.3)
    assert bar.shape == (24, 256, 3)
    np.testing.assert_array_equal(bar[[0, 8, 16], 0], [[0] * 3, [110] * 3, [220] * 3])
    strongest = overlay(np.array([[110]], dtype=np.uint8), np.array([[9.0]]), 0.3)
    np.testing.assert_array_equal(bar[8, 255], strongest[0, 0])


def test_shrinking_takes_means_and_leaves_small_pictures_alone():
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(shrink(values, 2), [[2.5, 4.5], [10.5, 12.5]])
    assert shrink(values, 4) is values
