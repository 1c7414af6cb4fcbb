"""Heidelberg Eye Explorer exports: an XML file, and beside it one TIFF a B-scan and localizer.

Only the elements named here are read, so that no name, birth date or ID of a patient can reach
a name, a note, a log or a message.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.checks import BadScan, check_size, damaged
from fanogan.scans.notes import Note, UnevenBScans
from fanogan.scans.pixels import channels_are_equal, drop_alpha
from fanogan.scans.raster import read_raster
from fanogan.scans.scan import EYES, EnFace, Pixels, Scan, known_length
from fanogan.scans.tiff import read_tiff

MAX_XML_BYTES = 200_000_000
"""An export with segmentation lines has a few megabytes."""

_ROUNDING = 1e-4
_EQUALLY_SPACED = 0.05
_CONTEXT = "OphthalmicAcquisitionContext"


class _DoctypeError(ValueError):
    """A document type declaration, which no export has."""


class _NoDoctype(ElementTree.TreeBuilder):
    """A tree builder that refuses the declarations in which entities could be defined."""

    def doctype(self, *_: str | None) -> None:
        raise _DoctypeError


class _Image(NamedTuple):
    """A picture of the export: its file, and its `Image` element."""

    path: Path
    element: ElementTree.Element


def is_heidelberg(path: Path) -> bool:
    """Return whether an XML file is an export, from its first bytes; True where unreadable."""
    try:
        with path.open("rb") as file:
            return b"<HEDX" in file.read(4096).replace(b"\0", b"")
    except OSError:
        # Reading it as a scan says what is wrong; left out, its TIFFs would become images.
        return True


def read_heidelberg(path: Path) -> Scan:
    """Read an XML export and the pictures beside it as one volume.

    The paths in the XML are those of the exporting computer, so only the file names count.

    Returns:
        (B-scans, rows, columns) uint8 in the order of the B-scans' numbers. Spacing in mm:
        between B-scans from their coordinates, within a row from the B-scan's length, which has
        a digit more than `ScaleX`. Eye, device, the localizer, and the device's own thickness.
        The localizer's scale has four digits, so positions on it are good to about 0.4 %.

    Raises:
        BadScan: No export, damaged, with declarations of entities, of several series, without
            B-scans, or with a TIFF that is missing, damaged, coloured, or of another size.
    """
    series = _series(path, _parse(path))
    scans = _images(path, series, "OCT")
    pixels = _stack(path, scans)
    # (B-scans, 2, 2): start and end as (y, x) in mm on the localizer; NaN where unknown.
    coordinates = np.array(
        [
            [
                [_number(scan.element, f"{_CONTEXT}/{end}/Coord/{axis}") for axis in "YX"]
                for end in ("Start", "End")
            ]
            for scan in scans
        ]
    )
    between = _between(coordinates)
    notes: tuple[Note, ...] = (UnevenBScans(),) if len(scans) > 1 and between is None else ()
    row, column = (_length(scans[0].element, f"{_CONTEXT}/Scale{axis}") for axis in "YX")
    # The B-scan's length over its columns, where it agrees with the rounded scale.
    finer = float(np.linalg.norm(coordinates[0, 1] - coordinates[0, 0])) / pixels.shape[2]
    if column is not None and abs(finer - column) <= _ROUNDING:
        column = finer
    thickness = {
        name: mean
        for zone in series.iterfind("ThicknessGrid/Zone")
        if (name := _text(zone, "Name")) and (mean := _length(zone, "AvgThickness"))
    }
    return Scan(
        pixels,
        spacing=(between, row, column),
        is_volume=len(scans) > 1,
        notes=notes,
        eye=EYES.get(_text(scans[0].element, "Laterality") or ""),
        device=_text(series, "GeneralEquipment/ManufacturerModelName"),
        en_face=_en_face(path, series, coordinates),
        thickness=thickness or None,
        is_retina=True,
    )


def _parse(path: Path) -> ElementTree.Element:
    """Parse an export; the parser's messages, which may quote it, are not passed on."""
    if path.stat().st_size > MAX_XML_BYTES:
        most = f"{MAX_XML_BYTES // 1_000_000} MB"
        raise BadScan(f"{path} has more than {most}: export the volume again")
    if not is_heidelberg(path):
        problem = "is no XML export of a Heidelberg device"
        raise BadScan(f"{path} {problem}: give the export's own XML, or leave it out")
    data = path.read_bytes()
    declares_encoding = b"encoding" in data[:200] or data[:2] in (b"\xff\xfe", b"\xfe\xff")
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        # Without a declaration, a name in another code page would make the whole file unreadable.
        parser.feed(data if declares_encoding else data.decode("utf-8-sig", errors="replace"))
        root: ElementTree.Element = parser.close()
    except _DoctypeError:
        problem = "declares a document type, which no Heidelberg export does"
        raise BadScan(f"{path} {problem}: export it again") from None
    except (ElementTree.ParseError, ValueError, LookupError):
        raise damaged(str(path), "a Heidelberg XML export") from None
    return root


def _series(path: Path, root: ElementTree.Element) -> ElementTree.Element:
    """Return the one series that holds B-scans."""
    found = [
        series
        for series in root.iter("Series")
        if any(_text(image, "ImageType/Type") == "OCT" for image in series.iter("Image"))
    ]
    if not found:
        raise BadScan(f"{path} lists no B-scans: export an OCT volume, or leave it out")
    if len(found) > 1:
        raise BadScan(f"{path} lists {len(found)} series: export each one into a folder of its own")
    return found[0]


def _images(path: Path, series: ElementTree.Element, kind: str) -> list[_Image]:
    """Return the pictures of a kind ('OCT', 'LOCALIZER') in the order of their numbers."""
    beside = {name.name.lower(): name for name in path.parent.iterdir()}
    images = []
    for element in series.iter("Image"):
        if _text(element, "ImageType/Type") != kind:
            continue
        number = _number(element, "ImageNumber")
        if math.isnan(number):
            raise damaged(str(path), "a Heidelberg XML export")
        name = re.split(r"[\\/]", _text(element, "ImageData/ExamURL") or "")[-1]
        file = beside.get(name.lower())
        if file is None:
            problem = "is not beside it: copy the whole export folder, or export it again"
            raise _bad_picture(path, name or "a picture without a name", problem)
        images.append((int(number), _Image(file, element)))
    return [image for _, image in sorted(images, key=lambda numbered: numbered[0])]


def _stack(path: Path, scans: list[_Image]) -> Pixels:
    """Read the B-scans to (B-scans, rows, columns)."""
    first = _grey(path, scans[0].path)
    check_size(str(path), first.shape[0], first.shape[1], len(scans), first.itemsize)
    pixels = np.empty((len(scans), *first.shape), first.dtype)
    for frame, image in zip(pixels, scans, strict=True):
        grey = _grey(path, image.path)
        if (grey.shape, grey.dtype) != (first.shape, first.dtype):
            problem = f"differs in size or depth from {scans[0].path.name}: export the volume again"
            raise _bad_picture(path, image.path.name, problem)
        frame[...] = grey
    return pixels


def _grey(path: Path, file: Path) -> Pixels:
    """Read one picture to (rows, columns)."""
    try:
        is_tiff = file.suffix.lower() in (".tif", ".tiff")
        decoded = (read_tiff if is_tiff else read_raster)(file)
    except (BadScan, MemoryError):
        raise
    except Exception as error:
        problem = "is damaged or cut short: copy or export it again"
        raise _bad_picture(path, file.name, problem) from error
    pixels, _ = drop_alpha(str(file), decoded.pixels)
    if pixels.ndim == 4:
        if not channels_are_equal(pixels):
            problem = "has colours drawn on it: export the volume without overlays"
            raise _bad_picture(path, file.name, problem)
        pixels = pixels[..., 0]
    if len(pixels) != 1:
        raise _bad_picture(path, file.name, "has several pages: export it again")
    frame: Pixels = pixels[0]
    return frame


def _bad_picture(path: Path, name: str, problem: str) -> BadScan:
    return BadScan(f"{path} lists {name}, which {problem}")


def _between(lines: NDArray[np.float64]) -> float | None:
    """Return the distance between parallel, equally spaced B-scans in mm; None for others."""
    if len(lines) < 2:
        return None
    steps = np.diff(lines, axis=0).reshape(-1, 2)
    mean = steps.mean(axis=0)
    along = lines[0, 1] - lines[0, 0]
    length = float(np.linalg.norm(along))
    if not np.isfinite(steps).all() or length == 0:
        return None
    # The part across the B-scans: neighbours may also be shifted along each other.
    distance = abs(float(mean[0] * along[1] - mean[1] * along[0])) / length
    spread = np.linalg.norm(steps - mean, axis=1).max()
    if distance == 0 or spread > max(_EQUALLY_SPACED * distance, 20 * _ROUNDING):
        return None
    return distance


def _en_face(
    path: Path, series: ElementTree.Element, coordinates: NDArray[np.float64]
) -> EnFace | None:
    """Return the localizer with the B-scans' lines on it; None where one of them is unknown."""
    localizers = _images(path, series, "LOCALIZER")
    if not localizers or not np.isfinite(coordinates).all():
        return None
    row, column = (_length(localizers[0].element, f"{_CONTEXT}/Scale{axis}") for axis in "YX")
    if row is None or column is None:
        return None
    y, x = (_number(series, f"ThicknessGrid/CenterPos/Coord/{axis}") for axis in "YX")
    return EnFace(
        _grey(path, localizers[0].path),
        spacing=(row, column),
        lines=coordinates / np.array([row, column]),
        grid_centre=None if math.isnan(y + x) else (y, x),
    )


def _text(element: ElementTree.Element, path: str) -> str | None:
    return (element.findtext(path) or "").strip() or None


def _number(element: ElementTree.Element, path: str) -> float:
    """Return a finite number; NaN for anything else."""
    try:
        value = float(_text(element, path) or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _length(element: ElementTree.Element, path: str) -> float | None:
    return known_length(_number(element, path))
