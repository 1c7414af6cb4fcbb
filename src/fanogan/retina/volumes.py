"""Volumes come in and are made straight: from files, from a prepared store, or from memory."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from fanogan.retina.flat_volume import FlatSpace, FlatVolume, straighten
from fanogan.retina.store import StoredVolume, is_store, stored_volumes
from fanogan.scans import (
    PICTURES,
    BadScan,
    Scan,
    ScanSource,
    Spacing,
    empty_frames_note,
    extension,
    find_scans,
    is_array_like,
    is_dicom,
    is_stack,
    natural_key,
    read_scan,
    silence_decoders,
    stack_bscans,
)

logger = logging.getLogger(__name__)

MOST_PROCESSES = 4
"""Volumes straightened at a time: each takes a core, and up to one gigabyte."""


def read_volumes(
    source: Any,
    space: FlatSpace,
    *,
    groups: str | None = None,
    spacing: Spacing | None = None,
    skip_bad: bool = False,
    on_bad: Callable[[BadScan], None] | None = None,
) -> Iterator[FlatVolume]:
    """Reads many volumes in flat space, in order, a few ahead.

    Args:
        source: As `find_volumes` takes it.
        space: The area that the retina is brought into.
        groups: Whose files these are, as `find_scans` says.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.
        skip_bad: Go on after a volume that cannot be used, with a warning in the log.
        on_bad: Called with the error of each volume skipped.

    Returns:
        An iterator over the volumes.

    Raises:
        BadScan: Nothing found; a bad volume, unless `skip_bad`; or nothing but bad ones.
    """
    found = find_volumes(source, groups)
    return _good(straightened(found, space, spacing), skip_bad, on_bad)


def find_volumes(source: Any, groups: str | None = None) -> list[ScanSource | Scan | StoredVolume]:
    """Finds the volumes to read, names them, and says whose they are.

    The pictures of one folder (PNG, JPEG, BMP, TIFF of one page) are the B-scans of one volume,
    in natural order (2 before 10), named as the folder is. Where `groups` are given, those of one
    folder and one subject are one volume: 'folder/subject' where a folder holds several subjects.

    Args:
        source: A folder, file or glob as `find_scans` takes it, a store that `prepare` made, a
            `Scan`, a `FlatVolume`, or a list of any of these.
        groups: As `find_scans` says; of files only.

    Returns:
        The volumes in the order given. A `ScanSource` whose path is a folder has its pictures as
        parts.

    Raises:
        BadScan: As `find_scans`; arrays; or a store that is damaged or of another kind.
    """

    def kind(entry: Any) -> str:
        if isinstance(entry, Scan):
            return "memory"
        return "store" if is_store(entry) else "files"

    entries = source if isinstance(source, list | tuple) else [source]
    if not entries:
        raise BadScan("no volumes in an empty list: give folders, files, globs or a store")
    if any(is_array_like(entry) for entry in entries):
        raise BadScan(
            "arrays don't say how large a pixel is: give each volume as fanogan.Scan(pixels, "
            "name, group, spacing)"
        )
    found: list[ScanSource | Scan | StoredVolume] = []
    for what, run in groupby(entries, kind):
        if what == "memory":
            found += run
        elif what == "store":
            found += chain.from_iterable(stored_volumes(path) for path in run)
        else:
            files = find_scans(list(run), groups)
            in_store = {
                folder
                for folder in {file.path.parent for file in files}
                if any(is_store(outer) for outer in (folder, *folder.parents))
            }
            files = [file for file in files if file.path.parent not in in_store]
            found += _joined(files, is_by_subject=groups is not None)
    return found


def straightened(
    sources: Sequence[ScanSource | Scan | StoredVolume],
    space: FlatSpace,
    spacing: Spacing | None = None,
) -> Iterator[FlatVolume | BadScan]:
    """Reads volumes and makes them straight, by several processes, in the order given.

    Args:
        sources: As `find_volumes` gives them.
        space: The area that the retina is brought into.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.

    Returns:
        An iterator with one volume a source; in the place of one that cannot be used, the
        `BadScan` that says why.
    """
    counts = Counter(source.name for source in sources)
    raw = [
        source
        for source in sources
        if isinstance(source, ScanSource | Scan)
        and not isinstance(source, FlatVolume)
        and counts[source.name] == 1
    ]
    work = partial(_straighten_or_error, space=space, spacing=spacing)
    with contextlib.closing(_by_processes(work, raw)) as results:
        for source in sources:
            if counts[source.name] > 1:
                yield BadScan(
                    f"{counts[source.name]} volumes are called {source.name}: rename all but one"
                )
            elif isinstance(source, ScanSource | Scan) and not isinstance(source, FlatVolume):
                yield next(results)
            else:
                yield _already_straight(source, space)


# --- which files are one volume -----------------------------------------------------------------


def _joined(files: Sequence[ScanSource], is_by_subject: bool) -> list[ScanSource]:
    """Joins the pictures of each folder, or of each folder and subject, to one volume."""
    members: dict[tuple[Path, str | None], list[ScanSource]] = {}
    for file in files:
        if _is_picture(file):
            key = file.path.parent, file.group if is_by_subject else None
        else:
            key = file.path, file.key
        members.setdefault(key, []).append(file)
    pictures = {key: items for key, items in members.items() if _is_picture(items[0])}
    names = _folder_names(pictures)
    joined = {key: _folder_source(names[key], items) for key, items in pictures.items()}
    return [joined.get(key, items[0]) for key, items in members.items()]


def _is_picture(file: ScanSource) -> bool:
    kind = extension(file.path)
    if file.parts or kind not in PICTURES:
        return False
    return kind not in (".tif", ".tiff") or not is_stack(file.path)


def _folder_source(name: str, pictures: Sequence[ScanSource]) -> ScanSource:
    first = pictures[0]
    parts = sorted((file.path for file in pictures), key=lambda path: natural_key(path.name))
    # Without folders or a rule a picture is its own subject, and so is the volume.
    group = name if first.group == first.name else first.group
    return ScanSource(first.path.parent, name, group, parts=tuple(parts))


def _folder_names(
    pictures: dict[tuple[Path, str | None], list[ScanSource]],
) -> dict[tuple[Path, str | None], str]:
    """Names each volume by its folder, with more of the path where two would be called alike."""
    subjects = Counter(folder for folder, _ in pictures)
    paths = {key: Path(os.path.abspath(key[0])).parts[1:] or ("B-scans",) for key in pictures}
    depths = {key: max(items[0].name.count("/"), 1) for key, items in pictures.items()}

    def name(key: tuple[Path, str | None]) -> str:
        folder, subject = key
        own = [subject] if subject and subjects[folder] > 1 else []
        return "/".join([*paths[key][-depths[key] :], *own])

    while True:
        names = {key: name(key) for key in pictures}
        counts = Counter(names.values())
        alike = [
            key for key in pictures if counts[names[key]] > 1 and depths[key] < len(paths[key])
        ]
        if not alike:
            return names
        for key in alike:
            depths[key] += 1


# --- one volume ---------------------------------------------------------------------------------


def _straighten_or_error(
    source: ScanSource | Scan, space: FlatSpace, spacing: Spacing | None
) -> FlatVolume | BadScan:
    try:
        return _straighten(source, space, spacing)
    except BadScan as error:
        return error
    except MemoryError:
        return BadScan(f"{source.name} does not fit into memory: split it into smaller volumes")


def _straighten(source: ScanSource | Scan, space: FlatSpace, spacing: Spacing | None) -> FlatVolume:
    """Reads a volume, fills in what is known of it, and makes it straight."""
    scan = source if isinstance(source, Scan) else _read(source)
    between, row, column = (
        given if own is None else own
        for own, given in zip(scan.spacing, spacing or scan.spacing, strict=True)
    )
    notes = scan.notes if scan.is_volume else (*scan.notes, *empty_frames_note(scan.pixels))
    scan = replace(scan, spacing=(between, row, column), notes=tuple(dict.fromkeys(notes)))
    return straighten(scan, space)


def _read(source: ScanSource) -> Scan:
    if source.path.is_dir():
        # The folder one is in is '.', which says little.
        folder = source.path if source.path.name else Path(source.name)
        label = source.parts[0] if len(source.parts) == 1 else folder
        return stack_bscans(source.parts, label, source.name, source.group)
    scan = read_scan(source.path, source.name, source.group, source.key, parts=source.parts)
    if is_dicom(source.path) and not scan.is_retina:
        raise BadScan(
            f"{source.path} is DICOM of another kind than ophthalmic tomography: save it as a "
            "TIFF stack if it is OCT all the same, or leave it out with --skip-bad"
        )
    return scan


def _already_straight(source: FlatVolume | StoredVolume, space: FlatSpace) -> FlatVolume | BadScan:
    """Takes a volume from memory or a store, flat anew where another space is wanted."""
    try:
        return source.in_space(space) if isinstance(source, FlatVolume) else source.read(space)
    except BadScan as error:
        return error


# --- many volumes -------------------------------------------------------------------------------


def _by_processes(
    work: Callable[[Any], FlatVolume | BadScan], sources: Sequence[ScanSource | Scan]
) -> Generator[FlatVolume | BadScan]:
    """Does the work for each source, in order, by as many processes as there are free cores.

    Processes, since half of the time goes into a graph cut that threads cannot share; loky's,
    since those of the standard library run a user's script anew unless it guards against that.
    """
    from loky import ProcessPoolExecutor, cpu_count

    count = min(cpu_count(), MOST_PROCESSES, len(sources))
    if count < 2:
        yield from map(work, sources)
        return
    pool = ProcessPoolExecutor(
        count, env={"OMP_NUM_THREADS": "1"}, initializer=_begin, initargs=(os.getpid(),)
    )
    remaining = iter(sources)
    waiting: deque[Future[FlatVolume | BadScan]] = deque()
    try:
        waiting.extend(pool.submit(work, source) for source in islice(remaining, count))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, source) for source in islice(remaining, 1))
            yield result
    except BrokenProcessPool as error:
        raise BadScan(
            "a process that looked for the retina was ended from outside, mostly for want of "
            "memory: close other programs, and start again"
        ) from error
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _begin(parent: int) -> None:
    """Has this process say nothing of its own, and end soon after `parent`, which may be killed."""
    silence_decoders()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _good(
    results: Iterator[FlatVolume | BadScan],
    skip_bad: bool,
    on_bad: Callable[[BadScan], None] | None,
) -> Iterator[FlatVolume]:
    """Yields the volumes, and raises or reports the errors among them."""
    errors: list[BadScan] = []
    good = 0
    for result in results:
        if isinstance(result, FlatVolume):
            good += 1
            yield result
            continue
        if not skip_bad:
            raise result
        errors.append(result)
        logger.warning("skipped: %s", result)
        if on_bad is not None:
            on_bad(result)
    if errors and not good:
        raise none_usable(errors)


def none_usable(errors: Sequence[BadScan]) -> BadScan:
    """Returns the error for volumes of which not one could be used."""
    return BadScan(f"none of {len(errors)} volumes could be used; the first: {errors[0]}")
