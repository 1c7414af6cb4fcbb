"""What a user holds: one contract for all detectors, from normal images to scores and maps.

A detector says which networks it has, how they are trained and what score they make of a batch;
reading, preprocessing, windows, calibration and saving are the same for all.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from fanogan.calibration import UNCALIBRATED, held_out_needed
from fanogan.data import Normals
from fanogan.detectors.building import (
    calibrating,
    calibration_passes,
    model_of,
    new_networks,
    registered_for,
    run_of,
)
from fanogan.detectors.definition import Definition
from fanogan.detectors.gan import Gan, given_gan, own_gan_of
from fanogan.detectors.projection import BESIDE, Projection
from fanogan.detectors.registry import name_of, registered
from fanogan.recipes import Recipe, load_recipe
from fanogan.remote import is_url
from fanogan.report import describe
from fanogan.retina import PicturesAs
from fanogan.scans import Spacing
from fanogan.scoring import Model, Result, Scores, calibrate, read_model, results, unreadable
from fanogan.scoring import score as score_model
from fanogan.storage import LOCK, BadFolder, exclusive, remove_unfinished
from fanogan.text import counted
from fanogan.training import (
    GAN,
    Progress,
    RunFolder,
    by_first,
    check_agreement,
    fabric_of,
    no_progress,
    open_run,
    others_there,
    precision_of,
)


class Detector(Definition, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A detector that learns from normal images; higher scores are more anomalous.

    It is scikit-learn's estimator too: it can be cloned, and be the last step of a pipeline.
    """

    _model: Model | None = None

    def __repr__(self) -> str:
        """Return the recipe, and what was learned from."""
        state = "not fitted"
        if self._model is not None:
            data = self._model.provenance["fingerprint"]
            images, subjects = (
                counted(data["images"], "image"),
                counted(data["subjects"], "subject"),
            )
            state = f"fitted on {images} of {subjects}"
        return f"<{type(self).__name__}, recipe {self.recipe.name}, {self.device}: {state}>"

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether it has learned."""
        return self._model is not None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return recipe, seed, device and devices; if ``deep``, each field of the recipe too."""
        own: dict[str, Any] = super().get_params(deep=False)
        return {**own, **vars(self.recipe)} if deep else own

    def set_params(self, **params: Any) -> Self:
        """Change settings, or fields of the recipe; what was learned stays until the next fit.

        Raises:
            BadRecipe: neither a setting nor a field of the recipe.
            ValueError: a value that can't work; nothing has changed.
        """
        changed = type(self)(**{**self.get_params(deep=False), **params})
        self.__dict__.update(vars(changed))
        return self

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return name_of(type(self), self.recipe)

    # --- learning -------------------------------------------------------------------------------

    def fit(
        self,
        normals: Any,
        y: None = None,
        *,
        gan: Any = None,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        spacing: Spacing | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        logger: str = "tensorboard",
        progress: Progress = no_progress,
    ) -> Self:
        """Learn from normal images.

        Args:
            normals: a folder, files, a glob, ``.npy``/``.npz``, arrays (N, H, W) or (N, H, W, C),
                tensors (N, C, H, W), or a ``Normals``.
            y: nothing; scikit-learn's pipelines pass it.
            gan: a trained GAN to build on, for detectors that have one (see ``read_gan``): the
                folder of a model or run of ours, or your own (G, D). None: one is trained.
            groups: how subjects are named; default: folders, else each image is its own subject.
            pictures: of retinal OCT, whether the pictures of a folder are single B-scans or the
                B-scans of a volume (see ``Normals.read``).
            spacing: of retinal OCT, for files that don't tell theirs (see ``Normals.read``).
            out: the run folder; the model is written to its ``model``. None keeps all in memory.
            resume: resume the run in ``out``; it ends as if it had never been stopped.
            skip_bad: leave out files that can't be read.
            logger: where figures of the training go besides ``metrics.jsonl``: 'tensorboard',
                'csv', 'mlflow' or 'wandb'; a run that is resumed keeps its own.
            progress: called as (stage, step, steps, figures).

        Returns:
            The detector itself, with its ``model``.

        Raises:
            BadScan: bad or too few images.
            BadFolder: ``out`` holds another run, or one that another process trains.
            BadTracker: there is no such logger, it isn't installed, or it can't be reached.
            BadGan: ``gan`` doesn't fit these normals, or this detector takes none.
            TrainingFailed: the loss isn't finite.
            KeyboardInterrupt: stopped by Ctrl-C, after a checkpoint.
        """
        if not isinstance(normals, Normals):
            normals = Normals.read(
                normals,
                self.recipe,
                groups=groups,
                pictures=pictures,
                spacing=spacing,
                seed=self.seed,
                skip_bad=skip_bad,
            )
        fabric = fabric_of(self.device, self.recipe, self.devices)
        given = given_gan(self, gan, normals, fabric.device)
        config = {
            "fanogan": version("fanogan"),
            "detector": self.name,
            "seed": self.seed,
            "data": normals.fingerprint["sha256"],
            "recipe": self.recipe.to_dict(),
            "origin": normals.origin,
            "logger": logger,
            "gan": given.identity if given else None,
            "gan_path": (gan if is_url(gan) else str(Path(gan).absolute()))
            if isinstance(gan, (str, Path))
            else None,
        }
        with others_there(fabric), contextlib.ExitStack() as held:
            check_agreement(fabric, config)
            folder = open_run(out, config, resume=resume, fabric=fabric) if out else None
            if folder:
                held.callback(folder.close)
                busy = BadFolder(f"{folder.path}: another process is training it; wait for its end")
                lock = exclusive(folder.path / LOCK, busy)
                by_first(fabric, lambda: held.enter_context(lock))
                files = folder.path.rglob("*")
                by_first(fabric, lambda: remove_unfinished(files))
            self.model = self._learn(normals, given, fabric, folder, progress)
            if folder:  # no process goes on before the model is there
                model, place = self.model, folder.path / "model"
                by_first(fabric, lambda: model.save(place))
        return self

    def _learn(
        self,
        normals: Normals,
        given: Gan | None,
        fabric: Any,
        folder: RunFolder | None,
        progress: Progress,
    ) -> Model:
        seen = normals.preprocessing
        networks = new_networks(self, seen, self.seed, fabric.device)
        steps = self.steps(seen)
        if given:
            networks |= {"G": given.G, "D": given.D}
            del steps[GAN]
        run = run_of(self, normals, steps, fabric, folder, progress)
        warnings = [*map(describe, normals.notes), *(given.warnings if given else ())]
        with precision_of(self.recipe.precision):
            warnings += self.train(networks, run)
            with precision_of("fp32"):
                constants = self.constants(networks, run)
                if not any(isinstance(each, Projection) for each in networks.values()):
                    beside = Projection(self.recipe, seen).to(fabric.device)
                    beside.fit(run)
                    networks[BESIDE] = beside
            provenance = {
                "fingerprint": normals.fingerprint,
                "warnings": warnings,
                "seed": self.seed,
                "steps": steps,
                "gan": given.identity if given else None,
            }
            model = model_of(
                self,
                networks,
                fabric.device,
                preprocessing=seen,
                calibration=UNCALIBRATED,
                profile=normals.profile,
                constants=constants,
                provenance=provenance,
            )
            images = normals.seen
            if given and given.seen:
                images = images.trained_too(given.seen)
            passes, scored = calibration_passes(self, fabric.device), itertools.count(1)
            to_score = passes * normals.fingerprint["held_out_images"]

            def on_result(result: Result) -> None:
                if fabric.is_global_zero and result.unit == "image":
                    progress(calibrating(self), next(scored), to_score, {})

            calibrated = calibrate(model, normals.held_out, on_result)
            if passes > 1:
                in_bf16 = calibrate(model.but(precision="bf16"), normals.held_out, on_result)
                calibrated = calibrated.but(others={"bf16": in_bf16.calibration})
            return calibrated.but(seen=images)

    # --- what was learned -----------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """What it has learned.

        Raises:
            NotFittedError: nothing yet.
        """
        if self._model is None:
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                "this detector has learned nothing yet: call fit(normals), or load(folder)"
            )
        return self._model

    @model.setter
    def model(self, model: Model) -> None:
        self._model = model

    def results(self, images: Any, **reading: Any) -> Iterator[Result]:
        """Score images one after the other (see ``scoring.results``)."""
        return results(self.model, images, **reading)

    def score(self, images: Any, **reading: Any) -> Scores:
        """Return the anomaly scores of images, each image once (Eq. 4)."""
        return score_model(self.model, images, **reading)

    def localize(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """Return the map of each image, (H, W) float32: |x − G(E(x))| in [0, 2] (Eq. 5)."""
        maps = (result.residual for result in self.results(images, **reading))
        return [residual for residual in maps if residual is not None]

    def reconstruct(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """Return each image's normal version, G(E(x)): (H, W) or (H, W, C) float32 in [−1, 1]."""
        images_hat = (result.reconstruction for result in self.results(images, **reading))
        return [image for image in images_hat if image is not None]

    def decision_function(self, images: Any) -> np.ndarray:
        """Return the totals, as PyOD has them: higher is more anomalous (scikit-learn's: lower)."""
        return self.score(images).total

    def predict(self, images: Any, alpha: float = 0.05) -> np.ndarray:
        """Return 1 for an image flagged at false-positive rate ``alpha``, else 0, as in PyOD.

        Raises:
            ValueError: too few normals were held out for a flag at this level.
        """
        held_out = self.model.calibration.units.get("image")
        flags = held_out.flags(self.score(images).total, alpha) if held_out else None
        if flags is not None:
            return np.array(flags, dtype=np.int64)
        why = "no single images were held out"
        way_out = "hold some out, with the recipe's held_out_fraction"
        if held_out:
            why = held_out.describe(alpha)
            have = held_out.n_subjects
            more = counted(held_out_needed(alpha) - have, "more subject")
            possible = math.ceil(1000 / (have + 1)) / 1000  # so that it is one, though rounded
            way_out = f"hold out {more}, or give alpha={possible:g} or above"
        raise ValueError(f"no flag at a false-positive rate of {alpha:g}: {why}; {way_out}")

    def save(self, folder: str | Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        self.model.save(Path(folder))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", gan: Any = None) -> Self:
        """Read a model folder, or the run folder that holds it.

        Args:
            folder: where it is. ``Detector.load`` reads any detector's.
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            gan: your own (G, D), for a model that was trained on them.

        Raises:
            BadFolder: missing, damaged, of a newer version or another detector's.
        """
        saved = read_model(folder)
        entry = registered_for(saved)
        if not issubclass(entry.kind, cls):
            raise BadFolder(
                f"{folder}: holds a model of the detector {saved.detector}, not "
                f"{cls.__name__}; fanogan.detectors.Detector.load reads any"
            )
        recipe = saved.recipe.but(**entry.settings)
        detector = entry.kind(recipe, seed=saved.provenance["seed"], device=device)
        given = own_gan_of(saved, gan, detector.device)
        if given:
            detector.recipe = recipe.but(latent_size=given.G.latent)
        try:
            networks = new_networks(detector, saved.preprocessing, 0, detector.device)
            if any(name.startswith(f"{BESIDE}.") for name in saved.tensors):  # not in older ones
                networks[BESIDE] = Projection(recipe, saved.preprocessing).to(detector.device)
        except (RuntimeError, ValueError) as error:  # of sizes that no network can have
            raise unreadable(saved.folder, error, saved.fanogan) from None
        saved.put_weights_into(
            {name: each for name, each in networks.items() if not (given and name in "GD")}
        )
        if given:
            networks |= {"G": given.G, "D": given.D}
        detector.model = model_of(
            detector,
            networks,
            detector.device,
            preprocessing=saved.preprocessing,
            calibration=saved.calibration,
            profile=saved.profile,
            constants=saved.constants,
            provenance=saved.provenance,
            seen=saved.seen,
            others=saved.calibrations,
        )
        return detector


def new_detector(name: str, recipe: str | Path | Recipe = "small", **options: Any) -> Detector:
    """Return an untrained detector by its name; ``options`` as for ``Detector``.

    Raises:
        BadDetector: no such detector.
        BadRecipe: the recipe can't be read.
        ValueError: an option that can't work.
    """
    entry = registered(name)
    detector = entry.kind(load_recipe(recipe).but(**entry.settings), **options)
    assert isinstance(detector, Detector)
    return detector
