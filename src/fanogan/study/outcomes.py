"""What a study's folder holds: outcomes, scores and counted pixels, with their resamples."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.evaluation import image_metrics, resampled_aucs, resampled_times
from fanogan.study.systems import System, in_order, system_of
from fanogan.study.test_sets import BadStudy, Scored

RESAMPLES = 1000


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
    """What a study's folder holds, read once.

    Attributes:
        settings: What it was begun with.
        outcomes: Results and failures, by seed and in the systems' order.
        systems: The systems that have an outcome, by name, in their order.
        subset: The keys of what the slow systems are tested on.
    """

    def __init__(self, folder: Path):
        """Read the outcomes.

        Raises:
            BadStudy: There is no study, or it holds a detector that isn't installed here.
        """
        self.folder = folder
        self.settings = settings_of(folder)
        tested: dict[int, set[str]] = {}
        for path in (*folder.glob("seed*/*/result.json"), *folder.glob("seed*/*/failed.json")):
            seed = int(path.parts[-3].removeprefix("seed"))
            tested.setdefault(seed, set()).add(path.parts[-2])
        outcomes = [
            outcome_of(folder, name, seed)
            for seed, names in sorted(tested.items())
            for name in in_order(names)
        ]
        self.outcomes = [outcome for outcome in outcomes if outcome]
        names = in_order({outcome["system"] for outcome in self.outcomes})
        self.systems: dict[str, System] = {name: system_of(name) for name in names}
        path = folder / "subset.json"
        self.subset: list[str] = json.loads(path.read_text("utf-8")) if path.exists() else []

    def seeds(self, *systems: str) -> list[int]:
        """Return the seeds of which all these systems are done."""
        done = [(outcome["system"], outcome["seed"]) for outcome in self.successes]
        seeds = dict.fromkeys(seed for _, seed in done)
        return [seed for seed in seeds if all((system, seed) in done for system in systems)]

    @property
    def successes(self) -> list[dict[str, Any]]:
        """The outcomes of what didn't fail."""
        return [outcome for outcome in self.outcomes if "failed" not in outcome]

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
        for name, system in self.systems.items():
            if self.seeds(name) and not system.on_subset:
                return self.scored(name, self.seeds(name)[0], False)
        raise BadStudy(f"{self.folder}: no system has been tested on all images")

    @functools.cache  # noqa: B019 - a study is read once, and ends with its process
    def scored(self, system: str, seed: int, on_subset: bool) -> Scored:
        """Return the scores of all test images, or of the subset."""
        if on_subset:
            return self.scored(system, seed, False).only(self.subset)
        return Scored.read(self._evaluation(system, seed) / "scores.csv")

    @functools.cache  # noqa: B019
    def figures(self, system: str, seed: int, on_subset: bool) -> dict[str, float]:
        """Return AUC and what Youden's point, chosen on the test labels, has; by image."""
        scored = self.scored(system, seed, on_subset)
        metrics = image_metrics(scored.labels, scored.total, bootstrap=0)
        return {**metrics["youden"], "auc": metrics["auc"]}

    @functools.cache  # noqa: B019
    def resampled(self, system: str, seed: int, on_subset: bool) -> np.ndarray:
        """Return the AUC in each resample of subjects, which all systems share: (resamples,)."""
        scored = self.scored(system, seed, on_subset)
        subjects = scored.subjects.tolist()
        if len(set(subjects)) < 2:
            return np.empty(0)
        return resampled_aucs(scored.labels, scored.total, subjects, RESAMPLES)[:, 0]

    @functools.cache  # noqa: B019
    def pixels(self, system: str, seed: int) -> Pixels:
        """Return the pixels that ``evaluate`` counted."""
        with np.load(self._evaluation(system, seed) / "pixels.npz") as file:
            return Pixels(file["counts"])

    def seeds_with_pixels(self, *systems: str) -> list[int]:
        """Return the seeds of which all these systems have a map of each image with a mask."""
        return [
            seed
            for seed in self.seeds(*systems)
            if all((self._evaluation(each, seed) / "pixels.npz").exists() for each in systems)
        ]

    def has_pixels(self) -> bool:
        """Tell whether there were masks."""
        return any(self.seeds_with_pixels(name) for name in self.systems)

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
