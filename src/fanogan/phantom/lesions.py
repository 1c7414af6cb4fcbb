"""Lesions of a made-up retina: they grow between its layers or inside one, which give way.

Kinds, numbers, sizes and places are drawn at random. A lesion is the space between two surfaces, so
its mask and the boundaries that it bends are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanogan.phantom.speckle import Array, Body, waves

LESIONS: Mapping[str, int] = {
    "cyst": 1,
    "subretinal fluid": 2,
    "pigment epithelium detachment": 3,
    "drusen": 4,
    "hyperreflective foci": 5,
}
"""Name and label of each kind of lesion; label 0 is no lesion."""

Maps = dict[str, Array]
"""A value for each layer or boundary by name: (B-scans, columns) each."""


@dataclass(frozen=True)
class Growth:
    """A lesion before the layers are stacked.

    It fills the space between two boundaries; or, with `half` (its half height in mm), surrounds
    the place that is the fraction `at` of the way from one to the other.
    """

    kind: str
    grey: float
    above: str
    below: str
    where: NDArray[np.bool_]
    half: Array | None = None
    at: float = 0.5

    def body(self, rows: Maps, step: float) -> Body:
        """Return the lesion's surfaces in rows of `step` mm, once the boundaries are known."""
        top, bottom = rows[self.above], rows[self.below]
        if self.half is not None:
            middle = top + self.at * (bottom - top)
            top = np.maximum(top, middle - self.half / step)
            bottom = np.minimum(bottom, middle + self.half / step)
        return Body(LESIONS[self.kind], self.grey, top, np.where(self.where, bottom, top))


class _Blobs(NamedTuple):
    """How round lesions are drawn; lengths in mm."""

    number: tuple[int, int]
    reach: float  # distance of the centres from the fovea at most
    radius: tuple[float, float]
    height: tuple[float, float]
    flatness: float  # height at most, as a fraction of the radius


_DRUSEN = _Blobs((10, 60), 2.2, (0.07, 0.32), (0.02, 0.09), 0.45)
_DETACHMENTS = _Blobs((1, 3), 1.5, (0.3, 0.9), (0.08, 0.28), 0.4)
_SUBRETINAL_FLUID = _Blobs((1, 3), 1.2, (0.35, 1.0), (0.05, 0.22), 0.3)
_CYSTS = _Blobs((3, 15), 1.2, (0.07, 0.35), (0.015, 0.09), 0.4)


def grow(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    spacing: tuple[float, float, float],
    thickness: Maps,
    kinds: Sequence[str] | None,
) -> list[Growth]:
    """Draw lesions of these kinds, or of random ones, and make room for them in `thickness`.

    `x` and `y` are the positions of the A-scans in mm from the fovea, (B-scans, columns).
    """
    if kinds is None:
        chances = dict(zip(LESIONS, rng.random(len(LESIONS)), strict=True))
        kinds = [kind for kind, chance in chances.items() if chance < 0.5]
        kinds = kinds or [min(chances, key=chances.__getitem__)]
    own = dict(zip(LESIONS, rng.spawn(len(LESIONS)), strict=True))
    growths: list[Growth] = []
    if "drusen" in kinds:
        rng = own["drusen"]
        height = _domes(rng, x, y, _DRUSEN, 1.5)
        thickness["sub-RPE space"] = height
        growths.append(Growth("drusen", rng.uniform(130, 170), "RPE outer", "Bruch", height > 0))
    if (kind := "pigment epithelium detachment") in kinds:  # takes in the drusen that it meets
        rng = own[kind]
        height = _domes(rng, x, y, _DETACHMENTS, 1.1)
        thickness["sub-RPE space"] = np.maximum(height, thickness["sub-RPE space"])
        growths.append(Growth(kind, rng.uniform(45, 95), "RPE outer", "Bruch", height > 0))
    if (kind := "subretinal fluid") in kinds:
        rng = own[kind]
        height = _domes(rng, x, y, _SUBRETINAL_FLUID, 1.2)
        thickness["subretinal space"] = height
        growths.append(Growth(kind, rng.uniform(0, 30), "OS outer", "RPE inner", height > 0))
    # What pushes from below squeezes the layers above as far as they give, then lifts them.
    push = thickness["sub-RPE space"] + thickness["subretinal space"]
    softness = {"GCL": 0.2, "IPL": 0.2, "INL": 0.2, "OPL": 0.2, "HFL": 0.7, "ONL": 0.7}
    gives = {name: share * thickness[name] for name, share in softness.items()}
    total = np.sum(list(gives.values()), axis=0)
    for name, give in gives.items():
        thickness[name] = thickness[name] - give * np.tanh(push / total)
    if "cyst" in kinds:
        growths += _cysts(own["cyst"], x, y, thickness)
    if "hyperreflective foci" in kinds:
        growths += _foci(own["hyperreflective foci"], x, y, spacing)
    return growths


def _domes(rng: np.random.Generator, x: Array, y: Array, blobs: _Blobs, power: float) -> Array:
    """Height of domes in mm, (B-scans, columns)."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(*blobs.number))):
        distance, tall = _blob(rng, x, y, blobs)
        height = np.maximum(height, tall * _dome(distance, power))
    return height


def _cysts(rng: np.random.Generator, x: Array, y: Array, thickness: Maps) -> list[Growth]:
    """Cysts in the inner nuclear layer and in Henle's; these swell, upwards and downwards."""
    growths = []
    for _ in range(int(rng.integers(*_CYSTS.number))):
        layer, above, below = (
            ("INL", "IPL/INL", "INL/OPL") if rng.uniform() < 0.5 else ("HFL", "OPL/HFL", "HFL/ONL")
        )
        distance, tall = _blob(rng, x, y, _CYSTS)
        swollen = np.hypot(thickness[layer], 2.4 * tall * np.exp(-0.7 * distance**2))
        give = 0.7 * thickness["ONL"]
        thickness["ONL"] -= give * np.tanh(0.5 * (swollen - thickness[layer]) / give)
        thickness[layer] = swollen
        half = tall * _dome(distance, 0.5)
        at, grey = rng.uniform(0.45, 0.55), rng.uniform(15, 45)
        growths.append(Growth("cyst", grey, above, below, half > 0, half, at))
    return growths


def _foci(
    rng: np.random.Generator, x: Array, y: Array, spacing: tuple[float, float, float]
) -> list[Growth]:
    """Bright dots between the inner nuclear layer and the photoreceptors, a pixel at least."""
    growths = []
    for _ in range(int(rng.integers(5, 40))):
        place = _place(rng, x, y, 2.0)
        size = rng.uniform(0.010, 0.028)
        distance = np.hypot(x - x[place], y - y[place]) / max(size, 0.75 * spacing[2])
        half = max(size, 0.75 * spacing[1]) * _dome(distance, 0.5)
        at, grey = rng.uniform(0.1, 0.9), rng.uniform(195, 230)
        kind = "hyperreflective foci"
        growths.append(Growth(kind, grey, "IPL/INL", "ELM", half > 0, half, at))
    return growths


def _place(rng: np.random.Generator, x: Array, y: Array, reach: float) -> tuple[int, int]:
    """Return an A-scan within `reach` mm of the fovea, or the next one to it: B-scan and column."""
    radius, angle = reach * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
    scan = int(np.abs(y[:, 0] - radius * np.sin(angle)).argmin())
    return scan, int(np.abs(x[scan] - radius * np.cos(angle)).argmin())


def _blob(rng: np.random.Generator, x: Array, y: Array, blobs: _Blobs) -> tuple[Array, float]:
    """Distance from a centre (0) to an uneven rim (1), (B-scans, columns), and a height in mm."""
    place = _place(rng, x, y, blobs.reach)
    size = np.exp(rng.uniform(*np.log(blobs.radius)))
    distance = np.hypot((x - x[place]) * rng.uniform(0.8, 1.25), y - y[place]) / size
    uneven = np.clip(1 + 0.1 * waves(rng, x, y, 3 * size), 0.7, 1.3)
    tall = min(float(rng.uniform(*blobs.height)), blobs.flatness * float(size))
    return np.asarray(distance * uneven, dtype=np.float32), tall


def _dome(distance: Array, power: float) -> Array:
    """1 in the centre, 0 from the rim on; steeper at the rim for a smaller power."""
    return np.clip(1 - distance**2, 0, None) ** power
