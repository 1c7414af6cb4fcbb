"""What a study's folder holds: outcomes, scores and counted pixels, with their resamples."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fanogan.evaluation import image_metrics, resampled_aucs, resampled_times, roc_curve_points
from fanogan.study.systems import System, in_order, system_of
from fanogan.study.test_sets import BadStudy, Scored

RESAMPLES = 1000

Level = Literal["images", "subset", "pixels"]
"""What is counted: all test images (or patches), those of the subset, or pixels."""


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the study holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def settings_of(folder: Path) -> dict[str, Any]:
    """Return what a study was begun with: ``data`` and ``recipe``.

    Raises:
        BadStudy: No study was begun there.
    """
    path = folder / "study.json"
    if not path.exists():
        raise BadStudy(f"{folder}: holds no study; make one with fanogan study DATA --out {folder}")
    return read_json(path)


def outcome_of(folder: Path, system: str, seed: int) -> dict[str, Any] | None:
    """Return a system's result, or ``failed`` with the reason; None where it isn't done."""
    for kind in ("result", "failed"):
        path = folder / f"seed{seed}" / system / f"{kind}.json"
        if path.exists():
            return read_json(path)
    return None


class Study:
    """What a study's folder holds, read once."""

    def __init__(self, folder: Path):
        """Read the outcomes.

        Raises:
            BadStudy: There is no study, or it holds a detector that isn't installed here.
        """
        self.folder = folder
        self.settings = settings_of(folder)
        done = [*folder.glob("seed*/*/result.json"), *folder.glob("seed*/*/failed.json")]
        names = in_order({path.parts[-2] for path in done})
        seeds = {int(path.parts[-3].removeprefix("seed")) for path in done}
        # All in the systems' order: outcomes by seed, and the systems that have any.
        outcomes = [outcome_of(folder, name, seed) for seed in sorted(seeds) for name in names]
        self.outcomes = [outcome for outcome in outcomes if outcome]
        self.successes = [outcome for outcome in self.outcomes if "failed" not in outcome]
        self.systems: dict[str, System] = {name: system_of(name) for name in names}
        path = folder / "subset.json"
        self.subset: list[str] = json.loads(path.read_text("utf-8")) if path.exists() else []

    def seeds(self, *systems: str, level: Level | None = None) -> list[int]:
        """Return the seeds of which all these systems are done, and have scores of a level."""
        done = [(outcome["system"], outcome["seed"]) for outcome in self.successes]
        if level == "images":
            done = [(system, seed) for system, seed in done if not self.systems[system].on_subset]
        if level == "pixels":
            done = [pair for pair in done if (self._evaluation(*pair) / "pixels.npz").exists()]
        seeds = dict.fromkeys(seed for _, seed in done)
        return [seed for seed in seeds if all((system, seed) in done for system in systems)]

    def failures(self, system: str) -> dict[int, str]:
        """Return why a system failed, by seed."""
        return {
            outcome["seed"]: outcome["failed"]
            for outcome in self.outcomes
            if outcome["system"] == system and "failed" in outcome
        }

    def result(self, system: str, seed: int) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        wanted = (system, seed)
        return next(each for each in self.outcomes if (each["system"], each["seed"]) == wanted)

    def metrics(self, system: str, seed: int) -> dict[str, Any]:
        """Return what ``evaluate`` wrote of a system."""
        return read_json(self._evaluation(system, seed) / "metrics.json")

    def first_tested(self) -> Scored:
        """Return all test images, as the first system that was tested on them has them."""
        for name in self.systems:
            for seed in self.seeds(name, level="images"):
                return self.scored(name, seed)
        raise BadStudy(f"{self.folder}: no system has been tested on all images")

    @functools.cache  # noqa: B019 - a study is read once, and ends with its process
    def scored(self, system: str, seed: int, level: Level = "images") -> Scored:
        """Return the scores of all test images, or of the subset."""
        if level == "subset":
            return self.scored(system, seed).only(self.subset)
        return Scored.read(self._evaluation(system, seed) / "scores.csv")

    @functools.cache  # noqa: B019
    def pixels(self, system: str, seed: int) -> Pixels:
        """Return the pixels that ``evaluate`` counted."""
        with np.load(self._evaluation(system, seed) / "pixels.npz") as file:
            return Pixels(file["counts"])

    @functools.cache  # noqa: B019
    def figures(self, system: str, seed: int, level: Level) -> dict[str, float]:
        """Return the AUC, and the figures at Youden's point, which is chosen on the test set."""
        if level == "pixels":
            return self.pixels(system, seed).figures
        scored = self.scored(system, seed, level)
        metrics = image_metrics(scored.labels, scored.total, bootstrap=0)
        return {**metrics["youden"], "auc": metrics["auc"]}

    @functools.cache  # noqa: B019
    def resampled(self, system: str, seed: int, level: Level) -> np.ndarray:
        """Return the AUC in each resample of subjects, which all systems share: (resamples,)."""
        if level == "pixels":
            return self.pixels(system, seed).resampled
        scored = self.scored(system, seed, level)
        subjects = scored.subjects.tolist()
        if len(set(subjects)) < 2:
            return np.empty(0)
        return resampled_aucs(scored.labels, scored.total, subjects, RESAMPLES)[:, 0]

    def curve(self, system: str, seed: int, level: Level) -> tuple[np.ndarray, np.ndarray]:
        """Return the ROC curve: false-positive rates and sensitivities."""
        if level != "pixels":
            scored = self.scored(system, seed, level)
            return roc_curve_points(scored.labels, scored.total)[:2]
        pixels = self.pixels(system, seed)
        marked, normal = pixels.flagged(np.ones((1, len(pixels.counts))))
        return np.append(0, normal[0]), np.append(0, marked[0])

    def _evaluation(self, system: str, seed: int) -> Path:
        return self.folder / f"seed{seed}" / system / "evaluation"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Residuals counted in bins, of normal and of marked pixels: (subjects, 2, bins)."""

    counts: np.ndarray

    def flagged(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of marked and of normal pixels above falling thresholds.

        Args:
            times: How often each subject counts: (n, subjects).

        Returns:
            (n, bins) each.
        """
        # As floats, since whole numbers have no fast matrix product.
        counts = np.tensordot(times.astype(np.float64), self.counts.astype(np.float64), 1)
        above = counts[..., ::-1].cumsum(-1)
        normal, marked = np.moveaxis(above / np.maximum(above[..., -1:], 1), 1, 0)
        return marked, normal

    def aucs(self, times: np.ndarray) -> np.ndarray:
        """Return the AUC with each subject counted so many times: (n, subjects) → (n,)."""
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
