"""DICOM images, single-frame and multi-frame, by pydicom.

Only the elements named here are ever read from a file, so that nothing about the patient can
reach a name, a note, a log or a message; and pydicom's own messages, which may quote a file's
content, are not passed on.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.scans.notes import ConvertedToRGB, Note, UndeclaredFrames
from fanogan.scans.scan import (
    BadScan,
    EnFace,
    Pixels,
    Scan,
    Spacing,
    check_size,
    damaged,
    known_length,
    unusable,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_FRAME_ELEMENTS = [
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "FrameLaterality"),
    *("ReferencedSOPInstanceUID", "ReferenceCoordinates", "OphthalmicImageOrientation"),
]
_FRAME_GROUPS = [
    *("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"),
    *("PlanePositionSequence", "FrameAnatomySequence", "OphthalmicFrameLocationSequence"),
]
_HEADER = [
    *("SOPClassUID", "ManufacturerModelName", "ImageLaterality", "Laterality"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration"),
    *("PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *_FRAME_ELEMENTS,
]
_PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
_OFFSETS = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
_OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
_EYES = {"R": "right", "L": "left"}


def read_dicom(path: Path) -> Scan:
    """Read a DICOM image as a viewer would show it, with higher brighter.

    Modality table or rescale, then the first window (VOI) where there is one, then MONOCHROME1
    is inverted within the range that the header declares. Whole numbers stay integers.

    Returns:
        (frames, rows, columns) or (frames, rows, columns, 3), a volume where there are several
        frames, with the spacing in millimetres, the eye, the device's model, and the picture of the
        fundus that a volume's frames are located on, where it lies in the same folder.

    Raises:
        BadScan: No image, too large, damaged, or a compression that no installed package reads.
    """
    try:
        header = read_elements(path, _HEADER)
        headers = [_frame_header(header, i) for i in range(_check_header(str(path), header))]
        pixels, notes = _pixels(path, header, headers)
        sides = map(headers[0].get, ("FrameLaterality", "ImageLaterality", "Laterality"))
        return Scan(
            pixels,
            spacing=_spacing(headers),
            is_volume=len(headers) > 1,
            notes=notes,
            eye=next((_EYES[side] for side in sides if side in _EYES), None),
            device=str(header.get("ManufacturerModelName") or "").strip() or None,
            en_face=_en_face(path, headers),
            is_retina=header.get("SOPClassUID") == _OPHTHALMIC_TOMOGRAPHY,
        )
    except (BadScan, ImportError, OSError, MemoryError):
        raise
    except Exception:
        # 'from None': pydicom's messages may quote the file's content.
        raise damaged(str(path), "a DICOM image") from None


def _pixels(path: Path, header: Dataset, headers: list[Dataset]) -> tuple[Pixels, tuple[Note, ...]]:
    """Decode the frames as a viewer would show them, with notes on what was changed."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    dataset = read_elements(path, _HEADER + _PIXELS + _OFFSETS, with_pixels=True)
    if not any(keyword in dataset for keyword in _PIXELS):
        raise _no_image(str(path))
    _check_decodable(path, dataset)
    pixels: Pixels = pixel_array(dataset, allow_excess_frames=False)
    pixels = pixels if len(headers) > 1 else pixels[np.newaxis]
    held = _frames_held(dataset)
    notes: tuple[Note, ...] = ()
    if held > len(headers):
        notes = (UndeclaredFrames(held, declared=len(headers)),)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels, notes = apply_color_lut(pixels, dataset), (*notes, ConvertedToRGB("palette"))
    if pixels.ndim == 3:
        pixels = np.stack([_shown(frame, own) for frame, own in zip(pixels, headers, strict=True)])
    return pixels, notes


def _frames_held(dataset: Dataset) -> int:
    """Return how many frames the pixel data hold; 0 where that cannot be told."""
    data = next(dataset[keyword].value for keyword in _PIXELS if keyword in dataset)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        # Entries of the offset tables, of 8 and of 4 bytes; both may be empty.
        table = dataset.get("ExtendedOffsetTable") or b""
        return len(table) // 8 or int.from_bytes(data[4:8], "little") // 4
    return len(data) // (int(dataset.Rows) * int(dataset.Columns) * _bytes_per_pixel(dataset))


def _bytes_per_pixel(header: Dataset) -> int:
    return int(header.get("SamplesPerPixel") or 1) * max(int(header.BitsAllocated) // 8, 1)


def _no_image(label: str) -> BadScan:
    return unusable(f"{label} is a DICOM file without an image, or is cut short", "copy it again")


def read_elements(path: Path, tags: list[str], with_pixels: bool = False) -> Dataset:
    """Read the named elements of a file, and no others.

    Raises:
        BadScan: A deflated file.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

    has_preamble = is_part_10(path)
    if has_preamble:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        # pydicom would inflate it whole before its size could be checked.
        if syntax == DeflatedExplicitVRLittleEndian:
            raise BadScan(f"{path} is a deflated DICOM file: rewrite it uncompressed")
    dataset = dcmread(
        path,
        stop_before_pixels=not with_pixels,
        force=not has_preamble,  # files of before 1996 and of some archives have none
        specific_tags=[*tags],
    )
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def is_part_10(path: Path | str) -> bool:
    """Return whether a file begins as DICOM files do since 1996."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _check_header(label: str, header: Dataset) -> int:
    """Check the declared size, and return the number of frames."""
    if "Rows" not in header or "Columns" not in header:
        raise _no_image(label)
    frames = int(header.get("NumberOfFrames") or 1)
    check_size(label, int(header.Rows), int(header.Columns), frames, _bytes_per_pixel(header))
    return frames


def _check_decodable(path: Path, dataset: Dataset) -> None:
    """Raise BadScan where no installed package decodes the file's compression."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError:
        is_available = False
    if not is_available:
        # A private UID could identify a site; a registered one has a name.
        name = "" if syntax.is_private or syntax.name == syntax else f" ({syntax.name})"
        raise BadScan(
            f"{path} is a DICOM image of a compression that is not read{name}: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it"
        )


def _frame_header(header: Dataset, index: int) -> Dataset:
    """Return the header with the functional groups of frame `index` written over it."""
    from pydicom.dataset import Dataset

    flat = Dataset()
    flat.update(header)
    flat.file_meta = header.file_meta
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])[:1], *per_frame[index:][:1]]
    for group in groups:
        for sequence in _FRAME_GROUPS:
            for item in (group.get(sequence) or [])[:1]:
                flat.update({e.tag: e for e in item if e.keyword in _FRAME_ELEMENTS})
    return flat


def _shown(stored: Pixels, header: Dataset) -> Pixels:
    """Apply modality table, window and MONOCHROME1 to one frame (rows, columns)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    low, high = _declared_range(header, stored)
    is_whole = stored.dtype.kind in "ui" and all(
        float(value).is_integer() for value in (low, high, header.get("RescaleSlope") or 1)
    )
    pixels = apply_modality_lut(stored, header)
    if is_whole:
        pixels = np.rint(pixels).astype(np.int64)
    table = header.get("VOILUTSequence")
    # Some windows have a width of 0, and cannot be applied.
    widths = np.atleast_1d(np.asarray(header.get("WindowWidth") or 0, dtype=np.float64))
    if table or (header.get("WindowCenter") is not None and widths[0] >= 1):
        pixels = apply_voi_lut(pixels, header)
        pixels = np.rint(pixels).astype(np.int64) if is_whole else pixels
    if table:
        low, high = _table_range(table)
    if header.PhotometricInterpretation == "MONOCHROME1":
        ends = low + high
        pixels = (int(ends) if is_whole else ends) - pixels
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    # By the declared range and not the values, so that files of one scanner agree in dtype.
    narrow: Any = np.int16 if low < 0 else np.uint8 if high <= 255 else np.uint16
    limits = np.iinfo(narrow)
    fits = limits.min <= pixels.min() and pixels.max() <= limits.max
    return pixels.astype(narrow if fits else np.float32)


def _declared_range(header: Dataset, stored: Pixels) -> tuple[float, float]:
    """Return the least and greatest value that a pixel can have after the modality step."""
    if stored.dtype.kind == "f":
        return float(stored.min()), float(stored.max())
    bits = int(header.BitsStored)
    ends = np.array([0, 2**bits - 1], dtype=np.float64)
    if header.PixelRepresentation == 1:
        ends -= 2.0 ** (bits - 1)
    if header.get("ModalityLUTSequence"):
        return _table_range(header.ModalityLUTSequence)
    if "RescaleSlope" in header and "RescaleIntercept" in header:
        ends = ends * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return float(ends.min()), float(ends.max())


def _table_range(sequence: Any) -> tuple[float, float]:
    """Return the least and greatest value that a lookup table of its depth can hold."""
    return 0, 2 ** int(sequence[0].LUTDescriptor[2]) - 1


def _spacing(headers: list[Dataset]) -> Spacing:
    """Return millimetres between frames, rows and columns; None where they are not given."""
    first = headers[0]
    between = known_length(first.get("SpacingBetweenSlices"))
    between = between or distance_between([position(header) for header in headers])
    between = between or known_length(first.get("SliceThickness"))
    within = first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (None, None)
    rows, columns = map(known_length, within)
    return between, rows, columns


def position(header: Dataset) -> tuple[float, ...] | None:
    """Return where a frame's first pixel lies, in millimetres; None where it is not given."""
    place = header.get("ImagePositionPatient")
    if place is None or len(place) != 3:
        return None
    return tuple(float(value) for value in place)


def distance_between(positions: list[tuple[float, ...] | None]) -> float | None:
    """Return the median distance in millimetres from one position to the next, where known."""
    known = np.array([place for place in positions if place is not None], dtype=np.float64)
    if len(known) < 2 or len(known) != len(positions):
        return None
    return known_length(float(np.median(np.linalg.norm(np.diff(known, axis=0), axis=1))))


def _en_face(path: Path, headers: list[Dataset]) -> EnFace | None:
    """Return the picture that the frames are located on (PS3.3 C.8.17.10.1), with their lines.

    None for a single frame, where a frame's place is unknown or no straight line, and where the
    picture is not in the folder or cannot be read, which must not cost the volume.
    """
    uids = {str(header.get("ReferencedSOPInstanceUID")) for header in headers}
    lines = [_line(header) for header in headers]
    if len(headers) < 2 or len(uids) != 1 or any(line is None for line in lines):
        return None
    try:
        found = _instances(path.parent, path.parent.stat().st_mtime_ns)[uids.pop()]
        picture = read_elements(found, _HEADER)
        if _check_header(str(found), picture) != 1:
            return None
        pixels, _ = _pixels(found, picture, [picture])
    except (ImportError, MemoryError):
        raise
    except Exception:
        return None
    grey = pixels[0] if pixels.ndim == 3 else pixels[0, ..., 1]  # green shows vessels best
    return EnFace(grey, _spacing([picture])[1:], np.array(lines, dtype=np.float64))


def _line(header: Dataset) -> list[list[float]] | None:
    """Return start and end of a frame as (row, column) on its picture; None if not straight."""
    places = header.get("ReferenceCoordinates") or []
    is_line = header.get("OphthalmicImageOrientation") in ("LINEAR", None)
    if not is_line or len(places) != 4 or not np.isfinite(places).all():
        return None
    return [list(places[:2]), list(places[2:])]


def photograph_of(path: Path) -> Path | None:
    """Return the file beside a volume that its frames are located on; None where none is known."""
    try:
        uid = _frame_header(read_elements(path, _HEADER), 0).get("ReferencedSOPInstanceUID")
        changed = path.parent.stat().st_mtime_ns
        return _instances(path.parent, changed).get(str(uid)) if uid else None
    except Exception:  # reading it says what is wrong
        return None


@lru_cache(maxsize=2)
def _instances(folder: Path, changed: int) -> dict[str, Path]:
    """Return the DICOM files in a folder by instance UID; a new time `changed` reads it again."""
    from pydicom.filereader import read_file_meta_info

    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if not path.is_file():
            continue
        try:
            if is_part_10(path):
                found[str(read_file_meta_info(path).MediaStorageSOPInstanceUID)] = path
        except Exception:  # reading the file itself says what is wrong with it
            continue
    return found
