"""What scoring leaves behind: a table, maps in the scan's own geometry, overlays and a page."""

from __future__ import annotations

import contextlib
import csv
import heapq
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import HeldOut
from fanogan.detectors import FAnoGAN, Result
from fanogan.folders import write_whole
from fanogan.report import Case, overlay, write_score_report
from fanogan.scans import BadScan

COLUMNS = (
    *("name", "subject", "unit", "score", "image_residual", "feature_residual"),
    *("largest_window", "mean_of_windows", "windows"),
    *("p_value", "held_out", "held_out_subjects", "flag", "warnings", "notes"),
)
IN_GALLERY = 60


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image in [−1, 1] as 8 bits: (H, W) or (H, W, 3); of other channels the first."""
    pixels = np.clip(np.round((image + 1) * 127.5), 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] != 3 else pixels


class Judge:
    """Puts scores beside the held-out normals of the same kind of unit."""

    def __init__(self, detector: FAnoGAN, alpha: float):
        """Judge by a detector's calibration, at a false-positive rate."""
        self.units: Mapping[str, HeldOut] = detector.calibration.units
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
        held_out = self.units.get(unit)
        return (
            held_out.describe(self.alpha, unit)
            if held_out
            else f"no {unit} was held out of training, so {unit}s have no p-value and no flag"
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


class Gallery:
    """The cases with the highest values of a key, of any number that pass by, in flat memory."""

    def __init__(self, size: int, key: Callable[[Case], float] = lambda case: case.score):
        """Keep ``size`` cases."""
        self.size, self.key = size, key
        self.heap: list[tuple[float, int, Case]] = []
        self.seen = 0

    def add(self, case: Case) -> None:
        """Let a case pass by."""
        self.seen += 1
        heapq.heappush(self.heap, (self.key(case), -self.seen, case))
        if len(self.heap) > self.size:
            heapq.heappop(self.heap)

    @property
    def cases(self) -> list[Case]:
        """The cases kept, the highest key first."""
        return [case for _, _, case in sorted(self.heap, reverse=True, key=lambda entry: entry[:2])]


def about_model(detector: FAnoGAN) -> dict[str, str]:
    """What a page says of the model."""
    data, seen = detector.facts["fingerprint"], detector.preprocessing
    window = f"windows of {seen.window[0]}×{seen.window[1]}" if seen.window else "whole images"
    return {
        "detector": "f-AnoGAN",
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
    detector: FAnoGAN,
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
        images: as for ``FAnoGAN.results``.
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
    judge, gallery = Judge(detector, alpha), Gallery(IN_GALLERY)
    rows: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    skipped: list[BadScan] = []
    with whole_folder(Path(out)) as folder:
        for result in detector.results(
            images, groups=groups, skip_bad=skip_bad, on_bad=skipped.append
        ):
            rows.append(judge.row(result))
            if result.unit == "volume":
                volumes.append(judge.volume(result))
            else:
                case = judge.case(result)
                gallery.add(case)
                _write_pictures(folder, case, detector.calibration.map_scale)
            on_result(result)
        rows.sort(key=lambda row: -float(row["score"]))
        volumes.sort(key=lambda volume: -float(volume["score"]))
        held_out = judge.units.get("image")
        write_score_report(
            folder / "report.html",
            title=f"Anomaly scores of {gallery.seen:,} images",
            model=about_model(detector),
            scale=detector.calibration.map_scale,
            statement="; ".join(
                judge.statement(unit) for unit in (["image", "volume"] if volumes else ["image"])
            ),
            cases=gallery.cases,
            total=gallery.seen,
            scores=np.array([float(row["score"]) for row in rows if row["unit"] == "image"]),
            held_out=held_out.scores if held_out else np.array([]),
            volumes=volumes,
            warnings=[*_unfamiliar(rows), *skips(skipped), *detector.facts["warnings"]],
        )
        write_csv(folder / "scores.csv", COLUMNS, rows)
    return rows


def _write_pictures(folder: Path, case: Case, scale: float) -> None:
    """An image's raw map, and the map in colours over the image."""
    assert case.residual is not None
    place = case.name.lstrip("/").replace("../", "")
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


def _float_tiff(residual: np.ndarray) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, residual.astype(np.float32))
    return buffer.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
