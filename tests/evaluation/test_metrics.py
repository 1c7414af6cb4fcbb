"""Metrics against hand computations and scikit-learn."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from fanogan.evaluation.metrics import (
    delong,
    image_metrics,
    mean_interval,
    resampled_aucs,
    trivial_scores,
)
from fanogan.evaluation.roc import roc_curve_points

LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.4, 0.8, 0.35, 0.7, 0.8, 0.9]


@st.composite
def labelled_scores(draw):
    """Both classes, with many ties."""
    size = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    labels[0], labels[1] = 0, 1
    scores = draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size))
    return np.array(labels), np.array(scores) / 3


def youden(labels, scores):
    return image_metrics(labels, scores, bootstrap=0)["youden"]


def point_at(labels, scores, threshold):
    return image_metrics(labels, scores, bootstrap=0, threshold=threshold)["at_threshold"]


def overlapping_normals(seed=0, n=200, shift=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, generator.normal(size=n) + shift * labels


# Youden's point and operating points


def test_youden_by_hand():
    # J is .25 at .9, .3 at .8, .55 at .7, .35 at .4, .6 at .35, and less below: 4 of 4 anomalous
    # and 2 of 5 normal images are flagged at .35.
    point = youden(LABELS, SCORES)
    assert point["threshold"] == 0.35
    assert point["sensitivity"] == 1
    assert point["specificity"] == pytest.approx(3 / 5)
    assert point["false_positive_rate"] == pytest.approx(2 / 5)
    assert point["precision"] == pytest.approx(4 / 6)
    assert point["f_score"] == pytest.approx(8 / 10)


def test_equally_good_thresholds_give_the_highest():
    # At 4, 3 and 1: sensitivity 1/2, 1, 1 and false positives 0, 1/2, 1; J is 1/2, 1/2, 0.
    assert youden([1, 1, 0, 0], [4, 3, 3, 1])["threshold"] == 4


@given(labelled_scores())
def test_youden_is_the_best_of_all_thresholds(sample):
    labels, scores = sample
    false_positives, sensitivity, _ = roc_curve(labels, scores, drop_intermediate=False)
    point = youden(labels, scores)
    best = (sensitivity - false_positives).max()
    assert point["sensitivity"] - point["false_positive_rate"] == pytest.approx(best)
    assert point == point_at(labels, scores, point["threshold"])


@given(labelled_scores(), st.floats(-2, 2))
def test_point_at_a_threshold_agrees_with_scikit_learn(sample, threshold):
    labels, scores = sample
    flagged = scores >= threshold
    precision, recall, f_score, _ = precision_recall_fscore_support(
        labels, flagged, average="binary", zero_division=np.nan
    )
    point = point_at(labels, scores, threshold)
    assert point["precision"] == (pytest.approx(precision) if flagged.any() else None)
    assert point["sensitivity"] == pytest.approx(recall)
    assert point["f_score"] == pytest.approx(f_score)
    assert point["false_positive_rate"] == pytest.approx(flagged[labels == 0].mean())
    assert point["specificity"] == pytest.approx(1 - flagged[labels == 0].mean())


def test_a_score_equal_to_the_threshold_is_flagged():
    assert point_at([0, 1], [0.0, 0.1 + 0.2], 0.1 + 0.2)["sensitivity"] == 1


def test_nothing_flagged_has_no_precision():
    point = point_at(LABELS, SCORES, math.inf)
    assert (point["sensitivity"], point["specificity"], point["f_score"]) == (0, 1, 0)
    assert point["precision"] is None and point["threshold"] is None


# Image metrics


@given(labelled_scores())
def test_areas_agree_with_scikit_learn_with_ties(sample):
    labels, scores = sample
    result = image_metrics(labels, scores, bootstrap=0)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    inverted = image_metrics(labels, -scores, bootstrap=0)
    assert inverted["auc"] == pytest.approx(1 - result["auc"])


def test_result_is_plain_json():
    result = image_metrics(LABELS, SCORES, bootstrap=50, threshold=math.inf)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_intervals_hold_the_estimate_and_repeat_with_the_seed():
    labels, scores = overlapping_normals()
    first = image_metrics(labels, scores, bootstrap=300)
    assert first == image_metrics(labels, scores, bootstrap=300)
    assert first != image_metrics(labels, scores, bootstrap=300, seed=1)
    for name in ("auc", "average_precision"):
        low, high = first["intervals"][name]
        assert low < first[name] < high


@pytest.mark.parametrize("decimals", [0, 3])
@pytest.mark.parametrize("shift", [1, -5])
def test_each_resample_equals_scikit_learn_on_the_images_drawn(decimals, shift):
    labels, scores = overlapping_normals(n=30, shift=shift)
    scores = scores.round(decimals)
    drawn = np.random.default_rng(5).integers(30, size=(40, 30))
    expected = {
        "auc": [roc_auc_score(labels[row], scores[row]) for row in drawn],
        "average_precision": [average_precision_score(labels[row], scores[row]) for row in drawn],
    }
    intervals = image_metrics(labels, scores, bootstrap=40, seed=5)["intervals"]
    for name, sample in expected.items():
        assert intervals[name] == pytest.approx(np.quantile(sample, [0.025, 0.975]))


def test_interval_covers_the_true_auc_as_often_as_it_says():
    truth = norm.cdf(1 / np.sqrt(2))
    covered = []
    for seed in range(300):
        labels, scores = overlapping_normals(seed, n=120)
        low, high = image_metrics(labels, scores, bootstrap=200, seed=seed)["intervals"]["auc"]
        covered.append(low <= truth <= high)
    # 95 % of 300, three standard errors and the small-sample bias of the percentile on each side.
    assert 0.89 <= np.mean(covered) <= 0.99


def test_equal_images_of_a_subject_do_not_narrow_the_interval():
    labels, scores = overlapping_normals(n=20)
    subjects = [f"eye {number}" for number in range(20)]
    repeated = [np.repeat(values, 10) for values in (labels, scores, subjects)]

    def width(*arguments):
        low, high = image_metrics(*arguments)["intervals"]["auc"]
        return high - low

    by_subject, by_image = width(*repeated), width(*repeated[:2])
    assert by_subject == pytest.approx(width(labels, scores))
    assert by_subject > 2 * by_image
    assert width(labels, scores, subjects) == width(labels, scores)


def test_one_subject_has_no_interval():
    result = image_metrics(LABELS, SCORES, groups=["eye"] * 9)
    assert result["intervals"] == {"auc": None, "average_precision": None}


def test_resamples_with_one_class_are_dropped():
    labels, scores = np.array([1] + [0] * 9), np.arange(10)[::-1]
    kept = resampled_aucs(labels, scores, bootstrap=2000)
    # The only anomalous image is missing from (9/10)^10 = 35 % of the resamples.
    assert len(kept) / 2000 == pytest.approx(1 - 0.9**10, abs=0.05)
    assert image_metrics(labels, scores)["intervals"]["auc"] == [1, 1]


@pytest.mark.parametrize("measure", [image_metrics, resampled_aucs, roc_curve_points])
@pytest.mark.parametrize(
    ("labels", "scores", "sentence"),
    [
        ([0, 0, 0], [1, 2, 3], "All 3 images are labelled normal"),
        ([1, 1, 1], [1, 2, 3], "All 3 images are labelled anomalous"),
        ([0, 1, 1], [1, np.nan, np.inf], "2 of 3 scores are not finite"),
        ([0, 1, 2], [1, 2, 3], "other than 0"),
        ([0, 1], [1, 2, 3], "do not fit"),
        ([], [], "labelled normal"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(measure, labels, scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(labels, scores)


def test_groups_and_thresholds_are_checked():
    with pytest.raises(ValueError, match="2 groups for 9 scores"):
        image_metrics(LABELS, SCORES, groups=["a", "b"])
    with pytest.raises(ValueError, match="threshold is NaN"):
        point_at(LABELS, SCORES, math.nan)


# Curves


def test_a_long_curve_is_thinned_without_losing_its_area():
    labels, scores = overlapping_normals(n=50_000)
    curve = roc_curve_points(labels, scores)
    assert 1000 < curve.thresholds.size <= 2000
    assert (curve.false_positive_rate[0], curve.sensitivity[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.sensitivity[-1]) == (1, 1)
    area = auc(curve.false_positive_rate, curve.sensitivity)
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)


def test_a_short_curve_is_kept():
    curve = roc_curve_points(LABELS, SCORES)
    assert auc(*curve[:2]) == pytest.approx(roc_auc_score(LABELS, SCORES))


def test_trivial_scores_by_hand():
    # Rows differ by 4 everywhere, columns by 2 everywhere.
    scores = trivial_scores(np.array([[0, 2], [4, 6]], dtype=np.uint8))
    assert scores == {
        "brightness": 3.0,
        "darkness": -3.0,
        "low_contrast": pytest.approx(-np.std([0, 2, 4, 6])),
        "low_gradient": -3.0,
    }


def test_unsigned_pixels_do_not_wrap_and_channels_are_not_neighbours():
    falling = np.array([[200, 100], [200, 100]], dtype=np.uint8)
    assert trivial_scores(falling)["low_gradient"] == -50
    colours = np.broadcast_to([0.0, 0.5, 1.0], (3, 3, 3))
    assert trivial_scores(colours)["low_gradient"] == 0
    assert trivial_scores(colours)["brightness"] == pytest.approx(0.5)


def test_the_neighbours_of_a_signal_are_those_along_its_one_row():
    assert trivial_scores(np.array([[0.0, 2.0, 1.0, 1.0]]))["low_gradient"] == -1


@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((5, 1)), np.full((3, 3), np.nan)])
def test_trivial_scores_refuse_what_has_none(image):
    with pytest.raises(ValueError, match="image"):
        trivial_scores(image)


def test_trivial_scores_on_pneumonia():
    folder = Path(os.environ.get("FANOGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = folder / "pneumoniamnist.npz"
    if not file.exists():
        pytest.skip("no pneumoniamnist.npz: set FANOGAN_DATA to the folder that holds it")
    with np.load(file) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"].ravel()
    scores = [trivial_scores(image) for image in images]
    reached = {name: roc_auc_score(labels, [score[name] for score in scores]) for name in scores[0]}
    # A gradient along the rows axis alone reaches .88; both directions are the harder bar.
    assert reached["low_gradient"] > 0.88
    assert reached["low_contrast"] == pytest.approx(0.83, abs=0.01)


# Two scores compared


def test_the_paired_bootstrap_is_that_of_drawing_subjects_by_hand() -> None:
    random = np.random.default_rng(3)
    groups = [f"subject {number}" for number in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)]
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 1, 0, 1])
    first, second = labels + random.normal(size=10), random.normal(size=10)
    resampled = resampled_aucs(labels, np.stack([first, second]), groups, bootstrap=300, seed=5)
    drawn = np.random.default_rng(5).integers(5, size=(300, 5))
    differences = []
    for subjects in drawn:
        images = np.concatenate([[2 * subject, 2 * subject + 1] for subject in subjects])
        if 0 < labels[images].sum() < len(images):
            aucs = [roc_auc_score(labels[images], scores[images]) for scores in (first, second)]
            differences.append(aucs[0] - aucs[1])
    found = resampled[:, 0] - resampled[:, 1]
    np.testing.assert_allclose(found, differences)
    expected = np.quantile(differences, [0.025, 0.975])
    assert mean_interval(found[:, np.newaxis]) == pytest.approx(expected)


def test_a_score_doesnt_differ_from_one_that_orders_alike() -> None:
    labels, scores = np.array([0, 0, 1, 1, 0, 1]), np.arange(6.0)
    resampled = resampled_aucs(labels, np.stack([scores, np.exp(scores)]))
    np.testing.assert_array_equal(resampled[:, 0], resampled[:, 1])
    assert delong(labels, scores, np.exp(scores)) == (0.0, 0.0, 1.0)


def test_no_resamples_give_no_interval() -> None:
    assert mean_interval(np.empty((0, 2))) is None


def test_trainings_that_differ_widen_the_interval_of_their_mean() -> None:
    resampled = np.random.default_rng(0).normal(0, 0.01, size=(1000, 1)).repeat(3, 1)
    apart = resampled + np.array([-0.1, 0, 0.1])
    low, high = mean_interval(resampled)
    assert mean_interval(apart)[0] < low - 0.05 and mean_interval(apart)[1] > high + 0.05
    # Of three values −.1, 0, .1 the mean of three drawn with replacement is −.1 or below as often
    # as all three are the least: 1 in 27, which is more than the 2.5 % of the interval's edge.
    assert mean_interval(np.tile([-0.1, 0.0, 0.1], (20_000, 1))) == pytest.approx([-0.1, 0.1])


def test_delong_is_the_sum_over_all_pairs() -> None:
    random = np.random.default_rng(1)
    labels = np.array([1] * 8 + [0] * 11)
    first = np.round(labels + random.normal(size=19), 1)
    second = np.round(0.5 * labels + random.normal(size=19), 1)

    def placed(scores):
        anomalous, normal = scores[labels == 1][:, None], scores[labels == 0][None]
        return (anomalous > normal) + 0.5 * (anomalous == normal)

    pairs = placed(first) - placed(second)
    variance = pairs.mean(1).var(ddof=1) / 8 + pairs.mean(0).var(ddof=1) / 11
    found = delong(labels, first, second)
    assert found.difference == pytest.approx(pairs.mean())
    assert found.standard_error == pytest.approx(np.sqrt(variance))
    z = abs(pairs.mean()) / np.sqrt(variance)
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_delong_refuses_a_class_of_one() -> None:
    with pytest.raises(ValueError, match="two images of each class"):
        delong([0, 0, 1], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
