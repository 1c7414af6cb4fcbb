"""NIfTI files, good and bad."""

import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fanogan.scans import BadScan, find_scans, read_mask, read_scan, read_scans

VOLUME = np.random.default_rng(0).integers(0, 900, (12, 10, 4)).astype(np.int16)


def save(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.25, 2.0, 1.0])), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_become_frames(tmp_path: Path, name: str) -> None:
    scan = read_scan(save(tmp_path / name, VOLUME))
    np.testing.assert_array_equal(scan.pixels, np.moveaxis(VOLUME, -1, 0))
    assert scan.pixels.dtype == np.int16
    assert scan.spacing == (2.0, 0.5, 0.25)
    assert scan.is_volume


def test_two_dimensions_and_single_slices_are_no_volume(tmp_path: Path) -> None:
    flat = read_scan(save(tmp_path / "a.nii", VOLUME[..., 0]))
    assert flat.pixels.shape == (1, 12, 10) and not flat.is_volume
    assert flat.spacing == (None, 0.5, 0.25)
    single = read_scan(save(tmp_path / "b.nii", VOLUME[..., :1]))
    assert single.pixels.shape == (1, 12, 10) and not single.is_volume
    trailing = read_scan(save(tmp_path / "c.nii", VOLUME[..., None]))
    assert trailing.pixels.shape == (4, 12, 10)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2, -1024], dtype="<f4").tobytes()
    path.write_bytes(data)
    whole = read_scan(path).pixels
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.moveaxis(VOLUME, -1, 0) * 2 - 1024)
    data[112:120] = np.array([0.5, 0.25], dtype="<f4").tobytes()
    path.write_bytes(data)
    fraction = read_scan(path).pixels
    assert fraction.dtype == np.float32
    np.testing.assert_allclose(fraction, np.moveaxis(VOLUME, -1, 0) * 0.5 + 0.25)


def test_units_become_millimetres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, np.diag([3.9, 11.0, 120.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert read_scan(tmp_path / "a.nii.gz").spacing == pytest.approx((0.12, 0.0039, 0.011))


def test_what_writers_leave_that_know_no_spacing_is_none(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    assert read_scan(tmp_path / "a.nii").spacing == (None, None, None)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_scan(tmp_path / "a.nii").spacing == (1, 1, 1)


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(VOLUME, np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").pixels, np.moveaxis(VOLUME, -1, 0))


def test_bad_content_is_refused(tmp_path: Path) -> None:
    series = np.stack([VOLUME, VOLUME], axis=-1)
    cases = [
        (series, r"4 dimensions \(12, 10, 4, 2\)"),
        (VOLUME.astype(np.complex64), "complex"),
        (np.zeros((3, 3, 3), np.int16), "same value"),
        (np.where(VOLUME > 500, np.nan, VOLUME).astype(np.float32), "NaN"),
    ]
    for values, message in cases:
        with pytest.raises(BadScan, match=rf"bad\.nii .*{message}"):
            read_scan(save(tmp_path / "bad.nii", values))


@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, VOLUME)
    data = path.read_bytes()
    for length in (20, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(BadScan, match=name.replace(".", r"\.")):
            read_scan(path)


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", VOLUME)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadScan, match="damaged"):
        read_scan(path)


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.nii", VOLUME)
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([30_000, 30_000, 4], dtype="<i2").tobytes()
    path.write_bytes(data)
    with pytest.raises(BadScan, match=r"bomb\.nii declares 30,000×30,000"):
        read_scan(path)
    data[42:48] = np.array([10_000, 10_000, 9], dtype="<i2").tobytes()
    data[112:116] = np.float32(0.5).tobytes()  # a slope, by which pixels become float64
    path.write_bytes(data)
    with pytest.raises(BadScan, match=r"7\.2 GB once decoded, more than the 4 GB that one file"):
        read_scan(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_no_room_is_made_for_pixels_that_a_file_does_not_hold(tmp_path: Path, name: str) -> None:
    kind = nibabel.Nifti1Pair if name == "a.hdr" else nibabel.Nifti1Image
    nibabel.save(kind(VOLUME, np.eye(4)), tmp_path / name)
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "rb") as file:
        data = bytearray(file.read())
    data[42:48] = np.array([10_000, 10_000, 9], dtype="<i2").tobytes()
    with opened(tmp_path / name, "wb") as file:
        file.write(data)
    tracemalloc.start()
    with pytest.raises(BadScan, match=f"{name} is damaged or cut short"):
        read_scan(tmp_path / name)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 10_000_000  # of the 1.8 GB that are declared


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_of_header_and_pixels_is_one_scan(tmp_path: Path, kind: type) -> None:
    nibabel.save(kind(VOLUME, np.diag([0.5, 0.25, 2.0, 1.0])), tmp_path / "a.img")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdr", "a.img"]
    (scan,) = read_scans(tmp_path)
    assert (scan.name, scan.spacing) == ("a.hdr", (2.0, 0.5, 0.25))
    np.testing.assert_array_equal(scan.pixels, np.moveaxis(VOLUME, -1, 0))
    with pytest.raises(BadScan, match=r"a\.img holds the pixels .*: give its header"):
        find_scans(tmp_path / "a.img")
    data = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(data[:-1])
    with pytest.raises(BadScan, match=r"a\.hdr is damaged or cut short"):
        read_scan(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(BadScan, match=r"a\.hdr is the header of a pair without its \.img"):
        read_scan(tmp_path / "a.hdr")


def test_other_files_called_hdr_and_img_are_no_scans(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", VOLUME)
    (tmp_path / "sky.hdr").write_bytes(b"#?RADIANCE\n" + bytes(500))
    (tmp_path / "cube.hdr").write_text("ENVI\nsamples = 10\n")
    (tmp_path / "disk.img").write_bytes(bytes(1000))
    assert [scan.name for scan in find_scans(tmp_path)] == ["a.nii"]


def test_compression_is_told_by_content(tmp_path: Path) -> None:
    expected = np.moveaxis(VOLUME, -1, 0)
    packed = save(tmp_path / "a.nii.gz", VOLUME).read_bytes()
    plain = save(tmp_path / "a.nii", VOLUME).read_bytes()
    (tmp_path / "a.nii").write_bytes(packed)
    (tmp_path / "a.nii.gz").write_bytes(plain)
    for name in ("a.nii", "a.nii.gz"):
        np.testing.assert_array_equal(read_scan(tmp_path / name).pixels, expected)


# --- a mask beside its image --------------------------------------------------------------------

MASK = np.zeros(VOLUME.shape, np.uint8)
MASK[2:7, 1:4, 1:3], MASK[9, 8, 3] = 1, 2
OBLIQUE = np.array(
    [[0.49, 0.05, 0.0, -12.0], [-0.1, 0.245, 0.0, 30.0], [0.0, 0.0, 2.0, 4.5], [0, 0, 0, 1]]
)


def pair(folder: Path, image_affine: np.ndarray, mask: nibabel.Nifti1Image) -> np.ndarray:
    """Write an image and a mask, and read the mask for it."""
    nibabel.save(nibabel.Nifti1Image(VOLUME, image_affine), folder / "v.nii.gz")
    nibabel.save(mask, folder / "m.nii.gz")
    return read_mask(folder / "m.nii.gz", image_affine=read_scan(folder / "v.nii.gz").affine)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LIP", "SAR", "PLI"])
@pytest.mark.parametrize("image_affine", [np.diag([0.5, 0.25, 2.0, 1.0]), OBLIQUE])
def test_a_mask_stored_in_another_orientation_is_laid_over_its_image(
    tmp_path: Path, image_affine: np.ndarray, codes: str
) -> None:
    straight = nibabel.Nifti1Image(MASK, image_affine)
    there = nibabel.orientations.axcodes2ornt(codes)
    turned = straight.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image_affine), there)
    )
    assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
    mask = pair(tmp_path, image_affine, turned)
    np.testing.assert_array_equal(np.moveaxis(mask, 0, -1), MASK > 0)


@pytest.mark.parametrize("change", ["spacing", "offset", "angle"])
def test_a_mask_on_another_grid_is_refused(tmp_path: Path, change: str) -> None:
    affine = OBLIQUE.copy()
    if change == "spacing":
        affine[:3, 0] *= 1.05
    elif change == "offset":
        affine[2, 3] += 1
    else:
        cosine, sine = np.cos(0.1), np.sin(0.1)
        affine[:2] = [[cosine, -sine], [sine, cosine]] @ affine[:2]
    with pytest.raises(BadScan, match=r"m\.nii\.gz lies [\d.]+ pixels beside its image"):
        pair(tmp_path, OBLIQUE, nibabel.Nifti1Image(MASK, affine))


def test_rounding_of_headers_is_no_other_grid(tmp_path: Path) -> None:
    mask = nibabel.Nifti1Image(MASK, OBLIQUE + 1e-5)
    np.testing.assert_array_equal(np.moveaxis(pair(tmp_path, OBLIQUE, mask), 0, -1), MASK > 0)


def test_without_an_affine_on_both_sides_pixels_are_paired_as_stored(tmp_path: Path) -> None:
    mirrored = nibabel.Nifti1Image(MASK[::-1], np.diag([-0.5, 0.25, 2.0, 1.0]))
    nibabel.save(mirrored, tmp_path / "m.nii")
    as_stored = np.moveaxis(MASK[::-1] > 0, -1, 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii", image_affine=None), as_stored)
    with pytest.raises(BadScan, match=r"m\.nii says how it lies in space.*image_affine=read_scan"):
        read_mask(tmp_path / "m.nii")
    nibabel.save(nibabel.Nifti1Image(MASK[::-1], None), tmp_path / "m.nii")  # says nothing
    for affine in (None, read_scan(save(tmp_path / "v.nii", VOLUME)).affine):
        found = read_mask(tmp_path / "m.nii", image_affine=affine)
        np.testing.assert_array_equal(found, as_stored)
