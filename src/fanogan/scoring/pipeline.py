"""From files to results, downward: read → encode → windows → networks → fuse.

One streaming path for all scoring: tables, maps, calibration and evaluation all read from it, in
flat memory, each image once.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fanogan.calibration import grey_measures
from fanogan.data import BLANK, short_hashes
from fanogan.report import describe
from fanogan.retina import FlatVolume
from fanogan.scans import BadScan, Scan
from fanogan.scoring.model import Model
from fanogan.scoring.result import Encoded, FrameScore, Result, Scores
from fanogan.scoring.signal_maps import of_signal
from fanogan.scoring.skips import Skips
from fanogan.scoring.voxel_maps import smoothed
from fanogan.scoring.windows import score_windows
from fanogan.storage import room
from fanogan.text import counted
from fanogan.training import precision_of

log = logging.getLogger(__name__)

BATCH = 64
"""Images or windows that the networks see together."""

BATCH_PIXELS = BATCH * 256**2
"""Of one channel, at most, in whole images that are encoded together: larger ones are fewer."""

LARGEST_BLOCK = 32 << 20
"""From so many bytes on, glibc returns freed blocks, and getting them back costs page faults."""


def score(model: Model, images: Any, **reading: Any) -> Scores:
    """Return the anomaly scores of images, each exactly once (Eq. 4); arguments as ``results``."""
    found = [r.without_arrays() for r in results(model, images, **reading) if r.unit == "image"]
    if unlike := [result for result in found if result.warnings]:
        log.warning(
            "unlike the training normals: %s of %s, such as %s: %s",
            f"{len(unlike):,}",
            counted(len(found), "image"),
            unlike[0].name,
            "; ".join(map(describe, unlike[0].warnings)),
        )
    columns = np.array([(r.total, r.image, r.feature) for r in found]).reshape(-1, 3).T
    return Scores(tuple(r.name for r in found), tuple(r.group for r in found), *columns)


def results(model: Model, images: Any, **reading: Any) -> Iterator[Result]:
    """Score images one after the other, in flat memory; a volume follows its images.

    Args:
        model: a trained one.
        images: what to read.
        reading: ``groups``, ``pictures``, ``spacing``, ``skip_bad``, ``on_bad``, ``workers`` and
            ``done`` as for ``Preprocessing.read``.

    Raises:
        BadScan: an image that can't be read, or isn't of the kind that the model was trained on.
    """
    for batch in result_batches(model, images, **reading):
        yield from batch


def result_batches(
    model: Model,
    images: Any,
    *,
    skip_bad: bool = False,
    on_bad: Callable[[BadScan], None] | None = None,
    done: Set[str] = frozenset(),
    **reading: Any,
) -> Iterator[Iterator[Result]]:
    """Yield ``results`` in pieces, each to be consumed before the next.

    A piece is a volume with its images, a large image, or the small images that the networks see
    together: which images those are may change the last digit of a score, and a job that is resumed
    after whole pieces has the same ones.
    """
    encoded = read(model, images, skip_bad=skip_bad, on_bad=on_bad, done=done, **reading)
    yield from score_encoded(model, encoded, Skips(skip_bad, on_bad, len(done)))


# --- read, encode ---------------------------------------------------------------------------------


def read(
    model: Model,
    images: Any,
    *,
    skip_bad: bool = False,
    on_bad: Callable[[BadScan], None] | None = None,
    done: Set[str] = frozenset(),
    **reading: Any,
) -> Iterator[Encoded]:
    """Read scans and encode them as the model sees them; arguments as ``results``."""
    scans = model.preprocessing.read(images, skip_bad=skip_bad, on_bad=on_bad, done=done, **reading)
    return encode(model, scans, Skips(skip_bad, on_bad, len(done)))


def encode(model: Model, scans: Iterable[Scan], skips: Skips | None = None) -> Iterator[Encoded]:
    """Encode each scan, and say in what way it is unlike the training normals.

    Args:
        model: a trained one.
        scans: as ``Preprocessing.read`` gives them.
        skips: takes up what the model can't take; None: nothing is left out.

    Raises:
        BadScan: a scan that the model can't take; where scans are left out, if all are.
    """
    preprocessing, skips, told = model.preprocessing, skips or Skips(), False
    for scan in scans:
        with skips.attempt(scan.name):
            pixels = preprocessing.encode(scan)
            usable = preprocessing.usable(scan, to_learn=False)
            if usable is not None and not usable.any():
                raise preprocessing.no_window(scan)
            frames01 = preprocessing.grey_values(pixels)
            unlike = model.profile.warnings(scan, frames01)
            hashes = short_hashes(pixels)
            if not told and model.seen and (seen := model.seen.note(hashes)):
                told = True
                what = describe(seen)
                log.warning("%s: %s; each such image has this in its notes", scan.name, what)
            warnings = (*preprocessing.doubts(scan), *unlike)
            shape = preprocessing.shape_lines(scan)
            grey = grey_measures(frames01, scan.recorded)
            yield Encoded(scan, pixels, usable, warnings, hashes, shape, grey)
    skips.check()


# --- windows, networks ----------------------------------------------------------------------------


def score_encoded(
    model: Model, scans: Iterable[Encoded], skips: Skips | None = None
) -> Iterator[Iterator[Result]]:
    """Score small images of one size together, and all else one by one.

    Arguments and errors as for ``encode``.
    """
    skips = skips or Skips()
    waiting: list[Encoded] = []

    def together() -> Iterator[Result]:
        stored = np.concatenate([encoded.pixels for encoded in waiting])
        for encoded, frame in zip(waiting, _score_whole(model, stored), strict=True):
            yield result_of(model, encoded, 0, frame)

    def attempted(name: str, piece: Iterator[Result]) -> Iterator[Iterator[Result]]:
        # A scan that is too large shows it at its first result, and nothing of it is out by then.
        with skips.attempt(name):
            yield itertools.chain([next(piece)], piece)

    for encoded in scans:
        small = _is_whole(model, encoded) and not encoded.scan.is_volume
        same = not waiting or waiting[0].pixels.shape == encoded.pixels.shape
        if waiting and not (small and same and len(waiting) < _together(encoded.pixels)):
            yield from attempted(waiting[0].scan.name, together())
            waiting = []
        if small:
            waiting.append(encoded)
        else:
            yield from attempted(encoded.scan.name, _score_alone(model, encoded))
    if waiting:
        yield from attempted(waiting[0].scan.name, together())
    skips.check()


def _together(pixels: np.ndarray) -> int:
    """Return how many frames like these, (frames, C, *sides), are computed at once."""
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(pixels.shape[2:])))


def _score_alone(model: Model, encoded: Encoded) -> Iterator[Result]:
    """Score the frames of a volume or a large image, and the volume itself."""
    terms = []
    for number, frame in enumerate(score_frames(model, encoded)):
        if not len(frame.terms):  # a frame without a usable window
            continue
        terms.append(frame.terms)
        yield result_of(model, encoded, number, frame)
    if not terms:  # usable corners, but none where a window is
        raise model.preprocessing.no_window(encoded.scan)
    if encoded.scan.is_volume:
        yield result_of(model, encoded, None, FrameScore(np.concatenate(terms)))


def _is_whole(model: Model, encoded: Encoded) -> bool:
    """Tell whether frames are seen whole, or are no larger than one window."""
    fits = model.preprocessing.window in (None, encoded.pixels.shape[2:])
    return fits and encoded.usable is None


def score_frames(model: Model, encoded: Encoded) -> Iterator[FrameScore]:
    """Yield what the networks make of each frame of a scan."""
    pixels = encoded.pixels
    if _is_whole(model, encoded):
        together = _together(pixels)
        for start in range(0, len(pixels), together):
            yield from _score_whole(model, pixels[start : start + together])
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


def _score_whole(model: Model, stored: np.ndarray) -> Iterator[FrameScore]:
    """Images (B, C, *sides) seen whole."""
    preprocessing = model.preprocessing
    with torch.inference_mode(), precision_of("fp32"):
        x = preprocessing.to_device(stored, model.device)
        terms, maps = score_batch(model, preprocessing.resize(x))
        maps = preprocessing.resize_back(maps, x.shape[2:])
    columns = terms.cpu().double().numpy()[:, None], maps.cpu().numpy(), x.cpu().numpy()
    for frame in zip(*columns, strict=True):
        yield FrameScore(*frame)


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


# --- fuse -----------------------------------------------------------------------------------------


def totals_of(model: Model, terms: np.ndarray) -> np.ndarray:
    """Terms (…, 2) → totals: A_R + κ · A_D (Eq. 4), or their sum in units of their spread."""
    scale = model.calibration.term_scale
    if scale is None:
        return np.asarray(terms[..., 0] + model.recipe.kappa * terms[..., 1])
    means, spreads = np.array(scale)
    return np.asarray(((terms - means) / spreads).sum(-1))


def frame_name(scan: Scan, number: int) -> str:
    """Return the name of a frame: the scan's, and its number in a volume."""
    return f"{scan.name}#{number}" if scan.is_volume else scan.name


def result_of(model: Model, encoded: Encoded, number: int | None, frame: FrameScore) -> Result:
    """Reduce the terms of windows to one score, and bring maps into the scan's geometry.

    Args:
        model: a trained one.
        encoded: the scan.
        number: of the frame; None for the volume itself.
        frame: what the networks made of it; of a volume, the terms of all windows.
    """
    scan, terms = encoded.scan, frame.terms
    totals = totals_of(model, terms)
    top = model.recipe.top_window_fraction
    if top == "auto":
        top = 0.5 if number is not None and isinstance(scan, FlatVolume) else 0.05
    means = terms[_top(totals, top)].mean(0)
    total = float(totals_of(model, means))
    shape, line = _shape_of(encoded, number, top)
    combination = model.calibration.combination
    hashes = encoded.hashes if number is None else encoded.hashes[number : number + 1]
    seen = model.seen.note(hashes) if model.seen else None
    scan_name, frame_number = scan.member or (scan.name, number or 0)
    result = Result(
        name=scan.name if number is None else frame_name(scan, number),
        scan_name=scan_name,
        group=scan.group,
        unit="volume" if number is None else "image",
        frame=frame_number,
        total=total,
        image=float(means[0]),
        feature=float(means[1]),
        largest=float(totals.max()),
        mean=float(totals.mean()),
        windows=len(totals),
        precision=model.precision,
        warnings=() if number else encoded.warnings,
        grey=encoded.grey[number or 0],
        spacing=scan.scan_spacing if isinstance(scan, FlatVolume) else scan.spacing,
        affine=scan.affine,
        files=scan.files,
        eye=scan.eye,
        of_volume=scan.is_volume and number is not None,
        notes=(*scan.notes, seen) if seen else scan.notes,
        hashed=hashes[0] if number is not None and hashes else BLANK,
        volume=scan if isinstance(scan, FlatVolume) else None,
        shape=shape,
        shape_line=line,
        combined=None if combination is None or shape is None else float(combination(total, shape)),
    )
    if frame.maps is None or frame.x is None or number is None:
        return result
    residual = scan.to_original(number, frame.maps[0])
    original = scan.original(number)
    if original is None:
        reconstruction, picture = _channels_last(frame.maps[1:]), _channels_last(frame.x)
    else:  # grey, and seen in another geometry
        reconstruction = scan.to_original(number, frame.maps[1])
        picture = original.astype(np.float32) * (2 / 255) - 1
    patches = None
    if result.volume is not None and frame.corners is not None:
        patches = np.column_stack([frame.corners, totals, terms])
    result = dataclasses.replace(
        result,
        residual=residual,
        reconstruction=reconstruction,
        picture=picture,
        patches=patches,
        **of_signal(model.preprocessing, scan, residual),
    )
    if model.preprocessing.is_volume:
        result = dataclasses.replace(result, smoothed=smoothed(residual))
    return result


def _top(scores: np.ndarray, share: float) -> np.ndarray:
    """Return the places of a share of the scores, the highest."""
    # .05 × 140 is a little above 7 in floats, and rounding it up would take an eighth window.
    count = max(1, math.ceil(share * len(scores) * (1 - 1e-12)))
    return np.argsort(-scores, kind="stable")[:count]


def _shape_of(
    encoded: Encoded, number: int | None, share: float
) -> tuple[float | None, np.ndarray | None]:
    """Return a frame's shape score and its line; or the mean of a volume's highest frames'."""
    if encoded.shape is None:
        return None, None
    lines = encoded.shape if number is None else encoded.shape[number : number + 1]
    known = lines[np.isfinite(lines).any(axis=1)].astype(np.float64)
    shapes = np.sqrt(np.nanmean(known**2, axis=1))
    return float(shapes[_top(shapes, share)].mean()), None if number is None else lines[0]


def _channels_last(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
