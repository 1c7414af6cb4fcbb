"""Plain statistics of the training normals, against numpy and SciPy."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from fanogan.calibration.statistics import Statistics, StatisticsBuilder, statistics_of


def frames(count, seed=0, rows=12, columns=20):
    random = np.random.default_rng(seed)
    base = random.uniform(0.2, 0.5, (count, 1, 1))
    return (base + random.normal(size=(count, rows, columns)) * base / 8).clip(0, 1)


def built(images, known=None):
    builder = StatisticsBuilder()
    builder.add(images[:7], None if known is None else known[:7])
    builder.add(images[7:], None if known is None else known[7:])
    return builder.build()


def test_three_statistics_by_hand():
    found = statistics_of(np.array([[0.0, 0.2], [0.4, 0.6]]))
    expected = [0.3, np.log(np.std([0, 0.2, 0.4, 0.6])), np.log((0.4 + 0.2) / 2)]
    np.testing.assert_allclose(found, expected)


def test_what_was_not_recorded_does_not_count():
    frame = np.array([[0.1, 0.3, 9.0], [0.2, 0.4, 9.0]])
    known = np.array([[True, True, False], [True, True, False]])
    np.testing.assert_allclose(statistics_of(frame, known), statistics_of(frame[:, :2]))


def test_the_distance_is_mahalanobis_of_the_training_frames():
    images, new = frames(60), frames(1, seed=9)[0]
    seen = np.stack([statistics_of(image) for image in images])
    expected = mahalanobis(
        statistics_of(new), seen.mean(0), np.linalg.inv(np.cov(seen.T, bias=True))
    )
    assert built(images).distance(new) == pytest.approx(expected**2, rel=1e-2)


def test_rows_are_those_of_the_known_pixels():
    images = frames(30)
    known = np.random.default_rng(1).random(images.shape) < 0.8
    found = built(images, known)
    masked = np.where(known, images, np.nan)
    mean, deviation = np.nanmean(masked, (0, 2)), np.nanstd(masked, (0, 2))
    np.testing.assert_allclose(found.rows, [mean, deviation], rtol=1e-6)
    new, seen = frames(1, seed=4)[0], known[0]
    z = ((new - mean[:, None]) / deviation[:, None]) ** 2
    assert found.rows_distance(new, seen) == pytest.approx(z[seen].mean())
    part = found.rows_distance(new[3:8, 2:9], seen[3:8, 2:9], first=3)
    assert part == pytest.approx(z[3:8, 2:9][seen[3:8, 2:9]].mean())


def test_kept_without_loss():
    known = np.ones((20, 12, 20), dtype=bool)
    for found in (built(frames(20)), built(frames(20), known)):
        assert Statistics.from_dict(json.loads(json.dumps(vars(found)))) == found


def test_few_frames_say_nothing_and_equal_ones_have_a_distance():
    assert built(frames(9)) is None
    alike = built(np.full((12, 8, 8), 0.5))
    assert np.isfinite(alike.distance(np.full((8, 8), 0.25)))
    assert alike.distance(np.full((8, 8), 0.25)) > alike.distance(np.full((8, 8), 0.5))
