"""The folder of results: a result comes whole, in the place of the one before, and of nothing else.

A hidden list there names the files that the last command wrote. The next one removes those that it
doesn't write itself, unless someone has changed them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fanogan.storage import LOCK, TEMPORARY, BadFolder, BusyFolder, exclusive, remove_unfinished

log = logging.getLogger(__name__)

WRITTEN = ".fanogan-results"
"""The list: a line of JSON for each file, its place and the SHA-256 of its content."""


@contextlib.contextmanager
def whole_folder(out: Path, names: Iterable[str]) -> Iterator[Path]:
    """Give a folder whose files come into ``out`` together at the end, or not at all.

    Args:
        out: the folder of the results.
        names: what may be written there.

    Raises:
        BadFolder: another process writes there, or files lie there that no command of ours wrote.
        OSError: ``out`` can't be written; the error names it.
    """
    with (
        results_folder(out, names),
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out) as unfinished,
    ):
        folder = Path(unfinished)
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        list_written(
            folder, ((path.relative_to(folder).as_posix(), digest_of(path)) for path in files)
        )
        put_results(folder, out)


@contextlib.contextmanager
def results_folder(out: Path, names: Iterable[str]) -> Iterator[None]:
    """Hold the folder of the results, and remove it where nothing has come into it."""
    is_new = not out.exists()
    busy = BusyFolder(
        f"{out}: another process is writing into it; wait for it, or give --out another folder"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with exclusive(out / LOCK, busy):
            _check(out, names)
            remove_unfinished(out.iterdir())
            yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _check(out: Path, names: Iterable[str]) -> None:
    """Refuse to write over what no command of ours wrote, or through a link."""
    ours = {place.split("/")[0] for place, _ in written(out)}
    for path in (out / name for name in names):
        if not _is_below(path, out):
            raise _leads_out(path, out)
        holds_files = path.is_file() or (path.is_dir() and any(path.iterdir()))
        if holds_files and path.name not in ours:
            raise BadFolder(
                f"{path}: would be written over, and {WRITTEN} doesn't list it as a result of "
                "fanogan's (versions before kept no list); move it, or give --out another folder"
            )


def _is_below(path: Path, out: Path) -> bool:
    return path.resolve().is_relative_to(out.resolve())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leads_out(path: Path, out: Path) -> BadFolder:
    return BadFolder(
        f"{path}: is a link that leads out of {out}, where nothing is written; remove it, and "
        "repeat the command"
    )


def list_written(folder: Path, files: Iterable[tuple[str, str]]) -> None:
    """Write the list of a result that is whole: places below the folder, and digests."""
    with (folder / WRITTEN).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in files)


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that a folder's list names, and the SHA-256 of each.

    Raises:
        BadFolder: the list is damaged.
    """
    try:
        with (folder / WRITTEN).open(encoding="utf-8") as file:
            for line in file:
                place, digest = map(str, json.loads(line))
                yield place, digest
    except FileNotFoundError:
        return
    except ValueError:
        raise BadFolder(
            f"{folder / WRITTEN}: damaged, so what is to be replaced isn't known; give --out "
            "another folder"
        ) from None


def put_results(source: Path, out: Path) -> None:
    """Move the files of a list into ``out``; a move that was cut off is resumed by a second call.

    The list goes first, so that a later command knows whatever has been moved.

    Raises:
        BadFolder: a file lies in the place of a result that the last command didn't write.
    """
    if (source / WRITTEN).exists():
        _check_places(source, out)
        for place, digest in written(out):
            if not (source / place).exists():
                _remove(out / place, digest, out)
        os.replace(source / WRITTEN, out / WRITTEN)

    @functools.lru_cache(maxsize=8)  # most files lie beside each other
    def make(folder: Path) -> None:
        if not _is_below(folder, out):
            raise _leads_out(folder, out)
        folder.mkdir(parents=True, exist_ok=True)

    for place, _ in written(out):
        if (source / place).exists():
            make((out / place).parent)
            os.replace(source / place, out / place)


def _check_places(source: Path, out: Path) -> None:
    """Refuse to write over files that lie among results and aren't: they are known by name now."""
    # Counted, because names of a large archive would take much memory.
    ours = sum(_lies(source, place) and _lies(out, place) for place, _ in written(out))
    if sum(_lies(out, place) for place, _ in written(source)) > ours:
        listed = {place for place, _ in written(out)}
        new = (place for place, _ in written(source) if place not in listed)
        path = next(out / place for place in new if _lies(out, place))
        raise BadFolder(
            f"{path}: would be written over, and is not what the last command wrote there; move "
            "it, and repeat the command"
        )


def _lies(folder: Path, place: str) -> bool:
    return os.path.lexists(folder / place)


def _remove(path: Path, digest: str, out: Path) -> None:
    """Remove a file of the last result, and folders that it leaves empty."""
    if not path.is_file() or not _is_below(path.parent, out):
        return
    if digest_of(path) != digest:
        log.warning("%s: is of an earlier result, but has been changed, and is kept", path)
        return
    path.unlink()
    with contextlib.suppress(OSError):  # until one holds more
        for folder in path.relative_to(out).parents[:-1]:
            (out / folder).rmdir()
