"""TIFF of one or many pages, 1 to 32 bits, integer or float, by tifffile."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from fanogan.scans.checks import BadScan, check_dtype, check_size, damaged, unusable
from fanogan.scans.notes import ConvertedToRGB
from fanogan.scans.pixels import TRANSPOSED, turned
from fanogan.scans.scan import UNKNOWN_SPACING, Pixels, Scan, Spacing, known_length

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_JPEG_COMPRESSIONS = (6, _JPEG, 34892, 33007)
_ORIENTATION = 274
_ALPHA = ((1,), (2,))
_SAMPLES = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_JPEG_END, _JPEG_PADDING = b"\xff\xd9", 64
_MAX_PLANES = 1_000_000
_CONVERTED = {_PALETTE: (ConvertedToRGB("palette"),), _CMYK: (ConvertedToRGB("CMYK"),)}
# ImageJ writes what is not ASCII as an escape.
_MICROMETRE = ("um", "µm", "\\u00b5m", "micron", "microns")
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, **dict.fromkeys(_MICROMETRE, 1e-3)}


def read_tiff(path: Path) -> Scan:
    """Read all frames of a TIFF; previews marked as reduced are left out.

    Frames may have a directory each, or all follow the only one (ImageJ beyond 4 GB).

    Returns:
        (frames, rows, columns) or (frames, rows, columns, channels), a volume where there are
        several frames, turned as the orientation tag says. Higher is brighter: 'white is zero'
        is inverted. The spacing is known where ImageJ wrote it.

    Raises:
        BadScan: The file is damaged, incomplete, too large, of pages that differ, of channels or
            volumes beside each other, or of a kind not read.
    """
    label = str(path)
    with _opened(path) as file:
        pages = list(_pages(file, label))
        pages = [page for page in pages if not page.is_reduced] or pages
        size = path.stat().st_size
        _check_pages(label, pages, size)
        first, series = pages[0], _series(label, file)
        axes = _frame_axes(label, file, first, series)
        declared = sum(map(_frames_in, series))
        stored: Iterable[tuple[TiffPage, Pixels]]
        end = first.dataoffsets[0] + declared * first.nbytes
        if len(pages) == 1 < declared and first.is_final and end <= size:
            _check_size(label, first, declared)
            dtype = np.dtype(first.dtype).newbyteorder(file.byteorder)
            count, offset = declared * math.prod(first.shape), first.dataoffsets[0]
            data = np.fromfile(path, dtype, count, offset=offset).astype(first.dtype, copy=False)
            stored = zip(repeat(first), data.reshape(-1, *first.shape))
        else:
            stored = ((page, page.asarray()) for page in _ordered(label, file, pages, series))
        frames = [
            turned(_frame(label, page, pixels), page.tags.valueof(_ORIENTATION))
            for page, pixels in stored
        ]
        slices, rows, columns = _imagej_spacing(file)
        if first.tags.valueof(_ORIENTATION) in TRANSPOSED:
            rows, columns = columns, rows
    return Scan(
        np.stack(frames),
        spacing=(None if axes == "T" else slices, rows, columns),
        is_volume=len(frames) > 1,
        notes=_CONVERTED.get(first.photometric, ()),
    )


def is_stack(path: Path) -> bool:
    """Return whether a TIFF has several frames; False for one that cannot be opened."""
    try:
        with _opened(path) as file:
            full = (page for page in _pages(file, str(path)) if not page.is_reduced)
            several = len(list(islice(full, 2))) > 1
            return several or sum(map(_frames_in, _series(str(path), file))) > 1
    except Exception:
        # A damaged file leads tifffile to errors of many kinds; `read_tiff` says what is wrong.
        return False


def _opened(path: Path) -> TiffFile:
    """Open a TIFF by itself, without the other files that some formats join it with."""
    from tifffile import TiffFile

    return TiffFile(path, _multifile=False, is_mmstack=False, is_ndtiff=False)


def _pages(file: TiffFile, label: str) -> Iterator[TiffPage]:
    """Yield the pages; raise BadScan where their chain returns to one of them, or breaks off."""
    form, handle, following = file.tiff, file.filehandle, 0
    seen = set()
    for each in file.pages:
        page = each.aspage()
        handle.seek(page.offset)
        (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
        # tifffile passes over tags whose values lie beyond the file.
        if page.offset in seen or tags != len(page.tags):
            raise damaged(label, "a TIFF image")
        handle.seek(tags * form.tagsize, os.SEEK_CUR)
        (following,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
        seen.add(page.offset)
        yield page
    # And it ends where the next page lies beyond the file.
    if following:
        raise damaged(label, "a TIFF image")


def _series(label: str, file: TiffFile) -> list[TiffPageSeries]:
    """Return the series in which tifffile orders the pages, without reduced ones."""
    if file.is_ome:
        # Before tifffile makes a list of all planes that are declared, however many.
        for element in ElementTree.fromstring(file.ome_metadata or "").iter():
            if "ModuloAlong" in element.tag:
                raise _too_many_axes(label, element.tag.rpartition("}")[-1])
            counts = (int(element.get(f"Size{axis}", 1)) for axis in "ZCT")
            planes = element.get("PlaneCount", element.get("NumPlanes", 1))
            if math.prod(counts) * int(planes) > _MAX_PLANES:
                raise damaged(label, "a TIFF image")
    return [each for each in file.series if not each.keyframe.is_reduced] or file.series


def _frames_in(series: TiffPageSeries) -> int:
    """Return how many pages a series declares."""
    return math.prod(series.shape) // math.prod(series.keyframe.shape)


def _frame_axes(label: str, file: TiffFile, page: TiffPage, series: list[TiffPageSeries]) -> str:
    """Return the axes along which frames are counted, such as 'Z'; '' for one frame.

    Raises:
        BadScan: Channels or volumes beside each other.
    """
    found = ""
    for each in series:
        # tifffile's letters: S and C are samples and channels, I and Q frames without a name.
        axes = _long_axes(each.axes, each.shape)
        within = _long_axes(page.axes, page.shape)
        found = axes[: len(axes) - len(within)]
        if axes[len(found) :].replace("C", "S") != within:
            raise BadScan(f"{label} has the axes {axes}: save frames of rows and columns")
        if "C" in found or "S" in found:
            remedy = "save one channel, or an RGB picture, as a file of its own"
            raise BadScan(f"{label} holds channels beside each other (axes {axes}): {remedy}")
        if found not in ("Z", "T") and set(found) - set("IQ"):
            raise _too_many_axes(label, axes)
    is_known = {each.kind for each in series} <= {"ome", "imagej"} and len(series) == 1
    if file.is_ome and not is_known and len(file.pages) > 1:
        problem = "holds several OME images, or a part of one"
        raise BadScan(f"{label} {problem}: save each volume as a file of its own")
    return found


def _too_many_axes(label: str, axes: str) -> BadScan:
    problem = f"has the axes {axes}, more than the frames of one volume"
    return BadScan(f"{label} {problem}: save each volume as a file of its own")


def _long_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Return the axes without those of length 1; rows and columns always stay."""
    return "".join(a for a, n in zip(axes, shape, strict=True) if n > 1 or a in "YX")


def _ordered(
    label: str, file: TiffFile, pages: list[TiffPage], series: list[TiffPageSeries]
) -> list[TiffPage]:
    """Return the pages in the order of the series; raise BadScan where some are missing."""
    declared = sum(map(_frames_in, series))
    # ImageJ's own count, since tifffile passes over a description that the file belies.
    images = (file.imagej_metadata or {}).get("images", 1) // pages[0].samplesperpixel
    if declared != len(pages) or images > len(pages):
        problem = f"declares {max(declared, images):,} frames and holds {len(pages):,}"
        raise unusable(f"{label} {problem}", "copy it again or save it anew")
    known = {page.offset: page for page in pages}
    order = [frame.offset for each in series for frame in each if frame is not None]
    if sorted(order) != sorted(known):
        raise damaged(label, "a TIFF image")
    return [known[offset] for offset in order]


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
    """Raise BadScan where pages are incomplete, too large, unequal, or point beyond the file."""
    if not pages:
        raise damaged(label, "a TIFF image")
    first = pages[0]
    if first.dtype is None:
        raise BadScan(f"{label} holds samples that are no plain numbers: save it as 8 or 16 bits")
    check_dtype(label, first.dtype)
    for page in pages:
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            raise BadScan(f"{label} has pages of different sizes or types: save each as a file")
        _check_size(label, page, len(pages))
        # Segments are strips or tiles. Those that GDAL leaves out of sparse files, with 0 for
        # place and length, were never recorded either, and zeros in their place would be scored.
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        held, declared = sum(min(each) > 0 for each in segments), math.prod(page.chunked)
        if held < declared:
            problem = f"lacks {declared - held:,} of the {declared:,} strips or tiles of a page"
            raise unusable(f"{label} {problem}", "copy it again")
        is_short = page.is_contiguous and sum(page.databytecounts) < page.nbytes
        if is_short or max(map(sum, segments)) > file_size or _lacks_end_of_jpeg(page, segments):
            raise damaged(label, "a TIFF image")


def _lacks_end_of_jpeg(page: TiffPage, segments: list[tuple[int, int]]) -> bool:
    """Return whether a JPEG segment is cut short, which its decoder would fill up in grey."""
    handle = page.parent.filehandle
    for offset, length in segments if page.compression == _JPEG else ():
        handle.seek(offset + max(length - _JPEG_PADDING, 0))
        if _JPEG_END not in handle.read(min(length, _JPEG_PADDING)):
            return True
    return False


def _check_size(label: str, page: TiffPage, frames: int) -> None:
    """Raise BadScan where frames like `page` are too large."""
    pixel_bytes = page.samplesperpixel * np.dtype(page.dtype).itemsize
    pixel_bytes = 3 if page.photometric == _PALETTE else pixel_bytes
    check_size(label, page.imagelength, page.imagewidth, frames, pixel_bytes)


def _frame(label: str, page: TiffPage, pixels: Pixels) -> Pixels:
    """Return a page's pixels as (rows, columns[, channels]), grey or RGB, higher brighter."""
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise BadScan(f"{label} has pages with axes {page.axes}: save two-dimensional pages")
    model = page.photometric
    is_grey = model in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    # One sample more than the colour needs may be alpha; others are measurements of their own.
    extra = page.samplesperpixel - _SAMPLES.get(model, page.samplesperpixel)
    is_alpha = extra == 1 and page.extrasamples[-1:] in _ALPHA and (is_grey or model == _RGB)
    if extra < 0:
        raise damaged(label, "a TIFF image")
    if extra and not is_alpha:
        problem = f"has {page.samplesperpixel} channels, some of them neither colour nor alpha"
        raise BadScan(f"{label} {problem}: save it as grey or RGB")
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
    return pixels


def _grey(label: str, pixels: Pixels, bits: int, white_is_zero: bool) -> Pixels:
    """Spread fewer than eight bits over 0 to 255, and invert where zero means white."""
    if pixels.dtype == np.bool_:
        return np.logical_not(pixels) if white_is_zero else pixels
    if pixels.dtype == np.uint8 and bits < 8:
        pixels = np.rint(pixels * (255 / (2**bits - 1))).astype(np.uint8)
        bits = 8
    if white_is_zero:
        if pixels.dtype.kind != "u":
            raise BadScan(f"{label} stores signed values with white as zero: save black as zero")
        pixels = (2**bits - 1 - pixels).astype(pixels.dtype)
    return pixels
