"""Scores of an image, a patch or a pixel that need no trained network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.calibration import Statistics
from fanogan.evaluation.metrics import trivial_scores
from fanogan.retina import FlatVolume
from fanogan.scoring import Result

PCA_RESIDUAL = "PCA residual"
"""The image residual of principal components in place of networks (see ``detectors.pca``)."""

THREE_STATISTICS, ROW_MEANS = "three statistics", "row means as z-scores"
"""Distances from plain statistics of the training normals, which some models don't keep."""


def plain_scores(statistics: Statistics | None, result: Result) -> dict[str, float]:
    """Return the trivial scores of an image, and its distances from the training normals."""
    assert result.picture is not None
    picture, volume = (result.picture + 1) / 2, result.volume
    if result.residual is not None and result.residual.ndim == 3:  # slices below each other
        picture = picture.reshape(-1, *picture.shape[2:])
    found = trivial_scores(picture)
    if statistics is None:
        return found
    if volume is None:
        return {**found, THREE_STATISTICS: statistics.distance(picture)}
    frame, known = volume.pixels[result.frame] / np.float32(255), volume.recorded[result.frame]
    found[THREE_STATISTICS] = statistics.distance(frame, known)
    if statistics.rows is not None:
        found[ROW_MEANS] = statistics.rows_distance(frame, known)
    return found


def plain_scores_of_patch(
    statistics: Statistics | None, volume: FlatVolume, frame: int, patch: tuple[slice, slice]
) -> dict[str, float]:
    """Return the same of a patch of a flat B-scan, of which only rows can be compared."""
    pixels, known = volume.pixels[frame][patch] / 255, volume.recorded[frame][patch]
    found = trivial_scores(pixels)
    if statistics is not None and statistics.rows is not None:
        found[ROW_MEANS] = statistics.rows_distance(pixels, known, patch[0].start)
    return found


def plain_maps(statistics: Statistics | None, result: Result) -> dict[str, NDArray[Any]]:
    """Return trivial maps of an image, as its residual, NaN where flat space doesn't reach."""
    assert result.picture is not None and result.residual is not None
    picture, volume = result.picture, result.volume
    grey = picture if picture.ndim == result.residual.ndim else picture.mean(-1)
    longer = (axis for axis, side in enumerate(grey.shape) if side > 1)  # a signal has one
    steps = [np.abs(np.gradient(grey, axis=axis)) for axis in longer]
    found = {"brightness": grey, "gradient": np.mean(steps, axis=0)}
    if statistics is not None and statistics.rows is not None and volume is not None:
        away = np.abs(statistics.z_scores(volume.pixels[result.frame] / np.float32(255)))
        found[ROW_MEANS] = volume.to_original(result.frame, away.astype(np.float32))
    return found
