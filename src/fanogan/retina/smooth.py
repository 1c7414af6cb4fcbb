"""Smooth lines through what a search found: Whittaker's smoother, plain and asymmetric.

Bruch's membrane isn't seen where something lifts the pigment epithelium off it or shades it. It is
smooth, and nothing lies below it, so it is estimated as the smooth lower envelope of the epithelium
(Eilers 2003, A perfect smoother; Eilers and Boelens 2005, asymmetric least squares).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Lines = NDArray[np.float64]

TYPICAL_COLUMN = 0.0115
"""Width of a column, in mm, that stiffnesses are given for."""

_ROUNDS = 20


def smooth(lines: Lines, weights: Lines, stiffness: float, column: float) -> Lines:
    """Return the lines z that minimise Σ w (y − z)² + λ Σ (z'')² (Whittaker 1923).

    Args:
        lines: y in rows, (B-scans, columns), finite.
        weights: w, likewise, in [0, 1]; 0 where y says nothing.
        stiffness: λ at columns of `TYPICAL_COLUMN`; it scales with their width so that lines bend
            over the same distances whatever it is.
        column: Width of a column in mm.
    """
    from scipy.linalg import solveh_banded

    columns = lines.shape[1]
    if columns < 3:
        return lines.copy()
    stiffness *= (TYPICAL_COLUMN / column) ** 4
    difference = np.array([1.0, -2.0, 1.0])
    bands = np.zeros((3, columns))  # D'D, its diagonals from the outermost in
    for start in range(3):
        for other in range(start, 3):
            apart = other - start
            at = slice(other, columns - 2 + other)
            bands[2 - apart, at] += difference[start] * difference[other]
    bands *= stiffness
    # Without any weight the line would be undetermined.
    weights = np.maximum(weights, 1e-6)
    out = np.empty_like(lines)
    for line, weight, z in zip(lines, weights, out, strict=True):
        system = bands.copy()
        system[2] += weight
        z[:] = solveh_banded(system, weight * line)
    return out


def lower_envelope(
    lines: Lines, weights: Lines, stiffness: float, column: float, asymmetry: float, reach: float
) -> Lines:
    """Return smooth lines along the lowest parts of lines: as `smooth`, but rows below weigh more.

    A place of the line that lies above the smooth one counts with the weight `asymmetry`, one
    below it with 1 − `asymmetry`; but where it lies more than `reach` rows below, as at the optic
    disc, it is no part of what is sought, and doesn't count.
    """
    z = smooth(lines, weights, stiffness, column)
    for _ in range(_ROUNDS):
        below = lines - z  # row numbers grow downwards
        sides = np.where(below < 0, asymmetry, (1 - asymmetry) * (below < reach))
        z, before = smooth(lines, weights * sides, stiffness, column), z
        if np.abs(z - before).max() < 0.01:
            break
    return z
