"""Pictures of noise, a model that has learned such sizes, and the table of its scores."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image
from stripes import fitted


def picture(number: int) -> bytes:
    """A PNG of 16×16."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(folder: Path, count: int) -> Path:
    """A folder of so many, from 000.png on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(picture(number))
    return folder


def model_in(folder: Path) -> Path:
    """A saved model of pictures of this size."""
    fitted("izi_f").model.save(folder)
    return folder


def scores(folder: Path) -> dict[str, float]:
    """The scores of a folder of results by their names, each once."""
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["name"], float(row["score"])) for row in csv.DictReader(file)]
    assert len(dict(rows)) == len(rows)
    return dict(rows)
