"""Margins move no boundary: the same B-scan with and without them, as JPEG stores it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fanogan.phantom import make_phantom
from fanogan.retina import Boundaries, find_boundaries

SPACING = (0.5, 0.00387, 0.0114)
EYE = make_phantom(3, shape=(1, 320, 256), spacing=SPACING).pixels[0]


def found_in(pixels: np.ndarray, quality: int) -> Boundaries:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return find_boundaries(np.asarray(Image.open(stream))[None], SPACING)


def assert_alike(found: Boundaries, expected: Boundaries, margin: np.ndarray) -> None:
    """Agree to a pixel in columns whose retina, and that of their neighbours, is far from it."""
    rows = np.arange(len(margin))[:, None]
    retina = (rows > expected.inner[0] - 12) & (rows < expected.outer[0] + 12)
    covered = (ndimage.binary_dilation(margin, iterations=12) & retina).any(axis=0)
    clear = ~ndimage.binary_dilation(covered, iterations=16) & expected.found[0]
    for name in ("inner", "outer"):
        moved = np.abs(getattr(found, name)[0] - getattr(expected, name)[0])[clear]
        assert np.isfinite(moved).all() and (moved <= 1).all(), (name, np.nanmax(moved))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.floats(0, 360), st.floats(20, 60), st.sampled_from([0, 255]), st.integers(60, 100))
def test_wedges_and_strips_at_any_angle(
    angle: float, depth: float, value: int, quality: int
) -> None:
    rows, columns = np.indices(EYE.shape) - (np.array(EYE.shape)[:, None, None] - 1) / 2
    along = rows * np.sin(np.deg2rad(angle)) + columns * np.cos(np.deg2rad(angle))
    margin = along > along.max() - depth
    found = found_in(np.where(margin, value, EYE), quality)
    assert_alike(found, found_in(EYE, quality), margin)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("quality", [60, 90])
def test_pads_at_each_side(mode: str, quality: int) -> None:
    padded = np.pad(EYE, ((32, 16), (24, 40)), mode=mode)  # type: ignore[call-overload]
    found = found_in(padded, quality)
    within = np.s_[:, 24:-40]
    cropped = replace(found, inner=found.inner[within] - 32, outer=found.outer[within] - 32)
    assert_alike(cropped, found_in(EYE, quality), np.zeros(EYE.shape, bool))
