"""The en-face map as a picture: its proportions, its place on the fundus, its regions and bar."""

import numpy as np
import pytest

from fanogan.report.en_face import (
    MAP_SIDE,
    STRIP,
    Ground,
    VolumeCase,
    en_face_picture,
    region_mask,
)
from fanogan.report.images import OUTLINE_COLOUR, as_rgb, overlay
from fanogan.retina.regions import find_regions
from fanogan.scans.scan import EnFace
from fanogan.scoring.cases import pack, unpack_volume


def volume(frames=8, columns=60, spacing=(0.25, 0.004, 0.05), **changes):
    whole = {
        "name": "eye",
        "score": 0.3,
        "p_value": None,
        "flag": None,
        "bscans": np.full((frames, 10, columns), 90, dtype=np.uint8),
        "residuals": np.zeros((frames, 10, columns), dtype=np.float16),
        "scores": np.zeros(frames),
        "en_face": np.zeros((frames, columns), dtype=np.float32),
        "en_face_scale": 0.2,
        "spacing": spacing,
        "fundus": None,
        "regions": (),
    }
    return VolumeCase(**{**whole, **changes})


def fundus(lines, shape=(384, 384), spacing=(0.0125, 0.0125), value=60):
    return EnFace(np.full(shape, value, dtype=np.uint8), spacing, np.array(lines, dtype=float))


def straight_lines(frames, first, last, left, right):
    return [[(row, left), (row, right)] for row in np.linspace(first, last, frames)]


def painted(picture, ground):
    """Where a picture isn't as its ground was, the strip left out."""
    return (picture[:-STRIP] != ground).any(axis=-1)


# Proportions and millimetres


@pytest.mark.parametrize(
    ("frames", "columns", "between", "across"),
    [(8, 60, 0.25, 0.05), (49, 512, 0.12, 0.0114), (5, 100, 0.3, 0.06), (97, 384, 0.06, 0.005)],
)
def test_proportions_are_those_of_the_scanned_area(frames, columns, between, across):
    case = volume(frames, columns, (between, None, across))
    rows, width = en_face_picture(case).shape[:2]
    expected = frames * between / (columns * across)
    assert max(rows - STRIP, width) == MAP_SIDE
    assert (rows - STRIP) / width == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("across", "length"), [(0.0114, 1.0), (0.024, 2.0), (0.004, 0.5), (0.06, 10.0)]
)
def test_bar_is_as_long_as_it_says(across, length):
    columns = 512
    case = volume(8, columns, (columns * across / 8, None, across))
    strip = en_face_picture(case)[-STRIP:]
    line = (strip[STRIP // 2] == 255).all(axis=-1)
    bar = np.argmin(line[8:])
    assert line[8:].any()
    assert bar * columns * across / MAP_SIDE == pytest.approx(length, rel=0.01)
    assert (strip[0] == 0).all()


def test_without_distances_there_is_no_bar():
    picture = en_face_picture(volume(spacing=(None, None, None)))
    assert picture.shape == (MAP_SIDE, MAP_SIDE, 3)


def test_a_fundus_with_oblong_pixels_is_made_square():
    lines = straight_lines(8, 20, 180, 50, 350)
    case = volume(fundus=fundus(lines, shape=(200, 400), spacing=(0.02, 0.01)))
    assert en_face_picture(case).shape == (MAP_SIDE + STRIP, MAP_SIDE, 3)


# Colours


def test_colours_are_those_of_the_map_and_unknown_is_not_painted():
    en_face = np.full((8, 60), np.nan, dtype=np.float32)
    en_face[2, 10:20], en_face[5, 30:40] = 0.1, 0.2
    case = volume(en_face=en_face)
    plain = en_face_picture(volume(en_face=np.full_like(en_face, np.nan)))
    picture = en_face_picture(case)
    rows, columns = picture.shape[0] - STRIP, picture.shape[1]
    places = np.ix_(
        ((np.arange(8) + 0.5) * rows / 8).astype(int),
        ((np.arange(60) + 0.5) * columns / 60).astype(int),
    )
    expected = overlay(plain[:-STRIP][places][..., 0].copy(), en_face, 0.2)
    np.testing.assert_array_equal(picture[:-STRIP][places], expected)
    changed = painted(picture, plain[:-STRIP])
    assert changed.mean() == pytest.approx(20 / 480, rel=0.02)


def test_without_a_scale_nothing_is_painted():
    case = volume(en_face=np.ones((8, 60), dtype=np.float32), en_face_scale=float("inf"))
    plain = en_face_picture(volume())
    np.testing.assert_array_equal(en_face_picture(case), plain)


def test_projection_is_the_mean_along_depth():
    bscans = np.zeros((4, 10, 60), dtype=np.uint8)
    bscans[:, :, 30:] = 200
    bscans[1] = 100
    case = volume(4, bscans=bscans, spacing=(0.75, None, 0.05))
    picture = en_face_picture(case)[:-STRIP]
    rows = picture.shape[0]
    assert picture[rows // 8, 100, 0] == 0
    assert picture[rows // 8, 700, 0] == 255
    assert picture[3 * rows // 8, 100, 0] == pytest.approx(128, abs=1)
    assert picture[3 * rows // 8, 700, 0] == pytest.approx(128, abs=1)


# On the fundus


def test_a_marked_column_lies_at_its_place_on_the_fundus():
    en_face = np.zeros((8, 60), dtype=np.float32)
    en_face[6, 45] = 0.2
    lines = straight_lines(8, 300, 90, 72, 312)  # from the bottom up, as a Spectralis scans
    picture = en_face_picture(volume(en_face=en_face, fundus=fundus(lines)))
    rows, columns = np.nonzero(painted(picture, 60))
    # The fundus is shown at twice its size: B-scan 6 is at row 120, column 45 of 60 at 252 to 256.
    assert rows.mean() / 2 == pytest.approx(120, abs=0.5)
    assert (rows.max() - rows.min()) / 2 == pytest.approx(30, abs=1)
    assert columns.min() / 2 == pytest.approx(72 + 45 * 4, abs=0.5)
    assert (columns.max() + 1) / 2 == pytest.approx(72 + 46 * 4, abs=0.5)


def test_map_covers_the_scanned_area_without_gaps_and_nothing_else():
    en_face = np.full((8, 60), 0.2, dtype=np.float32)
    lines = straight_lines(8, 90, 300, 72, 312)
    changed = painted(en_face_picture(volume(en_face=en_face, fundus=fundus(lines))), 60)
    rows, columns = np.nonzero(changed)
    assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert (columns.min() / 2, (columns.max() + 1) / 2) == (72, 312)
    assert rows.min() / 2 == pytest.approx(90 - 15, abs=4)
    assert rows.max() / 2 == pytest.approx(300 + 15, abs=4)


def test_bscans_may_run_in_any_direction():
    en_face = np.zeros((8, 60), dtype=np.float32)
    en_face[3, :30] = 0.2
    lines = [[(320 - 2 * i, 60 + 20 * i), (60 - 2 * i, 90 + 20 * i)] for i in range(8)]
    changed = painted(en_face_picture(volume(en_face=en_face, fundus=fundus(lines))), 60)
    rows, columns = np.nonzero(changed)
    start, end = np.array(lines[3], dtype=float)
    middle = start + (end - start) / 4
    np.testing.assert_allclose([rows.mean() / 2, columns.mean() / 2], middle, atol=1.5)


def test_bscans_that_cross_are_drawn_as_lines():
    angles = np.linspace(0, np.pi, 4, endpoint=False)
    ends = 150 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    lines = np.stack([192 - ends, 192 + ends], axis=1)
    case = volume(4, en_face=np.full((4, 60), 0.2, dtype=np.float32), fundus=fundus(lines))
    changed = painted(en_face_picture(case), 60)
    assert 0.004 < changed.mean() < 0.04
    for line in lines:
        for share in (0.05, 0.95):
            row, column = 2 * (line[0] + share * (line[1] - line[0]))
            assert changed[int(row), int(column)]


def test_grey_values_of_other_types_become_bytes():
    pixels = np.linspace(1000, 5000, 384 * 384).reshape(384, 384).astype(np.uint16)
    lines = np.array(straight_lines(8, 90, 300, 72, 312))
    case = volume(fundus=EnFace(pixels, (0.0125, 0.0125), lines))
    picture = en_face_picture(case)
    assert picture[0, 0, 0] == 0
    assert picture[MAP_SIDE - 1, -1, 0] == 255


# Regions


def test_mask_of_a_region_is_what_it_was_found_as():
    from scipy import ndimage

    random = np.random.default_rng(4)
    en_face = ndimage.gaussian_filter(random.random((30, 80)), 2).astype(np.float32)
    en_face[random.random(en_face.shape) < 0.05] = np.nan
    threshold = float(np.nanquantile(en_face, 0.9))
    regions = find_regions(en_face, np.zeros(en_face.shape, int), threshold, (None, None, None))
    assert len(regions) > 3
    labels, _ = ndimage.label(np.nan_to_num(en_face, nan=-1) > threshold, np.ones((3, 3)))
    for region in regions:
        expected = labels == labels[region.bscan, region.column]
        np.testing.assert_array_equal(region_mask(en_face, region), expected)


def test_regions_are_outlined_and_numbered():
    en_face = np.full((8, 60), 0.01, dtype=np.float32)
    en_face[2:5, 10:20], en_face[6, 50:56] = 0.3, 0.25
    spacing = (0.25, 0.004, 0.05)
    regions = find_regions(en_face, np.zeros((8, 60), int), 0.1, spacing)
    plain = en_face_picture(volume(en_face=en_face))
    drawn = (
        en_face_picture(volume(en_face=en_face, regions=regions)) == np.array(OUTLINE_COLOUR)
    ).all(axis=-1)
    rows, columns = plain.shape[0] - STRIP, plain.shape[1]
    top, bottom = round(2 * rows / 8), round(5 * rows / 8)
    left, right = round(10 * columns / 60), round(20 * columns / 60)
    box = drawn[top:bottom, left:right]
    assert box[:3].all() and box[-3:].all() and box[:, :3].all() and box[:, -3:].all()
    assert not box[3:-3, 3:-3].any()
    beside = drawn[top:bottom, right + 1 : right + 30]
    assert beside.any(), "its number"
    assert not drawn[:top].any()


# What doesn't belong together


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"residuals": np.zeros((8, 10, 59))}, "eye: residuals"),
        ({"scores": np.zeros(7)}, "eye: scores"),
        ({"en_face": np.zeros((60, 8))}, "eye: en_face"),
        ({"masks": np.zeros((8, 10, 10), bool)}, "eye: masks"),
        ({"fundus": fundus(straight_lines(7, 1, 9, 1, 9))}, "7 lines"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        volume(**changes)


def test_worst_bscan_is_the_highest_known():
    assert volume(3, scores=np.array([np.nan, 0.2, 0.1])).worst == 1
    assert volume(3, scores=np.full(3, np.nan)).worst == 0


# The map of the retina's shape


def test_the_map_of_shape_is_coloured_where_it_leaves_the_normals():
    shape = np.full((8, 60), 0.9, dtype=np.float32)
    shape[2:4, 10:20] = 3.0
    case = volume(shape=shape)
    assert case.of_shape is not None
    picture = en_face_picture(case.of_shape)
    ground = Ground.of(case)
    far = (ground.bscans >= 0) & (shape[ground.bscans, ground.columns] > 1)
    coloured = (picture[:-STRIP] != as_rgb(ground.picture)).any(axis=-1)
    assert far.any()
    np.testing.assert_array_equal(coloured, far)
    assert volume().of_shape is None


def test_a_map_of_shape_of_another_size_is_refused():
    with pytest.raises(ValueError, match="shape of shape"):
        volume(shape=np.zeros((8, 59), dtype=np.float32))


def test_a_packed_volume_keeps_its_map_of_shape():
    shape = np.arange(480, dtype=np.float32).reshape(8, 60)
    np.testing.assert_array_equal(unpack_volume(pack(volume(shape=shape))).shape, shape)
    assert unpack_volume(pack(volume())).shape is None
