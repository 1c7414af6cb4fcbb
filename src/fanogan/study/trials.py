"""The study: every system trained and tested, seed by seed, and resumed wherever it was stopped.

DIR/study.json                  what the study was begun with
DIR/prepared/                   flattened volumes
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
from torch import Tensor

from fanogan.data import Normals
from fanogan.evaluation import evaluate
from fanogan.recipes import Recipe, load_recipe
from fanogan.report import describe
from fanogan.scoring import BATCH, Model, write_csv
from fanogan.storage import LOCK, exclusive, remove_unfinished, write_whole
from fanogan.study.outcomes import outcome_of, settings_of
from fanogan.study.rater import rate
from fanogan.study.systems import GAN, SYSTEMS, System, fitted, in_order, system_of
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

Task = tuple[System, int]
"""A system and a seed."""

State = Callable[[str, int, str], None]
"""Called as (system, seed, what it is at)."""

AT_ONCE = 4  # systems on a CPU of as many threads; each holds batches of its own in memory


def run_study(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = "small",
    seeds: int = 3,
    systems: Sequence[str] = (),
    device: str = "auto",
    on_state: State = lambda system, seed, state: None,
) -> list[dict[str, Any]]:
    """Train and test what isn't done yet; on a CPU several systems at once.

    Args:
        data: A folder as ``StudyData.find`` takes it.
        out: The study's folder; one that was begun is resumed.
        recipe: Of all systems.
        seeds: How many; they are 0, 1, …
        systems: Names of the paper's systems, or of other detectors; none: all of the paper's. The
            systems that they build on are added.
        device: As for ``Detector``.
        on_state: Called whenever a system's state changes, by any thread; it may raise
            KeyboardInterrupt to stop.

    Returns:
        The outcome of each system and seed: its result, or ``failed`` with the reason.

    Raises:
        BadStudy: No such system, bad data, ``out`` was begun with other data or settings, or
            another process is making this study.
        BadScan: Images that can't be read.
        KeyboardInterrupt: Stopped by Ctrl-C, after a checkpoint.
    """
    wanted = {name: system_of(name) for name in systems or SYSTEMS}
    for system in [*wanted.values()]:
        wanted |= {name: SYSTEMS[name] for name in system.needs}
    folder, loaded = Path(out), load_recipe(recipe)
    source = StudyData.find(Path(data))
    settings = {"data": str(Path(data).resolve()), "recipe": loaded.to_dict()}
    _begin(folder, settings | {"images": source.identities()})
    source = source.flattened(loaded, folder / "prepared")
    stop = StopRequest()

    def state(system: str, seed: int, what: str) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        on_state(system, seed, what)

    tasks = [(wanted[name], seed) for seed in range(seeds) for name in in_order(wanted)]
    todo = []
    for system, seed in tasks:
        outcome = outcome_of(folder, system.name, seed)
        if outcome and "failed" not in outcome:
            on_state(system.name, seed, _said(outcome))
        else:
            todo.append((system, seed))
            on_state(system.name, seed, "waiting")

    @functools.lru_cache(2)  # a seed that is done need not stay in memory
    def trials(seed: int) -> _Trials:
        return _Trials(folder, source, loaded, seed, device, state)

    at_once = min(AT_ONCE, torch.get_num_threads()) if device_of(device).type == "cpu" else 1
    busy = BadStudy(f"{folder}: another process is making this study; wait for its end")
    with exclusive(folder / LOCK, busy), stop, shared_threads(at_once):
        remove_unfinished(folder.rglob("*"))
        _run(todo, trials, at_once, stop)
    outcomes = [outcome_of(folder, system.name, seed) for system, seed in tasks]
    return [outcome for outcome in outcomes if outcome]


def _run(
    todo: list[Task], trials: Callable[[int], _Trials], at_once: int, stop: StopRequest
) -> None:
    """Run all tasks in their order, each once those that it needs are done."""
    running: dict[Future[None], Task] = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while todo or running:
                ahead = {(system.name, seed) for system, seed in (*todo, *running.values())}
                needed = [{(name, seed) for name in system.needs} for system, seed in todo]
                ready = [task for task, need in zip(todo, needed, strict=True) if not need & ahead]
                for system, seed in ready[: at_once - len(running)]:
                    todo.remove((system, seed))
                    running[pool.submit(trials(seed).run, system)] = (system, seed)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    del running[future]
                    future.result()
        except BaseException:
            stop.requested = True
            raise


def _said(outcome: Mapping[str, Any]) -> str:
    return "failed" if "failed" in outcome else f"AUC {outcome['auc']:.3f}"


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Write what the study is begun with; refuse a folder that was begun with something else."""
    path = folder / "study.json"
    if path.exists():
        begun = settings_of(folder)
        recipe, before = settings["recipe"], Recipe.from_dict(begun["recipe"]).to_dict()
        fields = [key for key in recipe if recipe[key] != before[key]]
        differing = ["data"] if settings["data"] != begun["data"] else []
        differing += [f"recipe ({', '.join(fields)})"] if fields else []
        images, known = settings["images"], begun.get("images") or settings["images"]
        changed = [part for part in {**known, **images} if known.get(part) != images.get(part)]
        if changed and not differing:
            raise BadStudy(
                f"{folder}: the images in {' and '.join(changed)} have changed since this study "
                "was begun; put them back as they were, or give --out another folder"
            )
        if differing:
            raise BadStudy(
                f"{folder}: holds a study that was begun with other {' and '.join(differing)}; "
                "give what it was begun with, or --out another folder"
            )
    write_whole(path, json.dumps(settings, indent=1).encode())


class InParts(torch.nn.Module):
    """A slow score module, called with a few images at a time and telling how many each time."""

    def __init__(self, score: torch.nn.Module, on_scored: Callable[[int], None]):
        """Wrap a model's module; ``on_scored`` may raise KeyboardInterrupt."""
        super().__init__()
        self.score, self.on_scored = score, on_scored

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score images, as ``models.ReconstructionScore`` does."""
        parts, step = [], 16 if x.device.type == "cpu" else BATCH
        for start in range(0, len(x), step):
            at = slice(start, start + step)
            parts.append(self.score(x[at], None if inside is None else inside[at]))
            self.on_scored(len(x[at]))
        terms, maps = (torch.cat(each) for each in zip(*parts, strict=True))
        return terms, maps


class _Trials:
    """The systems of one seed, on one split of the normals and one GAN."""

    def __init__(
        self, study: Path, data: StudyData, recipe: Recipe, seed: int, device: str, state: State
    ):
        self.study, self.data, self.recipe = study, data, recipe
        self.seed, self.device, self.state = seed, device, state
        self.folder = study / f"seed{seed}"
        self.normals = Normals.read(data.train, recipe, seed=seed)
        if seed == 0:
            for note in self.normals.notes:
                log.warning("note: %s", describe(note))
            data.check_unseen(self.normals)

    def run(self, system: System) -> None:
        """Train and test a system; what went wrong is an outcome too."""
        folder = self.folder / system.name
        outcome: dict[str, Any] = {"system": system.name, "seed": self.seed}
        try:
            outcome |= self._result(system)
        except Exception as error:
            log.warning("%s, seed %d: %s", system.name, self.seed, error, exc_info=True)
            outcome["failed"] = f"{type(error).__name__}: {error}"
        name = "failed" if "failed" in outcome else "result"
        # Sorted, as in a model folder, so that a study that was stopped has the same files.
        text = json.dumps(outcome, indent=1, sort_keys=True)
        write_whole(folder / f"{name}.json", text.encode())
        if name == "result":
            (folder / "failed.json").unlink(missing_ok=True)
        self.state(system.name, self.seed, _said(outcome))

    def _result(self, system: System) -> dict[str, Any]:
        from sklearn.metrics import roc_auc_score

        out = self.folder / system.name / "evaluation"
        model, minutes = self._fitted(system)
        more: dict[str, Any] = {}
        if system.name == GAN:
            self.state(system.name, self.seed, "rating images")
            keep_training_images(model, self.normals, self.folder)
            more["rater"] = rate(model, self.normals)
        if system.on_subset:
            self._evaluate_subset(system, model, out)
        elif not (out / "scores.csv").exists():
            evaluate(
                model,
                self.data.normal,
                self.data.anomalous,
                out,
                masks=self.data.masks,
                on_result=lambda result: self.state(system.name, self.seed, "testing"),
            )
        scored = Scored.read(out / "scores.csv")
        if not system.on_subset:
            subset(self.study, scored)
        return {
            "auc": float(roc_auc_score(scored.labels, scored.total)),
            "minutes": minutes,
            "multiply_adds": system.new(self.recipe).training_cost(model.preprocessing),
            **{key: model.provenance[key] for key in ("warnings", "fingerprint")},
            **more,
        }

    def _fitted(self, system: System) -> tuple[Model, float | None]:
        """Return the model, and the minutes that training took unless it was resumed."""
        run = self.folder / system.name
        if system.on_gan and not (self.folder / GAN / "model").exists():
            raise BadStudy(f"the GAN of seed {self.seed} could not be trained")
        resumed = (run / "config.yaml").exists()
        started = time.monotonic()

        def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            self.state(system.name, self.seed, f"{stage} {100 * step // steps} %")

        model = fitted(
            system,
            self.recipe,
            self.normals,
            self.folder,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        if not (run / "model").exists() and not system.on_subset:
            model.save(run / "model")
        return model, None if resumed else (time.monotonic() - started) / 60

    def _evaluate_subset(self, system: System, model: Model, out: Path) -> None:
        """Score the subset alone, into a table like that of ``evaluate``."""
        table = self.folder / GAN / "evaluation" / "scores.csv"
        if not table.exists():
            raise BadStudy(f"the GAN of seed {self.seed} has not been tested on all images")
        reference = Scored.read(table)
        reference = reference.only(subset(self.study, reference))
        searched, windows = 0, int(reference.windows.sum())

        def on_searched(count: int) -> None:
            nonlocal searched
            searched += count
            self.state(system.name, self.seed, f"searched {searched:,} of {windows:,}")

        model = model.but(score=InParts(model.score, on_searched))
        keys: list[str] = reference.keys.tolist()
        scores = score_chosen(model, self.data, reference.unit, keys)
        columns = ("score", "image_residual", "feature_residual")
        lines = []
        for at, key in enumerate(keys):
            line = {"label": int(reference.labels[at]), "name": key[2:]}
            line |= {"subject": reference.groups[at].item(), "unit": reference.unit}
            lines.append(line | dict(zip(columns, map(repr, scores[at].tolist()), strict=True)))
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "scores.csv", list(lines[0]), lines)
