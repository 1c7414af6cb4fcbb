"""What is scored, and what comes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.data import BLANK, SignalView
from fanogan.errors import FanoganError
from fanogan.retina import FlatVolume
from fanogan.scans import UNKNOWN_SPACING, Affine, Note, Scan, Spacing


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A scan on its way to the networks.

    Attributes:
        scan: As it was read.
        pixels: As they are kept, (frames, C, *sides) uint8 or uint16.
        usable: The corners that a window may have, (frames, H − h + 1, W − w + 1) bool; None: all.
        warnings: In what way it is unlike the training normals.
        hashes: Of each frame (see ``data.short_hashes``).
        shape: How far each column's boundaries are from normals, (frames, columns), or None.
        grey: Brightness and contrast of each frame, in shares of the model's grey range.
    """

    scan: Scan
    pixels: np.ndarray
    usable: np.ndarray | None
    warnings: tuple[Note, ...]
    hashes: tuple[int, ...] = ()
    shape: np.ndarray | None = None
    grey: Sequence[tuple[float, float]] = ()


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """What the networks made of one frame.

    ``terms`` (windows, 2) float64, ``maps`` (1 + C, *sides), ``x`` (C, *sides), and where the image
    was seen through windows their ``corners`` (windows, sides).
    """

    terms: np.ndarray
    maps: np.ndarray | None = None
    x: np.ndarray | None = None
    corners: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image, or one whole volume, scores.

    ``total`` = ``image`` + κ · ``feature`` (Eq. 4); with a recipe's ``standardise_terms`` the sum
    of both in units of their spread. Of an image larger than the window each is the mean over the
    recipe's top share of its windows, those with the highest totals; ``largest`` and ``mean`` are
    over all its windows. Arrays are in the scan's own geometry, None for a volume.
    """

    name: str  # the scan's, and '#' and the frame where it has several
    scan_name: str
    group: str
    unit: str  # 'image' or 'volume'
    frame: int
    total: float
    image: float
    feature: float
    largest: float
    mean: float
    windows: int
    precision: str = "fp32"  # in which the networks computed: 'fp32' or 'bf16'
    warnings: tuple[Note, ...] = ()  # how it is unlike the training normals
    notes: tuple[Note, ...] = ()  # of its reading, and whether it was seen in training
    hashed: int = BLANK  # the short hash of an image
    # ([slices,] H, W) float32, |x − x̂| in [0, 2] (Eq. 5); of a volume only if it is seen in three
    # dimensions.
    residual: np.ndarray | None = None
    reconstruction: np.ndarray | None = None  # likewise, or with C last, float32 in [−1, 1]
    picture: np.ndarray | None = None  # likewise, the image as the networks' grey scale has it
    grey: tuple[float, float] = (0.0, 0.0)  # an image's, as of ``Encoded``
    spacing: Spacing = UNKNOWN_SPACING  # mm between frames, rows and columns of the scan
    affine: Affine | None = None  # where the image lies in space, where its file says
    files: tuple[Path, ...] = ()  # of the scan
    eye: str | None = None  # 'left' or 'right', where its file says
    of_volume: bool = False  # a frame of a volume
    # Of retinal OCT, where maps are NaN beyond the flat area:
    volume: FlatVolume | None = None
    patches: np.ndarray | None = None  # (windows, 5): row, column, total, A_R, A_D
    # What flattening takes away: how far the boundaries are from normals, as root mean square
    # and by column of the scan, (W,) float32 (see ``retina.ShapeNormals``); and total and shape in
    # one number. None where the model doesn't score it.
    shape: float | None = None
    shape_line: np.ndarray | None = None
    combined: float | None = None
    signal: SignalView | None = None  # of a signal: its channels, their range and its own rate
    # The residual averaged over neighbours: of a signal (W,), of a volume seen in three dimensions
    # (slices, H, W).
    smoothed: np.ndarray | None = None

    @property
    def measures(self) -> tuple[float, ...]:
        """What drift is told by (``calibration.MEASURES``); a spacing that isn't known is 0."""
        known = (
            float(f"{side:.3g}") if side and 0 < side < math.inf else 0.0 for side in self.spacing
        )
        return (self.total, *self.grey, *known)

    def without_arrays(self) -> Result:
        """Return the scores alone, which keep no image in memory."""
        return dataclasses.replace(
            self,
            residual=None,
            reconstruction=None,
            picture=None,
            volume=None,
            patches=None,
            shape_line=None,
            smoothed=None,
        )


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n images: ``total`` = ``image`` + κ · ``feature``, each (n,) float64 (Eq. 4)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    total: np.ndarray
    image: np.ndarray
    feature: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def to_frame(self) -> Any:
        """Return a pandas ``DataFrame``, a row an image, with columns named as in ``scores.csv``.

        Raises:
            FanoganError: pandas isn't installed.
        """
        try:
            import pandas
        except ImportError:
            raise FanoganError("a data frame needs pandas: pip install pandas") from None
        return pandas.DataFrame(
            {
                "name": self.names,
                "subject": self.groups,
                "score": self.total,
                "image_residual": self.image,
                "feature_residual": self.feature,
            }
        )
