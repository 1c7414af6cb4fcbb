"""The truth of labelled images: masks, found by an image's name or by its place."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np

from fanogan.detectors import Result
from fanogan.retina import find_volumes
from fanogan.scans import (
    EXTENSIONS,
    BadScan,
    Scan,
    ScanSource,
    find_scans,
    is_array_like,
    read_mask,
)

_EXTENSION = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})(:[^/]+)?$", re.IGNORECASE)


def masks_of(
    source: Any, images: Any, groups: str | None, retinal: bool
) -> Callable[[Result], np.ndarray | None]:
    """How to find an image's mask: by its name among files, by its place among arrays."""
    if source is None:
        return lambda result: None
    if are_scans(images):
        return _masks_of_scans(source, images)
    if is_array_like(source) != is_array_like(images):
        raise BadScan("masks of files are files of the same names, masks of arrays are arrays")
    if is_array_like(source):
        return _masks_by_place(source, images)
    return _masks_by_name(find_volumes(source, groups) if retinal else find_scans(source))


def are_scans(source: Any) -> TypeGuard[Sequence[Scan]]:
    """Whether a source is a list of scans in memory."""
    return isinstance(source, list | tuple) and all(isinstance(one, Scan) for one in source)


def _masks_of_scans(source: Any, scans: Sequence[Scan]) -> Callable[[Result], np.ndarray]:
    if not is_array_like(source) or len(source) != len(scans):
        raise BadScan(f"give a list of {len(scans):,} masks, one (frames, rows, columns) a scan")
    masks = {scan.name: np.asarray(mask) > 0 for scan, mask in zip(scans, source, strict=True)}

    def of_scan(result: Result) -> np.ndarray:
        name, frame = _split_frame(result.name)
        return _fitting(masks[name if name in masks else result.name][frame], result)

    return of_scan


def _masks_by_place(source: Any, images: Any) -> Callable[[Result], np.ndarray]:
    if len(source) != len(images):
        raise BadScan(f"{len(source):,} masks for {len(images):,} images: give one for each")

    def by_place(result: Result) -> np.ndarray:
        # An array's image is called by its place, and one may have been left out.
        place = int(result.name.removeprefix("image "))
        return _fitting(np.asarray(source[place]) > 0, result)

    return by_place


def _masks_by_name(sources: Sequence[Any]) -> Callable[[Result], np.ndarray]:
    files: dict[str, ScanSource] = {}
    for found in sources:
        other = files.setdefault(_without_extension(found.name), found)
        if other is not found:
            raise BadScan(
                f"{other.path} and {found.path} could both be the mask of one image: leave one out"
            )

    @functools.lru_cache(maxsize=1)  # a volume asks for the same file with each of its frames
    def frames_of(found: ScanSource) -> np.ndarray:
        if found.parts:  # the B-scans of a volume
            return np.concatenate([read_mask(part) for part in found.parts])
        return read_mask(found.path if found.key is None else f"{found.path}:{found.key}")

    def by_name(result: Result) -> np.ndarray:
        name, frame = _split_frame(result.name)
        found = files.get(_without_extension(name))
        if found is None:
            raise BadScan(
                f"{result.name} has no mask: put one of the same name among the masks, empty "
                "where nothing is anomalous"
            )
        frames = frames_of(found)
        if frame >= len(frames):
            raise BadScan(
                f"{found.path} has {len(frames):,} frames and no mask of {result.name}: give one "
                "for each frame"
            )
        return _fitting(frames[frame], result)

    return by_name


def _without_extension(name: str) -> str:
    """A name without extension and ':key'; what else follows a dot is part of a name."""
    return _EXTENSION.sub("", name)


def _split_frame(name: str) -> tuple[str, int]:
    """A frame of a file of several is called by its file and number, 'scan.tif#12'."""
    match = re.fullmatch(r"(.+)#(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _fitting(mask: np.ndarray, result: Result) -> np.ndarray:
    assert result.picture is not None
    size = result.picture.shape[:2]
    if mask.shape != size:
        raise BadScan(
            f"the mask of {result.name} has {'×'.join(map(str, mask.shape))} pixels and the image "
            f"{'×'.join(map(str, size))}: give masks of the images' sizes"
        )
    return mask
