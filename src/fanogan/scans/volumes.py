"""Volumes that are seen in three dimensions, as arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fanogan.scans.arrays import plain_array, volume_layout
from fanogan.scans.checks import BadScan, check_dtype
from fanogan.scans.pixels import Whole
from fanogan.scans.scan import Scan

_STACK = "the given array"


def as_volume(scan: Scan) -> Scan:
    """Return a volume as one whole, not as a series of frames.

    Raises:
        BadScan: It is a single image.
    """
    if len(scan.pixels) == 1:
        raise BadScan(
            f"{scan.name} is a single image, and volumes are meant: give its slices as one file "
            "(NIfTI, a TIFF stack, an array) or as a DICOM series"
        )
    return replace(scan, is_volume=False)


def volume_scans(source: Any) -> Iterator[Scan]:
    """Make one scan of each volume in memory, 'volume 00000' …, each its own subject.

    The dtype, and whether colour is really grey, are decided for all of them together.

    Args:
        source: numpy (N, slices, rows, columns), or (…, C) with C of 1, 3 or 4; a tensor, of which
            C is the second axis; or a list of arrays (slices, rows, columns), or (…, C), whose
            sizes may differ.

    Raises:
        BadScan: Another shape or dtype, no finite numbers, or one value everywhere.
    """
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
        source = np.moveaxis(source, 1, -1) if source.ndim == 5 else source
    given = source if isinstance(source, list | tuple) else plain_array(_STACK, source)
    if isinstance(given, np.ndarray) and given.ndim < 4:
        raise BadScan(
            f"{_STACK} has shape {given.shape}: give (N, slices, rows, columns); one volume is "
            "array[None]"
        )
    volumes = [plain_array(f"volume {i:05d}", each) for i, each in enumerate(given)]
    if not volumes:
        raise BadScan(f"{_STACK} holds no volumes: give some")
    for number, volume in enumerate(volumes):
        check_dtype(f"volume {number:05d}", volume.dtype)
        if volume_layout(f"volume {number:05d}", volume.shape)[0] != 1:
            raise BadScan(
                f"volume {number:05d} has shape {volume.shape}: give (slices, rows, columns)"
            )
    whole = Whole.of(_STACK, volumes)
    for number, volume in enumerate(volumes):
        name = f"volume {number:05d}"
        pixels, notes = whole.finish(name, volume)
        yield Scan(
            pixels, name=name, group=name, notes=notes, highest=whole.highest, member=("", number)
        )
