"""Colour: what exports add to grey is undone where that is certain, and refused elsewhere."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from fanogan.phantom import make_phantom
from fanogan.retina import straighten
from fanogan.retina.colour import in_grey
from fanogan.scans import BadScan, ColouredMarks, ColourMapUndone, Scan, TintedGrey

SPACING = (0.5, 0.00387, 0.0228)
EYE = make_phantom(7, shape=(2, 320, 128), spacing=SPACING).pixels


def scan(pixels: np.ndarray) -> Scan:
    return Scan(np.ascontiguousarray(pixels), "eye", "person", SPACING, is_volume=True)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(stream))


def test_grey_is_left_as_it_is() -> None:
    known = scan(EYE)
    grey, marks = in_grey(known)
    assert grey is known and not marks.any()


def test_a_tint_is_dropped() -> None:
    tinted = EYE[..., None] + np.array([3, 0, 9])
    grey, marks = in_grey(scan(np.clip(tinted, 0, 255).astype(np.uint8)))
    assert grey.notes == (TintedGrey(),) and not marks.any()
    assert np.abs(grey.pixels.astype(int) - EYE).max() <= 5


@pytest.mark.parametrize("name", ["jet", "hot", "viridis", "inferno"])
def test_known_colour_maps_are_undone(name: str) -> None:
    coloured = (matplotlib.colormaps[name](EYE, bytes=True))[..., :3]
    grey, _ = in_grey(scan(coloured))
    assert grey.notes == (ColourMapUndone(name),)
    # Two of jet's 256 colours are each in the map twice.
    assert np.abs(grey.pixels.astype(int) - EYE).max() <= 2
    grey, _ = in_grey(scan(jpeg(coloured[0], 95)[None]))
    assert grey.notes == (ColourMapUndone(name),)
    assert np.abs(grey.pixels.astype(int) - EYE[:1]).mean() < 2


@pytest.mark.parametrize("kind", ["retina", "astronaut", "halved colours", "sixteen bits"])
def test_other_colours_are_refused(kind: str) -> None:
    coloured = matplotlib.colormaps["jet"](EYE, bytes=True)[..., :3]
    if kind == "halved colours":
        stream = io.BytesIO()
        Image.fromarray(coloured[0]).save(stream, "JPEG", quality=75)
        pixels = np.asarray(Image.open(stream))[None]
    elif kind == "sixteen bits":
        pixels = coloured.astype(np.uint16) * 257
    else:
        pixels = getattr(data, kind)()[None, ::4, ::4]
    with pytest.raises(BadScan, match="eye is in colour, and OCT is grey: give the scanner's own"):
        in_grey(scan(pixels))


def test_coloured_letters_and_arrows_are_margins_and_move_nothing() -> None:
    expected = straighten(scan(EYE))
    marked = np.repeat(EYE[..., None], 3, axis=-1)
    image = Image.fromarray(marked[0])
    draw = ImageDraw.Draw(image)
    draw.text((4, 4), "OD 200 um", fill=(255, 255, 0))
    draw.line((100, 20, 100, 60), fill=(0, 255, 0), width=2)
    drawn = (np.asarray(image) != marked[0]).any(axis=-1)
    volume = straighten(scan(np.stack([np.asarray(image), marked[1]])))
    assert ColouredMarks() in volume.notes
    assert volume.margins[0][drawn].all() and not volume.margins[1].any()
    assert volume.margins[0].sum() < 4 * drawn.sum() + 200
    known = np.isfinite(volume.inner)
    assert known.mean() > 0.95
    for name in ("inner", "outer"):
        moved = getattr(volume, name) - getattr(expected, name)
        assert np.nanmax(np.abs(moved)) < 1
