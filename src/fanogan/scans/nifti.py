"""NIfTI (.nii, .nii.gz, and pairs of .hdr and .img), by nibabel."""

from __future__ import annotations

import gzip
import tempfile
from contextlib import nullcontext
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.scans.checks import BadScan, check_dtype, check_size, damaged, mapped
from fanogan.scans.scan import UNKNOWN_SPACING, Affine, Pixels, Scan, Spacing, known_length
from fanogan.storage import IN_MEMORY

_BYTES_AFTER_PIXELS = 1 << 20
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 348
_FURTHEST = 0.1
"""Pixels by which a mask may lie beside its image: headers round."""

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_nifti_header(path: Path | str) -> bool:
    """Return whether a .hdr is the header of a NIfTI pair; other programs have .hdr files too."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError:
        return False
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def read_nifti(path: Path, *, in_parts: bool = False) -> Scan:
    """Read a two- or three-dimensional NIfTI; slices along its last axis become frames.

    The content says whether it is compressed, whatever the name. Of a pair the header is given.

    Array axis 0 becomes rows and axis 1 columns, with nothing turned or flipped, so that a map
    goes back to the file's own geometry by moving the frames to the last axis again.

    Args:
        path: The file.
        in_parts: Whether one too large for memory may stay where it lies (see `mapped`), if it is
            a single file that is neither compressed nor scaled.

    Returns:
        (slices, rows, columns), scaled by the header's slope and intercept, and the spacing in
        millimetres; a volume where there are several slices.

    Raises:
        BadScan: More than three dimensions, no plain numbers, or too large.
    """
    from nibabel.fileholders import FileHolder
    from nibabel.nifti1 import Nifti1Image, Nifti1Pair
    from nibabel.nifti2 import Nifti2Image, Nifti2Pair

    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        size = file.read(4)
        file.seek(0)
        is_second = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        if path.suffix.lower() == ".hdr":
            pixels = next((p for p in map(path.with_suffix, (".img", ".IMG")) if p.exists()), None)
            if pixels is None:
                raise BadScan(f"{path} is the header of a pair without its .img: copy that too")
            pair = {"header": FileHolder(fileobj=file), "image": FileHolder(str(pixels))}
            image: Any = (Nifti2Pair if is_second else Nifti1Pair).from_file_map(pair)
        else:
            pixels = None
            image = (Nifti2Image if is_second else Nifti1Image).from_stream(file)
        rows, columns, slices = sides = _sides(str(path), image)
        stored, is_scaled = (
            image.get_data_dtype(),
            (image.dataobj.slope, image.dataobj.inter) != (1, 0),
        )
        if in_parts and not (is_compressed or is_scaled or pixels):
            lying = mapped(path, stored, image.dataobj.offset, sides, "F")
            if lying is not None:
                frames = np.moveaxis(lying, -1, 0)
                return Scan(frames, spacing=_spacing(image), is_volume=True, affine=_affine(image))
        # Scaling gives float64.
        each = 8 if is_scaled else max(stored.itemsize, 4)
        check_size(str(path), rows, columns, slices, each)
        # Else nibabel makes room for all that is declared. Seeking decompresses piece by piece.
        with pixels.open("rb") if pixels else nullcontext(file) as opened:
            count = rows * columns * slices * stored.itemsize
            opened.seek(image.dataobj.offset + count - 1)
            if not opened.read(1):
                raise damaged(str(path), "a NIfTI image")
        values: Pixels = np.asarray(image.dataobj)
        # gzip compares its checksum when it meets the end, which the pixels alone do not reach.
        file.read(_BYTES_AFTER_PIXELS)
    scale = (float(image.dataobj.slope), float(image.dataobj.inter))
    is_stored_whole = image.header.get_data_dtype().kind in "ui"
    if values.dtype.kind == "f" and is_stored_whole and all(map(float.is_integer, scale)):
        values = values.astype(np.int64)
    frames = np.moveaxis(values.reshape(rows, columns, slices), -1, 0)
    return Scan(frames, spacing=_spacing(image), is_volume=slices > 1, affine=_affine(image))


def as_nifti(
    values: NDArray[np.float32 | np.uint8],
    spacing: Spacing,
    affine: Affine | None,
    rows_first: bool,
) -> bytes | mmap:
    """Return (frames, rows, columns) as the bytes of a compressed NIfTI, large ones in a file.

    Its axes are columns, rows and frames, as other programs have those of DICOM and of pictures;
    those of a NIfTI's own map are rows, columns and frames, as `read_nifti` has them.

    Args:
        values: The map, or a mask.
        spacing: Millimetres between frames, rows and columns; a length that isn't known becomes 1.
        affine: As `Scan.affine`. Without it columns go to the left and rows to the back, as other
            programs place pictures that say nothing.
        rows_first: Whether it is the map of a NIfTI.
    """
    import nibabel

    lies = np.array(affine if affine is not None else np.eye(4))
    if affine is None:
        between, row, column = (length or 1.0 for length in spacing)
        lies[:3, :3] = [(0, -column, 0), (-row, 0, 0), (0, 0, between)]
    axes = (1, 2, 0) if rows_first else (2, 1, 0)
    image = nibabel.Nifti1Image(
        values.transpose(axes),
        lies if rows_first else lies[:, [1, 0, 2, 3]],
    )
    image.header.set_xyzt_units("mm" if any(spacing) or affine else "unknown")
    # Programs differ in which of the two they read; the second can't hold shear.
    image.set_sform(image.affine, 1 if affine else 2)
    image.set_qform(image.affine, 1 if affine else 2)
    if values.nbytes < IN_MEMORY:
        return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with tempfile.TemporaryFile() as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
            image.to_stream(packed)
        file.flush()
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def laid_over(label: str, mask: NDArray[np.bool_], own: Affine, image: Affine) -> NDArray[np.bool_]:
    """Turn a mask (frames, rows, columns) as its image lies, by the affines of both.

    Raises:
        BadScan: Spacing, position or angle differ, so that no turn brings pixel over pixel.
    """
    from nibabel import orientations

    values = np.moveaxis(mask, 0, -1)
    turn = orientations.ornt_transform(
        orientations.io_orientation(np.array(own)), orientations.io_orientation(np.array(image))
    )
    turned = np.asarray(orientations.apply_orientation(values, turn))
    placed = np.array(own) @ orientations.inv_ornt_aff(turn, values.shape)
    last = np.array(turned.shape) - 1
    corners = np.array([(*last * corner, 1) for corner in np.ndindex(2, 2, 2)]).T
    away = np.abs(np.linalg.solve(np.array(image), placed @ corners) - corners).max()
    if not away <= _FURTHEST:
        raise BadScan(
            f"{label} lies {away:.2g} pixels beside its image at a corner, by the affines of both: "
            "resample it to the image's grid, or save it with the image's affine if they match "
            "pixel by pixel"
        )
    return np.moveaxis(turned, -1, 0)


def _affine(image: Any) -> Affine | None:
    """Return where the pixels lie; None where the header doesn't say or can't be right."""
    if not image.header["sform_code"] and not image.header["qform_code"]:
        return None
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        return None
    return tuple(map(tuple, affine.tolist()))


def _sides(label: str, image: Any) -> tuple[int, int, int]:
    """Return rows, columns and slices of plain numbers."""
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise BadScan(
            f"{label} has {len(shape)} dimensions {shape}: save each volume of it as a file"
        )
    rows, columns, slices = (*shape, 1)[:3]
    check_dtype(label, image.header.get_data_dtype())
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
