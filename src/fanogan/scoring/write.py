"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.report import Found, dicom_objects
from fanogan.retina import FlatVolume, PicturesAs, Region, steps_figure
from fanogan.scans import BadScan, NoneUsable, Sharded, Spacing, check_source
from fanogan.scoring.about import about_results, maker_of, scan_row
from fanogan.scoring.cases import case_of, pack
from fanogan.scoring.drift import today
from fanogan.scoring.job import COMPLETE, Journal, job_of, open_job
from fanogan.scoring.model import Model
from fanogan.scoring.pipeline import result_batches
from fanogan.scoring.result import Result
from fanogan.scoring.signal_maps import span_row, spans_of
from fanogan.scoring.summary import (
    CASES,
    IN_GALLERY,
    PATCHES,
    ROWS,
    SHARD,
    TABLES,
    VOLUMES_SHOWN,
    write_tables,
)
from fanogan.scoring.table import Table, row_of
from fanogan.scoring.volume_maps import (
    PATCH_COLUMNS,
    Files,
    MapsAs,
    VolumeMaps,
    image_files,
    map_file,
    patch_rows,
    signal_files,
    voxel_files,
    write_files,
)
from fanogan.scoring.voxel_maps import regions_of
from fanogan.storage import write_whole
from fanogan.text import as_cells, counted, place_of

log = logging.getLogger(__name__)

WRITES = (*TABLES, *("maps", "reconstructions", "overlays", "en_face", "shape", "layers", "dicom"))
"""All that may come into the folder of the results."""


def write_results(
    model: Model,
    images: Any,
    out: str | Path,
    *,
    alpha: float = 0.05,
    groups: str | None = None,
    pictures: PicturesAs = "auto",
    spacing: Spacing | None = None,
    skip_bad: bool = False,
    scores_only: bool = False,
    maps: MapsAs = "tiff",
    dicom: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Table:
    """Score images into a folder: ``scores.csv``, ``maps/``, ``overlays/`` and ``report.html``.

    All come into ``out`` together, at the end. Until then what is done is kept in its
    ``.unfinished``: if the scoring of files is killed, stopped, or ends with an error such as a bad
    file, the same call resumes it, with the same batches, and ends with the same results as if it
    had never been stopped. Where files or subjects have changed in the meantime, were added or are
    gone, what was scored from the first of them on is scored anew. A call with other images,
    another model or other settings drops it and begins anew; so does any call with arrays or scans
    in memory, which can't be told from others.

    What an earlier call has written into ``out`` and this one doesn't goes; other files there are
    left alone.

    Args:
        model: a trained one.
        images: as for ``results``; of ``Sharded`` also what ``merge`` needs is kept.
        out: the folder.
        alpha: the false-positive rate of the flags.
        groups: how subjects are named.
        pictures: of retinal OCT, what the pictures of a folder are (see ``find_volumes``).
        spacing: of retinal OCT, mm between B-scans, rows and columns for what files don't tell; the
            model's own where None.
        skip_bad: leave out files that can't be read; they are listed in the report.
        scores_only: write ``scores.csv`` and ``report.html`` alone.
        maps: the format of ``maps/``: 'tiff', or 'nifti', which has a file for each volume, with
            spacing and direction.
        dicom: write into ``dicom/`` what is found as objects of the scans' own studies; the scans
            must be DICOM files.
        on_result: called after each image or volume.

    Returns:
        The rows of ``scores.csv``, the highest score first.

    Raises:
        BadScan: an image that can't be read or scored.
        BadFolder: another process is writing into this folder, or it holds files where results
            would be written that no command of ours wrote.
        OSError: the folder can't be written.
    """
    out, skipped = Path(out), list[BadScan]()
    reading: dict[str, Any] = {"groups": groups, "pictures": pictures, "spacing": spacing}
    if maps == "nifti" and model.preprocessing.signal:
        raise BadScan("--maps nifti is for images, and this model is of signals: leave it out")
    settings: dict[str, Any] = {
        "alpha": alpha,
        "scores_only": scores_only,
        "maps": maps,
        "dicom": dicom,
    }
    job = job_of(model, images, **settings, **reading)
    with open_job(out, job, WRITES) as (work, journal):
        writer = _Writer(model, work, journal, **settings)
        inputs = () if job["images"] is None else model.preprocessing.find(images, groups, pictures)
        if dicom:
            if job["images"] is None:
                raise BadScan("--dicom writes objects that refer to DICOM files: give these")
            inputs = _of_dicom(inputs)
        done = writer.restore((each.name, each.identity) for each in inputs)
        if not (work / COMPLETE).exists():  # else all that is left to do is to move it
            try:
                for batch in result_batches(
                    model, images, skip_bad=skip_bad, on_bad=skipped.append, done=done, **reading
                ):
                    for result in batch:
                        writer.add(result)
                        on_result(result)
                    writer.end_batch()
            except NoneUsable:
                if not isinstance(images, Sharded):  # other shards may hold what can be used
                    raise
            about, notes = about_results(model, alpha, scores_only), skip_notes(skipped)
            if isinstance(images, Sharded):
                shard = {"job": job, "about": about, "skipped": notes}
                write_whole(work / "results" / SHARD, json.dumps(shard, indent=1).encode())
                journal.copy_to(work / "results" / ROWS, CASES)
            write_tables(work / "results", journal, about, notes)
        count = len(journal)
    return Table(out / "scores.csv", count)


def _of_dicom(inputs: Iterable[Any]) -> Iterator[Any]:
    """Yield the inputs, each once it is known to be one that DICOM objects can refer to."""
    for each in inputs:
        if getattr(each, "url", None):
            raise BadScan(f"{each.url}: --dicom needs files of this machine; copy them here")
        check_source(getattr(each, "parts", ()) or (each.path,))
        yield each


class _Writer:
    """Writes files of each result as it passes, and keeps its row for the table and the page."""

    def __init__(
        self,
        model: Model,
        work: Path,
        journal: Journal,
        alpha: float,
        scores_only: bool,
        maps: MapsAs,
        dicom: bool,
    ):
        self.model, self.calibration, self.alpha = model, model.calibration, alpha
        self.work, self.folder, self.journal = work, work / "results", journal
        self.scores_only, self.maps_as = scores_only, maps
        self.maker = maker_of(model) if dicom else None
        self.batch: list[dict[str, Any]] = []
        self.maps: VolumeMaps | None = None
        self.frames: list[np.ndarray] = []  # the maps so far of a volume that isn't flattened

    def restore(self, inputs: Iterable[tuple[str, str]]) -> Set[str]:
        """Take up what was done before of inputs as they are now; returns the names of it."""
        names, images, patches = set(), 0, 0
        begun = len(self.journal)
        changed = self.journal.take(inputs)
        if begun and changed is not None:
            log.warning(
                "%s has changed, was added or is gone since this scoring was begun: what was "
                "scored from there on is scored anew",
                changed,
            )
        moved = (self.work / COMPLETE).exists()

        def size(file: str) -> int:
            path = self.folder / file
            return path.stat().st_size if path.exists() else 0

        lines = size(PATCHES)

        def has_files(row: Mapping[str, Any]) -> bool:
            return moved or (
                lines >= row.get("patches", 0) and all(map(size, row.get("files", ())))
            )

        for row in self.journal.restore(has_files):
            names.add(row["name"])
            images += row["unit"] == "image"
            patches = row.get("patches", patches)
        if (self.folder / PATCHES).exists():
            os.truncate(self.folder / PATCHES, patches)
        if names:
            log.warning("resumes after %s scored before", counted(images, "image"))
        return names

    def add(self, result: Result) -> None:
        """Write a result's maps and pictures; a volume's once all its B-scans have passed."""
        row = {
            **row_of(result, self.calibration, self.alpha),
            "input": result.scan_name or result.name,
        }
        if not result.of_volume:
            row["scan"] = scan_row(result)
        self.batch.append(row)
        if result.unit == "volume":
            self._add_volume(row, result)
            return
        row["measures"] = [today(), *result.measures]

        def packed() -> bytes:
            return pack(case_of(result, self.calibration, self.alpha))

        self.journal.offer("image", result.total, IN_GALLERY, packed)
        if result.volume is not None:
            self._add_bscan(result.volume, result)
        if result.signal:
            spans = [span_row(result, span) for span in spans_of(result, self.calibration)]
            row["spans"], row["regions"] = spans, len(spans)
        elif result.smoothed is not None:
            regions = regions_of(result, self.calibration)
            lines = [region.row(result.name, n) for n, region in enumerate(regions, start=1)]
            row["spans"], row["regions"] = lines, len(lines)
        if not (self.scores_only or (result.volume and result.volume.is_volume)):
            if result.signal:
                files = signal_files(result, self.calibration)
            elif result.smoothed is not None:
                files = voxel_files(result, self.calibration.map_scale, self.maps_as)
            else:
                files = image_files(result, self.calibration.map_scale, self.maps_as)
            if result.residual is not None and not result.of_volume:
                frames = result.residual.reshape(-1, *result.residual.shape[-2:])
                files = itertools.chain(files, self._objects(result, frames))
            elif result.residual is not None and (self.maker or self.maps_as == "nifti"):
                self.frames.append(result.residual.copy())
            row["files"] = write_files(self.folder, files)
            if result.volume is not None:
                row["patches"] = (self.folder / PATCHES).stat().st_size

    def _add_bscan(self, volume: FlatVolume, result: Result) -> None:
        window = self.model.preprocessing.window
        assert window is not None
        draw_steps = functools.partial(steps_figure, volume, result.frame, window)
        self.journal.offer("steps", 0.0, CASES["steps"], draw_steps)
        if volume.is_volume:
            self.maps = self.maps or VolumeMaps(volume, self.calibration.en_face)
            self.maps.add(result)
        if self.scores_only:
            return
        with open(self.folder / PATCHES, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, PATCH_COLUMNS, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(map(as_cells, patch_rows(volume, result, window)))

    def _add_volume(self, row: dict[str, Any], result: Result) -> None:
        row["volume"] = {
            "name": result.name,
            "score": result.total,
            "p_value": float(row["p_value"]) if row["p_value"] else None,
            "flag": {"yes": True, "no": False}.get(row["flag"]),
        }
        if self.frames:
            residuals, self.frames = np.stack(self.frames), []
            files = self._objects(result, residuals)
            if self.maps_as == "nifti":
                place = result.spacing, result.affine, result.files
                file = map_file(result.name, residuals, *place, self.maps_as)
                files = itertools.chain([file], files)
            row["files"] = write_files(self.folder, files)
        if self.maps is None:
            return
        case = self.maps.case(result, self.calibration, self.alpha)
        if not self.scores_only:
            files = self.maps.files(case, self.calibration.map_scale, self.maps_as)
            if self.maker:
                found = case.regions, self.maps.region_labels()
                objects = self._objects(result, self.maps.residuals, *found)
                files = itertools.chain(files, objects)
            row["files"] = write_files(self.folder, files)
            row["patches"] = (self.folder / PATCHES).stat().st_size
        self.journal.offer("volume", case.score, VOLUMES_SHOWN, lambda: pack(case))
        row["regions"] = row["volume"]["regions"] = len(case.regions)
        row["found"] = [vars(region) for region in case.regions]
        if case.regions:
            largest = max(case.regions, key=lambda region: region.pixels)
            row["largest_region_bscan"] = largest.bscan
            if largest.area_mm2 is not None:
                row["largest_region_mm2"] = f"{largest.area_mm2:.4g}"
        self.maps = None

    def _objects(
        self,
        result: Result,
        residual: np.ndarray,
        regions: Sequence[Region] = (),
        labels: np.ndarray | None = None,
    ) -> Files:
        """Yield what is found in a scan, as DICOM objects where they are asked for."""
        if self.maker is None:
            return
        p_value, _ = self.calibration.assess(result.unit, result.total, self.alpha)
        found = Found(residual, self.calibration.map_scale, result.total, p_value, regions, labels)
        for end, data in dicom_objects(result.files, found, self.maker):
            yield f"dicom/{place_of(result.name, end)}", data

    def end_batch(self) -> None:
        """Let a batch be done: its rows, and the cases that the page may show of it."""
        self.journal.add(self.batch)
        self.batch = []


def skip_notes(skipped: Sequence[BadScan]) -> list[str]:
    """Say on a page which files were left out."""
    return [f"skipped: {error}" for error in skipped]
