"""DICOM series: single-frame files of one series that make a volume together."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.checks import check_size, unusable
from fanogan.scans.dicom import (
    FRAME_TAGS,
    frame_header,
    object_without_image,
    read_dicom,
    read_elements,
)
from fanogan.scans.dicom_display import Range, declared_range
from fanogan.scans.dicom_place import distance_between, joined, position, uneven_slices
from fanogan.scans.notes import Note, SlicesByName
from fanogan.scans.scan import Scan

_TOMOGRAPHY = ("OPT", "CT", "MR", "PT")
_SHARED = ("Rows", "Columns", "ImageType", "EchoNumbers")
_SAME_ECHO = 1.05
_ROUNDS = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue"),
    *("FrameReferenceTime", "AcquisitionTime"),
)
_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "NumberOfFrames", "InstanceNumber"),
    *("BitsStored", "PixelRepresentation", "EchoTime"),
    *(*_SHARED, *_ROUNDS, *FRAME_TAGS),
]


@dataclass(frozen=True)
class Part:
    """A DICOM file and its place in a series.

    Attributes:
        path: The file.
        without_image: What kind of object it is, where it is one without an image.
        modality: As DICOM abbreviates it; None where unknown.
        series: What the single frames of one tomographic volume share: series, size, number of the
            echo, kind of image, direction. Never shown to anyone. None for anything else:
            radiographs of one series are separate pictures.
        echo: Echo time in milliseconds; 0 where there is none.
        number: The number in the series, where given.
        place: Position in millimetres, where given.
        rounds: What may tell volumes apart, where a series goes through the same places again.
        within: The range of its modality values; None where it holds floats.
    """

    path: Path
    without_image: str | None = None
    modality: str | None = None
    series: str | None = None
    echo: float = 0.0
    number: int | None = None
    place: tuple[float, ...] | None = None
    rounds: tuple[str, ...] = ()
    within: Range | None = None


def part_of(path: Path) -> Part:
    """Return the part that a file may be of a series; its path alone where it cannot be read."""
    try:
        header = read_elements(path, _TAGS)
        if kind := object_without_image(header):
            return Part(path, kind)
        modality, series = header.get("Modality"), header.get("SeriesInstanceUID")
        is_single = int(header.get("NumberOfFrames") or 1) == 1
        if not series or modality not in _TOMOGRAPHY or not is_single:
            return Part(path, modality=modality)
        # B-scans of one eye may be turned against each other; what has no size is no image.
        turned = () if modality == "OPT" else header.get("ImageOrientationPatient") or ()
        shared = [str(header[tag].value) if tag in header else "" for tag in _SHARED]
        number = header.get("InstanceNumber")
        own = frame_header(header, 0)
        return Part(
            path,
            modality=modality,
            series=" ".join([series, *shared, *(f"{cosine + 0.0:.2f}" for cosine in turned)]),
            echo=float(header.get("EchoTime") or 0),
            number=None if number is None else int(number),
            place=position(own),
            rounds=tuple(str(header.get(tag)) for tag in _ROUNDS),
            within=declared_range([own]) if "BitsStored" in own else None,
        )
    except Exception:
        # Reading the file as an image says what is wrong with it.
        return Part(path)


def volumes_of(parts: Sequence[Part]) -> list[tuple[Path, ...]]:
    """Return the files of each volume among these, in order; single images are left out."""
    members: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if part.series:
            members[part.series].append(part)
    echoes = [echo for slices in members.values() for echo in _echoes(slices)]
    volumes = [volume for slices in echoes for volume in _rounds(slices)]
    return [_in_order(slices) for slices in volumes if len(slices) > 1]


def _echoes(slices: list[Part]) -> list[list[Part]]:
    """Split a series by echo time, which may differ by a little from slice to slice."""
    times = sorted({part.echo for part in slices})
    firsts = [b for a, b in pairwise([-1.0, *times]) if b > _SAME_ECHO * a]
    echoes: dict[int, list[Part]] = defaultdict(list)
    for part in slices:
        echoes[bisect_right(firsts, part.echo)].append(part)
    return list(echoes.values())


def _rounds(slices: list[Part]) -> list[list[Part]]:
    """Split a series that goes through all its places again and again, if what differs tells."""
    slots = _slots(slices)
    for which in range(len(_ROUNDS)):
        rounds: dict[str, list[Part]] = defaultdict(list)
        for part in slices:
            rounds[part.rounds[which]].append(part)
        whole = [set(_slots(each)) == set(slots) for each in rounds.values()]
        if len(slots) == len(rounds) * len(set(slots)) and len(rounds) > 1 and all(whole):
            return list(rounds.values())
    return [slices]


def _slots(slices: Sequence[Part]) -> list[Hashable]:
    """Return where each slice lies: its place, else its number, else its index."""
    for known in ([part.place for part in slices], [part.number for part in slices]):
        if None not in known and len(set(known)) > 1:
            return list(known)
    return list(range(len(slices)))


def _in_order(slices: Sequence[Part]) -> tuple[Path, ...]:
    """Return the files in order: along the line of their places, else by number, else as given.

    Numbers say at which end to begin.
    """
    order = np.arange(len(slices))
    numbers = [part.number for part in slices if part.number is not None]
    are_numbered = len(set(numbers)) == len(slices)
    along = _along([part.place for part in slices])
    if along is not None:
        order = np.argsort(along, kind="stable")
        if are_numbered and numbers[order[0]] > numbers[order[-1]]:
            order = order[::-1]
    elif are_numbered:
        order = np.argsort(numbers, kind="stable")
    return tuple(slices[int(i)].path for i in order)


def _along(places: Sequence[tuple[float, ...] | None]) -> NDArray[np.float64] | None:
    """Return how far along a line places lie, in millimetres; None where that is no order."""
    if None in places:
        return None
    away = np.array(places, dtype=np.float64) - np.array(places[0])
    lengths = np.linalg.norm(away, axis=1)
    if not lengths.any():
        return None
    line = away[np.argmax(lengths)] / lengths.max()
    along: NDArray[np.float64] = away @ line
    beside = np.linalg.norm(away - np.outer(along, line), axis=1)
    return along if beside.max() < 0.1 * np.ptp(along) else None


def read_series(paths: Sequence[Path]) -> Scan:
    """Read the files of a series, in this order, as one volume.

    Returns:
        (files, rows, columns), with the spacing in millimetres: between frames the distance of
        the files' positions where they are given. A window is spread over the range of all files.

    Raises:
        BadScan: As `read_dicom`, files of differing size, or a slice that is there twice.
    """
    parts = [part_of(path) for path in paths]
    slots = _slots(parts)
    first_at: dict[Hashable, Path] = {}
    for path, slot in zip(paths, slots, strict=True):
        if slot in first_at:
            problem = f"{path} and {first_at[slot].name} are the same slice of one series"
            raise unusable(problem, "keep one of them, or put each volume into a folder of its own")
        first_at[slot] = path
    ranges = [part.within for part in parts if part.within is not None]
    within = None
    if len(ranges) == len(parts):
        within = min(low for low, _ in ranges), max(high for _, high in ranges)
    first = read_dicom(paths[0], within)
    frame = first.pixels[0]
    check_size(str(paths[0]), frame.shape[0], frame.shape[1], len(paths), frame[0, 0].nbytes)
    frames, notes, affines = [frame], [*first.notes], [first.affine]
    for path in paths[1:]:
        scan = read_dicom(path, within)
        if scan.pixels.shape != first.pixels.shape:
            problem = f"{path} differs in size from {paths[0].name} of the same series"
            raise unusable(problem, "export the series again")
        frames.append(scan.pixels[0])
        affines.append(scan.affine)
        notes += scan.notes
    places = [part.place for part in parts]
    between = distance_between(places) or first.spacing[0]
    notes = list(dict.fromkeys([*notes, *_order_notes(parts, places)]))
    return replace(
        first,
        pixels=np.stack(frames),
        spacing=(between, *first.spacing[1:]),
        affine=joined(affines),
        is_volume=True,
        notes=tuple(notes),
    )


def _order_notes(
    parts: Sequence[Part], places: Sequence[tuple[float, ...] | None]
) -> tuple[Note, ...]:
    """Say where slices may be missing, or in what order they are if nothing tells."""
    numbers = [part.number for part in parts if part.number is not None]
    if _along(places) is not None:
        return uneven_slices(places)
    if len(set(numbers)) == len(parts):
        return uneven_slices([(number,) for number in numbers], unit="numbers")
    return (SlicesByName(),)
