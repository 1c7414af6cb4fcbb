"""Which files are meant, what they are called, and whose they are."""

from __future__ import annotations

import csv
import glob
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from fanogan.remote import BadRemote, copy_of, is_url
from fanogan.scans.checks import BadScan
from fanogan.scans.gather import (
    EXTENSIONS,
    Found,
    extension,
    gather,
    is_scan,
)
from fanogan.scans.left_out import DEMO, STORE, LeftOut, own_in
from fanogan.scans.lists import FileList, Sharded
from fanogan.scans.remote import here, named_at
from fanogan.scans.signals import SIGNAL_EXTENSIONS, SIGNAL_FORMATS
from fanogan.scans.source import Kind, ScanSource, kept_sources
from fanogan.scans.walk import natural_key, search

logger = logging.getLogger(__name__)

_WILDCARD = re.compile(r"[*?[]")


def reads(signals: bool) -> str:
    """Say which formats are read of signals, or of images."""
    if signals:
        return f"reads signals as {', '.join(SIGNAL_EXTENSIONS)}"
    return f"reads {', '.join(EXTENSIONS)}, and DICOM of any name"


def find_scans(
    source: Any,
    groups: str | None = None,
    on_left_out: Callable[[BadScan], None] | None = None,
    kind: Kind = "image",
) -> list[ScanSource]:
    """Find the files to read, name them, and say whose they are.

    A folder that holds one Heidelberg XML export is one scan, named as the folder is, and the
    pictures in it belong to that scan; so is a folder that holds one DICOM series of single
    frames. Any other .xml in a folder is left out, and so are DICOM objects without an image, such
    as segmentations and reports; named alone, they are refused when they are read.

    Args:
        source: A folder (searched recursively, without hidden files), a file, a glob, a URL of one
            of these as fsspec has it, a list of these, or a `FileList`. 'file.npz:key' names an
            array inside a .npz. `Sharded`, only those files of it that the shard holds, which may
            be none.
        groups: None: a file's subject is the first folder below the searched one, or the file
            itself where there is none. A path ending in '.csv': a table with the columns `path`
            (relative to the searched folder) and `subject`. Anything else: a regular expression
            that is searched in the name, and whose first group, or whole match, is the subject.
        on_left_out: Called at the end of the search with each sentence on what it left out: files
            without an image, formats that aren't read, what fanogan itself wrote. They are logged
            too.
        kind: What is meant: signals are arrays of channels × samples, CSV, WAV, FLAC, EDF, and WFDB
            records by their headers; volumes are what holds several slices.

    Returns:
        The sources in natural order (2 before 10) within each entry of a list, the entries in
        the order given; each file once.

    Raises:
        BadScan: Nothing there, nothing of a known format, or a file without a subject.
    """
    return list(each_scan(source, groups, on_left_out, kind))


def each_scan(
    source: Any,
    groups: str | None = None,
    on_left_out: Callable[[BadScan], None] | None = None,
    kind: Kind = "image",
) -> Iterator[ScanSource]:
    """Yield what `find_scans` lists; those of a single folder as the search comes to them.

    Arguments and errors are those of `find_scans`; an error further into a folder is raised there.
    """
    if isinstance(source, Sharded):
        if source.found:
            return kept_sources(source.found, on_left_out)
        whole = each_scan(source.source, groups, on_left_out, kind)
        return (each for each in whole if source.shard.holds(composed(each.name)))
    found = _each_scan(source, groups, on_left_out, kind)
    return chain([next(found)], found)


def _each_scan(
    source: Any,
    groups: str | None,
    on_left_out: Callable[[BadScan], None] | None,
    kind: Kind,
) -> Iterator[ScanSource]:
    entries = source if isinstance(source, list | tuple) else [source]
    if not entries:
        raise BadScan(
            f"nothing in an empty list: give folders, files or globs ({reads(kind == 'signal')})"
        )
    subject = _subject_rule(groups)
    if isinstance(entries[0], FileList):
        yield from _each_listed(entries[0], subject if groups else None, kind)
        return
    if any(map(is_url, entries)):
        entries = here(entries, kind == "signal")
    if is_url(entries[0]):
        for url, name in named_at(entries, kind == "signal"):
            path = Path(name.rpartition("/")[2])
            yield ScanSource(path, name, subject(Found(path, name), name), kind=kind, url=url)
        return
    is_folder = isinstance(entries[0], str | os.PathLike) and os.path.isdir(entries[0])
    left_out = LeftOut(kind == "signal")
    try:
        if len(entries) == 1 and is_folder:
            named = _named_in_folder(_expand(entries[0], left_out))
        else:
            named = _named_in_list(item for entry in entries for item in _expand(entry, left_out))
        for item, name in named:
            yield ScanSource(item.path, name, subject(item, name), item.key, item.parts, kind)
    except OSError as error:
        problem = f"{error.filename} cannot be searched ({error.strerror})"
        raise BadScan(f"{problem}: check its permissions") from error
    for sentence in left_out.sentences():
        logger.warning("skipped: %s", sentence)
        if on_left_out is not None:
            on_left_out(BadScan(sentence))


def _each_listed(
    listed: FileList, subject: Callable[[Found, str], str] | None, kind: Kind
) -> Iterator[ScanSource]:
    for text, name, named in listed.named():
        url = text if is_url(text) else None
        path, key = (Path(name.rpartition("/")[2]), None) if url else split_key(Path(text))
        if named is not None and subject is not None:
            raise BadScan(f"{listed} names subjects, and so does --groups: give one of them")
        group = named or (subject(Found(path, name), name) if subject else name)
        yield ScanSource(path, name, group, key, (), kind, url)


def split_key(path: Path) -> tuple[Path, str | None]:
    """Split 'file.npz:key' into the file and the key; any other path has no key."""
    match = re.fullmatch(r"(.+\.npz):([^/\\]+)", str(path), flags=re.IGNORECASE)
    if match is None or os.path.exists(path):
        return path, None
    return Path(match[1]), match[2]


def _expand(entry: Any, left_out: LeftOut) -> Iterator[Found]:
    """Find the files of one folder, file or glob; count those that hold no image."""
    if not isinstance(entry, str | os.PathLike):
        kind = type(entry).__name__
        raise BadScan(f"a source of type {kind} is no path: give paths only, or arrays only")
    text = os.fspath(entry)
    path = Path(text)
    if path.is_dir():
        if any((path / mark).exists() for mark in DEMO):
            raise BadScan(f"{path} is a demo's folder: give the folder in it whose scans you mean")
        if any((path / mark).exists() for mark in STORE):
            raise BadScan(
                f"{path} is a Zarr store, and only a model of retinal OCT takes one that fanogan "
                "prepare made: give a folder of images"
            )
        return _some(path, search(path, left_out), left_out)
    file, key = split_key(path)
    if file.exists():
        if file.suffix.lower() == ".img" and is_scan(file.with_suffix(".hdr")):
            raise BadScan(f"{file} holds the pixels of a NIfTI pair: give its header, the .hdr")
        if not is_scan(file, left_out.signals):
            if not left_out.signals and extension(file) in SIGNAL_FORMATS:
                raise BadScan(f"{file} is a signal: give a recipe for signals (--recipe signal)")
            raise BadScan(f"{file} is of no known format: fanogan {reads(left_out.signals)}")
        return iter([Found(file, file.stem if extension(file) == ".xml" else file.name, key)])
    if _WILDCARD.search(text):
        return _some(path, _expand_glob(text, left_out), left_out)
    raise BadScan(f"{text} does not exist: check the spelling of the path")


def _expand_glob(pattern: str, left_out: LeftOut) -> Iterator[Found]:
    """Find what a glob matches; names are relative to its part without wildcards."""
    root = Path(*takewhile(lambda part: not _WILDCARD.search(part), Path(pattern).parts))
    own = cache(own_in)
    found, files = list[Found](), list[Found]()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        relative = match.relative_to(root).as_posix()
        folders = zip(reversed(relative.split("/")), match.parents, strict=False)
        if any(own(folder).fullmatch(name) for name, folder in folders):
            continue
        if match.is_dir():
            found += search(match, left_out, "" if relative == "." else relative)
        elif is_scan(match, left_out.signals):
            files.append(Found(match, relative))
        else:
            left_out.add_file(str(match))
    found += gather(files, left_out)
    yield from sorted(found, key=lambda item: natural_key(item.relative))


def _some(where: Path, found: Iterator[Found], left_out: LeftOut) -> Iterator[Found]:
    """Return the files found, or raise BadScan where there are none."""
    first = next(found, None)
    if first is None:
        only = " and ".join(left_out.sentences())
        noun = "signals" if left_out.signals else "images"
        read = reads(left_out.signals)
        raise BadScan(f"no {noun} in {where}{only and f' but {only}'}: fanogan {read}")
    return chain([first], found)


def _named_in_folder(found: Iterator[Found]) -> Iterator[tuple[Found, str]]:
    """Name the files of one folder as they come, by their paths below it, which differ.

    A scan named by its folder takes in more of the path where another has that name.
    """
    taken: set[str] = set()
    for item in found:
        name, extra = item.name, 0
        if not name.endswith(item.path.name):
            while name in taken:
                extra += 1
                name = _longer_name(item, extra)
            taken.add(name)
        yield item, name


def _named_in_list(found: Iterator[Found]) -> Iterator[tuple[Found, str]]:
    """Name each file once, links resolved, with more of its path where names collide."""
    unique: dict[tuple[str, str | None], Found] = {}
    real_folder = cache(os.path.realpath)  # most of a million files lie beside each other
    for item in found:
        folder, name = os.path.split(item.path)
        is_link = os.path.islink(item.path)
        real = os.path.realpath(item.path) if is_link else os.path.join(real_folder(folder), name)
        unique.setdefault((real, item.key), item)
    items = list(unique.values())
    names = [item.name for item in items]
    extra = 0
    while len(set(names)) < len(names):
        extra += 1
        counts = Counter(names)
        names = [
            _longer_name(item, extra) if counts[name] > 1 else name
            for item, name in zip(items, names, strict=True)
        ]
    return zip(items, names, strict=True)


def _longer_name(item: Found, extra: int) -> str:
    """Return the name with `extra` more folders of the absolute path in front."""
    absolute = Path(os.path.abspath(item.path)).as_posix().split("/")
    longer = "/".join(absolute[-(len(item.relative.split("/")) + extra) :])
    return replace(item, relative=longer).name


def composed(name: str) -> str:
    """Return a name with each letter and its marks as one character, as macOS doesn't store it."""
    return unicodedata.normalize("NFC", name)


def _subject_rule(groups: str | None) -> Callable[[Found, str], str]:
    """Return the function that names the subject of a file and its name."""
    if groups is None:
        return lambda item, name: (
            composed(item.relative.split("/")[0]) if "/" in item.relative else name
        )
    if groups.lower().endswith(".csv"):
        return _table_rule(groups)
    return _pattern_rule(groups)


def _table_rule(table: str) -> Callable[[Found, str], str]:
    subjects = _read_table(table)

    def subject(item: Found, name: str) -> str:
        for candidate in map(composed, (item.name, item.relative, name)):
            if candidate in subjects:
                return subjects[candidate]
        raise BadScan(f"{name} is not listed in {table}: add a row with its path and subject")

    return subject


def _read_table(table: str) -> dict[str, str]:
    """Read a CSV of path and subject."""
    subjects: dict[str, str] = {}
    try:
        path_here = copy_of(table) if is_url(table) else table
        with open(path_here, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "subject"} <= set(reader.fieldnames or ()):
                raise BadScan(f"{table} has no columns 'path' and 'subject': add this header line")
            for row in reader:
                path, subject = ((row[column] or "").strip() for column in ("path", "subject"))
                if not path or not subject:
                    line = reader.line_num
                    raise BadScan(f"{table} lacks a path or a subject in line {line}: fill it in")
                path = composed(Path(path.replace("\\", "/")).as_posix())
                if subjects.setdefault(path, subject) != subject:
                    raise BadScan(f"{table} gives {path} two subjects: leave one of the rows")
    except BadRemote as error:
        raise BadScan(str(error)) from error
    except OSError as error:
        raise BadScan(f"{table} cannot be read ({error.strerror}): check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadScan(f"{table} is no CSV table in UTF-8: save it as one") from error
    return subjects


def _pattern_rule(pattern: str) -> Callable[[Found, str], str]:
    try:
        compiled = re.compile(composed(pattern))
    except re.error as error:
        problem = f"groups {pattern!r} is no regular expression ({error})"
        raise BadScan(f"{problem}: correct it") from error

    def subject(_: Found, name: str) -> str:
        match = compiled.search(composed(name))
        text = match and match[1 if compiled.groups else 0]
        if not text:
            raise BadScan(f"{name} does not match groups {pattern!r}, so its subject is unknown")
        return text

    return subject
