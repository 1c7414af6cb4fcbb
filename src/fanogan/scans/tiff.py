"""TIFF of one or many pages, 1 to 32 bits, integer or float, by tifffile."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanogan.scans.notes import ConvertedToRGB
from fanogan.scans.scan import (
    UNKNOWN_SPACING,
    BadScan,
    Pixels,
    Scan,
    Spacing,
    check_dtype,
    check_size,
    damaged,
    known_length,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG_COMPRESSIONS = (6, 7, 34892, 33007)
_CONVERTED = {_PALETTE: (ConvertedToRGB("palette"),), _CMYK: (ConvertedToRGB("CMYK"),)}
# ImageJ writes what is not ASCII as an escape.
_MICROMETRE = ("um", "µm", "\\u00b5m", "micron", "microns")
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, **dict.fromkeys(_MICROMETRE, 1e-3)}


def read_tiff(path: Path) -> Scan:
    """Read all pages of a TIFF; previews marked as reduced are left out.

    Returns:
        (pages, rows, columns) or (pages, rows, columns, channels), a volume where there are
        several pages. Higher is brighter: 'white is zero' is inverted. The spacing is known
        where ImageJ wrote it.

    Raises:
        BadScan: The file is damaged, too large, of pages that differ, or of a kind not read.
    """
    from tifffile import TiffFile

    label = str(path)
    with TiffFile(path) as file:
        pages = list(_pages(file, label))
        pages = [page for page in pages if not page.is_reduced] or pages
        _check_pages(label, pages, path.stat().st_size)
        frames = [_frame(label, page) for page in pages]
        spacing = _imagej_spacing(file)
    notes = _CONVERTED.get(pages[0].photometric, ())
    return Scan(np.stack(frames), spacing=spacing, is_volume=len(frames) > 1, notes=notes)


def is_stack(path: Path) -> bool:
    """Return whether a TIFF has several pages; False for one that cannot be opened."""
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            full = (page for page in _pages(file, str(path)) if not page.is_reduced)
            return len(list(islice(full, 2))) > 1
    except Exception:
        # A damaged file leads tifffile to errors of many kinds; `read_tiff` says what is wrong.
        return False


def _pages(file: TiffFile, label: str) -> Iterator[TiffPage]:
    """Yield the pages; raise BadScan where their chain returns to one of them."""
    seen = set()
    for each in file.pages:
        page = each.aspage()
        if page.offset in seen:
            raise damaged(label, "a TIFF image")
        seen.add(page.offset)
        yield page


def _imagej_spacing(file: TiffFile) -> Spacing:
    """Return the scale that ImageJ wrote; other programs' resolutions are meant for printing."""
    known = file.imagej_metadata or {}
    unit = _MILLIMETRES.get(str(known.get("unit", "")).lower())
    if unit is None:
        return UNKNOWN_SPACING
    tags = file.pages[0].aspage().tags
    lengths = [known_length(known.get("spacing"))]
    for name in ("YResolution", "XResolution"):
        pixels, units = tags.valueof(name) or (0, 0)  # pixels per unit, as a fraction
        lengths.append(known_length(units / pixels) if pixels else None)
    slices, rows, columns = (length and length * unit for length in lengths)
    return slices, rows, columns


def _check_pages(label: str, pages: list[TiffPage], file_size: int) -> None:
    """Raise BadScan where pages are missing, too large, unequal, or point beyond the file."""
    if not pages:
        raise damaged(label, "a TIFF image")
    first = pages[0]
    if first.dtype is None:
        raise BadScan(f"{label} holds samples that are no plain numbers: save it as 8 or 16 bits")
    check_dtype(label, first.dtype)
    for page in pages:
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            raise BadScan(f"{label} has pages of different sizes or types: save each as a file")
        pixel_bytes = page.samplesperpixel * first.dtype.itemsize
        check_size(label, page.imagelength, page.imagewidth, len(pages), pixel_bytes)
        ends = map(operator.add, page.dataoffsets, page.databytecounts)
        if max(ends, default=0) > file_size:
            raise damaged(label, "a TIFF image")


def _frame(label: str, page: TiffPage) -> Pixels:
    """Decode one page to (rows, columns[, channels]), grey or RGB in which higher is brighter."""
    pixels: Pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise BadScan(f"{label} has pages with axes {page.axes}: save two-dimensional pages")
    model = page.photometric
    is_grey = model in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    if is_grey:
        pixels = _grey(label, pixels, page.bitspersample, model == _WHITE_IS_ZERO)
    elif model == _PALETTE and page.colormap is not None:
        pixels = np.moveaxis((page.colormap[:, pixels] >> 8).astype(np.uint8), 0, -1)
    elif model == _CMYK and pixels.dtype == np.uint8:
        ink = pixels.astype(np.float32) / 255
        pixels = np.rint(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:4])).astype(np.uint8)
    elif model != _RGB and (model != _YCBCR or page.compression not in _JPEG_COMPRESSIONS):
        problem = "is a TIFF of a colour model that is not read"
        raise BadScan(f"{label} {problem}: save it as grey or RGB")
    # One more than the colour model needs is alpha; more still are other measurements.
    if pixels.ndim == 3 and pixels.shape[-1] > (2 if is_grey else 4):
        raise BadScan(f"{label} has {pixels.shape[-1]} channels: save it as grey or RGB")
    return pixels


def _grey(label: str, pixels: Pixels, bits: int, white_is_zero: bool) -> Pixels:
    """Spread fewer than eight bits over 0 to 255, and invert where zero means white."""
    if pixels.dtype == np.bool_:
        return np.logical_not(pixels) if white_is_zero else pixels
    if pixels.dtype == np.uint8 and bits < 8:
        pixels = (pixels * (255 // (2**bits - 1))).astype(np.uint8)
        bits = 8
    if white_is_zero:
        if pixels.dtype.kind != "u":
            raise BadScan(f"{label} stores signed values with white as zero: save black as zero")
        pixels = (2**bits - 1 - pixels).astype(pixels.dtype)
    return pixels
