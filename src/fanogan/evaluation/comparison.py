"""A score beside those that keep it honest, and the calibrated threshold's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fanogan.calibration import HeldOut
from fanogan.evaluation.metrics import image_metrics, percentile_interval, resampled_aucs

SHAPE_NAMES = {"shape": "shape of the retina", "combined": "shape and A combined"}
"""What rows of a table call the scores that stand beside A."""


def compared_rows(
    labels: np.ndarray,
    terms: Mapping[str, np.ndarray],
    untrained: np.ndarray,
    trivial: Mapping[str, np.ndarray],
    groups: Sequence[str] | None = None,
    *,
    method: str = "f-AnoGAN",
    others: Mapping[str, np.ndarray] | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row a score: the method, its terms, and what keeps it honest.

    Args:
        labels: (n,) 1 = anomalous, 0 = normal.
        terms: 'total', 'image' and 'feature', each (n,) (Eq. 4).
        untrained: (n,) totals of networks that have learnt nothing.
        trivial: (n,) of scores that need no trained network, such as darkness.
        groups: (n,) subjects; the intervals then resample them.
        method: what the detector is called.
        others: (n,) of other detectors, by their names.
        beside: 'shape' and 'combined', each (n,), where the model scores the retina's shape.
        seed: of the bootstrap.

    Returns:
        Rows with ``name``, ``kind`` ('method', 'term', 'shape', 'other' or 'honest'), ``auc``,
        ``auc_interval``, ``average_precision``, ``average_precision_interval`` and ``youden``.
    """
    scores = {
        (f"{method} (A)", "method"): terms["total"],
        ("image residual (A_R)", "term"): terms["image"],
        ("feature residual (A_D)", "term"): terms["feature"],
        **{(SHAPE_NAMES[name], "shape"): values for name, values in (beside or {}).items()},
        **{(name, "other"): values for name, values in (others or {}).items()},
        **{
            (name, "honest"): values
            for name, values in honest_scores(terms["total"], untrained, trivial).items()
        },
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


def honest_scores(
    totals: np.ndarray, untrained: np.ndarray, trivial: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the scores that need no trained network, (n,) each, by the names of their rows."""
    return {
        "score inverted (−A)": -totals,
        "untrained networks": untrained,
        **{name.replace("_", " "): values for name, values in trivial.items()},
    }


def ahead_of_best(
    labels: np.ndarray,
    totals: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    honest: Mapping[str, np.ndarray],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Hold a score against the best of those that need no trained network.

    Which that is has been seen on the same labels, so that a lead is understated.

    Args:
        labels: (n,) 1 = anomalous, 0 = normal.
        totals: (n,) the method's score.
        rows: of `compared_rows`.
        honest: as `honest_scores` returns them.
        groups: (n,) subjects; the interval resamples them, the same for both scores.
        seed: of the bootstrap.

    Returns:
        ``name``, ``auc``, ``difference`` of the method's AUC from it, and its 95 % ``interval``:
        [low, high], or None for a single subject.
    """
    best = max((row for row in rows if row["kind"] == "honest"), key=lambda row: float(row["auc"]))
    pair = np.stack([totals, honest[best["name"]]])
    single = groups is not None and len(set(groups)) == 1
    aucs = np.empty((0, 2)) if single else resampled_aucs(labels, pair, groups, seed=seed)
    return {
        "name": best["name"],
        "auc": best["auc"],
        "difference": rows[0]["auc"] - best["auc"],
        "interval": percentile_interval(aucs[:, 0] - aucs[:, 1]),
    }


def calibrated_row(
    labels: np.ndarray,
    totals: np.ndarray,
    held_out: HeldOut | None,
    alpha: float,
    noun: str = "image",
) -> dict[str, Any]:
    """Return what the calibrated threshold reaches, beside the false-positive rate asked for."""
    threshold = held_out.threshold(alpha) if held_out else None
    row: dict[str, Any] = {"alpha": alpha, "threshold": threshold}
    row["note"] = held_out.describe(alpha, noun) if held_out else "no held-out normals of this kind"
    if threshold is not None:
        # Flagged is what lies above the threshold, not on it.
        above = float(np.nextafter(threshold, np.inf))
        found = image_metrics(labels, totals, bootstrap=0, threshold=above)["at_threshold"]
        row.update({key: value for key, value in found.items() if key != "threshold"})
    return row


def figures_of_larger(
    larger: Mapping[str, Sequence[tuple[int, float, str]]],
) -> dict[str, dict[str, Any]]:
    """Return the figures of B-scans and volumes, where both kinds are among them.

    Args:
        larger: by unit, the label, score and subject of each.
    """
    found: dict[str, dict[str, Any]] = {}
    for unit, seen in larger.items():
        labels = np.array([label for label, _, _ in seen])
        if 0 < labels.sum() < len(labels):
            totals, subjects = np.array([total for _, total, _ in seen]), [one for *_, one in seen]
            figures = image_metrics(labels, totals, subjects)
            found[unit] = {
                "n": len(labels),
                "n_anomalous": int(labels.sum()),
                "auc": figures["auc"],
                "auc_interval": figures["intervals"]["auc"],
            }
    return found


def flat_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the rows of `compared_rows` as a flat table for a spreadsheet."""
    table = []
    for row in rows:
        flat = {key: row[key] for key in ("name", "kind", "auc", "average_precision")}
        for key in ("auc", "average_precision"):
            low, high = row[f"{key}_interval"] or (None, None)
            flat |= {f"{key}_low": low, f"{key}_high": high}
        table.append(flat | {f"youden_{key}": value for key, value in row["youden"].items()})
    return list(table[0]), table
