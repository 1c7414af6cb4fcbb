r"""Counts and names as text: words for numbers, and names that do no harm where they are written.

On Linux a file's name may hold any bytes but 0 and '/'. What isn't plain text is written as `\xNN`,
a byte that isn't UTF-8, or `\uNNNN`, a control character or one that changes the direction of
reading. Where a name is to be read back, a backslash is written twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Control characters, line and paragraph separators, marks and overrides of the direction, and
# surrogates, as which Python has the bytes of a name that aren't UTF-8.
_HARMFUL = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
_FORMULA = tuple("=+-@'＝＋－＠")  # noqa: RUF001
LONGEST = 255
"""Bytes of a name in a folder."""
LONGEST_PATH = 2048
"""Bytes of a path below a folder of results, half of what Linux allows in all."""


def plural(noun: str) -> str:
    """Return the plural of a noun: images, B-scans, patches, studies."""
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 image, 1,200 images."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def extent(sides: Sequence[int]) -> str:
    """Return sides with their unit: 128 samples, 16×16 pixels, 16×16×16 voxels."""
    if sides[0] == 1 and len(sides) == 2:
        return counted(sides[1], "sample")
    return f"{'×'.join(map(str, sides))} {'voxels' if len(sides) == 3 else 'pixels'}"


def seen_through(window: Sequence[int] | None, image_size: Sequence[int], noun: str) -> str:
    """Say how networks see images, signals or volumes: through windows, or whole."""
    through = f"windows of {extent(window)}" if window else f"whole {plural(noun)}"
    return f"{through}, seen at {extent(image_size)}"


def number(value: float | None) -> str:
    """Write a score or threshold to four significant digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:#.4g}".rstrip(".")


def share(value: float | None) -> str:
    """Write an AUC, or another number in [0, 1], to three decimals."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Write a number in [0, 1] as a percentage with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def harmless(text: str) -> str:
    """Return text on one line that controls no terminal, and that any encoding takes."""
    return _HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else rf"\u{code:04x}"


def reversible(name: str) -> str:
    """Return a name as `harmless`, so that it can be read back."""
    return harmless(name.replace("\\", "\\\\"))


def as_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a CSV with texts that no spreadsheet takes for a formula.

    As OWASP recommends against CSV injection, a quote goes before '=', '+', '-' and '@'; numbers
    stay as they are.
    """
    return {key: as_cell(value) if isinstance(value, str) else value for key, value in row.items()}


def as_cell(text: str) -> str:
    """Return a text as `as_cells` does."""
    text = reversible(text)
    with contextlib.suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if text.startswith(_FORMULA) else text


def of_cell(text: str) -> str:
    """Return the text that `as_cell` was given."""

    def original(match: re.Match[str]) -> str:
        kind, digits = match[1][0], match[1][1:]
        if kind == "\\":
            return kind
        return chr(int(digits, 16) + (0xDC00 if kind == "x" else 0))

    return _ESCAPED.sub(original, text.removeprefix("'"))


def place_of(name: str, suffix: str = "") -> str:
    """Return a name as a path below a folder, whatever it says and however long it is.

    A part of more bytes than a file system takes is cut, and '~' and a digest of it follow.
    """
    parts = [reversible(part) for part in name.split("/") if part not in ("", ".", "..")] or [""]
    *folders, last = parts
    places = [*(_shortened(folder) for folder in folders), _shortened(last, suffix)]
    if len("/".join(places).encode()) > LONGEST_PATH:
        places = [_digest("/".join(folders)), places[-1]]
    return "/".join(places)


def _shortened(part: str, suffix: str = "") -> str:
    if len((part + suffix).encode()) <= LONGEST:
        return part + suffix
    end = f"~{_digest(part)}{suffix}"
    return part.encode()[: LONGEST - len(end)].decode(errors="ignore") + end


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
