"""What held-out normals say at the end of a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from fanogan.training.where_it_stands import standing


def lines(held_out: np.ndarray, ratio: float, seen: str = "image") -> list[dict[str, Any]]:
    gan = [{"stage": "gan", "step": 1, "wasserstein_seen": 1.0}]
    return gan + [
        {"stage": "encoder", "step": at, "image_held_out": value, seen: value / ratio}
        for at, value in enumerate(held_out)
    ]


def test_a_level_residual_near_that_of_training_asks_for_nothing() -> None:
    said = standing(lines(np.full(20, 0.02), 1.06))
    assert said == (
        "held-out normals: their image residual is 1.06 times that of training normals, so more "
        "normals would change little; it changed by +0.0 % over the last fifth of the training, "
        "so more time would change little"
    )


def test_few_normals_and_a_short_training_are_told_apart() -> None:
    few = standing(lines(np.full(20, 0.02), 1.4))
    assert few
    assert "1.40 times" in few
    assert "more normals should lower it" in few
    assert "more time would change little" in few
    short = standing(lines(np.repeat([5.0, 4, 3, 2, 1.5], 4), 1.0, "image_seen"))
    assert short
    assert "changed by -25.0 % over the last fifth" in short  # 1.5 after 2
    assert "more normals would change little" in short
    assert "more time should lower it" in short


def test_too_few_lines_or_no_residual_say_nothing() -> None:
    assert standing(lines(np.full(9, 0.02), 1.0)) is None
    assert standing(lines(np.ones(20), 1.0)[:1]) is None
    assert standing([]) is None
