"""Made-up electrocardiograms: waves drawn from a seed, with ventricular beats at known places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of each wave: place after the R wave and width (both in seconds), and height in mV.
NORMAL_WAVES = (
    *((-0.18, 0.025, 0.12), (-0.03, 0.010, -0.12), (0.0, 0.011, 1.0)),
    *((0.03, 0.011, -0.2), (0.26, 0.05, 0.3)),
)
# No P wave; broad and high, and repolarised the other way.
VENTRICULAR_WAVES = ((0.0, 0.045, 1.2), (0.11, 0.04, -0.5), (0.32, 0.06, -0.35))
EARLY, PAUSE = 0.65, 1.35
"""Time to a ventricular beat and after it, in usual times between beats."""

SHARE = 0.08
"""Of ventricular beats."""

REACH = (-0.15, 0.45)
"""Seconds around a ventricular beat's R wave that are marked."""


@dataclass(frozen=True)
class MadeUpECG:
    """A made-up electrocardiogram of one lead.

    Attributes:
        samples: (samples,) float32, mV.
        rate: Samples a second.
        ventricular: (samples,) bool, where ventricular beats are.
    """

    samples: NDArray[np.float32]
    rate: float
    ventricular: NDArray[np.bool_]


def make_ecg(
    seed: int, *, seconds: float = 30, rate: float = 125, diseased: bool = False
) -> MadeUpECG:
    """Draw one person's electrocardiogram.

    Heart rate, heights and widths of the waves are the person's own; breathing changes the rhythm
    and moves the baseline.
    """
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    period = 60 / random.uniform(55, 95)
    own = {
        False: np.array(NORMAL_WAVES) * random.uniform(0.85, 1.15, (len(NORMAL_WAVES), 3)),
        True: np.array(VENTRICULAR_WAVES) * random.uniform(0.85, 1.15, (3, 3)),
    }
    breath = random.uniform(0.15, 0.3)
    samples = random.normal(0, 0.02, len(time))
    samples += random.uniform(0.02, 0.08) * np.sin(2 * np.pi * breath * time + random.uniform(0, 6))
    marked = np.zeros(len(time), np.bool_)
    at, is_early, due = -random.uniform(0, period), False, diseased
    while at < seconds + 1:
        for place, width, height in own[is_early]:
            samples += height * np.exp(-0.5 * ((time - at - place) / width) ** 2)
        if is_early:
            marked |= (time >= at + REACH[0]) & (time <= at + REACH[1])
        after = PAUSE if is_early else 1.0
        # One lies in the middle at least.
        is_late = due and at > seconds / 2
        is_early = diseased and not is_early and (is_late or random.random() < SHARE / (1 - SHARE))
        due = due and not is_early
        varying = 1 + 0.04 * np.sin(2 * np.pi * breath * at) + random.normal(0, 0.02)
        at += period * varying * (EARLY if is_early else after)
    return MadeUpECG(samples.astype(np.float32), rate, marked)
