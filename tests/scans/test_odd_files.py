"""A table of odd files that other programs write, and the pixels that they hold.

Most expectations are what was given to the library that wrote the file (tifffile, imagecodecs,
Pillow) or packed by hand as the standard says; where a conversion is lossy, they are Pillow's.
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from imagecodecs import jpeg_encode, jpegls_encode, ljpeg_encode
from nibabel import Nifti1Header, load
from PIL import Image

from fanogan.scans import BadScan, read_scan

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 24, 32
GREY = RNG.integers(0, 256, (ROWS, COLUMNS), dtype=np.uint8)
DARK = GREY > 127
DEEP = RNG.integers(0, 4096, (ROWS, COLUMNS), dtype=np.uint16)
RGB = RNG.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)
RGB16 = np.stack([DEEP * 16, DEEP * 3, DEEP * 7], axis=-1)
FLOAT = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32)
RAMP = np.add.outer(np.arange(ROWS) * 3, np.arange(COLUMNS) * 4).astype(np.uint8)
SMOOTH = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
COLOURS = RNG.integers(0, 256, (256, 3), dtype=np.uint8)

Write = Callable[[Path], object]
PILLOW = "what Pillow reads"


def spread(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Fewer than eight bits over 0 to 255, as PNG's and TIFF's readers show them."""
    return np.rint(pixels.astype(int) * 255 / (2**bits - 1)).astype(np.uint8)


def top(bits: int) -> np.ndarray:
    return GREY >> (8 - bits)


def packed(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Rows of samples of any number of bits, the highest bit first, each row in whole bytes."""
    places = np.arange(bits - 1, -1, -1)
    ones = (pixels[..., np.newaxis] >> places & 1).astype(np.uint8)
    return np.packbits(ones.reshape(len(pixels), -1), axis=1)


# --- TIFF -----------------------------------------------------------------------------------------


def tiff(pixels: np.ndarray, **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def pillow(pixels: np.ndarray, mode: str | None = None, **options: Any) -> Write:
    image = Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    return lambda path: image.save(path, **options)


def tiff_by_hand(order: str, bits: int, photometric: int, data: bytes, *more: tuple) -> Write:
    """A TIFF of one strip; `more` are tags of shorts (number, values)."""

    def write(path: Path) -> None:
        tags = [(256, [COLUMNS]), (257, [ROWS]), (258, [bits]), (259, [1]), (262, [photometric])]
        tags += [(277, [1]), (278, [ROWS]), (279, [len(data)]), *more]
        start = 8 + 2 + 12 * (len(tags) + 1) + 4
        extra, entries = b"", []
        for tag, values in sorted([*tags, (273, [start])]):
            content = struct.pack(f"{order}{len(values)}H", *values)
            if len(content) > 4:
                place = start + len(data) + len(extra)
                extra, content = extra + content, struct.pack(f"{order}I", place)
            head = struct.pack(f"{order}HHI", tag, 3, len(values))
            entries.append(head + content.ljust(4, b"\0"))
        mark = b"II*\0" if order == "<" else b"MM\0*"
        count = struct.pack(f"{order}H", len(entries))
        head = mark + struct.pack(f"{order}I", 8) + count + b"".join(entries) + bytes(4)
        path.write_bytes(head + data + extra)

    return write


COLOUR_MAP = (320, [int(value) * 257 for value in COLOURS[:16].T.ravel()])
REVERSED = np.packbits(np.unpackbits(GREY).reshape(-1, 8)[:, ::-1])
PLANES = np.moveaxis(RGB, -1, 0)
SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}
YCBCR = {"photometric": "ycbcr", "compression": "jpeg"}

TIFFS: dict[str, tuple[Write, np.ndarray | str]] = {
    # A bit that is set is black where white is zero.
    "1 bit, white is zero": (tiff(DARK, photometric="miniswhite"), spread(~DARK, 1)),
    "1 bit, black is zero": (tiff(DARK, photometric="minisblack"), spread(DARK, 1)),
    "1 bit, group 3 fax": (pillow(DARK, compression="group3"), spread(DARK, 1)),
    "1 bit, group 4 fax": (pillow(DARK, compression="group4"), spread(DARK, 1)),
    "2 bits": (tiff(top(2), bitspersample=2), spread(top(2), 2)),
    "4 bits": (tiff(top(4), bitspersample=4), spread(top(4), 4)),
    "6 bits": (tiff_by_hand("<", 6, 1, packed(top(6), 6).tobytes()), spread(top(6), 6)),
    "4 bits, palette": (
        tiff_by_hand("<", 4, 3, packed(top(4), 4).tobytes(), COLOUR_MAP),
        COLOURS[top(4)],
    ),
    "4 bits, white is zero": (
        tiff_by_hand(">", 4, 0, packed(top(4), 4).tobytes()),
        255 - spread(top(4), 4),
    ),
    "8 bits, palette": (
        tiff(GREY, photometric="palette", colormap=COLOURS.T.astype(np.uint16) * 257),
        COLOURS[GREY],
    ),
    "8 bits, white is zero": (tiff(GREY, photometric="miniswhite"), 255 - GREY),
    "10 bits, rows of odd length": (tiff(DEEP[:, :31] >> 2, bitspersample=10), DEEP[:, :31] >> 2),
    "12 bits": (tiff_by_hand("<", 12, 1, packed(DEEP, 12).tobytes()), DEEP),
    "12 bits, big-endian": (tiff_by_hand(">", 12, 1, packed(DEEP, 12).tobytes()), DEEP),
    "12 bits, white is zero": (tiff_by_hand("<", 12, 0, packed(DEEP, 12).tobytes()), 4095 - DEEP),
    **{
        f"{dtype}, byte order {order}": (tiff(DEEP.astype(dtype), byteorder=order), DEEP)
        for dtype in ("u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
        for order in "<>"
    },
    "half floats": (tiff(FLOAT.astype(np.float16)), FLOAT.astype(np.float16)),
    "signed bytes": (tiff(GREY.view(np.int8)), GREY.view(np.int8)),
    "float colour": (tiff(np.stack([FLOAT] * 2 + [-FLOAT], -1), photometric="rgb"),
                     np.stack([FLOAT] * 2 + [-FLOAT], -1)),
    "BigTIFF": (tiff(GREY, bigtiff=True), GREY),
    "lowest bit first": (tiff_by_hand("<", 8, 1, REVERSED.tobytes(), (266, [2])), GREY),
    "lowest bit first, 1 bit": (
        tiff_by_hand("<", 1, 1, np.packbits(DARK, axis=1, bitorder="little").tobytes(), (266, [2])),
        spread(DARK, 1),
    ),
    "predictor 2, 8 bits": (tiff(RGB, compression="lzw", predictor=2), RGB),
    "predictor 2, 16 bits": (tiff(DEEP, compression="lzw", predictor=2), DEEP),
    "predictor 2, big-endian": (tiff(DEEP, compression="zlib", predictor=2, byteorder=">"), DEEP),
    "predictor 3": (tiff(FLOAT, compression="zlib", predictor=3), FLOAT),
    "predictor 3, big-endian": (tiff(FLOAT, compression="zlib", predictor=3, byteorder=">"), FLOAT),
    "planes": (tiff(PLANES, **SEPARATE), RGB),
    "tiles": (tiff(RGB, tile=(16, 16)), RGB),
    "tiles of planes": (tiff(PLANES, **SEPARATE, tile=(16, 16), compression="zlib"), RGB),
    "JPEG, YCbCr": (tiff(SMOOTH, **YCBCR), PILLOW),
    "JPEG, YCbCr, subsampled": (tiff(SMOOTH, **YCBCR, subsampling=(2, 2)), PILLOW),
    "JPEG, RGB": (tiff(SMOOTH, photometric="rgb", compression="jpeg"), PILLOW),
    "JPEG, grey": (tiff(RAMP, compression="jpeg"), PILLOW),
    "JPEG 2000, 12 bits": (tiff(DEEP, compression="jpeg2000"), DEEP),
    "JPEG XL": (tiff(GREY, compression="jpegxl"), GREY),
    "Zstandard": (tiff(GREY, compression="zstd"), GREY),
    "CMYK": (pillow(SMOOTH, "CMYK"), SMOOTH),
    "16 bits, colour": (tiff(RGB16, photometric="rgb"), RGB16),
    "one row": (tiff(GREY[:1]), GREY[:1]),
    "one column": (tiff(np.ascontiguousarray(GREY[:, :1])), GREY[:, :1]),
}  # fmt: skip


# --- PNG ------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: np.ndarray, bits: int, kind: int, *chunks: bytes, interlaced: bool = False
) -> Write:
    """A PNG by hand; kinds are 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA."""

    def rows(part: np.ndarray) -> bytes:
        part = packed(part, bits) if bits < 8 else part.astype(">u2" if bits == 16 else "u1")
        return b"".join(b"\0" + row.tobytes() for row in part)

    # Start and step of the rows and columns of Adam7's seven pictures.
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)]
    passes += [(2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = [pixels[y::dy, x::dx] for y, dy, x, dx in passes] if interlaced else [pixels]
    header = struct.pack(">IIBBBBB", COLUMNS, ROWS, bits, kind, 0, 0, interlaced)
    data = chunk(b"IDAT", zlib.compress(b"".join(map(rows, parts))))
    body = [chunk(b"IHDR", header), *chunks, data, chunk(b"IEND", b"")]
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def transparent(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


PALETTE = chunk(b"PLTE", COLOURS[:16].tobytes())
LINEAR = chunk(b"gAMA", struct.pack(">I", 100_000))

PNGS: dict[str, tuple[Write, np.ndarray]] = {
    **{f"{bits} bits": (png(top(bits), bits, 0), spread(top(bits), bits)) for bits in (1, 2, 4)},
    "16 bits": (png(DEEP, 16, 0), DEEP),
    "interlaced": (png(GREY, 8, 0, interlaced=True), GREY),
    "interlaced, 4 bits": (png(top(4), 4, 0, interlaced=True), spread(top(4), 4)),
    "interlaced, 16 bits": (png(DEEP, 16, 0, interlaced=True), DEEP),
    "interlaced, 16 bits, colour": (png(RGB16, 16, 2, interlaced=True), RGB16),
    "transparent grey": (png(GREY, 8, 0, transparent(int(GREY[0, 0]))), GREY),
    "transparent grey, 16 bits": (png(DEEP, 16, 0, transparent(int(DEEP[0, 0]))), DEEP),
    "transparent colour": (png(RGB, 8, 2, transparent(*map(int, RGB[0, 0]))), RGB),
    "transparent colour, 16 bits": (png(RGB16, 16, 2, transparent(*map(int, RGB16[0, 0]))), RGB16),
    "grey and alpha, 16 bits": (png(RGB16[..., :2], 16, 4), RGB16[..., 0]),
    "colour and alpha, 16 bits": (png(np.dstack([RGB16, DEEP]), 16, 6), RGB16),
    # Stored values count: gamma and significant bits are for displays.
    "gamma": (png(GREY, 8, 0, LINEAR), GREY),
    "gamma, 16 bits": (png(DEEP, 16, 0, LINEAR), DEEP),
    "gamma, 16 bits, colour": (png(RGB16, 16, 2, LINEAR), RGB16),
    "significant bits": (png(GREY, 8, 0, chunk(b"sBIT", b"\5")), GREY),
    "significant bits, 16 bits": (png(DEEP, 16, 0, chunk(b"sBIT", b"\x0c")), DEEP),
    "significant bits, colour": (png(RGB16, 16, 2, chunk(b"sBIT", b"\x0c" * 3)), RGB16),
    "palette, 4 bits": (png(top(4), 4, 3, PALETTE), COLOURS[top(4)]),
    "palette with alpha": (png(top(4), 4, 3, PALETTE, chunk(b"tRNS", b"\0\x80")), COLOURS[top(4)]),
}


# --- JPEG and BMP ---------------------------------------------------------------------------------


def by(encode: Callable[..., bytes], pixels: np.ndarray, **options: Any) -> Write:
    return lambda path: path.write_bytes(encode(pixels, **options))


CMYK = np.asarray(Image.fromarray(SMOOTH).convert("CMYK"))

JPEGS: dict[str, tuple[Write, np.ndarray | str]] = {
    "grey": (pillow(RAMP, quality=95), PILLOW),
    "progressive": (pillow(SMOOTH, progressive=True), PILLOW),
    "RGB without a transform": (pillow(SMOOTH, keep_rgb=True, quality=100), PILLOW),
    "CMYK, inverted as Adobe does": (pillow(SMOOTH, "CMYK", quality=100), SMOOTH),
    "YCCK, inverted as Adobe does": (
        by(jpeg_encode, 255 - CMYK, level=100, colorspace="CMYK", outcolorspace="YCCK"),
        SMOOTH,
    ),
    "lossless": (by(ljpeg_encode, GREY), GREY),
}


def bmp(
    data: bytes,
    bits: int,
    rows: int = ROWS,
    compression: int = 0,
    more: bytes = b"",
    columns: int = COLUMNS,
) -> Write:
    """A BMP by hand; `more` are its masks or its palette."""
    start = 54 + len(more)
    colours = len(more) // 4 if bits <= 8 else 0
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    info = (40, columns, rows, 1, bits, compression, len(data), 0, 0, colours, 0)
    body = head + struct.pack("<IiiHHIIiiII", *info) + more + data
    return lambda path: path.write_bytes(body)


def padded(rows: np.ndarray) -> bytes:
    """Rows of whole words of four bytes."""
    return b"".join(row.tobytes() + b"\0" * (-row.nbytes % 4) for row in rows)


def run_lengths(rows: np.ndarray) -> bytes:
    """Each pixel as a run of one; ends of rows, and of the picture."""
    return b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in rows) + b"\0\1"


def greys(values: np.ndarray) -> bytes:
    return b"".join(bytes([value] * 3 + [0]) for value in values.tolist())


BGR = np.ascontiguousarray(RGB[..., ::-1])
FIVE = (RGB >> 3).astype("<u2")  # bits of each colour
SHORT = FIVE[..., 0] << 10 | FIVE[..., 1] << 5 | FIVE[..., 2]
FULL = np.arange(256)

BMPS: dict[str, tuple[Write, np.ndarray]] = {
    "from the bottom": (bmp(padded(BGR[::-1]), 24), RGB),
    "from the top": (bmp(padded(BGR), 24, -ROWS), RGB),
    "rows of odd length": (bmp(padded(BGR[::-1, :31]), 24, columns=31), RGB[:, :31]),
    "grey palette": (bmp(padded(GREY[::-1]), 8, more=greys(FULL)), GREY),
    "inverted palette": (bmp(padded(GREY[::-1]), 8, more=greys(255 - FULL)), 255 - GREY),
    "colour palette": (
        bmp(padded(GREY[::-1]), 8, more=np.pad(COLOURS[:, ::-1], ((0, 0), (0, 1))).tobytes()),
        COLOURS[GREY],
    ),
    "run lengths": (bmp(run_lengths(GREY[::-1]), 8, compression=1, more=greys(FULL)), GREY),
    "1 bit": (
        bmp(padded(packed(top(1)[::-1], 1)), 1, more=greys(FULL[::-255])),
        255 - spread(top(1), 1),
    ),
    "4 bits": (bmp(padded(packed(top(4)[::-1], 4)), 4, more=greys(FULL[::17])), spread(top(4), 4)),
    "16 bits": (bmp(padded(SHORT[::-1]), 16), (RGB >> 3).astype(int) * 255 // 31),
    "32 bits": (bmp(np.dstack([BGR, GREY])[::-1].tobytes(), 32), RGB),
}

# --- NumPy and NIfTI -----------------------------------------------------------------------------


def npy(pixels: np.ndarray) -> Write:
    return lambda path: np.save(path, pixels)


ARRAYS: dict[str, tuple[Write, np.ndarray]] = {
    "columns first": (npy(np.asfortranarray(DEEP)), DEEP),
    "big-endian": (npy(DEEP.astype(">i2")), DEEP),
    "every second pixel": (npy(DEEP[::2, ::2]), DEEP[::2, ::2]),
    "booleans": (npy(DARK), spread(DARK, 1)),
    "half floats": (npy(FLOAT.astype(np.float16)), FLOAT.astype(np.float16)),
    "signed bytes": (npy(GREY.view(np.int8)), GREY.view(np.int8)),
    "colour, columns first": (npy(np.asfortranarray(RGB)), RGB),
}


def nifti(pixels: np.ndarray, order: str = "<", slope: float = 1, offset: float = 0) -> Write:
    """A NIfTI in the byte order given, whose header scales the stored values."""

    def write(path: Path) -> None:
        header = Nifti1Header(endianness=order)
        header.set_data_dtype(pixels.dtype)
        header.set_data_shape(pixels.shape)
        header.set_data_offset(352)
        header.set_slope_inter(slope, offset)
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(order="F")
        path.write_bytes((header.binaryblock + bytes(4)) + data)
        np.testing.assert_allclose(load(path).get_fdata(), pixels * slope + offset, rtol=1e-6)

    return write


NIFTIS: dict[str, tuple[Write, np.ndarray]] = {
    "plain": (nifti(DEEP), DEEP),
    "big-endian": (nifti(DEEP.astype(np.int16), ">"), DEEP),
    "floats, big-endian": (nifti(FLOAT, ">"), FLOAT),
    "scaled": (nifti(DEEP.astype(np.int16), slope=2, offset=-1000), DEEP.astype(int) * 2 - 1000),
    "scaled by a fraction": (nifti(DEEP, slope=0.5, offset=0.25), DEEP * 0.5 + 0.25),
    "negative slope": (nifti(DEEP.astype(np.int16), slope=-1), -DEEP.astype(int)),
}

LOSSY = {"CMYK", "CMYK, inverted as Adobe does", "YCCK, inverted as Adobe does", "16 bits"}


TABLES: dict[str, dict[str, Any]] = {
    **{"tif": TIFFS, "png": PNGS, "jpg": JPEGS, "bmp": BMPS},
    **{"npy": ARRAYS, "nii": NIFTIS},
}


@pytest.mark.parametrize(
    ("extension", "name", "write", "expected"),
    [
        pytest.param(extension, name, *row, id=f"{extension}: {name}")
        for extension, table in TABLES.items()
        for name, row in table.items()
    ],
)
def test_odd_files_hold_what_was_written(
    tmp_path: Path, extension: str, name: str, write: Write, expected: np.ndarray | str
) -> None:
    path = tmp_path / f"a.{extension}"
    write(path)
    (pixels,) = read_scan(path).pixels
    if isinstance(expected, str):
        with Image.open(path) as image:
            expected = np.asarray(image)
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels, expected.astype(float), atol=6 if name in LOSSY else 0)


NAN = np.where(DARK, np.nan, FLOAT)

REFUSED: dict[str, tuple[Write, str]] = {
    "nan.tif": (tiff(NAN), "holds NaN or infinite values"),
    "complex.tif": (tiff(FLOAT.astype(np.complex64)), "holds complex numbers"),
    "lab.tif": (pillow(SMOOTH, "LAB"), "is a TIFF of a colour model that is not read"),
    "ycbcr.tif": (
        tiff(SMOOTH, photometric="ycbcr"),
        "is a TIFF of a colour model that is not read",
    ),
    "float.tif": (tiff(FLOAT, photometric="miniswhite"), "stores signed values with white as zero"),
    "deep.jpg": (
        by(jpeg_encode, DEEP, bitspersample=12),
        "is damaged, or a PNG, JPEG or BMP of a kind",
    ),
    "ls.jpg": (by(jpegls_encode, GREY), "is damaged, or a PNG, JPEG or BMP of a kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_files_that_are_not_read_are_named(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(BadScan, match=f"{name} {message}"):
        read_scan(tmp_path / name)
