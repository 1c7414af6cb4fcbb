"""How tissue becomes a B-scan: layers, vessels' shadows, choroid, speckle, noise, log compression.

The device is a Heidelberg Spectralis that averages about nine frames for a B-scan. Every constant
here comes from a comparison with real B-scans (`benchmarks/phantom_spectra.py`, `docs/phantom.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]

# The published display curve of Spectralis intensities I in [0, 1]:
# grey = 255 · (ln(I + 2.44e-4) + 8.3) / 8.285. One unit of ln I is 30.8 grey values.
_OFFSET, _SHIFT, _RANGE = 2.44e-4, 8.3, 8.285

# Standard deviations (mm; rows, columns) of the Gaussians that correlate white noise. Speckle is as
# wide as the beam; detector noise is narrower, being correlated by the registration of frames.
_SPECKLE_WIDTH = (0.0031, 0.0066)
_NOISE_WIDTH = (0.0029, 0.0062)
# Axial and lateral blur of the tissue's own edges (mm).
_EDGE_WIDTH = (0.0026, 0.0030)
# Over how many mm the pigment epithelium passes into the choroid.
_CHORIOCAPILLARIS = 0.012
# Vitreous has less signal than the display shows.
_VITREOUS = -40.0


@dataclass(frozen=True)
class Body:
    """A lesion between two surfaces, in rows: (B-scans, columns); absent where they touch."""

    label: int
    grey: float
    top: Array
    bottom: Array

    def shares(self, scan: int, height: int) -> tuple[tuple[NDArray[np.intp], ...], Array]:
        """Return an index of the pixels around the lesion in a B-scan, and its share in each.

        A pixel extends half a row up and down from its number; `height` is that of the B-scan.
        """
        columns = np.flatnonzero(self.bottom[scan] > self.top[scan])
        top, bottom = self.top[scan, columns], self.bottom[scan, columns]
        first = max(int(top.min(initial=height)) - 1, 0)
        last = min(int(bottom.max(initial=-3)) + 3, height)
        rows = np.arange(first, last, dtype=np.float32)[:, None]
        share = np.clip(rows + 0.5 - top, 0, 1) - np.clip(rows + 0.5 - bottom, 0, 1)
        index = np.ix_(rows[:, 0].astype(np.intp), columns)
        return index, np.asarray(share, dtype=np.float32)


@dataclass(frozen=True)
class Vessels:
    """Retinal vessels of one calibre."""

    nearness: Array  # 1 on a vessel, 0 far from it: (B-scans, columns)
    radius: float  # mm
    edge: int  # which of the tissue's edges they hang from
    light: float  # grey values that a vessel adds
    dark: float  # grey values that its shadow takes away


@dataclass(frozen=True)
class Tissue:
    """An eye as a device meets it; arrays are (B-scans, columns)."""

    # Rows of the layers' upper boundaries, from the vitreous down, then of Bruch's membrane and of
    # the choroid's lower end.
    edges: Sequence[Array]
    greys: Sequence[Array]  # mean grey value of each layer above Bruch's membrane
    blurs: Sequence[float]  # over how many mm a layer's upper edge changes, round the boundary
    bodies: Sequence[Body]  # lesions
    vessels: Sequence[Vessels]


@dataclass(frozen=True)
class _Device:
    """What one recording does to an eye."""

    contrast: float
    noise: float
    noise_decay: float
    haze: tuple[float, float, float]
    choroid: float
    attenuation: float
    sclera: float
    shadow: float


def record(
    tissue: Tissue,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Return a volume of an eye as the device shows it: (B-scans, rows, columns) uint8.

    Args:
        tissue: The eye.
        shape: B-scans, rows, columns.
        spacing: mm between B-scans, rows and columns.
        rng: Source of the recording's quality, of texture, speckle and noise.
    """
    # The quality varies as much as among real eyes.
    height = shape[1] * spacing[1]
    device = _Device(
        contrast=rng.uniform(0.34, 0.42),
        noise=float(np.exp(np.clip(rng.normal(-7.6, 0.6), -8.1, -6.4))),
        noise_decay=rng.uniform(0.6, 1.2),
        haze=(height * rng.uniform(0, 0.3), rng.uniform(0.05, 0.2), rng.uniform(0, 1.2)),
        choroid=rng.uniform(70, 94),
        attenuation=rng.uniform(120, 240),
        sclera=rng.uniform(0, 40),
        shadow=rng.uniform(0.7, 1.3),
    )
    texture = _choroid_texture(rng, shape, spacing)
    pixels = np.empty(shape, dtype=np.uint8)
    depth = np.arange(shape[1], dtype=np.float32)[:, None] * spacing[1]
    for scan in range(shape[0]):
        grey = _layers(tissue, scan, shape[1], spacing[1])
        _add_choroid(grey, tissue, scan, texture[scan], device, spacing[1])
        _add_vessels(grey, tissue, scan, device, spacing[1])
        for body in tissue.bodies:
            index, share = body.shares(scan, shape[1])
            grey[index] += share * (body.grey - grey[index])
        # Brightness changes between B-scans and from place to place, and falls with depth.
        along = _coloured(rng, grey.shape[1:], (0.02,), spacing[2:])
        mottle = _coloured(rng, grey.shape, (0.007, 0.022), spacing[1:])
        steady = rng.normal(0, 3) + 3 * along + 8 * (0.75 - depth)
        grey += np.asarray(steady + 7 * mottle, dtype=np.float32)
        pixels[scan] = _expose(grey, spacing[1:], device, rng)
    return pixels


def _layers(tissue: Tissue, scan: int, height: int, step: float) -> Array:
    """Mean grey values of vitreous and retina: (rows, columns); `step` is mm a row."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    grey = np.full((height, tissue.edges[0].shape[1]), _VITREOUS, dtype=np.float32)
    before: Array | float = _VITREOUS
    for edge, layer, blur in zip(tissue.edges, tissue.greys, tissue.blurs, strict=False):
        width = max(blur / step, 1.0)
        first = max(int(edge[scan].min() - width), 0)
        share = np.clip((rows[first:] - edge[scan]) / width + 0.5, 0, 1)
        grey[first:] += (layer[scan] - before) * share
        before = layer[scan]
    return grey


def _choroid_texture(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> Array:
    """Grey values that choroidal vessels add: (B-scans, rows below Bruch's membrane, columns)."""
    rows = min(shape[1], int(0.45 / spacing[1]) + 2)

    def blobs(*widths: float) -> Array:
        return _coloured(rng, (shape[0], rows, shape[2]), widths, spacing)

    depth = (np.arange(rows, dtype=np.float32) * spacing[1])[None, :, None]
    vessels = 1 / (1 + np.exp(-3 * (blobs(0.06, 0.026, 0.05) - 0.3)))
    fine = blobs(0.03, 0.010, 0.017)
    deep = np.clip((depth - 0.02) / 0.06, 0, 1)
    return np.asarray(deep * (14 - 37 * vessels) + (17 - 9 * deep) * fine, dtype=np.float32)


def _add_choroid(
    grey: Array, tissue: Tissue, scan: int, texture: Array, device: _Device, step: float
) -> None:
    """Fill what lies below Bruch's membrane; `step` is mm a row."""
    bruch, end = tissue.edges[-2][scan], tissue.edges[-1][scan]
    first = max(int(bruch.min() - _CHORIOCAPILLARIS / step) - 1, 0)
    rows = np.arange(first, grey.shape[0], dtype=np.float32)[:, None]
    depth = np.maximum(rows - bruch, 0) * step
    index = np.minimum((depth / step).astype(np.intp), len(texture) - 1)
    inside = np.clip((end - rows) * step / 0.06 + 0.5, 0, 1)
    filled = device.choroid + 84 * np.exp(depth / -0.06) - device.attenuation * depth * (1 + depth)
    filled += inside * np.take_along_axis(texture, index, axis=0)
    filled += device.sclera * (1 - inside)
    share = np.clip((rows - bruch) / max(_CHORIOCAPILLARIS / step, 1.0) + 0.5, 0, 1)
    grey[first:] += share * (filled - grey[first:])


def _add_vessels(grey: Array, tissue: Tissue, scan: int, device: _Device, step: float) -> None:
    """Draw bright walls of large vessels, and the shadows of all; `step` is mm a row."""
    rows = np.arange(grey.shape[0], dtype=np.float32)[:, None]
    for vessels in tissue.vessels:
        columns = np.flatnonzero(vessels.nearness[scan] > 0.02)
        near = vessels.nearness[scan, columns]
        below = (rows - tissue.edges[vessels.edge][scan, columns]) * step
        wall = np.exp(-((below / vessels.radius - 1) ** 2))
        shadow = np.clip((below - 2 * vessels.radius) / 0.03, 0, 1) * np.exp(below / -0.8)
        grey[:, columns] += near * (vessels.light * wall - vessels.dark * device.shadow * shadow)


def waves(rng: np.random.Generator, x: Array, y: Array, length: float) -> Array:
    """Return a smooth random surface of mean 0 and variance 1 that varies over `length` mm."""
    total = np.zeros(x.shape)
    for _ in range(8):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = 2 * np.pi / (length * rng.uniform(0.7, 1.6))
        total += np.cos(wave * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.asarray(total / 2, dtype=np.float32)


def _coloured(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    widths: tuple[float, ...],
    spacing: tuple[float, ...],
) -> Array:
    """Gaussian noise of mean 0 and variance 1, smoothed by Gaussians of `widths` mm."""
    field = rng.standard_normal(shape, dtype=np.float32)
    smooth: Array = gaussian_filter(field, _pixels(widths, spacing), mode="wrap")
    return np.asarray((smooth - smooth.mean()) / max(float(smooth.std()), 1e-6))


def _pixels(widths: tuple[float, ...], spacing: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(width / step for width, step in zip(widths, spacing, strict=True))


def _expose(
    grey: Array, spacing: tuple[float, ...], device: _Device, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Blur, speckle, noise and the display curve: (rows, columns) uint8."""
    blurred: Array = gaussian_filter(grey, _pixels(_EDGE_WIDTH, spacing), mode="nearest")
    intensity = np.maximum(np.exp(blurred * (_RANGE / 255) - _SHIFT) - _OFFSET, 0)
    speckle = _coloured(rng, grey.shape, _SPECKLE_WIDTH, spacing)
    intensity *= np.exp(device.contrast * speckle - device.contrast**2 / 2)
    # Gamma-distributed noise of mean 1 and variance 1 / looks (Wilson and Hilferty 1931). The
    # device subtracts most of its mean, so part of the background is exactly black.
    looks, normal = 1.2, _coloured(rng, grey.shape, _NOISE_WIDTH, spacing)
    root = np.maximum(1 - 1 / (9 * looks) + normal / (3 * looks**0.5), 0)
    noise = np.asarray(root**3, dtype=np.float32) - 0.25
    depth = np.arange(grey.shape[0], dtype=np.float32)[:, None] * spacing[0]
    where, width, strength = device.haze
    haze = 1 + strength * np.exp(-(((depth - where) / width) ** 2))
    level = device.noise * np.exp(-device.noise_decay * depth) * haze
    intensity += noise * np.asarray(level, dtype=np.float32)
    shown = (np.log(np.maximum(intensity, 0) + _OFFSET) + _SHIFT) * (255 / _RANGE)
    return np.asarray(np.rint(np.clip(shown, 0, 255)), dtype=np.uint8)
