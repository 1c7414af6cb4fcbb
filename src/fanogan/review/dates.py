"""Days of visits, read from the scans' own files when they are shown.

A day can tell who someone is. So it isn't in results, in the database of a review, or in what goes
out of one; only pages show it, for as long as the file lies where it was scored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from fanogan.scans import extension, is_dicom

_XML_DAY = re.compile(
    rb"<StudyDate>\s*<Date>\s*<Year>(\d{4})</Year>\s*<Month>(\d+)</Month>\s*<Day>(\d+)</Day>"
)
_VOL_DAY_AT, _VOL_DAY_ZERO = 200, date(1899, 12, 30)  # a double: days since then


def day_of(case: Mapping[str, Any]) -> str:
    """Return the day of a case's visit, as 2024-03-19: its file's, else its name's, else ''."""
    files = case["scan"].get("files") or [""]
    path = Path(files[0])
    day = _day(path, path.stat().st_mtime_ns) if path.is_file() else ""
    return day or str(case["visit"])


@lru_cache(maxsize=10_000)
def _day(path: Path, _changed: int) -> str:
    """Return the day in a file's header; `_changed`, when it was changed, renews what is kept."""
    try:
        match extension(path):
            case ".vol":
                with path.open("rb") as file:
                    (days,) = struct.unpack_from("<d", file.read(_VOL_DAY_AT + 8), _VOL_DAY_AT)
                day = (_VOL_DAY_ZERO + timedelta(days)).isoformat() if days > 0 else ""
            case ".xml":
                found = _XML_DAY.search(path.read_bytes().replace(b"\0", b""))
                day = date(*map(int, found.groups())).isoformat() if found else ""
            case ".e2e":
                day = _e2e_day(path)
            case _:
                day = _dicom_day(path) if is_dicom(path) else ""
    except Exception:  # whatever a damaged header leads a reader to: the scan itself says it
        return ""
    return day


def _e2e_day(path: Path) -> str:
    from eyepy.io.he import HeE2eReader
    from eyepy.io.he.e2e_format import TypesEnum

    with HeE2eReader(path) as reader:
        bscans = (bscan for series in reader.series for bscan in series.slices.values())
        first = next(bscan for bscan in bscans if TypesEnum.bscanmeta in bscan.folders)
        return date.fromisoformat(first.get_meta()["acquisitionTime"][:10]).isoformat()


def _dicom_day(path: Path) -> str:
    from pydicom import dcmread

    names = ["AcquisitionDateTime", "AcquisitionDate", "StudyDate"]
    header = dcmread(path, stop_before_pixels=True, specific_tags=names, force=True)
    known = (str(header.get(name) or "")[:8] for name in names)
    return next((date.fromisoformat(day).isoformat() for day in known if len(day) == 8), "")
