"""Which files are meant, what they are called, and whose they are."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fanogan.scans.gather import PICTURES, Found, extension, gather
from fanogan.scans.scan import BadScan

EXTENSIONS = (
    *PICTURES,
    *(".npy", ".npz", ".dcm", ".dicom", ".nii", ".nii.gz", ".xml", ".vol", ".e2e"),
)
_READS = "reads " + ", ".join(EXTENSIONS)


@dataclass(frozen=True, slots=True)
class ScanSource:
    """A file that can be read as a scan, or files that are one together.

    Attributes:
        path: The file; of several, the first.
        name: Posix path relative to the searched folder, and ':key'; unique within a source.
        group: The subject.
        key: The array's name inside a .npz, where one was given.
        parts: The files of a DICOM series in order; empty where `path` is the whole scan.
    """

    path: Path
    name: str
    group: str
    key: str | None = None
    parts: tuple[Path, ...] = ()


def find_scans(source: Any, groups: str | None = None) -> list[ScanSource]:
    """Finds the files to read, names them, and says whose they are.

    A folder that holds one Heidelberg XML export is one scan, named as the folder is, and the
    pictures in it are that scan's own; so is a folder that holds one DICOM series of single
    frames. Any other .xml in a folder is left out.

    Args:
        source: A folder (searched recursively, without hidden files), a file, a glob, or a list
            of these. 'file.npz:key' names an array inside a .npz.
        groups: None: a file's subject is the first folder below the searched one, or the file
            itself where there is none. A path ending in '.csv': a table with the columns `path`
            (relative to the searched folder) and `subject`. Anything else: a regular expression
            that is searched in the name, and whose first group, or whole match, is the subject.

    Returns:
        The sources in natural order (2 before 10) within each entry of a list, the entries in
        the order given; each file once.

    Raises:
        BadScan: Nothing there, nothing of a known format, or a file without a subject.
    """
    entries = source if isinstance(source, list | tuple) else [source]
    if not entries:
        raise BadScan(f"no images in an empty list: give folders, files or globs ({_READS})")
    try:
        found = _without_duplicates(item for entry in entries for item in _expand(entry))
    except OSError as error:
        raise _unsearchable(error) from error
    subject = _subject_rule(groups)
    names = _unique_names(found)
    return [
        ScanSource(item.path, name, subject(item, name), item.key, item.parts)
        for item, name in zip(found, names, strict=True)
    ]


def split_key(path: Path) -> tuple[Path, str | None]:
    """Splits 'file.npz:key' into the file and the key; any other path has no key."""
    match = re.fullmatch(r"(.+\.npz):([^/\\]+)", str(path), flags=re.IGNORECASE)
    if match is None or os.path.exists(path):
        return path, None
    return Path(match[1]), match[2]


def _expand(entry: Any) -> list[Found]:
    """Finds the files of one folder, file or glob."""
    if not isinstance(entry, str | os.PathLike):
        kind = type(entry).__name__
        raise BadScan(f"a source of type {kind} is no path: give paths only, or arrays only")
    text = os.fspath(entry)
    path = Path(text)
    if path.is_dir():
        return _sorted_or_none(path, gather(_walk(path, path)))
    file, key = split_key(path)
    if file.exists():
        if extension(file) not in EXTENSIONS:
            raise BadScan(f"{file} has no extension of a known format: fanogan {_READS}")
        return [Found(file, file.stem if extension(file) == ".xml" else file.name, key)]
    if any(letter in text for letter in "*?["):
        return _expand_glob(text)
    raise BadScan(f"{text} does not exist: check the spelling of the path")


def _expand_glob(pattern: str) -> list[Found]:
    """Finds what a glob matches; names are relative to its part without wildcards."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if any(letter in part for letter in "*?["))
    root = Path(*parts[:fixed])
    found: list[Found] = []
    for match in map(Path, glob.glob(pattern, recursive=True)):
        if match.is_dir():
            found += _walk(match, root)
        elif extension(match) in EXTENSIONS:
            found.append(Found(match, match.relative_to(root).as_posix()))
    return _sorted_or_none(Path(pattern), gather(found))


def _sorted_or_none(where: Path, found: Sequence[Found]) -> list[Found]:
    """Sorts what was found, or raises BadScan where that is nothing."""
    ordered = sorted(found, key=lambda item: natural_key(item.relative))
    if not ordered:
        raise BadScan(f"no images in {where}: fanogan {_READS}")
    return ordered


def _walk(folder: Path, root: Path) -> Iterator[Found]:
    """Yields the readable files below a folder; links to folders are followed, once each."""
    seen: set[str] = set()
    for current, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(current, name)
            if not name.startswith(".") and extension(path) in EXTENSIONS and path.is_file():
                yield Found(path, path.relative_to(root).as_posix())


def _refuse(error: OSError) -> None:
    """Turns a folder that cannot be listed into an error: os.walk would leave it out in silence."""
    raise _unsearchable(error) from error


def _unsearchable(error: OSError) -> BadScan:
    return BadScan(f"{error.filename} cannot be searched ({error.strerror}): check its permissions")


def natural_key(name: str) -> tuple[object, ...]:
    """Returns a key that orders 'b2/a' before 'b10/a', folder by folder."""
    parts = (re.split(r"([0-9]+)", part.lower()) for part in name.split("/"))
    numbered = tuple(
        tuple((int(piece), "") if i % 2 else (0, piece) for i, piece in enumerate(pieces))
        for pieces in parts
    )
    return numbered, name


def _without_duplicates(found: Iterator[Found]) -> list[Found]:
    """Keeps the first of each file and key, links resolved."""
    first: dict[tuple[str, str | None], Found] = {}
    real_folder = cache(os.path.realpath)  # of a million files most lie beside each other
    for item in found:
        folder, name = os.path.split(item.path)
        is_link = os.path.islink(item.path)
        real = os.path.realpath(item.path) if is_link else os.path.join(real_folder(folder), name)
        first.setdefault((real, item.key), item)
    return list(first.values())


def _unique_names(found: list[Found]) -> list[str]:
    """Names each file by its relative path, and takes in more of the path where names collide."""
    names = [item.name for item in found]
    extra = 0
    while len(set(names)) < len(names):
        extra += 1
        counts = Counter(names)
        names = [
            _longer_name(item, extra) if counts[name] > 1 else name
            for item, name in zip(found, names, strict=True)
        ]
    return names


def _longer_name(item: Found, extra: int) -> str:
    """Returns the name with `extra` more folders of the absolute path in front."""
    absolute = Path(os.path.abspath(item.path)).as_posix().split("/")
    longer = "/".join(absolute[-(len(item.relative.split("/")) + extra) :])
    return replace(item, relative=longer).name


def _subject_rule(groups: str | None) -> Callable[[Found, str], str]:
    """Returns the function that names a file's subject."""
    if groups is None:
        return _folder_or_self
    if groups.lower().endswith(".csv"):
        return _table_rule(groups)
    return _pattern_rule(groups)


def _folder_or_self(item: Found, name: str) -> str:
    folder, slash, _ = item.relative.partition("/")
    return folder if slash else name


def _table_rule(table: str) -> Callable[[Found, str], str]:
    subjects = _read_table(table)

    def subject(item: Found, name: str) -> str:
        for candidate in (item.name, item.relative, name):
            if candidate in subjects:
                return subjects[candidate]
        raise BadScan(f"{name} is not listed in {table}: add a row with its path and subject")

    return subject


def _read_table(table: str) -> dict[str, str]:
    """Reads a CSV of path and subject."""
    subjects: dict[str, str] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "subject"} <= set(reader.fieldnames or ()):
                raise BadScan(f"{table} has no columns 'path' and 'subject': add this header line")
            for row in reader:
                path, subject = _row(table, reader.line_num, row)
                if subjects.setdefault(path, subject) != subject:
                    raise BadScan(f"{table} gives {path} two subjects: leave one of the rows")
    except OSError as error:
        raise BadScan(f"{table} cannot be read ({error.strerror}): check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadScan(f"{table} is no CSV table in UTF-8: save it as one") from error
    return subjects


def _row(table: str, line: int, row: dict[str | Any, str | Any]) -> tuple[str, str]:
    """Returns path and subject of a row, both filled in."""
    path, subject = ((row[column] or "").strip() for column in ("path", "subject"))
    if not path or not subject:
        raise BadScan(f"{table} lacks a path or a subject in line {line}: fill it in")
    return Path(path.replace("\\", "/")).as_posix(), subject


def _pattern_rule(pattern: str) -> Callable[[Found, str], str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadScan(
            f"groups {pattern!r} is no regular expression ({error}): correct it"
        ) from error

    def subject(_: Found, name: str) -> str:
        match = compiled.search(name)
        text = match and match[1 if compiled.groups else 0]
        if not text:
            raise BadScan(f"{name} does not match groups {pattern!r}, so its subject is unknown")
        return text

    return subject
