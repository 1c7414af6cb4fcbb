"""Which image sizes the networks can halve again and again."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST_SIDE = 256


def blocks_of(image_size: Sequence[int]) -> int:
    """Return b, the number of residual blocks for an image of c·2^b × c'·2^b pixels.

    Args:
        image_size: (rows, columns), with c and c' in 4…7 and the same b for both.

    Raises:
        ValueError: no b fits, or a side is outside 16…256 pixels.
    """
    rows, columns = image_size
    for blocks in range(2, 7):
        if all(side % 2**blocks == 0 and 4 <= side >> blocks <= 7 for side in image_size):
            if max(image_size) > LARGEST_SIDE:
                break
            return blocks
    raise ValueError(
        f"image_size {rows}×{columns} doesn't fit: each side must be c·2^b pixels with c in 4…7, "
        f"the same b for both, from 16 to {LARGEST_SIDE} (such as 28, 32, 64, 96, 128, 224 or "
        "64×112)"
    )
