"""Pixel ROC and region overlap against hand computations, scikit-learn and the unbinned values."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score

from fanogan.evaluation.localization import PixelROC, RegionOverlap
from fanogan.evaluation.metrics import image_metrics


def residuals(seed=0, pixels=200_000, share=0.03):
    """Skewed float residuals in [0, 2], most of them tiny, and a mask of the larger ones."""
    generator = np.random.default_rng(seed)
    mask = generator.random(pixels) < share
    values = np.where(
        mask, generator.gamma(1.2, 0.1, pixels), generator.gamma(0.4, 0.05, pixels)
    ).clip(0, 2)
    return values.astype(np.float32), mask


def most_off(roc):
    """How far a binned area can be from that of the values: half the share of tied pairs."""
    normal, anomalous = roc.counts / roc.counts.sum(axis=1, keepdims=True)
    return normal @ anomalous / 2


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
    assert abs(roc.auc() - exact) <= most_off(roc) + 1e-12
    assert (roc.pixels, roc.anomalous_pixels) == (mask.size, mask.sum())


def test_pixel_roc_resolves_tiny_residuals():
    values, mask = residuals()
    roc = PixelROC()
    roc.update(values / 1000, mask)
    assert roc.auc() == pytest.approx(roc_auc_score(mask, values), abs=1e-4)


@settings(max_examples=50)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.integers(2, 40),
)
def test_pixel_roc_error_is_bounded_with_any_bins(normal, anomalous, bins):
    values = np.array(normal + anomalous) / 3
    mask = np.repeat([0, 1], [len(normal), len(anomalous)])
    roc = PixelROC(bins=bins, low=-1.0, high=1.5)
    roc.update(values, mask)
    assert abs(roc.auc() - roc_auc_score(mask, values)) <= most_off(roc) + 1e-12


def test_pixel_youden_and_curve_agree_with_the_unbinned_ones():
    values, mask = residuals(pixels=50_000)
    roc = PixelROC()
    roc.update(values, mask)
    point = roc.youden()
    found = image_metrics(mask, values, bootstrap=0, threshold=point.threshold)
    exact, reached = found["youden"], found["at_threshold"]
    assert point.threshold == pytest.approx(exact["threshold"], abs=1e-4)
    assert point.sensitivity == pytest.approx(exact["sensitivity"], abs=1e-3)
    assert point.precision == pytest.approx(exact["precision"], abs=1e-3)
    assert reached["false_positive_rate"] == pytest.approx(point.false_positive_rate, abs=1e-3)
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


def test_values_outside_the_range_count_in_the_bins_at_its_ends():
    roc = PixelROC(bins=4, low=0.0, high=1.0)
    roc.update([-0.5, 0.5, 1.0, 3.0], [0, 0, 1, 1])
    assert roc.counts.tolist() == [[1, 0, 1, 0], [0, 0, 0, 2]]
    assert roc.auc() == 1


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
    for measure in (roc.auc, roc.curve, roc.youden):
        with pytest.raises(ValueError, match="no anomalous pixel"):
            measure()


# Regions


def drawn(*rows):
    return np.array([[int(cell) for cell in row] for row in rows])


def overlap(anomaly_map, mask, threshold):
    regions = RegionOverlap(threshold)
    regions.update(anomaly_map, mask)
    return regions.result()


def regions_of(result):
    return result["lesions"], result["lesions_detected"], result["false_regions"]


MASK = drawn("1100000", "1100000", "0000011", "0000000", "0110000")
MAP = drawn("1100030", "0000000", "0000111", "0200000", "0000000") / 2


def test_region_overlap_by_hand():
    # Flagged at 0.5: 2 + 1 + 3 + 1 pixels in four regions. The lower lesion's (4, 1) and (4, 2) are
    # next to the flagged (3, 1) and not touched by it.
    result = overlap(MAP, MASK, 0.5)
    # 7 flagged pixels, 8 of lesions, 4 of both.
    assert result["dice"] == result["mean_dice"] == pytest.approx(8 / 15)
    assert result["iou"] == pytest.approx(4 / 11)
    assert regions_of(result) == (3, 2, 2)
    assert result["lesion_sensitivity"] == pytest.approx(2 / 3)


def test_one_region_over_two_lesions_detects_both():
    assert regions_of(overlap(np.ones((1, 5)), drawn("10001"), 1.0)) == (2, 2, 0)


def test_diagonal_neighbours_are_one_lesion_in_a_volume_too():
    result = overlap(np.zeros((2, 2, 2)), np.eye(2)[:, :, None] * [1, 0], 1.0)
    assert result["lesions"] == 1


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
        overlap(np.array([[np.nan]]), np.array([[1]]), 0.5)
    with pytest.raises(ValueError, match="does not fit"):
        overlap(np.zeros((2, 2)), np.zeros((2, 3)), 0.5)
