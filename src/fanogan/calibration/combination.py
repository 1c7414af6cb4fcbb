"""One number from two scores: each in units of its spread over held-out normals, and added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Combination:
    """How an anomaly score and a shape score are added up.

    Nothing is learnt from anomalies: both count alike. The sum is calibrated as a score of its own,
    since the two aren't independent; p-values of few subjects would tie where all are least.
    """

    median: tuple[float, float]  # of the score and of the shape score, in logarithms
    spread: tuple[float, float]  # half the distance of the 16th from the 84th percentile
    logarithmic: bool  # whether the score is positive, and taken in logarithms; a shape always is

    @classmethod
    def of(
        cls, scores: Sequence[float], shapes: Sequence[float], logarithmic: bool
    ) -> Combination | None:
        """Return the combination for scores of held-out normals; None where these don't vary."""
        levels = _levels(scores, shapes, logarithmic)
        low, median, high = np.percentile(levels, (16, 50, 84), axis=1)
        spread = (high - low) / 2
        if not (spread > 0).all():
            return None
        return cls((median[0], median[1]), (spread[0], spread[1]), logarithmic)

    def __call__(self, scores: ArrayLike, shapes: ArrayLike) -> NDArray[np.float64]:
        """Return the sum for each score and shape score; higher is more anomalous."""
        levels = _levels(scores, shapes, self.logarithmic)
        return np.asarray(sum((levels[k] - self.median[k]) / self.spread[k] for k in range(2)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**vars(self), "median": [*self.median], "spread": [*self.spread]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Combination:
        """Make it again from what `to_dict` returned."""
        return cls(tuple(values["median"]), tuple(values["spread"]), values["logarithmic"])


def _levels(scores: ArrayLike, shapes: ArrayLike, logarithmic: bool) -> NDArray[np.float64]:
    """Return scores and shape scores as they are added up: (2, ...)."""
    least = np.finfo(np.float64).tiny
    totals = np.asarray(scores, dtype=np.float64)
    totals = np.log(np.maximum(totals, least)) if logarithmic else totals
    return np.stack([totals, np.log(np.maximum(np.asarray(shapes, dtype=np.float64), least))])
