"""Searching a folder: in natural order, each file once, without a list of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fanogan.scans.gather import ALONE, Found, extension, gather, is_scan


def search(root: Path, below: str = "") -> Iterator[Found]:
    """Yield the readable files below a folder, hidden ones left out; links are followed.

    Only the names in one folder at a time are held in memory.

    Args:
        root: The folder.
        below: Posix path of the folder itself, which the files' begin with.

    Returns:
        An iterator in natural order (2 before 10).

    Raises:
        OSError: A folder that cannot be listed.
    """
    links = _Links(os.path.realpath(root))
    top = _Folder(os.fspath(root), links.root, below)
    waiting: list[Iterator[Found | _Folder]] = [iter([top])]
    while waiting:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
        elif isinstance(item, Found):
            yield item
        else:
            waiting.append(_listed(item, links))


def natural_key(name: str) -> tuple[str, str]:
    """Return a key that orders 'b2/a' before 'b10/a', folder by folder."""

    def by_length(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return chr(1 + len(digits)) + digits

    return re.sub("[0-9]+", by_length, name.lower().replace("/", "\0")), name


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder by its path, its real path, and its Posix path below the searched one."""

    path: str
    real: str
    relative: str


class _Links:
    """The links followed so far, so that no file comes twice and loops end."""

    def __init__(self, root: str):
        self.root = root
        self.followed = {root}
        self.folders = [root]

    def follow(self, real: str, is_folder: bool) -> bool:
        """Return whether to follow a link: not to what the search also reaches without it."""
        is_read = is_folder or is_scan(real)
        if real in self.followed or (
            is_read and any(_is_visible_below(real, folder) for folder in self.folders)
        ):
            return False
        self.followed.add(real)
        if is_folder:
            self.folders.append(real)
        return True


def _is_visible_below(real: str, folder: str) -> bool:
    """Return whether a search of the folder reaches a path without a link."""
    start = os.path.join(folder, "")
    hidden = any(part.startswith(".") for part in real.removeprefix(start).split(os.sep))
    return real.startswith(start) and not hidden


def _listed(folder: _Folder, links: _Links) -> Iterator[Found | _Folder]:
    """Yield the files of one folder, and the folders in it."""
    files, linked = list[str](), list[str]()
    folders: dict[str, str] = {}  # name: real path
    with os.scandir(folder.path) as entries:
        for entry in entries:
            name, real = entry.name, os.path.join(folder.real, entry.name)
            if name.startswith(".") or real in links.followed:
                continue
            if entry.is_symlink():
                linked.append(name)
            elif entry.is_dir():
                folders[name] = real
            elif entry.is_file() and is_scan(entry.path):
                files.append(name)
    for name in sorted(linked, key=natural_key):
        path = os.path.join(folder.path, name)
        real, is_folder = os.path.realpath(path), os.path.isdir(path)
        is_read = is_folder or (os.path.isfile(path) and is_scan(path))
        if is_read and links.follow(real, is_folder):
            if is_folder:
                folders[name] = real
            else:
                files.append(name)

    start = f"{folder.relative}/" if folder.relative else ""

    def item(name: str) -> Found | _Folder:
        if name in folders:
            return _Folder(os.path.join(folder.path, name), folders[name], start + name)
        return Found(Path(folder.path, name), start + name)

    if any(extension(name) not in ALONE for name in files):
        found = [Found(Path(folder.path, name), start + name) for name in sorted(files)]
        together = [*gather(found), *map(item, folders)]
        yield from sorted(together, key=lambda each: natural_key(each.relative))
    else:
        yield from map(item, sorted([*files, *folders], key=natural_key))
