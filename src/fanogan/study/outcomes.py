"""What lies in a study's folder: outcomes, scores and counted pixels, with their resamples."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.evaluation import resampled_aucs, resampled_times
from fanogan.study.test_sets import Scored
from fanogan.study.trials import outcomes_of, settings_of

RESAMPLES = 1000


class Study:
    """What lies in a study's folder, read once."""

    def __init__(self, folder: Path):
        """Read the outcomes.

        Raises:
            BadStudy: no study lies there.
        """
        self.folder = folder
        self.settings = settings_of(folder)
        self.outcomes = outcomes_of(folder)
        path = folder / "subset.json"
        self.subset: list[str] = json.loads(path.read_text("utf-8")) if path.exists() else []

    def seeds(self, system: str) -> list[int]:
        """The seeds of which a system is done."""
        return [
            outcome["seed"]
            for outcome in self.outcomes
            if outcome["system"] == system and "failed" not in outcome
        ]

    def failures(self, system: str) -> dict[int, str]:
        """Why it failed, by seed."""
        return {
            outcome["seed"]: outcome["failed"]
            for outcome in self.outcomes
            if outcome["system"] == system and "failed" in outcome
        }

    def result(self, system: str, seed: int) -> dict[str, Any]:
        """What ``result.json`` holds."""
        return next(
            outcome
            for outcome in self.outcomes
            if (outcome["system"], outcome["seed"]) == (system, seed)
        )

    @functools.cache  # noqa: B019 - a study is read once, and ends with its process
    def scored(self, system: str, seed: int, on_subset: bool) -> Scored:
        """The scores of all test images, or of the subset."""
        if on_subset:
            return self.scored(system, seed, False).only(self.subset)
        return Scored.read(self._evaluation(system, seed) / "scores.csv")

    @functools.cache  # noqa: B019
    def resampled(self, system: str, seed: int, on_subset: bool) -> np.ndarray:
        """The AUC in each resample of subjects: (resamples,), the same ones for all systems."""
        scored = self.scored(system, seed, on_subset)
        if len(set(scored.subjects)) < 2:
            return np.empty(0)
        return resampled_aucs(scored.labels, scored.total, scored.subjects, RESAMPLES)[:, 0]

    @functools.cache  # noqa: B019
    def pixels(self, system: str, seed: int) -> Pixels:
        """The counts of pixels by subject."""
        return Pixels.read(self._evaluation(system, seed) / "pixels.npz")

    def has_pixels(self) -> bool:
        """Whether there were masks."""
        return any(
            (self._evaluation(outcome["system"], outcome["seed"]) / "pixels.npz").exists()
            for outcome in self.outcomes
        )

    def metrics(self, system: str, seed: int) -> dict[str, Any]:
        """What ``evaluate`` wrote of a system."""
        path = self._evaluation(system, seed) / "metrics.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _evaluation(self, system: str, seed: int) -> Path:
        return self.folder / f"seed{seed}" / system / "evaluation"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Residuals counted in bins, of normal and marked pixels, by subject: (subjects, 2, bins)."""

    counts: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Pixels:
        """Read what ``evaluate`` counted."""
        with np.load(path) as file:
            return cls(file["counts"])

    def flagged(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shares of marked and of normal pixels above falling thresholds: (rows, bins) each."""
        # As floats, since whole numbers have no fast matrix product.
        counts = np.tensordot(times.astype(np.float64), self.counts.astype(np.float64), 1)
        normal, marked = np.moveaxis(counts, 1, 0)[..., ::-1]
        marked, normal = (
            each.cumsum(-1) / np.maximum(each.sum(-1, keepdims=True), 1)
            for each in (marked, normal)
        )
        return marked, normal

    def aucs(self, times: np.ndarray) -> np.ndarray:
        """The AUC with each subject counted so many times: (rows, subjects) → (rows,)."""
        marked, normal = self.flagged(times)
        heights = marked - np.diff(marked, axis=-1, prepend=0.0) / 2
        return np.asarray((np.diff(normal, axis=-1, prepend=0.0) * heights).sum(-1))

    @functools.cached_property
    def figures(self) -> dict[str, float]:
        """AUC, and sensitivity and specificity at Youden's point, chosen on the test masks."""
        once = np.ones((1, len(self.counts)))
        marked, normal = (share[0] for share in self.flagged(once))
        best = int(np.argmax(marked - normal))
        return {
            "auc": float(self.aucs(once)[0]),
            "sensitivity": float(marked[best]),
            "specificity": float(1 - normal[best]),
        }

    @functools.cached_property
    def resampled(self) -> np.ndarray:
        """The AUC in each resample of subjects that holds marked pixels: (resamples,)."""
        if len(self.counts) < 2:
            return np.empty(0)
        times = resampled_times(None, len(self.counts), RESAMPLES)
        both = (times @ self.counts.sum(-1) > 0).all(1)
        return np.concatenate([self.aucs(part) for part in np.array_split(times[both], 20)])
