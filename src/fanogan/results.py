"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import Calibration
from fanogan.detectors import LearnedDetector, Result
from fanogan.en_face import VolumeCase
from fanogan.folders import write_whole
from fanogan.judge import Gallery, Judge
from fanogan.report import write_score_report
from fanogan.retina import FlatVolume
from fanogan.retina.picture import steps_figure
from fanogan.retina.regions import Region
from fanogan.scans import BadScan
from fanogan.volume_maps import PATCH_COLUMNS, VolumeMaps, patch_rows, write_pictures

COLUMNS = (
    *("name", "subject", "unit", "score", "image_residual", "feature_residual"),
    *("largest_window", "mean_of_windows", "windows"),
    *("p_value", "held_out", "held_out_subjects", "flag"),
    *("regions", "largest_region_mm2", "largest_region_bscan", "warnings", "notes"),
)
IN_GALLERY = 60
VOLUMES_SHOWN = 8


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
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[dict[str, Any]]:
    """Score images into a folder: ``scores.csv``, ``maps/``, ``overlays/`` and ``report.html``.

    Args:
        detector: a trained one.
        images: as for ``Detector.results``.
        out: the folder.
        alpha: the false-positive rate of the flags.
        groups: how subjects are named.
        skip_bad: leave out files that can't be read; they are listed in the report.
        on_result: called after each image or volume.

    Returns:
        The rows of ``scores.csv``, the highest score first.

    Raises:
        BadScan: an image that can't be read or scored; nothing is then written.
        OSError: the folder can't be written.
    """
    written = _Written(Judge(detector, alpha), detector.calibration)
    skipped: list[BadScan] = []
    with whole_folder(Path(out)) as folder:
        for result in detector.results(
            images, groups=groups, skip_bad=skip_bad, on_bad=skipped.append
        ):
            written.add(folder, result)
            on_result(result)
        written.finish(folder, detector, skips(skipped))
    return written.rows


class _Written:
    """What is written of each result as it passes by, and kept for the page."""

    def __init__(self, judge: Judge, calibration: Calibration):
        self.judge, self.calibration = judge, calibration
        self.gallery = Gallery(IN_GALLERY)
        self.shown: Gallery[VolumeCase] = Gallery(VOLUMES_SHOWN)
        self.rows: list[dict[str, Any]] = []
        self.volumes: list[dict[str, Any]] = []
        self.regions: list[dict[str, Any]] = []
        self.maps: VolumeMaps | None = None
        self.steps: bytes | None = None

    def add(self, folder: Path, result: Result) -> None:
        """Write a result's maps and pictures; a volume's once all its B-scans have passed."""
        self.rows.append(self.judge.row(result))
        scale = self.calibration.map_scale
        if result.unit == "image":
            case = self.judge.case(result)
            self.gallery.add(case)
            if result.volume is None:
                write_pictures(folder, case, scale)
            else:
                self._add_bscan(folder, result.volume, result)
            return
        line = self.judge.volume(result)
        if result.volume is not None and self.maps is not None:
            volume = self.maps.case(result, self.judge)
            self.maps.write(folder, volume, scale)
            self.shown.add(volume)
            self.regions += [{"volume": result.name, **vars(one)} for one in volume.regions]
            line["regions"] = len(volume.regions)
            self.rows[-1] |= _of_regions(volume.regions)
            self.maps = None
        self.volumes.append(line)

    def _add_bscan(self, folder: Path, volume: FlatVolume, result: Result) -> None:
        if self.maps is None:
            self.maps = VolumeMaps(volume, self.calibration.en_face)
            if self.steps is None:
                self.steps = steps_figure(volume, result.frame, self.judge.window)
        self.maps.add(result)
        with open(folder / "patches.csv", "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, PATCH_COLUMNS, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(patch_rows(volume, result, self.judge.window))

    def finish(self, folder: Path, detector: LearnedDetector, skipped: Sequence[str]) -> None:
        """Write the tables and the page."""
        self.rows.sort(key=lambda row: -float(row["score"]))
        self.volumes.sort(key=lambda volume: -float(volume["score"]))
        held_out = self.judge.units.get("image")
        units = ["image", "volume"] if self.volumes else ["image"]
        total = self.gallery.seen
        noun = "B-scans" if self.shown.seen else "images"
        write_score_report(
            folder / "report.html",
            title=f"Anomaly scores of {total:,} {noun}",
            model=about_model(detector),
            scale=self.calibration.map_scale,
            statement="; ".join(self.judge.statement(unit) for unit in units),
            cases=self.gallery.cases,
            total=total,
            scores=np.array([float(row["score"]) for row in self.rows if row["unit"] == "image"]),
            held_out=held_out.scores if held_out else np.array([]),
            volumes=self.volumes,
            volume_cases=self.shown.cases,
            steps=self.steps,
            warnings=[*_unfamiliar(self.rows), *skipped, *detector.facts["warnings"]],
        )
        write_csv(folder / "scores.csv", COLUMNS, self.rows)
        if self.shown.seen:
            columns = ["volume", *(field.name for field in dataclasses.fields(Region))]
            write_csv(folder / "regions.csv", columns, self.regions)
            write_whole(folder / "regions.json", json.dumps(self.regions, indent=1).encode())


def _of_regions(regions: Sequence[Region]) -> dict[str, Any]:
    """What a volume's line in ``scores.csv`` says of its candidate regions."""
    found: dict[str, Any] = {"regions": len(regions)}
    if regions:
        largest = max(regions, key=lambda region: region.pixels)
        found["largest_region_bscan"] = largest.bscan
        if largest.area_mm2 is not None:
            found["largest_region_mm2"] = f"{largest.area_mm2:.4g}"
    return found


def _unfamiliar(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    warned = sum(bool(row["warnings"]) for row in rows)
    if warned:
        yield f"{warned:,} of {len(rows):,} look unlike the training normals: see their warnings"


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
