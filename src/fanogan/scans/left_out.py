"""What a search leaves out: what fanogan itself wrote, and formats that it doesn't read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from fanogan.scans.nifti import is_nifti_header
from fanogan.text import counted

DEMO, STORE = frozenset({".fanogan-demo"}), frozenset({"zarr.json", ".zgroup", ".zarray"})
MARKS = DEMO | STORE | {"report.html", "scores.csv", ".unfinished", "config.yaml", "study.json"}
"""Names in a folder that say what wrote it."""

_UNREAD = re.compile(
    r"\.(gif|webp|jp2|j2k|jpx|jpf|jpc|jxl|heic|heif|avif|jfif|jpe|dib|pcx|tga|psd|exr|ppm|pgm|pbm|"
    r"pnm|pfm|dng|cr2|nef|arw|raw|mha|mhd|nrrd|nhdr|mnc|mgh|mgz|nia|hdr|img|svs|ndpi|scn|mrxs|vsi|"
    r"bif|czi|lif|lsm|nd2|oib|oif|ims|fda|fds|oct|sdb|fits|fit|h5|hdf5|mat|avi|mp4|mov|mkv)(\.gz)?$",
    re.IGNORECASE,
)
"""The extensions of images and volumes that are not read."""


class LeftOut:
    """Counts what one search leaves out: a few numbers, however many files."""

    def __init__(self, signals: bool = False) -> None:
        """Nothing is left out yet of a search for images, or for signals."""
        self.signals = signals
        self.without_image: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.own: list[str] = []

    def add_file(self, path: str) -> None:
        """Count a file that isn't read, if it is one of an image."""
        kind = _UNREAD.search(path)
        if kind and not is_nifti_header(f"{path[: kind.start()]}.hdr"):  # the pixels of a pair
            self.formats[kind[0].lower()] += 1

    def sentences(self) -> Iterator[str]:
        """Yield what was left out, kind by kind."""
        for counts, why in (
            (self.without_image, "without an image"),
            (self.formats, "of formats that fanogan doesn't read"),
        ):
            if counts:
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
                yield f"{counted(counts.total(), 'file')} {why} ({kinds})"
        if self.own:
            more = f" and {len(self.own) - 1:,} more" if len(self.own) > 1 else ""
            yield f"{self.own[0]}{more}, made by fanogan or part of a Zarr store"


def own_names(folder: str | Path, marks: Collection[str]) -> re.Pattern[str]:
    """Return what the names in a folder match that hold pictures or arrays which fanogan made.

    Scans that lie beside them, as where a run was written among its scans, are no less scans.

    Args:
        folder: The folder.
        marks: Those of `MARKS` that lie in it.
    """
    own = ["(?!)"]  # matches nothing
    if {"report.html", "scores.csv"} <= set(marks) or ".unfinished" in marks:
        own.append(
            r"maps|reconstructions|overlays|en_face|shape|layers|dicom|pixels\.npz|"
            r"(scores|scans|patches|regions)\.csv"
        )
    if "config.yaml" in marks and _begins(folder, "config.yaml", b"fanogan:"):
        own.append("samples")
    if "study.json" in marks and _begins(folder, "study.json", b'{\n "data":'):
        own.append(r"figures|seed\d+")
    return re.compile("|".join(own))


def own_in(folder: Path) -> re.Pattern[str]:
    """Return what the names in a folder match where a search of it doesn't look."""
    marks = {mark for mark in MARKS if (folder / mark).exists()}
    return re.compile(".*") if marks & (DEMO | STORE) else own_names(folder, marks)


def _begins(folder: str | Path, name: str, start: bytes) -> bool:
    """Return whether a file begins as fanogan writes it: others have files of these names too."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False
