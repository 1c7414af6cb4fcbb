"""Maps as NIfTI: on the scan's own voxels, as SimpleITK reads both."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_volumes import ALONG_COLUMNS, ALONG_ROWS, NORMAL, ORIGIN, ct_series
from dicom_volumes import eye as save_eye
from stripes import fitted, stripes

from fanogan.cli.parser import main
from fanogan.scans import Scan, as_nifti, read_mask, read_scan
from fanogan.scoring import Model, results, write_results

VOLUME = stripes(5, rows=14, columns=20, seed=2)


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted("pca").model


def expected(model: Model, source: object) -> np.ndarray:
    found = [result.residual for result in results(model, source) if result.unit == "image"]
    return np.stack([each for each in found if each is not None])


def written(model: Model, source: object, out: Path) -> Path:
    write_results(model, source, out, maps="nifti")
    (path,) = (out / "maps").rglob("*.nii.gz")
    assert not list(out.rglob("maps/**/*.tif"))
    return path


def assert_same_place(one: SimpleITK.Image, other: SimpleITK.Image) -> None:
    assert one.GetSize() == other.GetSize()
    np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin(), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(one.GetDirection(), other.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("has_place", [True, False])
def test_a_nifti_has_its_map_in_its_own_axes(model: Model, tmp_path: Path, has_place: bool) -> None:
    lies = np.array(
        [
            [0.8 * 0.5, -0.48 * 0.25, 0.36 * 2.5, -12],
            [0.6 * 0.5, 0.64 * 0.25, -0.48 * 2.5, 7],
            [0, 0.6 * 0.25, 0.8 * 2.5, 3],
            [0, 0, 0, 1],
        ]
    )
    image = nibabel.Nifti1Image(np.moveaxis(VOLUME, 0, -1), lies)
    if not has_place:
        image = nibabel.Nifti1Image(np.moveaxis(VOLUME, 0, -1), None)
        image.header.set_zooms((0.5, 0.25, 2.5))
        image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "head.nii.gz")
    path = written(model, tmp_path / "head.nii.gz", tmp_path / "out")
    assert path == tmp_path / "out/maps/head.nii.gz.nii.gz"
    its, source = map(SimpleITK.ReadImage, (path, tmp_path / "head.nii.gz"))
    if has_place:
        assert_same_place(its, source)
    assert its.GetSize() == source.GetSize()
    np.testing.assert_allclose(its.GetSpacing(), source.GetSpacing(), rtol=1e-6)
    values = np.moveaxis(SimpleITK.GetArrayFromImage(its).T, -1, 0)
    np.testing.assert_array_equal(values, expected(model, tmp_path / "head.nii.gz"))


def test_a_dicom_series_has_its_map_where_simpleitk_reads_the_series(
    model: Model, tmp_path: Path
) -> None:
    ct_series(tmp_path / "scans" / "head", VOLUME)
    path = written(model, tmp_path / "scans", tmp_path / "out")
    its = SimpleITK.ReadImage(path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "scans" / "head"))
    assert_same_place(its, SimpleITK.ReadImage(names))
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(its), expected(model, tmp_path / "scans")
    )
    # By hand (PS3.3 C.7.6.2.1.1): column 3, row 2, slice 4.
    at = ORIGIN + 3 * 0.25 * ALONG_ROWS + 2 * 0.5 * ALONG_COLUMNS + 4 * 2.5 * NORMAL
    np.testing.assert_allclose(its.TransformIndexToPhysicalPoint((3, 2, 4)), at, atol=1e-4)


def test_several_frames_of_one_file_lie_as_their_groups_say(model: Model, tmp_path: Path) -> None:
    save_eye(tmp_path / "eye.dcm", VOLUME, (0.24, 0.0039, 0.0117))
    its = SimpleITK.ReadImage(written(model, tmp_path / "eye.dcm", tmp_path / "out"))
    np.testing.assert_allclose(its.GetSpacing(), (0.0117, 0.0039, 0.24), rtol=1e-6)
    np.testing.assert_allclose(its.GetOrigin(), (1.5, -2, 0), atol=1e-6)
    # The B-scans go down, against the normal of the plane.
    np.testing.assert_allclose(
        its.TransformIndexToPhysicalPoint((0, 0, 4)), (1.5, -2, -0.96), atol=1e-6
    )


def test_a_volume_that_has_only_spacing_keeps_it(tmp_path: Path) -> None:
    scan = Scan(VOLUME, "eye", "eye", spacing=(0.24, 0.0039, 0.0117), is_volume=True)
    own = tmp_path / "own.nii.gz"
    own.write_bytes(
        as_nifti(VOLUME.astype(np.float32), scan.spacing, scan.affine, rows_first=False)
    )
    its = SimpleITK.ReadImage(own)
    plain = SimpleITK.GetImageFromArray(VOLUME)
    plain.SetSpacing((0.0117, 0.0039, 0.24))
    assert_same_place(its, plain)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(its), VOLUME)


def test_an_image_is_a_map_of_one_slice(model: Model, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(VOLUME[0]).save(tmp_path / "a.png")
    its = SimpleITK.ReadImage(written(model, tmp_path / "a.png", tmp_path / "out"))
    assert its.GetSize() == (20, 14, 1)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(its), expected(model, tmp_path / "a.png")
    )


def test_a_mask_drawn_over_dicom_is_laid_where_it_was_drawn(tmp_path: Path) -> None:
    """Viewers save masks with columns first; without the affine of the DICOM they were refused."""
    ct_series(tmp_path / "head", VOLUME)
    scan = read_scan(tmp_path / "head" / "0.dcm", parts=sorted((tmp_path / "head").iterdir()))
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "head"))
    drawn = np.zeros(VOLUME.shape, np.uint8)
    drawn[1, 2:5, 11:17] = 1
    mask = SimpleITK.GetImageFromArray(drawn)
    mask.CopyInformation(SimpleITK.ReadImage(names))
    SimpleITK.WriteImage(mask, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.nii.gz", image_affine=scan.affine), drawn == 1
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--maps", "nrrd"], "--maps nrrd: give tiff or nifti, which 3D Slicer and ITK-SNAP read"),
        (["--maps", "nifti", "--scores-only"], "--maps and --scores-only contradict each other"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    fitted("pca").save(folder)
    with pytest.raises(SystemExit) as end:
        main(["score", str(folder), str(tmp_path), "--out", str(tmp_path / "out"), *options])
    assert end.value.code == 1
    assert sentence in capsys.readouterr().err
