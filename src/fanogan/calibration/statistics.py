"""What plain statistics make of an image: scores that a network has to beat.

They know the training normals, and no network: the Mahalanobis distance of brightness, contrast and
gradient, and for flattened retinas, of which a row is a depth, how far pixels are from their row's
mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_FRAMES = 10  # fewer say too little of a covariance
_LEAST = 1e-4  # of a contrast or gradient, so that a flat image has a logarithm
# Share of the mean variance that is added to each, so that normals that are all alike have an
# inverse.
_RIDGE = 1e-6

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Plain statistics of the training normals, grey values in [0, 1].

    Attributes:
        mean: (3,) of brightness, log contrast and log gradient over the frames.
        precision: (3, 3) the inverse of their covariance.
        rows: (2, rows) mean and deviation of each flat row; None for what isn't flattened.
    """

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    rows: tuple[tuple[float, ...], ...] | None

    def distance(self, frame: NDArray[Any], known: NDArray[np.bool_] | None = None) -> float:
        """Return the squared Mahalanobis distance of a frame, as for `statistics_of`."""
        away = statistics_of(frame, known) - np.array(self.mean)
        return float(away @ np.array(self.precision) @ away)

    def rows_distance(self, frame: NDArray[Any], known: NDArray[np.bool_], first: int = 0) -> float:
        """Return the mean squared z-score of a flat frame's known pixels against their rows.

        Args:
            frame: as of `z_scores`.
            known: (rows, columns), at least one.
            first: as of `z_scores`.
        """
        return float((self.z_scores(frame, first) ** 2)[known].mean())

    def z_scores(self, frame: NDArray[Any], first: int = 0) -> Values:
        """Return how many deviations each pixel of a flat frame is from its row's mean.

        Args:
            frame: (rows, columns) in [0, 1], all flat rows or some.
            first: the flat row that the frame begins with.
        """
        assert self.rows is not None
        mean, deviation = np.array(self.rows)[:, first : first + len(frame), None]
        scores: Values = (frame - mean) / deviation
        return scores

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Statistics:
        """Make them again from their fields as JSON holds them."""
        rows = values["rows"]
        return cls(tuple(values["mean"]), _tuples(values["precision"]), rows and _tuples(rows))


class StatisticsBuilder:
    """Gathers `Statistics` from one training scan after the other, in flat memory."""

    def __init__(self) -> None:
        """Start with no frame seen."""
        self._frames = 0
        self._sum, self._squares = np.zeros(3), np.zeros((3, 3))
        self._rows: Values | None = None  # (3, rows): count, sum, sum of squares

    def add(self, frames: NDArray[Any], known: NDArray[np.bool_] | None = None) -> None:
        """Add frames.

        Args:
            frames: (frames, rows, columns) or (frames, rows, columns, channels) in [0, 1].
            known: (frames, rows, columns) of flattened frames, whose rows then count too.
        """
        for number, frame in enumerate(frames):
            mask = None if known is None else known[number]
            if mask is not None and not mask.any():
                continue
            found = statistics_of(frame, mask)
            self._frames += 1
            self._sum += found
            self._squares += np.outer(found, found)
            if mask is not None:
                values = np.where(mask, frame, 0).astype(np.float64)
                sums = np.stack([mask.sum(1), values.sum(1), (values**2).sum(1)])
                self._rows = sums if self._rows is None else self._rows + sums

    def build(self) -> Statistics | None:
        """Return them; None of too few frames."""
        if self._frames < _LEAST_FRAMES:
            return None
        mean = self._sum / self._frames
        covariance = self._squares / self._frames - np.outer(mean, mean)
        covariance += np.eye(3) * (_RIDGE * np.trace(covariance) / 3 + _LEAST**2)
        rows = None
        if self._rows is not None:
            count, total, squares = self._rows
            means = total / np.maximum(count, 1)
            variances = np.maximum(squares / np.maximum(count, 1) - means**2, _LEAST**2)
            rows = np.stack([means, np.sqrt(variances)])
        return Statistics(
            tuple(mean.tolist()),
            _tuples(np.linalg.inv(covariance).tolist()),
            None if rows is None else _tuples(rows.tolist()),
        )


def statistics_of(frame: NDArray[Any], known: NDArray[np.bool_] | None = None) -> Values:
    """Return brightness, log contrast and log gradient of a frame: (3,).

    Args:
        frame: (rows, columns) or (rows, columns, channels) in [0, 1]; channels are averaged.
        known: (rows, columns) where it was recorded; None: everywhere.
    """
    brightness, contrast, gradient = plain_statistics(frame, known)
    return np.array([brightness, np.log(max(contrast, _LEAST)), np.log(max(gradient, _LEAST))])


def plain_statistics(
    frame: NDArray[Any], known: NDArray[np.bool_] | None = None
) -> tuple[float, float, float]:
    """Return brightness, contrast and gradient of a frame, in its own grey units.

    That is the mean, the standard deviation, and the mean absolute difference of neighbours, in
    both directions alike. Arguments as of `statistics_of`.
    """
    grey = np.asarray(frame, dtype=np.float64)
    grey = grey if grey.ndim == 2 else grey.mean(axis=2)
    if known is not None:
        grey = np.where(known, grey, np.nan)
    # A signal has one row.
    along = [axis for axis, side in enumerate(grey.shape) if side > 1]
    steps = [np.nanmean(np.abs(np.diff(grey, axis=axis))) for axis in along]
    return float(np.nanmean(grey)), float(np.nanstd(grey)), float(np.mean(steps))


def _tuples(lists: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, lists))
