"""Nothing of a patient is left in a pseudonymised file: its bytes are searched."""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import item
from dicom_volumes import SPACE, STUDY, eye
from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage, OphthalmicTomographyImageStorage

from fanogan.archive import ArchiveError, Codes
from fanogan.archive.deidentify import LeftOut, deidentified
from fanogan.scans import read_scan

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 22), dtype=np.uint8)
SPACING = (0.24, 0.0039, 0.0117)
TRACES = [b"Geheimrat", b"Anna", b"1945", b"4711", b"Kaiserklinik", b"20200102", b"101112"]
"""Of name, birth date, id, hospital, date and time; 4711 is in all UIDs too."""


def told(path: Path, **elements: Any) -> bytes:
    """An eye whose file names its patient wherever a file can."""
    name = "Geheimrat^Anna"
    made = dcmread(eye(path, PIXELS, SPACING, **elements))
    made.preamble = b"Geheimrat".ljust(128, b"\0")
    made.file_meta.SourceApplicationEntityTitle = "KAISERKLINIK"[:6] + "4711"
    made.file_meta.PrivateInformationCreatorUID = "1.2.4711"
    made.file_meta.PrivateInformation = b"Geheimrat "
    block = made.private_block(0x0029, "Kaiserklinik", create=True)
    block.add_new(0x01, "LO", name)
    block.add_new(0x02, "SQ", [item(PatientName=name)])
    made.StudyDescription, made.SeriesDescription = f"OCT of {name}", "19450508"
    made.PatientComments, made.ImageComments = name, name
    made.AccessionNumber, made.DeviceSerialNumber = "4711", "4711"
    made.OtherPatientIDsSequence = [item(PatientID="4711", TypeOfPatientID="TEXT")]
    made.RequestAttributesSequence = [item(ScheduledProcedureStepDescription=name)]
    made.AcquisitionDateTime = made.ContentDate = "20200102"
    made.ContentTime, made.OperatorsName = "101112", name
    made.InstitutionAddress = made.StationName = "Kaiserklinik"
    made.add_new(0x60000010, "US", 16)
    made.add_new(0x60000022, "LO", "Geheimrat")  # an overlay's description
    made.add_new(0x60003000, "OW", b"Geheimrat ")
    made.add_new(0x50004000, "LT", "Geheimrat")  # a curve's comment
    made.add_new(0x00186666, "LO", "Geheimrat")  # unknown to the standard
    made.add_new(0xFFFCFFFC, "OB", b"Geheimrat ")
    # Deep in the items of sequences that stay.
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].add_new(0x00291001, "LO", name)
    for group in made.PerFrameFunctionalGroupsSequence:
        group.FrameContentSequence = [
            item(FrameAcquisitionDateTime="20200102", FrameComments=name, PatientName=name)
        ]
        source = item(ReferencedSOPInstanceUID=f"{STUDY}.9", PurposeOfReferenceCodeSequence=[])
        source.ReferencedSOPClassUID = OphthalmicTomographyImageStorage
        group.DerivationImageSequence = [item(SourceImageSequence=[source])]
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_no_byte_tells_the_patient(tmp_path: Path) -> None:
    data = told(tmp_path / "eye.dcm")
    assert all(trace in data for trace in TRACES), "the test has to hide what it looks for"
    codes = Codes(tmp_path / "codes.csv")
    free, is_unclear = deidentified(data, codes, "P2345678")
    assert not [trace for trace in TRACES if trace.lower() in free.lower()]
    assert is_unclear  # the file says nothing of text in its pixels
    made = dcmread(io.BytesIO(free))
    assert made.PatientID == made.PatientName == "P2345678" and made.PatientBirthDate == ""
    # Some of each kind, by PS3.15 E.1-1: X removed, Z empty, D with a dummy.
    assert "StudyDescription" not in made and "PatientComments" not in made
    assert made.StudyDate == made.AccessionNumber == made.StudyID == ""
    assert made.InstitutionName == "REMOVED" and made.AcquisitionDateTime == "19000101000000"
    assert made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert not any(element.tag.is_private for element in made.iterall())
    # The image is the same, in the same place, and of the same eye.
    (tmp_path / "free.dcm").write_bytes(free)
    before, after = read_scan(tmp_path / "eye.dcm"), read_scan(tmp_path / "free.dcm")
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert (after.spacing, after.eye, after.is_retina) == (before.spacing, before.eye, True)
    np.testing.assert_array_equal(after.affine, before.affine)


def test_uids_are_replaced_and_still_belong_together(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.csv")
    made = dcmread(io.BytesIO(deidentified(told(tmp_path / "eye.dcm"), codes, "P2")[0]))
    assert made.StudyInstanceUID == codes.uid_of(STUDY) and made.StudyInstanceUID.is_valid
    assert made.FrameOfReferenceUID == codes.uid_of(SPACE)
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert made.SOPClassUID == OphthalmicTomographyImageStorage  # the standard's own stay
    group = made.PerFrameFunctionalGroupsSequence[1]
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == codes.uid_of(f"{STUDY}.9")
    assert source.ReferencedSOPClassUID == OphthalmicTomographyImageStorage


def test_what_pixels_or_text_may_tell_is_left_out_or_said(tmp_path: Path) -> None:
    codes = Codes(tmp_path / "codes.csv")
    with pytest.raises(LeftOut, match="the patient can be read in its pixels"):
        deidentified(told(tmp_path / "a.dcm", BurnedInAnnotation="YES"), codes, "P2")
    assert not deidentified(told(tmp_path / "b.dcm", BurnedInAnnotation="NO"), codes, "P2")[1]
    letter = told(tmp_path / "c.dcm", SOPClassUID=EncapsulatedPDFStorage)
    with pytest.raises(LeftOut, match="no image, and its text can name anybody"):
        deidentified(letter, codes, "P2")


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools: make test-system")
def test_no_error_comes_in(tmp_path: Path) -> None:
    """What is left is as good DICOM as it was, by dciodvfy."""
    source = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    free, _ = deidentified(source.read_bytes(), Codes(tmp_path / "codes.csv"), "P2345678")
    (tmp_path / "free.dcm").write_bytes(free)
    before, after = (
        {line for line in run.stderr.splitlines() if line.startswith("Error")}
        for run in (
            subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
            for path in (source, tmp_path / "free.dcm")
        )
    )
    assert after <= before


def test_a_damaged_file_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    data = told(tmp_path / "a.dcm")
    at = data.index(b"Geheimrat^Anna")
    for cut in (b"Geheimrat", data[: at + 3], data.replace(b"OPT", b"\xff\xff\xff", 1)):
        with warnings.catch_warnings(record=True) as said:
            try:
                free, _ = deidentified(cut, Codes(tmp_path / "codes.csv"), "P2")
            except (ArchiveError, LeftOut) as error:
                assert "Geheimrat" not in str(error) and error.__cause__ is None
            else:
                assert b"Geheimrat" not in free
        assert not [one for one in said if "Geheimrat" in str(one.message)]
