"""Which files at URLs are scans: each of them alone, since none is opened to find out."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from fanogan.remote import BadRemote, files_at, is_url
from fanogan.scans.gather import ALONE, EXTENSIONS, extension
from fanogan.scans.left_out import DEMO, MARKS, STORE, own_names
from fanogan.scans.scan import BadScan
from fanogan.scans.signals import SIGNAL_EXTENSIONS
from fanogan.scans.walk import natural_key
from fanogan.text import counted

logger = logging.getLogger(__name__)

_SEVERAL = (".hdr", ".hea")
"""Files that lead to another beside them."""


def named_at(
    urls: Sequence[object], signals: bool, on_left_out: Callable[[BadScan], None] | None
) -> Iterator[tuple[str, str]]:
    """Yield the URL and the name of each scan, in natural order within each entry.

    Raises:
        BadScan: nothing there, a path of this machine among them, or two files of one name.
    """
    known = SIGNAL_EXTENSIONS if signals else ALONE
    taken = set[str]()
    left_out = Counter[str]()
    for url in urls:
        if not isinstance(url, str) or not is_url(url):
            raise BadScan(f"{url} is a path, and others are URLs: give paths alone, or URLs alone")
        try:
            files = files_at(url)
        except BadRemote as error:
            raise BadScan(str(error)) from error
        if list(files.values()) == [url]:  # a file that was named itself may be DICOM too
            names = list(files)
        else:
            own = _own(files)
            kept = [name for name in files if not own(name)]
            left_out.update(
                extension(name)
                for name in kept
                if extension(name) in EXTENSIONS and extension(name) not in known
            )
            names = [n for n in kept if extension(n) in known and extension(n) not in _SEVERAL]
            if not names:
                noun = "signals" if signals else "images"
                raise BadScan(f"no {noun} at {url}: fanogan reads {', '.join(known)} there")
        for name in sorted(names, key=natural_key):
            if name in taken:
                raise BadScan(f"two files are called {name}: give the folder above both")
            taken.add(name)
            yield files[name], name
    if left_out and not signals:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
        sentence = (
            f"{counted(left_out.total(), 'file')} at URLs ({kinds}), of formats whose scans may be "
            "of several files: copy their folders to this machine"
        )
        logger.warning("skipped: %s", sentence)
        if on_left_out is not None:
            on_left_out(BadScan(sentence))


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
