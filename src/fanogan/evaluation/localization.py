"""How well a map finds the place: pixels and regions against masks.

The pixel numbers are those of the paper's Fig. B2 and table B1 (ROC curve and AUC; sensitivity and
specificity at Youden's index), beside overlap and detected lesions. A true pixel of a mask means
anomalous.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fanogan.evaluation.roc import Flagged, Flags, Floats, OperatingPoint, RocCurve

PIXELS_AT_ONCE = 2**18  # a chunk and its bin numbers stay in the processor's cache


class PixelROC:
    """ROC over all pixels of any number of maps, in memory that does not grow with them.

    Pixels are counted in bins that are equally wide in the square root of the value, since
    residuals crowd towards 0: with 65,536 bins over [0, 2] a bin is 5e-10 wide at 0 and 4e-5 at 1.
    The only loss is that pixels of one bin count as ties, which changes the area by at most half
    the share of pairs that are tied.
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

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike) -> None:
        """Count the pixels of one map or of a batch of maps.

        Args:
            anomaly_map: any shape, finite.
            mask: the same shape, true or 1 where anomalous.

        Raises:
            ValueError: shapes that differ, a mask other than 0 and 1, or values not finite.
        """
        values, anomalous = (array.reshape(-1) for array in _checked(anomaly_map, mask))
        for start in range(0, values.size, PIXELS_AT_ONCE):
            part = slice(start, start + PIXELS_AT_ONCE)
            # Each step keeps the order of the values, so only pixels of one bin can become ties.
            scaled = np.subtract(values[part], self.low, dtype=np.float32, casting="unsafe")
            scaled *= np.float32(1 / (self.high - self.low))
            np.clip(scaled, 0, 1, out=scaled)
            np.sqrt(scaled, out=scaled)
            scaled *= np.float32(self.bins)
            codes = scaled.astype(np.intp)
            np.minimum(codes, self.bins - 1, out=codes)
            codes += anomalous[part] * np.intp(self.bins)
            # Twice as fast as bincount on a 64x64 map: that makes an array of all bins each time.
            np.add.at(self._counts, codes, 1)

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

    def auc(self) -> float:
        """Return the area under the pixel ROC curve.

        Raises:
            ValueError: only one class of pixels was counted; so do the methods below.
        """
        return float(self._flagged()[1].auc())

    def curve(self) -> RocCurve:
        """Return the ROC curve for a plot, thinned where it is long."""
        thresholds, flagged = self._flagged()
        anomalous, normal = (np.concatenate([[0.0], c / c[-1]]) for c in flagged)
        return RocCurve(normal, anomalous, np.insert(thresholds, 0, math.inf)).thinned()

    def youden(self) -> OperatingPoint:
        """Return Youden's point (chosen on the test masks); its threshold is a bin's lower edge."""
        thresholds, flagged = self._flagged()
        best = flagged.youden()
        return flagged.point(best, float(thresholds[best]))

    def _flagged(self) -> tuple[Floats, Flagged]:
        """Return the lower edges of the bins in use, highest first, and what each flags."""
        normal, anomalous = self._counts.reshape(2, -1)[:, ::-1]
        if not (normal.any() and anomalous.any()):
            kind = "anomalous" if normal.any() else "normal"
            raise ValueError(f"A pixel ROC needs both classes, but no {kind} pixel was counted.")
        used = np.flatnonzero(normal + anomalous)
        edges = np.arange(self.bins - 1, -1, -1)[used] / self.bins
        return self.low + (self.high - self.low) * edges**2, Flagged(
            anomalous[used].cumsum().astype(np.float64), normal[used].cumsum().astype(np.float64)
        )


class RegionOverlap:
    """How maps meet their masks over many images, flagged at one threshold.

    A lesion is a connected region of the mask, diagonals included; it is detected where one flagged
    pixel lies in it. A false region is a connected flagged region that meets no lesion. Flagging
    everything detects all lesions with no false region, so read both beside Dice.
    """

    def __init__(self, threshold: float) -> None:
        """Flag pixels whose value is >= `threshold`, in the maps' units."""
        self.threshold = threshold
        self._totals: Counter[str] = Counter()
        self._dice_of_images_with_lesion: list[float] = []

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike) -> None:
        """Add one image; one without lesions counts for its false regions.

        Args:
            anomaly_map: (rows, columns) or (frames, rows, columns), finite.
            mask: the same shape, true or 1 where anomalous.

        Raises:
            ValueError: shapes that differ, a mask other than 0 and 1, or values not finite.
        """
        values, lesion = _checked(anomaly_map, mask)
        flagged = values >= self.threshold
        common = flagged & lesion
        lesion_numbers, lesions = _connected_regions(lesion)
        region_numbers, regions = _connected_regions(flagged)
        marked_pixels, common_pixels = int(flagged.sum() + lesion.sum()), int(common.sum())
        self._totals.update(
            images=1,
            marked_pixels=marked_pixels,  # those of both are counted twice
            common_pixels=common_pixels,
            lesions=lesions,
            detected=np.unique(lesion_numbers[common]).size,
            false_regions=regions - np.unique(region_numbers[common]).size,
        )
        if lesions:
            self._dice_of_images_with_lesion.append(2 * common_pixels / marked_pixels)

    def result(self) -> dict[str, float | int | None]:
        """Return the numbers over all images, fit for JSON: None where one is undefined.

        `dice` (2 |A and B| / (|A| + |B|)) and `iou` (|A and B| / |A or B|) are of all pixels
        together; `mean_dice` is the mean over the images with a lesion.
        """
        total, with_lesion = self._totals, len(self._dice_of_images_with_lesion)
        marked, common = total["marked_pixels"], total["common_pixels"]
        return {
            "threshold": self.threshold,
            "images": total["images"],
            "images_with_lesion": with_lesion,
            "dice": _ratio(2 * common, marked),
            "iou": _ratio(common, marked - common),
            "mean_dice": _ratio(sum(self._dice_of_images_with_lesion), with_lesion),
            "lesions": total["lesions"],
            "lesions_detected": total["detected"],
            "lesion_sensitivity": _ratio(total["detected"], total["lesions"]),
            "false_regions": total["false_regions"],
            "false_regions_per_image": _ratio(total["false_regions"], total["images"]),
        }


def _checked(anomaly_map: ArrayLike, mask: ArrayLike) -> tuple[NDArray[Any], Flags]:
    """Return a map and its mask as arrays that fit."""
    values, flags = np.asarray(anomaly_map), np.asarray(mask)
    if flags.shape != values.shape:
        raise ValueError(
            f"A mask of shape {flags.shape} does not fit a map of shape {values.shape}."
        )
    if flags.dtype != np.bool_ and not ((flags == 0) | (flags == 1)).all():
        raise ValueError("A mask holds values other than 0 and 1: threshold it first.")
    if values.size and not math.isfinite(float(values.min()) + float(values.max())):
        raise ValueError("A map holds values that are not finite: leave those pixels out.")
    return values, flags.astype(bool)


def _connected_regions(flags: Flags) -> tuple[NDArray[np.intp], int]:
    """Label the connected regions from 1, diagonals included, and count them."""
    from skimage.measure import label

    numbers, count = label(flags, return_num=True)  # type: ignore[no-untyped-call]
    return numbers, int(count)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
