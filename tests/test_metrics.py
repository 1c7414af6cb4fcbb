"""Metrics against hand computations, scikit-learn and scikit-image."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from fanogan.metrics import (
    PixelROC,
    RegionOverlap,
    image_metrics,
    operating_point,
    region_overlap,
    roc_curve_points,
    score_histograms,
    trivial_scores,
    youden,
)

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


def residuals(seed=0, pixels=200_000, share=0.03):
    """Skewed float residuals in [0, 2], most of them tiny, and a mask of the larger ones."""
    generator = np.random.default_rng(seed)
    mask = generator.random(pixels) < share
    values = np.where(
        mask, generator.gamma(1.2, 0.1, pixels), generator.gamma(0.4, 0.05, pixels)
    ).clip(0, 2)
    return values.astype(np.float32), mask


def overlapping_normals(seed=0, n=200, shift=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, generator.normal(size=n) + shift * labels


# Youden's point and operating points


def test_youden_by_hand():
    # J is .25 at .9, .3 at .8, .55 at .7, .35 at .4, .6 at .35, and less below: 4 of 4 anomalous
    # and 2 of 5 normal images are flagged at .35.
    point = youden(LABELS, SCORES)
    assert point.threshold == 0.35
    assert point.sensitivity == 1
    assert point.specificity == pytest.approx(3 / 5)
    assert point.false_positive_rate == pytest.approx(2 / 5)
    assert point.precision == pytest.approx(4 / 6)
    assert point.f_score == pytest.approx(8 / 10)


def test_equally_good_thresholds_give_the_highest():
    # At 4, 3 and 1: sensitivity 1/2, 1, 1 and false positives 0, 1/2, 1; J is 1/2, 1/2, 0.
    assert youden([1, 1, 0, 0], [4, 3, 3, 1]).threshold == 4


@given(labelled_scores())
def test_youden_is_the_best_of_all_thresholds(sample):
    labels, scores = sample
    false_positives, sensitivity, _ = roc_curve(labels, scores, drop_intermediate=False)
    point = youden(labels, scores)
    best = (sensitivity - false_positives).max()
    assert point.sensitivity - point.false_positive_rate == pytest.approx(best)
    assert point == operating_point(labels, scores, point.threshold)


@given(labelled_scores(), st.floats(-2, 2))
def test_operating_point_agrees_with_scikit_learn(sample, threshold):
    labels, scores = sample
    flagged = scores >= threshold
    precision, recall, f_score, _ = precision_recall_fscore_support(
        labels, flagged, average="binary", zero_division=np.nan
    )
    point = operating_point(labels, scores, threshold)
    assert point.precision == pytest.approx(precision, nan_ok=True)
    assert point.sensitivity == pytest.approx(recall)
    assert point.f_score == pytest.approx(f_score)
    assert point.false_positive_rate == pytest.approx(flagged[labels == 0].mean())
    assert point.specificity == pytest.approx(1 - flagged[labels == 0].mean())


def test_a_score_equal_to_the_threshold_is_flagged():
    assert operating_point([0, 1], [0.0, 0.1 + 0.2], 0.1 + 0.2).sensitivity == 1


def test_nothing_flagged_has_no_precision():
    point = operating_point(LABELS, SCORES, math.inf)
    assert math.isnan(point.precision)
    assert (point.sensitivity, point.specificity, point.f_score) == (0, 1, 0)
    assert point.as_dict()["precision"] is None and point.as_dict()["threshold"] is None
    json.dumps(point.as_dict(), allow_nan=False)


# Image metrics


@given(labelled_scores())
def test_areas_agree_with_scikit_learn_with_ties(sample):
    labels, scores = sample
    result = image_metrics(labels, scores, bootstrap=0)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    inverted = image_metrics(labels, -scores, bootstrap=0)
    assert inverted["auc"] == pytest.approx(1 - result["auc"])


def test_result_states_prevalence_and_is_plain_json():
    result = image_metrics(LABELS, SCORES, bootstrap=50, threshold=0.85)
    assert (result["n"], result["n_anomalous"]) == (9, 4)
    assert result["prevalence"] == pytest.approx(4 / 9)
    assert result["youden"] == youden(LABELS, SCORES).as_dict()
    assert result["at_threshold"] == operating_point(LABELS, SCORES, 0.85).as_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_intervals_hold_the_estimate_and_repeat_with_the_seed():
    labels, scores = overlapping_normals()
    first = image_metrics(labels, scores, bootstrap=300, threshold=1.0)
    assert first == image_metrics(labels, scores, bootstrap=300, threshold=1.0)
    assert first != image_metrics(labels, scores, bootstrap=300, threshold=1.0, seed=1)
    for name in ("auc", "average_precision"):
        low, high = first["intervals"][name]
        assert low < first[name] < high
    for name in ("youden", "at_threshold"):
        for field, interval in first["intervals"][name].items():
            assert interval[0] <= first[name][field] <= interval[1], field
    assert "threshold" not in first["intervals"]["at_threshold"]


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
    points = [youden(labels[row], scores[row]).as_dict() for row in drawn]
    intervals = image_metrics(labels, scores, bootstrap=40, seed=5)["intervals"]
    for name, sample in expected.items():
        assert intervals[name] == pytest.approx(np.quantile(sample, [0.025, 0.975]))
    for field, interval in intervals["youden"].items():
        sample = [point[field] for point in points]
        assert interval == pytest.approx(np.quantile(sample, [0.025, 0.975])), field


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


def test_the_unit_of_resampling_is_named():
    labels, scores = overlapping_normals(n=20)
    assert image_metrics(labels, scores)["bootstrap"]["unit"] == "image"
    assert image_metrics(labels, scores, list(range(20)))["bootstrap"]["unit"] == "image"
    by_subject = image_metrics(labels, scores, [number // 2 for number in range(20)])["bootstrap"]
    assert (by_subject["unit"], by_subject["units"]) == ("subject", 10)


def test_one_subject_has_no_interval():
    result = image_metrics(LABELS, SCORES, groups=["eye"] * 9)
    assert result["intervals"] == {"auc": None, "average_precision": None, "youden": None}
    assert (result["bootstrap"]["resamples"], result["bootstrap"]["units"]) == (0, 1)


def test_resamples_with_one_class_are_dropped_and_counted():
    labels = np.array([1] + [0] * 9)
    result = image_metrics(labels, np.arange(10)[::-1], bootstrap=2000)
    # The only anomalous image is missing from (9/10)^10 = 35 % of the resamples.
    assert result["bootstrap"]["dropped"] / 2000 == pytest.approx(0.9**10, abs=0.05)
    assert result["intervals"]["auc"] == [1, 1]


@pytest.mark.parametrize("measure", [youden, image_metrics, roc_curve_points, score_histograms])
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
        operating_point(LABELS, SCORES, math.nan)


# Curves and histograms


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


def test_histograms_share_edges_and_sum_to_one():
    labels, scores = overlapping_normals(n=1001)
    histograms = score_histograms(labels, scores, bins=30)
    assert histograms.edges.size == 31
    assert histograms.normal.sum() == pytest.approx(1)
    assert histograms.anomalous.sum() == pytest.approx(1)
    assert (histograms.below, histograms.above) == (0, 0)
    assert (histograms.edges[0], histograms.edges[-1]) == (scores.min(), scores.max())
    inside = (scores >= histograms.edges[9]) & (scores < histograms.edges[10])
    assert histograms.normal[9] == pytest.approx(inside[labels == 0].mean())


def test_an_outlier_does_not_stretch_the_axis_and_is_counted():
    labels, scores = overlapping_normals(n=400)
    scores[1], scores[0] = 1e6, -1e6
    histograms = score_histograms(labels, scores)
    assert histograms.edges[0] > -20 and histograms.edges[-1] < 20
    assert (histograms.below, histograms.above) == (1, 1)
    assert histograms.anomalous[-1] >= 1 / 200 and histograms.normal[0] >= 1 / 200


def test_equal_scores_have_a_histogram():
    histograms = score_histograms([0, 1], [3.0, 3.0], bins=4)
    assert histograms.normal.sum() == histograms.anomalous.sum() == 1
    assert histograms.edges[0] < 3 < histograms.edges[-1]


# Trivial scores


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


@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((1, 5)), np.full((3, 3), np.nan)])
def test_trivial_scores_refuse_what_has_none(image):
    with pytest.raises(ValueError, match="image"):
        trivial_scores(image)


def test_trivial_scores_on_pneumonia():
    folder = Path(os.environ.get("FANOGAN_DATA", Path(__file__).parents[2] / "shared" / "data"))
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


# Pixel ROC


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_roc_agrees_with_the_exact_area(dtype):
    values, mask = residuals()
    values = values.astype(dtype)
    roc = PixelROC()
    for part in range(0, values.size, 4000):
        shape = (1, 40, 100)
        roc.update(
            values[part : part + 4000].reshape(shape), mask[part : part + 4000].reshape(shape)
        )
    exact = roc_auc_score(mask, values)
    assert roc.auc() == pytest.approx(exact, abs=1e-4)
    assert abs(roc.auc() - exact) <= roc.auc_error() + 1e-12
    assert (roc.pixels, roc.anomalous_pixels, roc.clipped) == (mask.size, mask.sum(), 0)


def test_pixel_roc_resolves_tiny_residuals():
    values, mask = residuals()
    roc = PixelROC()
    roc.update(values / 1000, mask)
    assert roc.auc() == pytest.approx(roc_auc_score(mask, values), abs=1e-4)


@settings(max_examples=50)
@given(labelled_scores(), st.integers(2, 40))
def test_pixel_roc_error_is_bounded_with_any_bins(sample, bins):
    labels, values = sample
    roc = PixelROC(bins=bins, low=-1.0, high=1.5)
    roc.update(values, labels)
    assert abs(roc.auc() - roc_auc_score(labels, values)) <= roc.auc_error() + 1e-12


def test_pixel_youden_and_curve_agree_with_the_unbinned_ones():
    values, mask = residuals(pixels=50_000)
    roc = PixelROC()
    roc.update(values, mask)
    exact, point = youden(mask, values), roc.youden()
    assert point.threshold == pytest.approx(exact.threshold, abs=1e-4)
    assert point.sensitivity == pytest.approx(exact.sensitivity, abs=1e-3)
    assert point.precision == pytest.approx(exact.precision, abs=1e-3)
    reached = operating_point(mask, values, point.threshold)
    assert reached.false_positive_rate == pytest.approx(point.false_positive_rate, abs=1e-3)
    curve = roc.curve()
    assert curve.thresholds.size <= 2000 and curve.thresholds[0] == math.inf
    assert (curve.sensitivity[0], curve.sensitivity[-1]) == (0, 1)
    assert auc(*curve[:2]) == pytest.approx(roc.auc(), abs=1e-4)


def test_merged_pixel_rocs_equal_one_pass():
    values, mask = residuals(pixels=20_000)
    whole, first, second = PixelROC(), PixelROC(), PixelROC()
    whole.update(values, mask)
    first.update(values[:5000], mask[:5000])
    second.update(values[5000:], mask[5000:])
    first.merge(second)
    assert first.auc() == whole.auc()
    assert first.youden() == whole.youden()
    assert first.pixels == whole.pixels
    with pytest.raises(ValueError, match="cannot be merged"):
        first.merge(PixelROC(bins=10))


def test_only_valid_pixels_count():
    values, mask = residuals(pixels=10_000)
    valid = np.arange(values.size) % 3 != 0
    spoilt = np.where(valid, values, np.nan)
    roc, expected = PixelROC(), PixelROC()
    roc.update(spoilt, mask, valid=valid)
    expected.update(values[valid], mask[valid])
    assert roc.auc() == expected.auc()
    roc.update(spoilt, mask, valid=np.zeros_like(valid))
    assert roc.pixels == valid.sum()


def test_values_outside_the_range_are_clipped_and_counted():
    roc = PixelROC(low=0.0, high=1.0)
    roc.update([-0.5, 0.5, 1.0, 3.0], [0, 0, 1, 1])
    assert roc.clipped == 2
    assert roc.auc() == 1
    roc.merge(roc)
    assert roc.clipped == 4


def test_memory_of_a_pixel_roc_does_not_grow():
    values, mask = residuals(pixels=10_000)
    roc = PixelROC()
    sizes = set()
    for _ in range(3):
        roc.update(values, mask)
        sizes.add(sum(item.nbytes for item in vars(roc).values() if isinstance(item, np.ndarray)))
    assert sizes == {2 * 65_536 * 8}


def test_pixel_roc_refuses_bad_input():
    roc = PixelROC()
    with pytest.raises(ValueError, match="does not fit"):
        roc.update(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="threshold it first"):
        roc.update([0.1, 0.2], [0, 255])
    with pytest.raises(ValueError, match="not finite"):
        roc.update([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match="low < high"):
        PixelROC(low=1.0, high=1.0)
    roc.update([0.1, 0.2], [0, 0])
    for measure in (roc.auc, roc.auc_error, roc.curve, roc.youden):
        with pytest.raises(ValueError, match="no anomalous pixel"):
            measure()


# Regions


def drawn(*rows):
    return np.array([[int(cell) for cell in row] for row in rows])


MASK = drawn("1100000", "1100000", "0000011", "0000000", "0110000")
MAP = drawn("1100030", "0000000", "0000111", "0200000", "0000000") / 2


def test_region_overlap_by_hand():
    # Flagged at 0.5: 2 + 1 + 3 + 1 pixels in four regions. The lower lesion's (4, 1) and (4, 2) are
    # next to the flagged (3, 1) and not touched by it.
    overlap = region_overlap(MAP, MASK, 0.5)
    assert (overlap.flagged_pixels, overlap.lesion_pixels, overlap.common_pixels) == (7, 8, 4)
    assert (overlap.lesions, overlap.detected, overlap.false_regions) == (3, 2, 2)
    assert overlap.dice == pytest.approx(8 / 15)
    assert overlap.iou == pytest.approx(4 / 11)
    assert overlap.lesion_sensitivity == pytest.approx(2 / 3)


def test_one_region_over_two_lesions_detects_both():
    overlap = region_overlap(np.ones((1, 5)), drawn("10001"), 1.0)
    assert (overlap.lesions, overlap.detected, overlap.false_regions) == (2, 2, 0)


def test_diagonal_neighbours_are_one_lesion_in_a_volume_too():
    assert region_overlap(np.zeros((2, 2, 2)), np.eye(2)[:, :, None] * [1, 0], 1.0).lesions == 1


def test_regions_add_up_over_images():
    regions = RegionOverlap(threshold=0.5)
    regions.update(MAP, MASK)
    regions.update(MAP[:3], np.zeros((3, 7)))
    result = regions.result()
    assert (result["images"], result["images_with_lesion"]) == (2, 1)
    assert (result["lesions"], result["lesions_detected"]) == (3, 2)
    assert result["false_regions"] == 2 + 3
    assert result["false_regions_per_image"] == 2.5
    assert result["dice"] == pytest.approx(2 * 4 / (7 + 6 + 8))
    assert result["iou"] == pytest.approx(4 / (7 + 6 + 8 - 4))
    assert result["mean_dice"] == pytest.approx(8 / 15)
    json.dumps(result, allow_nan=False)


def test_undefined_region_numbers_are_none():
    regions = RegionOverlap(threshold=0.5)
    assert regions.result()["false_regions_per_image"] is None
    regions.update(np.zeros((3, 3)), np.zeros((3, 3)))
    result = regions.result()
    assert result["dice"] is result["iou"] is result["lesion_sensitivity"] is None
    assert result["mean_dice"] is None
    assert result["false_regions_per_image"] == 0


def test_region_overlap_refuses_bad_input():
    with pytest.raises(ValueError, match="not finite"):
        region_overlap(np.array([[np.nan]]), np.array([[1]]), 0.5)
    with pytest.raises(ValueError, match="does not fit"):
        region_overlap(np.zeros((2, 2)), np.zeros((2, 3)), 0.5)


def test_importing_metrics_is_light():
    heavy = "{'torch', 'sklearn', 'skimage', 'scipy', 'matplotlib'}"
    code = f"import sys, fanogan.metrics; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr
