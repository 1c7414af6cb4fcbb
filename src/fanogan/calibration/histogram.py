"""A quantile of pixel residuals, in constant memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


class ResidualHistogram:
    """A streaming quantile of pixel residuals, |x - G(E(x))| of images in [-1, 1].

    Memory is that of 20,000 counts however many pixels come by. A quantile is the upper edge of its
    bin, at most 1/10,000 above the exact one, never below it, and so never 0.
    """

    UPPER = 2.0
    BINS = 20_000

    def __init__(self) -> None:
        """Start with no pixel seen."""
        self._counts = np.zeros(self.BINS, dtype=np.int64)

    def update(self, residuals: ArrayLike) -> None:
        """Count the pixels of one map.

        Args:
            residuals: Array of any shape, values in [0, 2]; a rounding error beyond is allowed.

        Raises:
            ValueError: A residual is not a number, negative, or above 2.
        """
        values = np.asarray(residuals, dtype=np.float64).ravel()
        if values.size == 0:
            return
        width = self.UPPER / self.BINS
        # Written so that NaN, which compares False with everything, fails too.
        if not (values.min() >= -width and values.max() <= self.UPPER + width):
            raise ValueError(
                f"pixel residuals from {values.min()} to {values.max()} came, but they lie in "
                "[0, 2] where image and reconstruction lie in [-1, 1]: look at the image for "
                "values that are not numbers"
            )
        bins = np.clip((values / width).astype(np.int64), 0, self.BINS - 1)
        self._counts += np.bincount(bins, minlength=self.BINS)

    def quantile(self, q: float) -> float:
        """Return the value that a share q of all residuals seen does not exceed.

        Args:
            q: The share, in (0, 1].

        Returns:
            The quantile, in (0, 2], at most 1/10,000 above the exact one (the smallest residual
            with at least a share q at or below it).

        Raises:
            ValueError: q is outside (0, 1], or no pixel has been seen.
        """
        if not 0 < q <= 1:
            raise ValueError(f"there is no quantile {q}: give a share above 0 and at most 1")
        seen = np.cumsum(self._counts)
        if seen[-1] == 0:
            raise ValueError("no residual has been seen: update the histogram with a map first")
        # .07 * 100 is a little above 7 in floats, and rounding it up would give the eighth pixel.
        rank = max(1, math.ceil(q * int(seen[-1]) * (1 - 1e-12)))
        return float((int(np.searchsorted(seen, rank)) + 1) * self.UPPER / self.BINS)
