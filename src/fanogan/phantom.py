"""A made-up retina: OCT volumes with exact boundaries and exact masks of their lesions.

An eye is a stack of layers, each with a thickness (mm) at every place of the retina. Lesions grow
as spaces between layers or inside one, so the boundaries bend with them, exactly. What a device
makes of the tissue is in `fanogan.speckle`. Thicknesses follow published normal values; grey
values and textures were fixed by comparison with real B-scans (`docs/phantom.md`) and by nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fanogan.speckle import Array, Body, Tissue, covered, record

# Layers from the vitreous down: name, grey value, and over how many mm the upper edge is blurred
# by tissue that is less even than its mean. The two spaces are empty in a healthy eye.
_LAYERS = (
    ("NFL", 218.0, 0.004),
    ("GCL", 160.0, 0.012),
    ("IPL", 146.0, 0.020),
    ("INL", 112.0, 0.016),
    ("OPL", 134.0, 0.012),
    ("HFL", 82.0, 0.016),
    ("ONL", 68.0, 0.020),
    ("ELM", 92.0, 0.004),
    ("MZ", 84.0, 0.004),
    ("EZ", 224.0, 0.004),
    ("OS", 166.0, 0.004),
    ("subretinal space", 20.0, 0.004),
    ("RPE", 236.0, 0.004),
    ("sub-RPE space", 100.0, 0.004),
)

BOUNDARIES = (
    "ILM",
    "NFL/GCL",
    "GCL/IPL",
    "IPL/INL",
    "INL/OPL",
    "OPL/HFL",
    "HFL/ONL",
    "ELM",
    "ELM/MZ",
    "MZ/EZ",
    "EZ/OS",
    "OS outer",
    "RPE inner",
    "RPE outer",
    "Bruch",
    "choroid/sclera",
)
"""Boundaries from the vitreous down; `RPE outer` leaves `Bruch` above drusen and detachments."""

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
_FLUIDS = (1, 2, 3)

_Maps = dict[str, Array]


@dataclass(frozen=True)
class Phantom:
    """A made-up OCT volume.

    Attributes:
        name: 'phantom_0007' for seed 7.
        pixels: (B-scans, rows, columns) uint8.
        spacing: mm between B-scans, rows and columns.
        boundaries: for each of `BOUNDARIES` the row of every column, (B-scans, columns) float32;
            row 10.0 is the centre of the pixel in row 10.
        lesions: (B-scans, rows, columns) uint8, labels of `LESIONS`.
    """

    name: str
    pixels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    boundaries: Mapping[str, Array]
    lesions: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where any lesion is: (B-scans, rows, columns)."""
        return self.lesions > 0

    @property
    def fluid(self) -> NDArray[np.bool_]:
        """Where cysts, subretinal fluid and detachments are: (B-scans, rows, columns)."""
        return np.isin(self.lesions, _FLUIDS)


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (49, 496, 512),
    spacing: tuple[float, float, float] = (0.12, 0.00387, 0.0114),
    diseased: bool = False,
    lesions: Sequence[str] | None = None,
) -> Phantom:
    """A made-up OCT volume of one eye.

    The same seed is the same eye, whatever the shape and spacing, and whether healthy or diseased.

    Args:
        seed: which eye, 0 or higher.
        shape: B-scans, rows, columns.
        spacing: mm between B-scans, rows and columns.
        diseased: whether there are lesions; kinds, numbers, sizes and places are drawn at random.
        lesions: with `diseased`, exactly these kinds (of `LESIONS`) instead of drawn ones.

    Raises:
        ValueError: a kind that does not exist, kinds without `diseased`, or a volume that is not
            deep enough for a retina.
    """
    unknown = set(lesions or ()) - set(LESIONS)
    if unknown:
        raise ValueError(f"lesions: no kind {sorted(unknown)}; there are {list(LESIONS)}")
    if lesions and not diseased:
        raise ValueError("lesions were named for a healthy eye; give diseased=True as well")
    anatomy, disease, motion, recording = np.random.default_rng(seed).spawn(4)
    x, y = _places(shape, spacing, anatomy, motion)
    thickness = _thickness(anatomy, x, y)
    bruch = _bruch(anatomy, x, y) + motion.normal(0, 0.006, (shape[0], 1))
    choroid = _choroid_thickness(anatomy, x, y)
    position = anatomy.uniform(0.05, 0.5)
    kinds = _kinds(disease, lesions) if diseased else []
    growths = _grow(disease, x, y, spacing, thickness, kinds)
    depths = _stacked(thickness, bruch, choroid)
    shift = _fitting(depths, position, shape[1] * spacing[1])
    rows = {
        name: ((depth + shift) / spacing[1]).astype(np.float32) for name, depth in depths.items()
    }
    bodies = [growth.body(rows, spacing[1]) for growth in growths]
    tissue = Tissue(
        edges=list(rows.values()),
        greys=_greys(anatomy, x, y),
        blurs=[blur for _, _, blur in _LAYERS],
        bodies=bodies,
        **_vessels(anatomy, x, y, spacing[2]),
    )
    return Phantom(
        name=f"phantom_{seed:04d}",
        pixels=record(tissue, shape, spacing, recording),
        spacing=spacing,
        boundaries=MappingProxyType(rows),
        lesions=_labels(bodies, shape),
    )


def _stacked(thickness: _Maps, bruch: Array, choroid: Array) -> _Maps:
    """Depths of `BOUNDARIES` in mm, from an arbitrary origin: (B-scans, columns) each."""
    layers = np.stack([thickness[name] for name, _, _ in _LAYERS])
    above = bruch - np.cumsum(layers[::-1], axis=0)[::-1]
    return dict(zip(BOUNDARIES, [*above, bruch, bruch + choroid], strict=True))


def _fitting(depths: _Maps, position: float, height: float) -> float:
    """The shift (mm) that puts an eye at a relative `position` of a scan `height` mm high."""
    margin = 0.03
    top, bottom = float(depths["ILM"].min()), float(depths["Bruch"].max())
    room = height - (bottom - top) - 2 * margin
    if room < 0:
        raise ValueError(
            f"rows × spacing is {height:.2f} mm, and this eye needs "
            f"{bottom - top + 2 * margin:.2f} mm; give more rows or a coarser spacing"
        )
    return margin - top + position * room


def _labels(bodies: Sequence[Body], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The lesion that fills at least half of each pixel: (B-scans, rows, columns)."""
    labels = np.zeros(shape, dtype=np.uint8)
    rows = np.arange(shape[1], dtype=np.float32)[:, None]
    for body in bodies:
        for scan in np.flatnonzero((body.bottom > body.top).any(axis=1)):
            columns = np.flatnonzero(body.bottom[scan] > body.top[scan])
            share = covered(rows, body.top[scan, columns], body.bottom[scan, columns])
            row, column = np.nonzero(share >= 0.5)
            labels[scan, row, columns[column]] = body.label
    return labels


# --- the healthy eye ---------------------------------------------------------------------------


def _places(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    anatomy: np.random.Generator,
    motion: np.random.Generator,
) -> tuple[Array, Array]:
    """Where each A-scan lies: mm from the fovea, nasal positive and downwards, (B-scans, columns).

    The eye moves between B-scans, so x jumps a little from one to the next.
    """
    fixation = anatomy.normal(0, 0.12, 2)
    side = anatomy.choice([-1.0, 1.0])
    jumps = motion.normal(0, 0.012, (shape[0], 1))
    columns = (np.arange(shape[2]) - (shape[2] - 1) / 2) * spacing[2]
    scans = (np.arange(shape[0]) - (shape[0] - 1) / 2) * spacing[0]
    x = side * (columns[None] - fixation[0] + jumps)
    y = np.broadcast_to(scans[:, None] - fixation[1], x.shape)
    return x.astype(np.float32), y.astype(np.float32)


def _waves(rng: np.random.Generator, x: Array, y: Array, length: float) -> Array:
    """A smooth random surface of mean 0 and variance 1 that varies over `length` mm."""
    total = np.zeros_like(x)
    for _ in range(8):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = 2 * np.pi / (length * rng.uniform(0.7, 1.6))
        total += np.cos(wave * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return total / 2


def _thickness(rng: np.random.Generator, x: Array, y: Array) -> _Maps:
    """Thickness of each layer in mm: (B-scans, columns) each."""
    r = np.hypot(x, y)
    pit = 1 - np.exp(-((r / rng.uniform(0.42, 0.62)) ** 2))
    hill = 0.66 + 0.34 * np.exp(-(((r - 1.0) / 1.1) ** 2))
    towards_disc = x / np.maximum(r, 1e-3)
    bundle = 14 + r * (6 + 5 * towards_disc + 5 * (1 - towards_disc**2))
    bundle += 14 * np.clip(x - 1.3, 0, 2.2) ** 2
    micrometres = {
        "NFL": 1.5 + bundle * pit,
        "GCL": 2 + 48 * pit * hill,
        "IPL": 3 + 42 * pit * hill,
        "INL": 4 + 36 * pit * (0.85 + 0.15 * hill),
        "OPL": 5 + 21 * pit,
        "HFL": 12 + 24 * np.exp(-(((r - 0.5) / 0.8) ** 2)),
        "ONL": 36 + 50 * np.exp(-((r / 0.55) ** 2)),
        "ELM": np.full_like(r, 6.0),
        "MZ": 16 + 4 * np.exp(-((r / 0.4) ** 2)),
        "EZ": np.full_like(r, 14.0),
        "OS": 17 + 14 * np.exp(-((r / 0.35) ** 2)),
        "subretinal space": np.zeros_like(r),
        "RPE": np.full_like(r, 27.0),
        "sub-RPE space": np.zeros_like(r),
    }
    whole = rng.normal(1.06, 0.04)
    thickness = {
        name: np.asarray(
            value / 1000 * whole * rng.normal(1, 0.06) * (1 + 0.025 * _waves(rng, x, y, 2.0)),
            dtype=np.float32,
        )
        for name, value in micrometres.items()
    }
    # Inner boundaries are rough where the outer ones are smooth.
    for above, below in (("GCL", "IPL"), ("IPL", "INL"), ("INL", "OPL"), ("OPL", "HFL")):
        rough = 0.0016 * pit * (_waves(rng, x, y, 0.07) + _waves(rng, x, y, 0.25))
        thickness[above], thickness[below] = thickness[above] + rough, thickness[below] - rough
    return thickness


def _bruch(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Height of Bruch's membrane in mm, higher numbers deeper: the eye's curvature and tilt."""
    tilt = rng.normal(0, 0.025, 2)
    bowl = -(x**2 + y**2) / (2 * rng.uniform(35, 110))
    return bowl + tilt[0] * x + tilt[1] * y + 0.004 * _waves(rng, x, y, 3.0)


def _choroid_thickness(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Thickness of the choroid in mm, thicker under the fovea."""
    middle = rng.uniform(0.16, 0.36)
    return middle * (1 - 0.03 * (x**2 + y**2)).clip(0.5) + 0.012 * _waves(rng, x, y, 1.0)


def _greys(rng: np.random.Generator, x: Array, y: Array) -> list[Array]:
    """Mean grey value of each layer: (B-scans, columns) each."""
    grey = {name: mean + rng.normal(0, 4) + 3 * _waves(rng, x, y, 1.2) for name, mean, _ in _LAYERS}
    grey["NFL"] = grey["NFL"] + 12 * _waves(rng, x, y, 2.0)
    # Henle's fibres shine on the side where the beam meets them at a right angle.
    grey["HFL"] = grey["HFL"] + 38 / (1 + np.exp(3 - 2 * rng.normal(0, 1) * x))
    return [np.asarray(value, dtype=np.float32) for value in grey.values()]


def _vessels(rng: np.random.Generator, x: Array, y: Array, step: float) -> dict[str, Any]:
    """Vessels of a `Tissue`: curves in the plane, none in the fovea's avascular zone."""
    radius = float(rng.uniform(0.025, 0.04))
    large = _curves(rng, count=30, inner=0.9, length=2.2)
    small = _curves(rng, count=300, inner=0.4, length=0.5)
    return {
        "large": _nearness(x, y, large, radius),
        "small": _nearness(x, y, small, max(0.010, 0.7 * step)),
        "vessel_radius": radius,
        "vessel_top": BOUNDARIES.index("NFL/GCL"),
        "small_top": BOUNDARIES.index("IPL/INL"),
    }


def _curves(rng: np.random.Generator, count: int, inner: float, length: float) -> Array:
    """Points (n, 2) on `count` bent curves, in mm, every 10 µm, at least `inner` from the fovea."""
    steps = np.linspace(-0.5, 0.5, int(length / 0.01)) * length
    start = rng.uniform(-4.5, 4.5, (count, 2, 1))
    angle = rng.uniform(0, np.pi, (count, 1)) + rng.normal(0, 0.5, (count, 1)) * steps
    step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 0.01
    points = (start + np.cumsum(step, axis=2)).transpose(0, 2, 1).reshape(-1, 2)
    return np.asarray(points[np.hypot(*points.T) > inner], dtype=np.float32)


def _nearness(x: Array, y: Array, points: Array, radius: float) -> Array:
    """1 on a curve, falling to 0 beyond `radius` mm: (B-scans, columns)."""
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    distance, _ = cKDTree(points).query(places, distance_upper_bound=3 * radius)
    return np.asarray(np.exp(-((distance.reshape(x.shape) / radius) ** 2)), dtype=np.float32)


# --- lesions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Growth:
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

    def body(self, rows: _Maps, step: float) -> Body:
        """The lesion's surfaces in rows, `step` mm each, once the boundaries are known."""
        top, bottom = rows[self.above], rows[self.below]
        if self.half is not None:
            middle = top + self.at * (bottom - top)
            top = np.maximum(top, middle - self.half / step)
            bottom = np.minimum(bottom, middle + self.half / step)
        return Body(LESIONS[self.kind], self.grey, top, np.where(self.where, bottom, top))


def _kinds(rng: np.random.Generator, lesions: Sequence[str] | None) -> list[str]:
    """The kinds of lesion in an eye: those given, or at least one drawn at random."""
    chances = dict(zip(LESIONS, rng.random(len(LESIONS)), strict=True))
    drawn = [name for name, chance in chances.items() if chance < 0.5]
    return (
        list(lesions) if lesions is not None else drawn or [min(chances, key=chances.__getitem__)]
    )


def _grow(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    spacing: tuple[float, float, float],
    thickness: _Maps,
    kinds: Sequence[str],
) -> list[_Growth]:
    """Draw lesions, and make room for them in `thickness`."""
    own = dict(zip(LESIONS, rng.spawn(len(LESIONS)), strict=True))
    growths: list[_Growth] = []
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


def _distance(
    rng: np.random.Generator, x: Array, y: Array, radius: tuple[float, float], reach: float
) -> Array:
    """0 at a centre within `reach` mm of the fovea, 1 at an uneven rim, `radius` mm (range) off."""
    place = _place(rng, x, y, reach)
    size = np.exp(rng.uniform(*np.log(radius)))
    distance = np.hypot((x - x[place]) * rng.uniform(0.8, 1.25), y - y[place]) / size
    uneven = np.clip(1 + 0.1 * _waves(rng, x, y, 3 * size), 0.7, 1.3)
    return np.asarray(distance * uneven, dtype=np.float32)


def _dome(distance: Array, power: float) -> Array:
    """1 in the centre, 0 from the rim on; steeper at the rim for a smaller power."""
    return np.clip(1 - distance**2, 0, None) ** power


def _drusen(rng: np.random.Generator, x: Array, y: Array, thickness: _Maps) -> list[_Growth]:
    """Deposits that raise the pigment epithelium in bumps."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(10, 60))):
        distance = _distance(rng, x, y, (0.07, 0.32), 2.2)
        height = np.maximum(height, rng.uniform(0.02, 0.09) * _dome(distance, 1.5))
    thickness["sub-RPE space"] = height
    return [_Growth("drusen", rng.uniform(130, 170), "RPE outer", "Bruch", height > 0)]


def _detachments(rng: np.random.Generator, x: Array, y: Array, thickness: _Maps) -> list[_Growth]:
    """Wide fluid-filled domes under the pigment epithelium; one that meets drusen takes them in."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 3))):
        distance = _distance(rng, x, y, (0.3, 0.9), 1.5)
        height = np.maximum(height, rng.uniform(0.08, 0.28) * _dome(distance, 0.8))
    thickness["sub-RPE space"] = np.maximum(height, thickness["sub-RPE space"])
    kind = "pigment epithelium detachment"
    return [_Growth(kind, rng.uniform(45, 95), "RPE outer", "Bruch", height > 0)]


def _subretinal(rng: np.random.Generator, x: Array, y: Array, thickness: _Maps) -> list[_Growth]:
    """Fluid that lifts the retina off the pigment epithelium."""
    height = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 3))):
        distance = _distance(rng, x, y, (0.35, 1.0), 1.2)
        height = np.maximum(height, rng.uniform(0.05, 0.22) * _dome(distance, 1.0))
    thickness["subretinal space"] = height
    return [_Growth("subretinal fluid", rng.uniform(0, 30), "OS outer", "RPE inner", height > 0)]


def _squeeze(thickness: _Maps) -> None:
    """What pushes from below squeezes the layers above, most of all the nuclear one."""
    push = thickness["sub-RPE space"] + thickness["subretinal space"]
    share = np.tanh(push / (thickness["HFL"] + thickness["ONL"]))
    for name in ("HFL", "ONL"):
        thickness[name] = thickness[name] * (1 - 0.8 * share)
    for name in ("GCL", "IPL", "INL", "OPL"):
        thickness[name] = thickness[name] * (1 - 0.35 * share)


def _cysts(rng: np.random.Generator, x: Array, y: Array, thickness: _Maps) -> list[_Growth]:
    """Cysts in the inner nuclear layer and in Henle's, which swell round them."""
    growths = []
    for _ in range(int(rng.integers(3, 15))):
        layer, above, below = (
            ("INL", "IPL/INL", "INL/OPL") if rng.uniform() < 0.5 else ("HFL", "OPL/HFL", "HFL/ONL")
        )
        distance = _distance(rng, x, y, (0.07, 0.35), 1.2)
        height = rng.uniform(0.015, 0.09)
        swelling = 2.2 * height * np.exp(-0.8 * distance**2)
        thickness[layer] = np.hypot(thickness[layer], swelling)
        half = height * _dome(distance, 0.5)
        at, grey = rng.uniform(0.4, 0.6), rng.uniform(15, 45)
        growths.append(_Growth("cyst", grey, above, below, half > 0, half, at))
    return growths


def _foci(
    rng: np.random.Generator, x: Array, y: Array, spacing: tuple[float, float, float]
) -> list[_Growth]:
    """Bright dots between the inner nuclear layer and the photoreceptors, a pixel at least."""
    growths = []
    for _ in range(int(rng.integers(5, 40))):
        place = _place(rng, x, y, 2.0)
        size = rng.uniform(0.010, 0.028)
        distance = np.hypot(x - x[place], y - y[place]) / max(size, 0.75 * spacing[2])
        half = max(size, 0.75 * spacing[1]) * _dome(distance, 0.5)
        at, grey = rng.uniform(0.1, 0.9), rng.uniform(195, 230)
        kind = "hyperreflective foci"
        growths.append(_Growth(kind, grey, "IPL/INL", "ELM", half > 0, half, at))
    return growths
