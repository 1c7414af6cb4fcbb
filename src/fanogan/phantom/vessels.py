"""Made-up volumes of vessels, and nodules of the same brightness at known places.

In one slice a vessel that crosses it looks like a nodule; only the slices beside it tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VESSELS, RADII = 24, (1.2, 3.0)
"""How many there are, and their radii in voxels."""

NODULES, NODULE_RADII = (1, 3), (3.0, 4.5)
TISSUE, BLOOD, NOISE = 60.0, 170.0, 8.0
"""Grey values, and the deviation of the noise."""


@dataclass(frozen=True)
class MadeUpVessels:
    """A made-up volume.

    Attributes:
        voxels: (slices, rows, columns) uint8.
        nodules: Likewise bool, where a nodule is.
    """

    voxels: NDArray[np.uint8]
    nodules: NDArray[np.bool_]


def make_vessels(
    seed: int, *, sides: tuple[int, int, int] = (48, 48, 48), diseased: bool = False
) -> MadeUpVessels:
    """Make a volume of straight vessels in any direction, with nodules where it is diseased.

    Args:
        seed: Of all of it; with another one nothing is the same.
        sides: Slices, rows and columns.
        diseased: Whether there are nodules, one to three.
    """
    rng = np.random.default_rng(seed)
    places = np.moveaxis(np.indices(sides), 0, -1).astype(np.float64)
    vessels = np.zeros(sides)
    for _ in range(VESSELS):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        beside = places - rng.uniform(0, sides)
        along = (beside @ direction)[..., None] * direction
        vessels = np.maximum(vessels, _inside(beside - along, rng.uniform(*RADII)))
    nodules = np.zeros(sides)
    for _ in range(rng.integers(NODULES[0], NODULES[1] + 1) if diseased else 0):
        radius = rng.uniform(*NODULE_RADII)
        middle = rng.uniform(radius, np.array(sides) - radius)
        nodules = np.maximum(nodules, _inside(places - middle, radius))
    share = np.maximum(vessels, nodules)
    grey = TISSUE + (BLOOD - TISSUE) * share + rng.normal(0, NOISE, sides)
    return MadeUpVessels(np.clip(np.round(grey), 0, 255).astype(np.uint8), nodules > 0.5)


def _inside(beside: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return 1 within a radius and 0 beyond, with an edge of a voxel."""
    away = np.linalg.norm(beside, axis=-1)
    inside: NDArray[np.float64] = np.clip(radius + 0.5 - away, 0, 1)
    return inside
