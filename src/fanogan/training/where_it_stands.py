"""Where a finished training stands: whether more normals would help, or more time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# On Kermany's B-scans (docs/benchmark_details.md, "How many normals, and what helps") the residual
# of held-out normals ends at 1.36 times that of training normals with 30 of them, at 1.06 with 206.
TOO_FAR = 1.2
STILL_FALLING = -0.05  # over the last fifth of the training
LEAST_LINES = 10  # of metrics


def standing(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return in a sentence what held-out normals say of the number of normals and of the time.

    Args:
        metrics: the lines of a run, see ``read_metrics``.

    Returns:
        The sentence; None where the last stage has too few lines, or no image residuals.
    """
    residuals = [
        (line["image_held_out"], line.get("image_seen", line.get("image")))
        for line in metrics
        if line["stage"] == metrics[-1]["stage"] and "image_held_out" in line
    ]
    if len(residuals) < LEAST_LINES:
        return None
    held_out, seen = np.array(residuals, dtype=float).T
    fifth = len(held_out) // 5
    ratio = held_out[-fifth:].mean() / seen[-fifth:].mean()
    change = held_out[-fifth:].mean() / held_out[-2 * fifth : -fifth].mean() - 1
    more = "should lower it" if ratio > TOO_FAR else "would change little"
    longer = "should lower it" if change < STILL_FALLING else "would change little"
    return (
        f"held-out normals: their image residual is {ratio:.2f} times that of training normals, "
        f"so more normals {more}; it changed by {100 * change:+.1f} % over the last fifth of the "
        f"training, so more time {longer}"
    )
