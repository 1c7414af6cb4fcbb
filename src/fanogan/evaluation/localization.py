"""How well a map finds the place: pixels and regions against masks.

The pixel numbers are those of the paper's Fig. B2 and table B1 (ROC curve and AUC; sensitivity and
specificity at Youden's index), beside overlap and lesions found. A true mask pixel means anomalous,
higher values are more anomalous, and a pixel is flagged where its value >= the threshold.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanogan.evaluation.roc import (
    Flagged,
    Flags,
    Floats,
    OperatingPoint,
    RocCurve,
    area_under,
    finite_or_none,
    point_at,
    thinned,
    youden_index,
)

_PIXELS_AT_ONCE = 2**18  # a chunk and its bin numbers stay in the processor's cache


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
    def counts(self) -> NDArray[np.int64]:
        """Pixels in each bin, of normal and of anomalous ones: (2, bins)."""
        return self._counts.reshape(2, -1).copy()

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
        return float(area_under(self._flagged()[1]))

    def auc_error(self) -> float:
        """Return how far `auc` can be from the area of the unbinned values: half the ties."""
        normal, anomalous = self._counts.reshape(2, -1) / self._totals()[:, None]
        return float(normal @ anomalous) / 2

    def curve(self, points: int = 2000) -> RocCurve:
        """Return the ROC curve for a plot, at most `points` long."""
        thresholds, flagged = self._flagged()
        anomalous, normal = (np.concatenate([[0.0], c / c[-1]]) for c in flagged)
        return thinned(RocCurve(normal, anomalous, np.insert(thresholds, 0, math.inf)), points)

    def youden(self) -> OperatingPoint:
        """Find Youden's point (chosen on the test masks); its threshold is a bin's lower edge."""
        thresholds, flagged = self._flagged()
        best = int(youden_index(flagged))
        return point_at(float(thresholds[best]), flagged, best)

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

    def _flagged(self) -> tuple[Floats, Flagged]:
        """Return the lower edges of the bins in use, highest first, and what each flags."""
        self._totals()
        normal, anomalous = self._counts.reshape(2, -1)[:, ::-1]
        used = np.flatnonzero(normal + anomalous)
        edges = np.arange(self.bins - 1, -1, -1)[used] / self.bins
        return self.low + (self.high - self.low) * edges**2, Flagged(
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
            "threshold": finite_or_none(self.threshold),
            "images": self._images,
            "images_with_lesion": with_lesion,
            "dice": finite_or_none(total.dice),
            "iou": finite_or_none(total.iou),
            "mean_dice": finite_or_none(_ratio(sum(self._dice_of_images_with_lesion), with_lesion)),
            "lesions": total.lesions,
            "lesions_detected": total.detected,
            "lesion_sensitivity": finite_or_none(total.lesion_sensitivity),
            "false_regions": total.false_regions,
            "false_regions_per_image": finite_or_none(_ratio(total.false_regions, self._images)),
        }


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
