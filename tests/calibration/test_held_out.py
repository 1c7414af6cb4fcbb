"""Conformal p-values, thresholds, subjects held out, the colour scale."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanogan.calibration.held_out import (
    MAP_QUANTILE,
    Calibration,
    HeldOut,
    held_out_needed,
    split_subjects,
)
from fanogan.calibration.histogram import ResidualHistogram

finite = st.floats(-1e6, 1e6, allow_nan=False)
# Few distinct values, so that ties are common.
tied = st.integers(0, 6).map(float)
rates = st.sampled_from([0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7, 1 / 3, 1 / 7, 0.9])


def held_out(scores, subjects=None):
    groups = [f"s{i}" for i in range(len(scores))] if subjects is None else subjects
    return HeldOut(np.asarray(scores, dtype=float), tuple(groups))


def test_p_values_by_hand():
    normals = held_out([0.3, 0.1, 0.2, 0.2])
    scores = [0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.31, math.inf]
    expected = [5 / 5, 5 / 5, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5, 1 / 5]
    assert normals.p_values(scores).tolist() == expected
    assert [normals.p_value(score) for score in scores] == expected


def test_p_values_keep_the_shape():
    assert held_out([1, 2]).p_values(np.zeros((2, 3))).shape == (2, 3)


def test_p_value_with_nothing_held_out_is_one():
    nothing = held_out([])
    assert nothing.p_value(7.0) == 1.0
    assert nothing.threshold(0.5) is None
    assert nothing.describe(0.05).startswith("too few held out: 0 held-out images of 0 subjects")


@pytest.mark.parametrize(
    ("alpha", "needed"),
    [(0.05, 19), (0.1, 9), (0.01, 99), (0.001, 999), (0.3, 3), (0.5, 1), (0.9, 1), (1 / 3, 2)],
)
def test_held_out_needed(alpha, needed):
    assert held_out_needed(alpha) == needed


def test_held_out_needed_is_exact_where_the_reciprocal_is_rounded():
    # 1 / (1 / m) is not m for some of these.
    assert [held_out_needed(1 / m) for m in range(2, 5000)] == list(range(1, 4999))
    assert [held_out_needed(i / 1000) for i in range(1, 1000)] == [
        math.ceil(1 / Fraction(i, 1000)) - 1 for i in range(1, 1000)
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.01, 0.025])
def test_flags_begin_at_the_smallest_sufficient_number(alpha):
    needed = held_out_needed(alpha)
    short, enough, more = (held_out(range(n)) for n in (needed - 1, needed, needed + 1))
    assert short.threshold(alpha) is None
    assert short.flag(1e9, alpha) is None
    assert short.flags([1e9, 0], alpha) is None
    for normals in (enough, more):
        largest = normals.n - 1.0
        assert normals.threshold(alpha) == largest
        assert normals.flags([largest, np.nextafter(largest, 1e9)], alpha) == [False, True]
    assert enough.p_value(1e9) == alpha


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [
        (18, 0.05, None),
        (19, 0.05, 1),
        (20, 0.05, 1),
        (38, 0.05, 1),
        (39, 0.05, 2),
        (18, 0.1, 1),
        (19, 0.1, 2),
        (20, 0.1, 2),
        (29, 0.1, 3),
        (98, 0.01, None),
        (99, 0.01, 1),
        (299, 0.01, 3),
        (19, 0.15, 3),
        (19, 0.35, 7),
        (99, 0.29, 29),
        (2, 1 / 3, 1),
    ],
)
def test_threshold_is_the_kth_largest(n, alpha, rank):
    threshold = held_out(np.random.default_rng(n).permutation(n)).threshold(alpha)
    assert threshold == (None if rank is None else float(n - rank))


@pytest.mark.parametrize("percent", range(1, 100))
def test_rank_is_exact_for_every_whole_percent(percent):
    n = 999
    rank = math.floor(Fraction(percent, 100) * (n + 1))
    assert held_out(range(n)).threshold(percent / 100) == n - rank


def test_a_tie_with_the_threshold_is_not_flagged():
    normals = held_out([0.0] * 10 + [1.0] * 9)
    assert normals.threshold(0.05) == 1.0
    assert normals.threshold(0.1) == 1.0
    assert normals.flag(1.0, 0.1) is False
    assert normals.flag(1.0, 0.5) is True
    assert normals.threshold(0.5) == 0.0


@given(st.lists(tied, max_size=60), st.lists(tied, min_size=1, max_size=20), rates)
def test_threshold_flag_and_p_value_agree(scores, new, alpha):
    normals = held_out(scores)
    threshold, flags = normals.threshold(alpha), normals.flags(new, alpha)
    if len(scores) < held_out_needed(alpha):
        assert threshold is None
        assert flags is None
        assert (normals.p_values(new) > alpha).all()
    else:
        assert flags == [score > threshold for score in new]
        assert flags == [p <= alpha for p in normals.p_values(new).tolist()]
        assert flags == [normals.flag(score, alpha) for score in new]


@given(st.lists(finite, max_size=40), finite, finite)
def test_p_values_fall_as_scores_rise_and_stay_in_range(scores, one, other):
    normals = held_out(scores)
    low, high = sorted((one, other))
    assert 1 / (normals.n + 1) <= normals.p_value(high) <= normals.p_value(low) <= 1


@given(
    st.one_of(st.lists(tied, min_size=2, max_size=40), st.lists(finite, min_size=2, max_size=40))
)
def test_p_values_of_exchangeable_normals_are_super_uniform(scores):
    # Each of n + 1 exchangeable scores is equally likely to be the new one, so that the share of
    # them with p <= alpha is the exact false-positive rate, ties included.
    p_values = np.array(
        [held_out(scores[:i] + scores[i + 1 :]).p_value(s) for i, s in enumerate(scores)]
    )
    for alpha in np.unique(p_values):
        assert np.mean(p_values <= alpha) <= alpha


def test_false_positive_rate_reached_in_a_simulation():
    rng = np.random.default_rng(0)
    flagged = {0.05: [], 0.1: [], 0.2: []}
    for _ in range(400):
        normals = held_out(rng.gamma(2, size=59))
        new = rng.gamma(2, size=50)
        for alpha, rows in flagged.items():
            rows.append(np.mean(normals.flags(new, alpha)))
    for alpha, rows in flagged.items():
        error = np.std(rows) / np.sqrt(len(rows))
        # alpha * 60 is whole, so the rate is met exactly and not only bounded.
        assert abs(np.mean(rows) - alpha) < 4 * error


def test_each_subject_counts_once_by_hand():
    # Shares of scores at least as high: of a with 4 images, b with 2, c with 1.
    normals = held_out([1, 2, 3, 4, 2, 5, 3], [*"aaaabbc"])
    scores = [0, 1.5, 2, 3, 3.5, 4.5, 5, 6]
    shares = [(1, 1, 1), (3 / 4, 1, 1), (3 / 4, 1, 1), (2 / 4, 1 / 2, 1)]
    shares += [(1 / 4, 1 / 2, 0), (0, 1 / 2, 0), (0, 1 / 2, 0), (0, 0, 0)]
    assert normals.p_values(scores).tolist() == [(1 + sum(share)) / 4 for share in shares]
    assert normals.threshold(0.24) is None
    assert normals.threshold(1 / 4) == 5  # only above all is p = 1/4
    assert normals.threshold(0.4) == 4  # above 4 alone b's 5 is left, and p = 1.5/4 = .375
    assert normals.flags([4, 4.5], 0.4) == [False, True]


@pytest.mark.parametrize(("subjects", "images"), [(3, 20), (19, 7), (40, 30), (60, 5)])
def test_new_subjects_are_flagged_no_more_than_asked(subjects, images):
    # Scores with a random intercept for each subject: most of the spread lies between subjects, and
    # they differ in how many images they have. The rank among images alone flags .17 with three.
    rng = np.random.default_rng(subjects)
    rates = {0.05: [], 0.25: []}
    for _ in range(1500):
        counts = rng.integers(1, images + 1, subjects)
        groups = np.repeat(np.arange(subjects), counts).astype(str)
        scores = np.repeat(rng.normal(0, 2, subjects), counts) + rng.normal(0, 1, counts.sum())
        normals = held_out(scores, groups.tolist())
        new = rng.normal(0, 2) + rng.normal(0, 1, images)
        for alpha, found in rates.items():
            found.append(np.mean(normals.flags(new, alpha) or [False]))
    for alpha, found in rates.items():
        error = np.std(found) / np.sqrt(len(found))
        assert np.mean(found) <= alpha + 3 * error
        enough = subjects >= held_out_needed(alpha)
        assert (np.mean(found) > 0) == enough  # and where it can, it does flag


def test_three_subjects_give_no_flag_however_many_images_they_have():
    normals = held_out(np.arange(60) / 60, [f"eye {i // 20}" for i in range(60)])
    assert normals.threshold(0.05) is None
    assert normals.flags([9.0], 0.05) is None
    assert normals.p_value(9.0) == 1 / 4


@given(st.lists(st.tuples(tied, st.sampled_from("abcdefg")), max_size=60), rates)
def test_threshold_flag_and_p_value_agree_with_several_images_a_subject(pairs, alpha):
    normals = held_out([score for score, _ in pairs], [group for _, group in pairs])
    new = np.arange(-1, 9) / 1.0
    threshold, flags = normals.threshold(alpha), normals.flags(new, alpha)
    if threshold is None:
        assert flags is None and normals.n_subjects < held_out_needed(alpha)
    else:
        assert flags == [score > threshold for score in new]


def test_describe_says_how_much_and_on_what_evidence():
    scores = np.arange(1, 148) / 4000
    normals = held_out(scores, [f"eye {i % 21}" for i in range(147)])
    assert (normals.n, normals.n_subjects) == (147, 21)
    # Of 21 subjects with 7 images each one image may lie above: (1 + 1/7) / 22 > .05 >= 1 / 22.
    threshold = normals.threshold(0.05)
    assert threshold == scores[-1]
    assert normals.describe(0.05) == (
        f"above {threshold:.4g} is flagged: at most 5 % of normal images of new subjects expected "
        "(147 held-out images of 21 subjects)"
    )
    assert "5 % of normal volumes expected (20 held-out volumes of 20 subjects)" in held_out(
        range(20)
    ).describe(0.05, unit="volume")


def test_describe_says_too_few():
    normals = held_out(range(12), ["a", "b"] * 6)
    assert normals.describe(0.05) == (
        "too few held out: 12 held-out images of 2 subjects can show no p-value below 1/3; a "
        "false-positive rate of 5 % needs 19 subjects, so no flag is given"
    )
    one = held_out([1]).describe(0.01, unit="volume")
    assert "1 held-out volume of 1 subject can show no p-value below 1/2" in one
    assert "1 % needs 99 subjects" in one


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, math.nan])
def test_an_impossible_rate_is_refused(alpha):
    for ask in (held_out([1]).threshold, held_out([1]).describe, held_out_needed):
        with pytest.raises(ValueError, match="false-positive rate"):
            ask(alpha)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="'eye 2' is not finite"):
        held_out([1.0, math.nan], ["eye 1", "eye 2"])
    with pytest.raises(ValueError, match="no p-value"):
        held_out([1.0]).p_values([0.0, math.nan])
    with pytest.raises(ValueError, match="one subject for each"):
        held_out([1.0, 2.0], ["only one"])


def test_held_out_scores_cannot_be_changed_afterwards():
    scores = np.array([1.0, 2.0])
    normals = HeldOut(scores, ("a", "b"))
    scores[0] = 9
    assert normals.scores.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        normals.scores[0] = 9


@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3))))
def test_json_round_trip_is_exact(pairs):
    normals = held_out([score for score, _ in pairs], [group for _, group in pairs])
    calibration = Calibration({"image": normals, "volume": held_out([0.1])}, map_scale=0.1 + 0.2)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
    assert again == calibration
    assert again.units["image"].scores.tobytes() == normals.scores.tobytes()


def test_equality_sees_scores_and_groups():
    assert held_out([1, 2]) == held_out([1, 2])
    assert held_out([1, 2]) != held_out([1, 3])
    assert held_out([1, 2], "ab") != held_out([1, 2], "ac")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_colour_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="colour scale"):
        Calibration({}, scale)


@given(
    st.lists(st.sampled_from([f"subject {i}" for i in range(40)]), min_size=2, max_size=200),
    st.sampled_from([0.1, 0.25, 0.5, 0.99]),
    st.integers(0, 5),
)
def test_split_holds_out_whole_subjects(groups, share, seed):
    subjects = set(groups)
    if len(subjects) < 2:
        return
    chosen = split_subjects(groups, share, seed)
    out = {group for group, held in zip(groups, chosen, strict=True) if held}
    kept = {group for group, held in zip(groups, chosen, strict=True) if not held}
    assert chosen.dtype == np.bool_
    assert not out & kept
    assert kept
    assert len(out) == min(max(1, round(share * len(subjects))), len(subjects) - 1)


@pytest.mark.parametrize(("subjects", "expected"), [(2, 1), (10, 1), (24, 2), (26, 3), (100, 10)])
def test_split_takes_a_tenth_of_the_subjects(subjects, expected):
    groups = [f"s{i:03}" for i in range(subjects) for _ in range(1 + i % 3)]
    chosen = split_subjects(groups)
    assert len({g for g, held in zip(groups, chosen, strict=True) if held}) == expected


def test_split_depends_on_names_and_seed_alone():
    groups = [f"s{i}" for i in range(50)]
    out = {g for g, held in zip(groups, split_subjects(groups), strict=True) if held}
    # Written down once: the split of a published result must not move with a library's version.
    assert out == {"s6", "s13", "s43", "s29", "s27"}
    backwards = [*groups[::-1], "s13", "s1"]
    assert {g for g, h in zip(backwards, split_subjects(backwards), strict=True) if h} == out
    assert split_subjects(groups, seed=1).tolist() != split_subjects(groups, seed=0).tolist()


def test_split_gives_every_subject_a_fair_chance():
    groups = [f"s{i}" for i in range(20)]
    times = sum(split_subjects(groups, seed=seed).astype(int) for seed in range(1000))
    # 1000 draws of 2 of 20: 100 each, standard deviation 9.5.
    assert (np.abs(times - 100) < 45).all()


@pytest.mark.parametrize("groups", [[], ["only"], ["only"] * 7])
def test_split_needs_two_subjects(groups):
    with pytest.raises(
        ValueError, match=r"at least two subjects are needed.*calibration.*--groups"
    ):
        split_subjects(groups)


@pytest.mark.parametrize("share", [0, 1, -1, math.nan])
def test_split_refuses_an_impossible_share(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_subjects(["a", "b"], share)


@given(
    st.lists(st.floats(0, 2, width=32), min_size=1, max_size=300),
    st.sampled_from([0.001, 0.07, 0.5, 0.9, MAP_QUANTILE, 1.0]),
)
def test_quantile_is_as_accurate_as_it_says(values, q):
    residuals = np.array(values, dtype=np.float32)
    histogram = ResidualHistogram()
    for part in np.array_split(residuals, 3):
        histogram.update(part)
    exact = np.quantile(residuals.astype(float), q, method="inverted_cdf")
    assert exact - 1e-12 <= histogram.quantile(q) <= exact + 1 / 10_000 + 1e-12


def test_quantile_by_hand():
    histogram = ResidualHistogram()
    histogram.update(np.full((10, 10), 0.25005))
    histogram.update(np.full((1, 100), 1.00005))
    assert histogram.quantile(0.5) == pytest.approx(0.2501)
    assert histogram.quantile(0.501) == pytest.approx(1.0001)
    assert histogram.quantile(1.0) == pytest.approx(1.0001)


def test_quantile_of_perfect_reconstructions_can_still_be_divided_by():
    histogram = ResidualHistogram()
    histogram.update(np.zeros((4, 4)))
    assert Calibration({}, histogram.quantile(MAP_QUANTILE)).map_scale == pytest.approx(1e-4)


def test_histogram_allows_a_rounding_error_and_no_more():
    histogram = ResidualHistogram()
    histogram.update(np.array([-1e-7, 2 + 1e-6]))
    assert histogram.quantile(1.0) == 2.0
    for wrong in (math.nan, -0.1, 2.1, math.inf):
        with pytest.raises(ValueError, match="residuals"):
            histogram.update([0.5, wrong])
    assert histogram.quantile(0.5) == pytest.approx(1e-4)


def test_quantile_refuses_what_it_cannot_answer():
    histogram = ResidualHistogram()
    histogram.update(np.empty((0, 4)))
    with pytest.raises(ValueError, match="no residual"):
        histogram.quantile(0.5)
    for q in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="no quantile"):
            histogram.quantile(q)
