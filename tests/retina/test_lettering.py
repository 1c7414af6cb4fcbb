"""White letters and scale bars burnt into B-scans count as margin, and what is ill doesn't."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from fanogan.phantom import make_phantom
from fanogan.retina import straighten
from fanogan.retina.lettering import white_marks
from fanogan.scans import Scan, WhiteMarks

SPACING = (None, 0.00387, 0.0115)
EYE = make_phantom(7, shape=(1, 496, 384), spacing=(1.0, *SPACING[1:])).pixels[0]


def scan(pixels: np.ndarray) -> Scan:
    return Scan(pixels[None], "eye", "person", SPACING)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def lettered(pixels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A B-scan with a line of letters in the vitreous and a scale bar, and where these are."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    draw.text((30, 90), "OD 200 µm ART 25", fill=255, font=ImageFont.load_default(size))
    draw.line((20, 478, 110, 478), fill=255, width=3)
    return np.asarray(image), np.asarray(image) != pixels


@pytest.mark.parametrize(("size", "quality"), [(14, 100), (14, 80), (22, 60), (22, 95), (30, 75)])
def test_letters_and_bars_are_margins_and_move_nothing(size: int, quality: int) -> None:
    marked, where = lettered(EYE, size)
    expected, volume = straighten(scan(jpeg(EYE, quality))), straighten(scan(jpeg(marked, quality)))
    assert WhiteMarks() in volume.notes and WhiteMarks() not in expected.notes
    assert volume.margins[0][where].mean() > 0.9
    assert volume.margins[0].mean() < 0.04
    for name in ("inner", "outer"):
        moved = getattr(volume, name) - getattr(expected, name)
        assert np.nanpercentile(np.abs(moved), 99) < 1


def test_they_move_the_boundary_where_they_are_taken_for_tissue() -> None:
    marked, _ = lettered(EYE, 30)
    # The device's own files hold pixels alone, and so nothing is looked for.
    taken = straighten(Scan(marked[None], "eye", "person", SPACING, is_retina=True))
    moved = np.abs(taken.inner - straighten(scan(EYE)).inner)
    assert (moved > 5).mean() > 0.4


@pytest.mark.parametrize("seed", range(6))
def test_no_part_of_a_retina_is_a_letter(seed: int) -> None:
    ill = make_phantom(seed, shape=(2, 496, 384), spacing=(1.0, *SPACING[1:]), diseased=True)
    for frame in ill.pixels:
        bright = np.clip(frame * 1.6, 0, 255).astype(np.uint8)  # as if overexposed
        assert not white_marks(frame).any() and not white_marks(bright).any()
