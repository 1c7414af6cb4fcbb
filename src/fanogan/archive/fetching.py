"""Scans come out of an archive: chosen, listed, and each written whole or not at all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fanogan.archive.codes import Codes
from fanogan.archive.errors import ArchiveError, Unreachable, patiently
from fanogan.archive.opened import Archive
from fanogan.storage import LOCK, exclusive, remove_unfinished, write_whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MARK = ".fanogan-fetched"
"""Says in a folder of scans by which codes it is named, and whether it tells its patients."""


@dataclass(frozen=True)
class Chosen:
    """What to fetch; all of it where a field is empty.

    Attributes:
        patients: ids.
        studies: UIDs.
        series: UIDs.
        modalities: such as OPT.
        dates: of the study, as DICOM writes a range: 20260101-20260131.
    """

    patients: Sequence[str] = ()
    studies: Sequence[str] = ()
    series: Sequence[str] = ()
    modalities: Sequence[str] = ()
    dates: str = ""


@dataclass(frozen=True)
class Series:
    """A series in an archive."""

    patient: str
    study: str
    date: str
    uid: str
    modality: str
    description: str
    count: int | None


@dataclass
class Fetched:
    """What became of the instances.

    Attributes:
        fetched: were written.
        here: had been written before.
        left_out: how many for which reason, where patients are taken out.
        unclear: were written and don't say whether text is burnt into their pixels.
        failed: a reason for each that can't be had.
    """

    fetched: int = 0
    here: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unclear: int = 0
    failed: list[ArchiveError] = field(default_factory=list)


def listed(archive: Archive, chosen: Chosen) -> tuple[list[Series], list[ArchiveError]]:
    """Return the series that are chosen, in the order of patients and dates, and what failed.

    Raises:
        ArchiveError: there is none, or the archive doesn't say.
    """
    found: dict[str, Series] = {}
    failed: list[ArchiveError] = []
    one_kind = chosen.modalities[0] if len(chosen.modalities) == 1 else ""
    for patient, number in itertools.product(chosen.patients or [""], chosen.studies or [""]):
        keys = {
            "PatientID": patient,
            "StudyInstanceUID": number,
            "StudyDate": chosen.dates,
            "ModalitiesInStudy": one_kind,
        }
        for study in patiently(lambda keys=keys: archive.find("STUDY", keys)):  # type: ignore[misc]
            try:
                for series in _series_of(archive, study):
                    if chosen.modalities and series.modality not in chosen.modalities:
                        continue
                    if not chosen.series or series.uid in chosen.series:
                        found[series.uid] = series
            except Unreachable:
                raise
            except ArchiveError as error:
                failed.append(error)
    if not found and not failed:
        raise ArchiveError(
            "the archive has nothing like that: check ids, modality and dates, and whether this "
            "user may see it"
        )
    order = sorted(found.values(), key=lambda one: (one.patient, one.date, one.study, one.uid))
    return order, failed


def _series_of(archive: Archive, study: Dataset) -> Iterator[Series]:
    number = _text(study, "StudyInstanceUID")
    asked = ("SeriesInstanceUID", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")
    keys = {"StudyInstanceUID": number, **dict.fromkeys(asked, "")}
    for each in patiently(lambda: archive.find("SERIES", keys)):
        uid, modality, description, count = (_text(each, keyword) for keyword in asked)
        yield Series(
            patient=_text(study, "PatientID"),
            study=number,
            date=_text(study, "StudyDate"),
            uid=uid,
            modality=modality,
            description=description,
            count=int(count) if count.isdigit() else None,
        )


def _text(found: Dataset, keyword: str) -> str:
    value = found.get(keyword)
    return "" if value is None else str(value).strip()


def fetch(
    archive: Archive,
    series: Sequence[Series],
    out: Path,
    codes: Codes,
    *,
    pseudonymise: bool = False,
    on_file: Callable[[int], None] = lambda count: None,
) -> Fetched:
    """Fetch what isn't here already, as ``out/CODE/STUDY/INSTANCE.dcm``.

    No name holds anything of a patient: the first folder is the study code, the others are digests
    of UIDs, so that the same instance has the same name each time.

    Args:
        archive: where they are.
        series: which.
        out: the folder of scans; those of a patient lie in one folder, those of a study too.
        codes: of patients.
        pseudonymise: write files without their patients.
        on_file: is told how many instances are done.

    Raises:
        ArchiveError: the archive is gone, or the folder was made in another way.
        OSError: a file can't be written.
    """
    made = Fetched()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(out / LOCK, ArchiveError(f"{out}: another process is fetching into it")):
        _mark(out, codes, pseudonymise)
        for one in series:
            code = codes.code_of(one.patient or one.study)
            folder = out / code / codes.digest("study", one.study)[:12]
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder.iterdir())
            try:
                place = _Folder(folder, codes, code, pseudonymise, made, on_file)
                _fetch_series(archive, one, place)
            except Unreachable:
                raise
            except ArchiveError as error:
                made.failed.append(error)
    return made


def _mark(out: Path, codes: Codes, pseudonymise: bool) -> None:
    """Keep scans that tell their patients apart from those that don't, and codes from others."""
    ways = {way: f"{codes.digest('folder', way)}\n" for way in ("with", "without")}
    mark, way = out / MARK, "without" if pseudonymise else "with"
    before = mark.read_text("utf-8") if mark.exists() else ways[way]
    if before not in ways.values():
        raise ArchiveError(
            f"{out} was fetched with other codes, by which everything would be fetched again: give "
            "that file as --codes, or another folder"
        )
    if before != ways[way]:
        raise ArchiveError(
            f"{out} was fetched {'with' if pseudonymise else 'without'} patients' names in its "
            "files, and the two must not be mixed: give another folder"
        )
    write_whole(mark, before.encode())


@dataclass
class _Folder:
    """Where the instances of a study are kept."""

    path: Path
    codes: Codes
    code: str
    pseudonymise: bool
    made: Fetched
    on_file: Callable[[int], None]
    troubles: list[ArchiveError] = field(default_factory=list)

    def file(self, uid: str, ending: str = ".dcm") -> Path:
        return self.path / f"{self.codes.digest('instance', uid)[:16]}{ending}"

    def has(self, uid: str) -> bool:
        return self.file(uid).exists() or self.file(uid, ".left-out.txt").exists()

    def keep(self, uid: str, data: bytes) -> None:
        """Write an instance, or why it is left out."""
        from fanogan.archive.deidentify import LeftOut, deidentified

        try:
            if self.pseudonymise:
                data, is_unclear = deidentified(data, self.codes, self.code)
                self.made.unclear += is_unclear
            write_whole(self.file(uid), data)
            self.made.fetched += 1
        except LeftOut as reason:
            self.leave_out(uid, str(reason))
        except ArchiveError as error:
            self.troubles.append(error)
        self.tell()

    def leave_out(self, uid: str, reason: str) -> None:
        write_whole(self.file(uid, ".left-out.txt"), f"{reason}\n".encode())
        self.made.left_out[reason] += 1

    def tell(self) -> None:
        made = self.made
        self.on_file(made.fetched + made.here + made.left_out.total() + len(made.failed))


def _fetch_series(archive: Archive, series: Series, folder: _Folder) -> None:
    keys = {
        "StudyInstanceUID": series.study,
        "SeriesInstanceUID": series.uid,
        "SOPInstanceUID": "",
        "SOPClassUID": "",
    }
    answers = patiently(lambda: archive.find("IMAGE", keys))
    classes = {_text(one, "SOPInstanceUID"): _text(one, "SOPClassUID") for one in answers}
    wanted = {uid: sop_class for uid, sop_class in classes.items() if not folder.has(uid)}
    folder.made.here += len(classes) - len(wanted)
    folder.tell()

    def rest() -> list[ArchiveError]:
        lacking = {uid: sop_class for uid, sop_class in wanted.items() if not folder.has(uid)}
        return archive.retrieve(series.study, series.uid, lacking, folder.keep) if lacking else []

    reasons = patiently(rest) + folder.troubles
    if not reasons:
        reasons = [ArchiveError("the archive lists files that it doesn't give: see its log")]
    lacking = sum(not folder.has(uid) for uid in wanted)
    folder.made.failed += (reasons * lacking)[:lacking]
