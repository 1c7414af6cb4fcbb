"""The contract of all detectors: ``score``, ``localize``, ``reconstruct`` from one streaming path.

A detector says what its networks make of a batch (``_terms_and_maps``); everything else here is the
same for all: reading, preprocessing, windows, the reduction to one score, warnings.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fanogan.calibration import (
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    Calibration,
    Familiar,
    HeldOut,
    ResidualHistogram,
    TermScale,
)
from fanogan.data import Preprocessing, grey_shares, score_windows, single_images
from fanogan.detectors.result import Encoded, Looked, Result, Scores
from fanogan.models import folded
from fanogan.recipes import Precision, Recipe
from fanogan.retina import FlatVolume
from fanogan.scans import BadScan, Scan, good_ones, read_scans

log = logging.getLogger(__name__)

BATCH = 64
# From here on the C library gives blocks back and asks anew, and each page is cleared again.
LARGEST_BLOCK = 32 << 20


class Detector(abc.ABC):
    """What a user holds once it has learnt; higher scores are more anomalous."""

    recipe: Recipe
    device: torch.device
    # What ``fit`` or ``load`` sets.
    preprocessing: Preprocessing
    familiar: Familiar
    networks: tuple[torch.nn.Module, ...]
    calibration: Calibration
    term_scale: TermScale | None = None  # with a recipe's ``standardised``
    # What computes ``_terms_and_maps`` in place of PyTorch (``export.use_engine``).
    engine: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]] | None = None
    # The networks that were folded, the versions of their tensors, and the folded ones.
    _folded: tuple[Any, list[int], tuple[torch.nn.Module, ...]] | None = None

    @abc.abstractmethod
    def _terms_and_maps(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of what the networks see, (B, C, *sides): the terms of the score and the maps.

        Args:
            x: in [−1, 1].
            inside: (B, 1, *sides) bool, where x̂ counts; elsewhere x takes its place. None: all.

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

        Arguments and errors as for ``read_scans``, of a retinal model ``read_volumes``; BadScan
        also for an image that isn't of the kind that the model was trained on. B-scans without a
        window in the retina are left out.
        """
        reading = {"groups": groups, "skip_bad": skip_bad, "on_bad": on_bad, "workers": workers}
        for batch in self.batches(images, **reading):
            yield from batch

    def batches(self, images: Any, **reading: Any) -> Iterator[Iterator[Result]]:
        """``results`` in pieces, each to be gone through before the next.

        A piece is a volume with its images, a large image, or the small images that the networks
        see together: with whom an image is seen may change the last digit of its score, and a job
        that goes on after whole pieces has the same ones. Arguments and errors as for ``read``.
        """
        self._check_fitted()
        yield from self._batches(self.read(images, **reading))

    def score(self, images: Any, **reading: Any) -> Scores:
        """The anomaly scores of images, each exactly once (Eq. 4)."""
        found = [
            dataclasses.replace(
                r, residual=None, reconstruction=None, picture=None, volume=None, patches=None
            )
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

    def read(
        self,
        images: Any,
        *,
        groups: str | None = None,
        skip_bad: bool = False,
        on_bad: Any = None,
        workers: int = 2,
        done: Set[str] = frozenset(),
    ) -> Iterator[Encoded]:
        """What is to be scored, read and encoded as the model sees it; arguments as ``results``.

        Images and volumes whose names are in ``done`` are left out.
        """
        if self.preprocessing.retina:
            from fanogan.retina import find_volumes, straightened

            found = [one for one in find_volumes(images, groups) if one.name not in done]
            flat = straightened(found, self.preprocessing.retina.space)
            scans = good_ones(flat, skip_bad, on_bad, noun="volumes", before=len(done))
        else:
            read = read_scans(images, groups, skip_bad, on_bad=on_bad, workers=workers, done=done)
            scans = (scan for scan in single_images(read) if scan.name not in done)
        return self._encoded(scans, skip_bad, on_bad, len(done))

    def _encoded(
        self, scans: Iterable[Scan], skip_bad: bool = False, on_bad: Any = None, good: int = 0
    ) -> Iterator[Encoded]:
        """Each scan as it is kept in memory, and in what way it is unlike the training normals."""
        first_error = None
        for scan in scans:
            try:
                pixels = self.preprocessing.encode(scan)
                usable = self.preprocessing.usable(scan)
                if usable is not None and not usable.any():
                    raise BadScan(_no_window(scan, self.preprocessing))
            except BadScan as error:
                if not skip_bad:
                    raise
                log.warning("skipped: %s", error)
                if on_bad is not None:
                    on_bad(error)
                first_error = first_error or error
                continue
            good += 1
            shares = grey_shares(pixels, self.preprocessing)
            warnings = tuple(self.familiar.warnings(scan, shares))
            yield Encoded(scan, pixels, usable, warnings)
        if first_error is not None and not good:
            raise BadScan(f"none of the images could be scored; the first: {first_error}")

    def _score(self, scans: Iterator[Encoded]) -> Iterator[Result]:
        """Results in the order of the scans."""
        for batch in self._batches(scans):
            yield from batch

    def _batches(self, scans: Iterator[Encoded]) -> Iterator[Iterator[Result]]:
        """Small images of one size together, all else one by one."""
        waiting: list[Encoded] = []
        for encoded in scans:
            whole_image = self._at_one_look(encoded) and not encoded.scan.is_volume
            same = not waiting or waiting[0].pixels.shape == encoded.pixels.shape
            if waiting and not (whole_image and same and len(waiting) < BATCH):
                yield self._score_together(waiting)
                waiting = []
            if whole_image:
                waiting.append(encoded)
            else:
                yield self._score_alone(encoded)
        if waiting:
            yield self._score_together(waiting)

    def _score_together(self, waiting: Sequence[Encoded]) -> Iterator[Result]:
        """Small images of one size."""
        stored = np.concatenate([encoded.pixels for encoded in waiting])
        for encoded, looked in zip(waiting, self._look_at_whole(stored), strict=True):
            yield self._result(encoded, 0, looked)

    def _score_alone(self, encoded: Encoded) -> Iterator[Result]:
        """The frames of a volume or a large image, and the volume itself."""
        scan = encoded.scan
        all_terms = []
        for frame, looked in enumerate(self._look_at(encoded)):
            if not len(looked.terms):  # a B-scan without retina
                continue
            all_terms.append(looked.terms)
            yield self._result(encoded, frame, looked)
        if scan.is_volume:
            yield self._result(encoded, -1, Looked(np.concatenate(all_terms)))

    def _result(self, encoded: Encoded, frame: int, looked: Looked) -> Result:
        """Reduce the terms of windows, (windows, 2), to one score; maps in the scan's geometry."""
        scan, terms = encoded.scan, looked.terms
        totals = self._totals(terms)
        # .05 × 140 is a little above 7 in floats, and rounding it up would take an eighth window.
        count = max(1, math.ceil(self.recipe.top_window_fraction * len(totals) * (1 - 1e-12)))
        top = np.argsort(-totals, kind="stable")[:count]
        means = terms[top].mean(0)
        several = scan.is_volume and frame >= 0
        result = Result(
            name=f"{scan.name}#{frame}" if several else scan.name,
            group=scan.group,
            unit="volume" if frame < 0 else "image",
            frame=max(frame, 0),
            total=float(self._totals(means)),
            image=float(means[0]),
            feature=float(means[1]),
            largest=float(totals.max()),
            mean=float(totals.mean()),
            windows=len(totals),
            warnings=encoded.warnings if frame <= 0 else (),
            notes=scan.notes,
            volume=scan if isinstance(scan, FlatVolume) else None,
        )
        if looked.maps is None or looked.x is None:
            return result
        if not isinstance(scan, FlatVolume):
            return dataclasses.replace(
                result,
                residual=looked.maps[0],
                reconstruction=_channels_last(looked.maps[1:]),
                picture=_channels_last(looked.x),
            )
        assert looked.corners is not None
        bscan = np.asarray(scan.bscans[frame])
        return dataclasses.replace(
            result,
            residual=scan.back(frame, looked.maps[0]),
            reconstruction=scan.back(frame, looked.maps[1]),
            picture=bscan.astype(np.float32) * (2 / 255) - 1,
            patches=np.column_stack([looked.corners, totals, terms]),
        )

    def _totals(self, terms: np.ndarray) -> np.ndarray:
        """Terms (…, 2) → totals: A_R + κ · A_D (Eq. 4), or their sum in units of their spread."""
        if self.term_scale is None:
            return np.asarray(terms[..., 0] + self.recipe.kappa * terms[..., 1])
        means, spreads = np.array(self.term_scale)
        return np.asarray(((terms - means) / spreads).sum(-1))

    def look(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the networks, or the engine in their place, make of any number of images.

        Arguments and results as of ``_terms_and_maps``; in inference mode.
        """
        if self.engine is not None:
            return self.engine(x, inside)
        largest = (
            2 * self.recipe.base_width * x[0, 0].numel() * x.element_size()
        )  # an image's, in D
        together = BATCH
        while x.device.type == "cpu" and together > 16 and together * largest >= LARGEST_BLOCK:
            together //= 2
        parts = torch.split(x, together)
        masks = [None] * len(parts) if inside is None else torch.split(inside, together)
        scorer = self._to_score()
        found = [scorer._terms_and_maps(*each) for each in zip(parts, masks, strict=True)]
        terms, maps = (torch.cat(each) for each in zip(*found, strict=True))
        return terms, maps

    def _to_score(self) -> Self:
        """This detector with folded networks, which are made anew once the networks change."""
        tensors = [t for one in self.networks for t in (*one.parameters(), *one.buffers())]
        versions = [tensor._version for tensor in tensors]
        if not self._folded or self._folded[:2] != (self.networks, versions):
            with torch.inference_mode(False), torch.no_grad():
                ready = tuple(folded(network) for network in self.networks)
            self._folded = self.networks, versions, ready
        scorer = copy.copy(self)
        scorer.networks = self._folded[2]
        return scorer

    def _look_at(self, encoded: Encoded) -> Iterator[Looked]:
        """What the networks make of each frame."""
        pixels, scan = encoded.pixels, encoded.scan
        if self._at_one_look(encoded):
            for start in range(0, len(pixels), BATCH):
                yield from self._look_at_whole(pixels[start : start + BATCH])
            return
        retina = None
        if self.preprocessing.retina and self.preprocessing.retina.score_retina_only:
            assert isinstance(scan, FlatVolume)
            retina = scan.retina
        for frame, stored in enumerate(pixels):
            yield self._look_through_windows(
                stored[None],
                None if encoded.usable is None else encoded.usable[frame],
                None if retina is None else retina[frame],
            )

    def _at_one_look(self, encoded: Encoded) -> bool:
        """Whether images are seen whole, or are no larger than one window."""
        whole = self.preprocessing.window in (None, encoded.pixels.shape[-2:])
        return whole and encoded.usable is None

    def _look_at_whole(self, stored: np.ndarray) -> Iterator[Looked]:
        """Images (B, C, H, W) seen whole."""
        with torch.inference_mode(), precision_of("fp32"):
            x = self._to_device(stored)
            terms, maps = self.look(self.preprocessing.see(x))
            maps = self.preprocessing.unsee(maps, x.shape[-2:])
        columns = terms.cpu().double().numpy()[:, None], maps.cpu().numpy(), x.cpu().numpy()
        for found in zip(*columns, strict=True):
            yield Looked(*found)

    def _look_through_windows(
        self, stored: np.ndarray, usable: np.ndarray | None, retina: np.ndarray | None
    ) -> Looked:
        """One large image (1, C, H, W), through the usable windows."""
        with torch.inference_mode(), precision_of("fp32"):
            x = self._to_device(stored)
            masks = [
                None if mask is None else torch.from_numpy(mask).to(self.device)
                for mask in (usable, retina)
            ]
            terms, corners, maps = score_windows(x, self.preprocessing, self.look, BATCH, *masks)
        return Looked(
            terms.cpu().double().numpy(),
            maps.cpu().numpy(),
            x[0].cpu().numpy(),
            corners.cpu().numpy(),
        )

    # --- calibration ----------------------------------------------------------------------------

    def _calibrate(self, held_out: Sequence[Scan]) -> Calibration:
        """Score the held-out normals. Subjects are numbered: a name may be a patient's."""
        self.term_scale = self.engine = None
        if self.recipe.standardise_terms:
            self.term_scale = self._scale_of_terms(held_out)
        residuals, en_face = ResidualHistogram(), ResidualHistogram()
        scores: dict[str, list[float]] = {}
        groups: dict[str, list[str]] = {}
        numbers: dict[str, str] = {}
        for result in self._score(self._encoded(held_out)):
            number = numbers.setdefault(result.group, f"subject {len(numbers) + 1}")
            totals = {result.unit: [result.total]}
            if result.patches is not None:
                totals["patch"] = result.patches[:, 2].tolist()
            for unit, values in totals.items():
                scores.setdefault(unit, []).extend(values)
                groups.setdefault(unit, []).extend([number] * len(values))
            if result.residual is not None:
                residuals.update(result.residual[np.isfinite(result.residual)])
            if result.volume is not None and result.residual is not None:
                line = result.volume.en_face_line(result.frame, result.residual)
                en_face.update(line[np.isfinite(line)])
        units = {
            unit: HeldOut(np.array(scores[unit]), tuple(groups[unit])) for unit in sorted(scores)
        }
        retinal = self.preprocessing.retina is not None
        return Calibration(
            units,
            residuals.quantile(MAP_QUANTILE),
            (en_face.quantile(0.5), en_face.quantile(EN_FACE_QUANTILE)) if retinal else None,
            self.term_scale,
        )

    def _scale_of_terms(self, held_out: Sequence[Scan]) -> TermScale:
        """Means and standard deviations of A_R and A_D over all windows of held-out normals."""
        encoded = self._encoded(held_out)
        terms = np.concatenate([looked.terms for one in encoded for looked in self._look_at(one)])
        spreads = np.maximum(terms.std(0), 1e-12)
        return tuple(terms.mean(0).tolist()), tuple(spreads.tolist())

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


def _no_window(scan: Scan, preprocessing: Preprocessing) -> str:
    """Why a volume can't be scored."""
    assert preprocessing.window is not None and preprocessing.retina is not None
    rows, columns = preprocessing.window
    return (
        f"{scan.name} has no place where {rows}×{columns} flat pixels hold "
        f"{100 * preprocessing.retina.share:g} % of retina and nothing unknown: look at its layers "
        "with fanogan prepare, or leave it out with --skip-bad"
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
