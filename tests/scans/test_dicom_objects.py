"""DICOM objects without an image: passed over in a folder with a count, refused when named."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, dataset, save
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RTImageStorage,
    SegmentationStorage,
)

from fanogan.retina import find_volumes
from fanogan.scans import BadScan, find_scans, read_scan, read_scans

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
MADE = {
    "Segmentation": SegmentationStorage,
    "Parametric Map": ParametricMapStorage,
    "Grayscale Softcopy Presentation State": GrayscaleSoftcopyPresentationStateStorage,
    "Encapsulated PDF": EncapsulatedPDFStorage,
    "Key Object Selection Document": KeyObjectSelectionDocumentStorage,
    "of a private kind": "1.2.826.0.1.4711",
}
PYDICOMS = {
    "RT Plan": "rtplan.dcm",
    "RT Structure Set": "rtstruct.dcm",
    "RT Dose": "rtdose.dcm",
    "Basic Text SR": "reportsi.dcm",
    "12-lead ECG Waveform": "waveform_ecg.dcm",
}


def made(sop_class: str, has_pixels: bool) -> FileDataset:
    of_class = dataset(PIXELS)
    of_class.SOPClassUID = of_class.file_meta.MediaStorageSOPClassUID = sop_class
    if not has_pixels:
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(of_class, keyword)
    return of_class


def save_object(path: Path, kind: str) -> Path:
    if kind in PYDICOMS:
        shutil.copy(str(get_testdata_file(PYDICOMS[kind])), path)
        return path
    return save(path, made(MADE[kind], has_pixels=kind in ("Segmentation", "Parametric Map")))


@pytest.mark.parametrize("kind", [*MADE, *PYDICOMS])
def test_an_object_without_an_image_is_passed_over_and_refused_when_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_object(tmp_path / "object.dcm", kind)
    with pytest.raises(
        BadScan, match=rf"object\.dcm is a DICOM object without an image \({kind}\)"
    ):
        read_scan(path)
    with pytest.raises(BadScan, match=rf"no images in .* but 1 file without an image .*{kind}\)"):
        find_scans(tmp_path)
    save(tmp_path / "image.dcm", dataset(PIXELS))
    told: list[BadScan] = []
    assert [scan.name for scan in read_scans(tmp_path, on_bad=told.append)] == ["image.dcm"]
    assert [str(error) for error in told] == [f"1 file without an image (1 DICOM {kind})"]
    assert caplog.messages == [f"skipped: {told[0]}"]
    with pytest.raises(BadScan, match=r"object\.dcm is a DICOM object without an image"):
        list(read_scans([tmp_path / "image.dcm", path]))


def test_objects_are_counted_once_over_folders_and_names_of_any_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "IM1", dataset(PIXELS))
        save_object(tmp_path / folder / "IM2", "Segmentation")
    save_object(tmp_path / "b" / "IM3", "Encapsulated PDF")
    expected = "3 files without an image (1 DICOM Encapsulated PDF, 2 DICOM Segmentation)"
    for source in (tmp_path, f"{tmp_path}/*/*", [tmp_path / "a", tmp_path / "b"]):
        caplog.clear()
        assert len(list(read_scans(source))) == 2
        assert caplog.messages == [f"skipped: {expected}"]
        told: list[BadScan] = []
        assert len(find_volumes(source, on_left_out=told.append)) == 2
        assert [str(error) for error in told] == [expected]
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize("sop_class", [RTImageStorage, CTImageStorage])
def test_images_stay_images_even_if_they_are_cut_short(tmp_path: Path, sop_class: str) -> None:
    whole = save(tmp_path / "a.dcm", made(sop_class, has_pixels=True))
    np.testing.assert_array_equal(read_scan(whole).pixels[0], PIXELS)
    whole.unlink()
    save(tmp_path / "b.dcm", made(sop_class, has_pixels=False))
    with pytest.raises(BadScan, match=r"b\.dcm is a DICOM file without an image, or is cut short"):
        list(read_scans(tmp_path))


def test_an_object_beside_a_series_does_not_join_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for i in range(3):
        slice_ = made(CTImageStorage, has_pixels=True)
        slice_.SeriesInstanceUID, slice_.Modality, slice_.InstanceNumber = "1.2.4", "CT", i
        (tmp_path / "head").mkdir(exist_ok=True)
        save(tmp_path / "head" / f"{i}.dcm", slice_)
    mask = made(SegmentationStorage, has_pixels=True)
    mask.SeriesInstanceUID, mask.Modality, mask.InstanceNumber = "1.2.4", "CT", 3
    save(tmp_path / "head" / "mask.dcm", mask)
    assert [(one.name, len(one.parts)) for one in find_scans(tmp_path)] == [("head", 3)]
