"""Is a model still shown what it was calibrated on? Images in use, beside the held-out normals.

Of each image a few numbers are counted by day, in cells whose borders are values of the held-out
normals, so that a record grows neither with the images nor with who they are of. The distance of a
period from the held-out normals is Kolmogorov and Smirnov's: the largest difference of the two
cumulative distributions. Images of one subject resemble each other, so the size of either sample is
Kish's effective one, (sum of n_i)² / sum of n_i² of subjects with n_i images each. The distance of
what the samples are from is within the observed one ± the quantile of Kolmogorov's distribution at
n m / (n + m); a shift is told where this leaves out 0.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEASURES = ("score", "brightness", "contrast", "frame spacing", "row spacing", "column spacing")
"""What is counted of an image; a spacing of 0 is unknown."""
ALPHA_DRIFT = 0.01
"""The share of periods that may show a shift by chance, all measures together."""
LEAST = 20
"""Effective images of a period; days with fewer are taken together with the next."""
MOST_EDGES = 64
MOST_DAYS = 366
_PSI_BINS = 10
_FRAME_PIXELS = 65_536


@dataclasses.dataclass
class Tally:
    """How many images lie in each cell.

    Attributes:
        images: their number.
        squares: the sum over subjects of their squared numbers of images.
        cells: of each measure, how many lie below the first edge, at it, between it and the next,
            and so on.
    """

    images: int
    squares: int
    cells: dict[str, list[int]]

    @property
    def effective(self) -> float:
        """The number of independent images that say as much."""
        return self.images**2 / self.squares if self.squares else 0.0

    def __add__(self, other: Tally) -> Tally:
        """Return both together, of different subjects."""
        cells = {
            name: [a + b for a, b in zip(of, other.cells[name], strict=True)]
            for name, of in self.cells.items()
        }
        return Tally(self.images + other.images, self.squares + other.squares, cells)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What images are held against: the borders of cells, and the held-out normals in them."""

    edges: dict[str, list[float]]
    tally: Tally

    @classmethod
    def of(cls, images: Sequence[Sequence[float]], groups: Sequence[str]) -> Reference:
        """Count held-out normals.

        Args:
            images: the measures of each, as ``MEASURES``.
            groups: the subject of each.
        """
        edges = {}
        for name, values in zip(MEASURES, zip(*images, strict=True), strict=True):
            known = sorted(set(values))
            places = np.linspace(0, len(known) - 1, min(len(known), MOST_EDGES)).round()
            edges[name] = [known[int(place)] for place in places]
        reference = cls(edges, _nothing(edges))
        for _, subject in itertools.groupby(
            sorted(zip(groups, images, strict=True)), lambda x: x[0]
        ):
            reference.count(reference.tally, [each for _, each in subject])
        return reference

    def count(self, tally: Tally, images: Sequence[Sequence[float]]) -> None:
        """Add the measures of a subject's images to a tally."""
        tally.images += len(images)
        tally.squares += len(images) ** 2
        for image in images:
            for (name, edges), value in zip(self.edges.items(), image, strict=True):
                cell = bisect.bisect_left(edges, value) + bisect.bisect_right(edges, value)
                tally.cells[name][cell] += 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reference:
        """Make it again from its fields as JSON holds them.

        Raises:
            ValueError: It is none.
        """
        edges = {name: [float(edge) for edge in values["edges"][name]] for name in MEASURES}
        return cls(edges, _tally(values["tally"], edges))


@dataclasses.dataclass
class DriftRecord:
    """What a model was shown, by day, beside its held-out normals. No name, no image, no subject.

    Attributes:
        model: the SHA-256 of its weights.
        reference: its held-out normals.
        days: by date (UTC), the last ``MOST_DAYS`` of them.
    """

    model: str
    reference: Reference
    days: dict[str, Tally] = dataclasses.field(default_factory=dict)

    def add(self, day: str, images: Sequence[Sequence[float]]) -> None:
        """Count the images of one subject on a day."""
        if day not in self.days:
            self.days[day] = _nothing(self.reference.edges)
            for former in sorted(self.days)[:-MOST_DAYS]:
                del self.days[former]
        if day in self.days:
            self.reference.count(self.days[day], images)

    def together(self, other: DriftRecord) -> DriftRecord:
        """Return both in one.

        Raises:
            ValueError: They are of two models, or of one that was calibrated anew.
        """
        if (self.model, self.reference) != (other.model, other.reference):
            raise ValueError("they are of two models, or of one that was calibrated anew")
        days = dict(self.days)
        for day, tally in other.days.items():
            days[day] = days[day] + tally if day in days else tally
        return DriftRecord(self.model, self.reference, days)

    @property
    def everything(self) -> Tally:
        """All days in one."""
        return sum(self.days.values(), start=_nothing(self.reference.edges))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {"drift": 1, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DriftRecord:
        """Make it again from what ``to_dict`` returned.

        Raises:
            ValueError: It is no such record, or one of a newer version.
        """
        if values["drift"] != 1:
            raise ValueError(f"a record of version {values['drift']}")
        reference = Reference.from_dict(values["reference"])
        days = {str(day): _tally(each, reference.edges) for day, each in values["days"].items()}
        return cls(str(values["model"]), reference, days)


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far one measure of a period is from the reference.

    Attributes:
        distance: Kolmogorov and Smirnov's, in [0, 1].
        low: the lower end of its interval.
        high: the upper end.
        psi: the population stability index, over up to ten bins that hold as much of the reference.
        psi_by_chance: what it is on average where nothing has shifted.
    """

    distance: float
    low: float
    high: float
    psi: float
    psi_by_chance: float

    @property
    def shifted(self) -> bool:
        """Whether chance doesn't explain it."""
        return self.low > 0


@dataclasses.dataclass(frozen=True)
class Period:
    """A day, or days in a row that are taken together.

    Attributes:
        first: its first day.
        last: its last day.
        tally: its images.
        shifts: by measure; empty of too few images.
    """

    first: str
    last: str
    tally: Tally
    shifts: dict[str, Shift]

    @property
    def shifted(self) -> list[str]:
        """The measures that have."""
        return [name for name, shift in self.shifts.items() if shift.shifted]


def periods(
    record: DriftRecord, against: Tally | None = None, alpha: float = ALPHA_DRIFT
) -> list[Period]:
    """Hold each period of a record against the held-out normals.

    Args:
        record: the record.
        against: other images in place of the held-out normals.
        alpha: the share of periods that may show a shift by chance.

    Returns:
        The periods in order; the last may be of too few images still.
    """
    against = against or record.reference.tally
    found, first, sum_ = [], "", _nothing(record.reference.edges)
    for day in sorted(record.days):
        first, sum_ = first or day, sum_ + record.days[day]
        if sum_.effective >= LEAST:
            found.append(Period(first, day, sum_, dict(_shifts(sum_, against, alpha))))
            first, sum_ = "", _nothing(record.reference.edges)
    return [*found, Period(first, max(record.days), sum_, {})] if first else found


@functools.lru_cache(maxsize=128)
def resolution(of: float, against: float, alpha: float = ALPHA_DRIFT) -> float:
    """Return the least distance that tells a shift, of two effective numbers of images."""
    from scipy.stats import kstwo

    size = int(of * against / (of + against))
    return float(kstwo.isf(alpha / len(MEASURES), size)) if size else 1.0


def _shifts(tally: Tally, against: Tally, alpha: float) -> Iterator[tuple[str, Shift]]:
    within = resolution(tally.effective, against.effective, alpha)
    for name, cells in tally.cells.items():
        counts = np.array([cells, against.cells[name]], dtype=np.float64)
        shares = counts / counts.sum(axis=1, keepdims=True)
        below = np.cumsum(shares, axis=1)
        distance = float(np.abs(below[0] - below[1]).max())
        # A bin is a tenth of the reference, or what lies at one of its values.
        bins = np.minimum((_PSI_BINS * (below[1] - shares[1] / 2)).astype(int), _PSI_BINS - 1)
        binned = np.stack([np.bincount(bins, of) for of in counts])
        held = binned[:, binned.any(axis=0)] + 0.5
        parts = held / held.sum(axis=1, keepdims=True)
        psi = float(((parts[0] - parts[1]) * np.log(parts[0] / parts[1])).sum())
        chance = (held.shape[1] - 1) * (1 / tally.effective + 1 / against.effective)
        low, high = max(distance - within, 0.0), min(distance + within, 1.0)
        yield name, Shift(distance, low, high, psi, chance)


def grey_measures(
    frames01: NDArray[Any], known: NDArray[np.bool_] | None
) -> list[tuple[float, float]]:
    """Return brightness and contrast of each frame: mean and standard deviation.

    Args:
        frames01: (frames, rows, columns, channels) in [0, 1]; large ones are subsampled.
        known: (frames, rows, columns) where they were recorded; None: everywhere.
    """
    step = max(1, math.ceil(math.sqrt(math.prod(frames01.shape[1:3]) / _FRAME_PIXELS)))
    found = []
    for number, frame in enumerate(frames01[:, ::step, ::step]):
        pixels = frame if known is None else frame[known[number, ::step, ::step]]
        found.append((float(pixels.mean()), float(pixels.std())) if pixels.size else (0.0, 0.0))
    return found


def _nothing(edges: Mapping[str, Sequence[float]]) -> Tally:
    return Tally(0, 0, {name: [0] * (2 * len(of) + 1) for name, of in edges.items()})


def _tally(values: Mapping[str, Any], edges: Mapping[str, Sequence[float]]) -> Tally:
    cells = {name: [int(count) for count in values["cells"][name]] for name in edges}
    if any(len(cells[name]) != 2 * len(of) + 1 for name, of in edges.items()):
        raise ValueError("cells that don't fit their edges")
    tally = Tally(int(values["images"]), int(values["squares"]), cells)
    if any(min(of) < 0 or sum(of) != tally.images for of in cells.values()):
        raise ValueError("cells that don't add up")
    return tally
