"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import heapq
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from fanogan.calibration import Calibration, HeldOut, plural
from fanogan.detectors import LearnedDetector, Result
from fanogan.en_face import VolumeCase, en_face_picture
from fanogan.folders import write_whole
from fanogan.pictures import overlay
from fanogan.report import Case, write_score_report
from fanogan.retina import FlatVolume
from fanogan.retina.picture import steps_figure
from fanogan.retina.regions import Region, find_regions
from fanogan.scans import BadScan
from fanogan.scans.scan import UNKNOWN_SPACING, Spacing

COLUMNS = (
    *("name", "subject", "unit", "score", "image_residual", "feature_residual"),
    *("largest_window", "mean_of_windows", "windows"),
    *("p_value", "held_out", "held_out_subjects", "flag"),
    *("regions", "largest_region_mm2", "largest_region_bscan", "warnings", "notes"),
)
PATCH_COLUMNS = ("volume", "bscan", "row", "column", "score", "image_residual", "feature_residual")
IN_GALLERY = 60
VOLUMES_SHOWN = 8
BSCANS_DRAWN = 3
"""The overlays of a volume: its B-scans of the highest scores."""


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image in [−1, 1] as 8 bits: (H, W) or (H, W, 3); of other channels the first."""
    known = np.nan_to_num(image, nan=-1.0)
    pixels = np.clip(np.round((known + 1) * 127.5), 0, 255).astype(np.uint8)
    return np.asarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] != 3 else pixels)


class Judge:
    """Puts scores beside the held-out normals of the same kind of unit."""

    def __init__(self, detector: LearnedDetector, alpha: float):
        """Judge by a detector's calibration, at a false-positive rate."""
        self.units: Mapping[str, HeldOut] = detector.calibration.units
        self.window = detector.preprocessing.window or (0, 0)
        self.nouns = {"image": "B-scan"} if detector.preprocessing.retina else {}
        self.alpha = alpha

    def p_value(self, result: Result) -> float | None:
        """The conformal p-value, or None where no such unit was held out."""
        held_out = self.units.get(result.unit)
        return held_out.p_value(result.total) if held_out else None

    def flag(self, result: Result) -> bool | None:
        """Whether it is flagged; None where too few were held out."""
        held_out = self.units.get(result.unit)
        return held_out.flag(result.total, self.alpha) if held_out else None

    def statement(self, unit: str = "image") -> str:
        """What the calibration allows to claim."""
        held_out, noun = self.units.get(unit), self.nouns.get(unit, unit)
        return (
            held_out.describe(self.alpha, noun)
            if held_out
            else f"no {noun} was held out of training: {plural(noun)} have no p-value and no flag"
        )

    def row(self, result: Result) -> dict[str, Any]:
        """One line of ``scores.csv``."""
        held_out = self.units.get(result.unit)
        flag = self.flag(result)
        return {
            "name": result.name,
            "subject": result.group,
            "unit": result.unit,
            "score": repr(result.total),
            "image_residual": repr(result.image),
            "feature_residual": repr(result.feature),
            "largest_window": repr(result.largest),
            "mean_of_windows": repr(result.mean),
            "windows": result.windows,
            "p_value": "" if held_out is None else repr(self.p_value(result)),
            "held_out": held_out.n if held_out else 0,
            "held_out_subjects": held_out.n_subjects if held_out else 0,
            "flag": "too few held out" if flag is None else "yes" if flag else "no",
            "warnings": "; ".join(result.warnings),
            "notes": "; ".join(result.notes),
        }

    def volume(self, result: Result) -> dict[str, Any]:
        """One line of the report's table of volumes."""
        return {
            "name": result.name,
            "score": result.total,
            "p_value": self.p_value(result),
            "flag": self.flag(result),
        }

    def case(
        self, result: Result, label: int | None = None, mask: np.ndarray | None = None
    ) -> Case:
        """An image as the report's gallery shows it."""
        assert result.picture is not None and result.reconstruction is not None
        return Case(
            name=result.name,
            score=result.total,
            image_residual=result.image,
            feature_residual=result.feature,
            p_value=self.p_value(result),
            flag=self.flag(result),
            label=label,
            warnings=result.warnings,
            picture=as_picture(result.picture),
            reconstruction=as_picture(result.reconstruction),
            residual=result.residual,
            mask=mask,
        )


C = TypeVar("C", Case, VolumeCase)


class Gallery(Generic[C]):
    """The cases with the highest values of a key, of any number that pass by, in flat memory."""

    def __init__(self, size: int, key: Callable[[C], float] | None = None):
        """Keep ``size`` cases, by their scores where no other key is given."""
        self.size = size
        self.key: Callable[[C], float] = key or (lambda case: case.score)
        self.heap: list[tuple[float, int, C]] = []
        self.seen = 0

    def add(self, case: C) -> None:
        """Let a case pass by."""
        self.seen += 1
        heapq.heappush(self.heap, (self.key(case), -self.seen, case))
        if len(self.heap) > self.size:
            heapq.heappop(self.heap)

    @property
    def cases(self) -> list[C]:
        """The cases kept, the highest key first."""
        return [case for _, _, case in sorted(self.heap, reverse=True, key=lambda entry: entry[:2])]


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
                _write_pictures(folder, case, scale)
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


class VolumeMaps:
    """The maps of a volume's B-scans, in the scan's own geometry."""

    def __init__(self, volume: FlatVolume, normal: tuple[float, float] | None):
        """Nothing is known yet; ``normal`` is the calibration's ``en_face``."""
        self.volume = volume
        self.median, self.threshold = normal or (0.0, np.inf)
        shape = volume.bscans.shape
        self.residuals = np.full(shape, np.nan, dtype=np.float32)
        self.en_face = np.full((shape[0], shape[2]), np.nan, dtype=np.float32)
        self.scores = np.full(shape[0], np.nan)
        self.masks: np.ndarray | None = None

    def add(self, result: Result, mask: np.ndarray | None = None) -> None:
        """Add a B-scan, and where it is known its truth (rows, columns) bool."""
        assert result.residual is not None
        self.residuals[result.frame] = result.residual
        self.en_face[result.frame] = self.volume.en_face_line(result.frame, result.residual)
        self.scores[result.frame] = result.total
        if mask is not None:
            if self.masks is None:
                self.masks = np.zeros(self.residuals.shape, dtype=np.bool_)
            self.masks[result.frame] = mask

    def case(self, result: Result, judge: Judge) -> VolumeCase:
        """The volume as the page shows it, with its candidate regions."""
        volume = self.volume
        deepest = np.nan_to_num(self.residuals, nan=-1).argmax(axis=1)
        regions = find_regions(self.en_face, deepest, self.threshold, volume.scan_spacing)
        return VolumeCase(
            name=result.name,
            score=result.total,
            p_value=judge.p_value(result),
            flag=judge.flag(result),
            warnings=(*result.warnings, *result.notes),
            bscans=volume.bscans,
            residuals=self.residuals.astype(np.float16),
            scores=self.scores,
            en_face=self.en_face,
            en_face_floor=self.median,
            en_face_scale=2 * self.threshold - self.median,
            spacing=volume.scan_spacing,
            fundus=volume.en_face,
            regions=regions,
            masks=self.masks,
        )

    def write(self, folder: Path, case: VolumeCase, scale: float) -> None:
        """The map as TIFF in the scan's geometry, the en-face map, the worst B-scans in colour."""
        place = _place(case.name)
        spacing = self.volume.scan_spacing
        write_whole(folder / "maps" / f"{place}.tif", _float_tiff(self.residuals, spacing))
        between, _, across = spacing
        flat = _float_tiff(self.en_face, (None, between, across))
        write_whole(folder / "en_face" / f"{place}.tif", flat)
        write_whole(folder / "en_face" / f"{place}.png", _png(en_face_picture(case)))
        worst = np.argsort(-np.nan_to_num(self.scores, nan=-np.inf), kind="stable")
        for frame in worst[: min(BSCANS_DRAWN, int(np.isfinite(self.scores).sum()))]:
            residual = np.nan_to_num(self.residuals[frame])
            coloured = overlay(np.asarray(case.bscans[frame]), residual, scale)
            write_whole(folder / "overlays" / f"{place}#{frame}.png", _png(coloured))


def _of_regions(regions: Sequence[Region]) -> dict[str, Any]:
    """What a volume's line in ``scores.csv`` says of its candidate regions."""
    found: dict[str, Any] = {"regions": len(regions)}
    if regions:
        largest = max(regions, key=lambda region: region.pixels)
        found["largest_region_bscan"] = largest.bscan
        if largest.area_mm2 is not None:
            found["largest_region_mm2"] = f"{largest.area_mm2:.4g}"
    return found


def patch_rows(
    volume: FlatVolume, result: Result, window: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Lines of ``patches.csv``: the middle of each patch in the scan's own rows and columns."""
    assert result.patches is not None
    for row, column, *scores in result.patches:
        middle = row + (window[0] - 1) / 2, column + (window[1] - 1) / 2
        at = volume.place(result.frame, *middle)
        values = [result.volume.name if result.volume else "", result.frame, *map(round, at)]
        yield dict(zip(PATCH_COLUMNS, [*values, *(repr(float(v)) for v in scores)], strict=True))


def _place(name: str) -> str:
    """A name as a path below the results."""
    return name.lstrip("/").replace("../", "")


def _write_pictures(folder: Path, case: Case, scale: float) -> None:
    """An image's raw map, and the map in colours over the image."""
    assert case.residual is not None
    place = _place(case.name)
    write_whole(folder / "maps" / f"{place}.tif", _float_tiff(case.residual))
    coloured = overlay(case.picture, case.residual, scale)
    write_whole(folder / "overlays" / f"{place}.png", _png(coloured))


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


def _float_tiff(residual: np.ndarray, spacing: Spacing = UNKNOWN_SPACING) -> bytes:
    """A map as TIFF, with its spacing in mm as ImageJ keeps it."""
    import tifffile

    between, row, column = spacing
    known: dict[str, Any] = {"unit": "mm", **({"spacing": between} if between else {})}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        residual.astype(np.float32),
        imagej=True,
        compression="zlib",
        resolution=(1 / column, 1 / row) if row and column else None,
        metadata=known if row and column else {},
    )
    return buffer.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
