"""A folder of B-scans as one volume, on the user's word."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fanogan.scans.find import natural_key
from fanogan.scans.gather import PICTURES, extension
from fanogan.scans.read import read_scan
from fanogan.scans.scan import UNKNOWN_SPACING, BadScan, Decoded, Scan, Spacing, check_size, finish


def read_volume(
    folder: str | Path,
    spacing: Spacing = UNKNOWN_SPACING,
    name: str | None = None,
    group: str | None = None,
) -> Scan:
    """Reads the pictures in a folder as the B-scans of one volume.

    `find_scans` takes such pictures as images of their own, since nothing in a folder of PNGs
    says that they belong together.

    Args:
        folder: The folder; its own pictures count (PNG, JPEG, BMP, TIFF of one page), not those
            of folders in it, nor hidden ones.
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
    scans: list[Scan] = []
    for path in files:
        scan = read_scan(path, may_be_constant=True)
        _check_fits(path, scan, files[0], scans, len(files))
        scans.append(scan)
    notes = tuple(dict.fromkeys(note for scan in scans for note in scan.notes))
    stacked = np.concatenate([scan.pixels for scan in scans])
    decoded = Decoded(stacked, spacing, is_volume=True, notes=notes)
    return finish(decoded, str(folder), name, group or name)


def _check_fits(path: Path, scan: Scan, first: Path, before: list[Scan], count: int) -> None:
    """Raises BadScan for a file of several pages, or one unlike the first."""
    pixels = scan.pixels
    if len(pixels) != 1:
        raise BadScan(f"{path} is a volume itself: leave it out of the folder, or read it alone")
    if not before:
        rows, columns = pixels.shape[1:3]
        check_size(str(path.parent), rows, columns, count, pixels[0, 0, 0].nbytes)
    elif (pixels.shape, pixels.dtype) != (before[0].pixels.shape, before[0].pixels.dtype):
        raise BadScan(
            f"{path} differs in size or type from {first.name} of the same folder: "
            "keep only the B-scans of one volume there"
        )
