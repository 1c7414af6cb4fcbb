"""The contract of all detectors: ``score``, ``localize``, ``reconstruct`` from one streaming path.

A detector says what its networks make of a batch (``_terms_and_maps``); everything else here is the
same for all: reading, preprocessing, windows, the reduction to one score, warnings.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fanogan.calibration import Calibration
from fanogan.familiarity import Familiar
from fanogan.normals import grey_shares, single_images
from fanogan.patches import score_windows
from fanogan.preprocessing import Preprocessing
from fanogan.recipes import Precision, Recipe
from fanogan.scans import BadScan, Scan, read_scans

log = logging.getLogger(__name__)

BATCH = 64
Encoded = tuple[Scan, np.ndarray, tuple[str, ...]]  # a scan, (frames, C, H, W), and its warnings


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image, or one whole volume, scores.

    ``total`` = ``image`` + κ · ``feature`` (Eq. 4). Of an image larger than the window each is the
    mean over the recipe's top share of its windows, those with the highest totals; ``largest`` and
    ``mean`` are over all its windows. Arrays are in the scan's own geometry, None for a volume.
    """

    name: str
    group: str
    unit: str  # 'image' or 'volume'
    frame: int
    total: float
    image: float
    feature: float
    largest: float
    mean: float
    windows: int
    warnings: tuple[str, ...] = ()  # how it is unlike the training normals
    notes: tuple[str, ...] = ()  # what was done in reading it, such as an alpha channel dropped
    residual: np.ndarray | None = None  # (H, W) float32, |x − x̂| in [0, 2] (Eq. 5)
    reconstruction: np.ndarray | None = None  # (H, W) or (H, W, C) float32 in [−1, 1]
    picture: np.ndarray | None = None  # likewise, the image as the networks' grey scale has it


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n images: ``total`` = ``image`` + κ · ``feature``, each (n,) float64 (Eq. 4)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    total: np.ndarray
    image: np.ndarray
    feature: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)


class Detector(abc.ABC):
    """What a user holds once it has learnt; higher scores are more anomalous."""

    recipe: Recipe
    device: torch.device
    # What ``fit`` or ``load`` sets.
    preprocessing: Preprocessing
    familiar: Familiar
    networks: tuple[torch.nn.Module, ...]
    calibration: Calibration

    @abc.abstractmethod
    def _terms_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of what the networks see, (B, C, *sides): the terms of the score and the maps.

        Returns:
            (A_R, A_D) as (B, 2) (Eq. 4), and |x − x̂| (Eq. 5) and x̂ as (B, 1 + C, *sides).
        """

    def results(
        self,
        images: Any,
        *,
        groups: str | None = None,
        skip_bad: bool = False,
        on_bad: Any = None,
        workers: int = 2,
    ) -> Iterator[Result]:
        """Score images one after the other, in flat memory; a volume follows its images.

        Arguments and errors as for ``read_scans``; BadScan also for an image that isn't of the
        kind that the model was trained on.
        """
        self._check_fitted()
        scans = read_scans(images, groups, skip_bad, on_bad=on_bad, workers=workers)
        yield from self._score(self._encoded(single_images(scans), skip_bad, on_bad))

    def score(self, images: Any, **reading: Any) -> Scores:
        """The anomaly scores of images, each exactly once (Eq. 4)."""
        found = [
            dataclasses.replace(r, residual=None, reconstruction=None, picture=None)
            for r in self.results(images, **reading)
            if r.unit == "image"
        ]
        columns = np.array([(r.total, r.image, r.feature) for r in found]).reshape(-1, 3).T
        names = tuple(r.name for r in found)
        return Scores(names, tuple(r.group for r in found), *columns)

    def localize(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """The map of each image, (H, W) float32: |x − G(E(x))| in [0, 2] (Eq. 5)."""
        found = (r.residual for r in self.results(images, **reading))
        return [residual for residual in found if residual is not None]

    def reconstruct(self, images: Any, **reading: Any) -> list[np.ndarray]:
        """The normal version of each image, G(E(x)): (H, W) or (H, W, C) float32 in [−1, 1]."""
        found = (r.reconstruction for r in self.results(images, **reading))
        return [reconstruction for reconstruction in found if reconstruction is not None]

    def decision_function(self, images: Any) -> np.ndarray:
        """The totals, as PyOD has them: higher is more anomalous (scikit-learn's is lower)."""
        return self.score(images).total

    def predict(self, images: Any, alpha: float = 0.05) -> np.ndarray:
        """1 for an image flagged at false-positive rate ``alpha``, else 0, as in PyOD.

        Raises:
            ValueError: too few normals were held out for a flag at this level.
        """
        self._check_fitted()
        held_out = self.calibration.units.get("image")
        flags = held_out.flags(self.score(images).total, alpha) if held_out else None
        if flags is None:
            why = held_out.describe(alpha) if held_out else "no single images were held out"
            raise ValueError(f"no flag at a false-positive rate of {alpha:g}: {why}")
        return np.array(flags, dtype=np.int64)

    def _encoded(
        self, scans: Iterable[Scan], skip_bad: bool = False, on_bad: Any = None
    ) -> Iterator[Encoded]:
        """Each scan as it is kept in memory, and in what way it is unlike the training normals."""
        good, first_error = 0, None
        for scan in scans:
            try:
                encoded = self.preprocessing.encode(scan)
            except BadScan as error:
                if not skip_bad:
                    raise
                log.warning("skipped: %s", error)
                if on_bad is not None:
                    on_bad(error)
                first_error = first_error or error
                continue
            good += 1
            shares = grey_shares(encoded, self.preprocessing)
            yield scan, encoded, tuple(self.familiar.warnings(scan, shares))
        if first_error is not None and not good:
            raise BadScan(f"none of the images could be scored; the first: {first_error}")

    def _score(self, scans: Iterator[Encoded]) -> Iterator[Result]:
        """Results in the order of the scans; small images share a batch."""
        waiting: list[Encoded] = []
        for scan, encoded, warnings in scans:
            whole_image = self._at_one_look(encoded) and not scan.is_volume
            same = not waiting or waiting[0][1].shape == encoded.shape
            if waiting and not (whole_image and same and len(waiting) < BATCH):
                yield from self._score_together(waiting)
                waiting = []
            if whole_image:
                waiting.append((scan, encoded, warnings))
            else:
                yield from self._score_alone(scan, encoded, warnings)
        if waiting:
            yield from self._score_together(waiting)

    def _score_together(self, waiting: Sequence[Encoded]) -> Iterator[Result]:
        """Small images of one size."""
        stored = np.concatenate([encoded for _, encoded, _ in waiting])
        for (scan, _, warnings), looked in zip(waiting, self._look_at(stored), strict=True):
            yield self._result(scan, 0, warnings, *looked)

    def _score_alone(
        self, scan: Scan, encoded: np.ndarray, warnings: tuple[str, ...]
    ) -> Iterator[Result]:
        """The frames of a volume or a large image, and the volume itself."""
        all_terms = []
        for frame, (terms, maps, x) in enumerate(self._look_at(encoded)):
            all_terms.append(terms)
            yield self._result(scan, frame, warnings if frame == 0 else (), terms, maps, x)
        if scan.is_volume:
            yield self._result(scan, -1, warnings, np.concatenate(all_terms))

    def _result(
        self,
        scan: Scan,
        frame: int,
        warnings: tuple[str, ...],
        terms: np.ndarray,
        maps: np.ndarray | None = None,
        x: np.ndarray | None = None,
    ) -> Result:
        """Reduce the terms of windows, (windows, 2), to one score."""
        totals = terms[:, 0] + self.recipe.kappa * terms[:, 1]
        # .05 × 140 is a little above 7 in floats, and rounding it up would take an eighth window.
        count = max(1, math.ceil(self.recipe.top * len(totals) * (1 - 1e-12)))
        top = np.argsort(-totals, kind="stable")[:count]
        image, feature = terms[top].mean(0)
        several = scan.is_volume and frame >= 0
        name = f"{scan.name}#{frame}" if several else scan.name
        return Result(
            name=name,
            group=scan.group,
            unit="volume" if frame < 0 else "image",
            frame=max(frame, 0),
            total=float(image + self.recipe.kappa * feature),
            image=float(image),
            feature=float(feature),
            largest=float(totals.max()),
            mean=float(totals.mean()),
            windows=len(totals),
            warnings=warnings,
            notes=scan.notes,
            residual=None if maps is None else maps[0],
            reconstruction=None if maps is None else _channels_last(maps[1:]),
            picture=None if x is None else _channels_last(x),
        )

    def _look_at(self, stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Terms (windows, 2), maps (1 + C, H, W) and x (C, H, W) of each of (frames, C, H, W)."""
        if self._at_one_look(stored):
            for start in range(0, len(stored), BATCH):
                terms, maps, x = self._look_at_whole(stored[start : start + BATCH])
                yield from zip(terms[:, None], maps, x, strict=True)
        else:
            for frame in stored:
                yield self._look_through_windows(frame[None])

    def _at_one_look(self, stored: np.ndarray) -> bool:
        """Whether images (frames, C, H, W) are seen whole, or are no larger than one window."""
        return self.preprocessing.window in (None, stored.shape[-2:])

    def _look_at_whole(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (B, C, H, W) seen whole: terms (B, 2), maps (B, 1 + C, H, W), x (B, C, H, W)."""
        with torch.inference_mode(), precision_of("fp32"):
            x = self._to_device(stored)
            terms, maps = self._terms_and_maps(self.preprocessing.see(x))
            maps = self.preprocessing.unsee(maps, x.shape[-2:])
        return terms.cpu().double().numpy(), maps.cpu().numpy(), x.cpu().numpy()

    def _look_through_windows(
        self, stored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One large image (1, C, H, W), as in ``_look_at``."""
        with torch.inference_mode(), precision_of("fp32"):
            x = self._to_device(stored)
            terms, maps = score_windows(x, self.preprocessing, self._terms_and_maps, BATCH)
        return terms.cpu().double().numpy(), maps.cpu().numpy(), x[0].cpu().numpy()

    def _to_device(self, stored: np.ndarray) -> Tensor:
        # torch has few functions for uint16, and none for arrays that may not be written to.
        copied = stored.astype(np.uint8 if stored.dtype == np.uint8 else np.int32)
        return self.preprocessing.to_network(torch.from_numpy(copied).to(self.device))

    def _check_fitted(self) -> None:
        if not hasattr(self, "networks"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                "this detector has learnt nothing yet: call fit(normals), or FAnoGAN.load(folder)"
            )


def _channels_last(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


@contextlib.contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """TF32 products in recipes that ask for them, and never elsewhere."""
    allowed = precision == "tf32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
