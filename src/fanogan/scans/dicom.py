"""DICOM images, single-frame and multi-frame, by pydicom.

Only the elements named here are ever read from a file, so that nothing about the patient can
reach a name, a note, a log or a message; and pydicom's own messages, which may quote a file's
content, are not passed on.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanogan.scans.checks import BadScan, check_size, damaged, unusable
from fanogan.scans.dicom_display import Range, as_shown, declared_range, look_up, window_note
from fanogan.scans.dicom_place import frame_affine, joined, position, spacing_of, uneven_slices
from fanogan.scans.notes import ConvertedToRGB, Note, UndeclaredFrames
from fanogan.scans.scan import EnFace, Pixels, Scan

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_FRAME_ELEMENTS = [
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "FrameLaterality"),
    *("ReferencedSOPInstanceUID", "ReferenceCoordinates", "OphthalmicImageOrientation"),
]
_FRAME_GROUPS = [
    *("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"),
    *("PlanePositionSequence", "PlaneOrientationSequence", "FrameAnatomySequence"),
    "OphthalmicFrameLocationSequence",
]
_GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
FRAME_TAGS = [*_FRAME_ELEMENTS, *_GROUPS]
"""What may differ from frame to frame, as `frame_header` reads it."""
_PALETTES = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
_HEADER = [
    *("SOPClassUID", "ManufacturerModelName", "ImageLaterality", "Laterality"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration"),
    *("PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit"),
    *(f"{palette}Descriptor" for palette in _PALETTES),
    *(f"{prefix}{palette}Data" for prefix in ("", "Segmented") for palette in _PALETTES),
    *FRAME_TAGS,
]
_PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
_OFFSETS = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
_OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
_PIXELS_BUT_NO_IMAGE = {
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
}
_RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_EYES = {"R": "right", "L": "left"}


def read_dicom(path: Path, within: Range | None = None) -> Scan:
    """Read a DICOM image as a viewer would show it, with higher brighter.

    Modality table or rescale, then the first window (VOI) where there is one, then MONOCHROME1
    is inverted within the range that the header declares. Whole numbers stay integers.

    Args:
        path: The file.
        within: The range of the series that it is a slice of; its own where None.

    Returns:
        (frames, rows, columns) or (frames, rows, columns, 3), a volume where there are several
        frames, with the spacing in millimetres, the eye, the device's model, and the picture of the
        fundus that a volume's frames are located on, where it lies in the same folder.

    Raises:
        BadScan: No image, too large, damaged, or a compression that no installed package reads.
    """
    try:
        header = read_elements(path, _HEADER)
        if kind := object_without_image(header):
            raise unusable(
                f"{path} is a DICOM object without an image ({kind})", "give images only"
            )
        headers = [frame_header(header, i) for i in range(_check_header(str(path), header))]
        pixels, notes = _pixels(path, header, headers, within)
        sides = map(headers[0].get, ("FrameLaterality", "ImageLaterality", "Laterality"))
        return Scan(
            pixels,
            spacing=spacing_of(headers),
            affine=joined([frame_affine(own) for own in headers]),
            is_volume=len(headers) > 1,
            notes=(*notes, *uneven_slices([position(own) for own in headers])),
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


def _pixels(
    path: Path, header: Dataset, headers: list[Dataset], within: Range | None = None
) -> tuple[Pixels, tuple[Note, ...]]:
    """Decode the frames as a viewer would show them, with notes on what was changed."""
    from pydicom.pixels.utils import pixel_array

    dataset = read_elements(path, _HEADER + _PIXELS + _OFFSETS, with_pixels=True)
    if not any(keyword in dataset for keyword in _PIXELS):
        raise _no_image(str(path))
    _check_decodable(path, dataset)
    # pydicom takes the lowest bits, wherever the high bit is: let it take all up to the high bit.
    surplus = _bits_below(path, dataset)
    if surplus:
        dataset.BitsStored += surplus
    pixels: Pixels = pixel_array(dataset, allow_excess_frames=False)
    pixels = pixels >> surplus if surplus else pixels
    pixels = pixels if len(headers) > 1 else pixels[np.newaxis]
    held = _frames_held(dataset)
    notes: tuple[Note, ...] = ()
    if held > len(headers):
        notes = (UndeclaredFrames(held, declared=len(headers)),)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels, notes = _coloured(pixels, dataset), (*notes, ConvertedToRGB("palette"))
    if pixels.ndim == 3:
        is_float = pixels.dtype.kind == "f"
        own = (float(pixels.min()), float(pixels.max())) if is_float else declared_range(headers)
        shown = [as_shown(*each, within or own) for each in zip(pixels, headers, strict=True)]
        windows = [note for header in headers if (note := window_note(header))]
        pixels, notes = np.stack(shown), (*notes, *windows[:1])
    return pixels, notes


def _bits_below(path: Path, dataset: Dataset) -> int:
    """Return how many bits below the stored ones are to be dropped (PS3.5 8.1.1)."""
    surplus = int(dataset.get("HighBit") or 0) + 1 - int(dataset.get("BitsStored") or 0)
    if surplus <= 0 or "PixelData" not in dataset:
        return 0
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != _RLE_LOSSLESS:
        raise BadScan(
            f"{path} is compressed and its high bit doesn't fit its bits stored, so its values are "
            "not certain: export it again uncompressed"
        )
    return surplus


def _coloured(pixels: Pixels, dataset: Dataset) -> Pixels:
    """Apply a palette: (..., 3) of 8 bits where its entries are."""
    from pydicom.pixels.processing import apply_color_lut

    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        return apply_color_lut(pixels, dataset)
    is_signed = dataset.PixelRepresentation == 1
    colours = [look_up(pixels, dataset, dataset, name, is_signed=is_signed) for name in _PALETTES]
    coloured = np.stack(colours, axis=-1)
    # Some writers store 8-bit entries in words.
    is_wide = dataset[f"{_PALETTES[0]}Descriptor"].value[2] > 8 or coloured.max() > 255
    return coloured if is_wide else coloured.astype(np.uint8)


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


def object_without_image(header: Dataset) -> str | None:
    """Return what kind of object a file is that holds no image; None for an image.

    Segmentations and doses hold pixels, but no image. Without rows are reports, presentation
    states, plans, documents and the like, and images cut short, which keep their class.
    """
    from pydicom.uid import UID

    uid = UID(header.get("SOPClassUID") or "")
    if uid in _PIXELS_BUT_NO_IMAGE:
        return _PIXELS_BUT_NO_IMAGE[uid]
    if not uid or "Rows" in header or "Image" in uid.name:
        return None
    # A private UID could identify a site.
    return "of a private kind" if uid.name == uid else uid.name.removesuffix(" Storage")


def _check_header(label: str, header: Dataset) -> int:
    """Check the declared size, and return the number of frames."""
    if "Rows" not in header or "Columns" not in header:
        raise _no_image(label)
    frames = int(header.get("NumberOfFrames") or 1)
    colours = 3 if header.get("PhotometricInterpretation") == "PALETTE COLOR" else 1
    pixel_bytes = colours * _bytes_per_pixel(header)
    if float(header.get("RescaleSlope") or 1) % 1:  # its values are floats
        pixel_bytes = max(pixel_bytes, 4)
    check_size(label, int(header.Rows), int(header.Columns), frames, pixel_bytes)
    return frames


def _check_decodable(path: Path, dataset: Dataset) -> None:
    """Raise BadScan where no installed package decodes the file's compression."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError:  # as pydicom says that it has no decoder of this syntax
        is_available = False
    if not is_available:
        # A private UID could identify a site; a registered one has a name.
        name = "" if syntax.is_private or syntax.name == syntax else f" ({syntax.name})"
        raise BadScan(
            f"{path} is a DICOM image of a compression that is not read{name}: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it"
        )


def frame_header(header: Dataset, index: int) -> Dataset:
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
    return EnFace(grey, spacing_of([picture])[1:], np.array(lines, dtype=np.float64))


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
        uid = frame_header(read_elements(path, _HEADER), 0).get("ReferencedSOPInstanceUID")
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
