"""How good image scores are against labels, with bootstrap intervals.

The numbers are those of the paper's tables 1 and A1 (AUC; precision, sensitivity, specificity and
F-score at Youden's index), with average precision and intervals beside them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanogan.calibration import plain_statistics
from fanogan.evaluation.roc import Flagged, Floats, Ranking, checked_labels

CONFIDENCE = 0.95  # of every interval
RESAMPLED_SCORES_AT_ONCE = 1_000_000  # about 100 MB of counts


def image_metrics(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Evaluate image scores, with 95 % percentile bootstrap intervals.

    A resample draws whole subjects, since images of one subject are alike, and is dropped where it
    holds a single class. Intervals from few subjects are too narrow.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) finite.
        groups: (n,) the subject of each image; without them each image is a subject.
        bootstrap: resamples; 0 leaves the intervals out.
        seed: of the resampling.
        threshold: the calibrated threshold, measured as `at_threshold` beside Youden's.

    Returns:
        A dict fit for JSON: `auc`, `average_precision`, `youden` and, where `threshold` is given,
        `at_threshold` (fields of `OperatingPoint`), and `intervals` (`auc` and
        `average_precision`: [low, high], or None for a single subject).

    Raises:
        ValueError: as for `checked_labels`, groups of another length, or a threshold of NaN.
    """
    ranking = Ranking(*checked_labels(labels, scores))
    flagged = ranking.flagged()
    best = flagged.youden()
    result: dict[str, Any] = {
        "auc": float(flagged.auc()),
        "average_precision": float(flagged.average_precision()),
        "youden": flagged.point(best, float(ranking.thresholds[best])).as_dict(),
    }
    if threshold is not None:
        if math.isnan(threshold):
            raise ValueError("The threshold is NaN: leave it out where calibration gave none.")
        lowest_flagged = int(np.count_nonzero(ranking.thresholds >= threshold)) - 1
        result["at_threshold"] = flagged.point(lowest_flagged, float(threshold)).as_dict()
    subject_of_each = _subject_numbers(groups, ranking.order.size)
    resamples = bootstrap if subject_of_each.max() > 0 else 0  # one subject varies in nothing
    resampled = [
        np.stack([each.auc(), each.average_precision()])
        for each in _resampled(ranking, subject_of_each, resamples, seed)
    ]
    aucs, precisions = np.concatenate(resampled, axis=1) if resampled else np.empty((2, 0))
    result["intervals"] = {
        "auc": percentile_interval(aucs),
        "average_precision": percentile_interval(precisions),
    }
    return result


def resampled_times(
    groups: Sequence[Hashable] | None, images: int, resamples: int = 1000, seed: int = 0
) -> NDArray[np.intp]:
    """Draw whole subjects with replacement, as the bootstrap of this module does.

    Args:
        groups: (n,) the subject of each image; without them each image is a subject.
        images: n.
        resamples: how many.
        seed: of the resampling.

    Returns:
        (resamples, subjects) how often each subject is drawn, in the order in which subjects first
        appear.

    Raises:
        ValueError: groups of another length.
    """
    return np.concatenate([*_times_drawn(_subject_numbers(groups, images), resamples, seed)])


def resampled_aucs(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Floats:
    """Return the AUC of each of several scores in the same bootstrap resamples of the images.

    What is drawn, and what is dropped, depends on labels, groups and seed alone: so the values of
    two calls belong together row by row, and their differences are paired.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) or (k, n), finite.
        groups: (n,) the subject of each image, as for `image_metrics`.
        bootstrap: resamples.
        seed: of the resampling.

    Returns:
        (resamples kept, k); those with a single class are dropped.

    Raises:
        ValueError: as for `checked_labels`, or groups of another length.
    """
    columns = []
    for each in np.atleast_2d(np.asarray(scores, dtype=np.float64)):
        ranking = Ranking(*checked_labels(labels, each))
        subject_of_each = _subject_numbers(groups, each.size)
        resampled = _resampled(ranking, subject_of_each, bootstrap, seed)
        columns.append(np.concatenate([flagged.auc() for flagged in resampled]))
    return np.stack(columns, axis=1)


def mean_interval(resampled: Floats, seed: int = 0) -> list[float] | None:
    """Return the 95 % percentile interval of a mean over few trainings, tested on few subjects.

    Each resample of the subjects draws the trainings anew too, with replacement, so that
    differences between seeds widen the interval. With three it is still too narrow.

    Args:
        resampled: (resamples, trainings), each column a training's value in the same resamples.
        seed: of the drawing.

    Returns:
        [low, high], or None where there are no resamples.
    """
    if not resampled.size:
        return None
    drawn = np.random.default_rng(seed).integers(resampled.shape[1], size=resampled.shape)
    return percentile_interval(np.take_along_axis(resampled, drawn, axis=1).mean(axis=1))


class DeLong(NamedTuple):
    """Two AUCs compared: first − second, its standard error, and the two-sided p-value."""

    difference: float
    standard_error: float
    p_value: float


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong:
    """Test whether two AUCs of the same images differ (DeLong et al. 1988).

    The test takes images for independent: where a subject has several, subtract `resampled_aucs`.

    Args:
        labels: (n,) 0 or 1, two of each at least.
        first: (n,) finite.
        second: (n,) finite.

    Returns:
        The comparison; the p-value is 1 where both order all images alike.

    Raises:
        ValueError: as for `checked_labels`, or a class of one image.
    """
    from scipy.stats import norm, rankdata

    is_anomalous, _ = checked_labels(labels, first)
    anomalous, normal = int(is_anomalous.sum()), int((~is_anomalous).sum())
    if min(anomalous, normal) < 2:
        raise ValueError(
            f"DeLong's test needs two images of each class, but there are {anomalous} anomalous "
            f"and {normal} normal ones."
        )
    # For each image, the share of the other class that it is ranked right of, by mid-ranks
    # (Sun and Xu 2014).
    of_anomalous, of_normal = [], []
    for scores in (first, second):
        _, values = checked_labels(labels, scores)
        ranks = rankdata(values)
        of_anomalous.append((ranks[is_anomalous] - rankdata(values[is_anomalous])) / normal)
        of_normal.append(1 - (ranks[~is_anomalous] - rankdata(values[~is_anomalous])) / anomalous)
    difference = float(of_anomalous[0].mean() - of_anomalous[1].mean())
    variance = (
        np.var(of_anomalous[0] - of_anomalous[1], ddof=1) / anomalous
        + np.var(of_normal[0] - of_normal[1], ddof=1) / normal
    )
    error = math.sqrt(variance)
    p_value = float(2 * norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    return DeLong(difference, error, p_value)


def trivial_scores(image: ArrayLike) -> dict[str, float]:
    """Score an image without learning anything: a detector below these has learnt nothing.

    Args:
        image: (rows, columns) or (rows, columns, channels), any numeric type; two columns at least;
            channels are averaged.

    Returns:
        `brightness` (mean), `darkness` (its negative), `low_contrast` (negative standard
        deviation) and `low_gradient` (negative mean absolute difference of neighbours, the mean
        of both directions), in the image's own grey units.

    Raises:
        ValueError: another shape, or pixels that are not finite.
    """
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim not in (2, 3) or pixels.shape[0] < 1 or pixels.shape[1] < 2:
        raise ValueError(
            f"An image of shape {pixels.shape} has no trivial scores: give (rows, columns) or "
            "(rows, columns, channels), at least two columns."
        )
    if not np.isfinite(pixels).all():
        raise ValueError("An image holds pixels that are not finite: replace or leave it out.")
    brightness, contrast, gradient = plain_statistics(pixels)
    return {
        "brightness": brightness,
        "darkness": -brightness,
        "low_contrast": -contrast,
        "low_gradient": -gradient,
    }


def _subject_numbers(groups: Sequence[Hashable] | None, images: int) -> NDArray[np.intp]:
    """Return the subject of each image as a number, in the order of their first images: (n,)."""
    if groups is None:
        return np.arange(images)
    if len(groups) != images:
        raise ValueError(f"There are {len(groups)} groups for {images} scores: give one for each.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _times_drawn(
    subject_of_each: NDArray[np.intp], resamples: int, seed: int
) -> Iterator[NDArray[np.intp]]:
    """Yield how often each subject is drawn: (resamples, subjects) at a time, few enough to hold.

    It depends on the number of subjects and the seed, not on how the images are scored.
    """
    generator = np.random.default_rng(seed)
    subjects, images = int(subject_of_each.max()) + 1, subject_of_each.size
    at_once = max(1, RESAMPLED_SCORES_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = generator.integers(subjects, size=(count, subjects))
        drawn += subjects * np.arange(count)[:, np.newaxis]
        yield np.bincount(drawn.ravel(), minlength=count * subjects).reshape(count, subjects)


def _resampled(
    ranking: Ranking, subject_of_each: NDArray[np.intp], resamples: int, seed: int
) -> Iterator[Flagged]:
    """Yield what each threshold flags in the resamples that hold both classes."""
    subject_as_ranked = subject_of_each[ranking.order]
    for times in _times_drawn(subject_of_each, resamples, seed):
        flagged = ranking.flagged(times[:, subject_as_ranked].astype(np.float64))
        both = (flagged.anomalous[:, -1] > 0) & (flagged.normal[:, -1] > 0)
        yield Flagged(*(counts[both] for counts in flagged))


def percentile_interval(sample: Floats) -> list[float] | None:
    """Return the percentile interval of a bootstrap sample; None where it is empty."""
    if not sample.size:
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(sample, [tail, 1 - tail])]
