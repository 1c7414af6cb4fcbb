"""What to know of the normals of a training run: what is few or odd among them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fanogan.calibration import ALPHA, held_out_needed
from fanogan.recipes import Recipe
from fanogan.scans import Kind, Note, Scan

FEW_IMAGES = 200
FEW_SUBJECTS = 10


@dataclasses.dataclass(frozen=True)
class VolumesAsImages(Note):
    """Volumes are seen slice by slice, as plain images."""


@dataclasses.dataclass(frozen=True)
class DuplicateImages(Note):
    """Training images that repeat another exactly."""

    count: int
    of: int


@dataclasses.dataclass(frozen=True)
class HeldOutDuplicates(Note):
    """Held-out images that are among the training images too."""

    count: int
    of: int


@dataclasses.dataclass(frozen=True)
class FewImages(Note):
    """Fewer training images, or signals or volumes, than ``FEW_IMAGES``."""

    count: int
    noun: Kind = "image"


@dataclasses.dataclass(frozen=True)
class FewSubjects(Note):
    """Fewer training subjects than ``FEW_SUBJECTS``."""

    count: int


@dataclasses.dataclass(frozen=True)
class FewHeldOut(Note):
    """Fewer held-out subjects than a flag at a false-positive rate of ``ALPHA`` needs."""

    count: int
    needed: int


@dataclasses.dataclass(frozen=True)
class NoteOfScans(Note):
    """A reader's note, and how many of the scans have it."""

    note: Note
    count: int
    of: int


def notes_on(scans: Sequence[Scan], fingerprint: dict[str, Any], recipe: Recipe) -> Iterator[Note]:
    """Yield what to know of the normals: what is few or odd, and readers' notes, each once."""
    images, subjects = fingerprint["images"], fingerprint["subjects"]
    if fingerprint["volumes"] and recipe.geometry == "auto" and "retina_found" not in fingerprint:
        yield VolumesAsImages()
    if fingerprint["duplicates"]:
        yield DuplicateImages(fingerprint["duplicates"], images)
    if fingerprint["held_out_duplicates"]:
        yield HeldOutDuplicates(fingerprint["held_out_duplicates"], fingerprint["held_out_images"])
    if images < FEW_IMAGES:
        noun: Kind = "signal" if recipe.is_signal else "volume" if recipe.is_volume else "image"
        yield FewImages(images, noun)
    if subjects < FEW_SUBJECTS:
        yield FewSubjects(subjects)
    held_out, needed = fingerprint["held_out_subjects"], held_out_needed(ALPHA)
    if held_out < needed:
        yield FewHeldOut(held_out, needed)
    for note, count in Counter(note for scan in scans for note in scan.notes).items():
        yield NoteOfScans(note, count, len(scans))
