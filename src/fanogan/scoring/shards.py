"""The results of all shards, put together as if one process had scored them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fanogan.scans import Shard
from fanogan.scoring.job import DATABASE, UNFINISHED, Journal
from fanogan.scoring.results_folder import digest_of, put_results, results_folder, written
from fanogan.scoring.summary import CASES, PATCHES, ROWS, SHARD, write_tables
from fanogan.scoring.table import Table
from fanogan.scoring.write import WRITES
from fanogan.storage import TEMPORARY, BadFolder
from fanogan.text import counted

MAY_DIFFER = "images", "shard", "engine", "device"
"""Of a job, by shard: one machine may have a GPU, and another path to the images."""
NAMED = 5
_AGAIN = "score that shard again"


@dataclasses.dataclass(frozen=True)
class Merged:
    """What ``merge`` has written.

    Attributes:
        table: The rows, the highest score first.
        linked: How many maps and pictures are the shards' own files, under a second name.
        copied: How many are copies, since the file system has no such links.
    """

    table: Table
    linked: int
    copied: int


@dataclasses.dataclass(frozen=True)
class _Part:
    folder: Path
    shard: Shard
    job: Mapping[str, Any]
    about: Mapping[str, Any]
    skipped: Sequence[str]


def merge(folders: Sequence[Path], out: Path, *, parquet: bool = False) -> Merged:
    """Put the results of all shards together: one table and page, and all maps.

    Args:
        folders: the results of each shard, in any order.
        out: the folder to write, whole or not at all.
        parquet: write each table in Parquet too.

    Raises:
        BadFolder: a shard is missing, there twice, unfinished, damaged or of another job; an image
            is in two shards; or other files lie in ``out``.
        OSError: ``out`` can't be written.
    """
    parts = sorted(map(_read, folders), key=lambda part: part.shard.number)
    _check(parts)
    if out.resolve() in {part.folder.resolve() for part in parts}:
        raise BadFolder(f"{out}: is one of the shards; give --out another folder")
    about = parts[0].about
    # Each part tells what the search of all left out.
    skipped = list(dict.fromkeys(note for part in parts for note in part.skipped))
    for name in ("engine", "device"):
        kinds = sorted({part.job[name] for part in parts})
        if len(kinds) > 1:
            skipped.append(f"shards were scored with different {name}s: {', '.join(kinds)}")
    with (
        results_folder(out, WRITES),
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out) as unfinished,
        contextlib.closing(Journal(Path(unfinished) / DATABASE)) as journal,
    ):
        folder = Path(unfinished) / "results"
        folder.mkdir()
        links = [0, 0]
        for part, rows in _new_rows(parts, journal):
            for place in (place for row in rows for place in row.get("files", ())):
                links[_put(part.folder / place, folder / place)] += 1
            journal.add(rows)
        _join_patches(parts, folder / PATCHES)
        if skipped and not len(journal):
            raise BadFolder(f"none of the images could be scored; the first {skipped[0]}")
        write_tables(folder, journal, about, skipped, parquet)
        put_results(folder, out)
        count = len(journal)
    return Merged(Table(out / "scores.csv", count), *links)


def _read(folder: Path) -> _Part:
    """Return what a shard's results say of themselves, checked against the list of its files."""
    if (folder / UNFINISHED).exists():
        raise BadFolder(f"{folder}: its scoring isn't finished; the same command resumes it")
    if not (folder / SHARD).exists():
        raise BadFolder(f"{folder}: no results of fanogan score --shard here")
    known = {place: digest for place, digest in written(folder) if place in (SHARD, ROWS)}
    for name in (SHARD, ROWS):
        path = folder / name
        if not path.is_file() or digest_of(path) != known.get(name):
            raise BadFolder(f"{path}: damaged or missing; {_AGAIN}")
    found = json.loads((folder / SHARD).read_text(encoding="utf-8"))
    return _Part(folder, Shard.parse(found["job"]["shard"]), **found)


def _check(parts: Sequence[_Part]) -> None:
    """Refuse what isn't every shard of one job, once."""
    first = parts[0]
    for before, part in itertools.pairwise(parts):
        if part.shard == before.shard:
            raise BadFolder(
                f"{part.folder} and {before.folder} are both shard {part.shard}: give one of them"
            )
    for part in parts[1:]:
        if part.shard.of != first.shard.of:
            raise BadFolder(
                f"{part.folder} is shard {part.shard}, and {first.folder} {first.shard}: give the "
                "shards of one division"
            )
        for name in sorted({*part.job, *first.job} - {*MAY_DIFFER}):
            here, there = part.job.get(name), first.job.get(name)
            if here != there:
                values = "" if name == "model" else f" ({here}, not {there})"
                raise BadFolder(
                    f"{part.folder}: was scored with another {name} than {first.folder}{values}; "
                    f"{_AGAIN}"
                )
    given = {part.shard.number for part in parts}
    missing = [number for number in range(1, first.shard.of + 1) if number not in given]
    if missing:
        named = ", ".join(f"{number}/{first.shard.of}" for number in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        raise BadFolder(f"missing {counted(len(missing), 'shard')}: {named}{more}; give all")


def _new_rows(
    parts: Sequence[_Part], journal: Journal
) -> Iterator[tuple[_Part, list[dict[str, Any]]]]:
    """Yield each part's rows, some at a time, and offer its cases; each name may come once."""
    # A database in a temporary file: an archive's names would take much memory.
    with contextlib.closing(sqlite3.connect("")) as names:
        names.execute("CREATE TABLE names (name TEXT PRIMARY KEY, part INTEGER) WITHOUT ROWID")
        for number, part in enumerate(parts):
            database = f"file:{quote(os.fsencode(part.folder / ROWS))}?mode=ro"
            with contextlib.closing(sqlite3.connect(database, uri=True)) as there:
                for kind, score, data in there.execute(
                    "SELECT kind, score, data FROM cases ORDER BY id"
                ):
                    journal.offer(kind, score, CASES[kind], functools.partial(bytes, data))
                found = there.execute("SELECT row FROM rows ORDER BY id")
                while some := [json.loads(text) for (text,) in found.fetchmany(1000)]:
                    for name in (row["name"] for row in some):
                        try:
                            names.execute(
                                "INSERT INTO names VALUES (?, ?)", [json.dumps(name), number]
                            )
                        except sqlite3.IntegrityError:
                            query = "SELECT part FROM names WHERE name = ?"
                            (before,) = names.execute(query, [json.dumps(name)]).fetchone()
                            raise BadFolder(
                                f"{name} is in {parts[before].folder} and in {part.folder}: it "
                                "has been scored twice; score both shards again, of one list"
                            ) from None
                    yield part, some


def _put(source: Path, target: Path) -> bool:
    """Give a file a second name, or copy it where the file system can't; tells whether it did."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
        return False
    except FileExistsError:
        raise BadFolder(
            f"{source}: another shard has a file for the same place; give the images other names"
        ) from None
    except FileNotFoundError:
        raise BadFolder(f"{source}: missing; {_AGAIN}") from None
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
    shutil.copyfile(source, target)
    return True


def _join_patches(parts: Sequence[_Part], out: Path) -> None:
    """Write the lines of all tables of patches under one header."""
    tables = [part.folder / PATCHES for part in parts if (part.folder / PATCHES).exists()]
    for number, table in enumerate(tables):
        with table.open("rb") as source, out.open("ab") as target:
            if number:
                source.readline()
            shutil.copyfileobj(source, target)
