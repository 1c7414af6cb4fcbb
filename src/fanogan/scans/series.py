"""DICOM series: single-frame files of one series that make a volume together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fanogan.scans.dicom import distance_between, position, read_dicom, read_elements
from fanogan.scans.scan import Scan, check_size, unusable

_TOMOGRAPHY = ("OPT", "CT", "MR", "PT")
_TAGS = [
    *("SeriesInstanceUID", "Modality", "NumberOfFrames", "Rows", "Columns"),
    *("InstanceNumber", "ImagePositionPatient"),
]


@dataclass(frozen=True)
class Part:
    """A DICOM file and its place in a series.

    Attributes:
        path: The file.
        modality: As DICOM abbreviates it; None where unknown.
        series: What the single frames of one tomographic volume share: series and size. Never shown
            to anyone. None for anything else: radiographs of one series are separate pictures.
        number: The number in the series, where given.
        place: Position in millimetres, where given.
    """

    path: Path
    modality: str | None = None
    series: str | None = None
    number: int | None = None
    place: tuple[float, ...] | None = None


def part_of(path: Path) -> Part:
    """Return the part that a file may be of a series; its path alone where it cannot be read."""
    try:
        header = read_elements(path, _TAGS)
        modality, series = header.get("Modality"), header.get("SeriesInstanceUID")
        is_single = int(header.get("NumberOfFrames") or 1) == 1
        if not series or modality not in _TOMOGRAPHY or not is_single:
            return Part(path, modality)
        number = header.get("InstanceNumber")
        key = f"{series} {int(header.Rows)} {int(header.Columns)}"
        return Part(path, modality, key, None if number is None else int(number), position(header))
    except Exception:
        # Reading the file as an image says what is wrong with it.
        return Part(path)


def in_order(slices: Sequence[Part]) -> tuple[Path, ...]:
    """Return the files of a series in order: by number, else by position, else as they come."""
    order = np.arange(len(slices))
    numbers = [part.number for part in slices if part.number is not None]
    places = np.array([part.place for part in slices if part.place is not None])
    if len(set(numbers)) == len(slices):
        order = np.argsort(numbers, kind="stable")
    elif len(places) == len(slices):
        away = places - places[0]
        farthest = away[np.argmax(np.linalg.norm(away, axis=1))]
        order = np.argsort(away @ farthest, kind="stable")
    return tuple(slices[int(i)].path for i in order)


def read_series(paths: Sequence[Path]) -> Scan:
    """Read the files of a series, in this order, as one volume.

    Returns:
        (files, rows, columns), with the spacing in millimetres: between frames the distance of
        the files' positions where they are given.

    Raises:
        BadScan: As `read_dicom`, or files of differing size.
    """
    first = read_dicom(paths[0])
    frame = first.pixels[0]
    check_size(str(paths[0]), frame.shape[0], frame.shape[1], len(paths), frame[0, 0].nbytes)
    frames = [frame]
    for path in paths[1:]:
        pixels = read_dicom(path).pixels
        if pixels.shape != first.pixels.shape:
            problem = f"{path} differs in size from {paths[0].name} of the same series"
            raise unusable(problem, "export the series again")
        frames.append(pixels[0])
    between = distance_between([part_of(path).place for path in paths]) or first.spacing[0]
    spacing = (between, *first.spacing[1:])
    return replace(first, pixels=np.stack(frames), spacing=spacing, is_volume=True)
