"""Critic: the score is how far an image's critic value lies below the mean of the normals'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stripes import IMAGES, NORMALS, TINY, as_seen, fit, fitted

from fanogan.data import Normals
from fanogan.detectors import critic


def test_the_critics_deviation_is_equations_6_and_7(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = fitted("critic")
    D, read = detector.model.networks["D"], Normals.read(NORMALS, TINY)
    assert len(read.training) == 36
    with torch.no_grad():
        values = D(as_seen(np.concatenate(read.training))).double()
        expected = float(values.mean()) - D(as_seen(IMAGES)).double()
    scores = detector.score(IMAGES)
    np.testing.assert_allclose(scores.feature, expected, atol=1e-6)
    np.testing.assert_allclose(scores.total, 0.7 * expected, atol=1e-6)
    assert not scores.image.any()
    # Where there are more images, some are drawn: another mean, near the same.
    monkeypatch.setattr(critic, "MEAN_IMAGES", 30)
    monkeypatch.setattr(critic, "BATCH", 10)
    few = fit("critic").model
    near = float(values.std()) * 4 / 30**0.5
    assert 0 < abs(few.constants["critic_mean"] - float(values.mean())) < near
