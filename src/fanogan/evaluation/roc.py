"""The ROC curve and points on it: what thresholds do to a labelled set.

Throughout this room label 1 means anomalous, higher scores are more anomalous, and a unit is
flagged where its score >= the threshold.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CURVE_POINTS = 2000  # a longer curve looks the same in a plot


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
        """Return the fields as JSON can hold them: None where a number is not finite."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


class RocCurve(NamedTuple):
    """Points from (0, 0) to (1, 1); `thresholds` fall, and the first is infinite: none flagged."""

    false_positive_rate: Floats
    sensitivity: Floats
    thresholds: Floats

    def thinned(self) -> RocCurve:
        """Return at most `CURVE_POINTS` points, nearest to even steps of x + y along the curve."""
        if self.thresholds.size <= CURVE_POINTS:
            return self
        along = self.false_positive_rate + self.sensitivity
        kept = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], CURVE_POINTS)))
        return RocCurve(*(axis[kept] for axis in self))

    def as_lists(self) -> dict[str, list[float]]:
        """Return the points as JSON holds them."""
        return {"fpr": self.false_positive_rate.tolist(), "tpr": self.sensitivity.tolist()}


class Flagged(NamedTuple):
    """How many units each threshold flags, from the highest down; the last flags all.

    Both are (..., thresholds); the leading dimension, where there is one, is of resamples.
    """

    anomalous: Floats
    normal: Floats

    def auc(self) -> Floats:
        """Return the area under the ROC curve: (...,). A tie between classes counts one half."""
        steps = np.diff(self.normal, axis=-1, prepend=0.0)
        heights = self.anomalous - np.diff(self.anomalous, axis=-1, prepend=0.0) / 2
        pairs = self.anomalous[..., -1] * self.normal[..., -1]
        area: Floats = (steps * heights).sum(axis=-1) / pairs
        return area

    def average_precision(self) -> Floats:
        """Return the sum of precision times the gain in recall, as scikit-learn does: (...,)."""
        precision = self.anomalous / np.maximum(self.anomalous + self.normal, 1)
        gains = np.diff(self.anomalous, axis=-1, prepend=0.0)
        average: Floats = (gains * precision).sum(axis=-1) / self.anomalous[..., -1]
        return average

    def youden(self) -> int:
        """Return the index where sensitivity + specificity - 1 is largest, the first of several.

        This threshold is **chosen on the test labels**, as in the paper's tables: no deployed
        detector has it, and the numbers at it are optimistic. Show the calibrated threshold's
        beside them. For counts without resamples, (thresholds,).
        """
        # Times both class sizes, Youden's J is a whole number: equal maxima compare as equal.
        return int((self.anomalous * self.normal[-1] - self.normal * self.anomalous[-1]).argmax())

    def point(self, index: int, threshold: float) -> OperatingPoint:
        """Return what the threshold at an index does, -1 for one that flags nothing."""
        hits, false_alarms = (float(counts[index]) if index >= 0 else 0.0 for counts in self)
        anomalous, normal = (float(counts[-1]) for counts in self)
        flagged = hits + false_alarms
        return OperatingPoint(
            threshold=threshold,
            precision=hits / flagged if flagged else math.nan,
            sensitivity=hits / anomalous,
            specificity=(normal - false_alarms) / normal,
            f_score=2 * hits / (flagged + anomalous),
            false_positive_rate=false_alarms / normal,
        )


class Ranking:
    """Units sorted once from the highest score down; equal scores share one threshold.

    Attributes:
        order: (n,) indices of the units, as ranked.
        thresholds: (thresholds,) the scores that differ, falling.
    """

    def __init__(self, labels: Flags, scores: Floats) -> None:
        """Sort the units of labels and scores, (n,) each, as `checked_labels` returns them."""
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self._last_of_ties = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._anomalous = labels[self.order].astype(np.float64)
        self.thresholds = ranked[self._last_of_ties]

    def flagged(self, weights: Floats | None = None) -> Flagged:
        """Count what each threshold flags; `weights` (..., n) are of the units as ranked."""
        each = np.ones_like(self._anomalous) if weights is None else weights
        anomalous = np.cumsum(each * self._anomalous, axis=-1)
        normal = np.cumsum(each, axis=-1) - anomalous
        return Flagged(anomalous[..., self._last_of_ties], normal[..., self._last_of_ties])


def roc_curve_points(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Return the ROC curve for a plot, thinned where it is long.

    Raises:
        ValueError: as for `checked_labels`.
    """
    from sklearn.metrics import roc_curve

    return RocCurve(*roc_curve(*checked_labels(labels, scores))).thinned()


def checked_labels(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Floats]:
    """Return labels and scores as arrays, (n,) each.

    Raises:
        ValueError: a single class, labels other than 0 and 1, scores that are not finite, or
            lengths that differ.
    """
    given, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != values.shape:
        raise ValueError(
            f"Labels of shape {given.shape} do not fit scores of shape {values.shape}: give one "
            "label and one score for each image."
        )
    unusable = int((~np.isfinite(values)).sum())
    if unusable:
        raise ValueError(
            f"{unusable} of {values.size} scores are not finite numbers: find out why those images "
            "could not be scored, and leave them out."
        )
    if not np.isin(given, (0, 1)).all():
        raise ValueError("Labels other than 0 (normal) and 1 (anomalous) were given.")
    anomalous = int(np.count_nonzero(given))
    if anomalous in (0, given.size):
        raise ValueError(
            f"All {given.size} images are labelled {'anomalous' if anomalous else 'normal'}: an "
            "evaluation needs both normal and anomalous images."
        )
    return given.astype(bool), values


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is not finite."""
    return value if math.isfinite(value) else None
