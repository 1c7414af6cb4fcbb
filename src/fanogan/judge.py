"""Scores beside those of the held-out normals, as tables and pages have them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from fanogan.calibration import HeldOut, plural
from fanogan.detectors import LearnedDetector, Result
from fanogan.en_face import VolumeCase
from fanogan.report import Case


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image in [−1, 1] as 8 bits: (H, W) or (H, W, 3); of other channels the first."""
    known = np.nan_to_num(image, nan=-1.0)
    pixels = np.clip(np.round((known + 1) * 127.5), 0, 255).astype(np.uint8)
    return np.asarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] != 3 else pixels)


class Judge:
    """Puts scores beside the held-out normals of the same kind of unit."""

    def __init__(self, detector: LearnedDetector, alpha: float):
        """Judge by a detector's calibration, at a false-positive rate."""
        self.units: Mapping[str, HeldOut] = detector.calibration.units
        self.window = detector.preprocessing.window or (0, 0)
        self.nouns = {"image": "B-scan"} if detector.preprocessing.retina else {}
        self.alpha = alpha

    def p_value(self, result: Result) -> float | None:
        """The conformal p-value, or None where no such unit was held out."""
        held_out = self.units.get(result.unit)
        return held_out.p_value(result.total) if held_out else None

    def flag(self, result: Result) -> bool | None:
        """Whether it is flagged; None where too few were held out."""
        held_out = self.units.get(result.unit)
        return held_out.flag(result.total, self.alpha) if held_out else None

    def statement(self, unit: str = "image") -> str:
        """What the calibration allows to claim."""
        held_out, noun = self.units.get(unit), self.nouns.get(unit, unit)
        return (
            held_out.describe(self.alpha, noun)
            if held_out
            else f"no {noun} was held out of training: {plural(noun)} have no p-value and no flag"
        )

    def row(self, result: Result) -> dict[str, Any]:
        """One line of ``scores.csv``."""
        held_out = self.units.get(result.unit)
        flag = self.flag(result)
        return {
            "name": result.name,
            "subject": result.group,
            "unit": result.unit,
            "score": repr(result.total),
            "image_residual": repr(result.image),
            "feature_residual": repr(result.feature),
            "largest_window": repr(result.largest),
            "mean_of_windows": repr(result.mean),
            "windows": result.windows,
            "p_value": "" if held_out is None else repr(self.p_value(result)),
            "held_out": held_out.n if held_out else 0,
            "held_out_subjects": held_out.n_subjects if held_out else 0,
            "flag": "too few held out" if flag is None else "yes" if flag else "no",
            "warnings": "; ".join(result.warnings),
            "notes": "; ".join(result.notes),
        }

    def volume(self, result: Result) -> dict[str, Any]:
        """One line of the report's table of volumes."""
        return {
            "name": result.name,
            "score": result.total,
            "p_value": self.p_value(result),
            "flag": self.flag(result),
        }

    def case(
        self, result: Result, label: int | None = None, mask: np.ndarray | None = None
    ) -> Case:
        """An image as the report's gallery shows it."""
        assert result.picture is not None and result.reconstruction is not None
        return Case(
            name=result.name,
            score=result.total,
            image_residual=result.image,
            feature_residual=result.feature,
            p_value=self.p_value(result),
            flag=self.flag(result),
            label=label,
            warnings=result.warnings,
            picture=as_picture(result.picture),
            reconstruction=as_picture(result.reconstruction),
            residual=result.residual,
            mask=mask,
        )


C = TypeVar("C", Case, VolumeCase)


class Gallery(Generic[C]):
    """The cases with the highest values of a key, of any number that pass by, in flat memory."""

    def __init__(self, size: int, key: Callable[[C], float] | None = None):
        """Keep ``size`` cases, by their scores where no other key is given."""
        self.size = size
        self.key: Callable[[C], float] = key or (lambda case: case.score)
        self.heap: list[tuple[float, int, C]] = []
        self.seen = 0

    def add(self, case: C) -> None:
        """Let a case pass by."""
        self.seen += 1
        heapq.heappush(self.heap, (self.key(case), -self.seen, case))
        if len(self.heap) > self.size:
            heapq.heappop(self.heap)

    @property
    def cases(self) -> list[C]:
        """The cases kept, the highest key first."""
        return [case for _, _, case in sorted(self.heap, reverse=True, key=lambda entry: entry[:2])]
