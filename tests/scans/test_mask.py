"""Ground-truth masks as segmentation tools and picture editors write them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan.scans import BadScan, LabelsBelowWhite, MaskInAlpha, Note, SoftMask, marked, read_mask

LABELS = np.zeros((24, 20), np.uint8)
LABELS[2:6, 2:6], LABELS[8:12, 2:6], LABELS[14:20, 3:15] = 1, 2, 3
DISC = np.hypot(*(np.mgrid[:40, :40] - 20)) < 12
SOFT = np.asarray(
    Image.fromarray(np.uint8(255) * DISC).resize((200, 200), Image.Resampling.BICUBIC)
)


def save(path: Path, values: np.ndarray) -> Path:
    """Write a mask; the extension says how."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="minisblack")
    elif path.suffix == ".gz":
        nibabel.save(nibabel.Nifti1Image(values[..., None], None), path)
    else:
        Image.fromarray(values).save(path)
    return path


def voc_palette(count: int = 256) -> list[int]:
    """The colours of the PASCAL VOC development kit, which labelme writes too: black first."""
    colours = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        colours += channels
    return colours


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.npy", "m.bmp", "m.nii.gz"])
@pytest.mark.parametrize("values", [(1,), (1, 2, 3), (127, 255), (3, 255, 254)])
def test_every_value_but_zero_is_marked_in_every_format(
    tmp_path: Path, name: str, values: tuple[int, ...]
) -> None:
    lookup = np.array([0, *values, values[0], values[0]], np.uint8)
    noted: list[Note] = []
    mask = read_mask(save(tmp_path / name, lookup[LABELS]), on_note=noted.append)
    np.testing.assert_array_equal(mask[0], LABELS > 0)
    assert noted == [LabelsBelowWhite(255)] * (255 in values)  # a blurred edge looks like this too


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64, ">i4"]
)
def test_labels_are_chosen_whatever_their_type(tmp_path: Path, dtype: object) -> None:
    path = save(tmp_path / "m.npy", LABELS.astype(dtype))
    np.testing.assert_array_equal(read_mask(path)[0], LABELS > 0)
    np.testing.assert_array_equal(read_mask(path, [1, 3])[0], (LABELS == 1) | (LABELS == 3))
    assert not read_mask(path, [7]).any()


def test_the_number_of_a_lesion_or_a_region_loses_nothing(tmp_path: Path) -> None:
    numbers = np.arange(200, dtype=np.uint8).reshape(10, 20)  # connected components
    assert read_mask(save(tmp_path / "m.png", numbers)).sum() == 199
    regions = np.array([[0, 2, 1003, 2035], [0, 0, 17, 251]], np.int32)  # FreeSurfer's
    assert read_mask(save(tmp_path / "m.npy", regions)).sum() == 5
    numbers = np.arange(0, 100_000, 5000, dtype=np.int32).reshape(4, 5)
    assert read_mask(save(tmp_path / "m.npy", numbers)).sum() == 19
    cityscapes = np.array([[*range(34), 255]], np.uint8).repeat(2, axis=0)
    assert read_mask(save(tmp_path / "c.png", cityscapes)).sum() == 2 * 34


@pytest.mark.parametrize("name", ["m.png", "m.gif.png", "m.tif"])
def test_the_index_of_a_palette_is_the_label(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "m.tif":
        colours = np.array(voc_palette(), np.uint16).reshape(256, 3).T * 257
        tifffile.imwrite(path, LABELS, photometric="palette", colormap=colours)
    else:
        image = Image.fromarray(LABELS).convert("L")
        image.putpalette(voc_palette(4 if name == "m.png" else 256))
        image.save(path, **({"transparency": 0} if name == "m.gif.png" else {}))
    np.testing.assert_array_equal(read_mask(path)[0], LABELS > 0)
    np.testing.assert_array_equal(read_mask(path, [2])[0], LABELS == 2)


def test_a_palette_that_does_not_begin_with_black_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray((LABELS == 0).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])  # as an editor may sort its colours
    image.save(tmp_path / "m.png")
    with pytest.raises(BadScan, match=r"m\.png has a palette whose first colour isn't black"):
        read_mask(tmp_path / "m.png")


def test_labels_of_few_bits_are_chosen_by_what_was_written(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    # PNG's own definition: two bits a pixel, four pixels a byte, a filter byte before each row.
    header = struct.pack(">IIBBBBB", 4, 2, 2, 0, 0, 0, 0)
    rows = bytes([0, 0b00_01_10_11, 0, 0b11_00_00_00])
    path = tmp_path / "m.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    values = np.array([[0, 1, 2, 3], [3, 0, 0, 0]])
    np.testing.assert_array_equal(read_mask(path, [1, 3])[0], np.isin(values, [1, 3]))
    Image.fromarray(LABELS > 0).save(tmp_path / "one.png", bits=1)
    tifffile.imwrite(tmp_path / "one.tif", LABELS > 0, photometric="minisblack")
    np.save(tmp_path / "one.npy", LABELS > 0)
    for name in ("one.png", "one.tif", "one.npy"):
        np.testing.assert_array_equal(read_mask(tmp_path / name)[0], LABELS > 0)
        np.testing.assert_array_equal(read_mask(tmp_path / name, [1])[0], LABELS > 0)


@pytest.mark.parametrize("name", ["m.png", "m.jpg", "m.tif", "m.npy"])
def test_a_soft_mask_says_its_threshold(tmp_path: Path, name: str) -> None:
    noted: list[Note] = []
    mask = read_mask(save(tmp_path / name, SOFT), on_note=noted.append)[0]
    assert noted == [SoftMask(127.5, 255)]
    wanted = DISC.repeat(5, axis=0).repeat(5, axis=1)
    assert (mask != wanted).mean() < 0.01
    assert (SOFT > 0).sum() > 1.05 * wanted.sum()  # what non-zero would mark


def test_probabilities_count_above_a_half_whatever_the_largest(tmp_path: Path) -> None:
    shares = np.linspace(0, 0.8, 40 * 40, dtype=np.float32).reshape(40, 40)
    noted: list[Note] = []
    path = save(tmp_path / "m.npy", shares)
    np.testing.assert_array_equal(read_mask(path, on_note=noted.append)[0], shares > 0.5)
    assert noted == [SoftMask(0.5, 1)]
    assert not marked(shares / 2, "a mask")[0].any()
    with pytest.raises(BadScan, match=r"m\.npy is a soft or lossy mask"):
        read_mask(path, [1])


def test_jpeg_of_small_labels_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    with pytest.raises(BadScan, match=r"m\.jpg is a JPEG with values up to"):
        read_mask(save(tmp_path / "m.jpg", LABELS * 20))
    with pytest.raises(BadScan, match="soft or lossy"):
        read_mask(save(tmp_path / "m.jpg", LABELS * 80), [80])
    assert not read_mask(save(tmp_path / "m.jpg", LABELS * 0)).any()


def test_a_mask_in_the_alpha_channel_is_used(tmp_path: Path) -> None:
    alpha = np.where(LABELS > 0, 255, 0).astype(np.uint8)
    for colour in ((255, 0, 0), (0, 0, 0), (255, 255, 255)):
        picture = np.dstack([np.full((24, 20, 3), colour, np.uint8), alpha])
        noted: list[Note] = []
        mask = read_mask(save(tmp_path / "m.png", picture), on_note=noted.append)
        np.testing.assert_array_equal(mask[0], LABELS > 0)
        assert noted == [MaskInAlpha()]
    grey = np.dstack([np.zeros_like(alpha), alpha])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "la.png", grey))[0], LABELS > 0)


def test_alpha_that_is_opaque_or_agrees_leaves_the_grey(tmp_path: Path) -> None:
    grey, opaque = LABELS * 50, np.full_like(LABELS, 255)
    for alpha in (opaque, np.where(LABELS > 0, opaque, 0)):
        path = save(tmp_path / "m.png", np.dstack([grey, grey, grey, alpha]))
        np.testing.assert_array_equal(read_mask(path)[0], LABELS > 0)
        np.testing.assert_array_equal(read_mask(path, [50])[0], LABELS == 1)
    path = save(tmp_path / "m.png", np.dstack([grey, grey, grey, np.where(LABELS > 1, opaque, 0)]))
    with pytest.raises(BadScan, match=r"m\.png marks other pixels in its alpha channel"):
        read_mask(path)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    colours = np.dstack([LABELS, LABELS * 2, LABELS * 3])
    negative, fractions = LABELS.astype(np.int16) - 1, LABELS * np.float32(0.7)
    for values, message in (
        (colours, "in colours"),
        (negative, "holds negative values"),
        (fractions, "holds fractions up to 2.1"),
        (np.where(LABELS > 1, np.nan, 1.0), "NaN"),
    ):
        with pytest.raises(BadScan, match=rf"m\.npy.*{message}"):
            read_mask(save(tmp_path / "m.npy", values))
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "m.npy", negative), [0, 2])[0], np.isin(LABELS, [1, 3])
    )


def test_a_tiff_in_which_white_is_zero_is_refused_unless_its_writer_means_one(
    tmp_path: Path,
) -> None:
    tifffile.imwrite(tmp_path / "m.tif", LABELS > 0)  # white is zero, and tifffile says who wrote
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif")[0], LABELS > 0)
    stack = np.stack([LABELS > 0, LABELS > 1, LABELS > 2])
    tifffile.imwrite(tmp_path / "m.tif", stack, compression="zlib")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", [1]), stack)
    tifffile.imwrite(tmp_path / "m.tif", LABELS > 0, software="a fax")
    with pytest.raises(BadScan, match=r"m\.tif stores white as zero"):
        read_mask(tmp_path / "m.tif")


def test_labels_scaled_by_a_nifti_are_whole(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(LABELS[..., None].astype(np.float64), None)
    image.header.set_data_dtype(np.int16)  # nibabel spreads floats over the type, with a slope
    nibabel.save(image, tmp_path / "m.nii.gz")
    assert nibabel.load(tmp_path / "m.nii.gz").dataobj.slope != 1
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", [3])[0], LABELS == 3)
