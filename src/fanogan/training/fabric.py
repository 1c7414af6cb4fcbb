"""How a run begins: on which device, in how many processes, in which folder."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fanogan.recipes import BadRecipe, Recipe
from fanogan.storage import BadFolder
from fanogan.training.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)
T = TypeVar("T")


def device_of(name: str) -> torch.device:
    """The device of a name: 'auto', 'cpu', 'cuda' or 'mps'.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name not in available:
        raise ValueError(f"no device {name!r}: give auto, cpu, cuda or mps")
    if not available[name]:
        raise ValueError(f"no {name} device on this machine: give --device cpu or auto")
    return torch.device(name)


def fabric_of(device: torch.device, recipe: Recipe, devices: int) -> Fabric:
    """The processes that train together, in the recipe's precision."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
    )
    fabric.launch()
    if devices > 1:
        atexit.register(_end_communication)
    return fabric


def _end_communication() -> None:
    """End the threads that communicate while Python is still there.

    Left to the end of the interpreter, Gloo's abort the process where they let go of a tensor just
    then. Fabric ends NCCL's alone.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def by_first(fabric: Fabric, step: Callable[[], T]) -> T | None:
    """What the first process does alone: its result there, None in the others.

    Where it fails, the others, which would wait for it, end without a word.
    """
    done = failed = None
    if fabric.is_global_zero:
        try:
            done = step()
        except (BadFolder, OSError) as error:
            failed = error
    if fabric.broadcast(failed is not None):
        if failed:
            raise failed
        sys.exit(0)
    return done


def open_run(
    out: str | Path, config: Mapping[str, Any], *, resume: bool, fabric: Fabric
) -> RunFolder:
    """The run folder of a run with these settings, begun anew or to be gone on with.

    Raises:
        BadFolder: a run lies there already, or another than is to be gone on with.
    """

    def begin() -> RunFolder:
        run = RunFolder(out, resume=resume)
        if resume:
            _refuse_other(run, config)
        else:
            run.begin(config)
        return run

    return by_first(fabric, begin) or RunFolder(out, resume=True)


def _refuse_other(run: RunFolder, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun as another.

    Raises:
        BadFolder: it was.
    """
    begun = run.config
    words = {
        "detector": "another detector",
        "seed": "another seed",
        "data": "other normals",
        "recipe": "another recipe",
        "gan": "another GAN",
    }
    # Runs of version 0.1 have no line about the detector: theirs is f-AnoGAN.
    before = {"detector": config["detector"], "gan": None, **begun}
    same = {key: before.get(key) == config[key] for key in words}
    with contextlib.suppress(BadRecipe, TypeError, KeyError):  # fields that were added since
        same["recipe"] = Recipe.from_dict(begun["recipe"]).to_dict() == config["recipe"]
    differing = [word for key, word in words.items() if not same[key]]
    if differing:
        raise BadFolder(
            f"{run.path}: can't be resumed, it was begun with {' and '.join(differing)}; give what "
            "it was begun with, or begin another run in another folder"
        )
    if begun.get("fanogan") != config["fanogan"]:
        log.warning(
            "%s: begun with fanogan %s, so it may end otherwise", run.path, begun["fanogan"]
        )
