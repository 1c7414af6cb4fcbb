"""The picture of the steps without a patch; that with patches is tested with the command."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from fanogan.retina import FlatVolume
from fanogan.retina.figure import steps_figure

INNER, FIRST_PATCH = (56, 189, 248), (248, 113, 113)


def test_no_patch_is_drawn_where_none_has_a_place(straight: list[FlatVolume]) -> None:
    picture = Image.open(io.BytesIO(steps_figure(straight[0], 1, (200, 64))))
    pixels = np.asarray(picture.convert("RGB"))
    assert picture.format == "PNG" and min(picture.size) > 500
    assert (pixels == INNER).all(axis=-1).any()
    assert not (pixels == FIRST_PATCH).all(axis=-1).any()


def test_margins_are_tinted(straight: list[FlatVolume]) -> None:
    margins = np.zeros(straight[0].bscans.shape, bool)
    margins[1, :60] = True

    def tinted(frame: int) -> int:
        picture = Image.open(io.BytesIO(steps_figure(volume, frame, (200, 64)))).convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
        return int(((red - green > 60) & (blue - green > 30)).sum())

    volume = replace(straight[0], margins=margins)
    # A quarter of the rows of one of two pictures side by side.
    assert tinted(1) > 5_000 and tinted(0) < 100
