"""How long training will take is told before anything is learned."""

from __future__ import annotations

from stripes import NORMALS, TINY

from fanogan.data import Normals
from fanogan.detectors import FAnoGAN, new_detector
from fanogan.detectors.timing import seconds_to_fit


def test_time_is_estimated_before_anything_is_learned() -> None:
    normals = Normals.read(NORMALS, TINY)
    short, long = (
        sum(
            seconds_to_fit(
                FAnoGAN(TINY.but(critic_updates=n, encoder_updates=n), device="cpu"), normals
            ).values()
        )
        for n in (100, 10_000)
    )
    assert short > 0
    assert 5 < long / short < 2000  # a hundred, on a machine with nothing else to do


def test_a_detector_without_a_loop_is_not_trained_to_be_timed() -> None:
    assert not seconds_to_fit(new_detector("pca", TINY, device="cpu"), Normals.read(NORMALS, TINY))
