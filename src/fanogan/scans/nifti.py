"""NIfTI (.nii, .nii.gz), by nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.scans.scan import (
    UNKNOWN_SPACING,
    BadScan,
    Pixels,
    Scan,
    Spacing,
    check_dtype,
    check_size,
    known_length,
)

_BYTES_AFTER_PIXELS = 1 << 20
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: Path) -> Scan:
    """Read a two- or three-dimensional NIfTI; slices along its last axis become frames.

    Array axis 0 becomes rows and axis 1 columns, with nothing turned or flipped, so that a map
    goes back to the file's own geometry by moving the frames to the last axis again.

    Returns:
        (slices, rows, columns), scaled by the header's slope and intercept, and the spacing in
        millimetres; a volume where there are several slices.

    Raises:
        BadScan: More than three dimensions, no plain numbers, or too large.
    """
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        size = file.read(4)
        file.seek(0)
        is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        image: Any = (Nifti2Image if is_second else Nifti1Image).from_stream(file)
        rows, columns, slices = _sides(str(path), image)
        values: Pixels = np.asarray(image.dataobj)
        # gzip compares its checksum when it meets the end, which the pixels alone do not reach.
        file.read(_BYTES_AFTER_PIXELS)
    scale = (float(image.dataobj.slope), float(image.dataobj.inter))
    is_stored_whole = image.header.get_data_dtype().kind in "ui"
    if values.dtype.kind == "f" and is_stored_whole and all(map(float.is_integer, scale)):
        values = values.astype(np.int64)
    frames = np.moveaxis(values.reshape(rows, columns, slices), -1, 0)
    return Scan(frames, spacing=_spacing(image), is_volume=slices > 1)


def _sides(label: str, image: Any) -> tuple[int, int, int]:
    """Check the header, and return rows, columns and slices."""
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


def _spacing(image: Any) -> Spacing:
    """Return millimetres between slices, rows and columns; None where the header has none."""
    name = image.header.get_xyzt_units()[0]
    zooms = [float(zoom) * _MILLIMETRES.get(name, 1.0) for zoom in image.header.get_zooms()]
    # Writers that know no spacing leave sides of 1 without a unit.
    if name == "unknown" and all(zoom == 1 for zoom in zooms):
        return UNKNOWN_SPACING
    rows, columns, slices = (*map(known_length, zooms), None)[:3]
    return slices, rows, columns
