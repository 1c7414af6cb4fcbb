"""How long a detector's training will take."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fanogan.calibration import UNCALIBRATED
from fanogan.data import Normals
from fanogan.detectors.building import (
    calibrating,
    calibration_passes,
    model_of,
    new_networks,
    run_of,
)
from fanogan.detectors.definition import Definition
from fanogan.detectors.gan import Gan, given_gan
from fanogan.scoring import score_batch
from fanogan.training import GAN, fabric_of, precision_of


def seconds_to_fit(
    detector: Definition, normals: Normals, *, gan: Any = None, patience: float = 2.0
) -> dict[str, float]:
    """Estimate how long the stages of ``fit`` will take here, by their names.

    From a few updates of throwaway networks, in the recipe's precision; errors as for
    ``fabric_of``. Updates with a batch of 4 that take ``patience`` seconds aren't timed with the
    whole batch. Calibration is among the stages, except of detectors that search while they score.
    """
    given = given_gan(detector, gan, normals, detector.device)
    steps = detector.steps(normals.preprocessing)
    if given:
        del steps[GAN]
    if not steps:  # no loop to time
        return {}
    most = detector.recipe.batch_size // detector.devices
    batch = min(4, most)
    seconds = _seconds_of_steps(detector, normals, given, batch)
    if batch < most and max(seconds.values(), default=0) < patience:
        batch = most  # else what is proportional to the batch is most of it
        seconds = _seconds_of_steps(detector, normals, given, batch)
    if detector.exportable:
        steps[calibrating(detector)] = calibration_passes(detector, detector.device) * sum(
            _windows(
                (1, *scan.pixels.shape) if normals.preprocessing.is_volume else scan.pixels.shape,
                normals.preprocessing.window,
            )
            for scan in normals.held_out
        )
        seconds[calibrating(detector)] /= most
    return {stage: most / batch * steps[stage] * each for stage, each in seconds.items()}


def _windows(shape: Sequence[int], window: tuple[int, ...] | None) -> int:
    """About how many windows, overlapping by half, cover frames (N, rows, columns, …)."""
    if window is None:
        return shape[0]
    sides = zip(shape[1:], window, strict=False)
    return shape[0] * math.prod(max(1, math.ceil(2 * side / seen) - 1) for side, seen in sides)


def seconds_to_fit_any(detector: Definition) -> float:
    """Estimate how long ``fit`` will take here on images that the recipe's networks see whole."""
    recipe = detector.recipe.but(geometry="image", window=detector.recipe.image_size)
    plain = type(detector)(recipe, seed=detector.seed, device=detector.device)
    noise = np.random.default_rng(0).integers(0, 256, (20, *recipe.image_size), dtype=np.uint8)
    return sum(seconds_to_fit(plain, Normals.read(noise, recipe), patience=0.2).values())


def _seconds_of_steps(
    detector: Definition, normals: Normals, given: Gan | None, batch: int
) -> dict[str, float]:
    """Seconds of a round or update of each stage: the second of three, without health.

    Of calibration, seconds of scoring a batch.
    """
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
    seconds = {stage: marks[stage, 2] - marks[stage, 1] for stage, n in steps.items() if n > 1}
    if detector.exportable:
        model = model_of(
            few,
            networks,
            detector.device,
            preprocessing=normals.preprocessing,
            calibration=UNCALIBRATED,
            profile=normals.profile,
            constants={},
            provenance={},
        )
        x = run.held_out.draw(batch, run.random("timing"))
        for _ in range(2):  # the first allocates
            begun = time.perf_counter()
            with torch.inference_mode():
                score_batch(model, x)[0].cpu()  # so the device is done
            seconds[calibrating(detector)] = time.perf_counter() - begun
    return seconds


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
