"""What is scored, and what comes of it."""

from __future__ import annotations

import dataclasses

import numpy as np

from fanogan.retina import FlatVolume
from fanogan.scans import Note, Scan


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A scan on its way to the networks: its pixels (frames, C, H, W) as they are kept in memory.

    ``usable`` says which corners a window may have, (frames, H − h + 1, W − w + 1) bool, or None.
    """

    scan: Scan
    pixels: np.ndarray
    usable: np.ndarray | None
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Looked:
    """What the networks made of one frame.

    ``terms`` (windows, 2) float64, ``maps`` (1 + C, H, W), ``x`` (C, H, W), and where the image was
    looked at through windows their ``corners`` (windows, 2).
    """

    terms: np.ndarray
    maps: np.ndarray | None = None
    x: np.ndarray | None = None
    corners: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image, or one whole volume, scores.

    ``total`` = ``image`` + κ · ``feature`` (Eq. 4); with a recipe's ``standardised`` the sum of
    both in units of their spread. Of an image larger than the window each is the mean over the
    recipe's top share of its windows, those with the highest totals; ``largest`` and ``mean`` are
    over all its windows. Arrays are in the scan's own geometry, None for a volume.
    """

    name: str
    group: str
    unit: str  # 'image' or 'volume'
    frame: int
    total: float
    image: float
    feature: float
    largest: float
    mean: float
    windows: int
    warnings: tuple[str, ...] = ()  # how it is unlike the training normals
    notes: tuple[Note, ...] = ()  # what was done in reading it, such as an alpha channel dropped
    residual: np.ndarray | None = None  # (H, W) float32, |x − x̂| in [0, 2] (Eq. 5)
    reconstruction: np.ndarray | None = None  # (H, W) or (H, W, C) float32 in [−1, 1]
    picture: np.ndarray | None = None  # likewise, the image as the networks' grey scale has it
    # Of retinal OCT, where maps are NaN beyond the flat area:
    volume: FlatVolume | None = None
    patches: np.ndarray | None = None  # (windows, 5): flat row, column, total, A_R, A_D


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n images: ``total`` = ``image`` + κ · ``feature``, each (n,) float64 (Eq. 4)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    total: np.ndarray
    image: np.ndarray
    feature: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)
