"""How good a detector is: image scores, pixel maps and regions against labels.

The numbers are those of the paper's tables 1, A1 and B1 (AUC; precision, sensitivity, specificity
and f-score at Youden's index) and its Fig. B3, with prevalence, average precision and bootstrap
intervals beside them. Everywhere label 1 or a true mask pixel means anomalous, higher scores are
more anomalous, and a unit is flagged where its score >= the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_CONFIDENCE = 0.95
_RESAMPLED_SCORES_AT_ONCE = 1_000_000  # some 100 MB of counts
_PIXELS_AT_ONCE = 2**18  # a chunk and its bin numbers stay in the processor's cache


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
        return {name: _finite_or_none(value) for name, value in asdict(self).items()}


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
    ranking = _Ranking(*_checked(labels, scores))
    flagged = ranking.flagged()
    best = int(_youden_index(flagged))
    return _point(float(ranking.thresholds[best]), flagged, best)


def operating_point(labels: ArrayLike, scores: ArrayLike, threshold: float) -> OperatingPoint:
    """Measure the set at a threshold chosen elsewhere; flagged where score >= `threshold`.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) finite.
        threshold: infinity flags nothing.

    Raises:
        ValueError: as for `youden`, or a NaN threshold.
    """
    ranking = _Ranking(*_checked(labels, scores))
    return _point(float(threshold), ranking.flagged(), ranking.last_flagged(threshold))


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
    truth, values = _checked(labels, scores)
    ranking = _Ranking(truth, values)
    cut = None if threshold is None else ranking.last_flagged(threshold)
    flagged = ranking.flagged()
    best = int(_youden_index(flagged))
    result: dict[str, Any] = {
        "n": truth.size,
        "n_anomalous": int(truth.sum()),
        "prevalence": float(truth.mean()),
        "auc": float(_area(flagged)),
        "average_precision": float(_average_precision(flagged)),
        "youden": _point(float(ranking.thresholds[best]), flagged, best).as_dict(),
    }
    if threshold is not None and cut is not None:
        result["at_threshold"] = _point(float(threshold), flagged, cut).as_dict()
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


def roc_curve_points(labels: ArrayLike, scores: ArrayLike, points: int = 2000) -> RocCurve:
    """Return the ROC curve for a plot, at most `points` long, its corners kept where they fit.

    Raises:
        ValueError: as for `youden`.
    """
    from sklearn.metrics import roc_curve

    return _thinned(RocCurve(*roc_curve(*_checked(labels, scores))), points)


@dataclass(frozen=True)
class ScoreHistograms:
    """Relative frequencies of two classes over the same `edges` (Fig. B3); each sums to 1.

    The first and the last bin also hold what lies outside the edges; `below` and `above` say how
    many images of both classes that were.
    """

    edges: Floats
    normal: Floats
    anomalous: Floats
    below: int
    above: int


def score_histograms(labels: ArrayLike, scores: ArrayLike, bins: int = 60) -> ScoreHistograms:
    """Count normal and anomalous scores on one axis that a few extreme scores cannot stretch.

    The axis spans all scores, except those further than five interquartile ranges outside the
    quartiles of both classes.

    Raises:
        ValueError: as for `youden`.
    """
    truth, values = _checked(labels, scores)
    low, high = _robust_range(values[~truth], values[truth])
    edges = np.linspace(low, high, bins + 1)
    inside = np.clip(values, low, high)
    normal, anomalous = (np.histogram(inside[of], edges)[0] / of.sum() for of in (~truth, truth))
    below, above = int((values < low).sum()), int((values > high).sum())
    return ScoreHistograms(edges, normal, anomalous, below, above)


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


class PixelROC:
    """ROC over all pixels of any number of maps, in memory that does not grow with them.

    Pixels are counted in bins that are equally wide in the square root of the value, since
    residuals crowd towards 0: with 65,536 bins over [0, 2] a bin is 5e-10 wide at 0 and 4e-5 at 1.
    The only loss is that pixels of one bin count as ties; `auc_error` bounds what that can do.
    """

    def __init__(self, bins: int = 65_536, low: float = 0.0, high: float = 2.0) -> None:
        """Prepare empty counts.

        Args:
            bins: 2 at least.
            low: of the map's values; smaller ones count in the first bin.
            high: of the map's values; larger ones count in the last bin. A residual |x - G(E(x))|
                of images in [-1, 1] lies in [0, 2].

        Raises:
            ValueError: fewer than two bins, or a range that is empty or not finite.
        """
        if bins < 2 or not low < high or not math.isfinite(high - low):
            raise ValueError(
                f"PixelROC needs two bins or more and low < high, but got {bins} bins over "
                f"[{low}, {high}]."
            )
        self.bins, self.low, self.high = bins, float(low), float(high)
        self.clipped = 0  # pixels outside [low, high]: their order is lost
        self._counts = np.zeros(2 * bins, dtype=np.int64)  # normal pixels, then anomalous ones

    @property
    def pixels(self) -> int:
        """Pixels counted so far."""
        return int(self._counts.sum())

    @property
    def anomalous_pixels(self) -> int:
        """Anomalous pixels counted so far."""
        return int(self._counts[self.bins :].sum())

    def update(
        self, anomaly_map: ArrayLike, mask: ArrayLike, valid: ArrayLike | None = None
    ) -> None:
        """Count the pixels of one map or of a batch of maps.

        Args:
            anomaly_map: any shape, finite.
            mask: the same shape, true or 1 where anomalous.
            valid: the same shape, true or 1 where a pixel counts; all count without it.

        Raises:
            ValueError: shapes that differ, masks other than 0 and 1, or values not finite.
        """
        values, anomalous = _map_and_mask(anomaly_map, mask)
        if valid is not None:
            counted = _mask(valid, values.shape)
            values, anomalous = values[counted], anomalous[counted]
        values, anomalous = values.reshape(-1), anomalous.reshape(-1)
        if values.size == 0:
            return
        smallest, largest = float(values.min()), float(values.max())
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            raise ValueError("A map holds values that are not finite: pass `valid` without them.")
        if smallest < self.low or largest > self.high:
            self.clipped += int(((values < self.low) | (values > self.high)).sum())
        for start in range(0, values.size, _PIXELS_AT_ONCE):
            part = slice(start, start + _PIXELS_AT_ONCE)
            self._count(values[part], anomalous[part])

    def merge(self, other: PixelROC) -> None:
        """Add the counts of another one, as if its maps had been counted here.

        Raises:
            ValueError: the bins of the two differ.
        """
        own, others = (self.bins, self.low, self.high), (other.bins, other.low, other.high)
        if own != others:
            raise ValueError(
                f"Two PixelROC with different (bins, low, high), {own} and {others}, cannot be "
                "merged: make both alike."
            )
        self._counts += other._counts
        self.clipped += other.clipped

    def auc(self) -> float:
        """Return the area under the pixel ROC curve.

        Raises:
            ValueError: only one class of pixels was counted; so do the methods below.
        """
        return float(_area(self._flagged()[1]))

    def auc_error(self) -> float:
        """Return how far `auc` can be from the area of the unbinned values: half the ties."""
        normal, anomalous = self._counts.reshape(2, -1) / self._totals()[:, None]
        return float(normal @ anomalous) / 2

    def curve(self, points: int = 2000) -> RocCurve:
        """Return the ROC curve for a plot, at most `points` long."""
        thresholds, flagged = self._flagged()
        anomalous, normal = (np.concatenate([[0.0], c / c[-1]]) for c in flagged)
        return _thinned(RocCurve(normal, anomalous, np.insert(thresholds, 0, math.inf)), points)

    def youden(self) -> OperatingPoint:
        """Find Youden's point (chosen on the test masks); its threshold is a bin's lower edge."""
        thresholds, flagged = self._flagged()
        best = int(_youden_index(flagged))
        return _point(float(thresholds[best]), flagged, best)

    def _count(self, values: NDArray[Any], anomalous: Flags) -> None:
        # Each step keeps the order of the values, so only pixels of one bin can become ties.
        scaled = np.subtract(values, self.low, dtype=np.float32, casting="unsafe")
        scaled *= np.float32(1 / (self.high - self.low))
        np.clip(scaled, 0, 1, out=scaled)
        np.sqrt(scaled, out=scaled)
        scaled *= np.float32(self.bins)
        codes = scaled.astype(np.intp)
        np.minimum(codes, self.bins - 1, out=codes)
        codes += anomalous * np.intp(self.bins)
        # Twice as fast as bincount on a 64x64 map: that makes an array of all bins each time.
        np.add.at(self._counts, codes, 1)

    def _totals(self) -> Floats:
        totals: Floats = self._counts.reshape(2, -1).sum(axis=1).astype(np.float64)
        if not totals.all():
            kind = "anomalous" if totals[0] else "normal"
            raise ValueError(f"A pixel ROC needs both classes, but no {kind} pixel was counted.")
        return totals

    def _flagged(self) -> tuple[Floats, _Flagged]:
        """Return the lower edges of the bins in use, highest first, and what each flags."""
        self._totals()
        normal, anomalous = self._counts.reshape(2, -1)[:, ::-1]
        used = np.flatnonzero(normal + anomalous)
        edges = np.arange(self.bins - 1, -1, -1)[used] / self.bins
        return self.low + (self.high - self.low) * edges**2, _Flagged(
            anomalous[used].cumsum().astype(np.float64), normal[used].cumsum().astype(np.float64)
        )


@dataclass(frozen=True)
class Overlap:
    """How a thresholded map meets a mask, in counts that can be added over images.

    A lesion is a connected region of the mask, diagonals included; it is detected where one flagged
    pixel touches it. A false region is a connected flagged region that touches no lesion. Flagging
    everything detects all lesions with no false region, so read both beside Dice.
    """

    flagged_pixels: int
    lesion_pixels: int
    common_pixels: int
    lesions: int
    detected: int
    false_regions: int

    def __add__(self, other: Overlap) -> Overlap:
        """Add the counts."""
        return Overlap(*(a + b for a, b in zip(_counts_of(self), _counts_of(other), strict=True)))

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); NaN where nothing is flagged and no lesion is there."""
        return _ratio(2 * self.common_pixels, self.flagged_pixels + self.lesion_pixels)

    @property
    def iou(self) -> float:
        """|A and B| / |A or B|; NaN where nothing is flagged and no lesion is there."""
        union = self.flagged_pixels + self.lesion_pixels - self.common_pixels
        return _ratio(self.common_pixels, union)

    @property
    def lesion_sensitivity(self) -> float:
        """Share of the lesions that are detected; NaN without lesions."""
        return _ratio(self.detected, self.lesions)


def region_overlap(anomaly_map: ArrayLike, mask: ArrayLike, threshold: float) -> Overlap:
    """Compare one map, flagged where value >= `threshold`, with its mask.

    Args:
        anomaly_map: (rows, columns) or (frames, rows, columns), finite.
        mask: the same shape, true or 1 where anomalous.
        threshold: in the map's units.

    Raises:
        ValueError: shapes that differ, a mask other than 0 and 1, or values not finite.
    """
    values, lesion = _map_and_mask(anomaly_map, mask)
    if not np.isfinite(values).all() or math.isnan(threshold):
        raise ValueError("A map or its threshold is not finite: regions cannot be compared.")
    flagged = values >= threshold
    lesion_numbers, lesions = _regions(lesion)
    region_numbers, regions = _regions(flagged)
    common = flagged & lesion
    return Overlap(
        flagged_pixels=int(flagged.sum()),
        lesion_pixels=int(lesion.sum()),
        common_pixels=int(common.sum()),
        lesions=lesions,
        detected=np.unique(lesion_numbers[common]).size,
        false_regions=regions - np.unique(region_numbers[common]).size,
    )


class RegionOverlap:
    """`region_overlap` over many images, at one threshold."""

    def __init__(self, threshold: float) -> None:
        """Flag pixels whose value is >= `threshold`, in the maps' units."""
        self.threshold = threshold
        self._total = Overlap(0, 0, 0, 0, 0, 0)
        self._images = 0
        self._dice_of_images_with_lesion: list[float] = []

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike) -> None:
        """Add one image; one without lesions counts for its false regions.

        Raises:
            ValueError: as for `region_overlap`.
        """
        overlap = region_overlap(anomaly_map, mask, self.threshold)
        self._total += overlap
        self._images += 1
        if overlap.lesions:
            self._dice_of_images_with_lesion.append(overlap.dice)

    def result(self) -> dict[str, float | int | None]:
        """Return the numbers over all images, fit for JSON: None where one is undefined.

        `dice` and `iou` are of all pixels together; `mean_dice` is the mean over the images with a
        lesion.
        """
        total, with_lesion = self._total, len(self._dice_of_images_with_lesion)
        return {
            "threshold": _finite_or_none(self.threshold),
            "images": self._images,
            "images_with_lesion": with_lesion,
            "dice": _finite_or_none(total.dice),
            "iou": _finite_or_none(total.iou),
            "mean_dice": _finite_or_none(
                _ratio(sum(self._dice_of_images_with_lesion), with_lesion)
            ),
            "lesions": total.lesions,
            "lesions_detected": total.detected,
            "lesion_sensitivity": _finite_or_none(total.lesion_sensitivity),
            "false_regions": total.false_regions,
            "false_regions_per_image": _finite_or_none(_ratio(total.false_regions, self._images)),
        }


class _Flagged(NamedTuple):
    """Units flagged at falling thresholds, (..., thresholds) each; the last flags everything."""

    anomalous: Floats
    normal: Floats


class _Ranking:
    """Units sorted once from the highest score down; equal scores share one threshold."""

    def __init__(self, truth: Flags, scores: Floats) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self._last_of_ties = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._anomalous = truth[self.order].astype(np.float64)
        self.thresholds = ranked[self._last_of_ties]

    def flagged(self, weights: Floats | None = None) -> _Flagged:
        """Count what each threshold flags; `weights` (..., n) are of the units as ranked."""
        each = np.ones_like(self._anomalous) if weights is None else weights
        anomalous = np.cumsum(each * self._anomalous, axis=-1)
        normal = np.cumsum(each, axis=-1) - anomalous
        return _Flagged(anomalous[..., self._last_of_ties], normal[..., self._last_of_ties])

    def last_flagged(self, threshold: float) -> int:
        """Return the index of the lowest threshold >= `threshold`; -1 where it flags nothing."""
        if math.isnan(threshold):
            raise ValueError("The threshold is NaN: leave it out where calibration gave none.")
        return int(np.count_nonzero(self.thresholds >= threshold)) - 1


def _area(flagged: _Flagged) -> Floats:
    """Trapezoids under the ROC curve: a tie between classes counts one half."""
    anomalous, normal = flagged
    steps = np.diff(normal, axis=-1, prepend=0.0)
    heights = anomalous - np.diff(anomalous, axis=-1, prepend=0.0) / 2
    area: Floats = (steps * heights).sum(axis=-1) / (anomalous[..., -1] * normal[..., -1])
    return area


def _average_precision(flagged: _Flagged) -> Floats:
    """Sum of precision times the gain in recall, as scikit-learn defines it."""
    anomalous, normal = flagged
    precision = anomalous / np.maximum(anomalous + normal, 1)
    gains = np.diff(anomalous, axis=-1, prepend=0.0)
    average: Floats = (gains * precision).sum(axis=-1) / anomalous[..., -1]
    return average


def _youden_index(flagged: _Flagged) -> NDArray[np.intp]:
    anomalous, normal = flagged
    # Times both class sizes, Youden's J is a whole number: equal maxima compare as equal.
    scaled = anomalous * normal[..., -1:] - normal * anomalous[..., -1:]
    best: NDArray[np.intp] = np.where(anomalous + normal > 0, scaled, -np.inf).argmax(axis=-1)
    return best


def _rates(hits: Floats, false_alarms: Floats, flagged: _Flagged) -> dict[str, Floats]:
    positives, negatives = flagged.anomalous[..., -1], flagged.normal[..., -1]
    alarms = hits + false_alarms
    return {
        "precision": np.where(alarms > 0, hits / np.maximum(alarms, 1), np.nan),
        "sensitivity": hits / positives,
        "specificity": (negatives - false_alarms) / negatives,
        "f_score": 2 * hits / (alarms + positives),
        "false_positive_rate": false_alarms / negatives,
    }


def _rates_at(flagged: _Flagged, index: NDArray[np.intp]) -> dict[str, Floats]:
    """Return the rates at one threshold a row, -1 for nothing flagged."""
    at, any_flagged = np.maximum(index, 0)[..., None], index >= 0
    hits, alarms = (np.take_along_axis(c, at, axis=-1)[..., 0] * any_flagged for c in flagged)
    return _rates(hits, alarms, flagged)


def _point(threshold: float, flagged: _Flagged, index: int) -> OperatingPoint:
    rates = _rates_at(flagged, np.asarray(index))
    return OperatingPoint(threshold, **{name: float(rate) for name, rate in rates.items()})


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
    ranking: _Ranking, unit_of_each: NDArray[np.intp], resamples: int, seed: int, cut: int | None
) -> dict[str, Any]:
    """Return each number of each resample that holds both classes, (kept,) under its name."""
    generator = np.random.default_rng(seed)
    units, images = int(unit_of_each.max()) + 1, unit_of_each.size
    unit_as_ranked = unit_of_each[ranking.order]
    names = ["auc", "average_precision", "youden"] + ([] if cut is None else ["at_threshold"])
    parts: list[dict[str, Any]] = []
    at_once = max(1, _RESAMPLED_SCORES_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        flagged = ranking.flagged(times[:, unit_as_ranked].astype(np.float64))
        both = (flagged.anomalous[:, -1] > 0) & (flagged.normal[:, -1] > 0)
        parts.append(_resampled_numbers(ranking, _Flagged(*(c[both] for c in flagged)), cut))
    return {name: _joined([part[name] for part in parts]) for name in names}


def _resampled_numbers(ranking: _Ranking, flagged: _Flagged, cut: int | None) -> dict[str, Any]:
    best = _youden_index(flagged)
    numbers: dict[str, Any] = {
        "auc": _area(flagged),
        "average_precision": _average_precision(flagged),
        "youden": {"threshold": ranking.thresholds[best], **_rates_at(flagged, best)},
    }
    if cut is not None:
        numbers["at_threshold"] = _rates_at(flagged, np.full_like(best, cut))
    return numbers


def _joined(parts: list[Any]) -> Any:
    if parts and isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts) if parts else np.empty(0)


def _interval(sample: Floats) -> list[float] | None:
    known = sample[np.isfinite(sample)]
    if known.size == 0:
        return None
    tail = (1 - _CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(known, [tail, 1 - tail])]


def _thinned(curve: RocCurve, points: int) -> RocCurve:
    """Keep the points nearest to even steps along the curve, whose length is 2 in x + y."""
    if curve.thresholds.size <= points:
        return curve
    along = curve.false_positive_rate + curve.sensitivity
    kept = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))
    return RocCurve(*(axis[kept] for axis in curve))


def _robust_range(*classes: Floats) -> tuple[float, float]:
    lows, highs = [], []
    for values in classes:
        first, third = np.quantile(values, [0.25, 0.75])
        reach = 5 * (third - first)
        # Where half the scores are equal the quartiles say nothing of the spread.
        lows.append(max(values.min(), first - reach) if reach > 0 else values.min())
        highs.append(min(values.max(), third + reach) if reach > 0 else values.max())
    low, high = float(min(lows)), float(max(highs))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Floats]:
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


def _map_and_mask(anomaly_map: ArrayLike, mask: ArrayLike) -> tuple[NDArray[Any], Flags]:
    values = np.asarray(anomaly_map)
    return values, _mask(mask, values.shape)


def _mask(mask: ArrayLike, shape: tuple[int, ...]) -> Flags:
    flags = np.asarray(mask)
    if flags.shape != shape:
        raise ValueError(f"A mask of shape {flags.shape} does not fit a map of shape {shape}.")
    if flags.dtype == np.bool_:
        return flags
    if not ((flags == 0) | (flags == 1)).all():
        raise ValueError("A mask holds values other than 0 and 1: threshold it first.")
    return flags.astype(bool)


def _regions(flags: Flags) -> tuple[NDArray[np.intp], int]:
    """Number the connected regions from 1, diagonals included, and count them."""
    from skimage.measure import label

    numbers, count = label(flags, return_num=True)  # type: ignore[no-untyped-call]
    return numbers, int(count)


def _counts_of(overlap: Overlap) -> tuple[int, ...]:
    return tuple(asdict(overlap).values())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
