"""Networks follow from a seed; untrained ones are others; trained ones can score in another way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from stripes import (
    IMAGES,
    NORMALS,
    TINY,
    assert_same_scores,
    assert_same_weights,
    fitted,
    weights,
)

from fanogan.data import Normals
from fanogan.detectors import Detector, detector_names, new_detector
from fanogan.detectors.building import linear, new_networks, untrained, with_networks_of
from fanogan.scoring import calibrate, score

CPU = torch.device("cpu")


def test_weights_follow_from_the_seed_in_whatever_thread_they_are_drawn() -> None:
    detector, seen = fitted("izi_f"), fitted("izi_f").model.preprocessing
    seeds = [1, 2, 3, 4] * 25
    alone = {seed: new_networks(detector, seen, seed, CPU) for seed in (1, 2, 3, 4)}
    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(lambda seed: new_networks(detector, seen, seed, CPU), seeds)
        for seed, networks in zip(seeds, drawn, strict=True):
            for letter, network in networks.items():
                pairs = zip(alone[seed][letter].parameters(), network.parameters(), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", detector_names())
def test_untrained_networks_are_others(name: str) -> None:
    model = fitted(name).model
    other = untrained(model)
    assert other.detector == name and other.recipe == model.recipe
    a, b = weights(model), weights(other)
    pairs = [(a[key], b[key]) for key in b if b[key].ndim > 1]
    learnt = {"pca.mean", "pca.components"}  # the normals' projection, which none has untrained
    assert a.keys() - learnt == b.keys() and pairs
    assert not any(torch.equal(trained, fresh) for trained, fresh in pairs)
    assert not np.allclose(score(other, IMAGES).total, score(model, IMAGES).total)


@pytest.mark.parametrize("name", ["izi_f", "critic"])
def test_principal_components_in_place_of_networks_are_those_of_pca(
    name: str, tmp_path: Path
) -> None:
    """Kept with the model, fitted to the same images, scored through the same windows."""
    fitted(name).save(tmp_path / "model")
    expected = score(fitted("pca").model, IMAGES)
    for model in (fitted(name).model, Detector.load(tmp_path / "model", device="cpu").model):
        projected = linear(model)
        assert projected is not None and not projected.calibration.units
        assert_same_scores(score(projected, IMAGES), expected)
    assert linear(fitted("pca").model) is None


def test_networks_can_score_in_another_detectors_way() -> None:
    model = fitted("izi").model
    featured = with_networks_of(model, new_detector("izi-features", TINY, device="cpu"))
    assert featured.detector == "izi-features" and not featured.calibration.units
    assert_same_weights(featured, model)
    found, plain = score(featured, IMAGES), score(model, IMAGES)
    np.testing.assert_array_equal(found.image, plain.image)
    assert found.feature.all() and not plain.feature.any()
    np.testing.assert_array_equal(found.total, fitted("izi-features").score(IMAGES).total)
    calibrated = calibrate(featured, Normals.read(NORMALS, TINY).held_out)
    assert calibrated.calibration == fitted("izi-features").model.calibration
