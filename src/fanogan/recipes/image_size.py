"""Which sizes the networks can halve again and again."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST_SIDES = {1: 4096, 2: 256, 3: 128}
"""The largest side of signals, images and volumes, by their number of sides; of a longer side than
the shortest, ``LONGER`` times that."""

LONGER = 4


def blocks_of(image_size: Sequence[int]) -> int:
    """Return b, the number of residual blocks for an image of c·2^b × c'·2^b pixels.

    Args:
        image_size: (rows, columns), with c in 4…7 for the shorter and any c' for the longer, such
            as 64×512 for a whole flattened B-scan. Of a signal (1, samples), of a volume (slices,
            rows, columns), likewise.

    Raises:
        ValueError: no b fits, or a side is below 16 or too long (see ``LARGEST_SIDES``).
    """
    # A side of 1 is that of a signal.
    sides = image_size[1:] if len(image_size) == 2 and image_size[0] == 1 else image_size
    largest = LARGEST_SIDES.get(len(sides), 0)
    if sides and 16 <= min(sides) <= largest and max(sides) <= LONGER * largest:
        blocks = (min(sides) // 4).bit_length() - 1
        if all(side % 2**blocks == 0 for side in sides):
            return blocks
    size = "×".join(map(str, image_size))
    raise ValueError(
        f"image_size {size} doesn't fit: the shorter side must be c·2^b pixels with c in 4…7, from "
        f"16 to {LARGEST_SIDES[2]} (such as 28, 32, 64, 96, 128 or 224), the longer a multiple of "
        f"2^b, up to {LONGER * LARGEST_SIDES[2]} (such as 64×512); or a signal's, 1×c·2^b samples, "
        f"up to 1×{LARGEST_SIDES[1]}; or a volume's, such as 16×32×32 voxels, up to "
        f"{'×'.join([str(LARGEST_SIDES[3])] * 3)}"
    )
