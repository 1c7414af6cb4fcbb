"""A trained detector as a value, and the folder that keeps it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.calibration import Calibration, Profile
from fanogan.data import Preprocessing, Seen
from fanogan.recipes import Recipe
from fanogan.report import model_card
from fanogan.scoring.checked import check_type
from fanogan.storage import BadFolder, read_model_folder, weights_bytes, write_model_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


KINDS: Mapping[str, Any] = {
    "detector": str,
    "preprocessing": Preprocessing,
    "calibration": Calibration,
    "calibrations": dict[str, Calibration],
    "profile": Profile,
    "constants": dict[str, float],
    "fingerprint": dict[str, Any],
    "warnings": list[str],
    "seed": int,
    "steps": dict[str, int],
    "gan": dict[str, Any] | None,
}
"""What the values of a model file must be, so that a forged one ends in a sentence."""

FINGERPRINT = "images", "subjects", "held_out_images", "held_out_subjects", "duplicates"
"""The counts of the fingerprint, which pages and cards show."""

SEEN = "seen.trained", "seen.calibrated"
"""The names of ``Seen`` among the tensors of a model folder."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What a trained detector knows. Scoring, evaluation and export take one, and change nothing.

    Attributes:
        detector: The name of the detector that made it.
        title: What pages call that detector.
        exportable: Whether ``score`` is a fixed graph.
        averages_pixels: Whether its terms are means over an image's pixels or features.
        recipe: With which settings.
        networks: By their letters: G, D, E.
        score: x (B, C, *image_size) in [−1, 1], inside (B, 1, *image_size) bool or None → terms
            (B, 2) and maps (B, 1 + C, *image_size), as ``models.ReconstructionScore``.
        preprocessing: From a scan's pixels to what the networks see, and back.
        calibration: What held-out normals say about scores and maps.
        profile: What the training normals looked like.
        constants: Numbers that the score needs beside the networks.
        provenance: 'fingerprint' of the normals, 'warnings', 'seed', 'steps' of each stage, and
            'gan', the identity of a GAN that was given, or None.
        device: Where the networks are.
        seen: Which images it was trained and calibrated on; None: not known.
        engine: What computes ``score``: 'torch', 'onnxruntime' or 'openvino'.
        precision: In which the networks compute: 'fp32' or 'bf16' (see ``in_precision``).
        others: What the same held-out normals say in other precisions, by these.
    """

    detector: str
    title: str
    exportable: bool
    averages_pixels: bool
    recipe: Recipe
    networks: Mapping[str, nn.Module]
    score: nn.Module
    preprocessing: Preprocessing
    calibration: Calibration
    profile: Profile
    constants: Mapping[str, float]
    provenance: Mapping[str, Any]
    device: torch.device
    seen: Seen | None = None
    engine: str = "torch"
    precision: str = "fp32"
    others: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)

    def but(self, **changes: Any) -> Model:
        """Return the same model with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def kept_networks(self) -> dict[str, nn.Module]:
        """The networks that a model folder keeps: all but a user's own GAN."""
        own = (self.provenance["gan"] or {}).get("own", False)
        return {name: each for name, each in self.networks.items() if not (own and name in "GD")}

    def to_dict(self) -> dict[str, Any]:
        """All but the networks as plain values: ``model.json``."""
        provenance = {k: v for k, v in self.provenance.items() if not (k == "gan" and v is None)}
        calibrations = {self.precision: self.calibration, **self.others}
        return {
            "detector": self.detector,
            "fanogan": version("fanogan"),
            "libraries": {name: version(name) for name in ("torch", "numpy", "monai")},
            "recipe": self.recipe.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "calibration": calibrations.pop("fp32").to_dict(),
            "calibrations": {name: each.to_dict() for name, each in calibrations.items()},
            "profile": self.profile.to_dict(),
            "constants": dict(self.constants),
            **provenance,
        }

    def save(self, folder: Path) -> None:
        """Write the model folder, whole or not at all.

        Raises:
            BadFolder: something that isn't a model is there.
            OSError: it can't be written; a model that was there before is untouched.
        """
        values = self.to_dict()
        write_model_folder(folder, self._tensors(), values, model_card(values))

    @property
    def weights_sha256(self) -> str:
        """What ``model.json`` holds, and ``fanogan info`` shows."""
        return hashlib.sha256(weights_bytes(self._tensors())).hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            f"{name}.{key}": tensor
            for name, network in self.kept_networks.items()
            for key, tensor in network.state_dict().items()
        }
        return tensors | _as_tensors(self.seen) if self.seen else tensors


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """What a model folder holds, checked, and still without networks."""

    folder: Path
    detector: str
    recipe: Recipe
    preprocessing: Preprocessing
    calibration: Calibration
    calibrations: Mapping[str, Calibration]  # of other precisions than fp32
    profile: Profile
    constants: Mapping[str, float]
    provenance: Mapping[str, Any]
    seen: Seen | None  # None: an older model, which doesn't keep them
    tensors: Mapping[str, Tensor]
    weights_sha256: str
    fanogan: str

    @property
    def identity_of_own_gan(self) -> Mapping[str, Any] | None:
        """What tells the user's own GAN, that it was trained on, from others; None: has none."""
        gan: Mapping[str, Any] | None = self.provenance["gan"]
        return gan if gan and gan["own"] else None

    def put_weights_into(self, networks: Mapping[str, nn.Module], *, assign: bool = False) -> None:
        """Load the weights of networks by their letters.

        Args:
            networks: of the model's sizes.
            assign: take the tensors themselves, for networks on the meta device.

        Raises:
            BadFolder: they are of other networks.
        """
        try:
            for name, network in networks.items():
                prefix = f"{name}."
                state = {
                    key.removeprefix(prefix): tensor
                    for key, tensor in self.tensors.items()
                    if key.startswith(prefix)
                }
                network.load_state_dict(state, assign=assign)
        except RuntimeError:
            raise BadFolder(
                f"{self.folder}: not a model that this version can read: its networks aren't "
                f"those of the detector {self.detector} here; fanogan {self.fanogan}, which made "
                "it, reads it, or train it anew"
            ) from None


def _as_tensors(seen: Seen) -> dict[str, Tensor]:
    import torch

    hashes = (seen.trained, seen.calibrated)
    return {
        name: torch.from_numpy(each.view(np.int64)) for name, each in zip(SEEN, hashes, strict=True)
    }


def _seen_of(tensors: Mapping[str, Tensor]) -> Seen | None:
    if not all(name in tensors for name in SEEN):
        return None
    return Seen(*(np.unique(tensors[name].numpy().view(np.uint64)) for name in SEEN))


def read_model(folder: str | Path) -> ModelFile:
    """Read a model folder, or the run folder that holds it, of this version or an older one.

    Raises:
        BadFolder: missing, damaged, or of a newer version.
    """
    folder = Path(folder)
    tensors, values = read_model_folder(folder)
    constants = values.get("constants", {})
    if "critic_mean" in values:  # where version 0.1 kept it
        constants = {"critic_mean": values["critic_mean"]}
    try:
        saved = ModelFile(
            folder=folder,
            detector=values["detector"],
            recipe=Recipe.from_dict(values["recipe"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            calibration=Calibration.from_dict(values["calibration"]),
            calibrations={
                name: Calibration.from_dict(each)
                for name, each in values.get("calibrations", {}).items()
            },
            profile=Profile.from_dict(values.get("profile") or values["familiar"]),
            constants={name: float(value) for name, value in constants.items()},
            provenance={
                **{key: values[key] for key in ("fingerprint", "warnings", "seed")},
                "steps": values.get("steps", {}),
                "gan": values.get("gan"),
            },
            seen=_seen_of(tensors),
            tensors=tensors,
            weights_sha256=values["weights_sha256"],
            fanogan=str(values.get("fanogan")),
        )
        found = {**vars(saved), **saved.provenance}
        for name, kind in KINDS.items():
            check_type(found[name], kind, name)
        for name in FINGERPRINT:
            check_type(found["fingerprint"][name], int, f"fingerprint.{name}")
        check_type(found["fingerprint"]["sha256"], str, "fingerprint.sha256")
    except (LookupError, AttributeError, ArithmeticError, TypeError, ValueError) as error:
        raise unreadable(folder, error, values.get("fanogan")) from None
    return saved


def unreadable(folder: Path, error: Exception, made_by: object) -> BadFolder:
    """Return the error of a model folder whose values make no model."""
    reason = " ".join(str(error).split())
    return BadFolder(
        f"{folder}: not a model that this version can read ({type(error).__name__} {reason}); it "
        f"was made by fanogan {made_by}"
    )


def identity_of(model: Model) -> str:
    """Return the model as text that differs where any score could differ, its weights apart."""
    values = {k: v for k, v in model.to_dict().items() if k not in ("fanogan", "libraries")}
    return json.dumps(values)
