"""NIfTI files, good and bad."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fanogan.scans import BadScan, read_scan

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
