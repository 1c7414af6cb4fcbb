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

from fanogan.data.preprocessing import Preprocessing

HALF = 0.5 + 1e-4
"""Above it a resampled pixel is retina: exactly one half isn't, whatever rounding makes of it."""


def seeded(device: torch.device, *key: object) -> torch.Generator:
    """A generator whose numbers depend on the key alone: seed, stage, step.

    So the state of all random numbers of a run is the step that it has reached.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


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
    ):
        """Copy the images to the device.

        Args:
            images: encoded images (C, H, W), uint8 or uint16; sizes may differ.
            preprocessing: what gave them; its window is the patch, and None the whole image.
            flip: mirror each patch left to right with probability ½.
            device: where the buffer lies and patches are cut.
            usable: for each image the upper left corners that a patch may have, (H − h + 1,
                W − w + 1) bool (see ``Preprocessing.usable``); None: all.

        Raises:
            ValueError: an image smaller than the window, whole images of several sizes, or no
                usable corner.
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
        self.corners = None
        if usable is not None:
            corners = np.flatnonzero(np.concatenate([mask.reshape(-1) for mask in usable]))
            if not len(corners):
                raise ValueError(f"no patch of {rows}×{columns} lies within the retina")
            few = self.total <= np.iinfo(np.int32).max
            corners = corners.astype(np.int32 if few else np.int64)
            self.corners = torch.from_numpy(corners).to(device)
            self.total = len(corners)
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
        if self.corners is not None:
            at = self.corners[at].to(torch.int64)
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
    score: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
    batch: int,
    usable: Tensor | None = None,
    retina: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score one image through overlapping windows, and fuse what they give to whole maps.

    Stride half a window, Gaussian weights: MONAI's sliding-window inference.

    Args:
        x: the image (1, C, H, W) in [−1, 1].
        preprocessing: its window and sides.
        score: what windows (B, C, *sides), as the networks see them, give: terms (B, 2) and maps
            (B, 1 + C, *sides). Its second argument is ``retina`` in them, (B, 1, *sides) bool.
        batch: windows at a time.
        usable: corners of the windows that count, (H − h + 1, W − w + 1) bool; None: all.
        retina: (H, W) bool, passed on to ``score``.

    Returns:
        The terms of every window that counts, (windows, 2), their corners (windows, 2), and the
        fused maps (1 + C, H, W), NaN where no window counts.
    """
    from monai.inferers.utils import sliding_window_inference

    assert preprocessing.window is not None
    terms: list[Tensor] = []
    corners: list[Tensor] = []

    def predictor(windows: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
        at = torch.tensor([[one.start for one in place[2:]] for place in places], device=x.device)
        chosen = torch.ones(len(at), dtype=torch.bool, device=x.device)
        if usable is not None:
            chosen = usable[at[:, 0], at[:, 1]]
        inside = None
        if retina is not None:
            windows, mask = windows[:, :-1], windows[:, -1:]
            inside = preprocessing.see(mask)[chosen] > HALF
        corners.append(at[chosen])
        maps = windows.new_zeros(len(windows), 2 + windows.shape[1], *windows.shape[2:])
        if chosen.any():
            found, given = score(preprocessing.see(windows[chosen]), inside)
            terms.append(found)
            maps[chosen, :-1] = preprocessing.unsee(given, windows.shape[-2:])
            maps[chosen, -1] = 1
        return maps

    seen = x if retina is None else torch.cat([x, retina[None, None].to(x.dtype)], 1)
    fused = sliding_window_inference(
        seen,
        preprocessing.window,
        batch,
        predictor,
        overlap=0.5,
        mode="gaussian",
        with_coord=True,
    )
    assert isinstance(fused, Tensor)
    maps = fused[0, :-1] / torch.where(fused[0, -1:] > 0, fused[0, -1:], torch.nan)
    return torch.cat(terms) if terms else x.new_zeros(0, 2), torch.cat(corners), maps
