"""DICOM images without their patient, by the Basic Profile of PS3.15 and more.

The profile's table is dicom-anonymizer's. What it does with it is not: it doesn't look into the
items of sequences, where patients are named too.
"""

from __future__ import annotations

import functools
import importlib
import io
from typing import Any

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from fanogan.archive.codes import Codes
from fanogan.archive.errors import ArchiveError

_EDITION = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
_NO_IMAGE = (
    *("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.104."),  # reports, documents
    *("1.2.840.10008.5.1.4.1.1.11.", "1.2.840.10008.5.1.4.1.1.9."),  # presentations, waveforms
    *("1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.77.1.5.3"),  # raw data, measurements
)
_DUMMIES: dict[str, Any] = {
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "AS": "000Y",
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "UL", "US"), 0),
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED"),
}


class LeftOut(Exception):
    """Why an object can't be freed of its patient."""


def deidentified(data: bytes, codes: Codes, code: str) -> tuple[bytes, bool]:
    """Return a file without its patient, and whether text may be burnt into its pixels.

    Private elements, those that the standard doesn't know, overlays and curves go too, and so does
    what surrounds the data set: preamble, meta header, padding.

    Args:
        data: of the file.
        codes: by which UIDs are replaced.
        code: the patient's.

    Raises:
        LeftOut: it is no image, or says that text is burnt into its pixels.
        ArchiveError: it can't be read.
    """
    try:
        made = dcmread(io.BytesIO(data))
        if made.SOPClassUID.startswith(_NO_IMAGE) or "Rows" not in made:
            raise LeftOut("it is no image, and its text can name anybody")
        if str(made.get("BurnedInAnnotation") or "").strip() == "YES":
            raise LeftOut("it says that the patient can be read in its pixels")
        _free(made, codes)
        made.PatientName = made.PatientID = code
        made.PatientIdentityRemoved = "YES"
        made.LongitudinalTemporalInformationModified = "REMOVED"
        made.DeidentificationMethod = "fanogan, by the Basic Profile of PS3.15"
        method = Dataset()
        method.CodeValue, method.CodingSchemeDesignator = "113100", "DCM"
        method.CodeMeaning = "Basic Application Confidentiality Profile"
        made.DeidentificationMethodCodeSequence = [method]
        syntax, made.preamble = made.file_meta.TransferSyntaxUID, bytes(128)
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
    except (LeftOut, MemoryError):
        raise
    except Exception:  # 'from None': pydicom's messages may quote the file's content
        raise ArchiveError(
            "an object has a header that can't be freed of its patient: have it exported again"
        ) from None
    return buffer.getvalue(), made.get("BurnedInAnnotation") != "NO"


def _free(made: Dataset, codes: Codes) -> None:
    """Free a data set and the items of its sequences."""
    removed, emptied, replaced = _profile()
    for tag in list(made.keys()):
        group = tag >> 16
        # Overlays and curves are repeating groups: the dictionary has none of their tags.
        if not dictionary_has_tag(tag) or tag in removed or group in (0x0002, 0xFFFC):
            del made[tag]
            continue
        element = made[tag]
        if element.VR == "SQ":
            if tag in replaced or tag in emptied:
                element.value = []
            for item in element.value:
                _free(item, codes)
        elif tag in emptied:
            element.value = None
        elif element.VR == "UI":
            _replace_uids(element, codes)
        elif tag in replaced or element.VR in ("PN", "UN"):
            if element.VR in _DUMMIES:
                element.value = _DUMMIES[element.VR]
            else:
                del made[tag]


def _replace_uids(element: DataElement, codes: Codes) -> None:
    """Replace UIDs, but those that the standard itself gives."""
    several = element.value if element.VM > 1 else [element.value]
    made = [one if UID(one).is_private is False else codes.uid_of(one) for one in several if one]
    element.value = made if element.VM > 1 else made[0] if made else None


@functools.cache
def _profile() -> tuple[set[int], set[int], set[int]]:
    """Return the tags of which the profile wants an element removed, empty, or with a dummy."""
    table = importlib.import_module(_EDITION)

    def tags(*names: str) -> set[int]:
        each = [tag for name in names for tag in getattr(table, f"{name}_TAGS")]
        return {tag[0] << 16 | tag[1] for tag in each if len(tag) == 2}

    return tags("X"), tags("Z", "X_Z"), tags("D", "Z_D", "X_D", "X_Z_D")
