"""The systems of the paper's comparison: what each is, how it is made, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fanogan.data import Normals, Preprocessing
from fanogan.detectors import DETECTORS, LearnedDetector, load_detector, new_detector
from fanogan.recipes import Recipe
from fanogan.training import (
    Progress,
    adversarial_rounds,
    ali_updates,
    autoencoder_updates,
    budget,
    costs,
)

GAN = "critic"
"""The system whose run trains the GAN of its seed, on which others build."""


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the comparison.

    Attributes:
        name: As a user types it, and its folder's.
        title: As tables have it.
        detector: Its name among ``DETECTORS``.
        changes: What differs from the study's recipe.
        on_gan: Whether it builds on the GAN of its seed.
        networks_of: The system whose networks it has, scored in another way.
        on_subset: Whether it is tested on the subset alone, because it is slow.
    """

    name: str
    title: str
    detector: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_gan: bool = True
    networks_of: str | None = None
    on_subset: bool = False

    @property
    def needs(self) -> set[str]:
        """The systems of the same seed that must be done before it."""
        return ({GAN} if self.on_gan else set()) | (
            {self.networks_of} if self.networks_of else set()
        )

    def new(self, recipe: Recipe, **options: Any) -> LearnedDetector:
        """Make it, untrained; ``options`` as for ``new_detector``."""
        return new_detector(self.detector, recipe.but(**self.changes), **options)


LINEAR = {"encoder_output": "linear"}
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(GAN, "A_D (critic alone)", "critic", on_gan=False),
        System("izi_f", "f-AnoGAN (izi_f)", "izi_f"),
        System("izi", "izi", "izi"),
        System("ziz", "ziz", "ziz"),
        System("izi-features", "izi scored with features", "izi-features", networks_of="izi"),
        System("ziz-features", "ziz scored with features", "ziz-features", networks_of="ziz"),
        System("ae", "AE", "ae", on_gan=False),
        System("advae", "AdvAE", "advae", on_gan=False),
        System("ali", "ALI", "ali", on_gan=False),
        System("iterative", "iterative", "iterative", on_subset=True),
        System("izi_f-linear", "izi_f linear", "izi_f", LINEAR),
        System("izi-linear", "izi linear", "izi", LINEAR),
        System("ziz-linear", "ziz linear", "ziz", LINEAR),
        System("denoising", "izi_f denoising", "izi_f", {"denoising": 0.2}),
    )
}


def fitted(
    system: System,
    recipe: Recipe,
    normals: Normals,
    folder: Path,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> LearnedDetector:
    """The trained detector of a system: read where it is there, gone on with where it was begun.

    Args:
        system: which.
        recipe: the study's.
        normals: of this seed.
        folder: of this seed; the system's run goes into the folder of its name.
        seed: of all of training.
        device: as for ``LearnedDetector``.
        progress: as for ``fit``.
    """
    run = folder / system.name
    if (run / "model").exists():
        return load_detector(run, device=device)
    detector = system.new(recipe, seed=seed, device=device)
    if system.networks_of:
        return _scored_otherwise(
            detector, load_detector(folder / system.networks_of, device=device), normals
        )
    if system.on_subset:
        # Calibrating it would take longer than all else: every held-out patch has a search.
        return _with_networks_of(detector, load_detector(folder / GAN, device=device))
    resume = (run / "config.yaml").exists()
    gan = folder / GAN if system.on_gan else None
    return detector.fit(normals, gan=gan, out=run, resume=resume, progress=progress)


def _with_networks_of(detector: LearnedDetector, other: LearnedDetector) -> LearnedDetector:
    detector.preprocessing, detector.familiar = other.preprocessing, other.familiar
    detector.networks, detector.facts = other.networks, other.facts
    return detector


def _scored_otherwise(
    detector: LearnedDetector, other: LearnedDetector, normals: Normals
) -> LearnedDetector:
    _with_networks_of(detector, other)
    detector.calibration = detector._calibrate(normals.held_out)
    return detector


def training_cost(system: System, recipe: Recipe, seen: Preprocessing) -> int:
    """The multiply-adds of a system's training, its share in the common GAN included."""
    recipe = recipe.but(**DETECTORS[system.detector][1] | dict(system.changes))
    size = (recipe, seen.sides, seen.channels)
    each = costs(*size)
    encoder = recipe.batch_size * recipe.encoder_updates * each.encoder
    gan = budget(*size) - encoder
    critics = recipe.critic_updates_per_generator_update * each.adversarial_critic
    alone = {
        "ae": lambda: autoencoder_updates(*size) * each.autoencoder,
        "advae": lambda: adversarial_rounds(*size) * (critics + each.adversarial),
        "ali": lambda: ali_updates(*size) * each.ali,
    }
    if system.detector in alone:
        return recipe.batch_size * alone[system.detector]()
    return gan if system.detector in (GAN, "iterative") else gan + encoder
