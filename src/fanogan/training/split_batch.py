"""The two halves of a batch at once, on the CPU.

Convolutions of a few channels leave much of a second core idle: two threads that each do all
operations on half of the batch are faster than one that spreads each operation over both cores.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
ForEachPart = Callable[..., list[Any]]


def whole_batch(work: Callable[..., T], *batches: Tensor) -> list[T]:
    """Return what ``work`` gives for the batches, as a list of one."""
    return [work(*batches)]


@contextlib.contextmanager
def half_batches(device: torch.device) -> Iterator[ForEachPart]:
    """Give a function like ``whole_batch`` that does both halves at once on a CPU of several cores.

    ``work`` is called with half of each batch in a thread that has half of this thread's threads,
    and neither its grad mode nor its autocast; a batch of one image is done whole, here.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2:
        yield whole_batch
        return
    both_started = threading.Barrier(3)

    def start() -> None:
        torch.get_num_threads()  # or the thread's first operation would take the number of all
        torch.set_num_threads(threads // 2)
        both_started.wait()

    with ThreadPoolExecutor(2, "half batch", start) as pool:
        for _ in range(2):
            pool.submit(int)
        both_started.wait()
        torch.set_num_threads(threads)  # which new threads start with, too

        def for_each_half(work: Callable[..., T], *batches: Tensor) -> list[T]:
            if len(batches[0]) < 2:
                return whole_batch(work, *batches)
            return list(pool.map(work, *(batch.chunk(2) for batch in batches)))

        yield for_each_half
