"""Made-up DICOM volumes with all that derived objects refer to: CT series, and eyes."""

from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import SECRETS, dataset, item, save
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, OphthalmicTomographyImageStorage

ROOT = "1.2.826.0.1.3680043.8.498.4711"
STUDY, SPACE = f"{ROOT}.1", f"{ROOT}.2"
# Turned about all axes; the third direction is the slices' own.
ALONG_ROWS = np.array([0.8, 0.6, 0.0])
ALONG_COLUMNS = np.array([-0.48, 0.64, 0.6])
NORMAL = np.cross(ALONG_ROWS, ALONG_COLUMNS)
ORIENTATION = [*ALONG_ROWS, *ALONG_COLUMNS]
ORIGIN = np.array([-31.5, 12.25, 100.0])


def of_study(pixels: np.ndarray, sop_class: str, series: int, number: int) -> FileDataset:
    made = dataset(pixels)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    made.SOPInstanceUID = f"{ROOT}.{series}.{number}"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, f"{ROOT}.{series}"
    made.PatientName, made.PatientSex = f"{SECRETS[0]}^Anna", "F"
    made.StudyDate, made.StudyTime, made.StudyID = "20200102", "101112", "7"
    made.AccessionNumber, made.ReferringPhysicianName = "", ""
    made.InstanceNumber = number
    return made


def ct_series(folder: Path, pixels: np.ndarray, apart: float = 2.5) -> list[Path]:
    """A series of single frames, its slices `apart` mm along their normal."""
    folder.mkdir(parents=True)
    paths = []
    for i, frame in enumerate(pixels):
        made = of_study(frame, CTImageStorage, 3, i + 1)
        made.Modality, made.FrameOfReferenceUID = "CT", SPACE
        made.ImageOrientationPatient = ORIENTATION
        made.ImagePositionPatient = [round(value, 6) for value in ORIGIN + i * apart * NORMAL]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.25], apart
        paths.append(save(folder / f"{i}.dcm", made))
    return paths


def eye(
    path: Path, pixels: np.ndarray, spacing: tuple[float, float, float], **elements: Any
) -> Path:
    """One file of ophthalmic tomography; `elements` are set, or left out where None."""
    made = of_study(pixels, OphthalmicTomographyImageStorage, 5, 1)
    between, row, column = spacing
    made.Modality, made.NumberOfFrames, made.FrameOfReferenceUID = "OPT", len(pixels), SPACE
    # B-scans from left to right, depth from front to back, the next B-scan below.
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[row, column], SliceThickness=between)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        FrameAnatomySequence=[item(FrameLaterality="R")],
    )
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[1.5, -2, round(-i * between, 6)])])
        for i in range(len(pixels))
    ]
    made.ImageLaterality = "R"
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, made)
