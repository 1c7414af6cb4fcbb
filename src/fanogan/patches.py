"""Patches: random ones for training, cut on the device from the images in memory; windows to score.

The paper extracts K patches at random positions from each image (section 2.1). Here nothing is
extracted ahead: the images stay as 8 or 16 bits in one flat buffer on the device, and each batch
is gathered from it at new positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fanogan.preprocessing import Preprocessing


def seeded(device: torch.device, *key: object) -> torch.Generator:
    """A generator whose numbers depend on the key alone: seed, stage, step.

    So the state of all random numbers of a run is the step that it has reached.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


class Patches:
    """Random patches of images in memory, every position of every image equally likely."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        preprocessing: Preprocessing,
        *,
        flip: bool,
        device: torch.device,
    ):
        """Copy the images to the device.

        Args:
            images: encoded images (C, H, W), uint8 or uint16; sizes may differ.
            preprocessing: what gave them; its window is the patch, and None the whole image.
            flip: mirror each patch left to right with probability ½.
            device: where the buffer lies and patches are cut.

        Raises:
            ValueError: an image smaller than the window, or whole images of several sizes.
        """
        self.preprocessing = preprocessing
        self.flip = flip
        self.device = device
        rows, columns = preprocessing.window or images[0].shape[1:]
        self.rows, self.columns = rows, columns
        for _, height, width in {image.shape for image in images}:
            fits = height >= rows and width >= columns
            if not fits or (preprocessing.window is None and (height, width) != (rows, columns)):
                raise ValueError(f"no patches of {rows}×{columns} in an image of {height}×{width}")
        sizes = torch.tensor([image.shape for image in images], dtype=torch.int64, device=device)
        self.heights, self.widths = sizes[:, 1], sizes[:, 2]
        self.starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        positions = (self.heights - rows + 1) * (self.widths - columns + 1)
        self.ends = positions.cumsum(0)
        self.total = int(self.ends[-1])
        flat = np.concatenate([image.reshape(-1) for image in images])
        # uint16 has no indexing in torch: the same bits as int16, put right after the gather.
        signed = flat.view(np.int16) if flat.dtype == np.uint16 else flat
        self.buffer = torch.from_numpy(signed).to(device)
        self.channels = images[0].shape[0]
        self.column_offsets = torch.arange(columns, device=device)
        self.row_offsets = torch.arange(rows, device=device)[:, None]
        self.channel_offsets = torch.arange(self.channels, device=device)[:, None, None]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """What the networks see of ``count`` random patches: (count, C, *sides) in [−1, 1]."""
        at = torch.randint(self.total, (count,), generator=generator, device=self.device)
        image = torch.searchsorted(self.ends, at, right=True)
        place = at - torch.where(image > 0, self.ends[image - 1], 0)
        across = self.widths[image] - self.columns + 1
        width = self.widths[image][:, None, None, None]
        corner = self.starts[image] + place // across * self.widths[image] + place % across
        index = (
            corner[:, None, None, None]
            + self.channel_offsets * (self.heights[image][:, None, None, None] * width)
            + self.row_offsets * width
            + self.column_offsets
        )
        stored = self.buffer[index]
        if stored.dtype == torch.int16:
            stored = stored.to(torch.int32) & 0xFFFF
        x = self.preprocessing.see(self.preprocessing.to_network(stored))
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=self.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x


def score_windows(
    x: Tensor,
    preprocessing: Preprocessing,
    score: Callable[[Tensor], tuple[Tensor, Tensor]],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Score one image through overlapping windows, and fuse what they give to whole maps.

    Stride half a window, Gaussian weights: MONAI's sliding-window inference.

    Args:
        x: the image (1, C, H, W) in [−1, 1].
        preprocessing: its window and sides.
        score: what windows (B, C, *sides), as the networks see them, give: terms (B, t) and maps
            (B, m, *sides).
        batch: windows at a time.

    Returns:
        The terms of every window, (windows, t), and the fused maps (m, H, W).
    """
    from monai.inferers.utils import sliding_window_inference

    assert preprocessing.window is not None
    terms: list[Tensor] = []

    def predictor(windows: Tensor) -> Tensor:
        found, maps = score(preprocessing.see(windows))
        terms.append(found)
        return preprocessing.unsee(maps, windows.shape[-2:])

    maps = sliding_window_inference(
        x, preprocessing.window, batch, predictor, overlap=0.5, mode="gaussian"
    )
    assert isinstance(maps, Tensor)
    return torch.cat(terms), maps[0]
