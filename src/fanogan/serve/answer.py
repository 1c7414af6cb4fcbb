"""From the bytes of one scan to what is answered."""

from __future__ import annotations

import base64
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydantic import BaseModel, Field

from fanogan.errors import FanoganError
from fanogan.report import describe
from fanogan.scans import EXTENSIONS, BadScan, extension, format_of
from fanogan.scoring import Model, Result, image_files, map_file, read, score_encoded
from fanogan.serve.served import Served

MapFormat = Literal["png", "tiff", "nifti"]
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "npy": ".npy"}
"""Of files that come without a name; a zip is seen to, and DICOM has none."""
MOST_MEMBERS = 10_000
"""Files in a zip."""


class Version(BaseModel):
    """Which model has scored."""

    name: str
    version: str = Field(description="the beginning of the SHA-256 of its weights")


class Row(BaseModel):
    """What an image or a volume scores, as a line of ``scores.csv``."""

    unit: str = Field(description="image or volume")
    frame: int = Field(description="which image of a volume")
    score: float = Field(description="A = A_R + κ·A_D; higher is more anomalous")
    image_residual: float = Field(description="A_R")
    feature_residual: float = Field(description="A_D")
    largest_window: float
    mean_of_windows: float
    windows: int
    p_value: float | None = Field(description="null: no normals of this unit were held out")
    held_out_subjects: int
    flag: bool | None = Field(description="p ≤ α; null: too few were held out")
    shape: float | None = Field(description="of retinal OCT, how far its shape is from normals")
    shape_p_value: float | None
    combined: float | None
    combined_p_value: float | None
    warnings: list[str] = Field(description="in what way it is unlike the training normals")
    notes: list[str] = Field(description="what was done in reading it")


EXAMPLE: dict[str, Any] = {
    "model": {"name": "retina", "version": "5f0c1c9d2a77"},
    "unit": "image",
    "frame": 0,
    "score": 0.2231,
    "image_residual": 0.1874,
    "feature_residual": 0.0357,
    "largest_window": 0.2231,
    "mean_of_windows": 0.2231,
    "windows": 1,
    "p_value": 0.0476,
    "held_out_subjects": 20,
    "flag": True,
    "shape": None,
    "shape_p_value": None,
    "combined": None,
    "combined_p_value": None,
    "warnings": ["size 480×500 is outside the training normals (496×512)"],
    "notes": ["alpha channel dropped"],
    "frames": [],
    "map": None,
    "research_use": "Research use only, not a medical device.",
}


class Answer(Row):
    """A scan's score, of a volume also those of its frames, and the map where it was asked for."""

    model: Version
    frames: list[Row] = Field(description="of a volume, its images")
    map: str | None = Field(description="the file of the map, in base64")
    research_use: str = "Research use only, not a medical device."
    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}


def answer(
    served: Served,
    upload: BinaryIO,
    name: str,
    alpha: float,
    most_bytes: int,
    map_format: MapFormat | None = None,
) -> Answer:
    """Score a scan that was uploaded; nothing of it stays on the disk.

    Args:
        served: the model.
        upload: its bytes.
        name: the client's name of it, of which nothing but a known extension is used.
        alpha: the false-positive rate of the flag.
        most_bytes: that a zip may hold.
        map_format: of the map, None for no map.

    Raises:
        FanoganError: it can't be read or scored; the sentence names no file.
    """
    with tempfile.TemporaryDirectory(prefix="fanogan-serve-") as temporary:
        kind = extension(name)
        path = Path(temporary, f"scan{kind if kind in EXTENSIONS else ''}")
        with path.open("wb") as file:
            shutil.copyfileobj(upload, file)
        try:
            if not path.suffix:  # readers of folders go by the name
                path = path.rename(path.with_suffix(SUFFIXES.get(format_of(path), "")))
            return _answer(served, _unpacked(path, most_bytes), alpha, map_format)
        except FanoganError as error:
            text = str(error).replace(f"{temporary}/", "").replace(temporary, "the scan")
            raise BadScan(text.replace(", or leave it out with --skip-bad", "")) from None


def _unpacked(path: Path, most_bytes: int) -> Path:
    """Return the folder or store that a zip holds; any other file as it is."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return path
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            if all(member.filename.endswith(".npy") for member in members):
                return path.rename(path.with_suffix(".npz"))
            size = sum(member.file_size for member in members)
            if len(members) > MOST_MEMBERS or size > most_bytes:
                raise BadScan(
                    f"the zip holds {len(members):,} files of {size:,} bytes, and up to "
                    f"{MOST_MEMBERS:,} files of {most_bytes:,} bytes are taken"
                )
            folder = path.with_name("unpacked")
            packed.extractall(folder)  # drops what leads out of the folder
    except BadScan:
        raise
    except Exception as error:  # zlib's, lzma's and zipfile's kinds have no common base but this
        raise BadScan("the zip is damaged, encrypted or of an unknown compression") from error
    inside = [entry for entry in folder.iterdir() if entry.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 else folder


def _answer(served: Served, path: Path, alpha: float, map_format: MapFormat | None) -> Answer:
    model = served.model
    scans = read(model, [str(path)])
    encoded = next(scans)
    if next(scans, None) is not None:
        raise BadScan("more than one scan: send one at a time")
    found = list(itertools.chain.from_iterable(score_encoded(model, [encoded])))
    frames = [result for result in found if result.unit == "image"]
    rows = [_row(model, result, alpha) for result in frames]
    is_volume = encoded.scan.is_volume
    first = _row(model, found[-1], alpha)  # a volume follows its images
    picture = None
    if map_format is not None:
        count = len(encoded.pixels)
        data = _map(frames, count, is_volume, map_format, model.calibration.map_scale)
        picture = base64.b64encode(data).decode()
    served.count([result.measures for result in frames])
    return Answer(
        **first.model_dump(),
        model=Version(name=served.name, version=served.version),
        frames=rows if is_volume else [],
        map=picture,
    )


def _row(model: Model, result: Result, alpha: float) -> Row:
    calibration, unit = model.calibration, result.unit
    p_value, flag = calibration.assess(unit, result.total, alpha)

    def p_of(value: float | None, known: Any) -> float | None:
        held_out = known.get(unit)
        return None if value is None or held_out is None else held_out.p_value(value)

    return Row(
        unit=unit,
        frame=result.frame,
        score=result.total,
        image_residual=result.image,
        feature_residual=result.feature,
        largest_window=result.largest,
        mean_of_windows=result.mean,
        windows=result.windows,
        p_value=p_value,
        held_out_subjects=calibration.subjects(unit),
        flag=flag,
        shape=result.shape,
        shape_p_value=p_of(result.shape, calibration.shapes),
        combined=result.combined,
        combined_p_value=p_of(result.combined, calibration.combined),
        warnings=[describe(note) for note in result.warnings],
        notes=[describe(note) for note in result.notes],
    )


def _map(
    frames: Sequence[Result], count: int, is_volume: bool, map_format: MapFormat, scale: float
) -> bytes:
    """Return the map of an image, or the maps of a volume's frames as a stack."""
    first = frames[0]
    assert first.residual is not None
    if map_format == "png":
        if is_volume or first.residual.ndim == 3:
            raise BadScan("a picture shows one image: ask for map=tiff or map=nifti of a volume")
        *_, (_, coloured) = image_files(first, scale)
        return bytes(coloured)
    stack = np.full((count, *first.residual.shape), np.nan, np.float32)
    for each in frames:  # those without a usable window are not among them
        stack[each.frame if is_volume else 0] = each.residual
    residual = stack if is_volume else stack[0]
    try:
        place = first.spacing, first.affine, first.files
        return bytes(map_file("map", residual, *place, map_format)[1])
    except ImportError:
        raise BadScan("this service has no NIfTI: pip install 'fanogan[nifti]'") from None
