"""Lesions of a made-up retina: they grow between its layers or inside one, and the layers give way.

Kinds, numbers, sizes and places are drawn at random. A lesion is the room between two surfaces, so
its mask and the boundaries that it bends are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fanogan.phantom.speckle import Array, Body, waves

LESIONS: Mapping[str, int] = MappingProxyType(
    {
        "cyst": 1,
        "subretinal fluid": 2,
        "pigment epithelium detachment": 3,
        "drusen": 4,
        "hyperreflective foci": 5,
    }
)
"""Name and label of each kind of lesion; label 0 is no lesion."""
FLUIDS = (1, 2, 3)
"""Labels of the lesions that are fluid."""

Maps = dict[str, Array]
"""Something of each layer or boundary by name: (B-scans, columns) each."""


@dataclass(frozen=True)
class Growth:
    """A lesion before the layers are stacked.

    It fills the room between two boundaries; or, with `half` (its half height in mm), lies round
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
        """The lesion's surfaces in rows, `step` mm each, once the boundaries are known."""
        top, bottom = rows[self.above], rows[self.below]
        if self.half is not None:
            middle = top + self.at * (bottom - top)
            top = np.maximum(top, middle - self.half / step)
            bottom = np.minimum(bottom, middle + self.half / step)
        return Body(LESIONS[self.kind], self.grey, top, np.where(self.where, bottom, top))


def draw_kinds(rng: np.random.Generator, lesions: Sequence[str] | None) -> list[str]:
    """The kinds of lesion in an eye: those given, or at least one drawn at random."""
    if lesions is not None:
        return list(lesions)
    chances = dict(zip(LESIONS, rng.random(len(LESIONS)), strict=True))
    drawn = [name for name, chance in chances.items() if chance < 0.5]
    return drawn or [min(chances, key=chances.__getitem__)]


def grow(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    spacing: tuple[float, float, float],
    thickness: Maps,
    kinds: Sequence[str],
) -> list[Growth]:
    """Draw lesions, and make room for them in `thickness`."""
    own = dict(zip(LESIONS, rng.spawn(len(LESIONS)), strict=True))
    growths: list[Growth] = []
    if "drusen" in kinds:
        growths += _drusen(own["drusen"], x, y, thickness)
    if "pigment epithelium detachment" in kinds:
        growths += _detachments(own["pigment epithelium detachment"], x, y, thickness)
    if "subretinal fluid" in kinds:
        growths += _subretinal(own["subretinal fluid"], x, y, thickness)
    _squeeze(thickness)
    if "cyst" in kinds:
        growths += _cysts(own["cyst"], x, y, thickness)
    if "hyperreflective foci" in kinds:
        growths += _foci(own["hyperreflective foci"], x, y, spacing)
    return growths


def _place(rng: np.random.Generator, x: Array, y: Array, reach: float) -> tuple[int, int]:
    """An A-scan within `reach` mm of the fovea, or the next one to it: B-scan and column."""
    radius, angle = reach * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
    scan = int(np.abs(y[:, 0] - radius * np.sin(angle)).argmin())
    return scan, int(np.abs(x[scan] - radius * np.cos(angle)).argmin())


def _blob(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    reach: float,
    radius: tuple[float, float],
    height: tuple[float, float],
    flatness: float,
) -> tuple[Array, float]:
    """Distance from a centre, and a height (mm).

    The distance is 0 at a centre within `reach` mm of the fovea, and 1 at an uneven rim. Radius and
    height are drawn from their ranges in mm; the height is at most `flatness` of the radius.
    """
    place = _place(rng, x, y, reach)
    size = np.exp(rng.uniform(*np.log(radius)))
    distance = np.hypot((x - x[place]) * rng.uniform(0.8, 1.25), y - y[place]) / size
    uneven = np.clip(1 + 0.1 * waves(rng, x, y, 3 * size), 0.7, 1.3)
    tall = min(float(rng.uniform(*height)), flatness * float(size))
    return np.asarray(distance * uneven, dtype=np.float32), tall


def _dome(distance: Array, power: float) -> Array:
    """1 in the centre, 0 from the rim on; steeper at the rim for a smaller power."""
    return np.clip(1 - distance**2, 0, None) ** power


def _drusen(rng: np.random.Generator, x: Array, y: Array, thickness: Maps) -> list[Growth]:
    """Deposits that raise the pigment epithelium in bumps."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(10, 60))):
        distance, tall = _blob(rng, x, y, 2.2, (0.07, 0.32), (0.02, 0.09), 0.45)
        height = np.maximum(height, tall * _dome(distance, 1.5))
    thickness["sub-RPE space"] = height
    return [Growth("drusen", rng.uniform(130, 170), "RPE outer", "Bruch", height > 0)]


def _detachments(rng: np.random.Generator, x: Array, y: Array, thickness: Maps) -> list[Growth]:
    """Wide fluid-filled domes under the pigment epithelium; one that meets drusen takes them in."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 3))):
        distance, tall = _blob(rng, x, y, 1.5, (0.3, 0.9), (0.08, 0.28), 0.4)
        height = np.maximum(height, tall * _dome(distance, 1.1))
    thickness["sub-RPE space"] = np.maximum(height, thickness["sub-RPE space"])
    kind = "pigment epithelium detachment"
    return [Growth(kind, rng.uniform(45, 95), "RPE outer", "Bruch", height > 0)]


def _subretinal(rng: np.random.Generator, x: Array, y: Array, thickness: Maps) -> list[Growth]:
    """Fluid that lifts the retina off the pigment epithelium."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 3))):
        distance, tall = _blob(rng, x, y, 1.2, (0.35, 1.0), (0.05, 0.22), 0.3)
        height = np.maximum(height, tall * _dome(distance, 1.2))
    thickness["subretinal space"] = height
    return [Growth("subretinal fluid", rng.uniform(0, 30), "OS outer", "RPE inner", height > 0)]


def _squeeze(thickness: Maps) -> None:
    """What pushes from below squeezes the layers above as far as they give, then lifts them."""
    push = thickness["sub-RPE space"] + thickness["subretinal space"]
    softness = {"GCL": 0.2, "IPL": 0.2, "INL": 0.2, "OPL": 0.2, "HFL": 0.7, "ONL": 0.7}
    gives = {name: share * thickness[name] for name, share in softness.items()}
    total = np.sum(list(gives.values()), axis=0)
    for name, give in gives.items():
        thickness[name] = thickness[name] - give * np.tanh(push / total)


def _cysts(rng: np.random.Generator, x: Array, y: Array, thickness: Maps) -> list[Growth]:
    """Cysts in the inner nuclear layer and in Henle's; these swell, upwards and downwards."""
    growths = []
    for _ in range(int(rng.integers(3, 15))):
        layer, above, below = (
            ("INL", "IPL/INL", "INL/OPL") if rng.uniform() < 0.5 else ("HFL", "OPL/HFL", "HFL/ONL")
        )
        distance, tall = _blob(rng, x, y, 1.2, (0.07, 0.35), (0.015, 0.09), 0.4)
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
