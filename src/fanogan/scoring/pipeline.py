"""From files to results, downward: read → encode → windows → networks → fuse.

One streaming path for all scoring: tables, maps, calibration and evaluation all read from it, in
flat memory, each image once.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import numpy as np

from fanogan.calibration import grey_measures
from fanogan.data import BLANK, short_hashes
from fanogan.report import describe
from fanogan.retina import FlatVolume
from fanogan.scans import BadScan, Scan
from fanogan.scoring.frames import frames_at_once, score_frames, score_whole, sees_whole
from fanogan.scoring.model import Model
from fanogan.scoring.result import Encoded, FrameScore, Result, Scores
from fanogan.scoring.signal_maps import of_signal
from fanogan.scoring.skips import Skips
from fanogan.scoring.voxel_maps import smoothed
from fanogan.text import counted

log = logging.getLogger(__name__)


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
        for encoded, frame in zip(waiting, score_whole(model, stored), strict=True):
            yield result_of(model, encoded, 0, frame)

    def attempted(name: str, piece: Iterator[Result]) -> Iterator[Iterator[Result]]:
        # A scan that is too large shows it at its first result, and nothing of it is out by then.
        with skips.attempt(name):
            yield itertools.chain([next(piece)], piece)

    for encoded in scans:
        small = sees_whole(model, encoded) and not encoded.scan.is_volume
        same = not waiting or waiting[0].pixels.shape == encoded.pixels.shape
        if waiting and not (small and same and len(waiting) < frames_at_once(encoded.pixels)):
            yield from attempted(waiting[0].scan.name, together())
            waiting = []
        if small:
            waiting.append(encoded)
        else:
            yield from attempted(encoded.scan.name, _score_alone(model, encoded))
    if waiting:
        yield from attempted(waiting[0].scan.name, together())
    skips.check()


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
