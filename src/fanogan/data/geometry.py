"""Sides of what networks see: of windows and whole images, and how these are resampled to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from fanogan.recipes import Recipe, Sides, blocks_of
from fanogan.scans import BadScan, Scan
from fanogan.text import extent


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resample (B, C, *sides) to (B, C, *size): linear along each side, antialiased."""
    size = tuple(size)
    if x.shape[2:] == size:
        return x
    if len(size) == 2:
        return F.interpolate(x, size=size, mode="bilinear", antialias=True)
    # torch has it of two sides only: rows and columns of each slice, then the slices.
    slices, *plane = size
    within = resized(x.flatten(1, 2), plane).reshape(*x.shape[:3], math.prod(plane))
    return resized(within, (slices, math.prod(plane))).reshape(*x.shape[:2], *size)


def window_and_size(scans: Sequence[Scan], recipe: Recipe) -> tuple[Sides | None, Sides]:
    """Return the window, or None where images are seen whole, and the sides that networks see.

    Raises:
        BadScan: images of different or large sizes, and one smaller than the recipe's window.
    """
    sizes = {sides_of(scan, recipe.is_volume) for scan in scans}
    size = next(iter(sizes))
    if len(sizes) == 1 and all(side <= of for side, of in zip(size, recipe.window, strict=True)):
        # A volume isn't resized to another's size, as images are.
        window = size if recipe.is_volume else None
        try:
            blocks_of(size)
        except ValueError:
            return window, recipe.image_size
        as_it_is = all(side <= of for side, of in zip(size, recipe.image_size, strict=True))
        return window, size if as_it_is else recipe.image_size
    for scan in scans:
        check_window(scan, recipe)
    return recipe.window, recipe.image_size


def sides_of(scan: Scan, is_volume: bool) -> Sides:
    """Return [slices,] rows and columns of what windows are cut from."""
    return tuple(scan.pixels.shape[0 if is_volume else 1 : 3])


def check_window(scan: Scan, recipe: Recipe) -> None:
    """Raise BadScan where a scan is smaller than the recipe's window."""
    sides = sides_of(scan, recipe.is_volume)
    if any(side < of for side, of in zip(sides, recipe.window, strict=True)):
        what = "signals" if recipe.is_signal else "volumes" if recipe.is_volume else "images"
        raise BadScan(
            f"{scan.name} has {extent(sides)}, fewer than the window of the recipe "
            f"({extent(recipe.window)}), and the {what} "
            "differ in size or are too large to be seen whole: give a recipe with a smaller window"
        )
