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

from fanogan.scans.scan import BadScan, Decoded, EnFace, Pixels, Spacing, check_size, damaged

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_FRAME_ELEMENTS = [
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "FrameLaterality",
    "ReferencedSOPInstanceUID",
    "ReferenceCoordinates",
    "OphthalmicImageOrientation",
]
_FRAME_GROUPS = [
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PlanePositionSequence",
    "FrameAnatomySequence",
    "OphthalmicFrameLocationSequence",
]
_OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
_HEADER = [
    "SOPClassUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ImageLaterality",
    "Laterality",
    "ManufacturerModelName",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *_FRAME_ELEMENTS,
]
_PIXELS = [
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
]
_EYES = {"R": "right", "L": "left"}


def read_dicom(path: Path) -> Decoded:
    """Reads a DICOM image as a viewer would show it, with higher brighter.

    Modality table or rescale, then the first window (VOI) where there is one, then MONOCHROME1
    is inverted within the range that the header declares. Whole numbers stay integers.

    Args:
        path: The file.

    Returns:
        (frames, rows, columns) or (frames, rows, columns, 3), a volume where there are several
        frames, with the spacing in millimetres, the eye, the device's model, and the picture of the
        fundus that a volume's frames are located on, where it lies in the same folder.

    Raises:
        BadScan: No image, too large, damaged, or a compression that no installed package reads.
    """
    try:
        return _read(path)
    except (BadScan, ImportError, OSError, MemoryError):
        raise
    except Exception:
        # 'from None': pydicom's messages may quote the file's content.
        raise damaged(str(path), "a DICOM image") from None


def _read(path: Path) -> Decoded:
    header = read_elements(path, _HEADER)
    headers = [_frame_header(header, i) for i in range(_check_header(str(path), header))]
    pixels, notes = _pixels(path, header, headers)
    model = str(header.get("ManufacturerModelName") or "").strip()
    return Decoded(
        pixels,
        _spacing(headers),
        len(headers) > 1,
        notes,
        eye=_eye(headers[0]),
        device=model or None,
        en_face=_en_face(path, headers),
        is_retina=header.get("SOPClassUID") == _OPHTHALMIC_TOMOGRAPHY,
    )


def _pixels(path: Path, header: Dataset, headers: list[Dataset]) -> tuple[Pixels, tuple[str, ...]]:
    """Decodes the frames as a viewer would show them, and says what was changed."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    dataset = read_elements(path, _HEADER + _PIXELS, with_pixels=True)
    if not any(keyword in dataset for keyword in _PIXELS[:3]):
        raise _no_image(str(path))
    _check_decodable(path, dataset)
    pixels: Pixels = pixel_array(dataset, allow_excess_frames=False)
    pixels = pixels if len(headers) > 1 else pixels[np.newaxis]
    notes = _left_out(dataset, len(headers))
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels, notes = apply_color_lut(pixels, dataset), (*notes, "palette converted to RGB")
    if pixels.ndim == 3:
        pixels = np.stack([_shown(frame, own) for frame, own in zip(pixels, headers, strict=True)])
    return pixels, notes


def _left_out(dataset: Dataset, frames: int) -> tuple[str, ...]:
    """Says that the file holds more frames than it declares, where that can be told."""
    data = next(dataset[keyword].value for keyword in _PIXELS[:3] if keyword in dataset)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        # Entries of the offset tables, of 8 and of 4 bytes; both may be empty.
        table = dataset.get("ExtendedOffsetTable") or b""
        held = len(table) // 8 or int.from_bytes(data[4:8], "little") // 4
    else:
        samples = int(dataset.get("SamplesPerPixel") or 1) * max(int(dataset.BitsAllocated) // 8, 1)
        held = len(data) // (int(dataset.Rows) * int(dataset.Columns) * samples)
    if held <= frames:
        return ()
    return (f"holds {held} frames and declares {frames}: the others are left out",)


def _no_image(label: str) -> BadScan:
    return BadScan(
        f"{label} is a DICOM file without an image, or is cut short: "
        "copy it again, or leave it out with --skip-bad"
    )


def read_elements(path: Path, tags: list[str], with_pixels: bool = False) -> Dataset:
    """Reads the named elements of a file, and no others.

    Raises:
        BadScan: A deflated file.
    """
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

    # force: files of before 1996 and of some archives have no preamble.
    starts_as_part_10 = is_part_10(path)
    if starts_as_part_10 and _transfer_syntax(path) == DeflatedExplicitVRLittleEndian:
        # pydicom would inflate it whole before its size could be checked.
        raise BadScan(f"{path} is a deflated DICOM file: rewrite it uncompressed")
    dataset = dcmread(
        path,
        stop_before_pixels=not with_pixels,
        force=not starts_as_part_10,
        specific_tags=[*tags],
    )
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def is_part_10(path: Path | str) -> bool:
    """Whether a file begins as DICOM files do since 1996."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _transfer_syntax(path: Path) -> str | None:
    from pydicom.filereader import read_file_meta_info

    syntax: str | None = read_file_meta_info(path).get("TransferSyntaxUID")
    return syntax


def _check_header(label: str, header: Dataset) -> int:
    """Checks the declared size, and returns the number of frames."""
    if "Rows" not in header or "Columns" not in header:
        raise _no_image(label)
    frames = int(header.get("NumberOfFrames") or 1)
    bytes_per_sample = max(int(header.BitsAllocated) // 8, 1)
    check_size(
        label,
        int(header.Rows),
        int(header.Columns),
        frames,
        int(header.get("SamplesPerPixel") or 1) * bytes_per_sample,
    )
    return frames


def _check_decodable(path: Path, dataset: Dataset) -> None:
    """Raises BadScan where no installed package decodes the file's compression."""
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
    """Returns the header with the functional groups of frame `index` written over it."""
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
    """Applies modality table, window and MONOCHROME1 to one frame (rows, columns)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    low, high = _declared_range(header, stored)
    is_whole = stored.dtype.kind in "ui"
    pixels = apply_modality_lut(stored, header)
    is_whole = is_whole and float(low).is_integer() and float(high).is_integer()
    is_whole = is_whole and float(header.get("RescaleSlope") or 1).is_integer()
    if is_whole:
        pixels = np.rint(pixels).astype(np.int64)
    if _has_window(header):
        pixels = apply_voi_lut(pixels, header)
        low, high = _range_after_window(header, low, high)
        pixels = np.rint(pixels).astype(np.int64) if is_whole else pixels
    if header.PhotometricInterpretation == "MONOCHROME1":
        ends = low + high
        pixels = (int(ends) if is_whole else ends) - pixels
    return _narrow(pixels, low, high)


def _declared_range(header: Dataset, stored: Pixels) -> tuple[float, float]:
    """Returns the least and greatest value that a pixel can have after the modality step."""
    if stored.dtype.kind == "f":
        return float(stored.min()), float(stored.max())
    bits = int(header.BitsStored)
    ends = np.array([0, 2**bits - 1], dtype=np.float64)
    if header.PixelRepresentation == 1:
        ends -= 2.0 ** (bits - 1)
    if header.get("ModalityLUTSequence"):
        return 0, 2 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    if "RescaleSlope" in header and "RescaleIntercept" in header:
        ends = ends * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return float(ends.min()), float(ends.max())


def _has_window(header: Dataset) -> bool:
    """Says whether there is a table or a window that can be applied; some have a width of 0."""
    if header.get("VOILUTSequence"):
        return True
    widths = np.atleast_1d(np.asarray(header.get("WindowWidth") or 0, dtype=np.float64))
    return header.get("WindowCenter") is not None and bool(widths[0] >= 1)


def _range_after_window(header: Dataset, low: float, high: float) -> tuple[float, float]:
    """Returns the range that the window's output has: a table's depth, or the input's range."""
    if header.get("VOILUTSequence"):
        return 0, 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
    return low, high


def _narrow(pixels: Pixels, low: float, high: float) -> Pixels:
    """Stores whole numbers by the declared range, so that files of one scanner agree."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if low >= 0 and high <= 255:
        candidate: Any = np.uint8
    else:
        candidate = np.uint16 if low >= 0 else np.int16
    limits = np.iinfo(candidate)
    fits = limits.min <= pixels.min() and pixels.max() <= limits.max
    return pixels.astype(candidate if fits else np.float32)


def _spacing(headers: list[Dataset]) -> Spacing:
    """Returns millimetres between frames, rows and columns; None where they are not given."""
    first = headers[0]
    between = _length(first.get("SpacingBetweenSlices"))
    between = between or distance_between([position(header) for header in headers])
    between = between or _length(first.get("SliceThickness"))
    within = first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (None, None)
    rows, columns = (_length(value) for value in within)
    return between, rows, columns


def position(header: Dataset) -> tuple[float, ...] | None:
    """Returns where a frame's first pixel lies, in millimetres; None where it is not given."""
    place = header.get("ImagePositionPatient")
    if place is None or len(place) != 3:
        return None
    return tuple(float(value) for value in place)


def distance_between(positions: list[tuple[float, ...] | None]) -> float | None:
    """Returns the median distance in millimetres from one position to the next, where known."""
    known = np.array([place for place in positions if place is not None], dtype=np.float64)
    if len(known) < 2 or len(known) != len(positions):
        return None
    return _length(float(np.median(np.linalg.norm(np.diff(known, axis=0), axis=1))))


def _eye(header: Dataset) -> str | None:
    """Returns 'left' or 'right'; None for both eyes, or where it is not given."""
    for keyword in ("FrameLaterality", "ImageLaterality", "Laterality"):
        if header.get(keyword) in _EYES:
            return _EYES[header[keyword].value]
    return None


def _en_face(path: Path, headers: list[Dataset]) -> EnFace | None:
    """Returns the picture that the frames are located on (PS3.3 C.8.17.10.1), with their lines.

    None for a single frame, where a frame's place is unknown or no straight line, and where the
    picture isn't in the folder or cannot be read, which must not cost the volume.
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
    """Returns start and end of a frame as (row, column) on its picture; None if not straight."""
    places = header.get("ReferenceCoordinates") or []
    is_line = header.get("OphthalmicImageOrientation") in ("LINEAR", None)
    if not is_line or len(places) != 4 or not np.isfinite(places).all():
        return None
    return [list(places[:2]), list(places[2:])]


@lru_cache(maxsize=2)
def _instances(folder: Path, changed: int) -> dict[str, Path]:
    """Returns the DICOM files in a folder by their instances; `changed` makes it read anew."""
    from pydicom.filereader import read_file_meta_info

    found: dict[str, Path] = {}
    for path in folder.iterdir():
        if not path.is_file():
            continue
        try:
            if is_part_10(path):
                found[str(read_file_meta_info(path).MediaStorageSOPInstanceUID)] = path
        except Exception:  # what is wrong with it is said where it is read itself
            continue
    return found


def _length(value: object) -> float | None:
    """Returns a positive, finite length, and None for anything else."""
    length = float(value) if isinstance(value, int | float) else 0.0
    return length if np.isfinite(length) and length > 0 else None
