"""Commands that fetch scans from an image archive (PACS), and send results back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import date as day
from pathlib import Path

from fanogan.cli import bars, console
from fanogan.cli.arguments import UsageError
from fanogan.cli.console import say
from fanogan.errors import FanoganError
from fanogan.text import counted


def fetch(
    archive: str,
    out: Path = Path("scans"),
    patient: Sequence[str] = (),
    study: Sequence[str] = (),
    series: Sequence[str] = (),
    modality: Sequence[str] = (),
    date: str | None = None,
    dry_run: bool = False,
    pseudonymise: bool = False,
    codes: Path | None = None,
    aet: str = "FANOGAN",
    listen: int | None = None,
    timeout: float = 60.0,
) -> None:
    """Fetch scans from an image archive (PACS), in folders named by study codes.

    Example: fanogan fetch https://pacs.example.org/dicom-web --modality OPT --out scans

    Args:
        archive: https://HOST/PATH for DICOMweb; dimse://TITLE@HOST:PORT, or dimses:// with TLS, for
            DICOM's own protocol. Who asks is told by the environment (FANOGAN_ARCHIVE_USER and
            FANOGAN_ARCHIVE_PASSWORD, or FANOGAN_ARCHIVE_TOKEN) or by ~/.netrc.
        out: the folder of scans to make, or to add to; what is there isn't fetched again.
        patient: ids of patients; * stands for any letters.
        study: UIDs of studies.
        series: UIDs of series; --study, --patient or --date must find them.
        modality: such as OPT (tomography of the eye) and OP (photographs).
        date: of the study, 2026-01-31 or a range, 2026-01-01..2026-01-31; either end may be empty.
        dry_run: only list what would be fetched.
        pseudonymise: take the patient out of the files, by the Basic Profile of the standard.
        codes: the file of study codes, which only you can read; by default
            ~/.local/share/fanogan/codes.csv.
        aet: our own AE title, for dimse.
        listen: receive by C-MOVE at this port, which the archive must know; by C-GET without it.
        timeout: how many seconds an answer may take.
    """
    from fanogan.archive import Chosen, Codes, listed, open_archive
    from fanogan.archive import fetch as fetch_series

    if not (patient or study or modality or date):
        raise UsageError(
            "all that the archive has is too much: give --patient, --study, --modality or --date"
        )
    chosen = Chosen(patient or (), study or (), series or (), modality or (), dates_in(date))
    table = codes or _usual_codes()
    if table.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"--codes {table} lies among the scans, and tells who is who: move it")
    opened = open_archive(archive, aet, listen, timeout)
    with console.status("asking the archive"):
        found, failed = listed(opened, chosen)
    total = sum(one.count or 0 for one in found)
    studies = len({one.study for one in found})
    summary = f"{counted(studies, 'study')}, {len(found):,} series, {counted(total, 'file')}"
    if dry_run:
        console.say_series(found)
        say(summary)
        _raise_failed(failed, len(found))
        return
    with bars.count_bar("fetching", total) as show:
        made = fetch_series(
            opened, found, out, Codes(table), pseudonymise=pseudonymise, on_file=show
        )
    before = f" · {made.here:,} were here already" if made.here else ""
    say(f"{counted(made.fetched, 'file')} fetched of {summary}{before}")
    for reason, count in made.left_out.items():
        say(f"left out: {counted(count, 'file')}: {reason}", "yellow")
    if made.unclear:
        say(
            f"{counted(made.unclear, 'file')} may have text in the pixels, which nothing here "
            "removes: look at them before they leave",
            "yellow",
        )
    say(f"{out}/ · who is who: {table}")
    _raise_failed([*failed, *made.failed], made.fetched + made.here)


def send(
    archive: str,
    results: Sequence[Path] = (),
    aet: str = "FANOGAN",
    timeout: float = 60.0,
) -> None:
    """Send what score --dicom found back into the studies of an image archive (PACS).

    Example: fanogan send https://pacs.example.org/dicom-web results

    Args:
        archive: as for fetch.
        results: folders that score --dicom has written, or dicom.zip of review unpacked; what the
            archive has isn't sent again.
        aet: our own AE title, for dimse.
        timeout: how many seconds an answer may take.
    """
    from fanogan.archive import objects_in, open_archive
    from fanogan.archive import send as send_objects

    if not results:
        raise UsageError("no results: fanogan send ARCHIVE RESULTS")
    files = objects_in(results)
    opened = open_archive(archive, aet, None, timeout)
    with bars.count_bar("sending", len(files)) as show:
        made = send_objects(opened, files, on_file=show)
    there = f" · {made.there:,} were there already" if made.there else ""
    say(f"{counted(made.sent, 'object')} sent{there}")
    _raise_failed(made.failed, made.sent + made.there)


def dates_in(text: str | None) -> str:
    """Return a day, or a range of days, as DICOM asks for it."""
    if text is None:
        return ""
    try:
        ends = [part and day.fromisoformat(part) for part in text.split("..")]
        if len(ends) > 2 or not any(ends) or (all(ends) and ends != sorted(ends, key=str)):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--date {text}: give a day such as 2026-01-31, or the first and the last with two "
            "dots between them, 2026-01-01..2026-01-31"
        ) from None
    return "-".join(f"{end:%Y%m%d}" if isinstance(end, day) else "" for end in ends)


def _usual_codes() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base, "fanogan", "codes.csv")


def _raise_failed(failed: Sequence[FanoganError], done: int) -> None:
    """Say what went wrong with some, each reason once, now that all others are done."""
    if failed:
        reasons = Counter(map(str, failed))
        said = "; ".join(f"{reason} ({count:,}×)" for reason, count in reasons.most_common(3))
        raise FanoganError(f"{len(failed):,} failed, {done:,} are done: {said}")
