"""The model card, kept with every model: what it learnt from, how, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fanogan.calibration import ALPHA, HeldOut
from fanogan.text import counted, plural, seen_through


def model_card(facts: Mapping[str, Any]) -> str:
    """Return the card as Markdown, from what ``model.json`` holds."""
    data, recipe, seen = facts["fingerprint"], facts["recipe"], facts["preprocessing"]
    window, noun = seen["window"], "signal" if seen.get("signal") else "image"
    if len(seen["image_size"]) == 3:
        noun = "volume"
    held_out = "\n".join(
        f"- {plural(unit)}{scored}: {HeldOut.from_dict(values).describe(ALPHA, unit)}"
        for scored, calibration in (
            ("", facts["calibration"]),
            *((f" scored in {name}", each) for name, each in facts["calibrations"].items()),
        )
        for unit, values in calibration["units"].items()
    )
    training = "\n".join(f"- {line}" for line in _training(facts))
    warnings = "\n".join(f"- {warning}" for warning in facts["warnings"]) or "- none"
    return f"""# Model card: {facts["detector"]}, recipe {recipe["name"]}

Research use only, not a medical device.

## What it learnt from

- {counted(data["images"], f"normal {noun}")} of {counted(data["subjects"], "subject")}, \
{counted(seen["channels"], "channel")},
  {seen["depth"]}; grey values {seen["low"]:g} to {seen["high"]:g} become −1 to 1
- {data["duplicates"]:,} of them exact duplicates
- fingerprint of the images (SHA-256): `{data["sha256"]}`
- seed {facts["seed"]}

## How

- {seen_through(window, seen["image_size"], noun)}; base width \
{recipe["base_width"]}, latent size {recipe["latent_size"]}
{training}
- fanogan {facts["fanogan"]}, torch {facts["libraries"]["torch"]}

## Calibration, from {counted(data["held_out_images"], noun)} of \
{counted(data["held_out_subjects"], "subject")} held out

{held_out}

## Warnings

{warnings}

## Limits

- It scores whatever differs from its training normals, and another scanner, setting or \
population differs too.
- A low score is no proof of health: what is easy to reproduce (dark, smooth) can pass as normal.
- Maps are rough hints of where to look, not segmentations.
"""


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each stage of training."""
    recipe, steps = facts["recipe"], facts["steps"]
    if "gan" in facts:
        whose = "of the user's own" if facts["gan"]["own"] else "trained before"
        yield f"a GAN {whose} (SHA-256 of its weights `{facts['gan']['weights']}`)"
    if "gan" in steps:
        critic_updates = counted(recipe["critic_updates"], "critic update")
        yield f"{critic_updates}, {recipe['critic_updates_per_generator_update']} a round"
    if "encoder" in steps:
        kind = f"{recipe['encoder_loss']}, {recipe['encoder_output']} output"
        yield f"{counted(steps['encoder'], 'encoder update')} ({kind})"
    for stage in sorted(set(steps) - {"gan", "encoder"}):
        yield (
            f"{counted(steps[stage], 'step')} of {stage}, at the cost in multiply-adds of one GAN "
            "and one encoder of this recipe"
        )
