"""A made-up retina: OCT volumes with exact boundaries and lesion masks.

An eye is a stack of layers, each with a thickness (mm) at every place of the retina. Lesions grow
between layers or inside one, and the boundaries bend with them, exactly. `phantom.speckle` makes
B-scans of the tissue. Thicknesses are roughly those of a normal macula; grey values and textures
were set only by comparison with real B-scans (`docs/phantom.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fanogan.phantom.lesions import LESIONS, Maps, grow
from fanogan.phantom.speckle import Array, Tissue, Vessels, record, waves

# Layers from the vitreous down: name, grey value, and over how many mm the upper edge is blurred
# by tissue that is less even than its mean. The two spaces are empty in a healthy eye.
_LAYERS = (
    ("NFL", 218.0, 0.004),
    ("GCL", 160.0, 0.012),
    ("IPL", 146.0, 0.020),
    ("INL", 109.0, 0.016),
    ("OPL", 137.0, 0.012),
    ("HFL", 82.0, 0.016),
    ("ONL", 68.0, 0.020),
    ("ELM", 92.0, 0.004),
    ("MZ", 84.0, 0.004),
    ("EZ", 224.0, 0.004),
    ("OS", 166.0, 0.004),
    ("subretinal space", 20.0, 0.004),
    ("RPE", 236.0, 0.004),
    ("sub-RPE space", 100.0, 0.008),
)

BOUNDARIES = (
    *("ILM", "NFL/GCL", "GCL/IPL", "IPL/INL", "INL/OPL", "OPL/HFL", "HFL/ONL", "ELM", "ELM/MZ"),
    *("MZ/EZ", "EZ/OS", "OS outer", "RPE inner", "RPE outer", "Bruch", "choroid/sclera"),
)
"""Boundaries from the vitreous down; `RPE outer` leaves `Bruch` above drusen and detachments."""


@dataclass(frozen=True)
class Phantom:
    """A made-up OCT volume.

    Its `boundaries` are for each of `BOUNDARIES` the row of every column, (B-scans, columns)
    float32; row 10.0 is the centre of the pixel in row 10.
    """

    name: str  # 'phantom_0007' for seed 7
    pixels: NDArray[np.uint8]  # (B-scans, rows, columns)
    spacing: tuple[float, float, float]  # mm between B-scans, rows and columns
    boundaries: Mapping[str, Array]
    lesions: NDArray[np.uint8]  # like `pixels`, labels of `LESIONS`

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where any lesion is: (B-scans, rows, columns)."""
        return self.lesions > 0


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (49, 496, 512),
    spacing: tuple[float, float, float] = (0.12, 0.00387, 0.0114),
    diseased: bool = False,
    lesions: Sequence[str] | None = None,
) -> Phantom:
    """Make an OCT volume of one eye.

    The same seed gives the same eye, whatever its shape and spacing, healthy or diseased.

    Args:
        seed: Which eye, 0 or higher.
        shape: B-scans, rows, columns.
        spacing: mm between B-scans, rows and columns.
        diseased: Whether there are lesions; kinds, numbers, sizes and places are drawn at random.
        lesions: With `diseased`, exactly these kinds (of `LESIONS`) instead of drawn ones.

    Raises:
        ValueError: A kind that does not exist, kinds without `diseased`, or a volume that is not
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
    position = anatomy.uniform(0.05, 0.5)
    healthy = _stacked(thickness, bruch, choroid)
    growths = grow(disease, x, y, spacing, thickness, lesions) if diseased else []
    depths = _stacked(thickness, bruch, choroid)
    # The position is that of the healthy eye, unless lesions would lift the retina out of the scan.
    margin, height = 0.03, shape[1] * spacing[1]
    bottom = float(depths["Bruch"].max())
    tops = [float(stack["ILM"].min()) for stack in (healthy, depths)]
    room, least = (height - (bottom - top) - 2 * margin for top in tops)
    if least < 0:
        raise ValueError(
            f"rows × spacing is {height:.2f} mm, and this eye needs {height - least:.2f} mm; "
            f"give more rows or a coarser spacing"
        )
    shift = margin + max(position * room - tops[0], -tops[1])
    rows = {
        name: ((depth + shift) / spacing[1]).astype(np.float32) for name, depth in depths.items()
    }
    bodies = [growth.body(rows, spacing[1]) for growth in growths]
    tissue = Tissue(
        edges=list(rows.values()),
        greys=_greys(anatomy, x, y),
        blurs=[blur for _, _, blur in _LAYERS],
        bodies=bodies,
        vessels=_vessels(anatomy, x, y, spacing[2]),
    )
    # A pixel belongs to the lesion that fills at least half of it.
    labels = np.zeros(shape, dtype=np.uint8)
    for body in bodies:
        for frame in range(shape[0]):
            index, share = body.shares(frame, shape[1])
            labels[frame][index] = np.where(share >= 0.5, body.label, labels[frame][index])
    return Phantom(
        name=f"phantom_{seed:04d}",
        pixels=record(tissue, shape, spacing, recording),
        spacing=spacing,
        boundaries=rows,
        lesions=labels,
    )


def _stacked(thickness: Maps, bruch: Array, choroid: Array) -> Maps:
    """Depths of `BOUNDARIES` in mm, from an arbitrary origin: (B-scans, columns) each."""
    layers = np.stack([thickness[name] for name, _, _ in _LAYERS])
    above = bruch - np.cumsum(layers[::-1], axis=0)[::-1]
    return dict(zip(BOUNDARIES, [*above, bruch, bruch + choroid], strict=True))


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


def _thickness(rng: np.random.Generator, x: Array, y: Array) -> Maps:
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
            value / 1000 * whole * rng.normal(1, 0.06) * (1 + 0.025 * waves(rng, x, y, 2.0)),
            dtype=np.float32,
        )
        for name, value in micrometres.items()
    }
    # Inner boundaries are rough where the outer ones are smooth.
    for above, below in (("GCL", "IPL"), ("IPL", "INL"), ("INL", "OPL"), ("OPL", "HFL")):
        rough = 0.0016 * pit * (waves(rng, x, y, 0.07) + waves(rng, x, y, 0.25))
        thickness[above], thickness[below] = thickness[above] + rough, thickness[below] - rough
    return thickness


def _bruch(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Height of Bruch's membrane in mm, higher numbers deeper: the eye's curvature and tilt."""
    tilt = rng.normal(0, 0.025, 2)
    bowl = -(x**2 + y**2) / (2 * rng.uniform(35, 110))
    bent = bowl + tilt[0] * x + tilt[1] * y + 0.004 * waves(rng, x, y, 3.0)
    return np.asarray(bent, dtype=np.float32)


def _choroid_thickness(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Thickness of the choroid in mm, thicker under the fovea."""
    middle = rng.uniform(0.16, 0.36)
    thinning = np.clip(1 - 0.03 * (x**2 + y**2), 0.5, 1)
    return np.asarray(middle * thinning + 0.012 * waves(rng, x, y, 1.0), dtype=np.float32)


def _greys(rng: np.random.Generator, x: Array, y: Array) -> list[Array]:
    """Mean grey value of each layer: (B-scans, columns) each."""
    grey = {name: mean + rng.normal(0, 3) + 3 * waves(rng, x, y, 1.2) for name, mean, _ in _LAYERS}
    grey["NFL"] = grey["NFL"] + 9 * waves(rng, x, y, 2.0)
    # Henle's fibres shine on the side where the beam meets them at a right angle.
    grey["HFL"] = grey["HFL"] + 38 / (1 + np.exp(3 - 2 * rng.normal(0, 1) * x))
    return [np.asarray(value, dtype=np.float32) for value in grey.values()]


def _vessels(rng: np.random.Generator, x: Array, y: Array, step: float) -> list[Vessels]:
    """Large and small vessels: curves in the plane, none in the fovea's avascular zone."""

    def nearness(radius: float, count: int, inner: float, length: float) -> Array:
        """1 on bent curves at least `inner` mm from the fovea, 0 far from them."""
        steps = np.linspace(-0.5, 0.5, int(length / 0.01)) * length
        start = rng.uniform(-4.5, 4.5, (count, 2, 1))
        angle = rng.uniform(0, np.pi, (count, 1)) + rng.normal(0, 0.5, (count, 1)) * steps
        shifts = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 0.01
        points = (start + np.cumsum(shifts, axis=2)).transpose(0, 2, 1).reshape(-1, 2)
        points = points[np.hypot(*points.T) > inner].astype(np.float32)
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        distance, _ = cKDTree(points).query(places, distance_upper_bound=3 * radius)
        near = np.exp(-((distance.reshape(x.shape) / radius) ** 2))
        return np.asarray(near, dtype=np.float32)

    radius = rng.uniform(0.025, 0.04)
    large = nearness(radius, count=22, inner=0.9, length=2.2)
    # A small vessel is narrower than a column; so that none is missed, its shadow is not.
    small = nearness(max(0.010, 0.7 * step), count=240, inner=0.4, length=0.5)
    return [
        Vessels(large, radius, BOUNDARIES.index("NFL/GCL"), light=40, dark=60),
        Vessels(small, 0.012, BOUNDARIES.index("IPL/INL"), light=34, dark=36),
    ]
