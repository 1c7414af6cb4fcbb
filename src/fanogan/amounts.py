"""Words for counts and numbers, the same in pages, tables and messages."""

from __future__ import annotations

import math


def plural(noun: str) -> str:
    """Return the plural of a noun: images, B-scans, patches."""
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 image, 1,200 images."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def number(value: float | None) -> str:
    """Write a score or threshold to four significant digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:#.4g}".rstrip(".")


def share(value: float | None) -> str:
    """Write an AUC, or another number in [0, 1], to three decimals."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Write a number in [0, 1] as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"
