"""NIfTI (.nii, .nii.gz), by nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.scans.scan import (
    UNKNOWN_SPACING,
    BadScan,
    Decoded,
    Pixels,
    Spacing,
    check_dtype,
    check_size,
)

_BYTES_AFTER_PIXELS = 1 << 20
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: Path) -> Decoded:
    """Reads a two- or three-dimensional NIfTI; slices along its last axis become frames.

    Array axis 0 becomes rows and axis 1 columns, with nothing turned or flipped, so that a map
    goes back to the file's own geometry by moving the frames to the last axis again.

    Args:
        path: The file.

    Returns:
        (slices, rows, columns), scaled by the header's slope and intercept, and the spacing in
        millimetres; a volume where there are several slices.

    Raises:
        BadScan: More than three dimensions, no plain numbers, or too large.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        image = _open(file)
        rows, columns, slices = _sides(str(path), image)
        values = _values(image).reshape(rows, columns, slices)
        # gzip compares its checksum when it meets the end, which the pixels alone do not reach.
        file.read(_BYTES_AFTER_PIXELS)
    return Decoded(np.moveaxis(values, -1, 0), _spacing(image), is_volume=slices > 1)


def _open(file: Any) -> Any:
    """Opens a NIfTI-1 or NIfTI-2 file without reading its pixels."""
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    size = file.read(4)
    file.seek(0)
    is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
    return (Nifti2Image if is_second else Nifti1Image).from_stream(file)


def _sides(label: str, image: Any) -> tuple[int, int, int]:
    """Checks the header, and returns rows, columns and slices."""
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise BadScan(
            f"{label} has {len(shape)} dimensions {shape}: save each volume of it as a file"
        )
    rows, columns, slices = (*shape, 1)[:3]
    stored = image.header.get_data_dtype()
    check_dtype(label, stored)
    check_size(label, rows, columns, slices, max(stored.itemsize, 4))
    return rows, columns, slices


def _values(image: Any) -> Pixels:
    """Returns the scaled values; whole numbers stay integers."""
    values: Pixels = np.asarray(image.dataobj)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    is_whole = float(slope).is_integer() and float(intercept).is_integer()
    if values.dtype.kind == "f" and image.header.get_data_dtype().kind in "ui" and is_whole:
        return values.astype(np.int64)
    return values


def _spacing(image: Any) -> Spacing:
    """Returns millimetres between slices, rows and columns; None where the header has none.

    Sides of 1 without a unit are what writers leave that know no spacing.
    """
    name = image.header.get_xyzt_units()[0]
    zooms = [float(zoom) * _MILLIMETRES.get(name, 1.0) for zoom in image.header.get_zooms()]
    if name == "unknown" and all(zoom == 1 for zoom in zooms):
        return UNKNOWN_SPACING
    lengths = [zoom if np.isfinite(zoom) and zoom > 0 else None for zoom in zooms]
    rows, columns, slices = (*lengths, None)[:3]
    return slices, rows, columns
