"""Flattening: where boundaries come to lie, what is altered, and the way back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fanogan.phantom.eye import make_phantom
from fanogan.retina import Boundaries, FlatSpace, FlatVolume, make_flat
from fanogan.retina.flatten import (
    BELOW,
    OUTSIDE,
    RETINA,
    VITREOUS,
    Flattening,
)
from fanogan.scans import Scan

SHAPE = (2, 160, 24)
SPACE = FlatSpace()
seeds = st.integers(0, 2**32 - 1)


def boundaries(
    seed: int, thickness: tuple[float, float], shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth boundaries at random, (inner, outer), some of them partly outside of the scan."""
    rng = np.random.default_rng(seed)
    scans, rows, columns = shape
    x = np.linspace(-1, 1, columns)
    outer = rng.uniform(0.4, 0.95) * rows + rng.uniform(-25, 25) * x + rng.uniform(-25, 25) * x**2
    height = rng.uniform(*thickness, (scans, 1)) + rng.uniform(-2, 2) * x
    # Boundaries on halves and wholes are what a search among pixels gives.
    rounded = rng.choice([1, 2, 1000])
    outer = np.round(np.broadcast_to(outer, (scans, columns)) * rounded) / rounded
    inner = outer - np.clip(height, *thickness)
    return inner.astype(np.float32), outer.astype(np.float32)


def rows_of(shape: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.arange(shape[1], dtype=np.float32)[:, None], shape)


def flatten(
    volume: np.ndarray, inner: np.ndarray, outer: np.ndarray, space: FlatSpace = SPACE
) -> tuple[np.ndarray, Flattening]:
    flat = Flattening(inner.astype(np.float32), outer.astype(np.float32), volume.shape[1], space)
    return flat.forward(volume), flat


def where_known(flat: Flattening, volume: np.ndarray) -> np.ndarray:
    return np.where(flat.region == OUTSIDE, np.nan, flat.forward(volume))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def blob(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """An ellipse in each B-scan, 40 to 60 rows high."""
    rng = np.random.default_rng(seed)
    _, rows, columns = np.indices(shape)
    centre = rng.uniform(0.3, 0.7, 2) * shape[1:]
    radius = rng.uniform(20, 30), rng.uniform(4, 10)
    return ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 < 1


@given(seeds, st.sampled_from([(5, 40), (50, 70), (71, 150)]))
@settings(max_examples=40, deadline=None)
def test_there_and_back_moves_a_point_by_less_than_half_a_pixel(
    seed: int, thickness: tuple[float, float]
) -> None:
    """Half a row of the scan; where the retina is compressed, half a row of flat space."""
    inner, outer = boundaries(seed, thickness)
    there, flat = flatten(rows_of(SHAPE), inner, outer, FlatSpace(76, 70))
    back = flat.back(there)
    reached = np.isfinite(back)
    assert reached.any()
    step = np.broadcast_to(1 / flat.scale[:, None], SHAPE)
    error = np.abs(back - rows_of(SHAPE))[reached]
    assert (error < 0.5 * step[reached] + 1e-4).all()
    assert np.median(error) < (1e-3 if thickness[1] <= 70 else 0.1)


@given(seeds, st.sampled_from([(5, 40), (71, 150)]))
@settings(max_examples=40, deadline=None)
def test_a_bright_pixel_comes_back_where_it_was(seed: int, thickness: tuple[float, float]) -> None:
    inner, outer = boundaries(seed, thickness)
    flat = Flattening(inner, outer, SHAPE[1], FlatSpace(76, 70))
    rng = np.random.default_rng(seed)
    row = rng.integers(0, SHAPE[1], (SHAPE[0], SHAPE[2]))
    volume = (rows_of(SHAPE) == row[:, None]).astype(np.float32)
    back = np.nan_to_num(flat.back(flat.forward(volume)))
    centroid = (back * rows_of(SHAPE)).sum(axis=1) / np.maximum(back.sum(axis=1), 1e-9)
    place = (row - flat.offset) * flat.scale
    within = (place > 2) & (place < 73) & (row > 1) & (row < SHAPE[1] - 2)
    assert (np.abs(centroid - row)[within] < (0.5 / flat.scale)[within]).all()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_mask_that_is_not_compressed_survives_exactly(seed: int) -> None:
    inner, outer = boundaries(seed, (5, 70))
    flat = Flattening(inner, outer, SHAPE[1], FlatSpace(76, 70))
    mask = np.random.default_rng(seed).random(SHAPE) < 0.5
    covered = flat.back(flat.region != OUTSIDE)
    np.testing.assert_array_equal(flat.back(flat.forward(mask)), mask & covered)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_compressed_mask_survives(seed: int) -> None:
    """Compressed by up to a third."""
    inner, outer = boundaries(seed, (71, 105))
    flat = Flattening(inner, outer, SHAPE[1], FlatSpace(76, 70))
    mask = blob(SHAPE, seed) & flat.back(flat.region != OUTSIDE)
    if mask.sum() < 200:
        return
    assert dice(flat.back(flat.forward(mask)), mask) >= 0.98


@given(seeds, st.booleans())
@settings(max_examples=40, deadline=None)
def test_thickness_is_altered_only_where_it_does_not_fit(seed: int, fits: bool) -> None:
    shape = (2, 300, 24)
    inner, outer = boundaries(seed, (5, 70) if fits else (70.5, 150), shape)
    rows = rows_of(shape)
    flat = Flattening(inner, outer, shape[1], FlatSpace(76, 70))
    above = where_known(flat, rows - inner[:, None])
    below = where_known(flat, rows - outer[:, None])
    assert (flat.scale > 1 - 1e-5).all() if fits else (flat.scale < 1).all()
    inside = np.isfinite(below[:, 70]) & (outer < shape[1] - 3)
    np.testing.assert_allclose(below[:, 70][inside], 0, atol=0.5)
    if fits:
        np.testing.assert_allclose(below[:, 70][inside], 0, atol=2e-3)
        steps = np.diff(above, axis=1)[:, 1:-1]
        np.testing.assert_allclose(steps[:, 40:60][np.isfinite(steps[:, 40:60])], 1, atol=0.51)
    else:
        inside = np.isfinite(above[:, 0]) & (inner > 3)
        np.testing.assert_allclose(above[:, 0][inside], 0, atol=0.5)


def test_compression_averages_what_it_puts_together() -> None:
    """Every second row bright: dropping rows would give bright or dark, the mean is grey."""
    volume = np.zeros((1, 200, 3), np.uint8)
    volume[:, ::2] = 200
    inner, outer = (np.full((1, 3), row, np.float32) for row in (19.5, 159.5))
    there, flat = flatten(volume, inner, outer, FlatSpace(76, 70))
    np.testing.assert_allclose(flat.scale, 0.5)
    np.testing.assert_array_equal(there, 100)


def test_phantoms_are_flattened() -> None:
    phantom = make_phantom(5, shape=(6, 496, 128), spacing=(1.0, 0.00387, 0.046), diseased=True)
    inner, outer = phantom.boundaries["ILM"], phantom.boundaries["RPE outer"]
    assert np.ptp(outer) > 20
    there, flat = flatten(phantom.pixels, inner, outer)
    assert there.shape == (6, 128, 128) and there.dtype == np.uint8 and flat.valid.all()
    distance = flat.forward(rows_of(phantom.pixels.shape) - outer[:, None])
    assert np.abs(distance[:, 120]).max() <= 0.5
    assert (distance[:, 119] < 0).all() and (distance[:, 121] > 0).all()
    healthy = make_phantom(5, shape=(6, 496, 128), spacing=(1.0, 0.00387, 0.046))
    inner, outer = healthy.boundaries["ILM"], healthy.boundaries["RPE outer"]
    profile = flatten(healthy.pixels, inner, outer)[0].mean(axis=(0, 2))
    assert profile[115:119].mean() > profile[122:126].mean() + 20
    region = flat.region
    lesions = flat.forward(phantom.mask)
    assert lesions.any() and np.isin(region[lesions], [RETINA, BELOW]).all()


def test_regions_follow_the_boundaries() -> None:
    inner = np.array([[40.0, 5.0, -3.0, np.nan, 40.0]], np.float32)
    outer = np.array([[60.4, 60.0, 10.0, 60.0, 98.0]], np.float32)
    region = Flattening(inner, outer, 100, FlatSpace(40, 30)).region[0]
    counts = [[int((region[:, c] == r).sum()) for r in range(4)] for c in range(5)]
    assert counts[0] == [0, 10, 21, 9]  # 20.4 rows above row 30, and row 30
    assert counts[1] == [0, 0, 31, 9]  # compressed: no vitreous
    assert counts[2] == [20, 0, 11, 9]  # the scan begins within the retina
    assert counts[3] == [40, 0, 0, 0]
    assert region[:, 4].tolist() == [RETINA] * 31 + [OUTSIDE] * 9
    assert region[5, 0] == VITREOUS and region[35, 0] == BELOW


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_invalid_columns_never_become_valid_pixels(seed: int) -> None:
    inner, outer = boundaries(seed, (5, 100))
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 5, inner.shape)
    inner[(kinds == 1) | (kinds == 3)] = np.nan
    outer[(kinds == 2) | (kinds == 3)] = np.nan
    inner[kinds == 4] = outer[kinds == 4] + 3
    volume = rng.integers(1, 255, SHAPE).astype(np.uint8)
    there, flat = flatten(volume, inner, outer, FlatSpace(76, 70))
    np.testing.assert_array_equal(flat.valid, kinds == 0)
    invalid = np.broadcast_to(kinds[:, None] != 0, there.shape)
    assert not there[invalid].any() and (flat.region[invalid] == OUTSIDE).all()
    assert not flat.forward(volume > 0)[invalid].any()
    returned = flat.back(np.ones(there.shape, np.float32)).transpose(0, 2, 1)
    assert np.isnan(returned[kinds != 0]).all() and np.isfinite(returned[kinds == 0]).any()
    assert not flat.back(np.ones(there.shape, bool)).transpose(0, 2, 1)[kinds != 0].any()


@pytest.mark.parametrize("thickness", [(20, 40), (71, 110)])
def test_a_stretched_retina_fills_the_area_in_every_column(thickness: tuple[float, float]) -> None:
    shape = (2, 300, 24)
    inner, outer = boundaries(3, thickness, shape)
    flat = Flattening(inner, outer, shape[1], FlatSpace(76, 70, True))
    there = where_known(flat, rows_of(shape))
    inside = (inner >= 0) & (outer <= shape[1] - 2)
    assert inside.mean() > 0.9
    # A flat pixel is the mean over its extent, which is one row of the scan at least in part.
    assert np.abs(there[:, 0] - inner)[inside].max() < 1
    assert np.abs(there[:, 70] - outer)[inside].max() < 1
    np.testing.assert_allclose(there[:, 35][inside], ((inner + outer) / 2)[inside], atol=0.51)
    error = np.abs(flat.back(there) - rows_of(shape))
    assert np.nanpercentile(error, 98) < 1


def test_what_lies_outside_does_not_come_back() -> None:
    """At the edges of the scan, where flat space goes on."""
    inner, outer = (np.full((1, 2), row, np.float32) for row in (5.3, 56.3))
    flat = Flattening(inner, outer, 58, FlatSpace(76, 70))
    values = np.where(flat.region == OUTSIDE, 1e6, 1).astype(np.float32)
    np.testing.assert_array_equal(flat.back(values), 1)
    values[values > 1] = np.nan
    np.testing.assert_array_equal(flat.back(values), 1)


def test_types() -> None:
    inner, outer = np.full((2, 1, 4), [[[30.0]], [[50.0]]], np.float32)
    flat = Flattening(inner, outer, 60, FlatSpace(40, 30))
    assert flat.forward(np.ones((1, 60, 4), np.uint16)).dtype == np.uint16
    assert flat.forward(np.ones((1, 60, 4))).dtype == np.float32
    back = flat.back(np.full((1, 40, 4), 7, np.uint8))
    assert back.dtype == np.float32
    assert np.isnan(back[0, :20]).all() and (back[0, 20:] == 7).all()


def test_what_does_not_belong_together_is_refused() -> None:
    boundary = np.full((1, 4), 50, np.float32)
    with pytest.raises(ValueError, match="boundaries have shapes"):
        Flattening(boundary, boundary[:, :3], 60)
    with pytest.raises(ValueError, match="row 128 isn't within"):
        Flattening(boundary, boundary, 60, FlatSpace(base=128))
    with pytest.raises(ValueError, match=r"expected an array of \(1, 60, 4\)"):
        Flattening(boundary, boundary, 60).forward(np.zeros((1, 61, 4)))


def test_from_the_scan_to_flat_space_and_back() -> None:
    """Another pixel size, a column without boundaries: places and masks still agree."""
    spacing = (1.0, 0.0026, 0.0117)
    phantom = make_phantom(6, shape=(4, 640, 200), spacing=spacing, diseased=True)
    scan = Scan(phantom.pixels, "eye", "eye", spacing, is_volume=True)
    inner, outer = phantom.boundaries["ILM"], phantom.boundaries["RPE outer"].copy()
    outer[1, 77] = np.nan
    lines = Boundaries(inner, outer, outer, np.ones_like(inner))
    there = make_flat(scan, lines, np.zeros(scan.pixels.shape, bool), FlatSpace())
    assert there.pixels.shape == (4, 128, 106) and there.pixels.dtype == np.uint8
    assert there.spacing[0] == 1.0 and abs(there.spacing[1] / 0.00387 - 1) < 0.02
    flat, grid = there.flat, there.grid
    position = where_known(flat, grid.forward(rows_of(scan.pixels.shape)))
    back = np.stack([there.to_original(frame, values) for frame, values in enumerate(position)])
    assert back.shape == scan.pixels.shape
    error = np.abs(back - rows_of(scan.pixels.shape))
    # One resampled row at the rim of flat space, where two half rows go on.
    assert np.nanmax(error) < 0.00387 / 0.0026
    assert np.nanpercentile(error, 98) < 0.1
    assert np.isnan(back[1, :, 77]).all() and np.isfinite(back[1, :, 74]).any()
    retina = (rows_of(scan.pixels.shape) >= inner[:, None]) & (
        rows_of(scan.pixels.shape) <= phantom.boundaries["RPE outer"][:, None]
    )
    known = np.isfinite(back)
    again = np.stack([there.to_original(frame, mask) for frame, mask in enumerate(there.tissue)])
    assert dice(again & known, retina & known) >= 0.98


@pytest.mark.parametrize("column_mm", [0.011, 0.0121])
@pytest.mark.parametrize("kind", ["cyst", "drusen", "subretinal fluid"])
def test_a_lesions_mask_survives_the_whole_way_as_shares(column_mm: float, kind: str) -> None:
    """Every lesion of 100 pixels or more on a B-scan, and all of them together."""
    shape, spacing = (4, 496, 256), (0.4, 0.00387, column_mm)
    eye = make_phantom(407, shape=shape, spacing=spacing, diseased=True, lesions=[kind])
    scan = Scan(eye.pixels, "eye", "eye", spacing, is_volume=True)
    inner, outer = eye.boundaries["ILM"], eye.boundaries["RPE outer"]
    lines = Boundaries(inner, outer, outer, np.ones_like(inner))
    volume = make_flat(scan, lines, np.zeros(shape, bool))
    assert volume.pixels.shape[2] < 0.6 * shape[2]
    ways: list[list[np.ndarray]] = [[], [], []]
    lesions = 0
    for frame, lesion in enumerate(eye.mask):
        shares = volume.to_original(frame, volume.forward(frame, lesion.astype(np.float32)))
        binary = volume.to_original(frame, volume.forward(frame, lesion))
        mask = lesion & np.isfinite(shares)
        for way, one in zip(ways, (mask, shares >= 0.5, binary), strict=True):
            way.append(one)
        numbers, count = ndimage.label(mask, np.ones((3, 3)))
        nearest = numbers[
            tuple(ndimage.distance_transform_edt(numbers == 0, return_indices=True)[1])
        ]
        for number in range(1, count + 1):
            one = numbers == number
            if one.sum() >= 100:
                lesions += 1
                assert dice((shares >= 0.5) & (nearest == number), one) >= 0.98
    assert lesions >= 2
    mask, of_shares, of_binary = (np.stack(way) for way in ways)
    assert dice(of_shares, mask) >= 0.995
    assert dice(of_shares, mask) > dice(of_binary, mask)


@pytest.mark.parametrize("window", [(40, 24), (96, 60), (130, 8)])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_usable_windows_hold_retina_and_only_tissue(
    straight: list[FlatVolume], window: tuple[int, int], fraction: float
) -> None:
    volume = replace(straight[0], recorded=straight[0].recorded.copy())
    volume.recorded[1, 60:70, 30:34] = False
    usable = volume.usable_windows(window, fraction, to_learn=True)
    frames, rows, columns = volume.pixels.shape
    assert usable.shape == (frames, max(rows - window[0] + 1, 0), columns - window[1] + 1)
    corners = np.argwhere(np.ones(usable.shape, bool))
    for frame, row, column in corners[::37]:
        place = frame, slice(row, row + window[0]), slice(column, column + window[1])
        expected = volume.recorded[place].all() and volume.tissue[place].mean() >= fraction
        assert usable[frame, row, column] == expected


@pytest.mark.parametrize("window", [(40, 24), (96, 60)])
def test_a_window_is_scored_where_half_of_it_was_recorded(
    straight: list[FlatVolume], window: tuple[int, int]
) -> None:
    volume = replace(straight[0], recorded=straight[0].recorded.copy())
    volume.recorded[1, :, 30:] = False
    volume.recorded[2, :, 9:] = False  # less than half of any window
    usable = volume.usable_windows(window, 0.5, to_learn=False)
    for frame, row, column in np.argwhere(np.ones(usable.shape, bool))[::37]:
        place = frame, slice(row, row + window[0]), slice(column, column + window[1])
        recorded, tissue = volume.recorded[place], volume.tissue[place]
        if frame < 2:
            expected = tissue.sum() >= 0.5 * recorded.sum() and recorded.mean() >= 0.5
            assert usable[frame, row, column] == expected
    # Whatever half a window apart windows lie, one of them is scored.
    grid = usable[2, :: window[0] // 2, :: window[1] // 2]
    assert usable[2].any() and not usable[2, :, 9:].any() and grid.any()


def test_a_position_is_where_its_pixel_comes_back(straight: list[FlatVolume]) -> None:
    volume = straight[1]
    spot = np.zeros(volume.pixels.shape[1:], np.float32)
    spot[100, 30] = 1
    back = np.nan_to_num(volume.to_original(2, spot))
    centroid = (np.indices(back.shape) * back).sum(axis=(1, 2)) / back.sum()
    frame, row, column = volume.original_position(2, 100, 30)
    assert frame == 2 and np.abs(centroid - (row, column)).max() < 0.5
    np.testing.assert_array_equal(volume.original(2), volume.bscans[2])
