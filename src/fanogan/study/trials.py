"""The study: every system trained and tested, seed by seed, gone on with wherever it was stopped.

DIR/study.json                  what the study was begun with
DIR/prepared/                   volumes made straight
DIR/subset.json                 what the slow systems are tested on
DIR/seed0/SYSTEM/               the system's run folder, and its model
DIR/seed0/SYSTEM/evaluation/    what ``evaluate`` writes of it
DIR/seed0/SYSTEM/result.json    that it is done; or failed.json, why not
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from fanogan.data import Normals
from fanogan.detectors import Iterative, LearnedDetector
from fanogan.evaluation import evaluate
from fanogan.recipes import Recipe, load_recipe
from fanogan.scoring import write_csv
from fanogan.storage import LOCK, exclusive, write_whole
from fanogan.study.rater import rate
from fanogan.study.systems import GAN, SYSTEMS, System, fitted, training_cost
from fanogan.study.test_sets import (
    BadStudy,
    Scored,
    StudyData,
    keep_training_images,
    score_chosen,
    subset,
)
from fanogan.training import StopRequest, device_of, shared_threads

log = logging.getLogger(__name__)

State = Callable[[str, int, str], None]
"""Called as (system, seed, what it is at)."""

AT_ONCE = 4  # systems on a CPU of as many threads; each holds batches of its own in memory


def no_state(system: str, seed: int, state: str) -> None:
    """Shows nothing."""


def run_study(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = "small",
    seeds: int = 3,
    systems: Sequence[str] = (),
    device: str = "auto",
    on_state: State = no_state,
) -> list[dict[str, Any]]:
    """Train and test what isn't done yet; on a CPU several systems at once.

    Args:
        data: a folder as ``StudyData.find`` takes it.
        out: the study's folder; one that was begun goes on.
        recipe: of all systems.
        seeds: 0, 1, … so many.
        systems: their names; all where there are none. The one that trains the GAN comes along.
        device: as for ``LearnedDetector``.
        on_state: called whenever a system's state changes, by any thread; it may raise
            KeyboardInterrupt to stop.

    Returns:
        What there is of each system and seed: its result, or ``failed`` with the reason.

    Raises:
        BadStudy: no such system, bad data, ``out`` was begun with other data or settings, or
            another process is at it.
        BadScan: images that can't be read.
        KeyboardInterrupt: stopped by Ctrl-C, after a checkpoint.
    """
    folder, chosen, settled = Path(out), _chosen(systems), load_recipe(recipe)
    found = StudyData.find(Path(data))
    _begin(folder, {"data": str(Path(data).resolve()), "recipe": settled.to_dict()})
    found = found.straight(settled, folder / "prepared")
    stop = StopRequest()

    def state(system: str, seed: int, what: str) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        on_state(system, seed, what)

    tasks = [(system, seed) for seed in range(seeds) for system in chosen]
    todo = []
    for system, seed in tasks:
        outcome = _outcome(folder, system.name, seed)
        if outcome and "failed" not in outcome:
            on_state(system.name, seed, said(outcome))
        else:
            todo.append((system, seed))
            on_state(system.name, seed, "waiting")

    @functools.lru_cache(2)  # a seed that is done need not stay in memory
    def of(seed: int) -> _Seed:
        return _Seed(folder, found, settled, seed, device, state)

    at_once = min(AT_ONCE, torch.get_num_threads()) if device_of(device).type == "cpu" else 1
    busy = BadStudy(f"{folder}: another process is making this study; wait for its end")
    with exclusive(folder / LOCK, busy), stop, shared_threads(at_once):
        _do(todo, of, at_once, stop)
    return [outcome for system, seed in tasks if (outcome := _outcome(folder, system.name, seed))]


Task = tuple[System, int]


def _do(todo: list[Task], of: Callable[[int], _Seed], at_once: int, stop: StopRequest) -> None:
    """All tasks in their order, each once those that it needs are done."""
    running: dict[Future[None], Task] = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while todo or running:
                ahead = {(system.name, seed) for system, seed in (*todo, *running.values())}
                ready = [
                    (system, seed)
                    for system, seed in todo
                    if ahead.isdisjoint((need, seed) for need in system.needs)
                ]
                for task in ready[: at_once - len(running)]:
                    todo.remove(task)
                    system, seed = task
                    running[pool.submit(of(seed).do, system)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    del running[future]
                    future.result()
        finally:
            stop.requested = True


def outcomes_of(folder: Path) -> list[dict[str, Any]]:
    """The results and failures that lie in a study's folder, by seed and in the systems' order."""
    seeds = sorted(int(path.name.removeprefix("seed")) for path in folder.glob("seed*"))
    found = (_outcome(folder, name, seed) for seed in seeds for name in SYSTEMS)
    return [outcome for outcome in found if outcome]


def _outcome(folder: Path, system: str, seed: int) -> dict[str, Any] | None:
    for kind in ("result", "failed"):
        path = folder / f"seed{seed}" / system / f"{kind}.json"
        if path.exists():
            return _read(path)
    return None


def said(outcome: Mapping[str, Any]) -> str:
    """An outcome in a word."""
    return "failed" if "failed" in outcome else f"AUC {outcome['auc']:.3f}"


def settings_of(folder: Path) -> dict[str, Any]:
    """What a study was begun with: data and recipe.

    Raises:
        BadStudy: no study was begun there.
    """
    path = folder / "study.json"
    if not path.exists():
        raise BadStudy(f"{folder}: holds no study; make one with fanogan study DATA --out {folder}")
    return _read(path)


def _chosen(names: Sequence[str]) -> list[System]:
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise BadStudy(
            f"no system {' and no system '.join(unknown)}: give some of {', '.join(SYSTEMS)}"
        )
    wanted = set(names or SYSTEMS)
    wanted |= {SYSTEMS[name].networks_of or name for name in wanted}
    if any(SYSTEMS[name].on_gan for name in wanted):
        wanted.add(GAN)
    return [system for name, system in SYSTEMS.items() if name in wanted]


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "study.json"
    if path.exists():
        begun = _read(path)
        differing = [key for key in settings if settings[key] != begun.get(key)]
        if differing == ["recipe"]:
            recipe, before = settings["recipe"], begun.get("recipe", {})
            fields = [key for key in recipe if recipe[key] != before.get(key)]
            differing = [f"recipe ({', '.join(fields)})"]
        if differing:
            raise BadStudy(
                f"{folder}: holds a study that was begun with other {' and '.join(differing)}; "
                "give what it was begun with, or --out another folder"
            )
    write_whole(path, json.dumps(settings, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


class _Seed:
    """The systems of one seed, on one split of the normals and one GAN."""

    def __init__(
        self, study: Path, data: StudyData, recipe: Recipe, seed: int, device: str, state: State
    ):
        self.study, self.data, self.recipe = study, data, recipe
        self.seed, self.device, self.state = seed, device, state
        self.folder = study / f"seed{seed}"
        self.normals = Normals.read(data.train, recipe, seed=seed)
        if seed == 0:
            for note in self.normals.warnings:
                log.warning("note: %s", note)

    def do(self, system: System) -> None:
        """Train and test a system; what went wrong is an outcome too."""
        failed = self.folder / system.name / "failed.json"
        try:
            outcome = self._result(system)
        except Exception as error:
            log.warning("%s, seed %d: %s", system.name, self.seed, error, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            outcome = {"system": system.name, "seed": self.seed, "failed": reason}
            write_whole(failed, json.dumps(outcome, indent=1).encode())
        else:
            write_whole(failed.with_name("result.json"), json.dumps(outcome, indent=1).encode())
            failed.unlink(missing_ok=True)
        self.state(system.name, self.seed, said(outcome))

    def _result(self, system: System) -> dict[str, Any]:
        run = self.folder / system.name
        detector, minutes = self._fitted(system)
        more: dict[str, Any] = {}
        if system.name == GAN:
            self.state(system.name, self.seed, "rating images")
            keep_training_images(detector, self.normals, self.folder)
            more["rater"] = rate(detector, self.normals)
        if system.on_subset:
            self._evaluate_subset(system, detector, run / "evaluation")
        elif not (run / "evaluation" / "scores.csv").exists():
            self._evaluate(system, detector, run / "evaluation")
        scored = Scored.read(run / "evaluation" / "scores.csv")
        if not system.on_subset:
            subset(self.study, scored)
        return {
            "system": system.name,
            "seed": self.seed,
            "auc": _auc(scored),
            "minutes": minutes,
            "multiply_adds": training_cost(system, self.recipe, detector.preprocessing),
            "warnings": detector.facts["warnings"],
            "fingerprint": detector.facts["fingerprint"],
            **more,
        }

    def _fitted(self, system: System) -> tuple[LearnedDetector, float | None]:
        """The detector, and the minutes that training took where it wasn't gone on with."""
        run = self.folder / system.name
        if system.on_gan and not (self.folder / GAN / "model").exists():
            raise BadStudy(f"the GAN of seed {self.seed} could not be trained")
        begun = (run / "config.yaml").exists()
        started = time.monotonic()

        def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            self.state(system.name, self.seed, f"{stage} {100 * step // steps} %")

        detector = fitted(
            system,
            self.recipe,
            self.normals,
            self.folder,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        if not (run / "model").exists() and not system.on_subset:
            detector.save(run / "model")
        return detector, None if begun else (time.monotonic() - started) / 60

    def _evaluate(self, system: System, detector: LearnedDetector, out: Path) -> None:
        evaluate(
            detector,
            self.data.normal,
            self.data.anomalous,
            out,
            masks=self.data.masks,
            on_result=lambda result: self.state(system.name, self.seed, "testing"),
        )

    def _evaluate_subset(self, system: System, detector: LearnedDetector, out: Path) -> None:
        """Score the subset alone, into a table like that of ``evaluate``."""
        keys = subset(self.study)
        reference = self._reference().only(keys)
        searched, windows = 0, int(reference.windows.sum())

        def on_searched(count: int) -> None:
            nonlocal searched
            searched += count
            self.state(system.name, self.seed, f"searched {searched:,} of {windows:,}")

        assert isinstance(detector, Iterative)
        detector.on_searched = on_searched
        scores = score_chosen(detector, self.data, reference.unit, reference.keys)
        rows = [
            {
                "label": int(label),
                "name": key[2:],
                "subject": subject,
                "unit": reference.unit,
                "score": repr(total),
                "image_residual": repr(image),
                "feature_residual": repr(feature),
            }
            for key, label, subject, (total, image, feature) in zip(
                reference.keys, reference.labels, reference.groups, scores.tolist(), strict=True
            )
        ]
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "scores.csv", list(rows[0]), rows)

    def _reference(self) -> Scored:
        """A table of all images, of any system of this seed."""
        for name in SYSTEMS:
            path = self.folder / name / "evaluation" / "scores.csv"
            if path.exists() and not SYSTEMS[name].on_subset:
                return Scored.read(path)
        raise BadStudy(f"no system of seed {self.seed} has been tested on all images")


def _auc(scored: Scored) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(scored.labels, scored.total))
