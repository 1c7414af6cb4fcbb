"""From a scan's pixels to what the networks see, and back: saved with the model, used by all.

A scan of 8 bits is taken as it is: x = 2·(x/255 − ½). More bits are mapped by the training normals'
0.1 and 99.9 percentiles and kept as 16 bits. A piece of the image, the window, is then resampled
to the sides of the networks; small images of one size are seen whole. Of retinal OCT the flat
volume is what is taken, and only windows within the retina; of signals, windows of one row; of
volumes that are seen in three dimensions, windows of several slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fanogan.data.geometry import check_window, resized, sides_of, window_and_size
from fanogan.data.grey import factor_of, grey_doubts, grey_range, was_colour
from fanogan.data.signal_view import SignalView
from fanogan.recipes import Recipe, Sides, blocks_of
from fanogan.retina import (
    DepthProfile,
    FlatSpace,
    FlatVolume,
    PicturesAs,
    RetinalView,
    ShapeNormals,
    median_thickness,
)
from fanogan.scans import BadScan, Kind, Note, Scan, Spacing, each_scan, read_scans
from fanogan.storage import room
from fanogan.text import extent

MOST_GREY_VALUES = 1 << 24
"""Of a volume, from which its histogram and statistics are made."""

MOST_CHANNELS = 512
"""More than any image or signal that is read here has."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes what the networks see."""

    depth: str  # dtype of the training normals, such as 'uint8'
    low: float  # grey value that becomes −1
    high: float  # grey value that becomes +1
    channels: int
    # [Slices,] rows, columns of a piece; None: images are seen whole.
    window: Sides | None
    image_size: Sides  # [slices,] rows, columns that the networks see
    retina: RetinalView | None = None  # None: scans are images as they are
    signal: SignalView | None = None  # of signals

    @classmethod
    def of(
        cls, scans: Sequence[Scan], recipe: Recipe, held_out: Sequence[Scan] = ()
    ) -> Preprocessing:
        """Settle it from the training normals.

        Args:
            scans: the training normals; the grey range is theirs alone.
            recipe: its window and image size.
            held_out: normals held out of training, which must be of the same kind.

        Raises:
            BadScan: mixed channels, bit depths, or images smaller than the window.
        """
        first = scans[0]
        normals = [*scans, *held_out]
        if isinstance(first, FlatVolume):
            return cls._of_retinas(normals, len(scans), recipe)
        if recipe.is_signal:
            signal = SignalView.of(normals, len(scans))
            least, most, channels = min(signal.lows), max(signal.highs), len(signal.lows)
            sizes = window_and_size(normals, recipe)
            return cls("float32", least, most, channels, *sizes, signal=signal)
        channels = max(scan.channels for scan in normals)
        for scan in normals:
            if scan.channels != channels and not was_colour(scan):
                colour = next(s for s in normals if s.channels == channels)
                raise BadScan(
                    f"{scan.name} is grey and {colour.name} has {channels} channels: train on "
                    "images of one kind"
                )
            if scan.pixels.dtype != first.pixels.dtype:
                raise BadScan(
                    f"{first.name} is {first.pixels.dtype} and {scan.name} is "
                    f"{scan.pixels.dtype}: train on images of one bit depth"
                )
        window, image_size = window_and_size(normals, recipe)
        low, high = grey_range(scans)
        if not high > low:
            raise BadScan(
                f"the training images hold one grey value ({low:g}) and nothing else: there is "
                "nothing to learn from"
            )
        return cls(str(first.pixels.dtype), low, high, channels, window, image_size)

    @classmethod
    def _of_retinas(cls, volumes: Sequence[Scan], learnt: int, recipe: Recipe) -> Preprocessing:
        """Of flat volumes, the first ``learnt`` of which are trained on."""
        flat = [volume for volume in volumes if isinstance(volume, FlatVolume)]
        assert len(flat) == len(volumes)
        for volume in flat:
            check_window(volume, recipe)
        thicknesses = [median_thickness(volume) for volume in flat[:learnt]]
        view = RetinalView(
            FlatSpace(recipe.flat_rows, recipe.flat_base, recipe.stretch_retina),
            recipe.min_retina_fraction,
            recipe.depth_channel,
            DepthProfile.of(flat[:learnt]) if recipe.match_layers else None,
            recipe.score_retina_only,
            shape=ShapeNormals.of(flat[:learnt]) if recipe.score_shape else None,
            thickness=(min(thicknesses), max(thicknesses)),
        )
        channels = 2 if recipe.depth_channel else 1
        return cls("uint8", 0.0, 255.0, channels, recipe.window, recipe.image_size, view)

    @property
    def levels(self) -> int:
        """The largest stored value: 255, or 65,535 for more than 8 bits."""
        return 255 if self.depth == "uint8" else 65535

    def find(
        self,
        source: Any,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        on_left_out: Callable[[BadScan], None] | None = None,
    ) -> Iterator[Any]:
        """Yield what ``read`` would read, each with its ``name``; errors as of ``find_scans``."""
        if self.retina:
            return iter(self.retina.find(source, groups, pictures, on_left_out))
        return each_scan(source, groups, on_left_out, self.kind)

    def read(
        self,
        source: Any,
        *,
        groups: str | None = None,
        pictures: PicturesAs = "auto",
        spacing: Spacing | None = None,
        skip_bad: bool = False,
        on_bad: Callable[[BadScan], None] | None = None,
        workers: int = 2,
        done: Set[str] = frozenset(),
    ) -> Iterator[Scan]:
        """Read scans in the geometry that the model sees them in: as they are, or flattened.

        Arguments and errors as for ``read_scans``, of retinas as for ``RetinalView.read``.

        Raises:
            BadScan: besides, ``pictures`` or ``spacing`` given for what is no retina.
        """
        if self.retina:
            return self.retina.read(
                source,
                groups=groups,
                pictures=pictures,
                spacing=spacing,
                skip_bad=skip_bad,
                on_bad=on_bad,
                done=done,
            )
        if pictures != "auto" or spacing:
            raise BadScan(
                "this model takes images as they are: --bscans, --volumes and --spacing are for "
                "models of retinal OCT"
            )
        return read_scans(source, groups, skip_bad, on_bad, workers, done, self.kind)

    def encode(self, scan: Scan) -> np.ndarray:
        """Encode a scan as it is kept: (frames, C, *sides), uint8 or uint16.

        A volume that is seen in three dimensions is one frame.

        Raises:
            BadScan: other channels than the model's, a bit depth that can't be compared, or an
                image of one row or column, or smaller than the window.
        """
        if self.retina:
            assert isinstance(scan, FlatVolume)
            self._check_size(scan)
            return self.retina.encode(scan)
        if self.signal:
            encoded = self.signal.encode(scan)
            self._check_size(scan)
            return encoded
        pixels = scan.pixels if scan.pixels.ndim == 4 else scan.pixels[..., None]
        if pixels.shape[-1] == 1 and self.channels > 1 and was_colour(scan):
            pixels = np.repeat(pixels, self.channels, axis=-1)
        if pixels.shape[-1] != self.channels:
            raise BadScan(
                f"{scan.name} is {_kind(pixels.shape[-1])}, the model was trained on "
                f"{_kind(self.channels)} images: convert it, or train on images of its kind"
            )
        rows, columns = pixels.shape[1:3]
        if min(rows, columns) < 2 and not self.is_volume:
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
            factor = factor_of(scan, self.depth, self.high)
            dtype = np.uint8 if self.levels == 255 else np.uint16
            stored = room(pixels.shape, dtype)
            for frame, values in zip(stored, pixels, strict=True):
                share = (values.astype(np.float64) * factor - self.low) / (self.high - self.low)
                frame[:] = np.round(np.clip(share, 0, 1) * self.levels)
        if self.is_volume:
            return np.moveaxis(stored, -1, 0)[None]
        return np.ascontiguousarray(np.moveaxis(stored, -1, 1))

    def doubts(self, scan: Scan) -> Iterator[Note]:
        """Yield in what way a scan's spacing or grey range may not be what it is taken for."""
        if self.retina:
            assert isinstance(scan, FlatVolume)
            yield from self.retina.doubts(scan)
            return
        if self.signal:
            yield from self.signal.doubts(scan)
            return
        yield from grey_doubts(scan, self.depth, self.high)

    def _check_size(self, scan: Scan) -> None:
        sides = sides_of(scan, self.is_volume)
        if self.window and any(side < of for side, of in zip(sides, self.window, strict=True)):
            raise BadScan(
                f"{scan.name} has {extent(sides)}, fewer than the window that the model "
                f"looks through ({extent(self.window)}): give the {self.noun} in the size that "
                "it was taken in"
            )

    def usable(self, scan: Scan, *, to_learn: bool) -> np.ndarray | None:
        """Return the upper left corners of the windows that may be learned from, or scored.

        Returns:
            (frames, H − h + 1, W − w + 1) bool, for a flat volume (see its ``usable_windows``).
            None where every window may be: in plain images.
        """
        if self.retina is None or self.window is None:
            return None
        return scan.usable_windows(self.window, self.retina.share, to_learn)

    def shape_lines(self, scan: Scan) -> np.ndarray | None:
        """Return how far each column's boundaries are from normals: (frames, columns) float32.

        None where the model doesn't score the shape of the retina (see ``ShapeNormals``).
        """
        if self.retina is None or self.retina.shape is None:
            return None
        assert isinstance(scan, FlatVolume)
        return self.retina.shape.lines(scan)

    def no_window(self, scan: Scan) -> BadScan:
        """Return the error of a scan without a usable window."""
        assert self.window is not None and self.retina is not None
        rows, columns = self.window
        return BadScan(
            f"{scan.name} has no place where {rows}×{columns} flat pixels hold "
            f"{100 * self.retina.share:g} % of retina and nothing unknown: look at its layers with "
            "fanogan prepare, or leave it out with --skip-bad"
        )

    def grey_values(self, encoded: np.ndarray) -> np.ndarray:
        """Turn encoded frames (frames, C, H, W) into grey values in [0, 1], channels last.

        Of a volume's slices some hundred lie below each other.
        """
        if self.retina:  # a second channel would be the depth
            encoded = encoded[:, :1]
        if self.is_volume:
            some = encoded[:, :, :: -(-encoded.size // MOST_GREY_VALUES)]
            encoded = some.reshape(*some.shape[:2], -1, some.shape[-1])
        return np.moveaxis(encoded, 1, -1).astype(np.float32) / self.levels

    @property
    def is_volume(self) -> bool:
        """Whether volumes are seen in three dimensions."""
        return len(self.image_size) == 3

    @property
    def kind(self) -> Kind:
        """What files are taken for."""
        return "signal" if self.signal else "volume" if self.is_volume else "image"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels and sides of what the networks see."""
        return (self.channels, *self.image_size)

    @property
    def has_patches(self) -> bool:
        """Whether images are evaluated patch by patch where there are masks."""
        return self.retina is not None

    @property
    def noun(self) -> str:
        """What a reader calls one of the images."""
        return "B-scan" if self.retina else self.kind

    @property
    def tissue_only(self) -> bool:
        """Whether the score counts tissue alone, and leaves out what lies around it."""
        return self.retina is not None and self.retina.score_retina_only

    def normalise(self, stored: Tensor) -> Tensor:
        """Turn stored pixels of any integer type into float32 in [−1, 1]."""
        return stored.to(torch.float32).mul_(2 / self.levels).sub_(1)

    def to_device(self, stored: np.ndarray, device: torch.device) -> Tensor:
        """Turn encoded pixels into float32 in [−1, 1] on a device."""
        # torch has few functions for uint16, and none for arrays that may not be written to.
        copied = stored.astype(np.uint8 if stored.dtype == np.uint8 else np.int32)
        return self.normalise(torch.from_numpy(copied).to(device))

    def resize(self, x: Tensor) -> Tensor:
        """Resize windows or whole images (B, C, *sides) to (B, C, *image_size)."""
        return resized(x, self.image_size)

    def resize_back(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Resize what the networks give, (B, C, *image_size), to (B, C, *size)."""
        return resized(x, size)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Make it again from what ``to_dict`` returned.

        Raises:
            ValueError: sizes or a pixel type that no image has.
        """
        window = tuple(values["window"]) if values["window"] else None
        view = values.get("retina")
        view = RetinalView.from_dict(view) if view else None
        signal = values.get("signal")  # absent in models made before
        signal = SignalView.from_dict(signal) if signal else None
        values = {"image_size": values.get("sides"), **values}  # its name in version 0.1
        values.pop("sides", None)
        size = tuple(values["image_size"])
        blocks_of(size)
        if not 0 < values["channels"] <= MOST_CHANNELS:
            raise ValueError(f"no image has {values['channels']} channels")
        if window and (min(window) < 1 or len(window) != len(size)):
            raise ValueError(f"no window is {window}, beside {size} that the networks see")
        if values["depth"] not in ("uint8", "uint16", "int16", "float32"):
            raise ValueError(f"no image has pixels of type {values['depth']}")
        found = {"window": window, "image_size": size, "retina": view, "signal": signal}
        return cls(**{**values, **found})


def _kind(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
