"""How long a detector's training will take."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fanogan.data import Normals
from fanogan.detectors.building import new_networks, run_of
from fanogan.detectors.definition import Definition
from fanogan.detectors.gan import Gan, given_gan
from fanogan.training import GAN, fabric_of, precision_of


def seconds_to_fit(
    detector: Definition, normals: Normals, *, gan: Any = None, patience: float = 2.0
) -> float:
    """Estimate how long ``fit`` will take here, from a few updates of throwaway networks.

    In the recipe's precision; errors as for ``fabric_of``. Updates with a batch of 4 that take
    ``patience`` seconds aren't timed with the whole batch.
    """
    given = given_gan(detector, gan, normals, detector.device)
    steps = detector.steps(normals.preprocessing)
    if given:
        del steps[GAN]
    if not steps:  # no loop to time
        return 0.0
    most = detector.recipe.batch_size // detector.devices
    batch = min(4, most)
    seconds = _seconds_of_steps(detector, normals, given, batch)
    if batch < most and max(seconds.values(), default=0) < patience:
        batch = most  # else what is proportional to the batch is most of it
        seconds = _seconds_of_steps(detector, normals, given, batch)
    return most / batch * sum(steps[stage] * each for stage, each in seconds.items())


def seconds_to_fit_any(detector: Definition) -> float:
    """Estimate how long ``fit`` will take here on images that the recipe's networks see whole."""
    recipe = detector.recipe.but(geometry="image", window=detector.recipe.image_size)
    plain = type(detector)(recipe, seed=detector.seed, device=detector.device)
    noise = np.random.default_rng(0).integers(0, 256, (20, *recipe.image_size), dtype=np.uint8)
    return seconds_to_fit(plain, Normals.read(noise, recipe), patience=0.2)


def _seconds_of_steps(
    detector: Definition, normals: Normals, given: Gan | None, batch: int
) -> dict[str, float]:
    """Seconds of a round or update of each stage: the second of three, without health."""
    recipe = detector.recipe.but(
        batch_size=batch,
        critic_updates=3 * detector.recipe.critic_updates_per_generator_update,
        encoder_updates=3,
        log_every=10_000,
        reestimate_batch_norm=False,
    )
    few = type(detector)(recipe, seed=detector.seed, device=detector.device)
    steps = {stage: min(count, 3) for stage, count in few.steps(normals.preprocessing).items()}
    networks = new_networks(few, normals.preprocessing, detector.seed, detector.device)
    if given:
        networks |= {"G": given.G, "D": given.D}
        del steps[GAN]
    marks: dict[tuple[str, int], float] = {}

    def mark(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        if detector.device.type == "cuda":
            torch.cuda.synchronize(detector.device)
        marks[stage, step] = time.perf_counter()

    run = run_of(few, normals, steps, fabric_of(detector.device, recipe, 1), None, mark)
    # What throwaway networks would be warned of is no news.
    with precision_of(recipe.precision), _silenced("fanogan.training.stage"):
        few.train(networks, run)
    return {stage: marks[stage, 2] - marks[stage, 1] for stage, count in steps.items() if count > 1}


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Let no warnings of a logger through."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
