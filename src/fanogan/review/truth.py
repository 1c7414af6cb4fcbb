"""Masks of the truth, shown to whoever started the review with them, and to nobody else."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from fanogan.evaluation import named_masks
from fanogan.retina import find_volumes
from fanogan.review.opened import Opened, member_of
from fanogan.review.shapes import outlines_of
from fanogan.scans import BadScan, find_scans


class Truth:
    """The masks of a folder, found by the scans' names as `evaluate --masks` finds them."""

    def __init__(self, folder: Path):
        """Look for the masks.

        Raises:
            BadScan: there are none, or two of one name.
        """
        self.folder = folder
        self.of_images = named_masks(find_scans(folder))

    @cached_property
    def of_volumes(self) -> Any:
        """How those of OCT volumes are found, whose pictures in a folder are one volume."""
        volumes: Any = find_volumes(self.folder)
        return named_masks(volumes)

    @cached_property
    def of_voxels(self) -> Any:
        """How those of volumes in three dimensions are found, several in an array file."""
        return named_masks(find_scans(self.folder, kind="volume"), kind="volume")

    def outlines(self, case: Opened, number: int) -> list[list[list[float]]] | None:
        """Return the outlines of a frame's mask as (column, row) points; None where none is known.

        Raises:
            BadScan: the mask can't be read, or isn't of the scan's size.
        """
        name, member = member_of(case.case)
        is_voxels = case.about.get("kind") == "volume"
        flat = self.of_images if case.en_face is None else self.of_volumes
        find = self.of_voxels if is_voxels else flat
        found = find(name, None if case.scan is None else case.scan.affine)
        if found is None:
            return None
        path, masks = found
        if is_voxels:
            masks = masks[member : member + 1].reshape(-1, *masks.shape[2:])
        else:
            number += member
        if number >= len(masks) or masks.shape[1:] != case.shape[1:]:
            sides = "×".join(map(str, masks.shape))
            raise BadScan(f"{path} has {sides} pixels: give a mask of the scan's size")
        return outlines_of(masks[number])
