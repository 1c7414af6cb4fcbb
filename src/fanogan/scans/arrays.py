"""Numpy files (.npy, .npz), and arrays or tensors in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
from numpy.lib import format as npy_format

from fanogan.scans.notes import GreyStoredAsColour, Note
from fanogan.scans.scan import (
    BadScan,
    Pixels,
    Scan,
    channels_are_equal,
    check_dtype,
    check_finite,
    check_size,
    convert,
    damaged,
    drop_alpha,
    wide_range,
)

_CHANNELS = (1, 3, 4)


def read_npy(path: Path) -> Scan:
    """Read a .npy of (rows, columns), (rows, columns, C), (N, rows, columns) or with C last too.

    Returns:
        (N, rows, columns[, channels]): each frame is an image of its own.

    Raises:
        BadScan: Damaged, too large, no plain numbers, or a shape that is none of these.
    """
    with path.open("rb") as file:
        return _read_array(file, str(path), path.stat().st_size)


def read_npz(path: Path, key: str | None = None) -> Scan:
    """Read one array of a .npz as `read_npy` does; `key` names it where there are several.

    Raises:
        BadScan: As `read_npy`, or there is no such array, or several and no key.
    """
    with zipfile.ZipFile(path) as archive:
        keys = sorted(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))
        if not keys:
            raise BadScan(f"{path} holds no arrays: save one with numpy.savez")
        if key not in keys and (key is not None or len(keys) > 1):
            problem = "holds several arrays" if key is None else f"has no array {key!r}"
            raise BadScan(
                f"{path} {problem} ({', '.join(keys)}): "
                f"write {path.name}:KEY, as {path.name}:{keys[0]}"
            )
        key = keys[0] if key is None else key
        info = archive.getinfo(f"{key}.npy")
        with archive.open(info) as file:
            return _read_array(file, f"{path}:{key}", info.file_size)


def _read_array(file: IO[bytes], label: str, size: int) -> Scan:
    """Read one array in numpy's format, after its header has been found harmless."""
    version = npy_format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy_format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = npy_format.read_array_header_2_0(file)
    else:
        raise BadScan(f"{label} holds named fields: save plain integers or floats")
    check_dtype(label, dtype)
    frames, rows, columns, channels = _layout(label, shape)
    check_size(label, rows, columns, frames, channels * dtype.itemsize)
    if size - file.tell() < frames * rows * columns * channels * dtype.itemsize:
        raise damaged(label, "an array")
    file.seek(0)
    pixels: Pixels = npy_format.read_array(file, allow_pickle=False)
    sides = (frames, rows, columns)
    return Scan(pixels.reshape(sides if channels == 1 else (*sides, channels)))


def _layout(label: str, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return what a file's shape means: frames, rows, columns and channels."""
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
    """Return the error for an array that is no stack of images."""
    hint = ""
    if len(shape) == 4 and shape[1] in _CHANNELS:
        hint = "; channels come last: numpy.moveaxis(array, 1, -1)"
    return BadScan(f"{label} has shape {shape}: give {wanted} with C of 1, 3 or 4{hint}")


def is_array_like(source: object) -> TypeGuard[Any]:
    """Return whether `source` is an array, a tensor, or a list of arrays alone, and not paths."""
    if isinstance(source, list | tuple):
        return bool(source) and all(isinstance(item, np.ndarray) for item in source)
    return isinstance(source, np.ndarray) or _is_tensor(source)


def _is_tensor(source: object) -> bool:
    # By its methods, so that torch need not be imported to read a folder of PNGs.
    return all(hasattr(source, method) for method in ("detach", "cpu", "numpy"))


def array_scans(source: Any) -> Iterator[Scan | BadScan]:
    """Make one scan of each image of an array; pixels are views of it where they can be.

    The dtype, whether colour is really grey, and whether all is one constant value are decided
    for the array as a whole. A single constant image passes, as it does in a .npy.

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
    checked = [_checked(f"image {i:05d}", image) for i, image in enumerate(images)]
    usable = [image for image in checked if not isinstance(image, BadScan)]
    if usable and all(
        image.shape[2:] == usable[0].shape[2:] and bool((image == usable[0][0, 0]).all())
        for image in usable
    ):
        raise BadScan("the given array has the same value in every pixel: there is nothing to see")
    ranges = [each for image in usable if (each := wide_range(image)) is not None]
    low, high = min((r[0] for r in ranges), default=0), max((r[1] for r in ranges), default=0)
    highest = max((int(image.max()) for image in usable if image.dtype.kind in "ui"), default=None)
    is_grey = all(image.ndim == 2 or channels_are_equal(image) for image in usable)

    def scan(index: int, name: str, image: Pixels | BadScan) -> Scan | BadScan:
        if isinstance(image, BadScan):
            return image
        notes: tuple[Note, ...] = ()
        if image.ndim == 3 and is_grey:
            image, notes = image[..., 0], (GreyStoredAsColour(),)
        pixels = convert(image, low, high)[np.newaxis]
        try:
            check_finite(name, pixels, image)
        except BadScan as error:
            return error
        return Scan(pixels, name=name, group=name, notes=notes, member=("", index), highest=highest)

    return (scan(index, f"image {index:05d}", image) for index, image in enumerate(checked))


def plain_array(label: str, array: Any) -> Pixels:
    """Return an array of a subclass as a plain one: a `numpy.matrix` of three axes corrupts memory.

    Raises:
        BadScan: A masked array, some of whose values don't count.
    """
    if np.ma.is_masked(array):
        raise BadScan(f"{label} is masked in places: give what is to be seen there, by .filled()")
    return np.asarray(array)


def _stack(source: Any) -> Pixels:
    """Return the images of one array or tensor as (N, rows, columns[, C])."""
    label, array = "the given array", source
    if _is_tensor(source):
        try:
            array = source.detach().cpu().numpy()
        except TypeError as error:
            raise BadScan(
                f"the given tensor of dtype {source.dtype} has no array: convert it by .float()"
            ) from error
        if array.ndim == 4:
            array = np.moveaxis(array, 1, -1)
    array = plain_array(label, array)
    check_dtype(label, array.dtype)
    if array.ndim != 3 and not (array.ndim == 4 and array.shape[-1] in _CHANNELS):
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


def _checked(label: str, image: Pixels) -> Pixels | BadScan:
    """Return one image without alpha, or why it cannot be used."""
    try:
        image = plain_array(label, image)
    except BadScan as error:
        return error
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] in _CHANNELS):
        return _bad_shape(label, image.shape, "(rows, columns) or (rows, columns, C)")
    try:
        check_dtype(label, image.dtype)
        check_size(label, *image.shape[:2])
    except BadScan as error:
        return error
    return drop_alpha(label, image, axis_count=3)[0]
