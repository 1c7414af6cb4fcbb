"""Images and volumes as a page shows them, and the choice of those that it has room for."""

from __future__ import annotations

import dataclasses
import heapq
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from fanogan.calibration import Calibration
from fanogan.report import Case, Curves, VolumeCase, describe, shrink
from fanogan.retina import Region
from fanogan.scans import EnFace
from fanogan.scoring.model import Model
from fanogan.scoring.result import Result
from fanogan.scoring.signal_maps import curves_of
from fanogan.scoring.voxel_maps import shown_slice
from fanogan.text import counted, plural, seen_through


def as_picture(image: np.ndarray) -> np.ndarray:
    """Return an image in [−1, 1] as 8 bits: (H, W) or (H, W, 3); of other channels the first."""
    levels = np.nan_to_num(image, nan=-1.0)
    levels += 1  # in place: an image of 25 megapixels takes 100 MB each time
    levels *= 127.5
    pixels = np.clip(np.round(levels, out=levels), 0, 255, out=levels).astype(np.uint8)
    return np.asarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] != 3 else pixels)


def case_of(
    result: Result,
    calibration: Calibration,
    alpha: float,
    label: int | None = None,
    mask: np.ndarray | None = None,
) -> Case:
    """Return an image as the page's gallery shows it."""
    assert result.picture is not None and result.reconstruction is not None
    curves = curves_of(result, calibration) if result.signal else None
    place = ""
    if result.residual is not None and result.residual.ndim == 3:
        number = shown_slice(result)
        place = f"slice {number:,} of 0 to {len(result.residual) - 1:,},"
        result = of_slice(result, number)
        mask = None if mask is None else mask[number]
    assert result.picture is not None and result.reconstruction is not None
    p_value, flag = calibration.assess(result.unit, result.total, alpha)
    return Case(
        name=result.name,
        score=result.total,
        image_residual=result.image,
        feature_residual=result.feature,
        p_value=p_value,
        flag=flag,
        label=label,
        warnings=tuple(map(describe, result.warnings)),
        size=(result.picture.shape[0], result.picture.shape[1]),
        picture=shrink(as_picture(result.picture)),
        reconstruction=shrink(as_picture(result.reconstruction)),
        # A copy, or the maps of its whole batch would be kept.
        residual=None if result.residual is None else shrink(result.residual).copy(),
        flat=None if result.volume is None else result.volume.pixels[result.frame],
        mask=None if mask is None else shrink(mask.astype(np.float32)) > 0,
        held_out_subjects=calibration.subjects(result.unit),
        shape_line=result.shape_line,
        curves=curves,
        place=place,
    )


def of_slice(result: Result, number: int) -> Result:
    """Return a volume's result with the arrays of one slice, as an image's."""
    arrays = {
        name: getattr(result, name)[number] for name in ("residual", "reconstruction", "picture")
    }
    return dataclasses.replace(result, **arrays)


def statement_of(model: Model, alpha: float, unit: str = "image") -> str:
    """Say what the calibration allows to claim of a kind of unit."""
    noun = model.preprocessing.noun if unit == "image" else unit
    held_out = model.calibration.units.get(unit)
    if held_out:
        return held_out.describe(alpha, noun)
    return f"no {noun} was held out of training: {plural(noun)} have no p-value and no flag"


def about_model(model: Model) -> dict[str, str]:
    """Say on a page what the model is."""
    data, seen = model.provenance["fingerprint"], model.preprocessing
    noun = seen.kind
    return {
        "detector": model.title,
        "recipe": " · ".join(filter(None, (model.recipe.name, model.recipe.about))),
        "trained on": f"{counted(data['images'], f'normal {noun}')} of "
        f"{counted(data['subjects'], 'subject')}",
        "sees": seen_through(seen.window, seen.image_size, noun),
        "scores in": model.precision,
        "seed": str(model.provenance["seed"]),
    }


# --- the choice -----------------------------------------------------------------------------------

C = TypeVar("C", Case, VolumeCase)


class Gallery(Generic[C]):
    """The cases with the highest values of a key among any number of them, in flat memory."""

    def __init__(self, size: int, key: Callable[[C], float] | None = None):
        """Keep ``size`` cases, by their scores unless there is another key."""
        self.size = size
        self.key: Callable[[C], float] = key or (lambda case: case.score)
        self.heap: list[tuple[float, int, C]] = []
        self.count = 0

    def add(self, case: C) -> None:
        """Take a case, and drop the lowest where there is no room."""
        self.count += 1
        heapq.heappush(self.heap, (self.key(case), -self.count, case))
        if len(self.heap) > self.size:
            heapq.heappop(self.heap)

    @property
    def cases(self) -> list[C]:
        """The cases kept, the highest key first."""
        return [case for _, _, case in sorted(self.heap, reverse=True, key=lambda entry: entry[:2])]


# --- cases as bytes -------------------------------------------------------------------------------


def pack(case: Case | VolumeCase) -> bytes:
    """Return a case as the bytes of an ``.npz``."""
    values = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    if isinstance(case, Case) and case.curves is not None:
        values |= {f"curves {key}": value for key, value in vars(case.curves).items()}
        values["curves"] = None
    if isinstance(case, VolumeCase):
        values["bscans"] = np.asarray(case.bscans)
        values["regions"] = [vars(region) for region in case.regions]
        if case.fundus is not None:
            values |= {f"fundus {key}": value for key, value in vars(case.fundus).items()}
        del values["fundus"]
    arrays: dict[str, Any] = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    rest = json.dumps({key: value for key, value in values.items() if key not in arrays})
    buffer = io.BytesIO()
    np.savez(buffer, __rest__=np.frombuffer(rest.encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    values = {**json.loads(arrays.pop("__rest__").tobytes()), **arrays}
    return {**values, "warnings": tuple(values["warnings"])}


def unpack_case(data: bytes) -> Case:
    """Return the image that was packed."""
    values = _unpack(data)
    curves = {key: values.pop(f"curves {key}", None) for key in Curves.__dataclass_fields__}
    values["curves"] = None if curves["values"] is None else Curves(**curves)
    return Case(**{**values, "size": tuple(values["size"])})


def unpack_volume(data: bytes) -> VolumeCase:
    """Return the volume that was packed."""
    values = _unpack(data)
    fundus = {key: values.pop(f"fundus {key}", None) for key in EnFace.__dataclass_fields__}
    values["regions"] = [region_of(region) for region in values["regions"]]
    values["spacing"] = tuple(values["spacing"])
    return VolumeCase(fundus=None if fundus["pixels"] is None else EnFace(**fundus), **values)


def region_of(values: Mapping[str, Any]) -> Region:
    """Return a region from its fields as JSON holds them."""
    whole: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Region(**whole)
