"""Files at a URL, as fsspec knows them: S3, Google Cloud, Azure, HTTP, archives, memory.

A file is copied whole before it is read, and written whole: an object store shows a new object only
when all of it is there. Credentials and endpoints are fsspec's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fanogan.errors import FanoganError

T = TypeVar("T")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
WITHOUT_GLOBS = ("http", "https")
WAITS = (0.5, 2.0, 5.0)
"""Seconds before each further attempt; a library's own attempts come before these."""


class BadRemote(FanoganError):
    """A URL that can't be read or written, said in one sentence."""


def is_url(entry: Any) -> bool:
    """Tell whether something that was given is a URL."""
    return isinstance(entry, str) and bool(_URL.match(entry))


def _opened(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise BadRemote(f"{url} needs an extra: pip install 'fanogan[cloud]' ({error})") from error
    except Exception as error:
        raise BadRemote(f"{url} can't be opened ({_said(error)}): check the URL") from error
    return fs, str(path)


def _said(error: Exception) -> str:
    """Return what an error says, in a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def _tried(url: str, step: Callable[[], T], doing: str = "read") -> T:
    """Do something with a URL, again after a while where it fails.

    Raises:
        BadRemote: nothing there, no permission, or it has failed each time.
    """
    for wait in (*WAITS, None):
        try:
            return step()
        except FileNotFoundError as error:
            raise BadRemote(f"{url} does not exist: check bucket and path") from error
        except PermissionError as error:
            raise BadRemote(
                f"{url} may not be {doing} ({_said(error)}): check credentials and permissions"
            ) from error
        except Exception as error:  # each protocol's library has errors of its own
            if wait is None:
                raise BadRemote(
                    f"{url} can't be {doing}, after {len(WAITS) + 1} attempts ({_said(error)}): "
                    "check that the store can be reached, and repeat the command"
                ) from error
            time.sleep(wait)
    raise AssertionError


def stamp(url: str) -> str:
    """Return what differs once a file has changed: its size, and its tag or time."""
    fs, path = _opened(url)
    found = _tried(url, lambda: fs.info(path))
    kinds = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created", "CRC")
    return repr([str(found[kind]) for kind in kinds if kind in found])


def files_at(url: str) -> dict[str, str]:
    """Return the files at a URL, by their paths below it: itself, what a glob matches, a folder's.

    Raises:
        BadRemote: it can't be read, or nothing is there.
    """
    fs, path = _opened(url)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]

    def found() -> dict[str, str]:
        if "*" in path and protocol not in WITHOUT_GLOBS:
            root = path.partition("*")[0].rpartition("/")[0]
            paths = [each for each in fs.glob(path) if fs.isfile(each)]
        elif fs.isfile(path):
            return {path.rpartition("/")[2]: url}
        else:
            root, paths = path, fs.find(path)
        root = root.rstrip("/")
        chain = url.partition("::")[2]
        names = {each: each.removeprefix(root).lstrip("/") for each in paths}
        urls = {name: fs.unstrip_protocol(each) for each, name in names.items()}
        if chain:
            urls = {name: f"{protocol}://{each}::{chain}" for each, name in names.items()}
        return urls

    files = _tried(url, found)
    if not files:
        raise BadRemote(f"{url} does not exist, or holds no file: check bucket and path")
    return files


def fetch(url: str, target: Path) -> None:
    """Copy a file whole to this machine.

    Raises:
        BadRemote: it can't be read, or ends too soon each time.
    """
    fs, path = _opened(url)

    def copy() -> None:
        size = fs.info(path).get("size")
        fs.get_file(path, str(target))
        if size is not None and (got := target.stat().st_size) != size:
            raise OSError(f"{got:,} of {size:,} bytes came")

    try:
        _tried(url, copy)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Give a copy of a file, under its own name, as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="fanogan-") as folder:
        name = url.partition("::")[0].partition("?")[0].rstrip("/").rpartition("/")[2]
        target = Path(folder, name or "file")
        fetch(url, target)
        yield target


@contextlib.contextmanager
def model_at(text: str) -> Iterator[Path]:
    """Give a model folder; a copy of it where it lies at a URL, or in the run folder there."""
    if not is_url(text):
        yield Path(text)
        return
    with tempfile.TemporaryDirectory(prefix="fanogan-model-") as folder:
        fs, path = _opened(text)
        base, chained, rest = text.partition("::")
        inside = _tried(text, lambda: not fs.exists(f"{path.rstrip('/')}/model.json"))
        base = base.rstrip("/") + ("/model" if inside else "")
        for name in ("model.json", "model.safetensors"):
            fetch(f"{base}/{name}{chained}{rest}", Path(folder, name))
        yield Path(folder)


class Target:
    """Where results go: a folder, or a URL, to which they are copied from a folder once whole.

    Attributes:
        folder: The folder on this machine.
    """

    def __init__(self, text: str, listed: str):
        """Look whether results may be written there.

        Args:
            text: A folder or a URL.
            listed: The name of the file that lists the results; it is written last.

        Raises:
            BadRemote: it can't be read, or holds files that no such list names.
        """
        self.url = text if is_url(text) else None
        self.listed = listed
        self.folder = Path(text)
        if self.url:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            self.folder = cache / "fanogan" / hashlib.sha256(text.encode()).hexdigest()[:16]
            fs, path = self._fs, self._path = _opened(text.rstrip("/"))
            there = _tried(text, lambda: fs.find(path))
            self.before = self._list() if f"{path}/{listed}" in there else {}
            if there and not self.before:
                raise BadRemote(
                    f"{text}: holds other files, and {listed} doesn't list them as results of "
                    "fanogan's; give --out another place"
                )

    def _list(self) -> dict[str, str]:
        """Return the results of an earlier command there, with their digests."""
        lines = _tried(str(self.url), lambda: self._fs.cat_file(f"{self._path}/{self.listed}"))
        return dict(json.loads(line) for line in lines.splitlines())

    def put(self) -> None:
        """Write all to the URL, where it is one: tables after maps, and the list last.

        Then results of an earlier command are removed there. No object is there in part: an upload
        of many parts is completed, or given up.

        Raises:
            BadRemote: it can't be written; all stays in ``folder``.
        """
        if not self.url:
            return
        text = (self.folder / self.listed).read_text(encoding="utf-8")
        new = dict(json.loads(line) for line in text.splitlines())
        places: Iterable[str] = sorted(new, key=lambda place: ("/" not in place, place))
        for place in (*places, self.listed):
            paths = str(self.folder / place), f"{self._path}/{place}"
            step = functools.partial(self._fs.put_file, *paths)
            try:
                _tried(f"{str(self.url).rstrip('/')}/{place}", step, "written")
            except BadRemote as error:
                raise BadRemote(f"{error}; the results are whole in {self.folder}") from error
        for place in self.before.keys() - new.keys():
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._path}/{place}")

    def __str__(self) -> str:
        """Return what was given."""
        return self.url.rstrip("/") if self.url else str(self.folder)


@contextlib.contextmanager
def results_at(text: str, listed: str) -> Iterator[Target]:
    """Give the place of results; a copy on this machine goes once all is written."""
    target = Target(text, listed)
    yield target
    if target.url:
        shutil.rmtree(target.folder)
