"""Warnings where a scan lies outside the training normals."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanogan.calibration import profile as module
from fanogan.calibration.profile import BINS, Profile, ProfileBuilder
from fanogan.report import describe
from fanogan.scans import Scan


def make_scan(shape=(1, 8, 8), dtype="uint8", spacing=(None, None, None), name="eye/1.png"):
    """A scan whose pixel values do not matter: the encoded ones are given beside it."""
    return Scan(np.zeros(shape, dtype=dtype), name=name, group="eye", spacing=spacing)


def noise(frames, seed, mean=0.4, side=32):
    values = np.random.default_rng(seed).normal(mean, 0.1, (frames, side, side))
    return np.clip(values, 0, 1).astype(np.float32)


def learn(*pairs):
    builder = ProfileBuilder()
    for scan, frames in pairs:
        builder.add(scan, frames)
    return builder.build()


def warnings(profile, scan, frames):
    """In words, as a reader gets them."""
    return [describe(note) for note in profile.warnings(scan, frames)]


def flat(value, frames=1, side=8):
    return np.full((frames, side, side), value, dtype=np.float32)


def test_what_was_seen_by_hand():
    profile = learn(
        (make_scan((1, 8, 6), spacing=(None, 0.004, 0.011)), flat(0.0)),
        (make_scan((3, 4, 9), "uint16", spacing=(0.12, 0.004, 0.012)), flat(1.0, frames=3)),
    )
    assert profile.sizes == ((4, 9), (8, 6))
    assert (profile.rows, profile.columns) == ((4, 8), (6, 9))
    assert profile.spacing == ((0.12, 0.12), (0.004, 0.004), (0.011, 0.012))
    assert profile.dtypes == ("uint16", "uint8")
    assert profile.channels == (1,)
    # One frame all in the first bin, three all in the last.
    assert profile.histogram == (0.25, *[0.0] * 62, 0.75)
    # All of the first frame moves 63 bins for three quarters of its mass.
    assert profile.largest_distance == pytest.approx(0.75 * 63 / 64)


def test_training_scans_raise_no_warning():
    scans = [(make_scan((4, 32, 32), spacing=(0.1, 0.2, 0.3)), noise(4, seed)) for seed in range(5)]
    profile = learn(*scans)
    for scan, frames in scans:
        assert warnings(profile, scan, frames) == []


def test_a_new_scan_of_the_same_kind_raises_no_warning():
    profile = learn((make_scan((50, 32, 32)), noise(50, seed=0)))
    assert warnings(profile, make_scan((300, 32, 32)), noise(300, seed=1)) == []


def test_size():
    profile = learn((make_scan((1, 496, 512)), flat(0.5)))
    assert warnings(profile, make_scan((1, 512, 768)), flat(0.5)) == [
        "size 512×768 is outside the training normals (496×512)"
    ]
    assert len(warnings(profile, make_scan((1, 512, 496)), flat(0.5))) == 1


@pytest.mark.parametrize(("count", "warned"), [(50, True), (51, False)])
def test_many_sizes_become_a_range(count, warned):
    profile = learn(*((make_scan((1, 10 + 2 * i, 300 - i)), flat(0.5)) for i in range(count)))
    assert (profile.sizes == ()) is not warned
    # Between the sizes seen, but none of them.
    assert bool(warnings(profile, make_scan((1, 11, 299)), flat(0.5))) is warned
    (warning,) = warnings(profile, make_scan((1, 9, 299)), flat(0.5))
    last = 8 + 2 * count
    many = f"{count} sizes of " if warned else ""
    assert warning.endswith(f"({many}10-{last} rows, {301 - count}-300 columns)")


def test_bit_depth_ignores_the_byte_order():
    profile = learn((make_scan(dtype="<u2"), flat(0.5)))
    assert warnings(profile, make_scan(dtype=">u2"), flat(0.5)) == []
    assert warnings(profile, make_scan(dtype="uint8"), flat(0.5)) == [
        "bit depth uint8, trained on uint16"
    ]


def test_channels():
    profile = learn((make_scan((1, 8, 8)), flat(0.5)))
    colour = np.full((1, 8, 8, 3), 0.5)
    assert warnings(profile, make_scan((1, 8, 8, 3)), colour) == ["3 channels, trained on 1"]
    assert learn((make_scan((1, 8, 8, 3)), colour)).channels == (3,)


def test_spacing():
    profile = learn(
        (make_scan(spacing=(None, 0.0039, 0.0112)), flat(0.5)),
        (make_scan(spacing=(None, 0.0039, 0.0122)), flat(0.5)),
        (make_scan(), flat(0.5)),
    )
    (warning,) = warnings(profile, make_scan(spacing=(0.3, 0.0039, 0.0145)), flat(0.5))
    assert warning == "spacing 0.0145 mm a column, trained on 0.0112-0.0122"
    assert warnings(profile, make_scan(spacing=(None, 0.005, None)), flat(0.5)) == [
        "spacing 0.005 mm a row, trained on 0.0039"
    ]


@pytest.mark.parametrize(("value", "warned"), [(0.94, 1), (0.951, 0), (2.09, 0), (2.11, 1)])
def test_spacing_tolerates_five_percent(value, warned):
    profile = learn(*((make_scan(spacing=(None, None, s)), flat(0.5)) for s in (1.0, 2.0)))
    assert len(warnings(profile, make_scan(spacing=(None, None, value)), flat(0.5))) == warned


@pytest.mark.parametrize("unknown", [None, 0.0, math.nan, math.inf])
def test_unknown_spacing_says_nothing(unknown):
    with_spacing = learn((make_scan(spacing=(1.0, 1.0, 1.0)), flat(0.5)))
    without = learn((make_scan(spacing=(unknown,) * 3), flat(0.5)))
    assert without.spacing == (None, None, None)
    assert warnings(with_spacing, make_scan(spacing=(unknown,) * 3), flat(0.5)) == []
    assert warnings(without, make_scan(spacing=(5.0, 5.0, 5.0)), flat(0.5)) == []


def test_another_scanner_is_noticed():
    profile = learn((make_scan((50, 32, 32)), noise(50, seed=0)))
    (warning,) = warnings(profile, make_scan((1, 32, 32)), noise(1, seed=1, mean=0.6))
    distance = float(warning.split("distance ")[1].split(",")[0])
    # The mean of the greys moved from .4 to .6.
    assert distance == pytest.approx(0.2, abs=0.015)
    assert warning.startswith("grey histogram outside the training normals (distance ")
    assert warning.endswith("): another scanner looks like disease")
    (inverted,) = warnings(profile, make_scan((1, 32, 32)), 1 - noise(1, seed=2))
    assert "grey histogram" in inverted


def test_frames_outside_are_counted():
    profile = learn((make_scan((50, 32, 32)), noise(50, seed=0)))
    mixed = np.concatenate([noise(9, seed=1), noise(3, seed=2, mean=0.7)])
    (warning,) = warnings(profile, make_scan((12, 32, 32)), mixed)
    assert "grey histogram of 3 of 12 frames outside" in warning
    assert "(distance up to 0.3," in warning


def test_margin_of_the_largest_distance():
    # Mean between the two, so that each is 8 bins away from it: 12 bins are allowed.
    low, high = (10.5 / BINS, 26.5 / BINS)
    profile = learn((make_scan(), flat(low)), (make_scan(), flat(high)))
    assert profile.largest_distance == pytest.approx(8 / BINS)
    assert warnings(profile, make_scan(), flat(30.5 / BINS)) == []
    assert len(warnings(profile, make_scan(), flat(31.5 / BINS))) == 1


def test_training_images_that_are_all_alike_leave_room_for_one_bin():
    profile = learn((make_scan(), flat(0.5, frames=3)))
    assert profile.largest_distance == 0
    assert warnings(profile, make_scan(), flat(0.5 + 1 / BINS)) == []
    assert len(warnings(profile, make_scan(), flat(0.5 + 2 / BINS))) == 1


def test_values_beyond_the_grey_range_fall_into_the_outer_bins():
    profile = learn((make_scan(), flat(-0.2)), (make_scan(), flat(1.2)))
    assert profile.histogram == (0.5, *[0.0] * 62, 0.5)


def test_large_frames_are_subsampled_without_a_shift():
    frame = np.random.default_rng(0).beta(2, 5, (1, 1000, 1000)).astype(np.float32)
    profile = learn((make_scan((1, 1000, 1000)), frame))
    counts, _ = np.histogram(frame, bins=BINS, range=(0, 1))
    np.testing.assert_allclose(profile.histogram, counts / frame.size, atol=0.002)


def test_memory_is_bounded_and_the_mean_counts_every_frame(monkeypatch):
    monkeypatch.setattr(module, "_FRAMES_KEPT", 16)
    builder = ProfileBuilder()
    frames = noise(200, seed=0, side=8)
    for part in np.array_split(frames, 7):
        builder.add(make_scan((len(part), 8, 8)), part)
    assert 8 <= len(builder._kept) <= 16
    counts, _ = np.histogram(frames, bins=BINS, range=(0, 1))
    np.testing.assert_allclose(builder.build().histogram, counts / frames.size, atol=1e-12)


def test_what_cannot_be_learned_is_refused():
    builder = ProfileBuilder()
    with pytest.raises(ValueError, match="no training image"):
        builder.build()
    with pytest.raises(ValueError, match=r"eye/1.png holds values that are not numbers"):
        builder.add(make_scan(), flat(math.nan))
    with pytest.raises(ValueError, match="no training image"):
        builder.build()


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12),
    st.floats(1e-3, 10) | st.none(),
    st.sampled_from([1, 60]),
)
def test_json_round_trip_is_exact(greys, spacing, sizes):
    profile = learn(
        *((make_scan(spacing=(None, None, spacing)), flat(grey)) for grey in greys),
        *((make_scan((1, size, 4)), flat(0.3)) for size in range(1, sizes)),
    )
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict(), allow_nan=False)))
    assert again == profile
    assert sum(profile.histogram) == pytest.approx(1)
    assert 0 <= profile.largest_distance <= 1


def test_a_range_that_normalising_takes_away_is_held_against_the_training_normals():
    def recorded(low, high):
        return replace(make_scan((1, 8, 8)), grey_range=(low, high))

    profile = learn((recorded(0.0, 200.0), flat(0.5)), (recorded(10.0, 160.0), flat(0.5)))
    profile = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert profile.grey_ranges == ((0.0, 10.0), (160.0, 200.0))
    # A quarter of 200 beyond either end: highs of 110 to 250, lows of −50 to 60.
    for inside in ((60.0, 250.0), (-50.0, 110.0)):
        assert warnings(profile, recorded(*inside), flat(0.5)) == []
    for outside in ((61.0, 200.0), (0.0, 109.0), (0.0, 251.0), (-51.0, 200.0)):
        (said,) = warnings(profile, recorded(*outside), flat(0.5))
        assert "scoring stretches both" in said
    assert warnings(profile, make_scan((1, 8, 8)), flat(0.5)) == []  # in the model's own range
