"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import Calibration
from fanogan.detectors import LearnedDetector, Result
from fanogan.report import Case, VolumeCase, write_score_report
from fanogan.retina import FlatVolume, Region, steps_figure
from fanogan.scans import BadScan
from fanogan.scoring.job import COMPLETE, Journal, job_of, unfinished
from fanogan.scoring.judge import Gallery, Judge, pack_case, unpack_case
from fanogan.scoring.table import COLUMNS, Rows, write_csv
from fanogan.scoring.volume_maps import (
    PATCH_COLUMNS,
    VolumeMaps,
    image_files,
    pack_volume,
    patch_rows,
    region_of,
    unpack_volume,
    write_files,
)
from fanogan.storage import write_whole
from fanogan.wording import counted

log = logging.getLogger(__name__)

IN_GALLERY = 60
VOLUMES_SHOWN = 8

STEPS, PATCHES = "steps.png", "patches.csv"


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
        "trained on": f"{counted(data['images'], 'normal image')} of "
        f"{counted(data['subjects'], 'subject')}",
        "sees": f"{window} at {seen.sides[0]}×{seen.sides[1]} pixels",
        "seed": str(detector.facts["seed"]),
    }


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
    job = job_of(detector, images, alpha=alpha, groups=groups, scores_only=scores_only)
    with unfinished(out, job) as (work, journal):
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


class _Written:
    """What is written of each result as it passes by, and kept for the page."""

    def __init__(
        self,
        work: Path,
        journal: Journal,
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
            log.warning("goes on after %s scored before", counted(len(self.of_images), "image"))
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
        noun = "B-scan" if self.shown.seen else "image"
        steps = self.work / STEPS
        write_score_report(
            self.folder / "report.html",
            title=f"Anomaly scores of {counted(total, noun)}",
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
                f"{self.warned:,} of {len(self.scores):,} look{'s' if self.warned == 1 else ''} "
                "unlike the training normals: see the warnings in scores.csv"
            )

    def _write_scores(self) -> None:
        """The table, whose rows are read one by one in the order of their scores."""
        with open(self.folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for index in np.argsort(-np.asarray(self.scores), kind="stable"):
                writer.writerow(self.journal.read(self.places[index]))


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
