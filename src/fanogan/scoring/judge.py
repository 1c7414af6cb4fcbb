"""Scores beside those of the held-out normals, as tables and pages have them."""

from __future__ import annotations

import dataclasses
import heapq
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from fanogan.calibration import HeldOut
from fanogan.detectors import LearnedDetector, Result
from fanogan.report import Case, VolumeCase
from fanogan.storage import write_whole
from fanogan.wording import plural


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
            # A copy, or the maps of its whole batch would be kept.
            residual=None if result.residual is None else result.residual.copy(),
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
        self.saved: set[int] = set()

    def add(self, case: C) -> None:
        """Let a case pass by."""
        self.seen += 1
        heapq.heappush(self.heap, (self.key(case), -self.seen, case))
        if len(self.heap) > self.size:
            heapq.heappop(self.heap)

    def offer(self, key: float, make: Callable[[], C]) -> None:
        """Let a case with this key pass by that is made only if it is to be kept."""
        if len(self.heap) < self.size or key > self.heap[0][0]:
            self.add(make())
        else:
            self.seen += 1

    def save(self, folder: Path, pack: Callable[[C], bytes]) -> None:
        """Write those of the cases kept that ``folder`` doesn't hold yet, numbered as they came.

        What others drive out later stays there: of n cases in no order about
        size · (1 + ln(n / size)), and each may be wanted again by who goes on before its end.
        """
        for _, minus, case in self.heap:
            if -minus not in self.saved:
                write_whole(folder / f"{-minus}.npz", pack(case))
                self.saved.add(-minus)

    def restore(self, keys: Sequence[float], folder: Path, unpack: Callable[[bytes], C]) -> None:
        """Be as after cases with these keys have passed by, by what was saved of them."""
        best = heapq.nlargest(self.size, ((key, -n) for n, key in enumerate(keys, 1)))
        self.heap = [
            (key, minus, unpack((folder / f"{-minus}.npz").read_bytes())) for key, minus in best
        ]
        heapq.heapify(self.heap)
        self.seen, self.saved = len(keys), {-minus for _, minus in best}

    @property
    def cases(self) -> list[C]:
        """The cases kept, the highest key first."""
        return [case for _, _, case in sorted(self.heap, reverse=True, key=lambda entry: entry[:2])]


def pack(values: Mapping[str, Any]) -> bytes:
    """Arrays and what JSON can hold, as the bytes of an ``.npz``."""
    arrays: dict[str, Any] = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    rest = json.dumps({key: value for key, value in values.items() if key not in arrays})
    buffer = io.BytesIO()
    np.savez(buffer, __rest__=np.frombuffer(rest.encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of ``pack``, with lists in the place of tuples."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    return {**json.loads(arrays.pop("__rest__").tobytes()), **arrays}


def pack_case(case: Case) -> bytes:
    """A case as a file holds it."""
    return pack(values_of(case))


def unpack_case(data: bytes) -> Case:
    """The inverse of ``pack_case``."""
    values = unpack(data)
    return Case(**{**values, "warnings": tuple(values["warnings"])})


def values_of(case: Case | VolumeCase) -> dict[str, Any]:
    """The fields of a case by name."""
    return {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
