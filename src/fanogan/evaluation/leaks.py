"""Is a test set one? How many of its images the model has seen, and none under both labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fanogan.data import BLANK, Seen
from fanogan.errors import FanoganError
from fanogan.scoring import Result
from fanogan.text import counted

LABELS = "normal", "anomalous"


class BadTestSet(FanoganError):
    """Labelled images that can't measure a model, said in one sentence."""


class Leaks:
    """What a model has seen of labelled images, counted while they pass by."""

    def __init__(self, seen: Seen | None, noun: str, *, allowed: bool = False):
        """Start with no image.

        Args:
            seen: the images of the model; None: it keeps none.
            noun: what an image is called.
            allowed: seen images are counted, and not refused.
        """
        self.seen, self.noun, self.allowed = seen, noun, allowed
        self.names: dict[int, str] = {}  # of the normal images, by their hashes
        self.counts = {
            label: dict.fromkeys(("images", "trained", "calibrated"), 0) for label in LABELS
        }

    def add(self, label: int, name: str, hashed: int) -> None:
        """Count an image, by its short hash.

        Raises:
            BadTestSet: an anomalous image that is among the normal ones.
        """
        counts = self.counts[LABELS[label]]
        counts["images"] += 1
        if hashed != BLANK:
            if label == 0:
                self.names.setdefault(hashed, name)
            elif hashed in self.names:
                raise BadTestSet(
                    f"{self.names[hashed]} among the normal images and {name} among the anomalous "
                    "ones are the same image: give each image one label"
                )
        note = self.seen.note([hashed]) if self.seen else None
        if note:
            counts["trained"] += note.trained
            counts["calibrated"] += note.calibrated

    def of(self, results: Iterable[Result], label: int) -> Iterator[Result]:
        """Yield the results of a label, count their images, and refuse those that were seen.

        Raises:
            BadTestSet: as of ``add`` and ``check``.
        """
        for result in results:
            if result.unit == "image":
                self.add(label, result.name, result.hashed)
            yield result
        self.check(label)

    def check(self, label: int) -> None:
        """Refuse a label whose images were seen.

        Raises:
            BadTestSet: how many were trained on, and how many calibrated on.
        """
        words = _seen_words(LABELS[label], self.counts[LABELS[label]], self.noun)
        if words and not self.allowed:
            raise BadTestSet(
                f"{words}, so the result would be too good: leave them out; evaluate --allow-seen "
                "takes them all the same"
            )

    def figures(self) -> dict[str, Any] | None:
        """Return the counts of each label, or None where the model keeps no hashes."""
        return {"noun": self.noun, **self.counts} if self.seen else None


def leak_sentences(figures: Mapping[str, Mapping[str, Any] | None]) -> Sequence[str]:
    """Say of each model by its name what it has seen, from ``Leaks.figures``."""
    sentences = []
    for name, counts in figures.items():
        if counts is None:
            sentences.append(
                f"{name} keeps no hashes of the images that it was trained and calibrated on, so "
                "whether these are among them can't be checked"
            )
            continue
        for label in LABELS:
            words = _seen_words(label, counts[label], counts["noun"])
            if words:
                sentences.append(f"{words} ({name}): the result is too good")
    return sentences


def _seen_words(label: str, counts: Mapping[str, int], noun: str) -> str:
    """Say how many images were trained and calibrated on; '' where none was."""
    if not counts["trained"] and not counts["calibrated"]:
        return ""
    images = counted(counts["images"], f"{label} {noun}")
    return (
        f"of {images} {counts['trained']:,} were trained on and {counts['calibrated']:,} "
        "calibrated on"
    )
