"""PNG, JPEG and BMP, by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fanogan.scans.checks import check_size, too_large, unusable
from fanogan.scans.notes import AlphaDropped, ConvertedToRGB, FirstFrameOnly, Note, OneBitGrey
from fanogan.scans.pixels import turned
from fanogan.scans.scan import Pixels, Scan

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "BMP")
_ORIENTATION = 0x0112
_KEPT_MODES = ("L", "LA", "I", "I;16", "I;16B", "I;16L", "RGB", "RGBA")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_raster(path: Path) -> Scan:
    """Read one PNG, JPEG or BMP.

    One bit a pixel becomes grey, palettes and CMYK become RGB; sixteen bits stay sixteen; the
    EXIF orientation is applied. Resolution tags are ignored: they describe printing and not the
    patient.

    Returns:
        One frame: (1, rows, columns) or (1, rows, columns, channels), uint8 or uint16.

    Raises:
        BadScan: The file is damaged, larger than 100 megapixels, or no such image.
    """
    from PIL import Image, UnidentifiedImageError

    label = str(path)
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            check_size(label, image.height, image.width)
            frames = getattr(image, "n_frames", 1)
            pixels, notes = _pixels(file, image)
            pixels = turned(pixels, image.getexif().get(_ORIENTATION))
    except Image.DecompressionBombError as error:
        raise too_large(label, "a decompression bomb's size") from error
    except UnidentifiedImageError as error:
        kind = "a PNG, JPEG or BMP of a kind that is not read (such as 12-bit JPEG)"
        raise unusable(f"{label} is damaged, or {kind}", "copy it again, save it as PNG") from error
    if frames > 1:
        notes = (FirstFrameOnly(of=frames), *notes)
    return Scan(pixels[np.newaxis], notes=notes)


def _pixels(file: BinaryIO, image: Image) -> tuple[Pixels, tuple[Note, ...]]:
    """Decode an opened image to (rows, columns[, channels]), with notes on what was changed."""
    if image.format == "PNG" and image.mode != "L" and _is_sixteen_bit_colour(file):
        from imagecodecs import png_decode

        file.seek(0)
        pixels: Pixels = png_decode(file.read())
        return pixels, ()
    mode = image.mode
    if mode == "1":
        return np.asarray(image.convert("L")), (OneBitGrey(),)
    if mode in ("P", "PA"):
        has_alpha = mode == "PA" or "transparency" in image.info
        colours = image.convert("RGBA" if has_alpha else "RGB")
        return np.asarray(colours), (ConvertedToRGB("palette"),)
    if mode not in _KEPT_MODES:
        return np.asarray(image.convert("RGB")), (ConvertedToRGB(mode),)
    # A colour that counts as transparent is alpha too.
    return np.asarray(image), (AlphaDropped(),) if "transparency" in image.info else ()


def _is_sixteen_bit_colour(file: BinaryIO) -> bool:
    """Return whether a PNG has 16 bits and several channels, which Pillow would cut to 8 bits."""
    place = file.tell()
    file.seek(0)
    header = file.read(26)
    file.seek(place)
    return header.startswith(_PNG_SIGNATURE) and header[24] == 16 and header[25] in (2, 4, 6)
