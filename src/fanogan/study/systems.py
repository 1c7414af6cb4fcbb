"""The systems of the paper's comparison: what each is, how it is made, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fanogan.data import Normals, Preprocessing
from fanogan.detectors import Detector, detector_names, new_detector, with_networks_of
from fanogan.recipes import Recipe
from fanogan.scoring import Model, calibrate
from fanogan.study.test_sets import BadStudy
from fanogan.training import Progress

GAN = "critic"
"""The system whose run trains the GAN of its seed, on which others build."""


@dataclasses.dataclass(frozen=True)
class System:
    """A row of the comparison."""

    name: str  # as a user types it, and its folder's
    title: str  # as tables have it
    detector: str  # its name among the detectors
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the study's recipe
    on_gan: bool = True  # it builds on the GAN of its seed
    networks_of: str | None = None  # the system whose networks it has, scored in another way
    on_subset: bool = False  # it is tested on the subset alone, because it is slow

    @property
    def needs(self) -> set[str]:
        """The systems of the same seed that must be done before it."""
        return {name for name in (GAN if self.on_gan else None, self.networks_of) if name}

    def new(self, recipe: Recipe, **options: Any) -> Detector:
        """Return it untrained; ``options`` as for ``new_detector``."""
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
        System("iterative", "iterative", "iterative", networks_of=GAN, on_subset=True),
        System("izi_f-linear", "izi_f linear", "izi_f", LINEAR),
        System("izi-linear", "izi linear", "izi", LINEAR),
        System("ziz-linear", "ziz linear", "ziz", LINEAR),
        System("denoising", "izi_f denoising", "izi_f", {"denoising": 0.2}),
    )
}
"""The paper's systems. Any other detector is one too, by its own name: see ``system_of``."""


def system_of(name: str) -> System:
    """Return the paper's system of a name, or another detector as a system, trained by ``fit``.

    Raises:
        BadStudy: There is neither.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if name not in detector_names():
        names = dict.fromkeys((*SYSTEMS, *detector_names()))
        raise BadStudy(f"no system {name}: give some of {', '.join(names)}")
    return System(name, name, name, on_gan=False)


def in_order(names: Collection[str]) -> list[str]:
    """Return names of systems as tables have them: the paper's, then others."""
    return [*(name for name in SYSTEMS if name in names), *sorted(set(names) - SYSTEMS.keys())]


def fitted(
    system: System,
    recipe: Recipe,
    normals: Normals,
    folder: Path,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> Model:
    """Return a system's trained model: read where it is there, resumed where it was begun.

    ``normals``, ``folder`` and ``seed`` belong together; the system's run goes into the folder of
    its name. ``progress`` is as for ``fit``.
    """
    run = folder / system.name
    if (run / "model").exists():
        return Detector.load(run, device=device).model
    detector = system.new(recipe, seed=seed, device=device)
    if system.networks_of:
        other = Detector.load(folder / system.networks_of, device=device).model
        model = with_networks_of(other, detector)
        # Calibrating the search would take longer than all else: each held-out patch has one.
        return model if system.on_subset else calibrate(model, normals.held_out)
    detector.fit(
        normals,
        gan=folder / GAN if system.on_gan else None,
        out=run,
        resume=(run / "config.yaml").exists(),
        progress=progress,
    )
    return detector.model


def training_cost(system: System, recipe: Recipe, seen: Preprocessing) -> int:
    """Return the multiply-adds of a system's training, its share in the common GAN included."""
    return system.new(recipe).training_cost(seen)
