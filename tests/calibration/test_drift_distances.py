"""Distances by day beside scipy and hand computation; false alarms by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ks_2samp

from fanogan.calibration import MEASURES, DriftRecord, Reference, Tally, periods, resolution
from fanogan.calibration.drift import MOST_DAYS, MOST_EDGES, grey_measures


def measures(scores: np.ndarray) -> list[list[float]]:
    """Images that differ by their score alone; the spacing isn't known."""
    return [[float(score), 0.5, 0.1, 0.0, 0.0, 0.0] for score in scores]


def record_of(normal: np.ndarray, days: list[np.ndarray]) -> DriftRecord:
    """Each image is of a subject of its own."""
    groups = [str(number) for number in range(len(normal))]
    record = DriftRecord("sha", Reference.of(measures(normal), groups))
    for number, scores in enumerate(days):
        for image in measures(scores):
            record.add(f"2026-01-{number + 1:02d}", [image])
    return record


@pytest.mark.parametrize("decimals", [15, 1])
def test_the_distance_is_scipy_s(decimals: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        normal, used = random.normal(0, 1, 60).round(decimals), random.normal(0.3, 1.4, 47)
        (period,) = periods(record_of(normal, [used.round(decimals)]))
        expected = ks_2samp(normal, used.round(decimals)).statistic
        assert period.shifts["score"].distance == pytest.approx(expected, abs=1e-12)


def test_the_distance_of_many_normals_is_within_a_cell() -> None:
    random = np.random.default_rng(1)
    normal, used = random.normal(0, 1, 3000), random.normal(0.2, 1, 500)
    (period,) = periods(record_of(normal, [used]))
    found, exact = period.shifts["score"].distance, ks_2samp(normal, used).statistic
    assert exact - 1 / (MOST_EDGES - 1) <= found <= exact
    assert len(record_of(normal, []).reference.edges["score"]) == MOST_EDGES


def test_the_stability_index_by_hand() -> None:
    # Ten bins of two normals each; all 40 images lie in the first.
    (period,) = periods(record_of(np.arange(20.0), [np.zeros(40)]))
    used = np.array([40.5] + [0.5] * 9) / 45
    normal = np.full(10, 2.5) / 25
    expected = ((used - normal) * np.log(used / normal)).sum()
    assert period.shifts["score"].psi == pytest.approx(expected)
    assert period.shifts["score"].psi_by_chance == pytest.approx(9 * (1 / 40 + 1 / 20))


def shifted_share(shift: float, rounds: int, normals: int, images: int, each: int = 1) -> float:
    """The share of periods that show a shift; ``each`` images of a subject are all alike."""
    random, found = np.random.default_rng(2), 0
    for _ in range(rounds):
        normal = random.normal(0, 1, (normals, len(MEASURES)))
        groups = [str(number) for number in range(normals) for _ in range(each)]
        reference = Reference.of(np.repeat(normal, each, axis=0).tolist(), groups)
        record = DriftRecord("sha", reference)
        for image in random.normal(shift, 1, (images, len(MEASURES))).tolist():
            record.add("2026-01-01", [image] * each)
        (period,) = periods(record, alpha=0.05)
        found += bool(period.shifted)
    return found / rounds


@pytest.mark.parametrize(("normals", "images", "each"), [(20, 25, 1), (60, 40, 1), (25, 30, 3)])
def test_a_stable_stream_alarms_no_more_than_is_said(normals: int, images: int, each: int) -> None:
    rounds = 400
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds)  # three deviations of the simulation
    assert shifted_share(0, rounds, normals, images, each) <= most
    assert shifted_share(1.5, 40, normals, images, each) == 1


def test_the_interval_holds_the_true_distance() -> None:
    from scipy.stats import norm

    random, missed = np.random.default_rng(3), 0
    true = 2 * norm.cdf(0.35) - 1  # of two normal distributions 0.7 apart
    for _ in range(200):
        record = record_of(random.normal(0, 1, 40), [random.normal(0.7, 1, 50)])
        (period,) = periods(record, alpha=0.3)
        shift = period.shifts["score"]
        missed += not shift.low <= true <= shift.high
    assert missed / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)  # .3 over six measures


def test_days_with_few_images_are_taken_together() -> None:
    days = [np.linspace(0, 1, 8)] * 7
    found = periods(record_of(np.linspace(0, 1, 30), days))
    assert [(each.first[-2:], each.last[-2:], each.tally.images) for each in found] == [
        ("01", "03", 24),
        ("04", "06", 24),
        ("07", "07", 8),
    ]
    assert found[0].shifts and not found[2].shifts


def test_images_of_one_subject_count_as_few() -> None:
    reference = Reference.of(measures(np.arange(30.0)), [f"{n // 10}" for n in range(30)])
    assert reference.tally.effective == pytest.approx(3)
    assert Tally(4, 3**2 + 1, {}).effective == pytest.approx(1.6)
    record = DriftRecord("sha", reference)
    record.add("2026-01-01", measures(np.zeros(500)))  # a volume
    assert record.days["2026-01-01"].effective == 1
    assert not periods(record)[0].shifts
    assert resolution(100, 0.5) == 1.0


def test_a_record_goes_through_json_and_does_not_grow() -> None:
    record = record_of(np.arange(300.0), [np.arange(50.0)])
    again = DriftRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    size = len(json.dumps(record.to_dict()))
    record.add("2026-01-01", measures(np.random.default_rng(0).uniform(-9, 400, 20_000)))
    assert len(json.dumps(record.to_dict())) < 1.5 * size
    for number in range(500):
        record.add(f"{2026 + number // 300}-{number % 300:03d}", measures(np.zeros(1)))
    assert len(record.days) == MOST_DAYS and min(record.days) > "2026-01-01"
    both = again.together(again)
    assert both.days["2026-01-01"].images == 100 and again.days["2026-01-01"].images == 50
    with pytest.raises(ValueError, match="two models"):
        again.together(record_of(np.arange(299.0), []))
    broken = again.to_dict()
    broken["reference"]["edges"]["score"].append(1e9)
    with pytest.raises(ValueError, match="fit their edges"):
        DriftRecord.from_dict(broken)


def test_brightness_and_contrast_are_of_what_was_recorded() -> None:
    frames = np.zeros((2, 4, 5, 1), np.float32)
    frames[0, :, :2] = 0.8
    known = np.zeros((2, 4, 5), bool)
    known[0, :, :4] = True
    assert grey_measures(frames, None)[0] == pytest.approx((0.32, np.sqrt(0.4 * 0.6) * 0.8))
    assert grey_measures(frames, known) == [pytest.approx((0.4, 0.4)), (0.0, 0.0)]
