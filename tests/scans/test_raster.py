"""PNG, JPEG, BMP and TIFF, good and bad."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image

from fanogan.scans import (
    AlphaDropped,
    BadScan,
    ConvertedToRGB,
    FirstFrameOnly,
    GreyStoredAsColour,
    read_scan,
)
from fanogan.scans.tiff import is_stack

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
GREY16 = GREY.astype(np.uint16) * 257
RGB = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY_AS_RGB = np.stack([GREY] * 3, axis=-1)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def png_declaring(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header declares any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
@pytest.mark.parametrize("pixels", [GREY, RGB])
def test_lossless_formats_give_the_pixels_back(
    tmp_path: Path, extension: str, pixels: np.ndarray
) -> None:
    scan = read_scan(save(tmp_path / f"a.{extension}", pixels))
    np.testing.assert_array_equal(scan.pixels, pixels[None])
    assert scan.pixels.dtype == np.uint8
    assert (scan.name, scan.group) == (f"a.{extension}", f"a.{extension}")
    assert (scan.is_volume, scan.notes, scan.spacing) == (False, (), (None, None, None))


def test_sixteen_bits_stay_sixteen(tmp_path: Path) -> None:
    for path in (save(tmp_path / "a.png", GREY16), save(tmp_path / "a.tif", GREY16)):
        scan = read_scan(path)
        assert scan.pixels.dtype == np.uint16
        np.testing.assert_array_equal(scan.pixels[0], GREY16)


def test_sixteen_bit_colour_png_keeps_all_bits(tmp_path: Path) -> None:
    pixels = np.stack([GREY16, GREY16 // 2 + 1, GREY16 // 3], axis=-1)
    (tmp_path / "a.png").write_bytes(png_encode(pixels))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.png").pixels[0], pixels)


def test_alpha_is_dropped_with_a_note(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.png", np.dstack([RGB, GREY])))
    np.testing.assert_array_equal(scan.pixels[0], RGB)
    assert scan.notes == (AlphaDropped(),)
    grey = read_scan(save(tmp_path / "b.png", Image.fromarray(np.dstack([GREY, 255 - GREY]), "LA")))
    np.testing.assert_array_equal(grey.pixels[0], GREY)
    assert grey.notes == (AlphaDropped(),)
    for name, pixels, colour in (("c.png", GREY, 7), ("d.png", RGB, (1, 2, 3))):
        scan = read_scan(save(tmp_path / name, pixels, transparency=colour))
        np.testing.assert_array_equal(scan.pixels[0], pixels)
        assert scan.notes == (AlphaDropped(),)


def test_equal_channels_are_grey_with_a_note(tmp_path: Path) -> None:
    for path in (save(tmp_path / "a.png", GREY_AS_RGB), save(tmp_path / "a.tif", GREY_AS_RGB)):
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.pixels, GREY[None])
        assert scan.notes == (GreyStoredAsColour(),)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(GREY > 127)
    for path in (save(tmp_path / "a.png", image), save(tmp_path / "a.tif", image)):
        scan = read_scan(path)
        assert scan.pixels.dtype == np.uint8
        np.testing.assert_array_equal(scan.pixels[0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("extension", ["png", "tif", "bmp"])
def test_palette_is_looked_up(tmp_path: Path, extension: str) -> None:
    image = Image.fromarray(RGB).quantize(16)
    scan = read_scan(save(tmp_path / f"a.{extension}", image))
    np.testing.assert_array_equal(scan.pixels[0], np.asarray(image.convert("RGB")))
    assert ConvertedToRGB("palette") in scan.notes


def test_jpeg_is_turned_as_exif_says(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16) * 8, np.arange(32) * 4).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = read_scan(save(tmp_path / "a.jpg", smooth, quality=95)).pixels[0]
    turned = read_scan(save(tmp_path / "b.jpg", smooth, quality=95, exif=exif)).pixels[0]
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cmyk = Image.fromarray(RGB).convert("CMYK")
    for path in (save(tmp_path / "a.jpg", cmyk, quality=100), save(tmp_path / "a.tif", cmyk)):
        scan = read_scan(path)
        assert scan.pixels.shape == (1, 20, 30, 3)
        assert scan.notes == (ConvertedToRGB("CMYK"),)
    assert abs(scan.pixels[0].astype(int) - RGB).max() <= 2


def test_multi_page_tiff_is_a_volume(tmp_path: Path) -> None:
    stack = np.stack([GREY16, GREY16[::-1], GREY16 // 2])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", compression="lzw")
    scan = read_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.pixels, stack)
    assert scan.is_volume


@pytest.mark.parametrize(("unit", "length"), [("mm", 1), ("um", 1000), ("micron", 1000)])
def test_spacing_that_imagej_wrote_is_read(tmp_path: Path, unit: str, length: float) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 12, 10), dtype=np.uint8)
    scale = {"imagej": True, "resolution": (1 / (0.0114 * length), 1 / (0.00387 * length))}
    known = {"axes": "ZYX", "unit": unit}
    metadata = {**known, "spacing": 0.12 * length}
    tifffile.imwrite(tmp_path / "a.tif", stack, **scale, metadata=metadata)
    scan = read_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.pixels, stack)
    assert scan.spacing == pytest.approx((0.12, 0.00387, 0.0114), rel=1e-6)
    tifffile.imwrite(tmp_path / "b.tif", stack, **scale, metadata=known)
    assert read_scan(tmp_path / "b.tif").spacing[0] is None
    tifffile.imwrite(tmp_path / "c.tif", stack, **scale, metadata={**metadata, "unit": "inch"})
    assert read_scan(tmp_path / "c.tif").spacing == (None, None, None)
    tifffile.imwrite(tmp_path / "d.tif", stack, resolution=(300, 300), photometric="minisblack")
    assert read_scan(tmp_path / "d.tif").spacing == (None, None, None)


def test_imagej_writes_a_micrometre_as_an_escape(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 12, 10), dtype=np.uint8)
    metadata = {"axes": "ZYX", "unit": "\\u00B5m", "spacing": 120.0}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata=metadata)
    assert read_scan(tmp_path / "a.tif").spacing[0] == pytest.approx(0.12)


def test_stacks_are_told_from_pictures(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 12, 10), dtype=np.uint8)
    for name, pixels in (("stack.tif", stack), ("picture.tif", stack[0])):
        tifffile.imwrite(tmp_path / name, pixels, photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "preview.tif") as writer:
        writer.write(stack[0], photometric="minisblack")
        writer.write(stack[0, ::2, ::2], photometric="minisblack", subfiletype=1)
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + bytes(3))
    found = {path.name: is_stack(path) for path in tmp_path.iterdir()}
    assert found.pop("stack.tif") and not any(found.values()) and len(found) == 3


def test_float_tiff_stays_float32(tmp_path: Path) -> None:
    pixels = GREY / np.float32(7)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "b.tif", pixels.astype(np.float64))
    for name in ("a.tif", "b.tif"):
        scan = read_scan(tmp_path / name)
        assert scan.pixels.dtype == np.float32
        np.testing.assert_array_equal(scan.pixels[0], pixels)


def test_planar_rgb_and_white_is_zero_tiff(tmp_path: Path) -> None:
    planes = np.moveaxis(RGB, -1, 0)
    tifffile.imwrite(tmp_path / "p.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_scan(tmp_path / "p.tif").pixels[0], RGB)
    tifffile.imwrite(tmp_path / "w.tif", GREY16, photometric="miniswhite")
    np.testing.assert_array_equal(read_scan(tmp_path / "w.tif").pixels[0], 65535 - GREY16)


def test_many_channels_are_refused(tmp_path: Path) -> None:
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([RGB, RGB]), **options)
    with pytest.raises(BadScan, match=r"a\.tif has 6 channels"):
        read_scan(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([RGB, GREY]), **options)
    with pytest.raises(BadScan, match=r"b\.tif has 4 channels"):
        read_scan(tmp_path / "b.tif")


def test_pages_that_differ_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY)
        writer.write(GREY[:10])
    with pytest.raises(BadScan, match=r"a\.tif has pages of different sizes"):
        read_scan(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_truncated_file_is_named(tmp_path: Path, extension: str, share: float) -> None:
    path = save(tmp_path / f"cut.{extension}", RGB)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadScan, match=rf"cut\.{extension} is damaged or cut short"):
        read_scan(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("sides", [(30_000, 30_000), (10_001, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_from_its_header(
    tmp_path: Path, sides: tuple[int, int]
) -> None:
    with pytest.raises(BadScan, match=r"bomb\.png declares .* more than the 100 megapixels"):
        read_scan(png_declaring(tmp_path / "bomb.png", *sides))


def test_a_tiff_whose_pages_go_round_in_circles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "round.tif"
    tifffile.imwrite(path, np.stack([GREY, GREY]), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = (page.aspage() for page in file.pages)
    with path.open("r+b") as raw:
        raw.seek(last.offset + 2 + 12 * len(last.tags))  # where the next page's place is told
        raw.write(first.offset.to_bytes(4, "little"))
    assert is_stack(path)
    with pytest.raises(BadScan, match=r"round\.tif is damaged"):
        read_scan(path)


def test_a_tiff_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, GREY)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(30_000, dtype="I")
    with pytest.raises(BadScan, match="30,000×30,000 pixels, more than the 100 megapixels"):
        read_scan(path)


def test_constant_and_nan_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadScan, match=r"flat\.png has the same value in every pixel"):
        read_scan(save(tmp_path / "flat.png", np.full((8, 8), 7, np.uint8)))
    with pytest.raises(BadScan, match=r"red\.png has the same value in every pixel"):
        read_scan(save(tmp_path / "red.png", np.full((8, 8, 3), (255, 0, 0), np.uint8)))
    pixels = GREY.astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        pixels[3, 4] = value
        tifffile.imwrite(tmp_path / "nan.tif", pixels)
        with pytest.raises(BadScan, match=r"nan\.tif holds NaN or infinite"):
            read_scan(tmp_path / "nan.tif")


def test_content_decides_the_format(tmp_path: Path) -> None:
    path = save(tmp_path / "really_png.jpg", GREY, format="PNG")
    np.testing.assert_array_equal(read_scan(path).pixels[0], GREY)


def test_real_scans_are_read(data_folder: Path) -> None:
    for pattern, shape in (
        ("oct/chiu_dme/bscans/*.png", (1, 496, 768)),
        ("oct/spectralis/healthy_subject1/*.tif", (1, 496, 512)),
        ("chest_xray/NORMAL/*.jpeg", (1, 224, 224)),
    ):
        paths = sorted(data_folder.glob(pattern))[:2]
        if not paths:
            pytest.skip(f"no {pattern} in the folder of real scans")
        assert {read_scan(path).pixels.shape for path in paths} <= {shape, (1, 768, 768)}


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    first = np.arange(256, dtype=np.uint8).reshape(16, 16)
    others = [Image.fromarray(255 - first)]
    Image.fromarray(first).save(tmp_path / "a.png", save_all=True, append_images=others)
    scan = read_scan(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.pixels[0], first)
    assert scan.notes == (FirstFrameOnly(of=2),)
