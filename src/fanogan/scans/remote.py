"""Which files at URLs are scans: each of them alone, or together as in a folder of this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fanogan.remote import BadRemote, copy_of, files_at, first_bytes, is_url
from fanogan.scans.checks import BadScan
from fanogan.scans.gather import ALONE, EXTENSIONS, extension
from fanogan.scans.left_out import DEMO, MARKS, STORE, own_names
from fanogan.scans.signals import SIGNAL_EXTENSIONS
from fanogan.scans.walk import natural_key

_LEADING = (".xml", ".hdr", ".hea")
"""Files that lead to others beside them."""


def here(urls: Sequence[Any], signals: bool) -> list[Any]:
    """Return URLs as they are, or as copies where files there may be one scan together.

    Raises:
        BadScan: nothing there, a path of this machine among them, or a file that leads to others.
    """
    for url in urls:
        if not is_url(url):
            raise BadScan(f"{url} is a path, and others are URLs: give paths alone, or URLs alone")
    try:
        copied = any(_join(url, signals) for url in urls)
        return [copy_of(url) if copied else url for url in urls]
    except BadRemote as error:
        raise BadScan(str(error)) from error


def _join(url: str, signals: bool) -> bool:
    """Tell whether files at a URL may be one scan together: those of DICOM and others."""
    files = files_at(url)
    if [*files.values()] == [url]:
        if extension(url) in _LEADING:
            raise BadScan(f"{url} leads to files beside it: give the folder")
        return False
    own = _own(files)
    kinds = {name: extension(name) for name in files if not own(name)}
    if signals:
        return ".hea" in kinds.values()
    joining = {*EXTENSIONS} - {*ALONE} | {*_LEADING}
    if joining & {*kinds.values()}:
        return True
    # DICOM has any name, mostly none with an extension, or one that ends as a UID does.
    unknown = (name for name, kind in kinds.items() if not kind or kind[1:].isdecimal())
    return any(first_bytes(files[name], 132)[128:] == b"DICM" for name in unknown)


def named_at(urls: Iterable[str], signals: bool) -> Iterator[tuple[str, str]]:
    """Yield the URL and the name of each scan, in natural order within each entry.

    Raises:
        BadScan: no scan there, or two files of one name.
    """
    known = SIGNAL_EXTENSIONS if signals else ALONE
    taken = set[str]()
    for url in urls:
        files = files_at(url)
        names = [*files]
        if [*files.values()] != [url]:  # a file that was named itself may be DICOM too
            own = _own(files)
            names = [name for name in files if extension(name) in known and not own(name)]
            if not names:
                noun = "signals" if signals else "images"
                raise BadScan(f"no {noun} at {url}: fanogan reads {', '.join(known)} there")
        for name in sorted(names, key=natural_key):
            if name in taken:
                raise BadScan(f"two files are called {name}: give the folder above both")
            taken.add(name)
            yield files[name], name


def _own(files: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells of a name whether it is hidden, or fanogan's own: results or a store."""
    marks = defaultdict[str, set[str]](set)
    for name in files:
        folder, _, last = name.rpartition("/")
        if last in MARKS - {"config.yaml", "study.json"}:
            marks[folder].add(last)
    everything = {folder for folder, found in marks.items() if found & (DEMO | STORE)}
    patterns = {folder: own_names(folder, found) for folder, found in marks.items()}

    def own(name: str) -> bool:
        parts = name.split("/")
        folders = ["/".join(parts[:depth]) for depth in range(len(parts))]
        return any(part.startswith(".") for part in parts) or any(
            folder in everything or (folder in patterns and patterns[folder].fullmatch(part))
            for folder, part in zip(folders, parts, strict=True)
        )

    return own
