"""Numpy files (.npy, .npz), and arrays or tensors in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard

import numpy as np
from numpy.lib import format as npy_format

from fanogan.scans.checks import BadScan, check_dtype, check_finite, check_size, damaged, mapped
from fanogan.scans.notes import GreyStoredAsColour, Note
from fanogan.scans.pixels import Whole, channels_are_equal, convert, drop_alpha, finish, wide_range
from fanogan.scans.scan import Pixels, Scan

_CHANNELS = (1, 3, 4)

Layout = Callable[[str, tuple[int, ...]], tuple[int, int, int, int, int]]
"""What a file of a label and an array of a shape hold: images or volumes, the frames of each, rows,
columns and channels."""

PIECE_BYTES = 32_000_000
"""Bytes of an array file that are decoded at a time, or else one image."""

_READ_BYTES = 1 << 20
_PASSES = 16
"""Pieces at most of an array in Fortran's order, for each of which all of it is read."""


class ArrayFile:
    """A .npy, or an array of a .npz, that is read in pieces.

    Attributes:
        label: What messages call it.
        shape: Frames, rows, columns and channels.
        each: How many frames belong together.
        mapped: A volume that is too large for memory, as `mapped` gives it.
    """

    def __init__(self, path: Path, key: str | None = None, layout: Layout | None = None):
        """Read the header, and find it harmless.

        Args:
            path: The file: an array of (rows, columns), (rows, columns, C), (N, rows, columns) or
                with C last too.
            key: The array's name in a .npz where there are several.
            layout: Other meanings of the shape.

        Raises:
            BadScan: Damaged, too large, no plain numbers, a shape that is none of these; or there
                is no such array, or several and no key.
        """
        self.path, self.key = path, key
        with self._opened() as (file, self.label, size):
            version = npy_format.read_magic(file)
            if version == (1, 0):
                shape, self.is_fortran, self.dtype = npy_format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, self.is_fortran, self.dtype = npy_format.read_array_header_2_0(file)
            else:
                raise BadScan(f"{self.label} holds named fields: save plain integers or floats")
            check_dtype(self.label, self.dtype)
            count, self.each, *sides = (layout or image_layout)(self.label, shape)
            rows, columns, channels = sides
            self.shape = frames, *_ = count * self.each, rows, columns, channels
            self.frame_bytes = rows * columns * channels * self.dtype.itemsize
            self.offset = file.tell()
            self.mapped = None
            if count == 1 < self.each and self.label == str(path):  # one volume, uncompressed
                order: Literal["F", "C"] = "F" if self.is_fortran else "C"
                self.mapped = mapped(path, self.dtype, self.offset, shape, order)
            if self.mapped is None:
                check_size(self.label, rows, columns, frames, channels * self.dtype.itemsize)
            if size - self.offset < frames * self.frame_bytes:
                raise damaged(self.label, "an array")

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], str, int]]:
        """Open it; yields what messages call it and its bytes too."""
        path, key = self.path, self.key
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                yield file, str(path), path.stat().st_size
                return
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                keys = sorted(n.removesuffix(".npy") for n in names if n.endswith(".npy"))
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
                with archive.open(info) as member:
                    yield member, f"{path}:{key}", info.file_size

    @property
    def step(self) -> int:
        """How many frames are a piece."""
        step = max(1, PIECE_BYTES // self.frame_bytes)
        # In Fortran's order each piece takes the whole file's length to read.
        step = max(step, -(-self.shape[0] // _PASSES)) if self.is_fortran else step
        return -(-step // self.each) * self.each

    def pieces(self, step: int, start: int = 0) -> Iterator[Pixels]:
        """Yield (frames, rows, columns[, channels]), up to `step` frames at a time.

        Args:
            step: How many.
            start: The first frame; those before are passed over.

        Raises:
            BadScan: It is shorter than its header says.
        """
        frames, *sides = self.shape
        plain = sides if sides[-1] > 1 else sides[:-1]
        with self._opened() as (file, _, _):
            for first in range(start, frames, step):
                count = min(step, frames - first)
                if self.is_fortran:
                    file.seek(self.offset)
                    piece = self._across(file, first, count).T.reshape(count, *plain)
                else:
                    file.seek(self.offset + first * self.frame_bytes)
                    piece = self._next(file, (count, *plain))
                yield piece

    def _across(self, file: IO[bytes], first: int, count: int) -> Pixels:
        """Return frames (channels, columns, rows, count) of an array in Fortran's order."""
        frames, rows, columns, channels = self.shape
        lines = rows * columns * channels
        piece = np.empty((lines, count), self.dtype)
        step = max(1, PIECE_BYTES // (frames * self.dtype.itemsize))
        for line in range(0, lines, step):
            held = self._next(file, (min(step, lines - line), frames))
            piece[line : line + step] = held[:, first : first + count]
        return piece.reshape(channels, columns, rows, count)

    def _next(self, file: IO[bytes], shape: tuple[int, ...]) -> Pixels:
        """Read the next values, in C's order."""
        values = np.empty(shape, self.dtype)
        room = values.reshape(-1).view(np.uint8)
        for start in range(0, len(room), _READ_BYTES):
            part = room[start : start + _READ_BYTES]
            held = file.read(len(part))
            if len(held) < len(part):
                raise damaged(self.label, "an array")
            part[:] = np.frombuffer(held, np.uint8)
        return values


def read_array(path: Path, key: str | None = None, layout: Layout | None = None) -> Scan:
    """Read all of a .npy, or of an array of a .npz, as `ArrayFile` takes it.

    Returns:
        (N, rows, columns[, channels]): each frame is an image of its own, or a slice of a volume.

    Raises:
        BadScan: As `ArrayFile`.
    """
    array = ArrayFile(path, key, layout)
    (pixels,) = array.pieces(array.shape[0])
    return Scan(pixels)


def array_images(
    path: Path,
    key: str | None,
    name: str,
    group: str,
    done: Set[str] = frozenset(),
    layout: Layout | None = None,
) -> Iterator[Scan]:
    """Read an array file in pieces, and yield each image as a scan of its own.

    A first reading decides what is decided for the file as a whole. Each image is a subject of its
    own too, unless the file has a subject's name.

    Args:
        path: The file.
        key: The array's name in a .npz.
        name: The file's name; the images' are NAME#0, NAME#1 …, where there are several.
        group: The file's subject.
        done: Names of images to leave out; a file of which all are left out is not decoded.
        layout: As `ArrayFile` takes it.

    Raises:
        BadScan: As `ArrayFile` and `Whole.of`.
    """
    array = ArrayFile(path, key, layout)
    frames, each, step = array.shape[0], array.each, array.step
    count = frames // each
    if array.mapped is not None:
        yield finish(Scan(array.mapped), array.label, name, group)
        return

    def member(of: str, number: int) -> str:
        return f"{of}#{number}" if count > 1 else of

    first = next((number for number in range(count) if member(name, number) not in done), None)
    if first is None:
        return
    kept = [*array.pieces(step)] if frames <= step else None
    whole = Whole.of(array.label, kept or array.pieces(step))
    first = 0 if kept else first
    for piece in kept or array.pieces(step, first * each):
        pixels, notes = whole.finish(array.label, piece)
        for number, image in enumerate(pixels.reshape(-1, each, *pixels.shape[1:]), first):
            if member(name, number) not in done:
                yield Scan(
                    image,
                    name=member(name, number),
                    group=member(group, number) if group == name else group,
                    notes=notes,
                    highest=whole.highest,
                    files=(path,),
                    member=(name, number) if count > 1 else None,
                )
        first += len(pixels) // each


def image_layout(label: str, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Return what a file's shape means: images, frame by frame, rows, columns and channels."""
    if len(shape) == 2:
        return 1, 1, *shape, 1
    # No image is four columns wide: a short last axis holds channels.
    if len(shape) == 3 and shape[-1] in _CHANNELS:
        return 1, 1, *shape
    if len(shape) == 3:
        return shape[0], 1, *shape[1:], 1
    if len(shape) == 4 and shape[-1] in _CHANNELS:
        return shape[0], 1, *shape[1:]
    raise _bad_shape(label, shape, "(rows, columns), (N, rows, columns) or (N, rows, columns, C)")


def volume_layout(label: str, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Return the same of volumes that are seen in three dimensions: each of several slices."""
    has_channels = len(shape) in (4, 5) and shape[-1] in _CHANNELS
    count, *sides = (1, *shape) if len(shape) - has_channels == 3 else shape
    if len(sides) - has_channels != 3:
        wanted = "(slices, rows, columns), or (N, slices, rows, columns) for N volumes"
        raise BadScan(f"{label} has shape {shape}: give {wanted}, channels last")
    slices, rows, columns, channels = (*sides, 1)[:4]
    return count, slices, rows, columns, channels


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
