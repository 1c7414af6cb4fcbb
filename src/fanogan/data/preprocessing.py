"""From a scan's pixels to what the networks see, and back: saved with the model, used by all.

A scan of 8 bits is taken as it is: x = 2·(x/255 − ½). More bits are mapped by the training normals'
0.1 and 99.9 percentiles and kept as 16 bits. A piece of the image, the window, is then resampled
to the sides of the networks; small images of one size are seen whole. Of retinal OCT the flat
volume is what is taken, and only windows within the retina.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fanogan.recipes import Recipe, blocks_of
from fanogan.retina import DepthProfile, FlatSpace, FlatVolume
from fanogan.scans import BadScan, GreyStoredAsColour, Scan


@dataclasses.dataclass(frozen=True)
class RetinalView:
    """What is taken of a flat volume.

    Attributes:
        space: The flat area.
        share: Least share of retina in a window.
        depth_channel: Whether the row in the flat area is a second channel.
        profile: Grey values by depth that each volume is matched to, or None.
        score_retina_only: Whether vitreous and choroid are left out of the score.
    """

    space: FlatSpace
    share: float
    depth_channel: bool = False
    profile: DepthProfile | None = None
    score_retina_only: bool = False

    def encode(self, volume: FlatVolume) -> np.ndarray:
        """The volume as it is kept in memory: (B-scans, C, flat rows, columns) uint8."""
        pixels = self.profile.match(volume) if self.profile else volume.pixels
        if not self.depth_channel:
            return pixels[:, None]
        rows = np.rint(np.linspace(0, 255, pixels.shape[1])).astype(np.uint8)
        depth = np.broadcast_to(rows[:, None], pixels.shape)
        return np.stack([pixels, depth], axis=1)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes what the networks see."""

    depth: str  # dtype of the training normals, such as 'uint8'
    low: float  # grey value that becomes −1
    high: float  # grey value that becomes +1
    channels: int
    window: tuple[int, int] | None  # rows, columns of a piece; None: images are seen whole
    sides: tuple[int, int]  # of the networks
    retina: RetinalView | None = None  # None: scans are images as they are

    @classmethod
    def of(
        cls, scans: Sequence[Scan], recipe: Recipe, held_out: Sequence[Scan] = ()
    ) -> Preprocessing:
        """Settle it from the training normals.

        Args:
            scans: the training normals; the grey range is theirs alone.
            recipe: its window and sides.
            held_out: normals held out of training, which must be of the same kind.

        Raises:
            BadScan: mixed channels, bit depths, or images smaller than the window.
        """
        first = scans[0]
        normals = [*scans, *held_out]
        if isinstance(first, FlatVolume):
            return cls._of_retinas(normals, len(scans), recipe)
        channels = max(channels_of(scan) for scan in normals)
        for scan in normals:
            if channels_of(scan) != channels and not was_colour(scan):
                colour = next(s for s in normals if channels_of(s) == channels)
                raise BadScan(
                    f"{scan.name} is grey and {colour.name} has {channels} channels: train on "
                    "images of one kind"
                )
            if scan.pixels.dtype != first.pixels.dtype:
                raise BadScan(
                    f"{first.name} is {first.pixels.dtype} and {scan.name} is "
                    f"{scan.pixels.dtype}: train on images of one bit depth"
                )
        window, sides = _geometry(normals, recipe)
        low, high = _grey_range(scans)
        if not high > low:
            raise BadScan(
                f"the training images hold one grey value ({low:g}) and nothing else: there is "
                "nothing to learn from"
            )
        return cls(str(first.pixels.dtype), low, high, channels, window, sides)

    @classmethod
    def _of_retinas(cls, volumes: Sequence[Scan], learnt: int, recipe: Recipe) -> Preprocessing:
        """Of flat volumes, the first ``learnt`` of which are trained on."""
        flat = [volume for volume in volumes if isinstance(volume, FlatVolume)]
        assert len(flat) == len(volumes)
        for volume in flat:
            _check_window(volume, recipe)
        view = RetinalView(
            FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina),
            recipe.min_retina_fraction,
            recipe.depth_channel,
            DepthProfile.of(flat[:learnt]) if recipe.match_layers else None,
            recipe.score_retina_only,
        )
        channels = 2 if recipe.depth_channel else 1
        return cls("uint8", 0.0, 255.0, channels, recipe.window, recipe.image_size, view)

    @property
    def levels(self) -> int:
        """The largest stored value: 255, or 65,535 for more than 8 bits."""
        return 255 if self.depth == "uint8" else 65535

    def encode(self, scan: Scan) -> np.ndarray:
        """The scan as it is kept in memory: (frames, C, H, W), uint8 or uint16.

        Raises:
            BadScan: other channels than the model's, a bit depth that can't be compared, or an
                image of one row or column, or smaller than the window.
        """
        if self.retina:
            assert isinstance(scan, FlatVolume)
            self._check_size(scan)
            return self.retina.encode(scan)
        pixels = scan.pixels if scan.pixels.ndim == 4 else scan.pixels[..., None]
        if pixels.shape[-1] == 1 and self.channels > 1 and was_colour(scan):
            pixels = np.repeat(pixels, self.channels, axis=-1)
        if pixels.shape[-1] != self.channels:
            raise BadScan(
                f"{scan.name} is {_kind(pixels.shape[-1])}, the model was trained on "
                f"{_kind(self.channels)} images: convert it, or train on images of its kind"
            )
        rows, columns = pixels.shape[1:3]
        if min(rows, columns) < 2:
            raise BadScan(
                f"{scan.name} has {rows}×{columns} pixels, which is no image: replace it, or leave "
                "it out with --skip-bad"
            )
        self._check_size(scan)
        depth = str(pixels.dtype)
        if depth == self.depth == "uint8":
            stored = pixels
        else:
            if "uint8" in (depth, self.depth) and "uint16" not in (depth, self.depth):
                raise BadScan(
                    f"{scan.name} is {depth}, the model was trained on {self.depth}: their grey "
                    f"values can't be compared; convert it to {self.depth}"
                )
            # The full ranges of 8 and 16 bits correspond; other depths hold values in one unit.
            factor = {("uint16", "uint8"): 255 / 65535, ("uint8", "uint16"): 65535 / 255}
            values = pixels.astype(np.float64) * factor.get((depth, self.depth), 1.0)
            share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
            stored = np.round(share * self.levels).astype(
                np.uint8 if self.levels == 255 else np.uint16
            )
        return np.ascontiguousarray(np.moveaxis(stored, -1, 1))

    def _check_size(self, scan: Scan) -> None:
        rows, columns = scan.pixels.shape[1:3]
        if self.window and (rows < self.window[0] or columns < self.window[1]):
            raise BadScan(
                f"{scan.name} has {rows}×{columns} pixels, fewer than the window that the model "
                f"looks through ({self.window[0]}×{self.window[1]}): give the image in the size "
                "that it was taken in"
            )

    def usable(self, scan: Scan) -> np.ndarray | None:
        """Upper left corners of the windows that may be learnt from and scored.

        Returns:
            (frames, H − h + 1, W − w + 1) bool: windows of a flat volume that hold enough retina,
            and nothing that isn't tissue. None where every window may be: of plain images.
        """
        if self.retina is None:
            return None
        assert isinstance(scan, FlatVolume) and self.window is not None
        return scan.usable_windows(self.window, self.retina.share)

    def to_network(self, stored: Tensor) -> Tensor:
        """Stored pixels (…, H, W) of any integer type → float32 in [−1, 1]."""
        return stored.to(torch.float32) * (2 / self.levels) - 1

    def see(self, x: Tensor) -> Tensor:
        """A window or whole image (B, C, h, w) → (B, C, *sides), what the networks see."""
        if x.shape[-2:] == self.sides:
            return x
        return F.interpolate(x, size=self.sides, mode="bilinear", antialias=True)

    def unsee(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Back from the networks' sides: (B, C, *sides) → (B, C, *size)."""
        if x.shape[-2:] == tuple(size):
            return x
        return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of ``to_dict``."""
        window = tuple(values["window"]) if values["window"] else None
        view = values.get("retina")
        if view is not None:
            profile = view["profile"]
            view = RetinalView(
                **{
                    **view,
                    "space": FlatSpace(**view["space"]),
                    "profile": profile and DepthProfile(*map(tuple, profile.values())),
                }
            )
        return cls(**{**values, "window": window, "sides": tuple(values["sides"]), "retina": view})


def channels_of(scan: Scan) -> int:
    """The channels of a scan: 1 for grey."""
    return scan.pixels.shape[3] if scan.pixels.ndim == 4 else 1


def _kind(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")


def was_colour(scan: Scan) -> bool:
    """Whether a grey scan was stored with equal colour channels."""
    return GreyStoredAsColour() in scan.notes


def _geometry(
    scans: Sequence[Scan], recipe: Recipe
) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    sizes = {scan.pixels.shape[1:3] for scan in scans}
    rows, columns = next(iter(sizes))
    if len(sizes) == 1 and rows <= recipe.window[0] and columns <= recipe.window[1]:
        try:
            blocks_of((rows, columns))
        except ValueError:
            return None, recipe.image_size
        as_they_are = rows <= recipe.image_size[0] and columns <= recipe.image_size[1]
        return None, (rows, columns) if as_they_are else recipe.image_size
    for scan in scans:
        _check_window(scan, recipe)
    return recipe.window, recipe.image_size


def _check_window(scan: Scan, recipe: Recipe) -> None:
    rows, columns = scan.pixels.shape[1:3]
    if rows < recipe.window[0] or columns < recipe.window[1]:
        raise BadScan(
            f"{scan.name} has {rows}×{columns} pixels, fewer than the window of the recipe "
            f"({recipe.window[0]}×{recipe.window[1]}), and the images differ in size or are "
            "too large to be seen whole: give a recipe with a smaller window"
        )


def _grey_range(scans: Sequence[Scan], most: int = 20_000_000) -> tuple[float, float]:
    if scans[0].pixels.dtype == np.uint8:
        low, high = min(s.pixels.min() for s in scans), max(s.pixels.max() for s in scans)
        return (0.0, 255.0) if high > low else (float(low), float(high))
    total = sum(scan.pixels.size for scan in scans)
    step = -(-total // most)
    values = np.concatenate([scan.pixels.reshape(-1)[::step] for scan in scans])
    low, high = np.percentile(values.astype(np.float64), [0.1, 99.9])
    if low == high:  # a few bright pixels on a flat ground
        low, high = float(values.min()), float(values.max())
    return float(low), float(high)
