"""What is left of a lesion's mask that goes to flat space and comes back.

Masks of made-up lesions, once kept as the share of each flat pixel that they cover, once made
binary there. Numbers go to docs/retina.md.

    python benchmarks/way_back.py
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from tables import ROOT, commit, machine, markdown, write_section

from fanogan.phantom import LESIONS, make_phantom
from fanogan.retina import FlatVolume, make_flat
from fanogan.scans import Scan

SHAPE, ROW_MM, COLUMNS_MM = (9, 496, 512), 0.00387, (0.011, 0.0121)
FIRST = 300
LEAST = 0.98
SIZES = (1, 20, 50, 100, 200)
"""Pixels of the smallest lesion of each class."""


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--phantoms", type=int, default=4, help="phantoms of each kind")
    options = parser.parse_args()
    seeds = range(FIRST, FIRST + options.phantoms)
    write_section(
        "way back",
        f"Synthetic: {len(seeds)} phantoms with each kind of lesion, {'×'.join(map(str, SHAPE))}, "
        f"seeds {seeds[0]} to {seeds[-1]}, exact boundaries. A lesion is what is connected on one "
        "B-scan, as far as flat space reaches.\n\n"
        + "\n\n".join(section(seeds, column_mm) for column_mm in COLUMNS_MM)
        + f"\n\n{machine()}, commit {commit()}.",
        ROOT / "docs" / "retina.md",
    )


def section(seeds: range, column_mm: float) -> str:
    """The tables by kind and by size, of columns of one width."""
    by_kind, by_size = [], defaultdict(list)
    classes = list(zip(SIZES, (*SIZES[1:], np.inf), strict=True))
    columns = 0
    for kind in LESIONS:
        counts, reached, pixels = [], 0, 0
        for seed in seeds:
            for volume, frame, mask in bscans(seed, kind, column_mm):
                columns = volume.pixels.shape[2]
                known = np.isfinite(volume.to_original(frame, np.zeros(volume.pixels.shape[1:])))
                pixels, reached = pixels + mask.sum(), reached + (mask & known).sum()
                if (mask & known).any():
                    counts.append(lesions(mask & known, *returned(volume, frame, mask), known))
        found = np.concatenate(counts, axis=1)
        by_kind.append([kind, f"{100 * reached / pixels:.0f}", str(found.shape[1]), *pooled(found)])
        for least, most in classes:
            of_size = (found[0, :, 0] >= least) & (found[0, :, 0] < most)
            by_size[least, most].append(found[:, of_size])
    header = ["lesions", "of their pixels in flat space, %"]
    names = ["number", "Dice, as shares", "Dice, made binary"]
    sizes = []
    for (least, most), found_of_size in by_size.items():
        name = f"{least} to {most - 1}" if np.isfinite(most) else f"from {least}"
        found = np.concatenate(found_of_size, axis=1)
        each = dice(found)[0]
        lowest = [f"{each.min():.3f}", f"{100 * (each >= LEAST).mean():.0f}"]
        sizes.append([name, str(len(each)), *pooled(found), *lowest])
    return (
        f"{SHAPE[2]} columns of {1000 * column_mm:.1f} µm, {columns} in flat space:\n\n"
        f"{markdown([*header, *names], by_kind)}\n\n"
        + markdown(
            ["pixels of a lesion", *names, "lowest, as shares", f"from {LEAST} on, %"], sizes
        )
    )


def bscans(seed: int, kind: str, column_mm: float) -> Iterator[tuple[FlatVolume, int, np.ndarray]]:
    """The B-scans of a phantom that show its lesions: volume, which one, and their mask."""
    spacing = (0.6, ROW_MM, column_mm)
    eye = make_phantom(seed, shape=SHAPE, spacing=spacing, diseased=True, lesions=[kind])
    scan = Scan(eye.pixels, eye.name, eye.name, spacing, is_volume=True)
    none = np.zeros(SHAPE, dtype=np.bool_)
    volume = make_flat(scan, eye.boundaries["ILM"], eye.boundaries["RPE outer"], none)
    for frame in np.flatnonzero(eye.mask.any(axis=(1, 2))):
        yield volume, int(frame), eye.lesions[frame] == LESIONS[kind]


def returned(volume: FlatVolume, frame: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask after there and back: kept as shares, and made binary in flat space."""
    shares = volume.forward(frame, mask.astype(np.float32))
    binary = volume.to_original(frame, volume.forward(frame, mask))
    return volume.to_original(frame, shares) >= 0.5, binary


def lesions(
    mask: np.ndarray, shares: np.ndarray, binary: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Pixels of each lesion, of what came back nearest to it, and of both: (2 ways, lesions, 3)."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    places = ndimage.distance_transform_edt(
        numbers == 0, return_distances=False, return_indices=True
    )
    nearest = numbers[tuple(places)]
    return np.array(
        [
            [np.bincount(nearest[which], minlength=count + 1)[1:] for which in (mask, back, both)]
            for back, both in ((way & known, way & mask) for way in (shares, binary))
        ]
    ).transpose(0, 2, 1)


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice from (…, 3) counts of one, of the other, and of both."""
    return np.asarray(2 * counts[..., 2] / (counts[..., 0] + counts[..., 1]))


def pooled(counts: np.ndarray) -> list[str]:
    """Dice over all pixels, in both ways."""
    return [f"{one:.3f}" for one in dice(counts.sum(axis=1))]


if __name__ == "__main__":
    main()
