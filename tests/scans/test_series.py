"""DICOM volumes: geometry, eye and device of multi-frame files, and series of single frames."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicTomographyImageStorage,
)

from fanogan.phantom import make_phantom
from fanogan.retina import prepare, read_store
from fanogan.scans import BadScan, SlicesByName, UnevenSlices, find_scans, read_scan, read_scans

BSCANS = np.random.default_rng(0).integers(0, 256, (4, 12, 10), dtype=np.uint8)
SERIES = "1.2.826.0.1.4711.1"


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def save(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Writes an ophthalmic tomography image of a made-up patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = OphthalmicTomographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = OphthalmicTomographyImageStorage, "1.2.3"
    made.PatientName, made.SeriesInstanceUID, made.Modality = "Geheimrat", SERIES, "OPT"
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel, made.PixelRepresentation = 1, 0
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def places(distance: float, count: int = 4) -> list[Dataset]:
    """Per-frame groups with B-scans `distance` mm apart."""
    return [
        item(PlanePositionSequence=[item(ImagePositionPatient=[1, -2, i * distance])])
        for i in range(count)
    ]


def test_multi_frame_tomography_has_spacing_eye_and_device(tmp_path: Path) -> None:
    measures = item(PixelSpacing=[0.0039, 0.0117], SliceThickness=0.01)
    shared = item(
        PixelMeasuresSequence=[measures], FrameAnatomySequence=[item(FrameLaterality="L")]
    )
    elements: dict[str, Any] = {
        "SharedFunctionalGroupsSequence": [shared],
        "ManufacturerModelName": "Spectralis",
    }
    path = tmp_path / "a.dcm"
    scan = read_scan(save(path, BSCANS, PerFrameFunctionalGroupsSequence=places(0.125), **elements))
    assert scan.is_volume and scan.spacing == (0.125, 0.0039, 0.0117)
    assert (scan.eye, scan.device) == ("left", "Spectralis")
    assert read_scan(save(path, BSCANS, **elements)).spacing[0] == 0.01
    stacked = places(0)
    same_place = read_scan(save(path, BSCANS, PerFrameFunctionalGroupsSequence=stacked, **elements))
    assert same_place.spacing[0] == 0.01


@pytest.mark.parametrize(
    ("elements", "eye"),
    [
        ({"ImageLaterality": "R"}, "right"),
        ({"Laterality": "L"}, "left"),
        ({"ImageLaterality": "B"}, None),
        ({}, None),
    ],
)
def test_eye_of_the_image(tmp_path: Path, elements: dict[str, str], eye: str | None) -> None:
    scan = read_scan(save(tmp_path / "a.dcm", BSCANS[0], **elements))
    assert scan.eye == eye and scan.device is None


def write_series(folder: Path, order: tuple[int, ...] = (2, 0, 3, 1), **elements: Any) -> None:
    """Files a.dcm, b.dcm …, of which the i-th holds B-scan order[i]."""
    for letter, i in zip("abcd", order, strict=True):
        save(folder / f"{letter}.dcm", BSCANS[i], InstanceNumber=i + 1, **elements)


def test_a_folder_with_a_series_is_one_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "eye1", PixelSpacing=[0.004, 0.01], SliceThickness=0.2)
    found = find_scans(tmp_path)
    assert [(one.name, one.group, len(one.parts)) for one in found] == [("eye1", "eye1", 4)]
    (scan,) = read_scans(tmp_path)
    assert scan.is_volume and scan.spacing == (0.2, 0.004, 0.01)
    np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert [one.name for one in find_scans(tmp_path / "eye1")] == ["eye1"]


def located() -> list[Dataset]:
    """Per-frame groups that place B-scan i on row 2·i + 1 of the picture 1.2.77."""
    return [
        item(
            OphthalmicFrameLocationSequence=[
                item(
                    ReferencedSOPInstanceUID="1.2.77",
                    ReferenceCoordinates=[2 * i + 1, 0.5, 2 * i + 1, 5.5],
                    OphthalmicImageOrientation="LINEAR",
                )
            ]
        )
        for i in range(4)
    ]


def save_fundus(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    saved = save(path, pixels, Modality="OP", SeriesInstanceUID="1.2.8", **elements)
    made = dcmread(saved)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = (
        OphthalmicPhotography8BitImageStorage
    )
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.77"
    made.save_as(saved, enforce_file_format=True)
    return saved


FUNDUS = np.random.default_rng(1).integers(0, 256, (9, 6), dtype=np.uint8)


def test_a_volume_lies_on_the_picture_of_the_fundus_beside_it(tmp_path: Path) -> None:
    path = save(tmp_path / "IM1", BSCANS, PerFrameFunctionalGroupsSequence=located())
    assert read_scan(path).en_face is None
    save_fundus(tmp_path / "IM2", FUNDUS, PixelSpacing=[0.02, 0.01])
    assert [found.path for found in find_scans(tmp_path)] == [path]  # the picture is the volume's
    en_face = read_scan(path).en_face
    assert en_face is not None and en_face.spacing == (0.02, 0.01)
    np.testing.assert_array_equal(en_face.pixels, FUNDUS)
    rows = 2 * np.arange(4) + 1
    np.testing.assert_array_equal(en_face.lines[..., 0], np.stack([rows, rows], axis=1))
    np.testing.assert_array_equal(en_face.lines[..., 1], np.tile([0.5, 5.5], (4, 1)))


def test_a_picture_that_came_later_makes_the_volume_another(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "a.zarr"
    eye = make_phantom(1, shape=(4, 240, 72), spacing=(0.5, 0.00387, 0.022)).pixels
    save(scans / "IM1", eye.astype(np.uint8), PerFrameFunctionalGroupsSequence=located())
    before = find_scans(scans)[0].identity
    assert prepare(scans, out).kept == 0
    assert next(read_store(out)).en_face is None
    fundus = save_fundus(scans / "IM2", FUNDUS)
    (found,) = find_scans(scans)
    assert found.files == (scans / "IM1", fundus) and found.identity != before
    assert prepare(scans, out).kept == 0
    assert next(read_store(out)).en_face is not None
    assert prepare(scans, out).kept == 1


def test_photographs_alone_are_images(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        save_fundus(tmp_path / name, FUNDUS)
    assert [found.name for found in find_scans(tmp_path)] == ["a.dcm", "b.dcm"]


@pytest.mark.parametrize(
    "changes",
    [
        {"OphthalmicImageOrientation": "NONLINEAR"},
        {"ReferenceCoordinates": [1, 1]},
        {"ReferenceCoordinates": [1, 1, float("nan"), 1]},
        {"ReferencedSOPInstanceUID": "1.2.78"},
    ],
)
def test_a_place_that_is_no_line_on_one_picture_is_none(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    groups = located()
    for keyword, value in changes.items():
        setattr(groups[2].OphthalmicFrameLocationSequence[0], keyword, value)
    save_fundus(tmp_path / "fundus.dcm", FUNDUS)
    path = save(tmp_path / "a.dcm", BSCANS, PerFrameFunctionalGroupsSequence=groups)
    assert read_scan(path).en_face is None


def test_a_damaged_picture_does_not_cost_the_volume(tmp_path: Path) -> None:
    fundus = save_fundus(tmp_path / "fundus.dcm", FUNDUS)
    path = save(tmp_path / "a.dcm", BSCANS, PerFrameFunctionalGroupsSequence=located())
    assert read_scan(path).en_face is not None
    fundus.write_bytes(fundus.read_bytes()[:-20])
    scan = read_scan(path)
    assert scan.en_face is None
    np.testing.assert_array_equal(scan.pixels, BSCANS)


def test_of_a_picture_in_colour_green_is_taken(tmp_path: Path) -> None:
    colour = np.random.default_rng(2).integers(0, 256, (9, 6, 3), dtype=np.uint8)
    save_fundus(
        tmp_path / "fundus.dcm",
        colour[..., 0],
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        PixelData=colour.tobytes(),
    )
    path = save(tmp_path / "a.dcm", BSCANS, PerFrameFunctionalGroupsSequence=located())
    en_face = read_scan(path).en_face
    assert en_face is not None and en_face.spacing == (None, None)
    np.testing.assert_array_equal(en_face.pixels, colour[..., 1])


def test_dicom_is_found_whatever_archives_call_it(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "DICOM/S1" / f"1.2.840.{i}", BSCANS[i], InstanceNumber=i)
    single = save(tmp_path / "DICOM/S2/IM000001", BSCANS)
    (tmp_path / "DICOM" / "DICOMDIR").write_bytes(single.read_bytes())
    (tmp_path / "DICOM/S2" / "LOCKFILE").write_bytes(b"no image")
    found = find_scans(tmp_path)
    named = [(one.name, len(one.parts)) for one in found]
    assert named == [("DICOM/S1", 4), ("DICOM/S2/IM000001", 0)]
    for scan in read_scans(tmp_path):
        np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert [one.path for one in find_scans(single)] == [single]
    assert [one.path for one in find_scans(f"{tmp_path}/DICOM/S2/*")] == [single]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/linked").symlink_to(single)
    assert [one.name for one in find_scans(tmp_path / "other")] == ["linked"]
    assert [one.name for one in find_scans(tmp_path)] == [name for name, _ in named]


def test_positions_order_files_without_numbers_and_give_the_distance(tmp_path: Path) -> None:
    for letter, i in zip("abcd", (2, 0, 3, 1), strict=True):
        place = [3, i * 0.25, -1]
        save(tmp_path / "e" / f"{letter}.dcm", BSCANS[i], ImagePositionPatient=place)
    (scan,) = read_scans(tmp_path)
    shown = scan.pixels if (scan.pixels[0] == BSCANS[0]).all() else scan.pixels[::-1]
    np.testing.assert_array_equal(shown, BSCANS)
    assert scan.spacing == (0.25, None, None)


def test_two_series_in_a_folder_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "eye1")
    for i in range(2):
        save(tmp_path / "eye1" / f"x{i}.dcm", BSCANS[i], SeriesInstanceUID="1.2.9")
    save(tmp_path / "eye1" / "y.dcm", BSCANS[0], SeriesInstanceUID="1.2.10")
    found = find_scans(tmp_path)
    assert [(one.name, len(one.parts)) for one in found] == [
        ("eye1/b.dcm", 4),
        ("eye1/x0.dcm", 2),
        ("eye1/y.dcm", 0),
    ]
    assert {one.group for one in found} == {"eye1"}


@pytest.mark.parametrize(
    "elements", [{"Modality": "DX"}, {"SeriesInstanceUID": ""}, {"NumberOfFrames": 2}]
)
def test_what_is_no_series_stays_apart(tmp_path: Path, elements: dict[str, Any]) -> None:
    pixels = BSCANS[:2] if "NumberOfFrames" in elements else BSCANS[0]
    for name in ("a", "b"):
        save(tmp_path / f"{name}.dcm", pixels, **elements)
    assert [(one.name, one.parts) for one in find_scans(tmp_path)] == [("a.dcm", ()), ("b.dcm", ())]


def test_a_bad_file_of_a_series_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    write_series(tmp_path / "eye1")
    path = tmp_path / "eye1" / "d.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(BadScan, match=r"d\.dcm is damaged or cut short"):
        list(read_scans(tmp_path))
    found = find_scans(tmp_path)[0]
    save(path, BSCANS[1, :5])
    with pytest.raises(BadScan, match=r"d\.dcm differs in size from b\.dcm"):
        read_scan(found.path, parts=found.parts)
    path.write_bytes(b"nothing")
    assert [one.name for one in find_scans(tmp_path)] == ["eye1/b.dcm", "eye1/d.dcm"]
    told = [caplog.text, *capfd.readouterr()]
    assert "Geheimrat" not in " ".join(told) and SERIES not in " ".join(told)


# --- what is no whole volume ----------------------------------------------------------------------


def write_rounds(folder: Path, place: bool, changes: list[dict[str, Any]]) -> None:
    """Four slices for each of `changes`, one round after the other for each slice."""
    for i in range(4):
        for number, elements in enumerate(changes):
            where = {"ImagePositionPatient": [0, 0, i]} if place else {}
            own = {"Modality": "MR", "InstanceNumber": len(changes) * i + number, **where}
            save(folder / f"{i}{number}.dcm", BSCANS[i] // (number + 1), **own, **elements)


def test_an_echo_time_that_varies_a_little_is_one_echo(tmp_path: Path) -> None:
    for i, time in enumerate((4.6, 4.61, 4.59, 4.6)):
        own = {"Modality": "MR", "InstanceNumber": i, "ImagePositionPatient": [0, 0, i]}
        save(tmp_path / f"head/{i}.dcm", BSCANS[i], EchoTime=time, **own)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.pixels, BSCANS)


@pytest.mark.parametrize("place", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        [{"EchoNumbers": 1}, {"EchoNumbers": 2}],
        [{"EchoTime": 4.6}, {"EchoTime": 9.2}, {"EchoTime": 13.8}],
        [{"ImageType": ["ORIGINAL", "PRIMARY", kind]} for kind in ("M", "P")],
        [{"ImageOrientationPatient": [1, 0, 0, 0, *turned]} for turned in ((1, 0), (0, 1))],
    ],
)
def test_echoes_and_kinds_of_image_are_volumes_of_their_own(
    tmp_path: Path, place: bool, changes: list[dict[str, Any]]
) -> None:
    write_rounds(tmp_path / "head", place, changes)
    scans = list(read_scans(tmp_path))
    assert len(scans) == len(changes)
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.pixels, BSCANS // (number + 1))
        assert scan.is_volume and scan.notes == ()


@pytest.mark.parametrize("place", [True, False])
@pytest.mark.parametrize(
    "keyword",
    ["AcquisitionNumber", "TriggerTime", "DiffusionBValue", "FrameReferenceTime"],
)
def test_rounds_through_the_same_places_are_volumes_of_their_own(
    tmp_path: Path, keyword: str, place: bool
) -> None:
    changes = [{keyword: value} for value in (1, 2, 3)]
    write_rounds(tmp_path / "heart", place, changes)
    if not place:  # numbers that begin again with each round tell as much
        for i in range(4):
            for number, elements in enumerate(changes):
                own = {"Modality": "MR", "InstanceNumber": i, **elements}
                save(tmp_path / "heart" / f"{i}{number}.dcm", BSCANS[i] // (number + 1), **own)
    scans = list(read_scans(tmp_path))
    assert len(scans) == 3
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.pixels, BSCANS // (number + 1))


def test_a_volume_whose_slices_are_acquisitions_stays_one(tmp_path: Path) -> None:
    for i in range(4):
        own = {"AcquisitionNumber": i, "TriggerTime": 10 * i, "ImagePositionPatient": [0, 0, i]}
        save(tmp_path / "chest" / f"{i}.dcm", BSCANS[i], Modality="CT", **own)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert scan.notes == ()


@pytest.mark.parametrize("where", ["ImagePositionPatient", "InstanceNumber"])
def test_a_slice_that_is_there_twice_is_refused(tmp_path: Path, where: str) -> None:
    for letter, i in zip("abcd", (0, 1, 1, 2), strict=True):
        own: dict[str, Any] = {where: [0, 0, i] if where == "ImagePositionPatient" else i}
        save(tmp_path / "head" / f"{letter}.dcm", BSCANS[i], Modality="CT", **own)
    with pytest.raises(BadScan, match=r"c\.dcm and b\.dcm are the same slice of one series"):
        list(read_scans(tmp_path))


def test_a_slice_that_is_missing_is_noted(tmp_path: Path) -> None:
    for i, z in enumerate((0, 0.5, 1, 2)):
        place = [3, 0, z]
        save(tmp_path / "placed" / f"{i}.dcm", BSCANS[i], ImagePositionPatient=place)
        save(tmp_path / "numbered" / f"{i}.dcm", BSCANS[i], InstanceNumber=int(2 * z))
    numbered, placed = read_scans(tmp_path)
    assert placed.notes == (UnevenSlices(0.5, 1, "mm"),) and placed.spacing[0] == 0.5
    assert numbered.notes == (UnevenSlices(1, 2, "numbers"),)
    for notes, zs in (((UnevenSlices(0.25, 0.5, "mm"),), (0, 1, 2, 4)), ((), (0, 1, 2, 3))):
        groups = [
            item(PlanePositionSequence=[item(ImagePositionPatient=[1, -2, z * 0.25])]) for z in zs
        ]
        frames = save(tmp_path / "frames.dcm", BSCANS, PerFrameFunctionalGroupsSequence=groups)
        assert read_scan(frames).notes == notes


@pytest.mark.parametrize("order", [(0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0)])
def test_echoes_mixed_in_one_file_are_noted(tmp_path: Path, order: tuple[int, ...]) -> None:
    groups = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in order]
    frames = save(tmp_path / "frames.dcm", BSCANS, PerFrameFunctionalGroupsSequence=groups)
    assert read_scan(frames).notes == (UnevenSlices(0, 1, "mm"),)


def test_places_order_slices_whose_numbers_do_not(tmp_path: Path) -> None:
    # Interleaved acquisitions are numbered as they were recorded; number 0 lies at the top.
    for number, i in enumerate((3, 1, 2, 0)):
        own = {"InstanceNumber": number, "ImagePositionPatient": [0, 0, i]}
        save(tmp_path / "head" / f"{i}.dcm", BSCANS[i], Modality="MR", **own)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.pixels, BSCANS[::-1])
    assert scan.notes == ()


def test_slices_without_any_order_are_noted(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "head" / f"{i}.dcm", BSCANS[i], Modality="CT")
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert scan.notes == (SlicesByName(),)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_one_grey_means_one_value_in_slices_of_differing_slopes(
    tmp_path: Path, photometric: str
) -> None:
    values = BSCANS[0] // 6 * 6
    for i, slope in enumerate((1, 2, 3)):
        own: dict[str, Any] = {"RescaleSlope": slope, "RescaleIntercept": 0}
        own |= {"WindowCenter": 100, "WindowWidth": 150, "PhotometricInterpretation": photometric}
        save(tmp_path / "pet" / f"{i}.dcm", values // slope, InstanceNumber=i, Modality="PT", **own)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.pixels[0], scan.pixels[1])
    np.testing.assert_array_equal(scan.pixels[0], scan.pixels[2])
    assert scan.pixels.max() == 3 * 255
