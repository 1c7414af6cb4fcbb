"""How good a detector is: image scores against labels.

The numbers are those of the paper's tables 1 and A1 (AUC; precision, sensitivity, specificity and
f-score at Youden's index) and its Fig. B3, with prevalence, average precision and bootstrap
intervals beside them. Everywhere label 1 means anomalous, higher scores are more anomalous, and a
unit is flagged where its score >= the threshold. Maps against masks are in `localization`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanogan.evaluation.roc import (
    Flagged,
    Floats,
    Ranking,
    area_under,
    average_precision_of,
    checked_labels,
    point_at,
    rates_at,
    youden_index,
)

_CONFIDENCE = 0.95
_RESAMPLED_SCORES_AT_ONCE = 1_000_000  # some 100 MB of counts


def image_metrics(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Evaluate image scores, with 95 % percentile bootstrap intervals.

    A resample draws whole subjects where `groups` says that some subject has more than one image,
    since images of a subject are alike; else images. Youden's threshold is chosen anew in each
    resample. Resamples with a single class are dropped, and counted. Intervals from few subjects
    are too narrow: `bootstrap.units` says how many there were, and below two there are none.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) finite.
        groups: (n,) the subject of each image.
        bootstrap: resamples; 0 leaves the intervals out.
        seed: of the resampling.
        threshold: the calibrated threshold, measured as `at_threshold` beside Youden's.

    Returns:
        A dict fit for JSON: `n`, `n_anomalous`, `prevalence`, `auc`, `average_precision`,
        `youden` (fields of `OperatingPoint`), `at_threshold` where `threshold` is given,
        `intervals` (the same names; each [low, high], or None) and `bootstrap` (`resamples`,
        `dropped`, `unit`: 'subject' or 'image', `units`, `confidence`).

    Raises:
        ValueError: as for `youden`, or groups of another length.
    """
    truth, values = checked_labels(labels, scores)
    ranking = Ranking(truth, values)
    cut = None if threshold is None else ranking.last_flagged(threshold)
    flagged = ranking.flagged()
    best = int(youden_index(flagged))
    result: dict[str, Any] = {
        "n": truth.size,
        "n_anomalous": int(truth.sum()),
        "prevalence": float(truth.mean()),
        "auc": float(area_under(flagged)),
        "average_precision": float(average_precision_of(flagged)),
        "youden": point_at(float(ranking.thresholds[best]), flagged, best).as_dict(),
    }
    if threshold is not None and cut is not None:
        result["at_threshold"] = point_at(float(threshold), flagged, cut).as_dict()
    unit, unit_of_each = _resampled_units(groups, truth.size)
    units = int(unit_of_each.max()) + 1
    resamples = bootstrap if units > 1 else 0  # one subject, drawn again, varies in nothing
    samples = _bootstrap(ranking, unit_of_each, resamples, seed, cut)
    result["intervals"] = {
        name: {key: _interval(sample) for key, sample in value.items()}
        if isinstance(value, dict)
        else _interval(value)
        for name, value in samples.items()
    }
    result["bootstrap"] = {
        "resamples": resamples,
        "dropped": resamples - samples["auc"].size,
        "unit": unit,
        "units": units,
        "confidence": _CONFIDENCE,
    }
    return result


def resampled_times(
    groups: Sequence[Hashable] | None, images: int, resamples: int = 1000, seed: int = 0
) -> NDArray[np.intp]:
    """Draw whole subjects (else images) with replacement, as the bootstrap of this module does.

    Args:
        groups: (n,) the subject of each image.
        images: n.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        How often each subject is drawn, in the order in which subjects first appear:
        (resamples, subjects).

    Raises:
        ValueError: Groups of another length.
    """
    _, unit_of_each = _resampled_units(groups, images)
    return np.concatenate([*_times_drawn(unit_of_each, resamples, seed)])


def resampled_aucs(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Floats:
    """The AUC of each of several scores in the same bootstrap resamples of the images.

    What is resampled, and what is dropped, depends on labels, groups and seed alone: so the values
    of two calls belong together row by row, and their differences are paired.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (k, n) finite.
        groups: (n,) the subject of each image, as for `image_metrics`.
        bootstrap: Resamples.
        seed: Of the resampling.

    Returns:
        (resamples kept, k); those with a single class are dropped.

    Raises:
        ValueError: As for `youden`, or groups of another length.
    """
    columns = []
    for values in np.atleast_2d(np.asarray(scores, dtype=np.float64)):
        truth, checked = checked_labels(labels, values)
        _, unit_of_each = _resampled_units(groups, truth.size)
        ranking = Ranking(truth, checked)
        units = unit_of_each[ranking.order]
        parts = []
        for times in _times_drawn(unit_of_each, bootstrap, seed):
            flagged = ranking.flagged(times[:, units].astype(np.float64))
            both = (flagged.anomalous[:, -1] > 0) & (flagged.normal[:, -1] > 0)
            parts.append(area_under(Flagged(*(counts[both] for counts in flagged))))
        columns.append(np.concatenate(parts))
    return np.stack(columns, axis=1)


def mean_interval(resampled: Floats, seed: int = 0) -> list[float] | None:
    """The 95 % percentile interval of a mean over trainings, of few subjects and few trainings.

    Each resample of the subjects draws the trainings anew too, with replacement, so that what
    differs between seeds widens the interval. With three it is still too narrow.

    Args:
        resampled: (resamples, trainings), each column a training's value in the same resamples.
        seed: Of the drawing.

    Returns:
        [low, high], or None where there are no resamples.
    """
    if not resampled.size:
        return None
    drawn = np.random.default_rng(seed).integers(resampled.shape[1], size=resampled.shape)
    return _interval(np.take_along_axis(resampled, drawn, axis=1).mean(axis=1))


class PairedDifference(NamedTuple):
    """How much higher the first AUC is than the second, with its 95 % interval, None without."""

    difference: float
    interval: list[float] | None


def paired_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two scores of the same images by their AUC, in the same resamples of subjects.

    Args:
        labels: (n,) 0 or 1, both present.
        first: (n,), or (trainings, n).
        second: Of the same shape; the trainings of both belong together.
        groups: (n,) the subject of each image; fewer than two leave no interval.
        bootstrap: Resamples; each draws subjects, and trainings too (see `mean_interval`).
        seed: Of the resampling.

    Raises:
        ValueError: As for `resampled_aucs`, or shapes that differ.
    """
    one, other = np.atleast_2d(np.asarray(first)), np.atleast_2d(np.asarray(second))
    if one.shape != other.shape:
        raise ValueError(
            f"Scores of shapes {one.shape} and {other.shape} are not of the same trainings and "
            "images: give one of each for both."
        )
    exact = [float(np.mean([_auc(labels, row) for row in scores])) for scores in (one, other)]
    _, unit_of_each = _resampled_units(groups, one.shape[1])
    interval = None
    if unit_of_each.max() > 0:
        resampled = [
            resampled_aucs(labels, scores, groups, bootstrap, seed) for scores in (one, other)
        ]
        interval = mean_interval(resampled[0] - resampled[1], seed)
    return PairedDifference(exact[0] - exact[1], interval)


class DeLong(NamedTuple):
    """Two AUCs compared: first − second, its standard error, and the two-sided p-value."""

    difference: float
    standard_error: float
    p_value: float


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong:
    """DeLong's test for two AUCs of the same images (DeLong et al. 1988).

    It takes images for independent: where a subject has several, use `paired_difference`.

    Args:
        labels: (n,) 0 or 1, two of each at least.
        first: (n,) finite.
        second: (n,) finite.

    Returns:
        The comparison; the p-value is 1 where both order all images alike.

    Raises:
        ValueError: As for `youden`, or a class of one image.
    """
    from scipy.stats import norm, rankdata

    truth, _ = checked_labels(labels, first)
    anomalous, normal = int(truth.sum()), int((~truth).sum())
    if min(anomalous, normal) < 2:
        raise ValueError(
            f"DeLong's test needs two images of each class, but there are {anomalous} anomalous "
            f"and {normal} normal ones."
        )
    # Of each image the share of the other class that it is placed right of, by mid-ranks
    # (Sun and Xu 2014).
    of_anomalous, of_normal = [], []
    for scores in (first, second):
        _, values = checked_labels(labels, scores)
        ranks = rankdata(values)
        of_anomalous.append((ranks[truth] - rankdata(values[truth])) / normal)
        of_normal.append(1 - (ranks[~truth] - rankdata(values[~truth])) / anomalous)
    difference = float(of_anomalous[0].mean() - of_anomalous[1].mean())
    variance = (
        np.var(of_anomalous[0] - of_anomalous[1], ddof=1) / anomalous
        + np.var(of_normal[0] - of_normal[1], ddof=1) / normal
    )
    error = math.sqrt(variance)
    p_value = float(2 * norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    return DeLong(difference, error, p_value)


def trivial_scores(image: ArrayLike) -> dict[str, float]:
    """Score an image without learning anything: a detector below these has learned nothing.

    Args:
        image: (rows, columns) or (rows, columns, channels), any numeric type; two rows and two
            columns at least.

    Returns:
        `brightness` (mean), `darkness` (its negative), `low_contrast` (negative standard
        deviation) and `low_gradient` (negative mean absolute difference of neighbours, the mean
        of both directions), in the image's own grey units.

    Raises:
        ValueError: another shape, or pixels that are not finite.
    """
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim not in (2, 3) or min(pixels.shape[:2]) < 2:
        raise ValueError(
            f"An image of shape {pixels.shape} has no trivial scores: give (rows, columns) or "
            "(rows, columns, channels), at least two rows and two columns."
        )
    if not np.isfinite(pixels).all():
        raise ValueError("An image holds pixels that are not finite: replace or leave it out.")
    mean = float(pixels.mean())
    gradient = sum(float(np.abs(np.diff(pixels, axis=axis)).mean()) for axis in (0, 1)) / 2
    return {
        "brightness": mean,
        "darkness": -mean,
        "low_contrast": -float(pixels.std()),
        "low_gradient": -gradient,
    }


def _resampled_units(
    groups: Sequence[Hashable] | None, images: int
) -> tuple[str, NDArray[np.intp]]:
    """Return 'subject' or 'image', and the number of the unit that each image belongs to."""
    if groups is None:
        return "image", np.arange(images)
    if len(groups) != images:
        raise ValueError(f"There are {len(groups)} groups for {images} scores: give one for each.")
    numbers: dict[Hashable, int] = {}
    subject_of_each = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return ("subject" if len(numbers) < images else "image"), subject_of_each


def _bootstrap(
    ranking: Ranking, unit_of_each: NDArray[np.intp], resamples: int, seed: int, cut: int | None
) -> dict[str, Any]:
    """Return each number of each resample that holds both classes, (kept,) under its name."""
    unit_as_ranked = unit_of_each[ranking.order]
    names = ["auc", "average_precision", "youden"] + ([] if cut is None else ["at_threshold"])
    parts: list[dict[str, Any]] = []
    for times in _times_drawn(unit_of_each, resamples, seed):
        flagged = ranking.flagged(times[:, unit_as_ranked].astype(np.float64))
        both = (flagged.anomalous[:, -1] > 0) & (flagged.normal[:, -1] > 0)
        parts.append(_resampled_numbers(ranking, Flagged(*(c[both] for c in flagged)), cut))
    return {name: _joined([part[name] for part in parts]) for name in names}


def _times_drawn(
    unit_of_each: NDArray[np.intp], resamples: int, seed: int
) -> Iterator[NDArray[np.intp]]:
    """How often each unit is drawn in each resample: (rows, units) at a time, few enough to hold.

    The same for the same number of units and seed, whatever the images are scored by.
    """
    generator = np.random.default_rng(seed)
    units, images = int(unit_of_each.max()) + 1, unit_of_each.size
    at_once = max(1, _RESAMPLED_SCORES_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)


def _resampled_numbers(ranking: Ranking, flagged: Flagged, cut: int | None) -> dict[str, Any]:
    best = youden_index(flagged)
    numbers: dict[str, Any] = {
        "auc": area_under(flagged),
        "average_precision": average_precision_of(flagged),
        "youden": {"threshold": ranking.thresholds[best], **rates_at(flagged, best)},
    }
    if cut is not None:
        numbers["at_threshold"] = rates_at(flagged, np.full_like(best, cut))
    return numbers


def _joined(parts: list[Any]) -> Any:
    if parts and isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts) if parts else np.empty(0)


def _auc(labels: ArrayLike, scores: ArrayLike) -> float:
    return float(area_under(Ranking(*checked_labels(labels, scores)).flagged()))


def _interval(sample: Floats) -> list[float] | None:
    known = sample[np.isfinite(sample)]
    if known.size == 0:
        return None
    tail = (1 - _CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(known, [tail, 1 - tail])]
