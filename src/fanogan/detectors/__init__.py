"""What a user holds: detectors, all with one contract, by the names that a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fanogan.detectors.critic import Critic
from fanogan.detectors.detector import BATCH, Detector, precision_of
from fanogan.detectors.fanogan import FAnoGAN
from fanogan.detectors.iterative import Iterative
from fanogan.detectors.joint import AdversarialAutoencoder, Ali, Autoencoder
from fanogan.detectors.learned import LearnedDetector, detector_of
from fanogan.detectors.result import Encoded, Looked, Result, Scores
from fanogan.recipes import BadRecipe, Recipe, load_recipe
from fanogan.storage import BadFolder, read_model

__all__ = [
    "BATCH",
    "DETECTORS",
    "AdversarialAutoencoder",
    "Ali",
    "Autoencoder",
    "Critic",
    "Detector",
    "Encoded",
    "FAnoGAN",
    "Iterative",
    "LearnedDetector",
    "Looked",
    "Result",
    "Scores",
    "load_detector",
    "new_detector",
    "precision_of",
]

# Each system of the paper's comparison: its class, and what the name settles in the recipe.
DETECTORS: dict[str, tuple[type[LearnedDetector], dict[str, Any]]] = {
    "izi_f": (FAnoGAN, {"encoder_loss": "izi_f"}),
    "izi": (FAnoGAN, {"encoder_loss": "izi", "score_features": False}),
    "ziz": (FAnoGAN, {"encoder_loss": "ziz", "score_features": False}),
    "izi-features": (FAnoGAN, {"encoder_loss": "izi", "score_features": True}),
    "ziz-features": (FAnoGAN, {"encoder_loss": "ziz", "score_features": True}),
    "critic": (Critic, {}),
    "iterative": (Iterative, {}),
    "ae": (Autoencoder, {}),
    "advae": (AdversarialAutoencoder, {}),
    "ali": (Ali, {}),
}


def new_detector(
    name: str, recipe: str | Path | Recipe = "small", **options: Any
) -> LearnedDetector:
    """An untrained detector by its name; ``options`` as for ``FAnoGAN``: seed, device, devices.

    Raises:
        ValueError: no such detector, or an option that can't work.
        BadRecipe: the recipe can't be read.
    """
    if name not in DETECTORS:
        raise ValueError(f"no detector {name!r}: give one of {', '.join(DETECTORS)}")
    kind, settled = DETECTORS[name]
    return kind(load_recipe(recipe).but(**settled), **options)


def load_detector(folder: str | Path, *, device: str = "auto", gan: Any = None) -> LearnedDetector:
    """The detector that a model folder holds, or a run folder; arguments as for ``FAnoGAN.load``.

    Raises:
        BadFolder: missing, damaged or of a newer version.
    """
    tensors, facts = read_model(folder)
    try:
        name, _ = detector_of(facts)
        kind, _ = DETECTORS[name]
    except (KeyError, TypeError, BadRecipe) as error:
        raise BadFolder(
            f"{folder}: not a model that this version can read ({type(error).__name__} "
            f"{error}); it was made by fanogan {facts.get('fanogan')}"
        ) from None
    return kind._restored(folder, tensors, facts, device=device, gan=gan)
