"""Heidelberg Eye Explorer exports: an XML file, and beside it one TIFF a B-scan and localizer.

Only the elements named here are read, so that no name, birth date or ID of a patient can reach
a name, a note, a log or a message.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.raster import read_raster
from fanogan.scans.scan import (
    BadScan,
    Decoded,
    EnFace,
    Pixels,
    Spacing,
    channels_are_equal,
    check_size,
    damaged,
    drop_alpha,
)
from fanogan.scans.tiff import read_tiff

MAX_XML_BYTES = 200_000_000
"""An export with segmentation lines has a few megabytes."""

_EYES = {"R": "right", "L": "left", "OD": "right", "OS": "left"}
_ROUNDING = 1e-4
_EQUALLY_SPACED = 0.05
_IRREGULAR_NOTE = "B-scans are not parallel at equal distances, so their distance is unknown"


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds the tree, and refuses the declarations in which entities could be defined."""

    def doctype(self, *_: str | None) -> None:
        raise _DoctypeError


class _DoctypeError(ValueError):
    """A document type declaration, which no export has."""


@dataclass(frozen=True)
class _Image:
    """One picture of the export: its number, its file, and its `Image` element."""

    number: int
    path: Path
    element: ElementTree.Element


def is_heidelberg(path: Path) -> bool:
    """Says whether an XML file is an export, from its first bytes; true where unreadable."""
    try:
        with path.open("rb") as file:
            return b"<HEDX" in file.read(4096).replace(b"\0", b"")
    except OSError:
        # Reading it as a scan then says what is wrong; left out, its TIFFs would become images.
        return True


def read_heidelberg(path: Path) -> Decoded:
    """Reads an export as one volume.

    The paths in the XML are those of the exporting computer: only the file names count, and the
    files have to lie beside the XML.

    Args:
        path: The XML file.

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
    if not scans:
        raise BadScan(f"{path} lists no B-scans: export an OCT volume, or leave it out")
    pixels = _stack(path, scans)
    coordinates = np.array([_line(image.element) for image in scans])
    between, notes = _between(coordinates)
    context = scans[0].element.find("OphthalmicAcquisitionContext")
    width = _column_spacing(coordinates, pixels.shape[2], _length(context, "ScaleX"))
    spacing: Spacing = (between, _length(context, "ScaleY"), width)
    return Decoded(
        pixels,
        spacing,
        is_volume=len(scans) > 1,
        notes=notes,
        eye=_EYES.get(_text(scans[0].element, "Laterality") or ""),
        device=_text(series, "GeneralEquipment/ManufacturerModelName"),
        en_face=_en_face(path, series, coordinates),
        thickness=_thickness(series),
        is_retina=True,
    )


def _parse(path: Path) -> ElementTree.Element:
    """Parses an export; messages of the parser, which may quote it, are not passed on."""
    if path.stat().st_size > MAX_XML_BYTES:
        raise BadScan(
            f"{path} has more than {MAX_XML_BYTES // 1_000_000} MB: export the volume again"
        )
    if not is_heidelberg(path):
        raise BadScan(
            f"{path} is no XML export of a Heidelberg device: "
            "give the export's own XML, or leave it out"
        )
    data = path.read_bytes()
    declares_encoding = b"encoding" in data[:200] or data[:2] in (b"\xff\xfe", b"\xfe\xff")
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        # Without a declaration, a name in another code page would make the whole file unreadable.
        parser.feed(data if declares_encoding else data.decode("utf-8-sig", errors="replace"))
        root: ElementTree.Element = parser.close()
    except _DoctypeError:
        raise BadScan(
            f"{path} declares a document type, which no Heidelberg export does: export it again"
        ) from None
    except (ElementTree.ParseError, ValueError, LookupError):
        raise damaged(str(path), "a Heidelberg XML export") from None
    return root


def _series(path: Path, root: ElementTree.Element) -> ElementTree.Element:
    """Returns the one series that holds B-scans."""
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
    """Returns the pictures of a kind ('OCT', 'LOCALIZER') in the order of their numbers."""
    beside = {name.name.lower(): name for name in path.parent.iterdir()}
    images = []
    for element in series.iter("Image"):
        if _text(element, "ImageType/Type") != kind:
            continue
        number = _number(element, "ImageNumber")
        if number is None:
            raise damaged(str(path), "a Heidelberg XML export")
        name = re.split(r"[\\/]", _text(element, "ImageData/ExamURL") or "")[-1]
        file = beside.get(name.lower())
        if file is None:
            raise BadScan(
                f"{path} lists {name or 'a picture without a name'}, which is not beside it: "
                "copy the whole export folder, or export it again"
            )
        images.append(_Image(int(number), file, element))
    return sorted(images, key=lambda image: image.number)


def _stack(path: Path, scans: list[_Image]) -> Pixels:
    """Reads the B-scans to (B-scans, rows, columns)."""
    first = _grey(path, scans[0].path)
    check_size(str(path), first.shape[0], first.shape[1], len(scans), first.itemsize)
    pixels = np.empty((len(scans), *first.shape), first.dtype)
    for place, image in enumerate(scans):
        grey = _grey(path, image.path)
        if (grey.shape, grey.dtype) != (first.shape, first.dtype):
            raise BadScan(
                f"{path} lists {image.path.name}, which differs in size or depth from "
                f"{scans[0].path.name}: export the volume again"
            )
        pixels[place] = grey
    return pixels


def _grey(path: Path, file: Path) -> Pixels:
    """Reads one picture to (rows, columns)."""
    try:
        is_tiff = file.suffix.lower() in (".tif", ".tiff")
        decoded = (read_tiff if is_tiff else read_raster)(file)
    except (BadScan, MemoryError):
        raise
    except Exception as error:
        raise BadScan(
            f"{path} lists {file.name}, which is damaged or cut short: copy or export it again"
        ) from error
    pixels, _ = drop_alpha(str(file), decoded.pixels)
    if pixels.ndim == 4:
        if not channels_are_equal(pixels):
            raise BadScan(
                f"{path} lists {file.name}, which has colours drawn on it: "
                "export the volume without overlays"
            )
        pixels = pixels[..., 0]
    if len(pixels) != 1:
        raise BadScan(f"{path} lists {file.name}, which has several pages: export it again")
    frame: Pixels = pixels[0]
    return frame


def _line(image: ElementTree.Element) -> list[list[float]]:
    """Returns start and end of a B-scan as (y, x) in mm on the localizer; NaN where unknown."""
    values = [
        [_number(image, f"OphthalmicAcquisitionContext/{end}/Coord/{axis}") for axis in "YX"]
        for end in ("Start", "End")
    ]
    return [[math.nan if value is None else value for value in point] for point in values]


def _between(lines: NDArray[np.float64]) -> tuple[float | None, tuple[str, ...]]:
    """Returns the distance between neighbouring B-scans in mm, and a note where they have none.

    Args:
        lines: (B-scans, 2, 2) start and end as (y, x) in mm.
    """
    if len(lines) < 2:
        return None, ()
    steps = np.diff(lines, axis=0).reshape(-1, 2)
    mean = steps.mean(axis=0)
    along = lines[0, 1] - lines[0, 0]
    length = float(np.linalg.norm(along))
    if not np.isfinite(steps).all() or length == 0:
        return None, (_IRREGULAR_NOTE,)
    # The part across the B-scans: neighbours may also be shifted along each other.
    distance = abs(float(mean[0] * along[1] - mean[1] * along[0])) / length
    spread = np.linalg.norm(steps - mean, axis=1).max()
    if distance == 0 or spread > max(_EQUALLY_SPACED * distance, 20 * _ROUNDING):
        return None, (_IRREGULAR_NOTE,)
    return distance, ()


def _column_spacing(
    lines: NDArray[np.float64], columns: int, declared: float | None
) -> float | None:
    """Returns mm a column: length over columns, where it agrees with the rounded scale."""
    finer = float(np.linalg.norm(lines[0, 1] - lines[0, 0])) / columns
    if declared is None or not math.isfinite(finer):
        return declared
    return finer if abs(finer - declared) <= _ROUNDING else declared


def _en_face(
    path: Path, series: ElementTree.Element, coordinates: NDArray[np.float64]
) -> EnFace | None:
    """Returns the localizer with the B-scans' lines on it; None where one of them is unknown."""
    localizers = _images(path, series, "LOCALIZER")
    if not localizers or not np.isfinite(coordinates).all():
        return None
    context = localizers[0].element.find("OphthalmicAcquisitionContext")
    scale = (_length(context, "ScaleY"), _length(context, "ScaleX"))
    if scale[0] is None or scale[1] is None:
        return None
    centre = [_number(series, f"ThicknessGrid/CenterPos/Coord/{axis}") for axis in "YX"]
    return EnFace(
        _grey(path, localizers[0].path),
        scale,
        coordinates / np.array(scale),
        None if centre[0] is None or centre[1] is None else (centre[0], centre[1]),
    )


def _thickness(series: ElementTree.Element) -> dict[str, float] | None:
    """Returns the mean thickness in mm of each zone of the device's grid."""
    zones: dict[str, float] = {}
    for zone in series.iterfind("ThicknessGrid/Zone"):
        name, value = _text(zone, "Name"), _length(zone, "AvgThickness")
        if name and value is not None:
            zones[name] = value
    return zones or None


def _text(element: ElementTree.Element | None, path: str) -> str | None:
    text = None if element is None else element.findtext(path)
    return (text or "").strip() or None


def _number(element: ElementTree.Element | None, path: str) -> float | None:
    """Returns a finite number; None for anything else."""
    try:
        value = float(_text(element, path) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _length(element: ElementTree.Element | None, path: str) -> float | None:
    """Returns a positive number; None for anything else."""
    value = _number(element, path)
    return value if value is not None and value > 0 else None
