"""How tissue becomes grey values: speckle, noise and log compression of an OCT device.

The device is a Heidelberg Spectralis that averages about nine frames a B-scan. Every constant here
comes from a comparison with real B-scans (`benchmarks/phantom_spectra.py`, `docs/phantom.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]

# The published display curve of Spectralis intensities I in [0, 1]:
# grey = 255 · (ln(I + 2.44e-4) + 8.3) / 8.285. One unit of ln I is 30.8 grey values.
_OFFSET, _SHIFT, _RANGE = 2.44e-4, 8.3, 8.285

# Standard deviations (mm; rows, columns) of the point-spread functions that colour white noise.
# Speckle is as wide as the beam; detector noise is narrower, being correlated by the registration
# of frames alone.
_SPECKLE_WIDTH = (0.0040, 0.0088)
_NOISE_WIDTH = (0.0030, 0.0058)
# Axial and lateral blur of the tissue's own edges (mm).
_EDGE_WIDTH = (0.0035, 0.0040)


@dataclass(frozen=True)
class Device:
    """What one recording does to tissue.

    Attributes:
        looks: number of independent speckle patterns that an averaged B-scan amounts to.
        noise: level of the detector's noise, in units of intensity, at the first row.
        decay: how fast that noise falls with depth (1/mm).
        haze: depth (mm), width (mm) and strength of a band of brighter vitreous.
    """

    looks: float
    noise: float
    decay: float
    haze: tuple[float, float, float]


def draw_device(rng: np.random.Generator, depth: float) -> Device:
    """A recording's quality, drawn within the spread of real eyes; `depth` of the scan in mm."""
    return Device(
        looks=float(rng.uniform(6.0, 9.0)),
        noise=float(np.exp(np.clip(rng.normal(-8.2, 0.6), -9.2, -6.8))),
        decay=float(rng.uniform(0.6, 1.2)),
        haze=(
            depth * float(rng.uniform(0, 0.3)),
            float(rng.uniform(0.05, 0.2)),
            float(rng.uniform(0, 1.2)),
        ),
    )


def coloured(
    rng: np.random.Generator, shape: tuple[int, ...], widths: tuple[float, ...]
) -> Array:
    """Gaussian noise of mean 0 and variance 1, smoothed by Gaussians of `widths` pixels."""
    field = rng.standard_normal(shape, dtype=np.float32)
    smooth = np.asarray(gaussian_filter(field, widths, mode="wrap"), dtype=np.float32)
    return (smooth - smooth.mean()) / max(float(smooth.std()), 1e-6)


def gamma_from_normal(normal: Array, looks: float) -> Array:
    """Averaged speckle: gamma-distributed with mean 1 and variance 1 / looks.

    The cube of Wilson and Hilferty (1931) turns a correlated normal field into a gamma one that is
    correlated alike, so one field stands for the average of many frames.
    """
    return np.maximum(1 - 1 / (9 * looks) + normal / (3 * looks**0.5), 0) ** 3


def record(
    grey: Array, spacing: tuple[float, float], device: Device, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A B-scan of tissue as the device shows it.

    Args:
        grey: (rows, columns) mean grey value of the tissue on the display's scale, any real number.
        spacing: mm between rows and between columns.
        device: the recording's quality.
        rng: source of speckle and noise.

    Returns:
        (rows, columns) uint8.
    """

    def pixels(widths: tuple[float, float]) -> tuple[float, ...]:
        return tuple(width / step for width, step in zip(widths, spacing, strict=True))

    grey = gaussian_filter(grey, pixels(_EDGE_WIDTH))
    intensity = np.maximum(np.exp(grey * (_RANGE / 255) - _SHIFT) - _OFFSET, 0)
    speckle = coloured(rng, grey.shape, pixels(_SPECKLE_WIDTH))
    intensity *= gamma_from_normal(speckle, device.looks)
    # The device subtracts most of the noise's mean, so part of the background is exactly black.
    noise = gamma_from_normal(coloured(rng, grey.shape, pixels(_NOISE_WIDTH)), 1.2) - 0.25
    intensity += noise * _noise_level(np.arange(grey.shape[0]) * spacing[0], device)[:, None]
    shown = (np.log(np.maximum(intensity, 0) + _OFFSET) + _SHIFT) * (255 / _RANGE)
    return np.rint(np.clip(shown, 0, 255)).astype(np.uint8)


def _noise_level(depth: NDArray[np.float64], device: Device) -> Array:
    """Noise of each row: (rows,), from the rows' depths in mm."""
    where, width, strength = device.haze
    haze = 1 + strength * np.exp(-(((depth - where) / width) ** 2))
    return np.asarray(device.noise * np.exp(-device.decay * depth) * haze, dtype=np.float32)
