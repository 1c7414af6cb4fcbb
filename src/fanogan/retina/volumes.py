"""Volumes come in and are flattened: from files, from a prepared store, or from memory."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from fanogan.remote import copy_of
from fanogan.retina.flat_volume import FlatVolume, straighten
from fanogan.retina.flatten import FlatSpace
from fanogan.retina.pictures import PicturesAs, join_pictures
from fanogan.retina.store import StoredVolume, is_store, stored_volumes
from fanogan.scans import (
    PICTURES,
    BadScan,
    FileList,
    Scan,
    ScanSource,
    Sharded,
    Spacing,
    composed,
    empty_frames_note,
    extension,
    find_scans,
    good_ones,
    is_array_like,
    is_dicom,
    kept_sources,
    on_this_machine,
    read_scan,
    silence_decoders,
    stack_bscans,
)

VolumeSource: TypeAlias = ScanSource | Scan | StoredVolume
"""A volume that can be read: a file or the pictures of a folder, from memory, or from a store."""

MOST_PROCESSES = 4
"""Volumes flattened at a time: each takes a core, and up to one gigabyte."""


def read_volumes(
    source: Any,
    space: FlatSpace,
    *,
    groups: str | None = None,
    pictures: PicturesAs = "auto",
    spacing: Spacing | None = None,
    skip_bad: bool = False,
    on_bad: Callable[[BadScan], None] | None = None,
    done: Set[str] = frozenset(),
) -> Iterator[FlatVolume]:
    """Read many volumes in flat space, in order, a few ahead.

    Args:
        source: As for `find_volumes`.
        space: The flat area.
        groups: Whose files these are, as for `find_scans`.
        pictures: What the pictures of a folder are, as for `find_volumes`.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.
        skip_bad: Continue after a volume that cannot be used, with a warning in the log.
        on_bad: Called with the error of each volume skipped, and with a sentence on files
            without an image, which are passed over with a warning in the log.
        done: Names of volumes to leave out, since they were used before.

    Raises:
        BadScan: Nothing found; a bad volume, unless `skip_bad`; or nothing but bad ones.
    """
    found = find_volumes(source, groups, on_bad, pictures)
    sources = [volume for volume in found if volume.name not in done]
    flat = straightened(sources, space, spacing)
    good = good_ones(flat, skip_bad, on_bad, noun="volumes", before=len(done))
    return cast(Iterator[FlatVolume], good)


def find_volumes(
    source: Any,
    groups: str | None = None,
    on_left_out: Callable[[BadScan], None] | None = None,
    pictures: PicturesAs = "auto",
) -> list[VolumeSource]:
    """Find the volumes and single B-scans to read, name them, and say whose they are.

    The pictures in a folder (PNG, JPEG, BMP, TIFF of one page) are the B-scans of one volume, in
    natural order (2 before 10), named as the folder is; if `groups` are given, those of one folder
    and one subject: 'folder/subject' where a folder holds several subjects. They are single
    B-scans, each with its own name, where their sizes differ or their names hold no running number.
    What was decided is logged.

    Args:
        source: A folder, file, glob or `FileList` as for `find_scans`, a store that `prepare`
            made, a `Scan`, a `FlatVolume`, or a list of any of these; or `Sharded`, whose volumes
            are put together first.
        groups: As for `find_scans`; of files only.
        on_left_out: As for `find_scans`.
        pictures: 'bscans' or 'volumes' say what the pictures of all folders are, without regard
            to sizes and names. Files of several B-scans are volumes in any case.

    Returns:
        The volumes in the order given; the pictures of one are the parts of a `ScanSource` whose
        path is their folder.

    Raises:
        BadScan: As `find_scans`; arrays; or a store that is damaged or of another kind.
    """
    if isinstance(source, Sharded):
        if source.found:
            return list(kept_sources(source.found, on_left_out))
        whole = find_volumes(source.source, groups, on_left_out, pictures)
        return [each for each in whole if source.shard.holds(composed(each.name))]

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
    found: list[VolumeSource] = []
    for what, run in groupby(entries, kind):
        if what == "memory":
            found += run
        elif what == "store":
            found += chain.from_iterable(stored_volumes(path) for path in run)
        else:
            paths = list(run)
            files = find_scans(paths, groups, on_left_out)
            if pictures != "bscans" and any(_is_remote_picture(file) for file in files):
                if isinstance(paths[0], FileList):
                    raise BadScan(
                        f"{paths[0]} lists pictures at URLs, which may be a volume together: give "
                        "their folders, or --bscans"
                    )
                # Their sizes and names tell.
                files = find_scans([copy_of(path) for path in paths], groups, on_left_out)
            # Of a list whose own column names the subjects.
            has_subjects = isinstance(paths[0], FileList) and files[0].group != files[0].name
            by_subject = groups is not None or has_subjects
            found += (file for file in files if file.url)
            here = [file for file in files if not file.url]
            found += join_pictures(here, pictures, by_subject, on_left_out)
    return found


def _is_remote_picture(file: ScanSource) -> bool:
    return file.url is not None and extension(file.path) in PICTURES


def straightened(
    sources: Sequence[VolumeSource], space: FlatSpace, spacing: Spacing | None = None
) -> Iterator[FlatVolume | BadScan]:
    """Read volumes and flatten them in several processes, in the order given.

    Args:
        sources: As from `find_volumes`.
        space: The flat area.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.

    Returns:
        One volume for each source, or the `BadScan` that says why it cannot be used.

    Raises:
        BadScan: The extra that flattening needs isn't installed.
    """
    work = partial(_flat_or_error, space=space, spacing=spacing)
    counts = Counter(source.name for source in sources)
    raw = [source for source in sources if counts[source.name] == 1 and _is_raw(source)]
    if raw:
        try:
            import loky  # noqa: F401
            import maxflow  # noqa: F401
        except ImportError as error:
            raise BadScan(
                "flattening retinal OCT needs an extra: pip install 'fanogan[oct]'"
            ) from error
    with contextlib.closing(_by_processes(work, raw)) as results:
        for source in sources:
            if counts[source.name] > 1:
                yield BadScan(
                    f"{counts[source.name]} volumes are called {source.name}: rename all but one"
                )
            else:
                yield next(results) if _is_raw(source) else work(source)


# --- one volume ---------------------------------------------------------------------------------


def _is_raw(source: VolumeSource) -> bool:
    """Whether the retina has yet to be found, which takes seconds."""
    return not isinstance(source, FlatVolume | StoredVolume)


def _flat_or_error(
    source: VolumeSource, space: FlatSpace, spacing: Spacing | None
) -> FlatVolume | BadScan:
    """Read a volume, fill in what is known of it, and flatten it."""
    try:
        if isinstance(source, FlatVolume):
            return source.in_space(space)
        if isinstance(source, StoredVolume):
            return source.read(space)
        scan = _read(source) if isinstance(source, ScanSource) else source
        between, row, column = (
            given if own is None else own
            for own, given in zip(scan.spacing, spacing or scan.spacing, strict=True)
        )
        notes = scan.notes
        if len(scan.pixels) > 1 and not scan.is_volume:
            notes += empty_frames_note(scan.pixels)
        scan = replace(scan, spacing=(between, row, column), notes=tuple(dict.fromkeys(notes)))
        return straighten(scan, space)
    except BadScan as error:
        return error
    except MemoryError:
        return BadScan(f"{source.name} does not fit into memory: split it into smaller volumes")


def _read(source: ScanSource) -> Scan:
    if source.url:
        with on_this_machine(source) as here:
            return replace(_read(here), files=())
    if source.path.is_dir():
        # The current folder is '.', which says little.
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


# --- many volumes -------------------------------------------------------------------------------


def _by_processes(
    work: Callable[[VolumeSource], FlatVolume | BadScan], sources: Sequence[VolumeSource]
) -> Generator[FlatVolume | BadScan]:
    """Do the work for each source, in order, in as many processes as there are free cores.

    Processes, since half of the time goes into a graph cut that threads cannot share; loky's,
    since those of the standard library run a user's script anew unless it guards against that.
    """
    from multiprocessing import resource_tracker

    from loky import ProcessPoolExecutor, cpu_count

    count = min(cpu_count(), MOST_PROCESSES, len(sources))
    if count < 2:
        yield from map(work, sources)
        return
    resource_tracker.ensure_running()  # started below, it would unblock Ctrl-C again
    pool = ProcessPoolExecutor(
        count, env={"OMP_NUM_THREADS": "1"}, initializer=_begin, initargs=(os.getpid(),)
    )
    remaining = iter(sources)
    waiting: deque[Future[FlatVolume | BadScan]] = deque()

    def submit(most: int) -> None:
        with _ctrl_c_blocked():
            waiting.extend(pool.submit(work, source) for source in islice(remaining, most))

    try:
        submit(count)
        while waiting:
            result = waiting.popleft().result()
            submit(1)
            yield result
    except BrokenProcessPool as error:
        raise BadScan(
            "a process that searched for the retina was killed, most likely for lack of memory: "
            "close other programs, and start again"
        ) from error
    finally:
        pool.shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Start processes that inherit what is blocked: Ctrl-C is this process's to answer."""
    if sys.platform == "win32":  # which can't block it
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Keep this process silent, and end it soon after `parent`, which may be killed."""
    silence_decoders()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
