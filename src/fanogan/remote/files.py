"""What lies at a URL, and copying it here file by file, again after a while where that fails."""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from fanogan.errors import FanoganError

T = TypeVar("T")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP = ("http", "https")
WAITS = (0.5, 2.0, 5.0)
"""Seconds before each further attempt; a library's own attempts come before these."""
_STAMPS = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created", "CRC")
_MODEL, _BESIDE = ("model.json", "model.safetensors"), ("config.yaml", "metrics.jsonl")


class BadRemote(FanoganError):
    """A URL that can't be read or written, said in one sentence."""


_names: dict[str, str] = {}
"""The URL of each copy on this machine, by its path."""


def call(copy: Path, url: str) -> Path:
    """Let messages call a copy by its URL; returns the copy."""
    base, chained, rest = url.partition("::")
    if "*" in base:
        base = base.partition("*")[0].rpartition("/")[0]
    _names[str(copy)] = f"{base.rstrip('/')}{chained}{rest}"
    return copy


def named(text: str) -> str:
    """Return a text with the URLs of copies in place of their paths on this machine."""
    for path, url in _names.items():
        text = text.replace(path, url)
    return text


def is_url(entry: Any) -> TypeGuard[str]:
    """Tell whether something that was given is a URL."""
    return isinstance(entry, str) and bool(_URL.match(entry))


def below(url: str, path: str) -> str:
    """Return the URL of what has this path in the folder at a URL."""
    base, chained, rest = url.partition("::")
    return f"{base.rstrip('/')}/{path}{chained}{rest}"


def opened(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Raises:
        BadRemote: there is none of that name, or its package isn't installed.
    """
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise BadRemote(f"{url} needs an extra: pip install 'fanogan[cloud]' ({error})") from error
    except Exception as error:
        raise BadRemote(f"{url} can't be opened ({_said(error)}): check the URL") from error
    return fs, str(path)


def protocol_of(fs: Any) -> str:
    """Return the name that URLs of a file system begin with."""
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def _said(error: BaseException) -> str:
    """Return what an error says, in a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def tried(url: str, step: Callable[[], T], doing: str = "read") -> T:
    """Do something with a URL, again after a while where it fails.

    Raises:
        BadRemote: nothing there, no permission, or it has failed each time.
        OSError: this machine's disk is full.
    """
    for wait in (*WAITS, None):
        try:
            return step()
        except FileNotFoundError as error:
            if _is_missing(url, error):
                raise BadRemote(f"{url} does not exist: check bucket and path") from error
            failure: BaseException = error.__cause__ or error
        except PermissionError as error:
            raise BadRemote(
                f"{url} may not be {doing} ({_said(error)}): check credentials and permissions"
            ) from error
        except Exception as error:  # each protocol's library has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            failure = error
        if wait is None:
            raise BadRemote(
                f"{url} can't be {doing}, after {len(WAITS) + 1} attempts ({_said(failure)}): "
                "check that the store can be reached, and repeat the command"
            ) from failure
        time.sleep(wait)
    raise AssertionError


def _is_missing(url: str, error: FileNotFoundError) -> bool:
    """Tell whether nothing is there; of HTTP, fsspec says so of all that fails."""
    if url.partition(":")[0] not in _HTTP or error.__cause__ is None:
        return True
    return getattr(error.__cause__, "status", None) in (404, 410)


def _stamp(info: dict[str, Any]) -> str:
    return repr([str(info[kind]) for kind in _STAMPS if kind in info])


def stamp(url: str) -> str:
    """Return what differs once a file has changed: its size, and its tag or time."""
    fs, path = opened(url)
    return _stamp(tried(url, lambda: fs.info(path)))


def is_file_at(url: str) -> bool:
    """Tell whether a file lies at a URL."""
    fs, path = opened(url)

    def found() -> bool:
        try:
            return bool(fs.info(path)["type"] == "file")  # isfile would say no of all that fails
        except PermissionError:  # S3 says so of what isn't there, where nobody may list
            return False
        except FileNotFoundError as error:
            if not _is_missing(url, error):
                raise
            return False

    return tried(url, found)


def first_bytes(url: str, count: int) -> bytes:
    """Return the first bytes of a file; no more is read."""
    fs, path = opened(url)
    # A range of an empty file is an error.
    read = functools.partial(fs.cat_file, path, start=0, end=count)
    return bytes(tried(url, lambda: read() if fs.size(path) else b""))


def stamped(url: str) -> dict[str, tuple[str, str]]:
    """Return URL and stamp of each file at a URL, by its path below; '' is that of a file itself.

    Raises:
        BadRemote: it can't be read, or is a folder of HTTP, which has none.
    """
    fs, path = opened(url)
    protocol, chain = protocol_of(fs), url.partition("::")[2]
    if protocol in _HTTP and path.endswith("/"):
        raise BadRemote(
            f"{url}: HTTP doesn't say which files are in a folder; list their URLs, one a line, in "
            "a file for score --list"
        )

    def found() -> tuple[str, dict[str, dict[str, Any]]]:
        if "*" in path and protocol not in _HTTP:
            matches = fs.glob(path, detail=True)
            kept = {each: info for each, info in matches.items() if info["type"] == "file"}
            return path.partition("*")[0].rpartition("/")[0], kept
        # HTTP has no folders, and asked whether something is a file it says no of all that fails.
        if protocol in _HTTP or fs.isfile(path):
            return path, {path: fs.info(path)}
        return path, fs.find(path, detail=True)

    root, files = tried(url, found)
    if [*files] == [path]:
        return {"": (url, _stamp(files[path]))}
    root = root.rstrip("/")
    return {
        each.removeprefix(root).lstrip("/"): (
            f"{protocol}://{each}::{chain}" if chain else fs.unstrip_protocol(each),
            _stamp(info),
        )
        for each, info in files.items()
        if not each.endswith("/")  # what some programs write for a folder
    }


def files_at(url: str) -> dict[str, str]:
    """Return the files at a URL, by their paths below it: itself, what a glob matches, a folder's.

    Raises:
        BadRemote: it can't be read, or nothing is there.
    """
    files = {name or name_of(url): each for name, (each, _) in stamped(url).items()}
    if not files:
        raise BadRemote(f"{url} does not exist, or holds no file: check bucket and path")
    return files


def name_of(url: str) -> str:
    """Return the last part of a URL's path; of a glob, of the folder that it begins with."""
    _, path = opened(url)
    if "*" in path:
        path = path.partition("*")[0].rpartition("/")[0]
    return path.partition("?")[0].rstrip("/").rpartition("/")[2] or "files"


def fetch(url: str, target: Path) -> None:
    """Copy a file whole to this machine.

    Raises:
        BadRemote: it can't be read, or ends too soon each time.
    """
    fs, path = opened(url)

    def copy() -> None:
        size = fs.info(path).get("size")
        fs.get_file(path, str(target))
        if size is not None and (got := target.stat().st_size) != size:
            raise OSError(f"{got:,} of {size:,} bytes came")

    try:
        tried(url, copy)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Give a copy of a file, under its own name, as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="fanogan-") as folder:
        target = Path(folder, name_of(url))
        fetch(url, target)
        yield target


@contextlib.contextmanager
def model_at(text: str) -> Iterator[Path]:
    """Give a model folder; a copy of it where it lies at a URL, or in the run folder there.

    Of a run, its settings and figures lie beside it, and nothing else.
    """
    if not is_url(text):
        yield Path(text)
        return
    with tempfile.TemporaryDirectory(prefix="fanogan-model-") as folder:
        inside = "" if is_file_at(below(text, "model.json")) else "model/"
        names = [f"{inside}{name}" for name in _MODEL]
        for name in [*names, *(name for name in _BESIDE if is_file_at(below(text, name)))]:
            target = Path(folder, name)
            target.parent.mkdir(exist_ok=True)
            fetch(below(text, name), target)
        yield call(Path(folder), text)
