"""Making networks, runs and models of a detector."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fanogan.calibration import UNCALIBRATED
from fanogan.data import Normals, Preprocessing
from fanogan.detectors.definition import Definition
from fanogan.detectors.projection import BESIDE, Projection
from fanogan.detectors.registry import BadDetector, Registered, name_of, registered
from fanogan.models import ReconstructionScore, folded
from fanogan.scoring import Model, ModelFile
from fanogan.storage import BadFolder
from fanogan.training import Progress, Run, RunFolder, lacking_bf16

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_GLOBAL_RANDOM = threading.Lock()
"""Held while weights are drawn: torch has one global generator for all threads."""


def registered_for(saved: ModelFile) -> Registered:
    """Return the detector that made a model.

    Raises:
        BadFolder: there is none of that name here.
    """
    try:
        return registered(saved.detector)
    except BadDetector:
        raise BadFolder(
            f"{saved.folder}: not a model that this version can read: it has no detector "
            f"{saved.detector!r}; update fanogan, or install the package that adds the detector"
        ) from None


def new_networks(
    detector: Definition, preprocessing: Preprocessing, seed: int, device: torch.device
) -> dict[str, nn.Module]:
    """Make networks in eval mode on a device, from a seed."""
    with _GLOBAL_RANDOM, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = detector.networks(preprocessing)
    for network in networks.values():
        network.to(device).eval()
    return networks


def run_of(
    detector: Definition,
    normals: Normals,
    steps: Mapping[str, int],
    fabric: Fabric,
    folder: RunFolder | None,
    progress: Progress,
) -> Run:
    """Put the encoded images on the device, as patches, for a run of these stages."""
    recipe, device = detector.recipe, fabric.device
    training, held_out = normals.patches(
        flip=recipe.horizontal_flip, device=device, augment=recipe.augment_normals
    )
    return Run(recipe, fabric, detector.seed, training, held_out, steps, folder, progress)


def model_of(
    detector: Definition, networks: Mapping[str, nn.Module], device: torch.device, **learned: Any
) -> Model:
    """Return the model of trained networks; those of its score are folded and no longer learn."""
    name = name_of(type(detector), detector.recipe)
    with torch.no_grad():
        ready = {letter: folded(network) for letter, network in networks.items()}
    return Model(
        detector=name,
        title=registered(name).title,
        exportable=detector.exportable,
        averages_pixels=detector.averages_pixels,
        recipe=detector.recipe,
        networks=networks,
        score=detector.score_module(ready, learned["constants"]).eval(),
        device=device,
        **learned,
    )


def calibrating(detector: Definition) -> str:
    """Return what calibration is called among the stages; several detectors may train at once."""
    return f"calibrating {name_of(type(detector), detector.recipe)}"


def calibration_passes(detector: Definition, device: torch.device) -> int:
    """Return in how many precisions a detector is calibrated on a device."""
    return 2 if detector.exportable and not lacking_bf16(device) else 1


def with_networks_of(model: Model, detector: Definition) -> Model:
    """Return the model that scores with the networks of ``model`` as another detector does.

    It isn't calibrated: ``scoring.calibrate`` does that.
    """
    return model_of(
        detector,
        model.networks,
        model.device,
        preprocessing=model.preprocessing,
        calibration=UNCALIBRATED,
        profile=model.profile,
        constants=model.constants,
        provenance=model.provenance,
        seen=model.seen,
    )


def untrained(model: Model) -> Model:
    """Return the same detector with networks that have learned nothing, to be compared with."""
    seed = model.provenance["seed"]
    detector = registered(model.detector).kind(model.recipe, seed=seed, device=model.device)
    networks = new_networks(detector, model.preprocessing, seed + 1, model.device)
    return model_of(
        detector,
        networks,
        model.device,
        preprocessing=model.preprocessing,
        calibration=UNCALIBRATED,
        profile=model.profile,
        constants={},
        provenance={**model.provenance, "gan": None},
    )


def linear(model: Model) -> Model | None:
    """Return the model with principal components of its normals in place of networks.

    None where it keeps none: an older one, and ``pca``, which is that itself.
    """
    projection = model.networks.get(BESIDE)
    if not isinstance(projection, Projection):
        return None
    return model.but(
        score=ReconstructionScore(projection).eval(),
        calibration=UNCALIBRATED,
        engine="torch",
        precision="fp32",
    )
