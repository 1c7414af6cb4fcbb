"""A training run: what every stage of training works with."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fanogan.data import Patches, seeded
from fanogan.recipes import BadRecipe, Recipe
from fanogan.storage import BadFolder
from fanogan.training.fabric import by_each, by_first
from fanogan.training.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

WORDS = {
    "detector": "another detector",
    "seed": "another seed",
    "data": "other normals",
    "recipe": "another recipe",
    "gan": "another GAN",
}
"""What makes another run of it, and how it is called."""
SHARED_WITHIN = 60
"""Seconds within which a network file system shows a new file to every machine."""

Progress = Callable[[str, int, int, Mapping[str, float]], None]


def no_progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
    """Show nothing. Training calls its like as (stage, step, steps, figures) after each step.

    One that raises KeyboardInterrupt stops training, after a checkpoint.
    """


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run works with.

    Attributes:
        recipe: Lengths, rates, weights of losses.
        fabric: Device, precision, processes.
        seed: Of all random numbers.
        normals: What is learned from.
        held_out: Normals that are not learned from; the health figures use them.
        steps: The stages to train, in order, and the rounds or updates of each.
        folder: Where metrics, samples and checkpoints go; a checkpoint there is resumed.
        progress: Called by the first process after each step.
    """

    HEALTH_IMAGES: ClassVar[int] = 256
    REESTIMATE_BATCHES: ClassVar[int] = 200

    recipe: Recipe
    fabric: Fabric
    seed: int
    normals: Patches
    held_out: Patches
    steps: Mapping[str, int]
    folder: RunFolder | None = None
    progress: Progress = no_progress

    @property
    def device(self) -> torch.device:
        """Where networks and batches are."""
        return self.fabric.device

    @property
    def batch_size(self) -> int:
        """Images of a batch in each process."""
        return self.recipe.batch_size // self.fabric.world_size

    def random(self, *key: object) -> torch.Generator:
        """Return a generator whose numbers depend on the run's seed and the key alone."""
        return seeded(self.device, self.seed, *key)

    def random_at(self, stage: str, step: int) -> torch.Generator:
        """Return the generator of one step of a stage, another one in each process.

        So the step reached is all the state that a checkpoint needs of random numbers.
        """
        return self.random(stage, step, self.fabric.global_rank)


def check_agreement(fabric: Fabric, config: Mapping[str, Any]) -> None:
    """Refuse to train together with a process that was started with something else.

    Raises:
        BadFolder: one was.
    """
    first = fabric.broadcast(dict(config))

    def check() -> None:
        words = {**WORDS, "fanogan": "another version of fanogan"}
        differing = [word for key, word in words.items() if first[key] != config[key]]
        if differing:
            raise BadFolder(
                f"process {fabric.global_rank} on {socket.gethostname()} was started with "
                f"{' and '.join(differing)} than the first; give all of them the same"
            )

    by_each(fabric, check)


def open_run(
    out: str | Path, config: Mapping[str, Any], *, resume: bool, fabric: Fabric
) -> RunFolder:
    """Return the run folder for these settings, new or to be resumed.

    Raises:
        BadFolder: a run lies there already, or another run than the one to resume.
    """

    def begin() -> RunFolder:
        folder = RunFolder(out, resume=resume)
        if not resume:
            folder.track(config)  # what can't be reached is refused before the run exists
            folder.begin(config)
            return folder
        begun = folder.config
        same = {key: begun.get(key) == config[key] for key in WORDS}
        with contextlib.suppress(BadRecipe, TypeError, KeyError):  # fields that were added since
            same["recipe"] = Recipe.from_dict(begun["recipe"]).to_dict() == config["recipe"]
        differing = [word for key, word in WORDS.items() if not same[key]]
        if differing:
            raise BadFolder(
                f"{folder.path}: can't be resumed, it was begun with {' and '.join(differing)}; "
                "give what it was begun with, or begin another run in another folder"
            )
        if begun.get("fanogan") != config["fanogan"]:
            log.warning(
                "%s: begun with fanogan %s, so the result may differ in its last digits",
                folder.path,
                begun.get("fanogan"),
            )
        return folder

    def seen() -> RunFolder:
        for _ in range(SHARED_WITHIN):
            if (Path(out) / "config.yaml").exists():
                return RunFolder(out, resume=True)
            time.sleep(1)
        raise BadFolder(
            f"{out}: {socket.gethostname()} doesn't see the run that the first process has begun; "
            "give a folder on a file system that all machines share"
        )

    begun = by_first(fabric, begin)
    return by_each(fabric, lambda: begun or seen())
