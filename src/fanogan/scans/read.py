"""Reading: one file by its content, or many in order."""

from __future__ import annotations

import errno
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fanogan.remote import BadRemote, fetched
from fanogan.scans.arrays import (
    Layout,
    array_images,
    array_scans,
    image_layout,
    is_array_like,
    read_array,
    volume_layout,
)
from fanogan.scans.checks import BadScan, NoneUsable, check, damaged, unusable
from fanogan.scans.cytometry import read_fcs
from fanogan.scans.dicom import read_dicom
from fanogan.scans.find import each_scan, split_key
from fanogan.scans.gather import extension
from fanogan.scans.heidelberg import read_heidelberg
from fanogan.scans.heyex import read_e2e, read_vol
from fanogan.scans.nifti import read_nifti
from fanogan.scans.pixels import finish
from fanogan.scans.raster import read_raster
from fanogan.scans.scan import Scan
from fanogan.scans.series import read_series
from fanogan.scans.signals import (
    SIGNAL_FORMATS,
    SIGNAL_READERS,
    Signal,
    as_signal,
    signal_arrays,
    signal_layout,
)
from fanogan.scans.source import Kind, ScanSource
from fanogan.scans.tiff import read_tiff
from fanogan.scans.volumes import as_volume, volume_scans

logger = logging.getLogger(__name__)

_HEAD_BYTES = 352

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"\x93NUMPY": "npy",
    b"PK": "npz",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    b"HSF-OCT-": "vol",
    b"CMDb": "E2E",
    b"FCS": "FCS",
}
_READERS: dict[str, Callable[[Path], Scan]] = {
    "PNG": read_raster,
    "JPEG": read_raster,
    "BMP": read_raster,
    "TIFF": read_tiff,
    "DICOM": read_dicom,
    "Heidelberg XML": read_heidelberg,
    "vol": read_vol,
    "E2E": read_e2e,
    "FCS": read_fcs,
    **SIGNAL_READERS,
}
_BY_EXTENSION = {
    **dict.fromkeys((".nii", ".nii.gz", ".hdr"), "NIfTI"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **{".xml": "Heidelberg XML", ".vol": "vol", ".e2e": "E2E"},
    **SIGNAL_FORMATS,
}
ARRAYS = ("npy", "npz")
_LAYOUTS: dict[Kind, Layout] = {
    **{"image": image_layout, "signal": signal_layout, "volume": volume_layout}
}
_EXTRAS = {
    **{"DICOM": "dicom", "NIfTI": "nifti", "vol": "oct", "E2E": "oct"},
    **dict.fromkeys(("sound", "EDF", "WFDB", "FCS"), "signals"),
}
_DECODERS = ("PIL", "eyepy", "highdicom", "nibabel", "pydicom", "tifffile")
_WITH_PATIENT = ("DICOM", "Heidelberg XML", "vol", "E2E", "EDF", "WFDB", "FCS")


def read_scan(
    path: str | Path,
    name: str | None = None,
    group: str | None = None,
    key: str | None = None,
    *,
    may_be_constant: bool = False,
    as_stored: bool = False,
    parts: Sequence[Path] = (),
    in_parts: bool = False,
    kind: Kind = "image",
) -> Scan:
    """Read one file; its content decides the format.

    Args:
        path: The file, or 'file.npz:key'; for a Heidelberg export its XML.
        name: The scan's name; the file's name where None.
        group: The subject; the scan's name where None.
        key: The array's name inside a .npz.
        may_be_constant: Whether one value everywhere is allowed, as in a mask.
        as_stored: Whether dtype and channels stay as stored, as in a mask.
        parts: The files of a DICOM series in order, as `find_scans` gives them; `path` is the
            first of them.
        in_parts: Whether a NIfTI too large for memory may stay where it lies, as `read_nifti` says.
        kind: What an array file holds, all of which is read.

    Raises:
        BadScan: The file cannot be used; the message says why, and what to do.
    """
    path = Path(path)
    if key is None:
        path, key = split_key(path)
    label = str(path) if key is None else f"{path}:{key}"
    name = name or Path(label).name
    with _explained(label, "an image"):
        found = format_of(path)
    with _explained(label, found):
        if parts:
            scan = read_series(parts)
        elif found == "NIfTI":
            scan = read_nifti(path, in_parts=in_parts)
        elif found in ARRAYS:
            scan = read_array(path, key, _LAYOUTS[kind])
        else:
            scan = _READERS[found](path)
        scan = replace(scan, files=tuple(parts) or (path,))
        if as_stored:
            check(scan, label)
            return replace(scan, name=name, group=group or name)
        scan = finish(scan, label, name, group or name, may_be_constant=may_be_constant)
        return as_signal(scan) if isinstance(scan, Signal) else scan


def scans_of(source: ScanSource, done: Set[str] = frozenset()) -> Iterator[Scan]:
    """Yield the scan that a file is, or each image of an array file, which is read in pieces.

    Args:
        source: As `find_scans` gives it.
        done: Names of images to leave out.

    Raises:
        BadScan: The file cannot be used.
    """
    if source.url:
        with on_this_machine(source) as here:
            yield from (replace(scan, files=()) for scan in scans_of(here, done))
        return
    path, key, name, group = source.path, source.key, source.name, source.group
    with _explained(str(path), "an image"):
        kind = format_of(path)
    if kind in ARRAYS:
        with _explained(str(path) if key is None else f"{path}:{key}", kind):
            found = array_images(path, key, name, group, done, _LAYOUTS[source.kind])
            yield from map(as_signal, found) if source.kind == "signal" else found
    else:
        is_whole = source.kind == "volume"
        scan = read_scan(path, name, group, key, parts=source.parts, in_parts=is_whole)
        yield as_volume(scan) if is_whole else scan


@contextmanager
def on_this_machine(source: ScanSource) -> Iterator[ScanSource]:
    """Give a source at a URL as a copy of its file, which goes afterwards; errors name the URL."""
    if not source.url:
        yield source
        return
    try:
        with fetched(source.url) as copy:
            try:
                yield replace(source, path=copy, url=None)
            except BadScan as error:
                raise BadScan(str(error).replace(str(copy), source.url)) from error
    except BadRemote as error:
        raise BadScan(str(error)) from error


@contextmanager
def _explained(label: str, kind: str) -> Iterator[None]:
    """Raise what a decoder or the system raises as a `BadScan` that names the file."""
    try:
        yield
    except BadScan:
        raise
    except ImportError as error:
        extra = f"pip install 'fanogan[{_EXTRAS.get(kind, 'dev')}]' ({error})"
        raise BadScan(f"{label} is a {kind} file, which needs an extra: {extra}") from error
    except MemoryError as error:
        raise BadScan(f"{label} does not fit into memory: split it into smaller files") from error
    except OSError as error:
        raise _unreadable(label, kind, error) from _cause(kind, error)
    except Exception as error:
        # Decoders raise all kinds of errors for a damaged file (struct.error, KeyError, zlib.error,
        # SyntaxError …), and a user wants the file's name rather than the decoder's traceback.
        raise damaged(label, kind) from _cause(kind, error)


def read_scans(
    source: Any,
    groups: str | None = None,
    skip_bad: bool = False,
    on_bad: Callable[[BadScan], None] | None = None,
    workers: int = 2,
    done: Set[str] = frozenset(),
    kind: Kind = "image",
) -> Iterator[Scan]:
    """Read many scans, in order, a few files ahead; each image of an array file is a scan.

    Args:
        source: What `find_scans` takes; or an array, a tensor, or a list of arrays, as
            `array_scans` takes them.
        groups: Whose files these are, as `find_scans` says; not for arrays.
        skip_bad: Skip files that cannot be used, with a warning in the log.
        on_bad: Called with the error of each file skipped, and with a sentence on files without an
            image, which are passed over with a warning in the log.
        workers: Threads that read ahead; at most `workers` + 1 files wait in memory, array files
            by their first pieces.
        done: Names of scans to leave out, since they were used before.
        kind: What is meant, as `find_scans` says; in memory, as `signal_arrays` and
            `volume_arrays`.

    Raises:
        BadScan: Nothing found; a bad file, unless `skip_bad`; or nothing but bad files.
    """
    if is_array_like(source):
        if groups is not None:
            raise BadScan("groups name the subjects of files: leave them out for arrays")
        scans = (
            volume_scans(source)
            if kind == "volume"
            else array_scans(signal_arrays(source) if kind == "signal" else source)
        )
        images = good_ones(scans, skip_bad, on_bad)
        kept = (image for image in images if image.name not in done)
        return map(as_signal, kept) if kind == "signal" else kept
    sources = each_scan(source, groups, on_bad, kind)
    found = (each for each in sources if each.name not in done)
    read = _read_ahead(found, max(workers, 1), done)
    return good_ones(read, skip_bad, on_bad, before=len(done))


def silence_decoders() -> None:
    """Silence the warnings of decoders in this process: a `BadScan` says what matters."""
    for decoder in _DECODERS:
        log = logging.getLogger(decoder)
        log.setLevel(logging.CRITICAL)
        log.disabled = True  # pydicom sets a level of its own when it is imported
        warnings.filterwarnings("ignore", module=rf"{decoder}\b")


def format_of(path: Path) -> str:
    """Return a file's format, from its first bytes or else from its extension."""
    if not path.is_file() and path.exists():
        raise BadScan(f"{path} is no file: give an image, or search the folder with find_scans")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise unusable(f"{path} is empty", "copy it again")
    # Before the signatures: a DICOM file's preamble may hold another format's.
    if head[128:132] == b"DICM":
        return "DICOM"
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if extension(path) in _BY_EXTENSION:
        return _BY_EXTENSION[extension(path)]
    raise unusable(f"{path} is not an image of a known format, or its first bytes are damaged")


def _cause(kind: str, error: Exception) -> Exception | None:
    """Return the cause to show: None for formats whose errors may quote a patient's data."""
    return None if kind in _WITH_PATIENT else error


def _unreadable(label: str, kind: str, error: OSError) -> BadScan:
    """Return the error that says why the system, or a decoder, could not read a file."""
    if isinstance(error, FileNotFoundError):
        return BadScan(f"{label} does not exist: check the spelling of the path")
    if isinstance(error, PermissionError):
        return BadScan(f"{label} may not be read by this user: change its permissions")
    # EINVAL: a decoder tried to go to a place before the start of the file.
    if error.strerror and error.errno not in (None, errno.EINVAL):
        return BadScan(f"{label} cannot be read ({error.strerror}): check the disk and the path")
    return damaged(label, kind)


def _read_ahead(
    sources: Iterator[ScanSource], workers: int, done: Set[str]
) -> Iterator[Scan | BadScan]:
    """Read files by a few threads, and yield their scans in the order given."""

    def results(source: ScanSource) -> Iterator[Scan | BadScan]:
        try:
            yield from scans_of(source, done)
        except BadScan as error:
            yield error

    def read(source: ScanSource) -> Iterator[Scan | BadScan]:
        found = results(source)
        return chain([*islice(found, 1)], found)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-scan")
    try:
        waiting = deque(pool.submit(read, source) for source in islice(sources, workers))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(pool.submit(read, source) for source in islice(sources, 1))
            yield from found
    finally:
        # Without waiting: an abandoned iterator in a reference cycle is closed by the garbage
        # collector, whose thread may hold a lock that a decoder waits for.
        pool.shutdown(wait=False, cancel_futures=True)


def good_ones(
    results: Iterator[Scan | BadScan],
    skip_bad: bool,
    on_bad: Callable[[BadScan], None] | None,
    noun: str = "images",
    before: int = 0,
) -> Iterator[Scan]:
    """Yield the scans, and raise or report the errors among them.

    Args:
        results: Scans, and errors in the place of those that cannot be used.
        skip_bad: As for `read_scans`.
        on_bad: As for `read_scans`.
        noun: What they are called in the error that none could be used.
        before: How many were used before these.
    """
    good, bad = before, list[BadScan]()
    for result in results:
        if isinstance(result, Scan):
            good += 1
            yield result
            continue
        if not skip_bad:
            raise result
        bad.append(result)
        logger.warning("skipped: %s", result)
        if on_bad is not None:
            on_bad(result)
    if bad and not good:
        raise NoneUsable(f"none of {len(bad)} {noun} could be used; the first: {bad[0]}")
