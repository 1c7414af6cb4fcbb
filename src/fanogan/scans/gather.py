"""Which files make one scan together: Heidelberg exports, and DICOM series of single frames."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fanogan.scans.dicom import is_part_10
from fanogan.scans.heidelberg import is_heidelberg
from fanogan.scans.left_out import LeftOut
from fanogan.scans.nifti import is_nifti_header
from fanogan.scans.series import part_of, volumes_of
from fanogan.scans.signals import SIGNAL_EXTENSIONS

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_DICOM = (".dcm", ".dicom")
ALONE = (*PICTURES, ".npy", ".npz", ".nii", ".nii.gz", ".hdr", ".vol", ".e2e", ".fcs")
"""Files that are never one scan with others beside them."""
EXTENSIONS = (*ALONE, *_DICOM, ".xml")


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or several that are one scan, and where it lies below the searched folder.

    Attributes:
        path: The file; of several, the first.
        relative: Posix path below the searched folder.
        key: The array's name inside a .npz, where one was given.
        parts: The files of a series in order; empty where `path` is the whole scan.
    """

    path: Path
    relative: str
    key: str | None = None
    parts: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The path below the searched folder, and ':key'."""
        return self.relative if self.key is None else f"{self.relative}:{self.key}"

    def named_by_folder(self) -> Found:
        """Return it named as its folder; the searched folder itself has only its own name."""
        folder, slash, _ = self.relative.rpartition("/")
        name = folder if slash else self.path.parent.resolve().name or self.relative
        return replace(self, relative=name)


def extension(path: Path | str) -> str:
    """Return the extension in lower case, '.nii.gz' as one."""
    name = os.path.basename(path).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def is_scan(path: Path | str, signals: bool = False) -> bool:
    """Return whether a file is read: for its extension, or as DICOM, which has any name.

    Where signals are meant, it is what holds a signal.
    """
    if signals:
        return extension(path) in SIGNAL_EXTENSIONS
    if extension(path) == ".hdr":
        return is_nifti_header(path)
    return extension(path) in EXTENSIONS or is_dicom(path)


def is_dicom(path: Path | str) -> bool:
    """Return whether a file is DICOM: by a known extension, else by its content.

    A DICOMDIR, which lists other files, is not.
    """
    if extension(path) in EXTENSIONS:
        return extension(path) in _DICOM
    if os.path.basename(path).upper() == "DICOMDIR" or not os.path.isfile(path):
        return False
    try:
        return is_part_10(path)
    except OSError:
        return False


def gather(found: Iterable[Found], left_out: LeftOut) -> list[Found]:
    """Join the files that make one scan together, folder by folder.

    Args:
        found: The files.
        left_out: Takes up the files that hold no image.

    Returns:
        Heidelberg exports without the pictures beside them, DICOM series as one entry each, all
        other files as they are; no other .xml, and no DICOM object without an image.
    """
    folders: dict[Path, list[Found]] = defaultdict(list)
    for item in found:
        folders[item.path.parent].append(item)
    return [item for items in folders.values() for item in _series(_exports(items), left_out)]


def _exports(items: list[Found]) -> list[Found]:
    """Leave out a folder's pictures where they belong to a Heidelberg export beside them."""
    documents = [item for item in items if extension(item.path) == ".xml"]
    exports = [item for item in documents if is_heidelberg(item.path)]
    belongs = (".xml", *PICTURES) if exports else (".xml",)
    rest = [item for item in items if extension(item.path) not in belongs]
    if len(exports) == 1:
        return [exports[0].named_by_folder(), *rest]
    return [replace(item, relative=item.relative[: -len(".xml")]) for item in exports] + rest


def _series(items: list[Found], left_out: LeftOut) -> list[Found]:
    """Join the single-frame DICOM files of each series in a folder; leave out what is no image.

    Photographs beside tomography belong to it, as a Heidelberg export's localizer does.
    """
    parts_of = {item.path: part_of(item.path) for item in items if is_dicom(item.path)}
    without = {path: part.without_image for path, part in parts_of.items() if part.without_image}
    left_out.without_image.update(f"DICOM {kind}" for kind in without.values())
    items = [item for item in items if item.path not in without]
    if any(part.modality == "OPT" for part in parts_of.values()):
        photographs = {path for path, part in parts_of.items() if part.modality == "OP"}
        items = [item for item in items if item.path not in photographs]
    by_path = {item.path: item for item in items}
    joined: dict[Path, Found | None] = {}
    for paths in volumes_of([parts_of[item.path] for item in items if item.path in parts_of]):
        first = by_path[paths[0]]
        if len(paths) == len(items):
            first = first.named_by_folder()
        joined.update(dict.fromkeys(paths))
        joined[first.path] = replace(first, parts=paths)
    merged = [joined.get(item.path, item) for item in items]
    return [item for item in merged if item is not None]
