"""The masks of labelled images, found by an image's name or by its place."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from fanogan.data import Preprocessing
from fanogan.retina import PicturesAs
from fanogan.scans import (
    EXTENSIONS,
    SIGNAL_EXTENSIONS,
    Affine,
    BadScan,
    Kind,
    Note,
    Scan,
    ScanSource,
    composed,
    find_scans,
    is_array_like,
    marked,
    on_this_machine,
    read_mask,
)
from fanogan.scoring import Result

_EXTENSIONS = "|".join(map(re.escape, (*EXTENSIONS, *SIGNAL_EXTENSIONS)))
_EXTENSION = re.compile(rf"({_EXTENSIONS})(:[^/]+)?$", re.IGNORECASE)


def masks_of(
    source: Any,
    images: Any,
    groups: str | None,
    preprocessing: Preprocessing,
    labels: Collection[int] | None = None,
    on_note: Callable[[str, Note], None] = lambda name, note: None,
    *,
    pictures: PicturesAs = "auto",
) -> Callable[[Result], np.ndarray | None]:
    """Return how to find an image's mask: by its name among files, by its place among arrays.

    Args:
        source: the masks; None: there are none.
        images: the images that they belong to.
        groups: how subjects are named.
        preprocessing: how the images are read.
        labels: the values that count as anomalous; None: all but 0.
        on_note: called with a mask's name and what a user should know of how it was understood.
        pictures: of retinal OCT, what the pictures of a folder are.

    Raises:
        BadScan: masks that can't belong to these images, at once or from what is returned.
    """

    def of_array(values: Any, result: Result) -> np.ndarray:
        mask, note = marked(values, f"the mask of {result.name}", labels)
        if note is not None:
            on_note(result.name, note)
        return _fitting(mask, result)

    if source is None:
        return lambda result: None
    if are_scans(images):
        if not is_array_like(source) or len(source) != len(images):
            raise BadScan(
                f"give a list of {len(images):,} masks, one (frames, rows, columns) a scan"
            )
        masks = {scan.name: mask for scan, mask in zip(images, source, strict=True)}
        return lambda result: of_array(masks[result.scan_name][result.frame], result)
    if is_array_like(source) != is_array_like(images):
        raise BadScan("masks of files are files of the same names, masks of arrays are arrays")
    if is_array_like(source):
        if len(source) != len(images):
            raise BadScan(f"{len(source):,} masks for {len(images):,} images: give one for each")
        return lambda result: of_array(source[result.frame], result)
    found = (
        preprocessing.find(source, groups, pictures)
        if preprocessing.has_patches
        else find_scans(source, kind=preprocessing.kind)
    )
    return _masks_by_name(found, labels, on_note, preprocessing.kind)


def are_scans(source: Any) -> TypeGuard[Sequence[Scan]]:
    """Tell whether a source is a list of scans in memory."""
    return isinstance(source, list | tuple) and all(isinstance(scan, Scan) for scan in source)


def _masks_by_name(
    sources: Iterable[ScanSource],
    labels: Collection[int] | None,
    on_note: Callable[[str, Note], None],
    kind: Kind,
) -> Callable[[Result], np.ndarray]:
    mask_of = named_masks(sources, labels, on_note, kind)

    def by_name(result: Result) -> np.ndarray:
        found = mask_of(result.scan_name, result.affine)
        if found is None:
            raise BadScan(
                f"{result.name} has no mask: put one of the same name among the masks, empty "
                "where nothing is anomalous"
            )
        path, frames = found
        if result.frame >= len(frames):
            unit = "volume" if kind == "volume" else "frame"
            raise BadScan(
                f"{path} has {len(frames):,} {unit}s and no mask of {result.name}: give one "
                f"for each {unit}"
            )
        return _fitting(frames[result.frame], result)

    return by_name


def named_masks(
    sources: Iterable[ScanSource],
    labels: Collection[int] | None = None,
    on_note: Callable[[str, Note], None] = lambda name, note: None,
    kind: Kind = "image",
) -> Callable[[str, Affine | None], tuple[Path, np.ndarray] | None]:
    """Return how to find a scan's mask among files: by the scan's name, whatever the extension.

    Args:
        sources: the masks' files.
        labels: the values that count as anomalous; None: all but 0.
        on_note: as for ``masks_of``.
        kind: what the masks' files hold.

    Returns:
        A function of a scan's name and ``affine`` that returns the mask's file and its (frames,
        rows, columns) bool, of volumes (volumes, slices, rows, columns), or None where no file has
        the name; it raises BadScan as ``read_mask``.

    Raises:
        BadScan: two files could be the mask of one scan.
    """
    files: dict[str, ScanSource] = {}
    for file in sources:
        other = files.setdefault(without_extension(file.name), file)
        if other is not file:
            raise BadScan(
                f"{other.path} and {file.path} could both be the mask of one image: leave one out"
            )

    @functools.lru_cache(maxsize=1)  # a volume asks for the same file with each of its frames
    def frames_of(file: ScanSource, affine: Affine | None) -> np.ndarray:
        noted = functools.partial(on_note, file.name)
        with on_this_machine(file) as here:
            paths = here.parts or [here.path if here.key is None else f"{here.path}:{here.key}"]
            masks = [
                read_mask(path, labels, image_affine=affine, kind=kind, on_note=noted)
                for path in paths
            ]
        # The files of a DICOM series are slices of one volume.
        return np.concatenate(masks, axis=1 if kind == "volume" else 0)

    def found(name: str, affine: Affine | None) -> tuple[Path, np.ndarray] | None:
        file = files.get(without_extension(name))
        return None if file is None else (file.path, frames_of(file, affine))

    return found


def without_extension(name: str) -> str:
    """Return a name without extension and ':key'; what else follows a dot is part of a name.

    Letters with marks are composed: macOS stores them in two characters, others in one.
    """
    return composed(_EXTENSION.sub("", name))


def _fitting(mask: np.ndarray, result: Result) -> np.ndarray:
    assert result.residual is not None
    size, mask = result.residual.shape, np.atleast_2d(mask)  # of a signal it may have no rows
    if mask.shape != size:
        raise BadScan(
            f"the mask of {result.name} has {'×'.join(map(str, mask.shape))} pixels and the image "
            f"{'×'.join(map(str, size))}: give masks of the images' sizes"
        )
    return mask
