"""TIFF: frames without directories, absent pixels, channels; orientation, also of PNG and JPEG."""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image, ImageOps

from fanogan.scans import BadScan, read_scan
from fanogan.scans.tiff import is_stack

STACK = np.random.default_rng(0).integers(1, 256, (20, 32, 24), dtype=np.uint8)
GREY = {"photometric": "minisblack"}
IMAGEJ, OME = {"imagej": True, "metadata": {"axes": "ZYX"}}, {**GREY, "metadata": {"axes": "ZYX"}}
ONE_DIRECTORY = {"imagej.tif": IMAGEJ, "shaped.tif": GREY, "a.ome.tif": OME}


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">f4"])
@pytest.mark.parametrize("name", ONE_DIRECTORY)
def test_frames_that_follow_one_directory_are_read(tmp_path: Path, name: str, dtype: str) -> None:
    stack, order = STACK.astype(dtype), ">" if dtype[0] == ">" else "<"
    options = {**ONE_DIRECTORY[name], "byteorder": order, "truncate": True}
    if "imagej" in options and order == "<":
        del options["byteorder"]
    tifffile.imwrite(tmp_path / name, stack, **options)
    with tifffile.TiffFile(tmp_path / name) as file:
        assert len(file.pages) == 1
    scan = read_scan(tmp_path / name)
    np.testing.assert_array_equal(scan.pixels, stack)
    assert scan.is_volume and is_stack(tmp_path / name)


@pytest.mark.parametrize("name", ONE_DIRECTORY)
def test_a_stack_that_lost_its_last_frame_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tifffile.imwrite(path, STACK, **ONE_DIRECTORY[name], truncate=True)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - STACK[0].size)
    # OME's description stands at the end, and is gone too.
    problem = "is damaged or cut" if "ome" in name else "declares 20 frames and holds 1: copy it"
    with pytest.raises(BadScan, match=rf"{name} {problem}"):
        read_scan(path)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_file_cut_between_two_pages_is_refused(tmp_path: Path, cut: int) -> None:
    first, *others = map(Image.fromarray, STACK)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages[5].offset
    with (tmp_path / "a.tif").open("r+b") as file:
        file.truncate(end - cut)
    with pytest.raises(BadScan, match=r"a\.tif is damaged or cut short"):
        read_scan(tmp_path / "a.tif")


def test_white_is_zero_holds_for_frames_without_directory(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="miniswhite", truncate=True)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").pixels, 255 - STACK)


def test_frames_come_in_the_order_of_the_ome_description(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK[:3], **OME)
    xml = tifffile.tiffcomment(path)
    one = '<TiffData IFD="{}" FirstZ="{}" PlaneCount="1"/>'
    planes = "".join(one.format(2 - z, z) for z in range(3))
    tifffile.tiffcomment(path, xml.replace('<TiffData IFD="0" PlaneCount="3"/>', planes))
    np.testing.assert_array_equal(tifffile.imread(path), STACK[2::-1])
    np.testing.assert_array_equal(read_scan(path).pixels, STACK[2::-1])


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_strip_that_is_absent_is_not_read_as_black(
    tmp_path: Path, tag: str, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], rowsperstrip=4, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        values = list(file.pages[0].tags[tag].value)
        values[2] = 0
        file.pages[0].tags[tag].overwrite(values)
    with pytest.raises(BadScan, match=r"a\.tif lacks 1 of the 8 strips or tiles"):
        read_scan(path)


def test_nine_of_6144_tiles_are_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (64 * 16, 96 * 16), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("TileOffsets", "TileByteCounts"):
            file.pages[0].tags[tag].overwrite(file.pages[0].tags[tag].value[:9])
    with pytest.raises(BadScan, match=r"a\.tif lacks 6,135 of the 6,144 strips or tiles"):
        read_scan(path)


def test_a_strip_declared_shorter_than_its_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0])
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(STACK[0].size // 2)
    with pytest.raises(BadScan, match=r"a\.tif is damaged"):
        read_scan(path)


def test_a_jpeg_strip_that_is_cut_short_is_not_read_as_grey(tmp_path: Path) -> None:
    path, smooth = tmp_path / "a.tif", np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    tifffile.imwrite(path, smooth, compression="jpeg")
    assert read_scan(path).pixels.shape == (1, 64, 64)
    with tifffile.TiffFile(path, mode="r+") as file:
        length = file.pages[0].tags["StripByteCounts"]
        length.overwrite(length.value[0] * 3 // 4)
    with pytest.raises(BadScan, match=r"a\.tif is damaged"):
        read_scan(path)


@pytest.mark.parametrize("kind", ["imagej", "ome", "shaped"])
@pytest.mark.parametrize(
    ("axes", "shape"), [("CYX", (3,)), ("ZCYX", (5, 2)), ("CZYX", (2, 5)), ("TCYX", (5, 2))]
)
@pytest.mark.parametrize("truncate", [False, True])
def test_channels_do_not_become_slices(
    tmp_path: Path, kind: str, axes: str, shape: tuple[int, ...], truncate: bool
) -> None:
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    if kind == "imagej":
        axes = {"CZYX": "ZCYX"}.get(axes, axes)  # the only order that ImageJ has
    count = int(np.prod(shape))
    options = {"imagej": True} if kind == "imagej" else GREY
    pixels = STACK[:count].reshape(*shape, *STACK.shape[1:])
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, truncate=truncate, **options)
    with pytest.raises(BadScan, match=rf"holds channels beside each other \(axes {axes}\): save"):
        read_scan(path)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_of_several_axes_one_may_count_frames(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    options = {"imagej": True} if kind == "imagej" else GREY
    series = STACK.reshape(4, 5, *STACK.shape[1:])
    tifffile.imwrite(path, series, metadata={"axes": "TZYX"}, **options)
    with pytest.raises(BadScan, match="has the axes TZYX, more than the frames of one volume"):
        read_scan(path)
    known = {"axes": "TYX", "unit": "mm", "spacing": 0.5}
    tifffile.imwrite(path, STACK, metadata=known, **options)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.pixels, STACK)
    assert scan.is_volume and scan.spacing[0] is None  # a distance between slices, not in time


def test_colour_frames_stay_colour(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    planes = np.moveaxis(colour, -1, 1)
    rgb, planar = {"photometric": "rgb"}, {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "imagej.tif", colour, imagej=True, metadata={"axes": "ZYXS"})
    tifffile.imwrite(tmp_path / "a.ome.tif", colour, metadata={"axes": "ZYXS"}, **rgb)
    tifffile.imwrite(tmp_path / "b.ome.tif", planes, metadata={"axes": "ZSYX"}, **planar)
    tifffile.imwrite(tmp_path / "plain.tif", planes, metadata=None, **planar)
    tifffile.imwrite(tmp_path / "one.tif", planes, truncate=True, **planar)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_scan(path).pixels, colour)


def test_unnamed_axes_are_frames_as_a_viewer_shows_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK.reshape(4, 5, *STACK.shape[1:]), **GREY)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").pixels, STACK)
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for frame in STACK:
            writer.write(frame)
    np.testing.assert_array_equal(read_scan(tmp_path / "b.tif").pixels, STACK)


def test_several_images_of_an_ome_file_are_no_volume(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for frame in STACK[:2]:
            writer.write(frame)
    with pytest.raises(BadScan, match=r"a\.ome\.tif holds several OME images"):
        read_scan(tmp_path / "a.ome.tif")


def test_a_part_of_an_ome_image_is_not_read_with_the_others(tmp_path: Path) -> None:
    paths = [tmp_path / "1.ome.tif", tmp_path / "2.ome.tif"]
    uuids = [f"urn:uuid:{i}1111111-1111-1111-1111-111111111111" for i in (1, 2)]
    data = '<TiffData IFD="0" FirstZ="{}" PlaneCount="2"><UUID FileName="{}">{}</UUID></TiffData>'
    parts = "".join(
        data.format(2 * i, path.name, uuid)
        for i, (path, uuid) in enumerate(zip(paths, uuids, strict=True))
    )
    for i, path in enumerate(paths):
        tifffile.imwrite(path, STACK[2 * i :][:2], **OME)
        xml = tifffile.tiffcomment(path).replace('SizeZ="2"', 'SizeZ="4"')
        xml = re.sub(' UUID="[^"]*"', f' UUID="{uuids[i]}"', xml)
        tifffile.tiffcomment(path, re.sub("<TiffData.*?/>", parts, xml))
    np.testing.assert_array_equal(tifffile.imread(paths[0]), STACK[:4])
    for path in paths:
        with pytest.raises(BadScan, match=rf"{path.name} holds several OME images, or a part"):
            read_scan(path)


def test_an_ome_file_that_declares_a_billion_planes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, **OME)
    xml = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, xml.replace('SizeZ="20"', 'SizeZ="2000000000"'))
    with pytest.raises(BadScan, match=r"a\.ome\.tif is damaged"):
        read_scan(path)


def test_a_sample_that_is_not_called_alpha_is_not_dropped(tmp_path: Path) -> None:
    pixels = np.stack(list(STACK[:4]), axis=-1)
    rgb = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=["unspecified"], **rgb)
    grey = {**GREY, "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(tmp_path / "b.tif", pixels[..., :2], **grey)
    for name, count in (("a.tif", 4), ("b.tif", 2)):
        with pytest.raises(BadScan, match=rf"{name} has {count} channels, some of them neither"):
            read_scan(tmp_path / name)
    tifffile.imwrite(tmp_path / "c.tif", pixels, extrasamples=["unassalpha"], **rgb)
    np.testing.assert_array_equal(read_scan(tmp_path / "c.tif").pixels[0], pixels[..., :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey.tif", "grey.png", "colour.png", "deep.png", "deep.tif"])
def test_the_orientation_is_applied_as_pillow_does(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    grey = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5)
    stored = {
        "grey": grey,
        "colour": np.stack([grey, grey + 1, grey + 2], axis=-1),
        "deep": grey.astype(np.uint16) * 257,
    }[kind.partition(".")[0]]
    image, path = Image.fromarray(stored), tmp_path / kind
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_scan(path).pixels[0], expected)
    assert expected.shape[:2] == ((5, 6) if orientation > 4 else (6, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_late", [False, True])
def test_a_16_bit_colour_png_is_turned_too(tmp_path: Path, orientation: int, is_late: bool) -> None:
    pixels = np.arange(6 * 5 * 3, dtype=np.uint16).reshape(6, 5, 3) * 700
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    data = png_encode(pixels)
    place = data.index(b"IEND") - 4 if is_late else 8 + 25  # at the end, or after the header
    (tmp_path / "a.png").write_bytes(data[:place] + chunk + data[place:])
    channels = [Image.fromarray(channel) for channel in np.moveaxis(pixels, -1, 0)]
    for channel in channels:
        channel.getexif()[0x0112] = orientation
    expected = np.stack([np.asarray(ImageOps.exif_transpose(c)) for c in channels], axis=-1)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.png").pixels[0], expected)


def test_a_phones_jpeg_of_two_pictures_is_turned(tmp_path: Path) -> None:
    image, exif = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8) * 4, (16, 1))), Image.Exif()
    exif[0x0112] = 6
    two = {"format": "MPO", "save_all": True, "append_images": [image]}
    image.save(tmp_path / "a.jpg", exif=exif, **two)
    with Image.open(tmp_path / "a.jpg") as saved:
        expected = np.asarray(ImageOps.exif_transpose(saved))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.jpg").pixels[0], expected)


def test_the_spacing_turns_with_the_picture(tmp_path: Path) -> None:
    scale = {"imagej": True, "resolution": (1 / 0.02, 1 / 0.01)}
    metadata = {"axes": "ZYX", "unit": "mm", "spacing": 0.5}
    tag = [(274, "H", 1, 6, False)]
    tifffile.imwrite(tmp_path / "a.tif", STACK, metadata=metadata, extratags=tag, **scale)
    scan = read_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.pixels, np.rot90(STACK, -1, axes=(1, 2)))
    assert scan.spacing == pytest.approx((0.5, 0.02, 0.01))


def test_a_palette_is_limited_by_its_colours(tmp_path: Path) -> None:
    path, colours = tmp_path / "a.tif", np.zeros((3, 256), np.uint16)
    with tifffile.TiffWriter(path) as writer:
        for _ in range(14):
            writer.write(STACK[0], photometric="palette", colormap=colours, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags["ImageLength"].overwrite(10_000)
            page.tags["ImageWidth"].overwrite(10_000)
    with pytest.raises(BadScan, match=r"a\.tif would take 4\.2 GB once decoded, more than"):
        read_scan(path)
