"""What goes wrong with an archive, and what is worth another try."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from fanogan.errors import FanoganError

log = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second try, the third and the last."""

T = TypeVar("T")


class ArchiveError(FanoganError):
    """What an archive refuses or answers, in one sentence."""


class Unreachable(ArchiveError):
    """An archive that gave no answer, or too late, or is busy: it may answer the next time."""


def patiently(ask: Callable[[], T]) -> T:
    """Return what `ask` does, which may be done twice; try again where no answer came.

    Raises:
        Unreachable: no try had an answer.
    """
    for wait in WAITS:
        try:
            return ask()
        except Unreachable as error:
            log.warning("%s; trying again in %g s", error, wait)
            time.sleep(wait)
    return ask()
