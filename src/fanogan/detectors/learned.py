"""What all detectors share beyond scoring: ``fit``, ``save``, ``load``, and their untrained twin.

A detector says which networks it has (``_make``), how they learn (``_train``) and what they make of
a batch (``_terms_and_maps``); everything else here is the same for all.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fanogan.calibration import Calibration, Familiar
from fanogan.data import Normals, Patches, Preprocessing
from fanogan.detectors.detector import Detector, precision_of
from fanogan.errors import FanoganError
from fanogan.recipes import BadRecipe, Recipe, load_recipe
from fanogan.report import model_card
from fanogan.storage import LOCK, BadFolder, exclusive, read_model, write_model
from fanogan.training import (
    Progress,
    RunFolder,
    by_first,
    device_of,
    fabric_of,
    no_progress,
    open_run,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_GLOBAL_RANDOM = threading.Lock()
"""Held while weights are drawn: torch has one global generator for all threads."""


class BadGan(FanoganError):
    """A GAN that a detector can't be built on, said in one sentence."""


class LearnedDetector(Detector):
    """A detector that learns from normal images, in a run that can be stopped and gone on with."""

    name: str  # as a user types it
    letters: ClassVar[str]  # of its networks, in their order: G, D, E

    def __init__(
        self,
        recipe: str | Path | Recipe = "small",
        *,
        seed: int = 0,
        device: str = "auto",
        devices: int = 1,
    ):
        """Make an untrained detector.

        Args:
            recipe: a shipped recipe's name, a YAML file, or a ``Recipe``.
            seed: of the split, the weights and all of training.
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            devices: how many processes train together (one per GPU).

        Raises:
            BadRecipe: the recipe can't be read.
            ValueError: no such device here, or a batch that can't be shared out.
        """
        self.recipe = load_recipe(recipe)
        if devices < 1 or self.recipe.batch_size % devices:
            raise ValueError(
                f"a batch of {self.recipe.batch_size} can't be shared by {devices} devices: give a "
                "number that divides it"
            )
        self.seed = seed
        self.devices = devices
        self.device = device_of(device)
        self.facts: dict[str, Any] = {}

    # --- what a detector says of itself ---------------------------------------------------------

    @abc.abstractmethod
    def _make(self) -> tuple[nn.Module, ...]:
        """New networks for what the preprocessing gives, in the order of ``letters``."""

    @abc.abstractmethod
    def steps(self) -> dict[str, int]:
        """The stages of training in their order, and the updates or rounds of each."""

    @abc.abstractmethod
    def _train(
        self,
        training: Patches,
        held_out: Patches,
        *,
        fabric: Fabric,
        run: RunFolder | None = None,
        progress: Progress = no_progress,
    ) -> list[str]:
        """Train the networks in place, as ``training.train_gan``; returns health warnings."""

    def _finish(self, normals: Normals, training: Patches) -> None:
        """Learn what else the score needs of the training normals, once the networks are done."""

    def _take_gan(self, gan: Any, normals: Normals) -> None:
        """Build on a GAN that is trained already (see ``GanDetector``).

        Raises:
            BadGan: one was given, and this detector trains all its networks itself.
        """
        if gan is not None:
            raise BadGan(f"the detector {self.name} trains all its networks: leave the GAN out")

    # --- learning -------------------------------------------------------------------------------

    def fit(
        self,
        normals: Any,
        *,
        gan: Any = None,
        groups: str | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        progress: Progress = no_progress,
    ) -> Self:
        """Learn from normal images.

        Args:
            normals: a folder, files, a glob, ``.npy``/``.npz``, arrays (N, H, W) or (N, H, W, C),
                tensors (N, C, H, W), or a ``Normals``.
            gan: a trained GAN to build on, for detectors that have one (see ``read_gan``): the
                folder of a model or run of ours, or your own (G, D). None: one is trained.
            groups: how subjects are named; default: folders, else each image is its own subject.
            out: the run folder; the model is written to its ``model``. None keeps all in memory.
            resume: go on with the run that lies in ``out``; it ends as if never stopped.
            skip_bad: leave out files that can't be read.
            progress: called as (stage, step, steps, figures).

        Returns:
            The detector itself.

        Raises:
            BadScan: bad or too few images.
            BadFolder: ``out`` holds another run, or one that another process is at, or ``gan`` no
                GAN for these normals.
            BadGan: ``gan`` isn't one for these normals, or this detector takes none.
            TrainingFailed: the loss isn't finite.
            KeyboardInterrupt: stopped by Ctrl-C, after a checkpoint.
        """
        if not isinstance(normals, Normals):
            normals = Normals.read(
                normals, self.recipe, groups=groups, seed=self.seed, skip_bad=skip_bad
            )
        fabric = fabric_of(self.device, self.recipe, self.devices)
        self.device = fabric.device
        self.facts = {
            "fingerprint": normals.fingerprint,
            "warnings": list(normals.warnings),
            "seed": self.seed,
        }
        self._take_gan(gan, normals)
        run = self._open_run(out, resume, normals, gan, fabric) if out else None
        training, held_out = self._patches(normals)
        self.networks = self._new_networks(self.seed)
        with contextlib.ExitStack() as held:
            if run:
                busy = BadFolder(f"{run.path}: another process is training it; wait for its end")
                lock = exclusive(run.path / LOCK, busy)
                by_first(fabric, lambda: held.enter_context(lock))
            with precision_of(self.recipe.precision):
                warnings = self._train(
                    training, held_out, fabric=fabric, run=run, progress=progress
                )
            self.facts["warnings"] += warnings
            self._finish(normals, training)
            self.calibration = self._calibrate(normals.held_out)
            if run and fabric.is_global_zero:
                self.save(run.path / "model")
        fabric.barrier()  # no process goes on before the model is there
        return self

    def seconds_to_fit(self, normals: Normals, *, gan: Any = None) -> float:
        """About how long ``fit`` will take here, from a few timed updates of throwaway networks."""
        throwaway = copy.copy(self)
        throwaway.facts = {"warnings": []}
        throwaway._take_gan(gan, normals)
        training, held_out = throwaway._patches(normals)
        most = self.recipe.batch_size // self.devices
        batch = min(4, most)
        seconds = throwaway._seconds_of(training, held_out, batch)
        if batch < most and max(seconds.values(), default=0) < 2:
            batch = most  # else what is proportional to the batch is most of it
            seconds = throwaway._seconds_of(training, held_out, batch)
        steps = throwaway.steps()
        return most / batch * sum(steps[stage] * each for stage, each in seconds.items())

    def _seconds_of(self, training: Patches, held_out: Patches, batch: int) -> dict[str, float]:
        """Seconds of a round or update of each stage: the second of three, without health."""
        few = copy.copy(self)
        few.recipe = self.recipe.but(
            batch_size=batch,
            critic_updates=3 * self.recipe.critic_updates_per_generator_update,
            encoder_updates=3,
            log_every=10_000,
            reestimate_batch_norm=False,
        )
        few.networks = few._new_networks(self.seed)
        marks: dict[tuple[str, int], float] = {}

        def mark(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            marks[stage, step] = time.perf_counter()

        fabric = fabric_of(self.device, self.recipe, 1)
        # What throwaway networks would be warned of is no news.
        with precision_of(self.recipe.precision), _silenced(logging.getLogger("fanogan.stages")):
            few._train(training, held_out, fabric=fabric, progress=mark)
        return {stage: marks[stage, 2] - marks[stage, 1] for stage in few.steps()}

    def _open_run(
        self, out: str | Path, resume: bool, normals: Normals, gan: Any, fabric: Fabric
    ) -> RunFolder:
        config = {
            "fanogan": version("fanogan"),
            "detector": self.name,
            "seed": self.seed,
            "data": normals.fingerprint["sha256"],
            "recipe": self.recipe.to_dict(),
            "origin": normals.origin,
            "gan": self.facts.get("gan"),
            "gan_path": str(Path(gan).absolute()) if isinstance(gan, (str, Path)) else None,
        }
        return open_run(out, config, resume=resume, fabric=fabric)

    def _new_networks(self, seed: int) -> tuple[nn.Module, ...]:
        with _GLOBAL_RANDOM, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self._make()
        for network in networks:
            network.to(self.device).eval()
        return networks

    def _patches(self, normals: Normals) -> tuple[Patches, Patches]:
        self.preprocessing, self.familiar = normals.preprocessing, normals.familiar
        training = Patches(
            normals.training,
            self.preprocessing,
            flip=self.recipe.horizontal_flip,
            device=self.device,
            usable=normals.usable,
        )
        encoded = list(self._encoded(normals.held_out))
        usable = [mask for one in encoded if one.usable is not None for mask in one.usable]
        held_out = Patches(
            [frame for one in encoded for frame in one.pixels],
            self.preprocessing,
            flip=False,
            device=self.device,
            usable=usable or None,
        )
        return training, held_out

    def untrained(self) -> Self:
        """The same detector with networks that have learnt nothing, to be compared with."""
        self._check_fitted()
        other = type(self)(self.recipe, seed=self.seed, device=self.device.type)
        other.preprocessing, other.familiar = self.preprocessing, self.familiar
        other.networks = other._new_networks(self.seed + 1)
        return other

    # --- keeping --------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        self._check_fitted()
        tensors = {
            f"{name}.{key}": tensor
            for name, network in self._kept().items()
            for key, tensor in network.state_dict().items()
        }
        facts = {
            "detector": self.name,
            "fanogan": version("fanogan"),
            "libraries": {name: version(name) for name in ("torch", "numpy", "monai")},
            "recipe": self.recipe.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "calibration": self.calibration.to_dict(),
            "familiar": self.familiar.to_dict(),
            "steps": self.steps(),
            **self.facts,
        }
        write_model(Path(folder), tensors, facts, model_card(facts))

    def _kept(self) -> dict[str, nn.Module]:
        """The networks whose weights are in the model folder, by letter."""
        return dict(zip(self.letters, self.networks, strict=True))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", gan: Any = None) -> Self:
        """Read a model folder, or the run folder that holds it.

        Args:
            folder: where it lies.
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            gan: your own (G, D), for a model that was trained on them.

        Raises:
            BadFolder: missing, damaged, of a newer version or another detector's.
        """
        return cls._restored(folder, *read_model(folder), device=device, gan=gan)

    @classmethod
    def _restored(
        cls,
        folder: str | Path,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        *,
        device: str,
        gan: Any,
    ) -> Self:
        """The detector that a model folder's tensors and facts describe; errors as ``load``."""
        try:
            name, recipe = detector_of(facts)
            detector = cls(recipe, seed=facts["seed"], device=device)
            if detector.name != name:
                raise BadFolder(
                    f"{folder}: holds a model of the detector {name}, not {detector.name}; "
                    "fanogan.detectors.load_detector reads any"
                )
            detector.preprocessing = Preprocessing.from_dict(facts["preprocessing"])
            detector.calibration = Calibration.from_dict(facts["calibration"])
            detector.term_scale = detector.calibration.term_scale
            detector.familiar = Familiar.from_dict(facts["familiar"])
            own = ("fingerprint", "warnings", "seed")
            detector.facts = {key: facts[key] for key in own} | {
                key: facts[key] for key in ("gan", "critic_mean") if key in facts
            }
            detector._restore_gan(folder, gan)
            detector.networks = detector._new_networks(0)
            for letter, network in detector._kept().items():
                prefix = f"{letter}."
                network.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
        except (KeyError, TypeError, RuntimeError, BadRecipe) as error:
            raise BadFolder(
                f"{folder}: not a model that this version can read ({type(error).__name__} "
                f"{error}); it was made by fanogan {facts.get('fanogan')}"
            ) from None
        return detector

    def _restore_gan(self, folder: str | Path, gan: Any) -> None:
        """Take a user's own GAN again, where the model was trained on one."""


def detector_of(facts: Mapping[str, Any]) -> tuple[str, Recipe]:
    """The detector's name and the recipe in a model's facts.

    Models of version 0.1 name the method; whatever their encoder, they score by Eq. 4.

    Raises:
        KeyError: one is missing.
        BadRecipe: a recipe of another version.
    """
    name, recipe = facts["detector"], Recipe.from_dict(facts["recipe"])
    if name != "f-AnoGAN":
        return name, recipe
    recipe = recipe.but(score_features=True)
    return scored_name(recipe), recipe


def scored_name(recipe: Recipe) -> str:
    """f-AnoGAN's name among the detectors: its encoder's, and what it is scored with."""
    features = recipe.score_features and recipe.encoder_loss != "izi_f"
    return f"{recipe.encoder_loss}-features" if features else recipe.encoder_loss


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """No warnings from ``logger``."""
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
