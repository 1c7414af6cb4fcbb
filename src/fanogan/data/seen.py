"""Which images a model has seen: a short hash of each, to be found again in a test set.

Hashes are of the pixels as networks are given them, so that a copy under another name, or saved in
another lossless format, is recognised; a cropped or a JPEG copy isn't. Two of a million images
that differ share a hash of 8 bytes with a probability of 3e-8.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fanogan.scans import Note

BLANK = 0
"""The hash of an image of one value, such as a frame without signal: those are all alike."""


@dataclasses.dataclass(frozen=True)
class SeenBefore(Note):
    """Images of a scan that the model was trained or calibrated on."""

    trained: int
    calibrated: int
    of: int


def digest_of(image: np.ndarray) -> str:
    """Return the SHA-256 of an encoded image, (C, *sides)."""
    digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode())
    # A volume slice by slice: it may not fit into memory.
    for part in image if image.ndim == 3 else (each for channel in image for each in channel):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def short_hash(digest: str) -> int:
    """Return the first 8 bytes of a digest as an integer."""
    return int(digest[:16], 16)


def short_hashes(images: np.ndarray) -> tuple[int, ...]:
    """Return the short hash of each encoded image (frames, C, H, W), ``BLANK`` of blank ones."""
    return tuple(
        BLANK if image.min() == image.max() else short_hash(digest_of(image)) for image in images
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """Short hashes of the images that a model was trained on, and calibrated on.

    Attributes:
        trained: (n,) uint64, rising.
        calibrated: (m,) uint64, rising.
    """

    trained: NDArray[np.uint64]
    calibrated: NDArray[np.uint64]

    @classmethod
    def of(cls, trained: Iterable[str], calibrated: Iterable[str]) -> Seen:
        """Keep what is needed of the digests of images."""
        hashes = ((short_hash(each) for each in digests) for digests in (trained, calibrated))
        return cls(*(np.unique(np.fromiter(each, dtype=np.uint64)) for each in hashes))

    def trained_too(self, other: Seen) -> Seen:
        """Return the same, with what another was trained on, such as a GAN that was given."""
        return Seen(np.union1d(self.trained, other.trained), self.calibrated)

    def note(self, hashes: Sequence[int]) -> SeenBefore | None:
        """Return how many of some images were seen, each counted once; None where none was."""
        known = np.array([each for each in hashes if each != BLANK], dtype=np.uint64)
        trained = _found(known, self.trained)
        calibrated = _found(known, self.calibrated) & ~trained
        if not (trained | calibrated).any():
            return None
        return SeenBefore(int(trained.sum()), int(calibrated.sum()), len(hashes))


def _found(hashes: NDArray[np.uint64], among: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell of each hash whether it is among rising ones."""
    if not len(among):
        return np.zeros(len(hashes), dtype=np.bool_)
    at = np.searchsorted(among, hashes).clip(max=len(among) - 1)
    return np.asarray(among[at] == hashes)
