"""Results on their way: a folder comes whole or not at all, and a scoring that stops goes on.

The work folder of a scoring, ``.unfinished``, holds what is written so far, and a journal of its
rows. Only the whole goes into the folder of the results.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from fanogan.detectors import LearnedDetector
from fanogan.storage import LOCK, BadFolder, exclusive, write_whole

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
JOB, ROWS, COMPLETE = "job.json", "rows.jsonl", "complete"


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, whose files come into ``out`` together at the end, or not at all.

    Raises:
        OSError: ``out`` can't be written; the error names it.
    """
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as unfinished:
            yield Path(unfinished)
            _move_files(Path(unfinished), out)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _move_files(source: Path, target: Path) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


def images_done(out: Path) -> int:
    """How many images a scoring has behind it that was stopped before its end."""
    try:
        with (out / UNFINISHED / ROWS).open("rb") as file:
            return sum(b'"unit": "image"' in line for line in file)
    except OSError:
        return 0


def job_of(detector: LearnedDetector, images: Any, **settings: Any) -> dict[str, Any]:
    """What the results depend on; ``images`` are None where they can't be named."""
    entries = images if isinstance(images, list | tuple) else [images]
    named = all(isinstance(entry, str | os.PathLike) for entry in entries)
    saved = (detector.recipe, detector.preprocessing, detector.calibration, detector.familiar)
    told = json.dumps([detector.name, detector.facts, *(one.to_dict() for one in saved)])
    digest = hashlib.sha256(told.encode())
    for network in detector.networks:
        for tensor in network.state_dict().values():
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    run = getattr(detector.engine, "run", None)
    return {
        "fanogan": version("fanogan"),
        "images": [os.path.abspath(entry) for entry in entries] if named else None,
        "model": digest.hexdigest(),
        "engine": run.__qualname__ if run else "torch",
        "device": detector.device.type,
        **settings,
    }


@contextlib.contextmanager
def unfinished(out: Path, job: Mapping[str, Any]) -> Iterator[tuple[Path, Journal]]:
    """The work folder of a job, and its rows so far; the results go into ``out`` at the end.

    Raises:
        BadFolder: another process works there.
        OSError: it can't be written; the error names ``out``.
    """
    is_new, work = not out.exists(), out / UNFINISHED
    busy = BadFolder(
        f"{out}: another process is scoring into it; wait for it, or give --out another folder"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (work / "results").mkdir(parents=True, exist_ok=True)
        with exclusive(out / LOCK, busy), Journal(work / ROWS) as journal:
            if not _is_of(work, job):
                _begin_anew(work, journal, job)
            try:
                yield work, journal
                # A power cut from here on finds all of it on the disk; the mark says that what is
                # missing in the work folder has been moved, and isn't lost.
                os.sync()
                write_whole(work / COMPLETE, b"")
                _move_files(work / "results", out)
                (work / JOB).unlink()  # first: half deleted it can't be gone on with
                shutil.rmtree(work)
            finally:
                if work.exists() and (job["images"] is None or journal.is_empty()):
                    shutil.rmtree(work)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _is_of(work: Path, job: Mapping[str, Any]) -> bool:
    """Whether a work folder is this job's own, and the job can be gone on with."""
    try:
        begun = json.loads((work / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return job["images"] is not None and bool(begun == json.loads(json.dumps(job)))


def _begin_anew(work: Path, journal: Journal, job: Mapping[str, Any]) -> None:
    if not journal.is_empty():
        log.warning(
            "%s: holds the beginning of another scoring (other images, settings or model), which "
            "is dropped",
            work,
        )
    journal.clear()
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != journal.path:
            path.unlink()
    (work / "results").mkdir()
    write_whole(work / JOB, json.dumps(job, indent=1).encode())


class Journal:
    """The rows so far, in a file that only grows: lines of JSON, an empty one after each batch.

    So a kill in the middle of a line, or of a batch, is told from its end.
    """

    def __init__(self, path: Path):
        """Open it, or begin it."""
        self.path = path
        self.file = path.open("a+b")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.file.close()

    def is_empty(self) -> bool:
        """Whether nothing is done yet."""
        return self.file.seek(0, os.SEEK_END) == 0

    def clear(self) -> None:
        """Forget all."""
        self.file.truncate(0)

    def restore(self, is_there: Callable[[str], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield place and row of whole batches, and cut off what follows the last of them.

        Args:
            is_there: whether a file that a row names is there; of those last written before a
                power cut some may not be.
        """
        self.file.seek(0)
        batch: list[tuple[int, dict[str, Any]]] = []
        place = end = 0
        for line in self.file:
            if line == b"\n":
                yield from batch
                batch, end = [], place + 1
            else:
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                if not all(map(is_there, row.get("files", ()))):
                    break
                batch.append((place, row))
            place += len(line)
        self.file.truncate(end)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add a batch; returns the places of its rows."""
        lines = [json.dumps(row).encode() + b"\n" for row in rows]
        begin = self.file.seek(0, os.SEEK_END)
        self.file.write(b"".join([*lines, b"\n"]))
        self.file.flush()
        ends = itertools.accumulate(map(len, lines), initial=begin)
        return list(ends)[:-1]

    def read(self, place: int) -> dict[str, Any]:
        """The row at a place."""
        self.file.seek(place)
        return dict(json.loads(self.file.readline()))
