"""Lists of files, and the shard of all files that one of many processes takes."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fanogan.remote import is_url
from fanogan.scans.checks import BadScan
from fanogan.text import place_of

_PIECE = 1 << 20  # bytes
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class FileList:
    """A file that lists scans.

    It has a path a line, or paths with a NUL after each, or is a CSV with the columns `path` and
    `subject`. A line is a scan, named as it is written, so that its name depends on no other line.

    Attributes:
        path: The list.
        label: What messages call it; its path where empty.
    """

    path: Path
    label: str = ""

    def __str__(self) -> str:
        """Return what messages call it."""
        return self.label or str(self.path)

    def entries(self) -> Iterator[tuple[str, str | None]]:
        """Yield each path with its subject, None where the list names none; in flat memory.

        Raises:
            BadScan: It can't be read, is empty, or lacks a path or a subject.
        """
        try:
            with self.path.open("rb") as file:
                first = file.read(_PIECE)
                if first.startswith(_UTF_16):
                    raise BadScan(f"{self} is in UTF-16: save it in UTF-8")
                file.seek(len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0)
                header = first.partition(b"\n")[0].decode("utf-8-sig", "replace").strip()
                if {"path", "subject"} <= {cell.strip('"') for cell in header.split(",")}:
                    with io.TextIOWrapper(file, "utf-8", newline="") as table:
                        yield from self._rows(table)
                elif self.path.suffix.lower() == ".csv":
                    raise BadScan(
                        f"{self} has no columns 'path' and 'subject': add this header line"
                    )
                else:
                    separator = b"\0" if b"\0" in first else b"\n"
                    for part in _split(file, separator):
                        text = part if separator == b"\0" else part.rstrip(b"\r")
                        if text.strip():
                            yield os.fsdecode(text), None
        except OSError as error:
            raise BadScan(f"{self} cannot be read ({error.strerror}): check the path") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadScan(f"{self} is no CSV table in UTF-8: save it as one") from error

    def _rows(self, file: io.TextIOWrapper) -> Iterator[tuple[str, str | None]]:
        reader = csv.DictReader(file)
        for row in reader:
            path, subject = ((row[column] or "").strip() for column in ("path", "subject"))
            if not path or not subject:
                line = reader.line_num
                raise BadScan(f"{self} lacks a path or a subject in line {line}: fill it in")
            yield path, subject

    def named(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield each path as it is written, its name, and its subject.

        Raises:
            BadScan: As of `entries`; or a file is listed twice, or two would be written to the
                same place.
        """
        places = set[int]()  # digests: an archive's names would take much memory
        for path, subject in self.entries():
            name = path if is_url(path) else Path(path).as_posix()
            digest = _digest(place_of(name))
            if digest in places:
                raise BadScan(
                    f"{self} lists {name} twice, or another file whose results would lie in the "
                    "same place: leave one of them out"
                )
            places.add(digest)
            yield path, name, subject
        if not places:
            raise BadScan(f"{self} lists no file: give a path on each line")


def _split(file: Any, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while piece := file.read(_PIECE):
        *whole, rest = (rest + piece).split(separator)
        yield from whole
    yield rest


def _digest(text: str) -> int:
    data = text.encode(errors="surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest())


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of all files, by a digest of their names.

    A file stays in its shard when others come or go.

    Attributes:
        number: From 1 to `of`.
        of: How many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        """Return it as it is typed: 3/100."""
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that was typed.

        Raises:
            ValueError: It is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, of = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= of:
            raise ValueError(f"{text} is no shard: give one such as 3/100, the third of a hundred")
        return cls(number, of)

    @staticmethod
    def index_of(name: str, of: int) -> int:
        """Return which of so many parts the file of this name belongs to, from 0."""
        return _digest(name) % of

    def holds(self, name: str) -> bool:
        """Tell whether the file of this name belongs to it."""
        return self.index_of(name, self.of) == self.number - 1


@dataclass(frozen=True)
class Sharded:
    """What is given to be read, and the shard of it that is.

    Attributes:
        source: As `find_scans` takes it.
        shard: Which part of its files.
        found: Where one search of all has written what this shard holds (see `keep_sources`).
    """

    source: Any
    shard: Shard
    found: Path | None = None
