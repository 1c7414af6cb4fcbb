"""What scoring leaves out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import torch

from fanogan.scans import BadScan, NoneUsable

log = logging.getLogger(__name__)


class Skips:
    """What is left out because it is bad, or too large for the memory there is."""

    def __init__(
        self,
        skip_bad: bool = False,
        on_bad: Callable[[BadScan], None] | None = None,
        good: int = 0,
    ):
        """Leave out nothing so far.

        Args:
            skip_bad: whether to leave out anything, instead of raising why.
            on_bad: called with the reason each time.
            good: how many were scored before.
        """
        self.skip_bad, self.on_bad, self.good = skip_bad, on_bad, good
        self.first: BadScan | None = None

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Do something with an image, and leave it out where that can't be done."""
        try:
            yield
            self.good += 1
            return
        except BadScan as error:
            bad = error
        except (MemoryError, RuntimeError) as error:
            # By its words alone: torch raises a plain RuntimeError where the CPU has no more.
            is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not is_memory and "DefaultCPUAllocator" not in str(error):
                raise
            bad = BadScan(
                f"{name} does not fit into memory with what is computed of it: crop or split it, "
                "use a machine with more memory, or leave it out with --skip-bad"
            )
        if not self.skip_bad:
            raise bad
        log.warning("skipped: %s", bad)
        if self.on_bad is not None:
            self.on_bad(bad)
        self.first = self.first or bad

    def check(self) -> None:
        """Raise NoneUsable where all was left out."""
        if self.first is not None and not self.good:
            raise NoneUsable(f"none of the images could be scored; the first: {self.first}")
