"""Whole folders at a URL: a copy on this machine to read, and one to write that is put there.

Copies lie in the user's cache. Each file has a time that stands for what lies at the URL, so that a
copy that a killed process has left is brought up to date, and only what has changed is put back.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from fanogan.remote.files import (
    BadRemote,
    call,
    fetch,
    name_of,
    opened,
    protocol_of,
    stamped,
    tried,
)
from fanogan.storage import LOCK, exclusive, write_whole
from fanogan.text import counted

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Files that are copied at a time: most of what a small one takes is waiting."""
NOT_WRITTEN = ("http", "https", "zip", "tar", "libarchive")
BUCKETS = ("s3", "gs", "abfs")
"""Stores without folders, where to make one could make a bucket."""
RESULTS = ".fanogan-results"
OURS = (RESULTS, "config.yaml", "model.json", "study.json", "zarr.json", ".fanogan-demo")
"""What lies in folders that commands of ours have written."""
_LAST = ("model.json", "zarr.json", RESULTS)
"""What says that all else is there."""
_BEFORE, _PUTTING = ".before.json", ".putting"


def _place(url: str, purpose: str) -> Path:
    """Return the folder for copies from a URL: in the cache, where others may not look."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fanogan")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache / hashlib.sha256(f"{purpose} {url}".encode()).hexdigest()[:16]


def _time(stamp: str) -> int:
    """Return the time, in nanoseconds, of a copy of what has this stamp: one of the year 1970."""
    return int.from_bytes(hashlib.sha256(stamp.encode()).digest()[:6])


def _copy(url: str, files: Mapping[str, tuple[str, str]], place: Path) -> None:
    """Copy those files that ``place`` hasn't yet as they are, and remove others there."""
    wanted = {place / name if name else place: each for name, each in files.items()}
    for name in files:
        if {"", ".", ".."} & set(name.split("/")) and name:
            raise BadRemote(f"{url}: holds {name}, which no file here can be called; rename it")
    for path in sorted(place.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()

    def is_here(path: Path, stamp: str) -> bool:
        return path.is_file() and path.stat().st_mtime_ns == _time(stamp)

    missing = [(path, *each) for path, each in wanted.items() if not is_here(path, each[1])]
    if len(files) > 1 and missing:
        log.warning("%s: copying %s to this machine", url, counted(len(missing), "file"))

    def copy(path: Path, source: str, stamp: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch(source, path)
        os.utime(path, ns=(_time(stamp), _time(stamp)))

    _each(functools.partial(copy, *one) for one in missing)


def _each(steps: Iterable[Callable[[], None]]) -> None:
    """Do many things, some at a time; the first that fails ends all."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy")
    try:
        for done in [pool.submit(step) for step in steps]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- to read --------------------------------------------------------------------------------------

_held: dict[Path, int] = {}
"""Locks on the copies that this process reads."""


def copy_of(url: str, only: Collection[str] = ()) -> Path:
    """Return a copy of the file or the folder at a URL, up to date.

    The last process that has asked for it removes it when it ends.

    Args:
        url: of a file, a folder or a glob.
        only: names of the files in a folder that are needed; all of them where none is given.

    Raises:
        BadRemote: it can't be read, or nothing is there.
        OSError: it can't be written here.
    """
    folder = _place(url, f"read {' '.join(only)}")
    place = folder / name_of(url)
    _hold(folder)
    with FileLock(f"{folder}.copying"):
        files = stamped(url)
        if not files:
            raise BadRemote(f"{url} does not exist, or holds no file: check bucket and path")
        if "" not in files:
            place.mkdir(parents=True, exist_ok=True)
        _copy(url, {n: file for n, file in files.items() if _is_needed(n, only)}, place)
    return call(place, url)


def _is_needed(name: str, only: Collection[str]) -> bool:
    return not (only and name) or name.rpartition("/")[2] in only


def _hold(folder: Path) -> None:
    import fcntl  # which Windows lacks

    if folder not in _held:
        _held[folder] = os.open(f"{folder}.lock", os.O_CREAT | os.O_WRONLY)
        fcntl.flock(_held[folder], fcntl.LOCK_SH)
        atexit.register(_let_go, folder)


def _let_go(folder: Path) -> None:
    import fcntl

    with contextlib.suppress(BlockingIOError):  # another process reads it
        fcntl.flock(_held[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


# --- to write -------------------------------------------------------------------------------------


@contextlib.contextmanager
def written_at(url: str) -> Iterator[Path]:
    """Give a path on this machine for what is to be written at a URL, and put it there at the end.

    What lies there is copied here first, so that what is done to it is as on this machine; results
    alone, which are replaced, aren't. Nothing is put where the block fails: the copy stays in the
    cache, and the next block for this URL finds it there.

    Raises:
        BadRemote: it can't be read or written, another process writes there, files lie there that
            no command of ours wrote, or they have changed since the copy was made.
    """
    url = url.rstrip("/")
    fs, _ = opened(url)
    if protocol_of(fs) in NOT_WRITTEN:
        raise BadRemote(
            f"{url}: nothing can be written there; give a folder, or a store such as s3://"
        )
    folder = _place(url, "write")
    place = call(folder / name_of(url), url)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of processes that train together, the first puts
        yield place
        return
    busy = BadRemote(f"{url}: another process is writing there; wait for it")
    folder.mkdir(exist_ok=True)
    with exclusive(Path(f"{folder}{LOCK}"), busy):
        before, replaced = _begin(url, folder, place)
        try:
            yield place
        except SystemExit:  # done, with a status
            _put(url, folder, before)
            raise
        except BaseException:
            unchanged = {key: _time(each) for key, each in before.items() if key not in replaced}
            if {key: path.stat().st_mtime_ns for key, path in _local(folder).items()} == unchanged:
                shutil.rmtree(folder)
            raise
        _put(url, folder, before)
        shutil.rmtree(folder)


def _begin(url: str, folder: Path, place: Path) -> tuple[dict[str, str], set[str]]:
    """Copy what lies at a URL, unless a copy was begun; return its stamps, and what isn't copied.

    Both are by the paths below ``folder``.
    """
    there = stamped(url)

    def key(name: str) -> str:
        return f"{place.name}/{name}" if name else place.name

    before = {key(name): stamp for name, (_, stamp) in there.items()}
    results = set[str]()
    if RESULTS in there:
        fs, path = opened(there[RESULTS][0])
        lines = tried(url, lambda: fs.cat_file(path)).splitlines()
        results = {json.loads(line)[0] for line in lines}
    replaced = {key(name) for name in results & there.keys()}
    begun = folder / _BEFORE
    if not begun.exists():
        if "" not in there and there and not there.keys() & set(OURS):
            shutil.rmtree(folder)
            raise BadRemote(
                f"{url}: holds other files than a command of fanogan's has written; give --out "
                "another place"
            )
        _copy(url, {name: there[name] for name in there.keys() - results}, place)
        write_whole(begun, json.dumps(before).encode())
    elif json.loads(begun.read_bytes()) != before and not (folder / _PUTTING).exists():
        raise BadRemote(
            f"{url}: has changed since a command that was stopped began to write there; remove "
            f"{folder}, which holds what it has done, or give --out another place"
        )
    return before, replaced


def _local(folder: Path) -> dict[str, Path]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {k: path for k, path in files.items() if path.is_file() and k not in (_BEFORE, _PUTTING)}


def _put(url: str, folder: Path, before: Mapping[str, str]) -> None:
    """Put what has changed at a URL: tables after maps, and last what says that all is there.

    Then files that are gone here are removed there. No object is there in part: an upload of many
    parts is completed, or given up.
    """
    fs, path = opened(url)
    above = path[: -len(name_of(url))]
    files = _local(folder)
    new = [
        key
        for key, each in files.items()
        if key not in before or each.stat().st_mtime_ns != _time(before[key])
    ]
    (folder / _PUTTING).touch()

    def put(key: str) -> None:
        there = f"{above}{key}"

        def step() -> None:
            if protocol_of(fs) not in BUCKETS:
                fs.makedirs(there.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(files[key]), there)

        tried(fs.unstrip_protocol(there), step, "written")

    def remove(key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(f"{above}{key}")

    def later(key: str) -> int:
        name = key.rpartition("/")[2]
        return _LAST.index(name) + 2 if name in _LAST else int(key.count("/") < 2)

    try:
        for turn in sorted(set(map(later, new))):
            _each(functools.partial(put, key) for key in new if later(key) == turn)
        for key in before.keys() - files.keys():
            tried(url, functools.partial(remove, key), "written")
    except BadRemote as error:
        raise BadRemote(f"{error}; all is whole in {folder}") from error
