"""Searching a folder: in natural order, each file once, without a list of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fanogan.scans.gather import ALONE, Found, extension, gather, is_scan
from fanogan.scans.left_out import DEMO, MARKS, STORE, LeftOut, own_names


def search(root: Path, left_out: LeftOut, below: str = "") -> Iterator[Found]:
    """Yield the readable files below a folder in natural order, hidden ones left out.

    Links are followed. Only the names in the folders on the way to a file are held in memory.

    Args:
        root: The folder.
        left_out: Takes up what is left out, as the search goes on.
        below: Posix path of the folder itself, which the files' begin with.

    Raises:
        OSError: A folder that cannot be listed.
    """
    real, start = os.path.realpath(root), f"{below}/" if below else ""
    return _below(os.fspath(root), real, start, _Links(real, left_out.signals), left_out)


def natural_key(name: str) -> tuple[str, str]:
    """Return a key that orders 'b2/a' before 'b10/a', folder by folder."""

    def by_length(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return chr(1 + len(digits)) + digits

    return re.sub("[0-9]+", by_length, name.lower().replace("/", "\0")), name


class _Links:
    """The links followed so far, so that no file comes twice and loops end."""

    def __init__(self, root: str, signals: bool):
        self.signals = signals
        self.followed = {root}
        self.folders = [root]

    def follow(self, real: str, is_folder: bool) -> bool:
        """Return whether to follow a link: not to what the search also reaches without it."""
        is_read = is_folder or is_scan(real, self.signals)
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


def _below(path: str, real: str, start: str, links: _Links, left_out: LeftOut) -> Iterator[Found]:
    """Yield the files below a folder; their names begin with `start`."""
    files, linked, marks = list[str](), list[str](), set[str]()
    folders: dict[str, str] = {}  # name: real path
    with os.scandir(path) as entries:
        for entry in entries:
            name, target = entry.name, os.path.join(real, entry.name)
            if name in MARKS:
                marks.add(name)
            if name.startswith(".") or target in links.followed:
                continue
            if entry.is_symlink():
                linked.append(name)
            elif entry.is_dir():
                folders[name] = target
            elif entry.is_file():
                if is_scan(entry.path, left_out.signals):
                    files.append(name)
                else:
                    left_out.add_file(entry.path)
    if marks & (DEMO | STORE):
        left_out.own.append(path)
        return
    own = own_names(path, marks)
    names = sorted(filter(own.fullmatch, [*files, *folders]))
    left_out.own += [os.path.join(path, name) for name in names]
    files = [name for name in files if not own.fullmatch(name)]
    folders = {name: target for name, target in folders.items() if not own.fullmatch(name)}
    for name in sorted(linked, key=natural_key):
        link = os.path.join(path, name)
        target, is_folder = os.path.realpath(link), os.path.isdir(link)
        is_read = is_folder or (os.path.isfile(link) and is_scan(link, left_out.signals))
        if not is_read:
            left_out.add_file(link)
        elif links.follow(target, is_folder):
            if is_folder:
                folders[name] = target
            else:
                files.append(name)

    items: list[str | Found] = [*files, *folders]
    if not left_out.signals and any(extension(name) not in ALONE for name in files):
        found = (Found(Path(path, name), start + name) for name in sorted(files))
        items = [*gather(found, left_out), *folders]

    def relative(item: str | Found) -> str:
        return item.relative if isinstance(item, Found) else start + item

    for item in sorted(items, key=lambda item: natural_key(relative(item))):
        if isinstance(item, Found):
            yield item
        elif item in folders:
            yield from _below(
                os.path.join(path, item), folders[item], f"{start}{item}/", links, left_out
            )
        else:
            yield Found(Path(path, item), start + item)
