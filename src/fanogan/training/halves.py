"""Two halves of a batch at once, on the CPU.

Convolutions of a few channels leave much of a second core idle: two threads that each take half of
the operations of half a batch are faster than one thread that spreads each operation over all.
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
ByHalves = Callable[..., list[Any]]


def whole(work: Callable[..., T], *batches: Tensor) -> list[T]:
    """What ``work`` returns of the batches, in a list."""
    return [work(*batches)]


@contextlib.contextmanager
def halves(device: torch.device) -> Iterator[ByHalves]:
    """A function like ``whole`` that on a CPU of several cores does both halves at once.

    ``work`` is called with half of each batch, in a thread that has half of this thread's own and
    neither its grad mode nor its autocast; with the whole, here, where there is but one image.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2:
        yield whole
        return
    both_began = threading.Barrier(3)

    def begin() -> None:
        torch.get_num_threads()  # or the thread's first operation would take the number of all
        torch.set_num_threads(threads // 2)
        both_began.wait()

    with ThreadPoolExecutor(2, "half", begin) as pool:
        for _ in range(2):
            pool.submit(int)
        both_began.wait()
        torch.set_num_threads(threads)  # it is what threads to come begin with, too

        def by_halves(work: Callable[..., T], *batches: Tensor) -> list[T]:
            if len(batches[0]) < 2:
                return whole(work, *batches)
            return list(pool.map(work, *(batch.chunk(2) for batch in batches)))

        yield by_halves
