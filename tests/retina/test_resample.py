"""One grey range and one pixel size for every scanner, and back to the scan's own pixels."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanogan.phantom.eye import make_phantom
from fanogan.retina import straighten
from fanogan.retina.resample import Grid, normalise
from fanogan.scans import BadScan, Scan, filled_margins

sizes = st.integers(5, 60)


def scan_of(pixels: np.ndarray, spacing: tuple = (None, None, None)) -> Scan:
    return Scan(pixels, "eye", "eye", spacing, is_volume=True)


def no_margins(pixels: np.ndarray) -> np.ndarray:
    return np.zeros(pixels.shape[:3], bool)


def noise(seed: int = 0, shape: tuple[int, ...] = (2, 90, 120)) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 180, shape).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((496, 512), (None, None), (496, 256)),  # as in the paper
        ((496, 768), (None, None), (496, 768)),
        ((496, 512), (0.0039, 0.0112), (496, 256)),  # 1.96, so 2
        ((496, 512), (0.0039, 0.0121), (496, 282)),
        ((496, 768), (None, 0.0113), (496, 384)),
        ((1024, 512), (0.00195, 0.0117), (512, 272)),  # another scanner: deeper and finer
        ((300, 200), (0.0043, 0.030), (333, 273)),  # coarser than wanted: more pixels
        ((480, 512), (0.0026, None), (322, 256)),
    ],
)
def test_sizes(shape: tuple, spacing: tuple, expected: tuple) -> None:
    pixels = np.zeros((1, *shape), np.uint8)
    grid = Grid.of(scan_of(pixels, (0.12, *spacing)))
    assert (grid.scan_shape, grid.shape) == (shape, expected)


def test_halving_is_the_mean_of_two_columns() -> None:
    pixels = noise().astype(np.float32)
    halved = Grid((90, 120), (90, 60)).forward(pixels)
    np.testing.assert_allclose(halved, (pixels[..., ::2] + pixels[..., 1::2]) / 2, rtol=1e-6)


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
@settings(max_examples=40, deadline=None)
def test_places_stay(old: tuple[int, int], new: tuple[int, int]) -> None:
    """A map of positions is resampled to the positions of the new pixels."""
    rows, columns = np.indices(old, dtype=np.float32) + 0.5
    there = Grid(old, new).forward(np.stack([rows / old[0], columns / old[1]]))
    wanted = (np.indices(new) + 0.5) / np.array(new)[:, None, None]
    # At the edge, where pixels shrink, nothing lies beyond the last centre.
    slack = 0.5 / np.minimum(old, new)[:, None, None] + 1e-6
    assert (np.abs(there - wanted) <= slack).all()
    inner = (
        slice(None),
        *(slice(-(-n // o), -(-n // o) * -1) for o, n in zip(old, new, strict=True)),
    )
    np.testing.assert_allclose(there[inner], wanted[inner], atol=0.13 / min(*old, *new))


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.data())
@settings(max_examples=60, deadline=None)
def test_there_and_back_moves_a_point_by_less_than_half_a_pixel(
    old: tuple[int, int], new: tuple[int, int], data: st.DataObject
) -> None:
    """Of the coarser grid, away from the edge."""
    point = np.zeros((1, *old), np.float32)
    coarse = np.maximum(1, np.array(old) / new)
    margin = np.ceil(2 * coarse).astype(int)
    if (margin * 2 >= old).any():
        return
    place = [
        data.draw(st.integers(int(m), o - 1 - int(m))) for m, o in zip(margin, old, strict=True)
    ]
    point[0, *place] = 1
    grid = Grid(old, new)
    back = grid.back(grid.forward(point))[0].astype(np.float64)
    centroid = (np.indices(old) * back).sum(axis=(1, 2)) / back.sum()
    assert (np.abs(centroid - place) < 0.5 * coarse).all()


def test_masks_survive() -> None:
    phantom = make_phantom(
        4, shape=(9, 496, 256), spacing=(0.5, 0.00387, 0.0117), diseased=True, lesions=["cyst"]
    )
    grid = Grid.of(scan_of(phantom.pixels, phantom.spacing))
    there = grid.forward(phantom.mask)
    assert there.dtype == bool and there.shape == (9, 496, 136)
    assert dice(grid.back(there), phantom.mask) >= 0.95


@given(sizes, sizes, st.data())
@settings(max_examples=80, deadline=None)
def test_columns_without_a_boundary_stay_without(old: int, new: int, data: st.DataObject) -> None:
    missing = np.array([data.draw(st.lists(st.booleans(), min_size=old, max_size=old))])
    rows = np.where(missing, np.nan, 30).astype(np.float32)
    grid = Grid((60, old), (60, new))
    there = grid.boundary(rows)
    np.testing.assert_allclose(there[np.isfinite(there)], 30, rtol=1e-5)
    # A map that is known only where the boundary is never reaches a column that had none.
    back = grid.back(np.repeat(there[:, None], 60, axis=1))
    assert np.isnan(back.transpose(0, 2, 1)[missing]).all()
    if not missing.any():
        assert np.isfinite(back).all()


def test_boundaries_follow_the_pixels() -> None:
    """The border between dark and bright lies where the resampled boundary says."""
    columns = np.arange(60)
    edge = (20 + 0.2 * columns)[None].astype(np.float32)
    pixels = np.arange(80)[None, :, None] - edge[:, None]
    grid = Grid((80, 60), (123, 31))
    signed = grid.forward(pixels.astype(np.float32))
    boundary = grid.boundary(edge)
    for column in range(31):
        crossing = np.interp(0, signed[0, :, column], np.arange(123))
        assert abs(crossing - boundary[0, column]) < 0.05


def test_nan_stays_where_it_was() -> None:
    values = np.ones((1, 40, 40), np.float32)
    values[0, :, 20:22] = np.nan
    back = Grid((40, 80), (40, 40)).back(values)
    assert np.isnan(back[0, 0]).nonzero()[0].tolist() == [40, 41, 42, 43]
    np.testing.assert_allclose(back[np.isfinite(back)], 1)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected frames of \(40, 80\)"):
        Grid((40, 80), (40, 40)).forward(np.zeros((1, 40, 40)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_normalised_to_the_full_range_whatever_the_unit(dtype: type) -> None:
    pixels = noise()
    expected = normalise(scan_of(pixels), no_margins(pixels))[0]
    assert expected.dtype == np.uint8 and (expected.min(), expected.max()) == (0, 255)
    factor, shift = (1, 20) if dtype == np.uint8 else (100, 500)
    changed = (pixels.astype(np.float64) * factor + shift).astype(dtype)
    np.testing.assert_array_equal(normalise(scan_of(changed), no_margins(changed))[0], expected)


def test_saturated_pixels_and_margins_leave_the_range() -> None:
    pixels = noise(shape=(2, 200, 300))
    expected = normalise(scan_of(pixels), no_margins(pixels))[0]
    spoilt = pixels.copy()
    spoilt.reshape(-1)[np.random.default_rng(1).choice(pixels.size, pixels.size // 1000)] = 255
    spoilt[0, :60] = 255
    spoilt[1, :, :60] = 0
    margins = filled_margins(spoilt)
    assert margins.mean() > 0.2
    normalised = normalise(scan_of(spoilt), margins)[0]
    kept = ~margins & (spoilt == pixels)
    error = np.abs(normalised.astype(int) - expected.astype(int))[kept]
    assert error.max() <= 3
    assert (
        np.abs(normalise(scan_of(spoilt), no_margins(spoilt))[0].astype(int) - expected) > 20
    ).any()


def test_volumes_of_one_eye_at_two_brightnesses_agree() -> None:
    pixels = make_phantom(2, shape=(2, 496, 128), spacing=(1.0, 0.00387, 0.05)).pixels
    dimmed = np.rint(pixels * 0.6 + 12).astype(np.uint8)
    (a, bright), (b, dim) = (normalise(scan_of(p), no_margins(p)) for p in (pixels, dimmed))
    assert np.abs(a.astype(int) - b).max() <= 2
    # What is taken away is told: by the same map, to half a grey value.
    assert dim == pytest.approx([0.6 * value + 12 for value in bright], abs=0.5)


def test_what_cannot_be_normalised_is_named() -> None:
    black = np.zeros((1, 8, 8), np.uint8)
    for margins in (no_margins(black), ~no_margins(black)):
        with pytest.raises(BadScan, match="nothing but filled margins or one grey value"):
            normalise(scan_of(black), margins)


def test_few_bright_pixels_on_a_flat_ground() -> None:
    pixels = np.full((1, 50, 50), 7, np.uint8)
    pixels[0, 3, 3] = 90
    assert np.unique(normalise(scan_of(pixels), no_margins(pixels))[0]).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("spacing", "said"),
    [((120, 3.87, 11.5), "3.87 × 11.5"), ((1, 1, None), "1 × ?"), ((None, None, 1), "? × 1")],
)
def test_micrometres_given_as_millimetres_are_refused_at_once(spacing: tuple, said: str) -> None:
    eye = make_phantom(1, shape=(3, 240, 96))
    scan = Scan(eye.pixels, "eye", "eye", spacing, is_volume=True)
    with pytest.raises(BadScan, match=rf"eye is said to have pixels of {re.escape(said)} mm"):
        straighten(scan)
