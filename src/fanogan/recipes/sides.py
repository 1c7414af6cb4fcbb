"""Which sides images may have, so that the networks can halve them again and again."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST_SIDE = 256


def blocks_of(sides: Sequence[int]) -> int:
    """The number b of residual blocks for sides (rows, columns) = (c·2^b, c'·2^b), c, c' in 4…7.

    Raises:
        ValueError: sides that have no such b, or lie outside 16…256.
    """
    rows, columns = sides
    for blocks in range(2, 7):
        if all(side % 2**blocks == 0 and 4 <= side >> blocks <= 7 for side in (rows, columns)):
            if max(sides) > LARGEST_SIDE:
                break
            return blocks
    raise ValueError(
        f"sides {rows}×{columns} don't fit: each must be c·2^b pixels with c in 4…7, the same b "
        f"for both, from 16 to {LARGEST_SIDE} (such as 28, 32, 64, 96, 128, 224 or 64×112)"
    )
