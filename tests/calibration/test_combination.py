"""Score and shape in one number, calibrated on held-out normals alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fanogan.calibration import Calibration, Combination, HeldOut


def test_by_hand() -> None:
    scores, shapes = np.exp([1.0, 2.0, 3.0]), np.exp([0.0, 4.0, 8.0])
    combination = Combination.of(scores, shapes, logarithmic=True)
    assert combination is not None
    # The 16th and 84th of three lie at 0.32 and 1.68 steps: spreads of 0.68 and 2.72.
    assert combination.median == pytest.approx((2, 4))
    assert combination.spread == pytest.approx((0.68, 2.72))
    assert combination(np.exp(2.68), np.exp(4)) == pytest.approx(1)
    assert combination([np.exp(2), np.exp(1.32)], np.exp([6.72, 6.72])) == pytest.approx([1, 0])


def test_a_score_that_may_be_negative_is_taken_as_it_is() -> None:
    combination = Combination.of([-3, -2, -1], np.exp([0, 4, 8]), logarithmic=False)
    assert combination is not None
    assert combination(-2 + 0.68, np.exp(4)) == pytest.approx(1)


def test_there_is_none_without_any_spread() -> None:
    assert Combination.of([1], [2], logarithmic=True) is None
    assert Combination.of([1, 2, 3], [2, 2, 2], logarithmic=True) is None
    combination = Combination.of([0, 2, 3], [0, 1, 2], logarithmic=True)
    assert combination is not None and np.isfinite(combination(0, 0))


def test_it_is_saved_with_the_calibration_and_absent_in_former_ones() -> None:
    held_out = {"image": HeldOut([1, 2, 3], ("a", "b", "c"))}
    combination = Combination.of([1, 2, 3], [4, 6, 7], logarithmic=True)
    calibration = Calibration(held_out, 1.0, None, None, held_out, held_out, combination)
    values = json.loads(json.dumps(calibration.to_dict()))
    assert Calibration.from_dict(values) == calibration
    for key in ("shapes", "combined", "combination"):
        del values[key]
    assert Calibration.from_dict(values) == Calibration(held_out, 1.0)


def test_p_values_of_fresh_normals_are_uniform_though_the_two_depend() -> None:
    """Forty held-out normals, a hundred times; score and shape are correlated and skewed."""
    random = np.random.default_rng(0)

    def normals(count: int) -> np.ndarray:
        common, own = random.normal(size=count), random.normal(size=(2, count))
        return np.exp(0.6 * common + np.array([[0.4], [1.0]]) * own)

    found = []
    for _ in range(100):
        held_out = normals(40)
        combination = Combination.of(*held_out, logarithmic=True)
        assert combination is not None
        calibrated = HeldOut(combination(*held_out), tuple(map(str, range(40))))
        found.append(calibrated.p_values(combination(*normals(200))))
    p_values = np.concatenate(found)
    for rank in (2, 4, 10, 20, 30):
        # 100 draws of 40 normals leave a standard error of at most 0.008.
        assert (p_values <= rank / 41).mean() == pytest.approx(rank / 41, abs=0.02)
