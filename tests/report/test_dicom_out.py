"""Results as DICOM objects: valid by dciodvfy, and where SimpleITK and highdicom find them."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK
from dicom_files import SECRETS, dataset, save
from dicom_volumes import SPACE, ct_series, eye, of_study
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import VLPhotographicImageStorage

from fanogan.report import Found, Maker, dicom_objects
from fanogan.retina import Region
from fanogan.scans import BadScan

MAKER = Maker("f-AnoGAN", "small", "0.2.0", "ab" * 32)
SPACING = (0.24, 0.0039, 0.0117)
SHAPE = (6, 16, 22)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
system = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dicom3tools is not installed: make test-system"
)


def region(number: int, bscans: tuple[int, int], columns: tuple[int, int]) -> Region:
    return Region(
        number=number,
        bscan=bscans[0],
        row=4,
        column=columns[0],
        bscans=bscans,
        columns=columns,
        x_mm=None,
        y_mm=None,
        pixels=9,
        area_mm2=0.0253,
        mean=0.61,
        peak=1.0 / 3,
    )


@pytest.fixture(scope="module")
def found() -> Found:
    residual = np.random.default_rng(1).uniform(0, 2, SHAPE).astype(np.float32)
    residual[:, :2] = np.nan
    labels = np.zeros(SHAPE, np.uint16)
    labels[1:3, 3:9, 2:7] = 1
    labels[4, 5:11, 18:22] = 2
    regions = [region(1, (1, 2), (2, 6)), region(2, (4, 4), (18, 21))]
    return Found(residual, 0.8, 12.5, 1 / 21, regions, labels)


def plain(shape: tuple[int, ...]) -> Found:
    return Found(np.random.default_rng(2).uniform(0, 2, shape).astype(np.float32), 0.8, 3.0, None)


def made(files: list[Path], found: Found, out: Path) -> dict[str, Path]:
    out.mkdir(exist_ok=True)
    for end, data in dicom_objects(files, found, MAKER):
        (out / f"scan{end}").write_bytes(data)
    return {path.name.removeprefix("scan"): path for path in sorted(out.iterdir())}


def assert_belongs(path: Path, source: Dataset) -> Dataset:
    derived = dcmread(path)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientSex", "StudyDate"):
        assert derived[keyword].value == source[keyword].value
    assert derived.SeriesInstanceUID != source.SeriesInstanceUID
    assert "research use only" in derived.SeriesDescription
    assert derived.DeviceSerialNumber == MAKER.weights
    # Nothing of the patient that isn't needed.
    assert "InstitutionName" not in derived and SECRETS[3] not in str(derived)
    return derived


def test_an_eye_has_segmentation_map_and_report_in_its_study(tmp_path: Path, found: Found) -> None:
    path = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    objects = made([path], found, tmp_path / "out")
    assert list(objects) == [".pm.dcm", ".seg.dcm", ".sr.dcm"]
    source = dcmread(path)
    for each in objects.values():
        assert_belongs(each, source)

    # The map, by pydicom: the frames in the order of the source, -1 where nothing is known.
    parametric = dcmread(objects[".pm.dcm"])
    assert parametric.FrameOfReferenceUID == SPACE and parametric.Laterality == "R"
    numbers = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in parametric.PerFrameFunctionalGroupsSequence
    ]
    places = [
        group.PlanePositionSequence[0].ImagePositionPatient
        for group in parametric.PerFrameFunctionalGroupsSequence
    ]
    assert [place[2] for place in places] == [-SPACING[0] * (number - 1) for number in numbers]
    order = np.array(numbers) - 1
    expected = np.nan_to_num(found.residual, nan=-1)
    np.testing.assert_array_equal(parametric.pixel_array, expected[order])
    assert parametric.FloatPixelPaddingValue == -1

    # The mask, by highdicom.
    assert found.labels is not None
    segmentation = highdicom.seg.segread(objects[".seg.dcm"])
    for number, segment in enumerate(segmentation.segment_numbers, start=1):
        values = segmentation.get_pixels_by_source_frame(
            source.SOPInstanceUID,
            list(range(1, 7)),
            segment_numbers=[segment],
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(values[..., 0], found.labels == number)
    second = segmentation.get_segment_description(2)
    assert (second.tracking_id, second.segment_label) == ("Region 2", "Region 2")
    assert [each.meaning for each in second.anatomic_regions] == ["Retina"]


def test_only_what_shows_an_eye_is_said_to_be_retina(tmp_path: Path, found: Found) -> None:
    path = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    other = dcmread(path)
    other.Modality = "US"
    other.save_as(path)
    objects = made([path], found, tmp_path / "out")
    segmentation = highdicom.seg.segread(objects[".seg.dcm"])
    assert not segmentation.get_segment_description(1).anatomic_regions
    report = str(dcmread(objects[".sr.dcm"]))
    assert "Retina" not in report and "Candidate region" in report


def test_the_mask_lies_on_the_right_side(tmp_path: Path, found: Found) -> None:
    """By SimpleITK (GDCM), and the place of a frame computed by hand."""
    objects = made([eye(tmp_path / "eye.dcm", PIXELS, SPACING)], found, tmp_path / "out")
    data = dcmread(objects[".seg.dcm"])
    frames = {
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber: frame
        for frame, group in enumerate(data.PerFrameFunctionalGroupsSequence)
    }
    group = data.PerFrameFunctionalGroupsSequence[frames[2]]
    # Region 2 is in the fifth B-scan, at the last columns: on the patient's left.
    assert group.PlanePositionSequence[0].ImagePositionPatient == [1.5, -2, -0.96]
    frame = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(objects[".seg.dcm"]))[frames[2]]
    rows, columns = np.nonzero(frame)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 10, 18, 21)


def test_a_series_of_single_frames_has_one_object_over_them(tmp_path: Path) -> None:
    files, found = ct_series(tmp_path / "head", PIXELS), plain(SHAPE)
    objects = made(files, found, tmp_path / "out")
    assert list(objects) == [".pm.dcm", ".sr.dcm"]  # no region, no segmentation
    assert_belongs(objects[".pm.dcm"], dcmread(files[0]))
    its = highdicom.imread(objects[".pm.dcm"]).get_volume()  # ITK reads no floats in DICOM
    source = SimpleITK.ReadImage(
        SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "head"))
    )
    for corner in np.ndindex(2, 2, 2):
        frame, row, column = (np.array(corner) * (np.array(SHAPE) - 1)).tolist()
        at = source.TransformIndexToPhysicalPoint((column, row, frame))
        index = its.map_reference_to_indices(np.array([at]), round_output=True)[0]
        assert its.array[tuple(index)] == found.residual[frame, row, column]


def test_frames_in_no_common_space_have_an_object_each(tmp_path: Path, found: Found) -> None:
    path = eye(tmp_path / "eye.dcm", PIXELS, SPACING, FrameOfReferenceUID=None)
    objects = made([path], found, tmp_path / "out")
    maps = [f"#{i}.pm.dcm" for i in range(6)]
    assert set(objects) == {*maps, "#1.seg.dcm", "#2.seg.dcm", "#4.seg.dcm", ".sr.dcm"}
    for i, name in enumerate(maps):
        each = dcmread(objects[name])
        reference = (
            each.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
        )
        assert reference[0].ReferencedFrameNumber == i + 1
        np.testing.assert_array_equal(each.pixel_array, np.nan_to_num(found.residual[i], nan=-1))
    # What lies in no common space must not seem to lie at one place.
    assert len({dcmread(objects[name]).FrameOfReferenceUID for name in maps}) == 6
    segment = dcmread(objects["#4.seg.dcm"])
    assert [one.TrackingID for one in segment.SegmentSequence] == ["Region 2"]
    report = srread(objects[".sr.dcm"])
    tracked = {
        group.tracking_uid
        for group in report.content.get_image_measurement_groups()
        if group.tracking_identifier == "Region 2"
    }
    assert tracked == {segment.SegmentSequence[0].TrackingUID}


def test_the_report_holds_the_numbers(tmp_path: Path, found: Found) -> None:
    path = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    objects = made([path], found, tmp_path / "out")
    report = srread(objects[".sr.dcm"])
    (whole,) = report.content.get_image_measurement_groups()
    numbers = {one.name.meaning: one.value for one in whole.get_measurements()}
    assert numbers == {
        "Anomaly score": 12.5,
        "p-value, held-out normals": pytest.approx(1 / 21, rel=1e-9),
    }
    data = dcmread(objects[".sr.dcm"])
    text = [element.value for element in data.iterall() if element.keyword == "TextValue"]
    assert f"weights SHA-256 {MAKER.weights}" in text
    assert "Research use only, not a medical device." in text
    regions = report.content.get_volumetric_roi_measurement_groups()
    segmentation = dcmread(objects[".seg.dcm"])
    for number, group in enumerate(regions, start=1):
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [number]
        area = next(m for m in group.get_measurements() if m.name.meaning == "Area")
        assert (area.value, area.unit.value) == (0.0253, "mm2")
        side = group.finding_sites[0].laterality
        assert side is not None and side.meaning == "Right"
    assert len(regions) == 2


def test_the_same_result_has_the_same_uids(tmp_path: Path, found: Found) -> None:
    path = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    one, other = (
        {e: dcmread(BytesIO(d)) for e, d in dicom_objects([path], found, MAKER)} for _ in "ab"
    )
    assert [o.SOPInstanceUID for o in one.values()] == [o.SOPInstanceUID for o in other.values()]
    changed = plain(SHAPE)
    (_, data), *_ = dicom_objects([path], changed, MAKER)
    assert dcmread(BytesIO(data)).SOPInstanceUID != one[".pm.dcm"].SOPInstanceUID


def photograph(path: Path, **elements: object) -> Path:
    source = of_study(np.zeros((12, 10, 3), np.uint8), VLPhotographicImageStorage, 6, 1)
    source.Modality = "XC"
    for keyword, value in elements.items():
        setattr(source, keyword, value)
    return save(path, source)


def test_an_image_without_the_size_of_a_pixel_has_only_a_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = plain((1, 12, 10))
    assert list(made([photograph(tmp_path / "a.dcm")], found, tmp_path / "a")) == [".sr.dcm"]
    assert "a.dcm doesn't say how large a pixel is" in caplog.text
    path = photograph(tmp_path / "b.dcm", ImagerPixelSpacing=[0.2, 0.1])
    objects = made([path], found, tmp_path / "b")
    assert list(objects) == [".pm.dcm", ".sr.dcm"]
    parametric = dcmread(objects[".pm.dcm"])
    shared = parametric.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.2, 0.1]
    np.testing.assert_array_equal(parametric.pixel_array, found.residual[0])


def test_names_keep_their_letters(tmp_path: Path, found: Found) -> None:
    path = eye(
        tmp_path / "eye.dcm",
        PIXELS,
        SPACING,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Zoë=山田^太郎",
        PatientSex="X",
    )
    for each in made([path], found, tmp_path / "out").values():
        assert str(dcmread(each).PatientName) == "Müller^Zoë=山田^太郎"


def test_what_cannot_be_referred_to_is_refused(
    tmp_path: Path, found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(BadScan, match=r"a\.png is no DICOM file, and --dicom writes"):
        list(dicom_objects([picture], found, MAKER))
    bare = save(tmp_path / "bare.dcm", dataset(PIXELS[0]))
    with pytest.raises(BadScan, match=r"bare\.dcm has no StudyInstanceUID"):
        list(dicom_objects([bare], found, MAKER))
    lost = ct_series(tmp_path / "ct", PIXELS)
    for path in lost:
        data = dcmread(path)
        del data.Rows
        data.save_as(path)
    with pytest.raises(BadScan, match=r"0\.dcm has a header that no DICOM object can") as error:
        list(dicom_objects(lost, plain(SHAPE), MAKER))
    assert not any(secret in f"{error.value}{caplog.text}" for secret in SECRETS)


def errors_of(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    return [line for line in run.stderr.splitlines() if line.startswith("Error")]


@system
@pytest.mark.system
@pytest.mark.parametrize("kind", ["eye", "eye without space", "series", "photograph", "pydicom's"])
def test_objects_are_valid(tmp_path: Path, kind: str, found: Found) -> None:
    if kind == "series":
        objects = made(ct_series(tmp_path / "head", PIXELS), plain(SHAPE), tmp_path / "out")
    elif kind == "photograph":
        path = photograph(tmp_path / "skin.dcm", ImagerPixelSpacing=[0.2, 0.1])
        objects = made([path], plain((1, 12, 10)), tmp_path / "out")
    elif kind == "pydicom's":
        path = Path(str(get_testdata_file("CT_small.dcm")))
        objects = made([path], plain((1, 128, 128)), tmp_path / "out")
    else:
        space = None if "without" in kind else SPACE
        path = eye(tmp_path / "eye.dcm", PIXELS, SPACING, FrameOfReferenceUID=space)
        objects = made([path], found, tmp_path / "out")
    assert {name: errors_of(path) for name, path in objects.items() if errors_of(path)} == {}
