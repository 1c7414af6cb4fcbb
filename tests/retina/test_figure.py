"""The picture of the steps without a patch; that with patches is tested with the command."""

import io

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
