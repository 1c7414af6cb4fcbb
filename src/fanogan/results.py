"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from fanogan.calibration import Calibration
from fanogan.detectors import LearnedDetector, Result
from fanogan.en_face import VolumeCase
from fanogan.folders import BadFolder, write_whole
from fanogan.judge import Gallery, Judge, pack_case, unpack_case
from fanogan.report import Case, write_score_report
from fanogan.retina import FlatVolume
from fanogan.retina.picture import steps_figure
from fanogan.retina.regions import Region
from fanogan.scans import BadScan
from fanogan.volume_maps import (
    PATCH_COLUMNS,
    VolumeMaps,
    image_files,
    pack_volume,
    patch_rows,
    region_of,
    unpack_volume,
    write_files,
)

log = logging.getLogger(__name__)

COLUMNS = (
    *("name", "subject", "unit", "score", "image_residual", "feature_residual"),
    *("largest_window", "mean_of_windows", "windows"),
    *("p_value", "held_out", "held_out_subjects", "flag"),
    *("regions", "largest_region_mm2", "largest_region_bscan", "warnings", "notes"),
)
COUNTS = {"windows", "held_out", "held_out_subjects", "regions", "largest_region_bscan"}
IN_GALLERY = 60
VOLUMES_SHOWN = 8

UNFINISHED = ".unfinished"
JOB, ROWS, STEPS, COMPLETE = "job.json", "rows.jsonl", "steps.png", "complete"
PATCHES = "patches.csv"


def method_of(detector: LearnedDetector) -> str:
    """What a detector is called on a page: the proposed method by its own name."""
    return "f-AnoGAN" if detector.name == "izi_f" else detector.name


def about_model(detector: LearnedDetector) -> dict[str, str]:
    """What a page says of the model."""
    data, seen = detector.facts["fingerprint"], detector.preprocessing
    window = f"windows of {seen.window[0]}×{seen.window[1]}" if seen.window else "whole images"
    return {
        "detector": method_of(detector),
        "recipe": " · ".join(filter(None, (detector.recipe.name, detector.recipe.about))),
        "trained on": f"{data['images']:,} normal images of {data['subjects']:,} subjects",
        "sees": f"{window} at {seen.sides[0]}×{seen.sides[1]} pixels",
        "seed": str(detector.facts["seed"]),
    }


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


def write_results(
    detector: LearnedDetector,
    images: Any,
    out: str | Path,
    *,
    alpha: float = 0.05,
    groups: str | None = None,
    skip_bad: bool = False,
    scores_only: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Rows:
    """Score images into a folder: ``scores.csv``, ``maps/``, ``overlays/`` and ``report.html``.

    All come into ``out`` together, at the end. Until then what is done lies in its ``.unfinished``:
    if the scoring of files is killed, stopped, or ends with an error such as a bad file, the same
    call goes on there, with the same batches, and ends with the same results as if never stopped.
    A call with other images, another model or other settings drops it and begins anew; so does any
    call with arrays or scans in memory, which can't be told from others.

    Args:
        detector: a trained one.
        images: as for ``Detector.results``.
        out: the folder.
        alpha: the false-positive rate of the flags.
        groups: how subjects are named.
        skip_bad: leave out files that can't be read; they are listed in the report.
        scores_only: write ``scores.csv`` and ``report.html`` alone.
        on_result: called after each image or volume.

    Returns:
        The rows of ``scores.csv``, the highest score first.

    Raises:
        BadScan: an image that can't be read or scored.
        BadFolder: another process is scoring into this folder.
        OSError: the folder can't be written.
    """
    out, skipped = Path(out), list[BadScan]()
    job = _job(detector, images, alpha=alpha, groups=groups, scores_only=scores_only)
    with _unfinished(out, job) as (work, journal):
        written = _Written(work, journal, Judge(detector, alpha), detector.calibration, scores_only)
        done = written.restore()
        for batch in detector.batches(
            images, groups=groups, skip_bad=skip_bad, on_bad=skipped.append, done=done
        ):
            for result in batch:
                written.add(result)
                on_result(result)
            written.keep()
        written.finish(detector, skips(skipped))
    return Rows(out / "scores.csv", len(written.scores))


def images_done(out: Path) -> int:
    """How many images a scoring has behind it that was stopped before its end."""
    try:
        with (out / UNFINISHED / ROWS).open("rb") as file:
            return sum(b'"unit": "image"' in line for line in file)
    except OSError:
        return 0


def _job(detector: LearnedDetector, images: Any, **settings: Any) -> dict[str, Any]:
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
def _unfinished(out: Path, job: Mapping[str, Any]) -> Iterator[tuple[Path, _Journal]]:
    """The work folder of a job, and its rows so far; the results go into ``out`` at the end.

    Raises:
        BadFolder: another process works there.
        OSError: it can't be written; the error names ``out``.
    """
    is_new, work = not out.exists(), out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        (work / "results").mkdir(parents=True, exist_ok=True)
        with _Journal(work / ROWS, out) as journal:
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


def _begin_anew(work: Path, journal: _Journal, job: Mapping[str, Any]) -> None:
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


class _Journal:
    """The rows so far, in a file that only grows: lines of JSON, an empty one after each batch.

    So a kill in the middle of a line, or of a batch, is told from its end.
    """

    def __init__(self, path: Path, out: Path):
        """Open it, for this process alone.

        Raises:
            BadFolder: another process has it open.
        """
        self.path = path
        self.file = path.open("a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise BadFolder(
                f"{out}: another process is scoring into it; wait for it, or give --out another "
                "folder"
            ) from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Let others have it."""
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


class _Written:
    """What is written of each result as it passes by, and kept for the page."""

    def __init__(
        self,
        work: Path,
        journal: _Journal,
        judge: Judge,
        calibration: Calibration,
        scores_only: bool,
    ):
        self.work, self.folder, self.journal = work, work / "results", journal
        self.judge, self.calibration, self.scores_only = judge, calibration, scores_only
        self.gallery: Gallery[Case] = Gallery(IN_GALLERY)
        self.shown: Gallery[VolumeCase] = Gallery(VOLUMES_SHOWN)
        self.batch: list[dict[str, Any]] = []
        # Of all rows: 8 bytes each, since there may be a million.
        self.scores, self.places, self.of_images = array("d"), array("q"), array("d")
        self.warned = 0
        self.volumes: list[dict[str, Any]] = []
        self.regions: list[dict[str, Any]] = []
        self.maps: VolumeMaps | None = None

    def restore(self) -> Set[str]:
        """Take up what was done before; returns the names of it."""
        names, moved = set(), (self.work / COMPLETE).exists()
        patches = 0

        def is_there(file: str) -> bool:
            path = self.folder / file
            return moved or (path.exists() and path.stat().st_size > 0)

        for place, row in self.journal.restore(is_there):
            self._count(place, row)
            names.add(row["name"])
            patches = row.get("patches", patches)
        if (self.folder / PATCHES).exists():
            os.truncate(self.folder / PATCHES, patches)
        self.gallery.restore(self.of_images, self.work / "cases", unpack_case)
        shown = [volume["score"] for volume in self.volumes if "regions" in volume]
        self.shown.restore(shown, self.work / "volumes", unpack_volume)
        if names:
            log.warning("goes on after %s images scored before", f"{len(self.of_images):,}")
        return names

    def add(self, result: Result) -> None:
        """Write a result's maps and pictures; a volume's once all its B-scans have passed."""
        row = self.judge.row(result)
        self.batch.append(row)
        if result.unit == "volume":
            self._add_volume(row, result)
            return
        self.gallery.offer(result.total, lambda: self.judge.case(result))
        if result.volume is not None:
            self._add_bscan(result.volume, result)
        elif not self.scores_only:
            row["files"] = write_files(self.folder, image_files(result, self.calibration.map_scale))

    def _add_volume(self, row: dict[str, Any], result: Result) -> None:
        row["volume"] = self.judge.volume(result)
        if self.maps is None:
            return
        case = self.maps.case(result, self.judge)
        if not self.scores_only:
            files = self.maps.files(case, self.calibration.map_scale)
            row["files"] = write_files(self.folder, files)
            row["patches"] = (self.folder / PATCHES).stat().st_size
        self.shown.add(case)
        row |= _of_regions(case.regions)
        row["volume"]["regions"] = len(case.regions)
        row["found"] = [vars(region) for region in case.regions]
        self.maps = None

    def _add_bscan(self, volume: FlatVolume, result: Result) -> None:
        if self.maps is None:
            self.maps = VolumeMaps(volume, self.calibration.en_face)
            if not (self.work / STEPS).exists():
                steps = steps_figure(volume, result.frame, self.judge.window)
                write_whole(self.work / STEPS, steps)
        self.maps.add(result)
        if self.scores_only:
            return
        with open(self.folder / PATCHES, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, PATCH_COLUMNS, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(patch_rows(volume, result, self.judge.window))

    def keep(self) -> None:
        """Let a batch be done: what the page may show of it, and then its rows."""
        self.gallery.save(self.work / "cases", pack_case)
        self.shown.save(self.work / "volumes", pack_volume)
        for place, row in zip(self.journal.append(self.batch), self.batch, strict=True):
            self._count(place, row)
        self.batch = []

    def _count(self, place: int, row: Mapping[str, Any]) -> None:
        score = float(row["score"])
        self.scores.append(score)
        self.places.append(place)
        self.warned += bool(row["warnings"])
        if row["unit"] == "image":
            self.of_images.append(score)
        else:
            self.volumes.append(row["volume"])
            found = map(region_of, row.get("found", ()))
            self.regions += [{"volume": row["name"], **vars(region)} for region in found]

    def finish(self, detector: LearnedDetector, skipped: Sequence[str]) -> None:
        """Write the tables and the page."""
        self.volumes.sort(key=lambda volume: -float(volume["score"]))
        held_out = self.judge.units.get("image")
        units = ["image", "volume"] if self.volumes else ["image"]
        total = self.gallery.seen
        noun = "B-scans" if self.shown.seen else "images"
        steps = self.work / STEPS
        write_score_report(
            self.folder / "report.html",
            title=f"Anomaly scores of {total:,} {noun}",
            model=about_model(detector),
            scale=self.calibration.map_scale,
            statement="; ".join(self.judge.statement(unit) for unit in units),
            cases=self.gallery.cases,
            total=total,
            scores=np.sort(self.of_images)[::-1],
            held_out=held_out.scores if held_out else np.array([]),
            volumes=self.volumes,
            volume_cases=self.shown.cases,
            steps=steps.read_bytes() if steps.exists() else None,
            warnings=[*self._unfamiliar(), *skipped, *detector.facts["warnings"]],
        )
        if self.shown.seen and not self.scores_only:
            columns = ["volume", *(field.name for field in dataclasses.fields(Region))]
            write_csv(self.folder / "regions.csv", columns, self.regions)
            write_whole(self.folder / "regions.json", json.dumps(self.regions, indent=1).encode())
        self._write_scores()

    def _unfamiliar(self) -> Iterator[str]:
        if self.warned:
            yield (
                f"{self.warned:,} of {len(self.scores):,} look unlike the training normals: see "
                "their warnings"
            )

    def _write_scores(self) -> None:
        """The table, whose rows are read one by one in the order of their scores."""
        with open(self.folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for index in np.argsort(-np.asarray(self.scores), kind="stable"):
                writer.writerow(self.journal.read(self.places[index]))


class Rows(Sequence[dict[str, Any]]):
    """The rows of a ``scores.csv``, read from the file whenever they are asked for."""

    def __init__(self, path: Path, length: int):
        """Of a file with ``length`` rows."""
        self.path, self.length = path, length

    def __len__(self) -> int:
        """The number of rows."""
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row by its columns, counts as integers."""
        with self.path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {k: int(v) if v and k in COUNTS else v for k, v in row.items()}

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """A row or several; what comes before them in the file is read too."""
        if isinstance(index, int):
            return next(itertools.islice(self, range(self.length)[index], None))
        return list(itertools.islice(self, *index.indices(self.length)))


def _of_regions(regions: Sequence[Region]) -> dict[str, Any]:
    """What a volume's line in ``scores.csv`` says of its candidate regions."""
    found: dict[str, Any] = {"regions": len(regions)}
    if regions:
        largest = max(regions, key=lambda region: region.pixels)
        found["largest_region_bscan"] = largest.bscan
        if largest.area_mm2 is not None:
            found["largest_region_mm2"] = f"{largest.area_mm2:.4g}"
    return found


def skips(skipped: Sequence[BadScan]) -> list[str]:
    """What a page says of files that were left out."""
    return [f"skipped: {error}" for error in skipped]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
