"""What DICOM objects that are made of a scan take from its files, read again when one is written.

A `Scan` carries nothing of a patient. Only here is read whose study it belongs to, and only what
an object of that study must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanogan.scans.checks import BadScan
from fanogan.scans.dicom import FRAME_TAGS, frame_header, read_elements
from fanogan.scans.dicom_place import frame_affine
from fanogan.scans.gather import is_dicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_REQUIRED = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
_OWNER = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
]
"""What the modules of patient and study must hold, besides the study's UID (PS3.3 C.7.1, C.7.2)."""
_IMAGE = [
    *_REQUIRED,
    *("SpecificCharacterSet", "Modality", "Rows", "Columns", "NumberOfFrames"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "ImageLaterality", "Laterality"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
]


@dataclass(frozen=True)
class DicomSource:
    """The images that derived objects refer to, without patient and pixels.

    Attributes:
        images: What an object over all frames refers to: a file of several frames, or files of one
            each; empty where the frames lie in no common space.
        frames: Each frame as an image of its own.
        has_place: Whether the frames lie in a space at all; else `frames` have a place that means
            nothing, since highdicom makes no maps without one.
        has_spacing: Whether the files tell how large a pixel is; else `frames` have sides of 1.
        numbers: The number of each frame in its file, from 1; None where the file has no others.
        owner: Patient and study.
        laterality: 'R' or 'L', where the files say.
    """

    images: tuple[Dataset, ...]
    frames: tuple[Dataset, ...]
    has_place: bool
    has_spacing: bool
    numbers: tuple[int | None, ...]
    owner: Dataset
    laterality: str | None


def check_source(files: Sequence[Path]) -> None:
    """Refuse files that no derived object can refer to.

    Raises:
        BadScan: It is no DICOM, or lacks a UID.
    """
    for path in files:
        if not is_dicom(path):
            raise BadScan(
                f"{path} is no DICOM file, and --dicom writes objects that refer to DICOM files: "
                "give these alone, or leave out --dicom"
            )
        try:
            header = read_elements(path, _REQUIRED)
        except Exception:  # reading it as a scan says what is wrong
            continue
        if lacking := [keyword for keyword in _REQUIRED if not header.get(keyword)]:
            raise BadScan(
                f"{path} has no {lacking[0]}, so that no DICOM object can refer to it: export it "
                "again, or leave out --dicom"
            )


def read_source(files: Sequence[Path]) -> DicomSource:
    """Read what objects made of these files refer to: one file, or those of a series in order.

    Raises:
        BadScan: As `check_source`.
    """
    from pydicom.dataset import Dataset

    check_source(files)
    headers = [read_elements(path, [*_IMAGE, *_OWNER, *FRAME_TAGS]) for path in files]
    first, owner = headers[0], Dataset()
    for keyword in _OWNER:
        setattr(owner, keyword, first.get(keyword, ""))
    if "SpecificCharacterSet" in first:
        owner.SpecificCharacterSet = first.SpecificCharacterSet
    has_numbers = "NumberOfFrames" in first
    own = headers
    if len(headers) == 1:
        own = [frame_header(first, i) for i in range(int(first.get("NumberOfFrames") or 1))]
    sides = map(own[0].get, ("FrameLaterality", "ImageLaterality", "Laterality"))
    images: tuple[Dataset, ...] = ()
    has_place = "FrameOfReferenceUID" in first and None not in map(frame_affine, own)
    if has_place and _in_one_space(own):
        if len(headers) == 1:
            images = (_image(own),)
        elif not has_numbers:  # an object over several files of several frames can't be made
            images = tuple(_image([each], own[0].ImageOrientationPatient) for each in own)
    return DicomSource(
        images,
        tuple(_image([each if has_place else _placed(each)]) for each in own),
        has_place,
        bool(own[0].get("PixelSpacing") or own[0].get("ImagerPixelSpacing")),
        tuple(i + 1 if has_numbers and len(headers) == 1 else None for i in range(len(own))),
        owner,
        next((side for side in sides if side in ("R", "L")), None),
    )


def _placed(frame: Dataset) -> Dataset:
    """Return a frame with a place that means nothing."""
    from pydicom.dataset import Dataset

    made = Dataset()
    made.update(frame)
    made.file_meta = frame.file_meta
    made.FrameOfReferenceUID = made.SOPInstanceUID
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    # Equal to the detector's is what says that it isn't calibrated (PS3.3 10.7.1.3).
    made.PixelSpacing = frame.get("PixelSpacing") or frame.get("ImagerPixelSpacing") or [1, 1]
    return made


def _in_one_space(frames: Sequence[Dataset]) -> bool:
    """Return whether all frames have one direction and spacing, and places of their own."""
    each = np.array([frame_affine(frame) for frame in frames])
    turns = each[:, :3, :2]
    places = {tuple(place) for place in each[:, :3, 3].tolist()}
    return len(places) == len(frames) and np.allclose(turns, turns[0], rtol=0, atol=1e-4)


def _image(frames: Sequence[Dataset], orientation: object = None) -> Dataset:
    """Return the header of an image of these frames, whose place it tells for both kinds of file.

    Files of one frame have it beside everything else, others in functional groups.
    """
    from pydicom.dataset import Dataset

    first, made = frames[0], Dataset()
    made.file_meta = first.file_meta
    for keyword in _IMAGE:
        if keyword in first:
            made.add(first[keyword])
    for keyword in _OWNER:
        setattr(made, keyword, "")
    measures, turn, shared = Dataset(), Dataset(), Dataset()
    for keyword in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"):
        if keyword in first:
            made.add(first[keyword])
            measures.add(first[keyword])
    if "SliceThickness" not in made:
        made.SliceThickness = None
    turn.ImageOrientationPatient = orientation or first.ImageOrientationPatient
    made.ImageOrientationPatient = turn.ImageOrientationPatient
    made.ImagePositionPatient = first.ImagePositionPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    made.NumberOfFrames = len(frames)
    made.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in frames:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = frame.ImagePositionPatient
        group.PlanePositionSequence = [place]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    return made
