"""From stored DICOM values to what a viewer shows: the greyscale pipeline of PS3.3 C.11.

Lookup tables are applied here, since pydicom's functions take 8-bit tables in bytes, tables of 9
and 12 bits, and tables longer than the range of the pixels' dtype for damaged, or wrap around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.notes import Note, WindowLeftOut
from fanogan.scans.scan import Pixels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Range = tuple[float, float]


def declared_range(headers: Sequence[Dataset]) -> Range:
    """Return the least and greatest value that frames of integers can have as modality values.

    Of several frames the range of all, since one grey has to mean one value in all of them though
    their slopes differ.
    """
    ends = [end for header in headers for end in _declared_ends(header)]
    return min(ends), max(ends)


def _declared_ends(header: Dataset) -> Range:
    if tables := header.get("ModalityLUTSequence"):
        return 0, _greatest(tables[0].LUTDescriptor)
    bits = int(header.BitsStored)
    least = -(2 ** (bits - 1)) if header.PixelRepresentation == 1 else 0
    slope, intercept = _rescale(header)
    return least * slope + intercept, (least + 2**bits - 1) * slope + intercept


def as_shown(stored: Pixels, header: Dataset, within: Range) -> Pixels:
    """Apply modality table or rescale, window or VOI table, and MONOCHROME1 to one frame.

    Args:
        stored: (rows, columns).
        header: With the elements that hold for this frame.
        within: What the window spreads values over, and MONOCHROME1 is inverted in.

    Returns:
        (rows, columns), higher brighter; whole numbers as uint8, uint16 or int16.
    """
    low, high = within
    slope, intercept = _rescale(header)
    is_whole = stored.dtype.kind in "ui" and all(
        float(value).is_integer() for value in (low, high, slope)
    )
    pixels = stored
    if tables := header.get("ModalityLUTSequence"):
        pixels = look_up(stored, tables[0], header, is_signed=header.PixelRepresentation == 1)
    elif (slope, intercept) != (1, 0):
        pixels = stored.astype(np.float64) * slope + intercept
    if is_whole:
        pixels = np.rint(pixels).astype(np.int64)
    if table := _voi_table(header):
        pixels = look_up(pixels, table, header, is_signed=low < 0)
        low, high = 0, _greatest(table.LUTDescriptor)
    elif _has_window(header) and window_note(header) is None:
        pixels = _windowed(pixels, header, (low, high))
        pixels = np.rint(pixels).astype(np.int64) if is_whole else pixels
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


def window_note(header: Dataset) -> Note | None:
    """Return the note on a window that cannot be followed (C.11.2.1.2, C.11.2.1.3)."""
    if _voi_table(header) or not _has_window(header):
        return None
    centre, width, function = _window(header)
    if centre is None or width is None or not np.isfinite([centre, width]).all():
        return WindowLeftOut("incomplete")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return WindowLeftOut("of an unknown function")
    if width <= 0 or (function == "LINEAR" and width < 1):
        return WindowLeftOut(f"{function} and {width:g} wide")
    return None


def _has_window(header: Dataset) -> bool:
    return any(header.get(keyword) is not None for keyword in ("WindowCenter", "WindowWidth"))


def _window(header: Dataset) -> tuple[float | None, float | None, str]:
    """Return centre, width and function of the first window."""
    firsts = (np.atleast_1d(header.get(f"Window{each}"))[0] for each in ("Center", "Width"))
    centre, width = (None if first is None else float(first) for first in firsts)
    return centre, width, str(header.get("VOILUTFunction") or "LINEAR").upper()


def _windowed(pixels: Pixels, header: Dataset, within: Range) -> Pixels:
    """Spread the window's values over a range, which pydicom gets wrong for a negative slope."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.processing import apply_windowing

    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = _window(header)
    window.PhotometricInterpretation = "MONOCHROME2"
    # pydicom takes the range of the output from these: of one bit, 0 and 1, rescaled to it.
    window.BitsStored, window.PixelRepresentation = 1, 0
    window.RescaleSlope, window.RescaleIntercept = within[1] - within[0], within[0]
    with np.errstate(over="ignore"):  # far from a narrow SIGMOID
        return apply_windowing(pixels, window)


def _rescale(header: Dataset) -> tuple[float, float]:
    """Return slope and intercept; a table of the modality takes their place."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if header.get("ModalityLUTSequence"):
        return 1, 0
    return 1 if slope is None else float(slope), 0 if intercept is None else float(intercept)


# --- lookup tables --------------------------------------------------------------------------------


def _voi_table(header: Dataset) -> Dataset | None:
    """Return the first VOI table, where there is one with data."""
    tables = header.get("VOILUTSequence") or []
    return next((table for table in tables[:1] if "LUTData" in table), None)


def look_up(
    values: Pixels, table: Dataset, header: Dataset, name: str = "LUT", *, is_signed: bool
) -> Pixels:
    """Look values up; those before the table's first have its first entry, and so at the end.

    Args:
        values: Any shape.
        table: With the elements `name`Descriptor and `name`Data.
        header: Of the file, whose byte order counts.
        name: 'LUT', or 'RedPaletteColorLookupTable' and the like.
        is_signed: Whether values may be below 0, and so the first one mapped, whatever its VR.
    """
    count, first, _ = map(int, table[f"{name}Descriptor"].value)
    if is_signed and first >= 2**15:
        first -= 2**16
    entries = _entries(table[f"{name}Data"].value, count % 2**16 or 2**16, header)
    values = values.astype(np.int64) if values.dtype.kind in "ui" else values
    found: Pixels = entries[np.clip(values - first, 0, len(entries) - 1).astype(np.int64)]
    return found


def _entries(data: Any, count: int, header: Dataset) -> NDArray[Any]:
    """Return the entries of a table: words, or bytes where there are too few words (C.11.1.1.1)."""
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = np.frombuffer(data + b"\0" * (len(data) % 2), f"{order}u2").astype("<u2")
    else:
        words = np.atleast_1d(np.asarray(data)).astype("<u2")
    entries = words[:count] if len(words) >= count else words.view(np.uint8)[:count]
    if len(entries) < count:
        raise ValueError("a lookup table is cut short")
    return entries


def _greatest(descriptor: Sequence[int]) -> int:
    """Return the greatest value that a lookup table of its depth can hold."""
    return int(2 ** int(descriptor[2])) - 1
