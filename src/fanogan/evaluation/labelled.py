"""How good is a detector, honestly: its scores beside those that need no trained network.

Reported as the paper does (tables 1 and B1): ROC, and precision, sensitivity, specificity and
F-score at Youden's point, which is chosen on the test labels; and, as the paper does not, at the
threshold that held-out normals gave.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import HeldOut
from fanogan.detectors import linear, untrained
from fanogan.evaluation.comparison import (
    ahead_of_best,
    calibrated_row,
    compared_rows,
    figures_of_larger,
    flat_table,
    honest_scores,
)
from fanogan.evaluation.leaks import Leaks, leak_sentences
from fanogan.evaluation.masks import masks_of
from fanogan.evaluation.pixels import PixelFigures
from fanogan.evaluation.plain import (
    PCA_RESIDUAL,
    plain_maps,
    plain_scores,
    plain_scores_of_patch,
)
from fanogan.evaluation.roc import roc_curve_points
from fanogan.report import Case, VolumeCase, describe, write_evaluation_report
from fanogan.retina import PicturesAs, steps_figure
from fanogan.scans import BadScan, Note, Spacing, is_array_like
from fanogan.scoring import (
    COLUMNS,
    VOLUMES_SHOWN,
    Gallery,
    Model,
    Result,
    VolumeMaps,
    about_model,
    case_of,
    results,
    row_of,
    skip_notes,
    statement_of,
    whole_folder,
    write_csv,
)
from fanogan.storage import write_whole
from fanogan.text import plural

log = logging.getLogger(__name__)
WRITES = ("metrics.json", "pixels.npz", "rows.csv", "scores.csv", "report.html")


def evaluate(
    model: Model,
    normal: Any,
    anomalous: Any,
    out: str | Path,
    *,
    masks: Any = None,
    mask_labels: Collection[int] | None = None,
    beside: Sequence[Model] = (),
    alpha: float = 0.05,
    groups: str | None = None,
    pictures: PicturesAs = "auto",
    spacing: Spacing | None = None,
    skip_bad: bool = False,
    allow_seen: bool = False,
    credit: str = "",
    on_result: Callable[[Result], None] = lambda result: None,
) -> dict[str, Any]:
    """Evaluate on labelled images; writes ``metrics.json``, ``scores.csv`` and ``report.html``.

    With masks also ``pixels.npz``: ``counts`` (subjects, 2, bins) of normal and of marked pixels,
    binned as by ``PixelROC``, so that subjects can be resampled pixel by pixel.

    Args:
        model: a trained one.
        normal: normal images that it hasn't seen, as for ``scoring.results``.
        anomalous: anomalous ones.
        out: the folder for the results.
        masks: of the anomalous images, non-zero where anomalous: files of the same names where
            those are files, an array or a list where those are arrays. The normals' are empty.
            Soft masks, of fractions or many grey levels, count above half of their range.
            With masks, what is evaluated of flat volumes are patches, anomalous with at least one
            marked pixel, and B-scans and volumes besides.
        mask_labels: the values of the masks that are anomalous; None: all but 0.
        beside: other trained models, to be compared with.
        alpha: the false-positive rate of the calibrated threshold.
        groups: how subjects are named; intervals resample them.
        pictures: of retinal OCT, what the pictures of a folder are (see ``find_volumes``).
        spacing: of retinal OCT, for files that don't tell theirs, as for ``write_results``.
        skip_bad: leave out files that can't be read.
        allow_seen: evaluate on images that a model was trained or calibrated on, and say so.
        credit: whose images these are, for the page.
        on_result: called after each image, in each pass (trained, untrained, principal components,
            those beside it).

    Returns:
        What ``metrics.json`` holds.

    Raises:
        BadScan: an image or mask that can't be read, or a mask that is missing or doesn't fit.
        BadTestSet: an image that has both labels, or that a model has seen.
        OSError: the folder can't be written.
    """
    remarks: list[str] = []
    if masks is not None and mask_labels is not None:
        only = ", ".join(map(str, mask_labels))
        remarks.append(f"labels of the masks that count as anomalous: {only}")
    noted: set[Note] = set()

    def on_note(name: str, note: Note) -> None:
        if note not in noted:  # once for all masks of a kind
            noted.add(note)
            remarks.append(f"{describe(note)} (mask of {name}, and others like it)")
            log.warning(remarks[-1])

    mask_of = masks_of(
        masks, anomalous, groups, model.preprocessing, mask_labels, on_note, pictures=pictures
    )

    def mask_for(result: Result, label: int) -> np.ndarray | None:
        return mask_of(result) if label == 1 and result.unit == "image" else None

    reading: dict[str, Any] = {
        "groups": groups,
        "pictures": pictures,
        "spacing": spacing,
        "skip_bad": skip_bad,
    }
    with whole_folder(Path(out), WRITES) as folder:
        evaluation = _Evaluation(model, alpha, with_pixels=masks is not None)
        skipped: list[BadScan] = []
        noun = model.preprocessing.noun
        leaks = {model.title: Leaks(model.seen, noun, allowed=allow_seen)}
        for label, source in enumerate((normal, anomalous)):
            found = _results(model, source, on_bad=skipped.append, **reading)
            for result in leaks[model.title].of(found, label):
                evaluation.add(result, label, mask_for(result, label))
                on_result(result)

        def totals(other: Model, counted: Leaks, trivial_map: str | None = None) -> np.ndarray:
            values: list[float] = []
            for label, source in enumerate((normal, anomalous)):
                for result in counted.of(_results(other, source, **reading), label):
                    values.extend(evaluation.totals(result))
                    if trivial_map:
                        mask = mask_for(result, label)
                        evaluation.add_trivial_map(trivial_map, result, mask)
                    on_result(result)
            if len(values) != len(evaluation.rows):
                raise BadScan(
                    f"the detector {other.detector} sees other patches of these volumes: compare "
                    "those that were trained with one recipe"
                )
            return np.array(values)

        without_training = totals(untrained(model), Leaks(None, noun))
        if (projected := linear(model)) is not None:
            plain = totals(projected, Leaks(None, noun), PCA_RESIDUAL)
            for row, value in zip(evaluation.trivial, plain.tolist(), strict=True):
                row[PCA_RESIDUAL] = value
        others: dict[str, np.ndarray] = {}
        for other in beside:
            same = sum(each.detector == other.detector for each in beside[: len(others)])
            name = f"{other.detector} ({same + 1})" if same else other.detector
            leaks[name] = Leaks(other.seen, noun, allowed=allow_seen)
            others[name] = totals(other, leaks[name])
        metrics = evaluation.metrics(without_training, others)
        metrics["seen"] = {name: each.figures() for name, each in leaks.items()}
        evaluation.write(folder, metrics, [*remarks, *skip_notes(skipped)], credit)
    return metrics


def _results(model: Model, source: Any, groups: str | None, **reading: Any) -> Iterator[Result]:
    own_groups = None if is_array_like(source) else groups
    for result in results(model, source, groups=own_groups, **reading):
        if result.unit == "image" or result.volume is not None:
            yield result


class _Evaluation:
    """All that is kept of the images while they pass by."""

    def __init__(self, model: Model, alpha: float, with_pixels: bool):
        self.model, self.calibration, self.alpha = model, model.calibration, alpha
        self.window, self.statistics = model.preprocessing.window, model.profile.statistics
        by_patch = with_pixels and model.preprocessing.has_patches
        self.unit = "patch" if by_patch else "image"
        self.noun = self.unit if by_patch else model.preprocessing.kind
        # By unit, and where the model scores the retina's shape, by unit and score.
        self.larger: dict[str, list[tuple[int, float, str]]] = {}
        self.maps: VolumeMaps | None = None
        self.steps: bytes | None = None
        self.volumes: Gallery[VolumeCase] = Gallery(VOLUMES_SHOWN)
        self.rows: list[dict[str, Any]] = []
        self.subjects: list[str] = []
        self.trivial: list[dict[str, float]] = []
        self.pixels = PixelFigures(model.calibration.map_scale) if with_pixels else None
        # The page shows the highest scores, the worst false alarms and the worst misses.
        self.highest = Gallery[Case](40)
        self.worst = Gallery[Case](10), Gallery[Case](10, key=lambda case: -case.score)

    def add(self, result: Result, label: int, mask: np.ndarray | None) -> None:
        subject = subject_of(result, label)
        if result.volume is not None:
            marked = label if mask is None or result.unit == "volume" else int(mask.any())
            scores = {"": result.total, " shape": result.shape, " combined": result.combined}
            for name, score in scores.items():
                if score is not None:
                    seen = self.larger.setdefault(f"{result.unit}{name}", [])
                    seen.append((marked, score, subject))
        if result.unit == "volume":
            if self.maps is not None:
                self.volumes.add(self.maps.case(result, self.calibration, self.alpha))
                self.maps = None
            return
        picture = result.picture
        assert picture is not None and result.residual is not None
        if self.pixels:
            marked_pixels = np.zeros(result.residual.shape, bool) if mask is None else mask
            maps = plain_maps(self.statistics, result)
            self.pixels.update(result.residual, maps, marked_pixels, subject)
        if self.unit == "patch":
            self._add_patches(result, label, mask, subject)
        else:
            self.rows.append({**row_of(result, self.calibration, self.alpha), "label": label})
            self.subjects.append(subject)
            self.trivial.append(plain_scores(self.statistics, result))
        if result.volume is not None:
            if self.steps is None:
                assert self.window is not None
                self.steps = steps_figure(result.volume, result.frame, self.window)
            if result.volume.is_volume:
                self.maps = self.maps or VolumeMaps(result.volume, self.calibration.en_face)
                self.maps.add(result, mask)
        case = case_of(result, self.calibration, self.alpha, label, mask)
        self.highest.add(case)
        self.worst[label].add(case)

    def _add_patches(
        self, result: Result, label: int, mask: np.ndarray | None, subject: str
    ) -> None:
        """Add the patches of a B-scan; anomalous are those with a marked pixel."""
        volume, window = result.volume, self.window
        assert volume is not None and window is not None and result.patches is not None
        flat = volume.pixels[result.frame]
        marked = np.zeros(flat.shape, bool) if mask is None else volume.forward(result.frame, mask)
        for row, column, total, image, feature in result.patches.tolist():
            patch = np.s_[int(row) : int(row) + window[0], int(column) : int(column) + window[1]]
            scored = dataclasses.replace(
                result,
                name=f"{result.name}@{row:.0f},{column:.0f}",
                unit="patch",
                total=total,
                image=image,
                feature=feature,
                largest=total,
                mean=total,
                windows=1,
                shape=None,
                combined=None,
            )
            self.rows.append(
                {
                    **row_of(scored, self.calibration, self.alpha),
                    "label": int(marked[patch].any()),
                }
            )
            self.subjects.append(subject)
            found = plain_scores_of_patch(self.statistics, volume, result.frame, patch)
            self.trivial.append(found)

    def add_trivial_map(self, name: str, result: Result, mask: np.ndarray | None) -> None:
        if self.pixels and result.residual is not None:
            empty = np.zeros(result.residual.shape, dtype=bool)
            self.pixels.add_trivial(name, result.residual, empty if mask is None else mask)

    def totals(self, result: Result) -> list[float]:
        """Return the scores of what is evaluated of a result, in the order of ``rows``."""
        if result.unit == "volume":
            return []
        if self.unit == "image":
            return [result.total]
        assert result.patches is not None
        totals: list[float] = result.patches[:, 2].tolist()
        return totals

    @property
    def labels(self) -> np.ndarray:
        return np.array([row["label"] for row in self.rows])

    def column(self, name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in self.rows])

    @property
    def held_out(self) -> HeldOut | None:
        return self.calibration.units.get(self.unit)

    def metrics(self, untrained: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        labels, totals = self.labels, self.column("score")
        terms = {
            "total": totals,
            "image": self.column("image_residual"),
            "feature": self.column("feature_residual"),
        }
        beside = {
            name: self.column(name)
            for name in ("shape", "combined")
            if all(row[name] for row in self.rows)
        }
        trivial = {
            name: np.array([scores[name] for scores in self.trivial]) for name in self.trivial[0]
        }
        rows = compared_rows(
            labels,
            terms,
            untrained,
            trivial,
            self.subjects,
            method=self.model.title,
            others=others,
            beside=beside,
        )
        honest = honest_scores(totals, untrained, trivial)
        return {
            "unit": self.unit,
            "noun": self.noun,
            "n": len(labels),
            "n_anomalous": int(labels.sum()),
            "prevalence": float(labels.mean()),
            "n_subjects": len(set(self.subjects)),
            "rows": rows,
            "ahead_of_best": ahead_of_best(labels, totals, rows, honest, self.subjects),
            "larger": figures_of_larger(self.larger),
            "calibrated": calibrated_row(labels, totals, self.held_out, self.alpha, self.noun),
            "pixel": self.pixels.figures() if self.pixels else None,
            "roc": roc_curve_points(labels, totals).as_lists(),
            "pixel_roc": self.pixels.roc.curve().as_lists() if self.pixels else None,
        }

    def write(
        self, folder: Path, metrics: Mapping[str, Any], remarks: Sequence[str], credit: str
    ) -> None:
        text = json.dumps(metrics, indent=1, allow_nan=False)
        write_whole(folder / "metrics.json", text.encode())
        if self.pixels:
            write_whole(folder / "pixels.npz", self.pixels.by_subject())
        write_csv(folder / "rows.csv", *flat_table(metrics["rows"]))
        rows = sorted(self.rows, key=lambda row: -float(row["score"]))
        write_csv(folder / "scores.csv", ["label", *COLUMNS], rows)
        galleries = (self.highest, *self.worst)
        cases = {id(case): case for gallery in galleries for case in gallery.cases}
        write_evaluation_report(
            folder / "report.html",
            title=f"Evaluation on {len(self.rows):,} {plural(self.noun)}",
            model=about_model(self.model),
            scale=self.calibration.map_scale,
            statement=statement_of(self.model, self.alpha, self.unit),
            cases=list(cases.values()),
            total=len(self.rows),
            volume_cases=self.volumes.cases,
            steps=self.steps,
            evaluation=metrics,
            scores=self.column("score"),
            labels=self.labels,
            held_out=self.held_out.scores if self.held_out else np.array([]),
            credit=credit,
            warnings=[
                *remarks,
                *leak_sentences(metrics["seen"]),
                *self.model.provenance["warnings"],
            ],
        )


def subject_of(result: Result, label: int) -> str:
    """Files of the same name among the normal and the anomalous are not one subject for that."""
    is_its_own = result.group == result.name or result.name.startswith(f"{result.group}#")
    return f"{label} {result.group}" if is_its_own else result.group
