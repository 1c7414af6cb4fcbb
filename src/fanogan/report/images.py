"""Pictures of a page: residuals in colour over a scan, outlines of masks, and data URIs.

A residual has the same colour on every page of a model, because the colour scale comes from the
held-out normals and never from the picture that is shown.
"""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fanogan.retina import SHAPE_RANGE

PAGE_SIDE = 512  # px; a larger picture is downsampled for the page
OUTLINE_COLOUR = (0, 229, 255)  # cyan: absent from grey pictures and from the colours of residuals
STRONGEST_ALPHA = 0.85  # some anatomy stays visible under the strongest residual
COLOUR_RANGE = (0.3, 0.95)  # of 'inferno': its darkest part would look like a shadow in the picture
ROWS_AT_ONCE = 256  # of a picture that is coloured: floats take many times its own memory
STRIP_SHARE, STRIP_GAP = 24, 2  # a strip below a picture: a share of its rows, black px above it
LAYER_LEVELS = 32  # colours of `residual_layer`: the eye tells no more apart, and the page grows


def overlay(picture: np.ndarray, residual: np.ndarray, scale: float) -> np.ndarray:
    """Lay a residual as a layer of colour over a picture.

    Args:
        picture: (rows, columns) or (rows, columns, 3), uint8.
        residual: (rows, columns), abs(x - x_hat) in network units, [0, 2]; NaN where unknown.
        scale: The residual at which colour and opacity are strongest, from the held-out normals.

    Returns:
        (rows, columns, 3) uint8. Where the residual is 0 or unknown the picture is unchanged.

    Raises:
        ValueError: The shapes differ, the picture isn't uint8 grey or RGB, or the scale is negative
            or not finite.
    """
    drawn = as_rgb(picture)
    if residual.shape != drawn.shape[:2]:
        raise ValueError(
            f"A residual of shape {residual.shape} doesn't fit a picture of {drawn.shape[:2]}."
        )
    for start in range(0, len(drawn), ROWS_AT_ONCE):
        base = drawn[start : start + ROWS_AT_ONCE]
        level = _levels(residual[start : start + ROWS_AT_ONCE], scale)
        colour = _residual_colours()[np.rint(level * 255).astype(np.intp)]
        base[:] = np.rint(base + STRONGEST_ALPHA * level[..., np.newaxis] * (colour - base))
    return drawn


def with_strip(picture: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Add a strip below a picture, coloured by how far the retina's shape is from normals.

    Args:
        picture: (rows, columns, 3) uint8.
        line: (columns of the scan,), as `ShapeNormals.lines`: colours rise over `SHAPE_RANGE`, and
            there are none where it is unknown.
    """
    rows, columns = picture.shape[:2]
    of_each = np.minimum((np.arange(columns) + 0.5) * len(line) / columns, len(line) - 1)
    strip = np.tile(line[of_each.astype(np.intp)], (max(STRIP_GAP, rows // STRIP_SHARE), 1))
    low, high = SHAPE_RANGE
    drawn = overlay(np.zeros(strip.shape, np.uint8), np.maximum(strip - low, 0), high - low)
    return np.concatenate([picture, np.zeros((STRIP_GAP, columns, 3), np.uint8), drawn])


def residual_layer(residual: np.ndarray, scale: float) -> np.ndarray:
    """Draw the colours of `overlay` as a layer of their own, to be laid over another picture.

    It is (rows, columns, 4) uint8 RGBA in `LAYER_LEVELS` steps, transparent where the residual is
    unknown.
    """
    level = np.linspace(0, 1, LAYER_LEVELS, dtype=np.float32)
    colours = np.empty((LAYER_LEVELS, 4), dtype=np.uint8)
    colours[:, :3] = np.rint(_residual_colours()[np.rint(level * 255).astype(np.intp)])
    colours[:, 3] = np.rint(255 * STRONGEST_ALPHA * level)
    steps = np.rint(_levels(residual, scale) * (LAYER_LEVELS - 1))
    return np.asarray(colours[steps.astype(np.intp)])


def outline(picture: np.ndarray, mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Draw the inner edge of a mask on a picture.

    Args:
        picture: (rows, columns) or (rows, columns, 3), uint8.
        mask: (rows, columns) bool.
        width: Of the line, in pixels.

    Returns:
        (rows, columns, 3) uint8.

    Raises:
        ValueError: The shapes differ, or the picture isn't uint8 grey or RGB.
    """
    drawn = as_rgb(picture)
    if mask.shape != drawn.shape[:2]:
        raise ValueError(
            f"A mask of shape {mask.shape} doesn't fit a picture of {drawn.shape[:2]}."
        )
    drawn[edge(mask, width)] = OUTLINE_COLOUR
    return drawn


def edge(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Return the inner edge of a mask, closed at the border: (rows, columns) bool."""
    inside = mask.astype(bool)
    return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=width))


def shrink(pixels: np.ndarray, side: int = PAGE_SIDE) -> np.ndarray:
    """Downsample a uint8 picture or float32 map that is larger than `side` on a side."""
    rows, columns = pixels.shape[:2]
    factor = side / max(rows, columns)
    if factor >= 1:
        return pixels
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Copy a grey or RGB picture to a (rows, columns, 3) uint8 array.

    Raises:
        ValueError: The picture isn't uint8 grey or RGB.
    """
    grey = picture.ndim == 2
    if picture.dtype != np.uint8 or not (grey or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise ValueError(
            "A picture must be uint8, (rows, columns) or (rows, columns, 3), but this one is "
            f"{picture.dtype} of shape {picture.shape}."
        )
    return np.repeat(picture[..., np.newaxis], 3, axis=2) if grey else picture.copy()


def scale_bar(scale: float) -> np.ndarray:
    """Draw the residuals 0 to scale over black, mid-grey and white: (24, 256, 3) uint8."""
    greys = np.repeat(np.array([0, 110, 220], dtype=np.uint8), 8)
    residual = np.linspace(0, 1, 256) * scale
    return overlay(np.tile(greys[:, np.newaxis], 256), np.tile(residual, (len(greys), 1)), scale)


def data_uri(pixels: np.ndarray, kind: str = "png", **options: Any) -> str:
    """Encode a picture for a page: as PNG, or as another format with Pillow's options."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **(options or {"optimize": True}))
    return as_uri(stream.getvalue(), kind)


def compressed_uri(pixels: np.ndarray, quality: int = 80) -> str:
    """Encode a picture as WebP for a page: a tenth of a PNG's size where there is speckle."""
    return data_uri(pixels, "webp", quality=quality, method=4, use_sharp_yuv=True)


def as_uri(picture: bytes, kind: str = "png") -> str:
    """Put an encoded picture into a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def _levels(residual: np.ndarray, scale: float) -> np.ndarray:
    """Return a residual in units of the scale, in [0, 1], float32; 0 where it is unknown."""
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(
            f"The colour scale of residuals must be finite and not negative, but it is {scale}."
        )
    # Normals that are reconstructed exactly give scale 0: any residual is then at the strongest.
    known = np.nan_to_num(residual.astype(np.float32), nan=0.0)
    return np.asarray(np.clip(known / max(scale, 1e-12), 0, 1), dtype=np.float32)


@cache
def _residual_colours() -> np.ndarray:
    """Return colours from the weakest residual to the strongest: (256, 3) float32, [0, 255]."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](np.linspace(*COLOUR_RANGE, 256))
    return np.asarray(255 * colours[:, :3], dtype=np.float32)
