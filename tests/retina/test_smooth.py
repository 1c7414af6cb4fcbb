"""Smooth lines, against a dense solution of the same equations."""

from __future__ import annotations

import numpy as np
import pytest

from fanogan.retina.smooth import TYPICAL_COLUMN, lower_envelope, smooth

RANDOM = np.random.default_rng(0)


def test_smoothing_solves_whittakers_equations() -> None:
    y, w = RANDOM.normal(100, 5, (2, 40)), RANDOM.uniform(0.1, 1, (2, 40))
    second = np.diff(np.eye(40), 2, axis=0)
    for line, weight, found in zip(y, w, smooth(y, w, 30.0, TYPICAL_COLUMN), strict=True):
        system = np.diag(weight) + 30.0 * second.T @ second
        np.testing.assert_allclose(found, np.linalg.solve(system, weight * line), rtol=1e-9)


def test_a_parabola_bends_alike_whatever_the_width_of_columns() -> None:
    lines = []
    for columns in (200, 400):
        x = (np.arange(columns) + 0.5) / columns
        bump = 100 - 20 * np.exp(-(((x - 0.5) / 0.05) ** 2))
        found = smooth(bump[None], np.ones((1, columns)), 1e4, TYPICAL_COLUMN * 200 / columns)
        lines.append(found[0, columns // 2])
    assert lines[0] == pytest.approx(lines[1], abs=0.2)


def test_places_without_weight_are_bridged() -> None:
    y = np.linspace(50, 70, 60)[None]
    w = np.ones_like(y)
    wrong = y.copy()
    wrong[:, 20:35], w[:, 20:35] = 500, 0
    np.testing.assert_allclose(smooth(wrong, w, 100.0, TYPICAL_COLUMN), y, atol=0.1)


def test_an_envelope_runs_below_bumps_and_takes_no_notice_of_a_gap() -> None:
    x = np.arange(400)
    ground = 200 + 30 * ((x - 200) / 200) ** 2
    line = ground.copy()
    for at in (80, 150, 300):
        line -= 15 * np.exp(-(((x - at) / 8) ** 2))  # lifted: fewer rows
    line[380:] += 60  # a drop, as at the optic disc
    ones = np.ones((1, 400))
    found = lower_envelope(line[None], ones, 3e5, TYPICAL_COLUMN, 0.05, 8.0)[0]
    plain = smooth(line[None], ones, 3e5, TYPICAL_COLUMN)[0]
    assert np.abs(found - ground)[20:340].max() < 2.5
    assert np.abs(found - ground)[340:380].mean() < np.abs(plain - ground)[340:380].mean()


def test_a_line_of_two_columns_stays() -> None:
    np.testing.assert_array_equal(smooth(np.ones((1, 2)), np.ones((1, 2)), 1e5, 0.01), [[1, 1]])
