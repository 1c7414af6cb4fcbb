"""Made-up electrocardiograms."""

import numpy as np

from fanogan.phantom import make_ecg


def beats(samples: np.ndarray, rate: float) -> np.ndarray:
    """Where R waves are, in seconds: peaks above half a millivolt."""
    from scipy.signal import find_peaks

    peaks, _ = find_peaks(samples, height=0.5, distance=round(0.3 * rate))
    return peaks / rate


def test_the_seed_decides_and_normals_have_no_marked_beat() -> None:
    one, again, other = (make_ecg(seed) for seed in (1, 1, 2))
    assert np.array_equal(one.samples, again.samples)
    assert not np.array_equal(one.samples, other.samples)
    assert (len(one.samples), one.rate, one.samples.dtype) == (3750, 125, np.float32)
    assert not one.ventricular.any()


def test_normal_beats_come_at_a_persons_own_rate() -> None:
    for seed in range(5):
        ecg = make_ecg(seed, seconds=60)
        between = np.diff(beats(ecg.samples, ecg.rate))
        assert 54 < 60 / between.mean() < 97
        assert between.std() < 0.06 * between.mean()


def test_ventricular_beats_are_early_wide_and_marked() -> None:
    for seed in range(5):
        ecg = make_ecg(seed, seconds=60, diseased=True)
        assert ecg.ventricular.any()
        places = beats(ecg.samples, ecg.rate)
        is_marked = ecg.ventricular[np.round(places * ecg.rate).astype(int)]
        before = np.diff(places)
        early, usual = before[is_marked[1:]], before[~is_marked[1:] & ~is_marked[:-1]]
        assert early.max() < 0.8 * np.median(usual)
