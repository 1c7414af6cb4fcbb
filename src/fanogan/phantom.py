"""A made-up retina: OCT volumes with exact boundaries and exact masks of their lesions.

An eye is a stack of layers, each with a thickness (mm) at every place of the retina. Lesions grow
as spaces between layers or inside one, so the boundaries bend with them, exactly. What a device
makes of the tissue is in `fanogan.speckle`. Thicknesses follow published normal values; grey
values and textures were fixed by comparison with real B-scans (`docs/phantom.md`) and by nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fanogan.speckle import Array, coloured, draw_device, record

# Layers from the vitreous down. The two spaces are empty in a healthy eye.
_LAYERS = (
    ("NFL", 200.0),
    ("GCL", 152.0),
    ("IPL", 139.0),
    ("INL", 106.0),
    ("OPL", 125.0),
    ("HFL", 75.0),
    ("ONL", 70.0),
    ("ELM", 92.0),
    ("MZ", 84.0),
    ("EZ", 206.0),
    ("OS", 160.0),
    ("subretinal space", 20.0),
    ("RPE", 217.0),
    ("sub-RPE space", 100.0),
)
_INDEX = {name: index for index, (name, _) in enumerate(_LAYERS)}
_VITREOUS = -40.0

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
    bruch = _bruch(anatomy, x, y) + motion.normal(0, 0.006, (shape[0], 1)).astype(np.float32)
    choroid = _choroid_thickness(anatomy, x, y)
    vessels = _vessels(anatomy, x, y, spacing[2])
    grey = _layer_greys(anatomy, x, y)
    position = float(anatomy.uniform(0.05, 0.45))
    growths = _grow(disease, x, y, spacing, thickness, _chosen(disease, lesions)) if diseased else []
    tops = _stack(thickness, bruch)
    tops = _placed(tops, position, shape[1] * spacing[1])
    edges = {**tops, "choroid/sclera": tops["Bruch"] + choroid}
    rows = {name: (edge / spacing[1]).astype(np.float32) for name, edge in edges.items()}
    bodies = [growth.body(rows, spacing[1]) for growth in growths]
    pixels, labels = _render(rows, grey, vessels, bodies, shape, spacing, recording)
    return Phantom(f"phantom_{seed:04d}", pixels, spacing, rows, labels)


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
    bundle = 9 + r * (6 + 5 * towards_disc + 5 * (1 - towards_disc**2))
    micrometres = {
        "NFL": 1.5 + bundle * pit,
        "GCL": 2 + 46 * pit * hill,
        "IPL": 3 + 38 * pit * hill,
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
    whole = rng.normal(1, 0.05)
    return {
        name: np.asarray(
            value / 1000 * whole * rng.normal(1, 0.06) * (1 + 0.025 * _waves(rng, x, y, 2.0)),
            dtype=np.float32,
        )
        for name, value in micrometres.items()
    }


def _bruch(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Height of Bruch's membrane in mm, higher numbers deeper: the eye's curvature and tilt."""
    tilt = rng.normal(0, 0.025, 2)
    bowl = -(x**2 + y**2) / (2 * rng.uniform(25, 70))
    return bowl + tilt[0] * x + tilt[1] * y + 0.004 * _waves(rng, x, y, 3.0)


def _choroid_thickness(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Thickness of the choroid in mm, thicker under the fovea."""
    middle = rng.uniform(0.16, 0.36)
    return middle * (1 - 0.03 * (x**2 + y**2)).clip(0.5) + 0.012 * _waves(rng, x, y, 1.0)


def _layer_greys(rng: np.random.Generator, x: Array, y: Array) -> _Maps:
    """Mean grey value of each layer: (B-scans, columns) each."""
    grey = {
        name: mean + rng.normal(0, 4) + 3 * _waves(rng, x, y, 1.2) for name, mean in _LAYERS
    }
    # Nerve fibres, and Henle's fibres, shine where the beam meets them at a right angle.
    grey["NFL"] = grey["NFL"] + 10 * _waves(rng, x, y, 2.0)
    beam = rng.normal(0, 1)
    grey["HFL"] = grey["HFL"] + 38 / (1 + np.exp(3 - 2 * beam * x))
    return grey


@dataclass(frozen=True)
class _Vessels:
    """What vessels do to each A-scan: (B-scans, columns) each, 0 to 1."""

    large: Array
    small: Array
    radius: float
    contrast: float


def _vessels(rng: np.random.Generator, x: Array, y: Array, step: float) -> _Vessels:
    """Vessels as curves in the plane of the retina, none within the fovea's avascular zone."""
    radius = float(rng.uniform(0.025, 0.04))
    large = _curves(rng, 16, 1.0, 2.2)
    small = _curves(rng, 220, 0.45, 0.5)
    return _Vessels(
        _nearness(x, y, large, radius),
        _nearness(x, y, small, max(0.010, 0.7 * step)),
        radius,
        float(rng.uniform(0.7, 1.3)),
    )


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
class _Body:
    """A lesion between two surfaces, in rows: (B-scans, columns); absent where they touch."""

    label: int
    grey: float
    top: Array
    bottom: Array


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

    def body(self, rows: _Maps, step: float) -> _Body:
        """The lesion's surfaces in rows, `step` mm each, once the boundaries are known."""
        top, bottom = rows[self.above], rows[self.below]
        if self.half is not None:
            middle = top + self.at * (bottom - top)
            top = np.maximum(top, middle - self.half / step)
            bottom = np.minimum(bottom, middle + self.half / step)
        return _Body(LESIONS[self.kind], self.grey, top, np.where(self.where, bottom, top))


def _chosen(rng: np.random.Generator, lesions: Sequence[str] | None) -> list[str]:
    """The kinds of lesion in an eye: those given, or at least one drawn at random."""
    drawn = rng.random(len(LESIONS))
    kinds = [name for name, chance in zip(LESIONS, drawn, strict=True) if chance < 0.5]
    return list(lesions) if lesions is not None else kinds or [list(LESIONS)[drawn.argmin()]]


def _grow(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    spacing: tuple[float, float, float],
    thickness: _Maps,
    kinds: Sequence[str],
) -> list[_Growth]:
    """Draw lesions, and make room for them in `thickness`."""
    streams = dict(zip(LESIONS, rng.spawn(len(LESIONS)), strict=True))
    growths: list[_Growth] = []

    def domes(kind: str, count: int, radius: tuple[float, float], reach: float) -> list[Array]:
        return [_dome(streams[kind], x, y, radius, reach) for _ in range(count)]

    raised = {"drusen": np.zeros_like(x), "pigment epithelium detachment": np.zeros_like(x)}
    if "drusen" in kinds:
        own = streams["drusen"]
        for dome in domes("drusen", int(own.integers(6, 40)), (0.05, 0.25), 2.2):
            height = own.uniform(0.02, 0.09) * dome**1.5
            raised["drusen"] = np.maximum(raised["drusen"], height)
    if "pigment epithelium detachment" in kinds:
        own = streams["pigment epithelium detachment"]
        for dome in domes("pigment epithelium detachment", int(own.integers(1, 3)), (0.3, 0.9), 1.5):
            height = own.uniform(0.08, 0.28) * dome**0.8
            raised["pigment epithelium detachment"] = np.maximum(
                raised["pigment epithelium detachment"], height
            )
    room = np.maximum(*raised.values())
    thickness["sub-RPE space"] = room
    for kind, (low, high) in (
        ("drusen", (130, 170)),
        ("pigment epithelium detachment", (45, 95)),
    ):
        where = (raised[kind] == room) & (room > 0)
        if where.any():
            grey = float(streams[kind].uniform(low, high))
            growths.append(_Growth(kind, grey, "RPE outer", "Bruch", where))
    if "subretinal fluid" in kinds:
        own = streams["subretinal fluid"]
        for dome in domes("subretinal fluid", int(own.integers(1, 3)), (0.35, 1.0), 1.2):
            thickness["subretinal space"] = np.maximum(
                thickness["subretinal space"], own.uniform(0.05, 0.22) * dome
            )
        grey = float(own.uniform(0, 30))
        growths.append(
            _Growth(
                "subretinal fluid",
                grey,
                "OS outer",
                "RPE inner",
                thickness["subretinal space"] > 0,
            )
        )
    # What pushes from below first squeezes the nuclear layers, then lifts what is above.
    push = thickness["sub-RPE space"] + thickness["subretinal space"]
    for name in ("HFL", "ONL"):
        thickness[name] = np.maximum(0.4 * thickness[name], thickness[name] - 0.3 * push)
    if "cyst" in kinds:
        growths += _cysts(streams["cyst"], x, y, thickness)
    if "hyperreflective foci" in kinds:
        growths += _foci(streams["hyperreflective foci"], x, y, spacing)
    return growths


def _dome(
    rng: np.random.Generator, x: Array, y: Array, radius: tuple[float, float], reach: float
) -> Array:
    """1 at a centre drawn within `reach` mm of the fovea, falling to 0 at an uneven rim."""
    place = _place(rng, x, y, reach)
    size = np.exp(rng.uniform(*np.log(radius)))
    distance = np.hypot((x - x[place]) * rng.uniform(0.8, 1.25), y - y[place]) / size
    distance *= np.clip(1 + 0.1 * _waves(rng, x, y, 3 * size), 0.7, 1.3)
    return np.asarray(np.clip(1 - distance**2, 0, None), dtype=np.float32)


def _place(rng: np.random.Generator, x: Array, y: Array, reach: float) -> tuple[int, int]:
    """An A-scan within `reach` mm of the fovea, as B-scan and column."""
    radius, angle = reach * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
    scan = int(np.abs(y[:, 0] - np.clip(radius * np.sin(angle), y.min(), y.max())).argmin())
    column = int(np.abs(x[scan] - radius * np.cos(angle)).argmin())
    return scan, column


def _cysts(rng: np.random.Generator, x: Array, y: Array, thickness: _Maps) -> list[_Growth]:
    """Cysts in the inner nuclear layer and in Henle's, which swell round them."""
    growths = []
    for _ in range(int(rng.integers(3, 15))):
        layer, above, below = (
            ("INL", "IPL/INL", "INL/OPL") if rng.uniform() < 0.5 else ("HFL", "OPL/HFL", "HFL/ONL")
        )
        dome = _dome(rng, x, y, (0.06, 0.35), 1.2)
        half = rng.uniform(0.015, 0.09) * np.sqrt(dome)
        swelling = 2.2 * half.max() * np.exp(-1.2 * (1 - dome))
        swelling = np.where(dome > 0, 2.2 * half.max() * dome**0.5, 0)
        thickness[layer] = np.maximum(thickness[layer], swelling)
        grey = float(rng.uniform(15, 45))
        growths.append(_Growth("cyst", grey, above, below, dome > 0, half, rng.uniform(0.4, 0.6)))
    return growths


def _foci(
    rng: np.random.Generator, x: Array, y: Array, spacing: tuple[float, float, float]
) -> list[_Growth]:
    """Bright dots between the inner plexiform layer and the photoreceptors."""
    growths = []
    for _ in range(int(rng.integers(5, 40))):
        place = _place(rng, x, y, 2.0)
        size = rng.uniform(0.010, 0.028)
        wide, high = max(size, 0.75 * spacing[2]), max(size, 0.75 * spacing[1])
        distance = np.hypot(x - x[place], y - y[place]) / wide
        half = np.asarray(high * np.sqrt(np.clip(1 - distance**2, 0, None)), dtype=np.float32)
        growths.append(
            _Growth(
                "hyperreflective foci",
                float(rng.uniform(195, 230)),
                "IPL/INL",
                "ELM",
                half > 0,
                half,
                float(rng.uniform(0.15, 0.85)),
            )
        )
    return growths
