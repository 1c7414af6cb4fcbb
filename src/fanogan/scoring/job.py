"""Results on their way: a folder comes whole or not at all, and a stopped scoring is resumed.

The work folder of a scoring, ``.unfinished``, holds the files written so far and a database of the
rows and cases. Only the whole goes into the folder of the results.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import itertools
import json
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fanogan.remote import is_url
from fanogan.scans import FileList, Sharded
from fanogan.scoring.frames import BATCH
from fanogan.scoring.model import Model, identity_of
from fanogan.scoring.results_folder import put_results, results_folder
from fanogan.storage import write_whole

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
FORMAT = 4
JOB, DATABASE, COMPLETE = "job.json", "rows.sqlite", "complete"


def images_done(out: Path) -> int:
    """Return how many images a stopped scoring has done."""
    database = out / UNFINISHED / DATABASE
    if not database.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (count,) = connection.execute(
                "SELECT COUNT(*) FROM rows WHERE unit = 'image'"
            ).fetchone()
            return int(count)
    except sqlite3.Error:  # another process works there, which scoring will say
        return 0


def job_of(model: Model, images: Any, **settings: Any) -> dict[str, Any]:
    """Return what the results depend on; ``images`` is None where they can't be named."""
    source = images.source if isinstance(images, Sharded) else images
    entries = source if isinstance(source, list | tuple) else [source]
    if isinstance(source, FileList):
        entries = [source.label or source.path]
    named = all(isinstance(entry, str | os.PathLike) for entry in entries)
    digest = hashlib.sha256(identity_of(model).encode())
    for network in model.networks.values():
        for tensor in network.state_dict().values():
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return {
        "fanogan": version("fanogan"),
        "journal": FORMAT,
        "images": [entry if is_url(entry) else os.path.abspath(entry) for entry in entries]
        if named
        else None,
        "shard": str(images.shard) if isinstance(images, Sharded) else None,
        "model": digest.hexdigest(),
        "engine": model.engine,
        "precision": model.precision,
        "device": model.device.type,
        **settings,
    }


@contextlib.contextmanager
def open_job(
    out: Path, job: Mapping[str, Any], names: Iterable[str]
) -> Iterator[tuple[Path, Journal]]:
    """Give the work folder of a job, and its rows so far; results go into ``out`` at the end.

    Args:
        out: the folder of the results.
        job: as ``job_of`` tells it.
        names: what may be written into ``out``.

    Raises:
        BadFolder: as of ``results_folder``.
        OSError: it can't be written; the error names ``out``.
    """
    work = out / UNFINISHED
    with (
        results_folder(out, names),
        contextlib.closing(_journal_of(work, job)) as journal,
    ):
        try:
            with _system_errors(work):
                yield work, journal
                # A power cut from here on finds all of it on the disk; the mark says that what is
                # missing in the work folder has been moved, and isn't lost.
                if sys.platform != "win32":  # which has no such call
                    os.sync()
                write_whole(work / COMPLETE, b"")
                put_results(work / "results", out)
                (work / JOB).unlink()  # first: half deleted it can't be resumed
                shutil.rmtree(work)
        finally:
            if work.exists() and (job["images"] is None or not len(journal)):
                shutil.rmtree(work)


def _journal_of(work: Path, job: Mapping[str, Any]) -> Journal:
    """Open what is to be resumed, or begin anew."""
    if work.exists():
        with _system_errors(work):
            if _can_resume(work, job):
                return Journal(work / DATABASE)
        shutil.rmtree(work)
    try:
        (work / "results").mkdir(parents=True)
        write_whole(work / JOB, json.dumps(job, indent=1).encode())
        with _system_errors(work):
            return Journal(work / DATABASE)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _can_resume(work: Path, job: Mapping[str, Any]) -> bool:
    """Tell whether a work folder is this job's own, and whole; else say why it is dropped."""
    if not (work / DATABASE).exists():
        return False
    begun = None
    with contextlib.suppress(OSError, ValueError):
        begun = json.loads((work / JOB).read_text(encoding="utf-8"))
    if job["images"] is None or begun != json.loads(json.dumps(job)):
        log.warning(
            "%s: holds the beginning of another scoring (other images, settings or model), which "
            "is dropped",
            work,
        )
        return False
    try:
        with contextlib.closing(Journal(work / DATABASE)) as journal:
            journal.check()
    except sqlite3.OperationalError:  # a disk that is full or fails
        raise
    except sqlite3.DatabaseError:
        log.warning("%s: the scoring that was begun here is damaged, and is dropped", work)
        return False
    return True


@contextlib.contextmanager
def _system_errors(work: Path) -> Iterator[None]:
    """Raise the system's own error in place of SQLite's, which doesn't tell it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = errno.ENOSPC if str(error) == "database or disk is full" else errno.EIO
        if number == errno.EIO:  # the system says what a file larger than all there meets
            sizes = [path.stat().st_size for path in work.iterdir() if path.is_file()]
            with tempfile.TemporaryFile(dir=work) as file:
                file.seek(max(sizes, default=0))
                file.write(bytes(1 << 16))
        raise OSError(number, os.strerror(number)) from error


class Journal:
    """The rows so far, and the cases that the page may show of them, batch by batch.

    A batch is there whole or not at all, whenever the process is killed.
    """

    def __init__(self, path: Path):
        """Open the database, or make it."""
        self.path = path
        self.connection = sqlite3.connect(path)
        # One process has it, so no memory is shared, which network file systems can't. A power cut
        # may take the last batches, and leaves the others whole.
        self.connection.executescript(
            """
            PRAGMA locking_mode = EXCLUSIVE;
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = NORMAL;
            CREATE TABLE IF NOT EXISTS rows
                (id INTEGER PRIMARY KEY, batch INTEGER, input INTEGER, unit TEXT, score REAL,
                row TEXT);
            CREATE TABLE IF NOT EXISTS cases
                (id INTEGER PRIMARY KEY, batch INTEGER, kind TEXT, score REAL, data BLOB);
            CREATE TABLE IF NOT EXISTS inputs
                (place INTEGER PRIMARY KEY, name TEXT, identity TEXT);
            CREATE INDEX IF NOT EXISTS input_names ON inputs (name);
            """
        )
        last = self.connection.execute("SELECT MAX(batch) FROM rows").fetchone()[0]
        self.batch: int = 0 if last is None else last + 1
        self.highest: dict[str, list[float]] = {}

    def close(self) -> None:
        """Close it; a batch that isn't whole is dropped."""
        self.connection.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0])

    def check(self) -> None:
        """Raise sqlite3.DatabaseError where it is damaged."""
        (found,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        query = "SELECT COUNT(*) FROM rows WHERE NOT json_valid(row)"
        (invalid,) = self.connection.execute(query).fetchone()
        if found != "ok" or invalid:
            raise sqlite3.DatabaseError("damaged")

    def take(self, inputs: Iterable[tuple[str, str]]) -> str | None:
        """Take the names and identities of all inputs, in order, in the place of those before.

        Returns:
            The name of the first that is another than before, None where all are the same. What
            follows it is dropped at the next ``restore``, with what the networks may have seen
            together with it: a batch of fewer than ``BATCH`` just before.
        """
        before = self.connection.execute("SELECT name, identity FROM inputs ORDER BY place")
        rest = iter(inputs)
        pairs = enumerate(itertools.zip_longest(rest, before))
        differing = (
            (place, given, known)
            for place, (given, known) in pairs
            if given is None or known is None or (json.dumps(given[0]), given[1]) != known
        )
        first = next(differing, None)
        if first is None:
            return None
        place, given, known = first
        before.close()
        self.path.with_name(COMPLETE).unlink(missing_ok=True)
        new = enumerate(itertools.chain([given] if given else [], rest), place)
        with self.connection:
            self.connection.execute("DELETE FROM inputs WHERE place >= ?", [place])
            self.connection.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?)",
                ((at, json.dumps(name), identity) for at, (name, identity) in new),
            )
            last, count = self.connection.execute(
                "SELECT batch, COUNT(*) FROM rows WHERE input < ? GROUP BY batch "
                "ORDER BY batch DESC LIMIT 1",
                [place],
            ).fetchone() or (-1, BATCH)
            self.batch = last if count < BATCH else last + 1
            self._forget()
        return str(given[0]) if given else str(json.loads(known[0]))

    def _forget(self) -> None:
        """Drop the batches from the next one on."""
        for table in ("rows", "cases"):
            self.connection.execute(f"DELETE FROM {table} WHERE batch >= ?", [self.batch])

    def restore(self, has_files: Callable[[Mapping[str, Any]], bool]) -> Iterator[dict[str, Any]]:
        """Yield the rows of whole batches, in the order in which they came.

        Args:
            has_files: whether the files that a row names are there; of those last written before a
                power cut some may not be, and their batch and what follows it is dropped.
        """
        for batch, text in self.connection.execute("SELECT batch, row FROM rows ORDER BY id"):
            if not has_files(json.loads(text)):
                self.batch = batch
                break
        with self.connection:
            self._forget()
        yield from self.rows()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of a batch, and with them the cases offered since the last one."""
        with self.connection:
            self.connection.executemany(
                "INSERT INTO rows (batch, input, unit, score, row) VALUES "
                "(?, (SELECT place FROM inputs WHERE name = ?), ?, ?, ?)",
                (
                    (
                        *(self.batch, json.dumps(row["input"]), row["unit"]),
                        *(float(row["score"]), json.dumps(row)),
                    )
                    for row in rows
                ),
            )
        self.batch += 1

    def offer(self, kind: str, score: float, most: int, pack: Callable[[], bytes]) -> None:
        """Keep a case that is among the ``most`` highest so far.

        What others displace later stays: it is among the highest again where they are dropped.
        """
        highest = self.highest.get(kind)
        if highest is None:
            query = "SELECT score FROM cases WHERE kind = ? ORDER BY score DESC LIMIT ?"
            found = self.connection.execute(query, [kind, most])
            highest = self.highest[kind] = [score for (score,) in found]
            heapq.heapify(highest)
        if len(highest) == most and score <= highest[0]:
            return
        (heapq.heappush if len(highest) < most else heapq.heapreplace)(highest, score)
        self.connection.execute(
            "INSERT INTO cases (batch, kind, score, data) VALUES (?, ?, ?, ?)",
            [self.batch, kind, score, pack()],
        )

    def cases(self, kind: str, most: int) -> Iterator[bytes]:
        """Yield the highest cases, the highest first."""
        query = "SELECT data FROM cases WHERE kind = ? ORDER BY score DESC, id LIMIT ?"
        for (data,) in self.connection.execute(query, [kind, most]):
            yield data

    def rows(self, order: Literal["score DESC, id", "id"] = "id") -> Iterator[dict[str, Any]]:
        """Yield all rows, as they came or the highest score first."""
        for (text,) in self.connection.execute(f"SELECT row FROM rows ORDER BY {order}"):
            yield json.loads(text)

    def copy_to(self, path: Path, most: Mapping[str, int]) -> None:
        """Write the rows, and of each kind of case the highest, to a database that is whole."""
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as copy:
            self.connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("DELETE FROM inputs")
            for kind, count in most.items():
                highest = "SELECT id FROM cases WHERE kind = ? ORDER BY score DESC, id LIMIT ?"
                copy.execute(
                    f"DELETE FROM cases WHERE kind = ? AND id NOT IN ({highest})",
                    [kind, kind, count],
                )
            copy.commit()
            copy.execute("VACUUM")

    def squares(self) -> dict[str, int]:
        """Return by day the sum over subjects of their squared numbers of images."""
        counted = """
            SELECT json_extract(row, '$.measures[0]') AS day, COUNT(*) AS images
            FROM rows WHERE unit = 'image' GROUP BY day, json_extract(row, '$.subject')
        """
        query = f"SELECT day, SUM(images * images) FROM ({counted}) GROUP BY day"
        return dict(self.connection.execute(query))

    def scores(self, unit: str) -> np.ndarray:
        """Return the scores of a kind of unit, (n,), the highest first."""
        query = "SELECT score FROM rows WHERE unit = ? ORDER BY score DESC"
        return np.fromiter((s for (s,) in self.connection.execute(query, [unit])), np.float64)
