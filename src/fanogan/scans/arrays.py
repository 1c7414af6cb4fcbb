"""Numpy files (.npy, .npz), and arrays or tensors in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
from numpy.lib import format as npy_format

from fanogan.scans.scan import (
    GREY_NOTE,
    BadScan,
    Decoded,
    Pixels,
    Scan,
    channels_are_equal,
    check_dtype,
    check_finite,
    check_size,
    convert,
    damaged,
    drop_alpha,
    stored_dtype,
)

_CHANNELS = (1, 3, 4)


def read_npy(path: Path) -> Decoded:
    """Reads a .npy of (rows, columns), (rows, columns, C), (N, rows, columns) or with C last too.

    Args:
        path: The file.

    Returns:
        (N, rows, columns[, channels]): each frame is an image of its own.

    Raises:
        BadScan: Damaged, too large, no plain numbers, or a shape that is none of these.
    """
    with path.open("rb") as file:
        return _read_member(file, str(path), path.stat().st_size)


def read_npz(path: Path, key: str | None = None) -> Decoded:
    """Reads one array of a .npz; `key` names it, and may be left out where there is only one.

    Args:
        path: The file.
        key: The array's name.

    Returns:
        As `read_npy`.

    Raises:
        BadScan: As `read_npy`, or there is no such array, or several and no key.
    """
    with zipfile.ZipFile(path) as archive:
        members = {
            name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")
        }
        key = _chosen_key(path, sorted(members), key)
        info = archive.getinfo(members[key])
        with archive.open(info) as file:
            return _read_member(file, f"{path}:{key}", info.file_size)


def _chosen_key(path: Path, keys: list[str], key: str | None) -> str:
    """Returns the key to read, or raises BadScan with the list of those there are."""
    if key is None and len(keys) == 1:
        return keys[0]
    if key in keys:
        return key
    if not keys:
        raise BadScan(f"{path} holds no arrays: save one with numpy.savez")
    listed = ", ".join(keys)
    problem = "holds several arrays" if key is None else f"has no array {key!r}"
    raise BadScan(f"{path} {problem} ({listed}): write {path.name}:KEY, as {path.name}:{keys[0]}")


def _read_member(file: IO[bytes], label: str, size: int) -> Decoded:
    """Reads one array in numpy's format, after its header has been found harmless."""
    version = npy_format.read_magic(file)
    readers = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    if version not in readers:
        raise BadScan(f"{label} holds named fields: save plain integers or floats")
    shape, _, dtype = readers[version](file)
    check_dtype(label, dtype)
    frames, rows, columns, channels = _layout(label, shape)
    check_size(label, rows, columns, frames, channels * dtype.itemsize)
    if size - file.tell() < frames * rows * columns * channels * dtype.itemsize:
        raise damaged(label, "an array")
    file.seek(0)
    pixels: Pixels = npy_format.read_array(file, allow_pickle=False)
    sides = (frames, rows, columns)
    return Decoded(pixels.reshape(sides if channels == 1 else (*sides, channels)))


def _layout(label: str, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Reads a file's shape as (frames, rows, columns, channels)."""
    if len(shape) == 2:
        return 1, *shape, 1
    # No image is four columns wide: a short last axis holds channels.
    if len(shape) == 3 and shape[-1] in _CHANNELS:
        return 1, *shape
    if len(shape) == 3:
        return *shape, 1
    if len(shape) == 4 and shape[-1] in _CHANNELS:
        return shape
    raise _bad_shape(label, shape, "(rows, columns), (N, rows, columns) or (N, rows, columns, C)")


def _bad_shape(label: str, shape: tuple[int, ...], wanted: str) -> BadScan:
    """Returns the error for an array that is no stack of images."""
    hint = ""
    if len(shape) == 4 and shape[1] in _CHANNELS:
        hint = "; channels come last: numpy.moveaxis(array, 1, -1)"
    return BadScan(f"{label} has shape {shape}: give {wanted} with C of 1, 3 or 4{hint}")


def is_array_like(source: object) -> TypeGuard[Any]:
    """Says whether `source` is an array, a tensor, or a list of only these, and not paths."""
    if isinstance(source, list | tuple):
        return bool(source) and all(isinstance(item, np.ndarray) for item in source)
    return isinstance(source, np.ndarray) or _is_tensor(source)


def _is_tensor(source: object) -> bool:
    # By its methods, so that torch need not be imported to read a folder of PNGs.
    return all(hasattr(source, method) for method in ("detach", "cpu", "numpy"))


def array_scans(source: Any) -> Iterator[Scan | BadScan]:
    """Makes one scan of each image of an array; pixels are views of it where they can be.

    What concerns the whole is decided for the whole: the dtype, whether colour is really grey,
    and whether all is one constant value. A single constant image passes, as it does in a .npy.

    Args:
        source: numpy (N, rows, columns) or (N, rows, columns, C); a tensor (N, rows, columns) or
            (N, C, rows, columns); or a list of arrays (rows, columns) or (rows, columns, C)
            whose sizes may differ. C is 1, 3 or 4.

    Returns:
        Scans 'image 00000' …, one frame each, each its own subject; in the place of an image
        that cannot be used, the BadScan that says why.

    Raises:
        BadScan: The whole array has a wrong shape or dtype, or is constant.
    """
    images: Iterable[Pixels] = source if isinstance(source, list | tuple) else _stack(source)
    checked = [_checked(index, image) for index, image in enumerate(images)]
    usable = [image for image in checked if not isinstance(image, BadScan)]
    if usable and _all_constant(usable):
        raise BadScan("the given array has the same value in every pixel: there is nothing to see")
    low, high = _range_of_wide_integers(usable)
    is_grey = all(image.ndim == 2 or channels_are_equal(image) for image in usable)
    return (_scan(index, image, low, high, is_grey) for index, image in enumerate(checked))


def _name(index: int) -> str:
    return f"image {index:05d}"


def _stack(source: Any) -> Pixels:
    """Returns the images of one array or tensor as (N, rows, columns[, C])."""
    array = _channels_last(source) if _is_tensor(source) else source
    label = "the given array"
    check_dtype(label, array.dtype)
    is_stack = array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in _CHANNELS)
    if not is_stack:
        raise _bad_shape(label, tuple(source.shape), "(N, rows, columns) or (N, rows, columns, C)")
    if array.ndim == 3 and array.shape[-1] in _CHANNELS:
        raise BadScan(
            f"{label} has shape {array.shape}, which looks like one colour image: "
            "give it as array[None]"
        )
    if array.size == 0:
        raise BadScan(f"{label} of shape {tuple(source.shape)} holds no pixels: give images")
    stack: Pixels = array
    return stack


def _channels_last(tensor: Any) -> Pixels:
    """Returns a tensor as an array, (N, C, rows, columns) with its channels moved to the end."""
    try:
        array: Pixels = tensor.detach().cpu().numpy()
    except TypeError as error:
        raise BadScan(
            f"the given tensor of dtype {tensor.dtype} has no array: convert it by .float()"
        ) from error
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def _checked(index: int, image: Pixels) -> Pixels | BadScan:
    """Returns one image without alpha, or why it cannot be used."""
    label = _name(index)
    has_channels = image.ndim == 3 and image.shape[-1] in _CHANNELS
    if image.ndim != 2 and not has_channels:
        return _bad_shape(label, image.shape, "(rows, columns) or (rows, columns, C)")
    try:
        check_dtype(label, image.dtype)
        check_size(label, *image.shape[:2])
    except BadScan as error:
        return error
    return drop_alpha(label, image, axis_count=3)[0]


def _all_constant(images: list[Pixels]) -> bool:
    first = images[0][0, 0]
    same_shape = (np.shape(image[0, 0]) == np.shape(first) for image in images)
    return all(same_shape) and all(bool((image == first).all()) for image in images)


def _range_of_wide_integers(images: list[Pixels]) -> tuple[int, int]:
    """Returns the least and greatest value over the images whose dtype cannot be kept."""
    wide = [image for image in images if image.dtype.kind in "ui" and image.dtype.itemsize > 2]
    low = min((int(image.min()) for image in wide), default=0)
    return low, max((int(image.max()) for image in wide), default=0)


def _scan(
    index: int, image: Pixels | BadScan, low: int, high: int, is_grey: bool
) -> Scan | BadScan:
    """Makes one image of an array a scan."""
    if isinstance(image, BadScan):
        return image
    label = _name(index)
    notes: tuple[str, ...] = ()
    if image.ndim == 3 and is_grey:
        image, notes = image[..., 0], (GREY_NOTE,)
    pixels = convert(image, stored_dtype(image.dtype, low, high))[np.newaxis]
    try:
        check_finite(label, pixels)
    except BadScan as error:
        return error
    return Scan(pixels, name=label, group=label, notes=notes, member=("", index))
