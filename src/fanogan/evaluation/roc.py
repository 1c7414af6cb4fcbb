"""The ROC curve and points on it: what thresholds do to a labelled set.

Everywhere label 1 means anomalous, higher scores are more anomalous, and a unit is flagged where
its score >= the threshold.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class OperatingPoint:
    """What one threshold does to a labelled set; all but the threshold lie in [0, 1].

    `precision` is NaN where nothing is flagged.
    """

    threshold: float
    precision: float
    sensitivity: float
    specificity: float
    f_score: float
    false_positive_rate: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the fields by name, fit for JSON: None where a number is not finite."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


class RocCurve(NamedTuple):
    """Points from (0, 0) to (1, 1); `thresholds` fall, and the first is infinite: none flagged."""

    false_positive_rate: Floats
    sensitivity: Floats
    thresholds: Floats


def youden(labels: ArrayLike, scores: ArrayLike) -> OperatingPoint:
    """Find the point where sensitivity + specificity - 1 is largest (Youden's index).

    The threshold is **chosen on the test labels**, as in the paper's tables: no deployed detector
    has it, and the numbers at it are optimistic. Show the calibrated threshold's beside it.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) finite.

    Returns:
        The point; its threshold is one of the scores, the highest one where several are as good.

    Raises:
        ValueError: a single class, labels other than 0 and 1, NaN scores or lengths that differ.
    """
    ranking = Ranking(*checked_labels(labels, scores))
    flagged = ranking.flagged()
    best = int(youden_index(flagged))
    return point_at(float(ranking.thresholds[best]), flagged, best)


def operating_point(labels: ArrayLike, scores: ArrayLike, threshold: float) -> OperatingPoint:
    """Measure the set at a threshold chosen elsewhere; flagged where score >= `threshold`.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) finite.
        threshold: infinity flags nothing.

    Raises:
        ValueError: as for `youden`, or a NaN threshold.
    """
    ranking = Ranking(*checked_labels(labels, scores))
    return point_at(float(threshold), ranking.flagged(), ranking.last_flagged(threshold))


def roc_curve_points(labels: ArrayLike, scores: ArrayLike, points: int = 2000) -> RocCurve:
    """Return the ROC curve for a plot, at most `points` long, its corners kept where they fit.

    Raises:
        ValueError: as for `youden`.
    """
    from sklearn.metrics import roc_curve

    return thinned(RocCurve(*roc_curve(*checked_labels(labels, scores))), points)


class Flagged(NamedTuple):
    """Units flagged at falling thresholds, (..., thresholds) each; the last flags everything."""

    anomalous: Floats
    normal: Floats


class Ranking:
    """Units sorted once from the highest score down; equal scores share one threshold."""

    def __init__(self, truth: Flags, scores: Floats) -> None:
        """Of labels and scores, (n,) each."""
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self._last_of_ties = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._anomalous = truth[self.order].astype(np.float64)
        self.thresholds = ranked[self._last_of_ties]

    def flagged(self, weights: Floats | None = None) -> Flagged:
        """Count what each threshold flags; `weights` (..., n) are of the units as ranked."""
        each = np.ones_like(self._anomalous) if weights is None else weights
        anomalous = np.cumsum(each * self._anomalous, axis=-1)
        normal = np.cumsum(each, axis=-1) - anomalous
        return Flagged(anomalous[..., self._last_of_ties], normal[..., self._last_of_ties])

    def last_flagged(self, threshold: float) -> int:
        """Return the index of the lowest threshold >= `threshold`; -1 where it flags nothing."""
        if math.isnan(threshold):
            raise ValueError("The threshold is NaN: leave it out where calibration gave none.")
        return int(np.count_nonzero(self.thresholds >= threshold)) - 1


def area_under(flagged: Flagged) -> Floats:
    """Trapezoids under the ROC curve: a tie between classes counts one half."""
    anomalous, normal = flagged
    steps = np.diff(normal, axis=-1, prepend=0.0)
    heights = anomalous - np.diff(anomalous, axis=-1, prepend=0.0) / 2
    area: Floats = (steps * heights).sum(axis=-1) / (anomalous[..., -1] * normal[..., -1])
    return area


def average_precision_of(flagged: Flagged) -> Floats:
    """Sum of precision times the gain in recall, as scikit-learn defines it."""
    anomalous, normal = flagged
    precision = anomalous / np.maximum(anomalous + normal, 1)
    gains = np.diff(anomalous, axis=-1, prepend=0.0)
    average: Floats = (gains * precision).sum(axis=-1) / anomalous[..., -1]
    return average


def youden_index(flagged: Flagged) -> NDArray[np.intp]:
    """Return which threshold has the largest Youden's J, the highest where several have; (...,)."""
    anomalous, normal = flagged
    # Times both class sizes, Youden's J is a whole number: equal maxima compare as equal.
    scaled = anomalous * normal[..., -1:] - normal * anomalous[..., -1:]
    best: NDArray[np.intp] = np.where(anomalous + normal > 0, scaled, -np.inf).argmax(axis=-1)
    return best


def _rates(hits: Floats, false_alarms: Floats, flagged: Flagged) -> dict[str, Floats]:
    positives, negatives = flagged.anomalous[..., -1], flagged.normal[..., -1]
    alarms = hits + false_alarms
    return {
        "precision": np.where(alarms > 0, hits / np.maximum(alarms, 1), np.nan),
        "sensitivity": hits / positives,
        "specificity": (negatives - false_alarms) / negatives,
        "f_score": 2 * hits / (alarms + positives),
        "false_positive_rate": false_alarms / negatives,
    }


def rates_at(flagged: Flagged, index: NDArray[np.intp]) -> dict[str, Floats]:
    """Return the rates at one threshold a row, -1 for nothing flagged."""
    at, any_flagged = np.maximum(index, 0)[..., None], index >= 0
    hits, alarms = (np.take_along_axis(c, at, axis=-1)[..., 0] * any_flagged for c in flagged)
    return _rates(hits, alarms, flagged)


def point_at(threshold: float, flagged: Flagged, index: int) -> OperatingPoint:
    """Return the point of one row of counts at `index`, called `threshold`; -1 flags nothing."""
    rates = rates_at(flagged, np.asarray(index))
    return OperatingPoint(threshold, **{name: float(rate) for name, rate in rates.items()})


def thinned(curve: RocCurve, points: int) -> RocCurve:
    """Keep the points nearest to even steps along the curve, whose length is 2 in x + y."""
    if curve.thresholds.size <= points:
        return curve
    along = curve.false_positive_rate + curve.sensitivity
    kept = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))
    return RocCurve(*(axis[kept] for axis in curve))


def checked_labels(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Floats]:
    """Return both as arrays, or raise ValueError where they can't be evaluated."""
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(
            f"Labels of shape {truth.shape} do not fit scores of shape {values.shape}: give one "
            "label and one score for each image."
        )
    unusable = int((~np.isfinite(values)).sum())
    if unusable:
        raise ValueError(
            f"{unusable} of {values.size} scores are not finite numbers: find out why those images "
            "could not be scored, and leave them out."
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("Labels other than 0 (normal) and 1 (anomalous) were given.")
    anomalous = int(np.count_nonzero(truth))
    if anomalous in (0, truth.size):
        raise ValueError(
            f"All {truth.size} images are labelled {'anomalous' if anomalous else 'normal'}: an "
            "evaluation needs both normal and anomalous images."
        )
    return truth.astype(bool), values


def finite_or_none(value: float) -> float | None:
    """Return the value as JSON can hold it."""
    return value if math.isfinite(value) else None
