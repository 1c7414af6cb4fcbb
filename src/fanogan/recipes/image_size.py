"""Which sizes the networks can halve again and again."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST_SIDES = {1: 4096, 2: 256, 3: 128}
"""The largest side of signals, images and volumes, by their number of sides."""


def blocks_of(image_size: Sequence[int]) -> int:
    """Return b, the number of residual blocks for an image of c·2^b × c'·2^b pixels.

    Args:
        image_size: (rows, columns), with c and c' in 4…7 and the same b for both. Of a signal (1,
            samples), of a volume (slices, rows, columns), likewise.

    Raises:
        ValueError: no b fits, or a side is below 16 or above ``LARGEST_SIDES``.
    """
    sides = [side for side in image_size if side != 1]
    largest = LARGEST_SIDES.get(len(sides), 0)
    if sides and min(sides) >= 16 and max(sides) <= largest:
        blocks = (min(sides) // 4).bit_length() - 1
        if all(side % 2**blocks == 0 and 4 <= side >> blocks <= 7 for side in sides):
            return blocks
    size = "×".join(map(str, image_size))
    raise ValueError(
        f"image_size {size} doesn't fit: each side must be c·2^b pixels with c in 4…7, the same b "
        f"for all, from 16 to {LARGEST_SIDES[2]} (such as 28, 32, 64, 96, 128, 224 or 64×112), or "
        f"1×c·2^b samples of a signal, up to 1×{LARGEST_SIDES[1]}"
    )
