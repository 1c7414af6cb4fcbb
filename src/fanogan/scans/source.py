"""What a search finds: the files of one scan, their name, and whose they are."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fanogan.remote import stamp
from fanogan.scans.checks import BadScan
from fanogan.scans.dicom import photograph_of
from fanogan.scans.gather import PICTURES, extension, is_dicom

Kind = Literal["image", "signal", "volume"]
"""What files are taken for: a volume is seen in three dimensions, not slice by slice."""


@dataclass(frozen=True, slots=True)
class ScanSource:
    """A file that can be read as a scan, or several files that make one together.

    Attributes:
        path: The file; of several, the first.
        name: Posix path relative to the searched folder, and ':key'; unique within a source.
        group: The subject.
        key: The array's name inside a .npz, where one was given.
        parts: The files of a DICOM series in order; empty where `path` is the whole scan.
        kind: What an array file holds.
        url: Where the file lies, if not on this machine; then `path` is its name alone.
    """

    path: Path
    name: str
    group: str
    key: str | None = None
    parts: tuple[Path, ...] = ()
    kind: Kind = "image"
    url: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is read from, those beside it too that it leads to."""
        if self.parts:
            return self.parts
        if extension(self.path) == ".hea":  # and so do the samples of a WFDB record
            return tuple(sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}.*")))
        if extension(self.path) == ".xml":  # the pictures of a Heidelberg export lie beside it
            beside = self.path.parent.iterdir()
            return (self.path, *sorted(path for path in beside if extension(path) in PICTURES))
        photograph = photograph_of(self.path) if is_dicom(self.path) else None
        return (self.path, photograph) if photograph else (self.path,)

    @property
    def identity(self) -> str:
        """Digest that differs where it has another subject, or a file that has changed."""
        if self.url:
            return identity((), self.group, self.key, stamp(self.url))
        return identity(self.files, self.group, self.key)


def identity(files: Iterable[Path], *known: Any) -> str:
    """Return a digest of each file's name, size and time of change, and of what else is known."""
    digest = hashlib.sha256(repr(known).encode())
    for path in files:
        with contextlib.suppress(OSError):  # reading it says what is wrong
            found = path.stat()
            digest.update(repr((path.name, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


HELD = 100_000
"""Sources that wait to be written to their files, so that memory doesn't grow with the archive."""


def keep_sources(
    found: Iterable[tuple[int, ScanSource]], left_out: Sequence[str], files: Sequence[Path]
) -> None:
    """Write what a search has found into files, a line each; ``kept_sources`` reads them.

    Args:
        found: Sources in the order of the search, each with the index of its file.
        left_out: Sentences on what the search left out, filled while it goes on; all files get
            them.
        files: Those that are there already are replaced at the end.
    """
    new = [file.with_name(f"{file.name}.new") for file in files]
    for file in new:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")

    def write(lines: dict[int, list[str]]) -> None:
        for index, texts in lines.items():
            with new[index].open("a", encoding="ascii") as file:
                file.writelines(f"{text}\n" for text in texts)

    waiting = defaultdict[int, list[str]](list)
    values = operator.attrgetter(*(field.name for field in dataclasses.fields(ScanSource)))
    for count, (index, source) in enumerate(found, 1):
        waiting[index].append(json.dumps(values(source), default=str))
        if count % HELD == 0:
            write(waiting)
            waiting.clear()
    write(waiting)
    write({index: [json.dumps(text) for text in left_out] for index in range(len(files))})
    for written, file in zip(new, files, strict=True):
        written.replace(file)


def kept_sources(
    file: Path, on_left_out: Callable[[BadScan], None] | None = None
) -> Iterator[ScanSource]:
    """Yield what ``keep_sources`` wrote into a file; say what the search left out."""
    with file.open(encoding="ascii") as lines:
        for each in map(json.loads, lines):
            if isinstance(each, str):
                if on_left_out is not None:
                    on_left_out(BadScan(each))
                continue
            path, name, group, key, parts, kind, url = each
            yield ScanSource(Path(path), name, group, key, tuple(map(Path, parts)), kind, url)
