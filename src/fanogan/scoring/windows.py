"""A large image through overlapping windows, and the fusion of what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fanogan.data import Preprocessing

HALF = 0.5 + 1e-4
"""Above it a resampled pixel is tissue: exactly one half isn't, whatever rounding makes of it."""


def score_windows(
    x: Tensor,
    preprocessing: Preprocessing,
    score: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
    batch: int,
    usable: Tensor | None = None,
    inside: Tensor | None = None,
    recorded: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score one image through overlapping windows, and fuse what they give to whole maps.

    Stride half a window, Gaussian weights: MONAI's sliding-window inference.

    Args:
        x: the image (1, C, *sides) in [−1, 1].
        preprocessing: its window and image size.
        score: what windows (B, C, *image_size), as the networks see them, give: terms (B, 2) and
            maps (B, 1 + C, *image_size). Its second argument is ``inside`` in them, (B, 1,
            *image_size) bool.
        batch: windows at a time.
        usable: corners of the windows that count, (H − h + 1, W − w + 1) bool; None: all.
        inside: (H, W) bool, passed on to ``score``.
        recorded: (H, W) bool, where x is known; the terms of a window become means over that.

    Returns:
        The terms of every window that counts, (windows, 2), their corners (windows, sides), and
        the fused maps (1 + C, *sides), NaN where no window counts.
    """
    from monai.inferers.utils import sliding_window_inference

    assert preprocessing.window is not None
    given_masks = {"inside": inside, "recorded": recorded}
    masks = {name: mask for name, mask in given_masks.items() if mask is not None}
    terms: list[Tensor] = []
    corners: list[Tensor] = []

    def predictor(windows: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
        at = torch.tensor([[one.start for one in place[2:]] for place in places], device=x.device)
        chosen = torch.ones(len(at), dtype=torch.bool, device=x.device)
        if usable is not None:
            chosen = usable[at[:, 0], at[:, 1]]
        within: dict[str, Tensor] = {}
        if masks and chosen.any():
            windows, given = windows[:, : -len(masks)], windows[:, -len(masks) :]
            parts = preprocessing.resize(given[chosen]) > HALF
            within = {name: parts[:, at : at + 1] for at, name in enumerate(masks)}
        corners.append(at[chosen])
        maps = windows.new_zeros(len(windows), 2 + x.shape[1], *windows.shape[2:])
        if chosen.any():
            found, given = score(preprocessing.resize(windows[chosen]), within.get("inside"))
            if "recorded" in within:
                found = found / within["recorded"].float().mean((1, 2, 3))[:, None]
            terms.append(found)
            maps[chosen, :-1] = preprocessing.resize_back(given, windows.shape[2:])
            maps[chosen, -1] = 1
        return maps

    seen = torch.cat([x, *(mask[None, None].to(x.dtype) for mask in masks.values())], 1)
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
