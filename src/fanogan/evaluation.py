"""How good is a detector, honestly: its scores beside those that need no learning at all.

Reported as the paper does (tables 1 and B1): ROC, and precision, sensitivity, specificity and
F-score at Youden's point, which is chosen on the test labels; and, as the paper does not, at the
threshold that held-out normals gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fanogan.calibration import HeldOut
from fanogan.detectors import FAnoGAN, Result
from fanogan.folders import write_whole
from fanogan.localization import PixelROC, RegionOverlap
from fanogan.metrics import RocCurve, image_metrics, roc_curve_points, trivial_scores
from fanogan.report import write_evaluation_report
from fanogan.results import COLUMNS, Gallery, Judge, about_model, write_csv
from fanogan.scans import BadScan, find_scans, is_array_like, read_mask


def compared_rows(
    labels: np.ndarray,
    terms: Mapping[str, np.ndarray],
    untrained: np.ndarray,
    trivial: Mapping[str, np.ndarray],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row a score: the method, its terms, and what keeps it honest.

    Args:
        labels: (n,) 1 = anomalous, 0 = normal.
        terms: 'total', 'image' and 'feature', each (n,) (Eq. 4).
        untrained: (n,) totals of networks that have learnt nothing.
        trivial: (n,) of scores that need no learning, such as darkness.
        groups: (n,) subjects; the intervals then resample them.
        seed: of the bootstrap.

    Returns:
        Rows with ``name``, ``kind`` ('method', 'term' or 'honest'), ``auc``, ``auc_interval``,
        ``average_precision``, ``average_precision_interval`` and ``youden``.
    """
    scores = {
        ("f-AnoGAN (A)", "method"): terms["total"],
        ("image residual (A_R)", "term"): terms["image"],
        ("feature residual (A_D)", "term"): terms["feature"],
        ("score inverted (−A)", "honest"): -terms["total"],
        ("untrained networks", "honest"): untrained,
        **{(name.replace("_", " "), "honest"): values for name, values in trivial.items()},
    }
    rows = []
    for (name, kind), values in scores.items():
        found = image_metrics(labels, values, groups, seed=seed)
        rows.append(
            {
                "name": name,
                "kind": kind,
                "auc": found["auc"],
                "auc_interval": found["intervals"]["auc"],
                "average_precision": found["average_precision"],
                "average_precision_interval": found["intervals"]["average_precision"],
                "youden": found["youden"],
            }
        )
    return rows


def calibrated_row(
    labels: np.ndarray, totals: np.ndarray, held_out: HeldOut | None, alpha: float
) -> dict[str, Any]:
    """What the calibrated threshold reaches: the false-positive rate beside the one asked for."""
    threshold = held_out.threshold(alpha) if held_out else None
    row: dict[str, Any] = {"alpha": alpha, "threshold": threshold}
    row["note"] = held_out.describe(alpha) if held_out else "no held-out normals of this kind"
    if threshold is not None:
        # Flagged is what lies above the threshold, not on it.
        above = float(np.nextafter(threshold, np.inf))
        found = image_metrics(labels, totals, bootstrap=0, threshold=above)["at_threshold"]
        row.update({key: value for key, value in found.items() if key != "threshold"})
    return row


def evaluate(
    detector: FAnoGAN,
    normal: Any,
    anomalous: Any,
    out: str | Path,
    *,
    masks: Any = None,
    alpha: float = 0.05,
    groups: str | None = None,
    skip_bad: bool = False,
    on_result: Callable[[Result], None] = lambda result: None,
) -> dict[str, Any]:
    """Evaluate on labelled images; writes ``metrics.json``, ``scores.csv`` and ``report.html``.

    Args:
        detector: a trained one.
        normal: normal images that it hasn't seen, as for ``FAnoGAN.results``.
        anomalous: anomalous ones.
        out: the folder for the results.
        masks: of the anomalous images, non-zero where anomalous: files of the same names, or
            arrays in the same order. The normals' masks are empty.
        alpha: the false-positive rate of the calibrated threshold.
        groups: how subjects are named; intervals resample them.
        skip_bad: leave out files that can't be read.
        on_result: called after each image, in both passes (trained, then untrained).

    Returns:
        What ``metrics.json`` holds.

    Raises:
        BadScan: an image or mask that can't be read, or a mask that is missing or doesn't fit.
        OSError: the folder can't be written.
    """
    out = Path(out)
    judge = Judge(detector, alpha)
    sources = ((0, normal), (1, anomalous))
    mask_of = _masks(masks)
    pixels = _Pixels(detector.calibration.map_scale) if masks is not None else None
    # The page shows the highest scores, the worst false alarms and the worst misses.
    galleries = {
        None: Gallery(40),
        0: Gallery(10),
        1: Gallery(10, key=lambda case: -case.score),
    }
    rows, trivial = [], []
    skipped: list[str] = []
    for label, source in sources:
        for result in _images(detector, source, groups, skip_bad, skipped):
            picture = result.picture
            assert picture is not None and result.residual is not None
            mask = None
            if pixels:
                mask = mask_of(result) if label else np.zeros(picture.shape[:2], dtype=bool)
                pixels.update(result.residual, picture, mask)
            rows.append({**judge.row(result), "label": label})
            trivial.append(trivial_scores((picture + 1) / 2))
            case = judge.case(result, label, mask if label else None)
            galleries[None].add(case)
            galleries[label].add(case)
            on_result(result)
    other = detector.untrained()
    untrained = []
    for _, source in sources:
        for result in _images(other, source, groups, skip_bad, []):
            untrained.append(result.total)
            on_result(result)

    labels = np.array([row["label"] for row in rows])
    keys = {"total": "score", "image": "image_residual", "feature": "feature_residual"}
    terms = {name: np.array([float(row[key]) for row in rows]) for name, key in keys.items()}
    subjects = [row["subject"] for row in rows]
    curve = roc_curve_points(labels, terms["total"])
    held_out = judge.units.get("image")
    evaluation = {
        "unit": "image",
        "n": len(labels),
        "n_anomalous": int(labels.sum()),
        "prevalence": float(labels.mean()),
        "n_subjects": len(set(subjects)),
        "rows": compared_rows(
            labels,
            terms,
            np.array(untrained),
            {name: np.array([one[name] for one in trivial]) for name in trivial[0]},
            subjects,
        ),
        "calibrated": calibrated_row(labels, terms["total"], held_out, alpha),
        "pixel": pixels.figures() if pixels else None,
        "roc": _as_lists(curve),
        "pixel_roc": _as_lists(pixels.roc.curve()) if pixels else None,
    }
    write_whole(out / "metrics.json", json.dumps(evaluation, indent=1).encode())
    write_csv(out / "rows.csv", *_table(evaluation))
    rows.sort(key=lambda row: -float(row["score"]))
    write_csv(out / "scores.csv", ["label", *COLUMNS], rows)
    cases = {id(case): case for gallery in galleries.values() for case in gallery.cases}
    write_evaluation_report(
        out / "report.html",
        title=f"Evaluation on {len(labels):,} images",
        model=about_model(detector),
        scale=detector.calibration.map_scale,
        statement=judge.statement(),
        cases=list(cases.values()),
        total=len(labels),
        evaluation=evaluation,
        scores=terms["total"],
        labels=labels,
        held_out=held_out.scores if held_out else np.array([]),
        warnings=[*(f"skipped: {sentence}" for sentence in skipped), *detector.facts["warnings"]],
    )
    return evaluation


def _images(
    detector: FAnoGAN, source: Any, groups: str | None, skip_bad: bool, skipped: list[str]
) -> Iterator[Result]:
    def on_bad(error: BadScan) -> None:
        skipped.append(str(error))

    own_groups = None if is_array_like(source) else groups
    for result in detector.results(source, groups=own_groups, skip_bad=skip_bad, on_bad=on_bad):
        if result.unit == "image":
            yield result


class _Pixels:
    """Pixel-level figures, in flat memory: the map beside the image's own darkness."""

    def __init__(self, threshold: float):
        self.roc = PixelROC()
        self.darkness = PixelROC(low=-1, high=1)
        self.overlap = RegionOverlap(threshold)

    def update(self, residual: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> None:
        grey = picture if picture.ndim == 2 else picture.mean(2)
        self.roc.update(residual, mask)
        self.darkness.update(-grey, mask)
        self.overlap.update(residual, mask)

    def figures(self) -> dict[str, Any]:
        return {
            "auc": self.roc.auc(),
            "darkness_auc": self.darkness.auc(),
            "prevalence": self.roc.anomalous_pixels / self.roc.pixels,
            "youden": self.roc.youden().as_dict(),
            "regions": self.overlap.result(),
        }


def _masks(source: Any) -> Callable[[Result], np.ndarray]:
    """How to find an image's mask: by its name among files, by its turn among arrays."""
    if source is None:
        return lambda result: np.zeros((0, 0), dtype=bool)
    if is_array_like(source):
        turns = iter(source)

        def by_turn(result: Result) -> np.ndarray:
            mask = next(turns, None)
            if mask is None:
                raise BadScan(f"{result.name} has no mask: there are fewer masks than images")
            return _fitting(np.asarray(mask) > 0, result)

        return by_turn
    files = {str(PurePosixPath(found.name).with_suffix("")): found for found in find_scans(source)}

    def by_name(result: Result) -> np.ndarray:
        name, _, frame = result.name.partition("#")
        found = files.get(str(PurePosixPath(name).with_suffix("")))
        if found is None:
            raise BadScan(f"{result.name} has no mask: none of that name in the folder of masks")
        return _fitting(read_mask(found.path)[int(frame or 0)], result)

    return by_name


def _fitting(mask: np.ndarray, result: Result) -> np.ndarray:
    assert result.picture is not None
    if mask.shape != result.picture.shape[:2]:
        raise BadScan(
            f"the mask of {result.name} has {'×'.join(map(str, mask.shape))} pixels and the image "
            f"{'×'.join(map(str, result.picture.shape[:2]))}: give masks of the images' sizes"
        )
    return mask


def _as_lists(curve: RocCurve) -> dict[str, list[float]]:
    return {"fpr": curve.false_positive_rate.tolist(), "tpr": curve.sensitivity.tolist()}


def _table(evaluation: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The rows as a flat table for a spreadsheet."""
    rows = []
    for row in evaluation["rows"]:
        flat = {key: row[key] for key in ("name", "kind", "auc", "average_precision")}
        for key in ("auc", "average_precision"):
            low, high = row[f"{key}_interval"] or (None, None)
            flat |= {f"{key}_low": low, f"{key}_high": high}
        rows.append(flat | {f"youden_{key}": value for key, value in row["youden"].items()})
    return list(rows[0]), rows
