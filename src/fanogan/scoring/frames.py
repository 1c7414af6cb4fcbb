"""What the networks make of the frames of a scan: whole, through windows, batch by batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fanogan.scoring.model import Model
from fanogan.scoring.result import Encoded, FrameScore
from fanogan.scoring.windows import score_windows
from fanogan.storage import room
from fanogan.training import precision_of

BATCH = 64
"""Images or windows that the networks see together."""

BATCH_PIXELS = BATCH * 256**2
"""Of one channel, at most, in whole images that are encoded together: larger ones are fewer."""

LARGEST_BLOCK = 32 << 20
"""From so many bytes on, glibc returns freed blocks, and getting them back costs page faults."""


def score_frames(model: Model, encoded: Encoded) -> Iterator[FrameScore]:
    """Yield what the networks make of each frame of a scan."""
    pixels = encoded.pixels
    if sees_whole(model, encoded):
        together = frames_at_once(pixels)
        for start in range(0, len(pixels), together):
            yield from score_whole(model, pixels[start : start + together])
        return
    if model.preprocessing.is_volume:
        for stored in pixels:
            yield _score_voxels(model, stored)
        return
    tissue = encoded.scan.tissue if model.preprocessing.tissue_only else None
    recorded = encoded.scan.recorded
    for number, stored in enumerate(pixels):
        is_whole = recorded is None or recorded[number].all()
        if recorded is not None and not is_whole:
            stored = _filled(stored, recorded[number])
        usable, inside, known = (
            None if masks is None else torch.from_numpy(masks[number]).to(model.device)
            for masks in (encoded.usable, tissue, None if is_whole else recorded)
        )
        with torch.inference_mode(), precision_of("fp32"):
            x = model.preprocessing.to_device(stored[None], model.device)
            terms, corners, maps = score_windows(
                x,
                model.preprocessing,
                functools.partial(score_batch, model),
                BATCH,
                usable,
                known if inside is None else inside,
                known if model.averages_pixels else None,
            )
        yield FrameScore(
            terms.cpu().double().numpy(),
            maps.cpu().numpy(),
            x[0].cpu().numpy(),
            corners.cpu().numpy(),
        )


def sees_whole(model: Model, encoded: Encoded) -> bool:
    """Tell whether frames are seen whole, or are no larger than one window."""
    fits = model.preprocessing.window in (None, encoded.pixels.shape[2:])
    return fits and encoded.usable is None


def frames_at_once(pixels: np.ndarray) -> int:
    """Return how many frames like these, (frames, C, *sides), are computed at once."""
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(pixels.shape[2:])))


def score_whole(model: Model, stored: np.ndarray) -> Iterator[FrameScore]:
    """Yield what the networks make of each image of (B, C, *sides), seen whole."""
    preprocessing = model.preprocessing
    with torch.inference_mode(), precision_of("fp32"):
        x = preprocessing.to_device(stored, model.device)
        terms, maps = score_batch(model, preprocessing.resize(x))
        maps = preprocessing.resize_back(maps, x.shape[2:])
    columns = terms.cpu().double().numpy()[:, None], maps.cpu().numpy(), x.cpu().numpy()
    for frame in zip(*columns, strict=True):
        yield FrameScore(*frame)


def _score_voxels(model: Model, stored: np.ndarray) -> FrameScore:
    """Score a volume (C, slices, rows, columns) through windows, of which a batch is in memory.

    They overlap and are fused as those of an image are, by MONAI's places and weights.
    """
    from monai.data.utils import compute_importance_map, dense_patch_slices

    window = model.preprocessing.window
    assert window is not None
    channels, *sides = stored.shape
    weights = compute_importance_map(window, "gaussian", 0.125).numpy()
    total = room(sides, np.float32)
    maps, x = (room((count, *sides), np.float32) for count in (1 + channels, channels))
    places = dense_patch_slices(sides, window, [max(1, side // 2) for side in window])
    terms = list[np.ndarray]()
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        with torch.inference_mode(), precision_of("fp32"):
            windows = model.preprocessing.to_device(
                np.stack([stored[:, *place] for place in some]), model.device
            )
            found, seen = score_batch(model, model.preprocessing.resize(windows))
            seen = model.preprocessing.resize_back(seen, window).cpu()
        terms.append(found.cpu().double().numpy())
        for place, given, of_window in zip(some, windows.cpu().numpy(), seen.numpy(), strict=True):
            maps[:, *place] += of_window * weights
            total[place] += weights
            x[:, *place] = given
    for number in range(sides[0]):
        maps[:, number] /= total[number]
    corners = np.array([[side.start for side in place] for place in places])
    return FrameScore(np.concatenate(terms), maps, x, corners)


def _filled(stored: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return a frame (C, H, W) with what is next to it in place of what wasn't recorded."""
    from scipy import ndimage

    if not recorded.any():
        return stored
    _, nearest = ndimage.distance_transform_edt(~recorded, return_indices=True)
    return np.asarray(stored[:, *nearest])


def score_batch(model: Model, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ``model.score`` of any number of images; in inference mode.

    On the CPU the networks see as many together as keeps each activation in blocks that the C
    library doesn't return to the system. In bfloat16 what the networks give is fp32 again, and so
    is all that is made of it.
    """
    if model.engine != "torch":
        terms, maps = model.score(x, inside)
        return terms, maps
    in_bf16 = model.precision == "bf16"
    size = 2 if in_bf16 else x.element_size()
    largest = 2 * model.recipe.base_width * x[0, 0].numel() * size  # an image's, in D
    together = BATCH
    while x.device.type == "cpu" and together > 16 and together * largest >= LARGEST_BLOCK:
        together //= 2
    parts = torch.split(x, together)
    masks = [None] * len(parts) if inside is None else torch.split(inside, together)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=in_bf16):
        found = [model.score(*each) for each in zip(parts, masks, strict=True)]
    terms, maps = (torch.cat(each) for each in zip(*found, strict=True))
    return terms, maps
