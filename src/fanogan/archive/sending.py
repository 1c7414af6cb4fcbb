"""What was found goes back into the study that it belongs to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fanogan.archive.errors import WAITS, ArchiveError, Unreachable, patiently
from fanogan.archive.opened import Archive

log = logging.getLogger(__name__)

_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass
class Sent:
    """What became of the objects: sent, there already, or what the archive said against them."""

    sent: int = 0
    there: int = 0
    failed: list[ArchiveError] = field(default_factory=list)


def objects_in(results: Sequence[Path]) -> list[Path]:
    """Return the objects that folders of results hold.

    Raises:
        ArchiveError: a folder has none.
    """
    return [path for folder in results for path in _objects_in(folder)]


def _objects_in(folder: Path) -> Iterator[Path]:
    found = sorted((folder / "dicom").rglob("*.dcm"))
    if not found:
        raise ArchiveError(
            f"{folder} has no DICOM objects to send: fanogan score MODEL SCANS --out {folder} "
            "--dicom writes them, and dicom.zip of fanogan review holds them"
        )
    yield from found


def send(
    archive: Archive, files: Sequence[Path], on_file: Callable[[int], None] = lambda count: None
) -> Sent:
    """Send objects that the archive doesn't have.

    It is asked first, and asked again after a try whose end nobody knows, so that nothing is sent
    twice. Objects of a study that it doesn't have are not sent: they would lie alone.

    Args:
        archive: where to.
        files: the objects.
        on_file: is told how many are done.

    Raises:
        ArchiveError: the archive is gone.
    """
    made = Sent()
    known: dict[str, bool] = {}
    for count, path in enumerate(files, start=1):
        try:
            _send(archive, path, made, known)
        except Unreachable:
            raise
        except ArchiveError as error:
            made.failed.append(error)
        on_file(count)
    return made


def _send(archive: Archive, path: Path, made: Sent, known: dict[str, bool]) -> None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        header = dcmread(path, specific_tags=list(_KEYS), stop_before_pixels=True)
        keys = {keyword: str(header[keyword].value) for keyword in _KEYS}
    except (InvalidDicomError, LookupError):
        raise ArchiveError(f"{path} is no DICOM object, or damaged: score again") from None
    study = keys["StudyInstanceUID"]
    if study not in known:
        found = patiently(lambda: archive.find("STUDY", {"StudyInstanceUID": study}))
        known[study] = bool(found)
    if not known[study]:
        raise ArchiveError(
            f"{path} is of a study that the archive doesn't have: send to the archive that its "
            "scan came from; what was pseudonymised can't go back"
        )

    def is_there() -> bool:
        return bool(patiently(lambda: archive.find("IMAGE", keys)))

    waits = iter(WAITS)
    has_tried = False
    while not is_there():
        try:
            archive.store(path)
        except Unreachable as error:
            has_tried, wait = True, next(waits, None)
            if wait is None:
                raise
            log.warning("%s; asking in %g s whether it has arrived", error, wait)
            time.sleep(wait)
            continue
        made.sent += 1
        return
    made.sent += has_tried
    made.there += not has_tried
