"""Patches: random ones for training, cut on the device from the images in memory; windows to score.

The paper extracts K patches at random positions from each image (section 2.1). Here nothing is
extracted ahead: the images stay as 8 or 16 bits in one flat buffer on the device, and each batch
is gathered from it at new positions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fanogan.data.preprocessing import Preprocessing
from fanogan.scans import Scan
from fanogan.storage import room


def seeded(device: torch.device, *key: object) -> torch.Generator:
    """Return a generator whose numbers depend on the key alone: seed, stage, step.

    So the state of all random numbers of a run is the step that it has reached.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def augmented(x: Tensor, random: torch.Generator) -> Tensor:
    """Return images (B, C, H, W) in [−1, 1], each changed as if from another eye and scanner.

    It is stretched about its middle by up to 15 % along its rows and 5 % across, edges repeated;
    its grey values, of 0 to 1, are raised to a power of .6 to 1.65, multiplied about their mean by
    .8 to 1.2, and raised by −.05 to .05.
    """

    def drawn(low: float, high: float) -> Tensor:
        found = torch.rand(len(x), 1, 1, 1, generator=random, device=x.device)
        return low + (high - low) * found

    along, across = drawn(1 / 1.15, 1.15).flatten(), drawn(1 / 1.05, 1.05).flatten()
    places = torch.zeros(len(x), 2, 3, device=x.device)
    places[:, 0, 0], places[:, 1, 1] = 1 / along, 1 / across
    grid = nn.functional.affine_grid(places, list(x.shape), align_corners=False)
    stretched = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    grey = ((stretched + 1) / 2) ** torch.exp(drawn(math.log(0.6), math.log(1.65)))
    mean = grey.mean((1, 2, 3), keepdim=True)
    grey = mean + drawn(0.8, 1.2) * (grey - mean) + drawn(-0.05, 0.05)
    return grey.clamp(0, 1) * 2 - 1


class Patches:
    """Random patches of images in memory, every (usable) position of every image equally likely."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        preprocessing: Preprocessing,
        *,
        flip: bool,
        device: torch.device,
        usable: Sequence[np.ndarray] | None = None,
        augment: bool = False,
    ):
        """Copy the images to the device.

        Args:
            images: encoded images (C, *sides), uint8 or uint16; sizes may differ.
            preprocessing: what gave them; its window is the patch, and None the whole image.
            flip: mirror each patch left to right with probability ½.
            device: where the buffer lies and patches are cut.
            usable: for each image the upper left corners that a patch may have, (H − h + 1,
                W − w + 1) bool (see ``Preprocessing.usable``); None: all.
            augment: change each patch that is drawn, see ``augmented``.

        Raises:
            ValueError: an image smaller than the window, whole images of several sizes, or no
                usable corner.
        """
        self.preprocessing = preprocessing
        self.flip = flip
        self.augment = augment
        self.device = device
        window = preprocessing.window or images[0].shape[1:]
        for _, *sides in {image.shape for image in images}:
            fits = all(side >= of for side, of in zip(sides, window, strict=True))
            if not fits or (preprocessing.window is None and tuple(sides) != window):
                patch, whole = ("×".join(map(str, size)) for size in (window, sides))
                raise ValueError(f"no patches of {patch} in an image of {whole}")
        sizes = torch.tensor([image.shape for image in images], dtype=torch.int64, device=device)
        self.starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        self.sides = sizes[:, 1:]
        # Places of a corner along each side.
        self.free = self.sides - torch.tensor(window, device=device) + 1
        self.ends = self.free.prod(1).cumsum(0)
        self.total = int(self.ends[-1])
        self.corners = None
        if usable is not None:
            corners = np.flatnonzero(np.concatenate([mask.reshape(-1) for mask in usable]))
            if not len(corners):
                patch = "×".join(map(str, window))
                raise ValueError(f"no patch of {patch} lies within the retina")
            few = self.total <= np.iinfo(np.int32).max
            corners = corners.astype(np.int32 if few else np.int64)
            self.corners = torch.from_numpy(corners).to(device)
            self.total = len(corners)
        flat = room([sum(image.size for image in images)], images[0].dtype)
        for image, start in zip(images, self.starts.tolist(), strict=True):
            flat[start : start + image.size].reshape(image.shape)[:] = image
        # uint16 has no indexing in torch: the same bits as int16, put right after the gather.
        signed = flat.view(np.int16) if flat.dtype == np.uint16 else flat
        self.buffer = torch.from_numpy(signed).to(device)
        self.channels = images[0].shape[0]
        # Of a patch: channel, row and column.
        self.inside = [
            torch.arange(side, device=device).reshape(-1, *[1] * (len(window) - axis))
            for axis, side in enumerate((self.channels, *window))
        ]

    @classmethod
    def of_scans(
        cls,
        scans: Sequence[Scan],
        preprocessing: Preprocessing,
        *,
        flip: bool,
        device: torch.device,
    ) -> Patches:
        """Encode scans and copy them to the device."""
        usable = [preprocessing.usable(scan, to_learn=True) for scan in scans]
        return cls(
            [frame for scan in scans for frame in preprocessing.encode(scan)],
            preprocessing,
            flip=flip,
            device=device,
            usable=[mask for masks in usable if masks is not None for mask in masks] or None,
        )

    def all_images(self, batch: int, *, at_most: int) -> Iterator[Tensor] | None:
        """Yield whole images once each, unflipped, as ``draw`` gives them.

        None where patches are drawn of larger images, or where there are more than ``at_most``.
        """
        count = len(self.sides)
        if self.preprocessing.window is not None or count > at_most:
            return None
        return (
            self._gather(torch.arange(start, min(start + batch, count), device=self.device))
            for start in range(0, count, batch)
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random patches as the networks see them: (count, C, *image_size) in [−1, 1]."""
        at = torch.randint(self.total, (count,), generator=generator, device=self.device)
        if self.corners is not None:
            at = self.corners[at].to(torch.int64)
        x = self._gather(at)
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=self.device) < 0.5
            x = torch.where(mirrored.reshape(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
        return augmented(x, generator) if self.augment else x

    def _gather(self, at: Tensor) -> Tensor:
        """Return what the networks see of the patches at these places, of all places in order."""
        image = torch.searchsorted(self.ends, at, right=True)
        place = at - torch.where(image > 0, self.ends[image - 1], 0)
        channel, *sides = self.inside

        def of_each(values: Tensor) -> Tensor:
            return values.reshape(-1, *[1] * len(self.inside))

        # From the last side to the first; neighbours along a side lie so far apart.
        index, apart = of_each(self.starts[image]), torch.ones_like(place)
        for axis in reversed(range(len(sides))):
            free = self.free[image, axis]
            index = index + (of_each(place % free) + sides[axis]) * of_each(apart)
            place, apart = place // free, apart * self.sides[image, axis]
        stored = self.buffer[index + channel * of_each(apart)]
        if stored.dtype == torch.int16:
            stored = stored.to(torch.int32) & 0xFFFF
        return self.preprocessing.resize(self.preprocessing.normalise(stored))
