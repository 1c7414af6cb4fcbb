"""On which device, in how many processes and in which precision a run computes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch

from fanogan.errors import FanoganError
from fanogan.recipes import BadRecipe, Precision, Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def device_of(name: str) -> torch.device:
    """Return the device of a name: 'auto', 'cpu', 'cuda', one of several as 'cuda:1', or 'mps'.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in available or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(
            f"no device {name!r}: give auto, cpu, cuda or mps, or one of several GPUs, as cuda:1"
        )
    if not available[kind]:
        raise ValueError(f"no {kind} device on this machine: give --device cpu or auto")
    if colon and int(number) >= torch.cuda.device_count():
        here = ", ".join(f"cuda:{place}" for place in range(torch.cuda.device_count()))
        raise ValueError(f"no device {name} on this machine: give --device {here} or cpu")
    return torch.device(name)


def lacking_bf16(device: torch.device) -> str:
    """Return what a device has in place of bfloat16, as a sentence; empty where it has that.

    PyTorch computes in bfloat16 everywhere, but without such instructions more slowly than in fp32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return ""
            major, minor = torch.cuda.get_device_capability()
            card = f"{torch.cuda.get_device_name()} is of compute capability {major}.{minor}"
            return f"{card}, and bfloat16 begins at 8.0"
    # What has AMX has this too.
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        has = torch.backends.cpu.get_cpu_capability()
        return f"this processor has {has}, and neither AVX512-BF16 nor AMX"
    return ""


def launched() -> int:
    """Return how many processes torchrun has started, on all machines; 0 where it hasn't."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def fabric_of(device: torch.device, recipe: Recipe, devices: int) -> Fabric:
    """Start the processes that train together, in the recipe's precision.

    Where torchrun has started them already, they meet.

    Raises:
        BadRecipe: a precision that the device doesn't have.
    """
    from lightning_fabric import Fabric

    if recipe.precision == "bf16" and (has := lacking_bf16(device)):
        raise BadRecipe(f"recipe {recipe.name}: precision is bf16, but {has}; give precision: fp32")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if devices > 1 and launched() else devices
    fabric = Fabric(
        accelerator=device.type,
        devices=here if device.index is None or device.type == "cpu" else [device.index],
        num_nodes=devices // here,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
    )
    fabric.launch()
    if devices > 1:
        atexit.register(_end_communication)
    return fabric


def _end_communication() -> None:
    """Close the process group before Python exits.

    Gloo's threads can abort the process if they free a tensor during shutdown. Fabric closes only
    NCCL's.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def by_first(fabric: Fabric, step: Callable[[], T]) -> T | None:
    """Let the first process do something alone; return its result there, None in the others.

    Where it fails, the others, which would wait for it, end too, as of ``by_each``.
    """
    return by_each(fabric, step if fabric.is_global_zero else lambda: None)


def by_each(fabric: Fabric, step: Callable[[], T]) -> T:
    """Let each process do something, and return its result.

    Where one fails, all end: the first of each machine with the sentence, others without a word.
    """
    failed: Exception | None = None
    try:
        done = step()
    except (FanoganError, OSError) as error:
        if fabric.world_size == 1:
            raise
        failed = error
    if fabric.world_size > 1:
        sentences: list[str | None] = [None] * fabric.world_size
        ours = f"{socket.gethostname()}: {failed}" if failed else None
        torch.distributed.all_gather_object(sentences, ours)
        said = [sentence for sentence in sentences if sentence]
        if said and fabric.local_rank:
            sys.exit(0)
        if said:
            raise failed or FanoganError(said[0])
    return done


@contextlib.contextmanager
def others_there(fabric: Fabric) -> Iterator[None]:
    """Say in a sentence that a process which trained along is gone.

    Raises:
        FanoganError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        # What Gloo raises has no class of its own.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise FanoganError(
            f"one of the {fabric.world_size} processes that train together is gone, or can't be "
            "reached: look at what it said, and resume in all of them with fanogan fit --resume RUN"
        ) from error


@contextlib.contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """Allow TF32 products in recipes that ask for them, and nowhere else."""
    allowed = precision == "tf32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
