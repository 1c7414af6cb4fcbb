"""Is this like what the model was trained on? A warning where it is not.

Another scanner, another resolution or another export looks like disease to a detector that knows
one kind of normal. What the training normals looked like is therefore saved with the model, and
every scan to be scored is held against it. A warning changes no score: it tells the reader why one
may be high. Its absence proves nothing: the grey histogram notices only what moves a frame further
than the training normals differ among themselves, and knows nothing of sharpness or noise.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fanogan.calibration.statistics import Statistics, StatisticsBuilder
from fanogan.scans import Note, Scan

BINS = 64
"""Bins of the grey histogram over the model's own grey range, [0, 1] after encoding."""

MARGIN = 1.5
"""A histogram is outside when further from the mean than this times the furthest in training.

The furthest of a few hundred normals is not the furthest there is: a new normal of the same scanner
goes beyond it about once in as many images. Half as far again leaves room for that, and little for
another scanner, whose gain or offset moves the whole histogram.
"""

SPACING_TOLERANCE = 0.05
"""Share by which a spacing may leave the range seen in training."""

RANGE_TOLERANCE = 0.25
"""Share of the training normals' grey range by which either end may leave what they had."""

MAX_SIZES = 50
"""With more sizes than this in training, only their smallest and largest sides are kept."""

_FRAME_PIXELS = 65_536
_FRAMES_AT_ONCE = 64
_FRAMES_KEPT = 16_384
_AXES = ("frame", "row", "column")


@dataclass(frozen=True)
class SizeUnseen(Note):
    """A size (rows, columns) that no training normal had, and what they had (see `Profile`)."""

    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class BitDepthUnseen(Note):
    """A pixel type, such as 'uint16', that no training normal had."""

    dtype: str
    seen: tuple[str, ...]


@dataclass(frozen=True)
class ChannelsUnseen(Note):
    """A number of channels that no training normal had."""

    channels: int
    seen: tuple[int, ...]


@dataclass(frozen=True)
class SpacingUnseen(Note):
    """A spacing in mm along an axis ('frame', 'row', 'column') beyond the training normals'."""

    axis: str
    spacing: float
    seen: tuple[float, float]


@dataclass(frozen=True)
class GreyValuesUnseen(Note):
    """Frames whose grey histogram is further from the mean one than any in training.

    Distances are 1-Wasserstein, in shares of the grey range.
    """

    frames: int
    of: int
    distance: float
    largest_seen: float


@dataclass(frozen=True)
class GreyRangeUnseen(Note):
    """A range of grey values, taken from a scan by normalising, that no training normal had.

    The range, and the training normals' least and most of its low and of its high end.
    """

    low: float
    high: float
    lows: tuple[float, float]
    highs: tuple[float, float]


@dataclass(frozen=True)
class Profile:
    """What the training normals looked like.

    Attributes:
        sizes: Distinct (rows, columns), sorted; empty where there were more than `MAX_SIZES`.
        rows: Fewest and most rows.
        columns: Fewest and most columns.
        spacing: Smallest and largest spacing in mm between frames, rows and columns; None for an
            axis whose spacing no training scan told.
        dtypes: Names of the pixel types as stored, 'uint8'.
        channels: Numbers of channels.
        histogram: (64,) mean over the frames of the share of pixels in each grey bin; the channels
            of a colour image are pooled.
        largest_distance: Largest 1-Wasserstein distance of a training frame's histogram from the
            mean one, in shares of the grey range, in [0, 1].
        statistics: Plain statistics of the frames; None of few, and in models of version 0.1.
        grey_ranges: Of scans whose own grey range has been normalised, the least and most of its
            low and of its high end; None where there was none.
    """

    sizes: tuple[tuple[int, int], ...]
    rows: tuple[int, int]
    columns: tuple[int, int]
    spacing: tuple[tuple[float, float] | None, ...]
    dtypes: tuple[str, ...]
    channels: tuple[int, ...]
    histogram: tuple[float, ...]
    largest_distance: float
    statistics: Statistics | None = None
    grey_ranges: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def furthest(self) -> float:
        """How far a histogram may be from the mean one.

        What moves less than one bin is not resolved by it, and training images that are all alike
        would otherwise leave no room at all.
        """
        return max(MARGIN * self.largest_distance, 1 / BINS)

    def warnings(self, scan: Scan, frames01: NDArray[Any]) -> Iterator[Note]:
        """Yield each way in which a scan lies outside the training normals.

        Args:
            scan: The scan as read, for its size, spacing and pixel type.
            frames01: (frames, rows, columns) or (frames, rows, columns, channels), its grey values
                as the model encodes them, in [0, 1].

        Raises:
            ValueError: A grey value is not a number.
        """
        size, dtype, channels = _size(scan), scan.pixels.dtype.name, scan.channels
        if self.sizes:
            inside = size in self.sizes
        else:
            within = zip(size, (self.rows, self.columns), strict=True)
            inside = all(low <= side <= high for side, (low, high) in within)
        if not inside and scan.has_size:
            yield SizeUnseen(size, self.sizes, self.rows, self.columns)
        if dtype not in self.dtypes:
            yield BitDepthUnseen(dtype, self.dtypes)
        if channels not in self.channels:
            yield ChannelsUnseen(channels, self.channels)
        for axis, value, known in zip(_AXES, scan.spacing, self.spacing, strict=True):
            if known is not None and _is_length(value):
                low, high = known[0] * (1 - SPACING_TOLERANCE), known[1] * (1 + SPACING_TOLERANCE)
                if not low <= value <= high:
                    yield SpacingUnseen(axis, value, known)
        if scan.grey_range and self.grey_ranges:
            lows, highs = self.grey_ranges
            room = RANGE_TOLERANCE * (highs[1] - lows[0])
            if not all(
                least - room <= value <= most + room
                for value, (least, most) in zip(scan.grey_range, self.grey_ranges, strict=True)
            ):
                yield GreyRangeUnseen(*scan.grey_range, lows, highs)
        distances = _distances(_histograms(frames01, scan.name), np.asarray(self.histogram))
        outside = int((distances > self.furthest).sum())
        if outside:
            largest = float(distances.max())
            yield GreyValuesUnseen(outside, len(distances), largest, self.largest_distance)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, without loss."""
        return {
            "sizes": [list(size) for size in self.sizes],
            "rows": list(self.rows),
            "columns": list(self.columns),
            "spacing": [None if known is None else list(known) for known in self.spacing],
            "dtypes": list(self.dtypes),
            "channels": list(self.channels),
            "histogram": list(self.histogram),
            "largest_distance": self.largest_distance,
            "statistics": self.statistics and vars(self.statistics),
            "grey_ranges": self.grey_ranges,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Profile":
        """Make it again from what `to_dict` returned.

        Raises:
            ValueError: Another number of bins or axes.
        """
        bins, axes = len(values["histogram"]), len(values["spacing"])
        if (bins, axes) != (BINS, len(_AXES)):
            raise ValueError(f"a profile of {bins} grey bins and {axes} axes")
        if ranges := values.get("grey_ranges"):  # not in older models
            lows, highs = ((float(least), float(most)) for least, most in ranges)
        return cls(
            sizes=tuple((int(rows), int(columns)) for rows, columns in values["sizes"]),
            rows=(int(values["rows"][0]), int(values["rows"][1])),
            columns=(int(values["columns"][0]), int(values["columns"][1])),
            spacing=tuple(
                None if known is None else (float(known[0]), float(known[1]))
                for known in values["spacing"]
            ),
            dtypes=tuple(values["dtypes"]),
            channels=tuple(int(channels) for channels in values["channels"]),
            histogram=tuple(float(share) for share in values["histogram"]),
            largest_distance=float(values["largest_distance"]),
            statistics=Statistics.from_dict(found) if (found := values.get("statistics")) else None,
            grey_ranges=ranges and (lows, highs),
        )


class ProfileBuilder:
    """Gathers a `Profile` from one training scan after the other.

    Large frames are subsampled to about 65,000 pixels. The histograms of at most 16,384 frames are
    kept, evenly thinned beyond that, so that memory stays at 8 MB; the mean counts every frame.
    """

    def __init__(self) -> None:
        """Start with no scan seen."""
        self._sizes: set[tuple[int, int]] = set()
        self._spacing: list[tuple[float, float] | None] = [None, None, None]
        self._dtypes: set[str] = set()
        self._channels: set[int] = set()
        self._frames = 0
        self._total = np.zeros(BINS)
        self._kept: list[NDArray[np.float64]] = []
        self._every = 1
        self._statistics = StatisticsBuilder()
        self._grey_ranges: list[tuple[float, float]] = []

    def add(self, scan: Scan, frames01: NDArray[Any]) -> None:
        """Add one training scan, or some of its frames.

        Args:
            scan: The scan as read, for its size, spacing and pixel type.
            frames01: (frames, rows, columns) or (frames, rows, columns, channels), its grey values
                as the model encodes them, in [0, 1].

        Raises:
            ValueError: A grey value is not a number.
        """
        histograms = _histograms(frames01, scan.name)
        self._sizes.add(_size(scan))
        self._dtypes.add(scan.pixels.dtype.name)
        self._channels.add(scan.channels)
        for axis, value in enumerate(scan.spacing):
            if _is_length(value):
                low, high = self._spacing[axis] or (value, value)
                self._spacing[axis] = (min(low, float(value)), max(high, float(value)))
        if scan.grey_range:
            known = self._grey_ranges or [(value, value) for value in scan.grey_range]
            self._grey_ranges = [
                (min(least, value), max(most, value))
                for value, (least, most) in zip(scan.grey_range, known, strict=True)
            ]
        for histogram in histograms:
            self._keep(histogram)
        if scan.recorded is None:
            self._statistics.add(frames01)
        else:
            self._statistics.add(scan.pixels / np.float32(255), scan.recorded)

    def _keep(self, histogram: NDArray[np.float64]) -> None:
        self._total += histogram
        if self._frames % self._every == 0:
            self._kept.append(histogram)
        self._frames += 1
        if len(self._kept) > _FRAMES_KEPT:
            self._kept = self._kept[::2]
            self._every *= 2

    def build(self) -> Profile:
        """Return what the scans added so far looked like.

        Raises:
            ValueError: No frame has been added.
        """
        if self._frames == 0:
            raise ValueError("no training image has been seen: add at least one scan first")
        mean = self._total / self._frames
        lows_highs = (self._grey_ranges[0], self._grey_ranges[1]) if self._grey_ranges else None
        rows, columns = zip(*self._sizes, strict=True)
        return Profile(
            sizes=tuple(sorted(self._sizes)) if len(self._sizes) <= MAX_SIZES else (),
            rows=(min(rows), max(rows)),
            columns=(min(columns), max(columns)),
            spacing=tuple(self._spacing),
            dtypes=tuple(sorted(self._dtypes)),
            channels=tuple(sorted(self._channels)),
            histogram=tuple(mean.tolist()),
            largest_distance=float(_distances(np.stack(self._kept), mean).max()),
            statistics=self._statistics.build(),
            grey_ranges=lows_highs,
        )


def _histograms(frames01: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return (frames, 64), the share of each frame's pixels in each grey bin."""
    rows, columns = frames01.shape[1:3]
    step = max(1, math.ceil(math.sqrt(rows * columns / _FRAME_PIXELS)))
    shares = np.empty((len(frames01), BINS))
    for start in range(0, len(frames01), _FRAMES_AT_ONCE):
        some = frames01[start : start + _FRAMES_AT_ONCE, ::step, ::step]
        flat = np.asarray(some, dtype=np.float32).reshape(len(some), -1)
        if np.isnan(flat).any():
            raise ValueError(f"{name} holds values that are not numbers: leave it out or repair it")
        bins = (np.clip(flat, 0, 1) * BINS).astype(np.int64).clip(max=BINS - 1)
        bins += BINS * np.arange(len(some))[:, None]
        counts = np.bincount(bins.ravel(), minlength=BINS * len(some)).reshape(-1, BINS)
        shares[start : start + len(some)] = counts / flat.shape[1]
    return shares


def _distances(histograms: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (frames,), 1-Wasserstein: the area between the cumulative histograms."""
    distances: NDArray[np.float64] = np.abs(np.cumsum(histograms - mean, axis=1)).sum(axis=1)
    return distances / BINS


def _size(scan: Scan) -> tuple[int, int]:
    return int(scan.pixels.shape[1]), int(scan.pixels.shape[2])


def _is_length(value: float | None) -> TypeGuard[float]:
    """Tell whether a spacing is known; headers hold 0 and NaN where it is not."""
    return value is not None and 0 < value < math.inf
