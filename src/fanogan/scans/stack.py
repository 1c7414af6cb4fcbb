"""A folder of B-scans that the user says are one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fanogan.scans.checks import BadScan, check_size
from fanogan.scans.gather import PICTURES, extension
from fanogan.scans.pixels import finish
from fanogan.scans.read import read_scan
from fanogan.scans.scan import UNKNOWN_SPACING, Scan, Spacing
from fanogan.scans.walk import natural_key


def read_volume(
    folder: str | Path,
    spacing: Spacing = UNKNOWN_SPACING,
    name: str | None = None,
    group: str | None = None,
) -> Scan:
    """Read the pictures in a folder as the B-scans of one volume.

    `find_scans` takes such pictures as separate images, since nothing in a folder of PNGs says
    that they belong together.

    Args:
        folder: The folder; its own pictures count (PNG, JPEG, BMP, TIFF of one page), not those
            in subfolders, nor hidden ones.
        spacing: Millimetres between B-scans, rows and columns, where known.
        name: The scan's name; the folder's where None.
        group: The subject; the scan's name where None.

    Returns:
        The volume, B-scans in natural order of their names (2 before 10). A B-scan may be empty:
        a note says which.

    Raises:
        BadScan: No such folder, no pictures, a bad one, or one of another size or type.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadScan(f"{folder} is no folder: give a folder of B-scans")
    files = [
        path
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        if extension(path) in PICTURES and not path.name.startswith(".") and path.is_file()
    ]
    if not files:
        raise BadScan(f"{folder} holds no pictures: give a folder of B-scans")
    name = name or folder.resolve().name
    return replace(stack_bscans(files, folder, name, group or name), spacing=spacing)


def stack_bscans(files: Sequence[Path], label: Path, name: str, group: str) -> Scan:
    """Read pictures as the B-scans of one volume, in the order given; `label` is for messages.

    Returns:
        The volume, with the first picture's spacing. A B-scan may be empty: a note says which.

    Raises:
        BadScan: A picture that cannot be read, is a volume itself, or is of another size or type.
    """
    frames: list[Scan] = []
    for file in files:
        frames.append(read_scan(file, may_be_constant=True))
        pixels, first = frames[-1].pixels, frames[0].pixels
        if len(pixels) != 1:
            raise BadScan(f"{file} is a volume itself: keep it in another folder than B-scans")
        if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
            raise BadScan(
                f"{file} differs in size or type from {files[0].name} of the same volume: keep "
                "each volume's B-scans in a folder of their own, name subjects (--groups), or read "
                "the pictures as single B-scans (--bscans)"
            )
        if len(frames) == 1:
            rows, columns = first.shape[1:3]
            check_size(str(label), rows, columns, len(files), first[0, 0, 0].nbytes)
    notes = tuple(dict.fromkeys(note for frame in frames for note in frame.notes))
    pixels = np.concatenate([frame.pixels for frame in frames])
    volume = Scan(
        pixels, spacing=frames[0].spacing, is_volume=True, notes=notes, files=tuple(files)
    )
    return finish(volume, str(label), name, group)
