"""The pictures of a folder: B-scans of one volume, or single ones."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

from fanogan.scans import PICTURES, BadScan, ScanSource, extension, is_stack, natural_key
from fanogan.text import counted

PicturesAs: TypeAlias = Literal["auto", "bscans", "volumes"]
"""How the pictures of a folder are read: 'auto' decides by their sizes and names."""

# What the pictures of a volume have in common: their folder, and their subject if that tells
# volumes apart.
_Key: TypeAlias = tuple[Path, str | None]

# The numbers of a volume's pictures span at most so many times their count.
_GAPS = 1.5

logger = logging.getLogger(__name__)


def join_pictures(
    files: Sequence[ScanSource],
    pictures: PicturesAs,
    by_subject: bool,
    on_left_out: Callable[[BadScan], None] | None = None,
) -> list[ScanSource]:
    """Join the pictures that are one volume, of each folder or of each folder and subject.

    By 'auto' a folder's pictures are volumes if those of each subject have one size, and names
    alike but for one number that runs nearly without gaps. One picture of another size among them
    is a localizer, and is left out.

    Args:
        files: Pictures, and other files, which stay as they are.
        pictures: How to read pictures.
        by_subject: Whether subjects tell volumes of one folder apart.
        on_left_out: Called with a sentence on each localizer, which is logged too.

    Returns:
        Volumes, single pictures and other files in the order given.
    """
    folders: dict[Path, dict[str | None, list[ScanSource]]] = {}
    for file in files:
        if _is_picture(file):
            subjects = folders.setdefault(file.path.parent, {})
            subjects.setdefault(file.group if by_subject else None, []).append(file)
    keys: dict[Path, _Key] = {}  # of the pictures that are B-scans of a volume
    left_out: set[Path] = set()
    single: dict[str, list[Path]] = {}  # folders, by the reason
    for folder, subjects in folders.items():
        reason, localizers = "", list[ScanSource]()
        if pictures == "auto":
            reason, localizers = _why_single(list(subjects.values()))
        if reason or pictures == "bscans":
            single.setdefault(reason, []).append(folder)
            continue
        for file in localizers:
            left_out.add(file.path)
            sentence = f"{file.path} has another size than the B-scans beside it: a localizer"
            logger.warning("skipped: %s", sentence)
            if on_left_out is not None:
                on_left_out(BadScan(sentence))
        keys |= {
            file.path: (folder, subject)
            for subject, members in subjects.items()
            for file in members
        }
    for reason, places in single.items():
        members = chain.from_iterable(folders[place].values() for place in places)
        _say_single(reason, places, list(chain.from_iterable(members)))
    return _joined([file for file in files if file.path not in left_out], keys)


def _is_picture(file: ScanSource) -> bool:
    kind = extension(file.path)
    if file.parts or kind not in PICTURES:
        return False
    return kind not in (".tif", ".tiff") or not is_stack(file.path)


# --- volumes or single pictures -----------------------------------------------------------------


def _why_single(subjects: Sequence[Sequence[ScanSource]]) -> tuple[str, list[ScanSource]]:
    """Return why a folder's pictures are single, '' if they aren't; and the localizers there."""
    localizers: list[ScanSource] = []
    names = []
    for members in subjects:
        sizes = {file.path: _size(file.path) for file in members}
        counts = Counter(sizes.values()).most_common()
        if len(counts) == 2 and counts[0][1] > 2 and counts[1][1] == 1:
            localizers += [file for file in members if sizes[file.path] == counts[1][0]]
        elif len(counts) > 1:
            return "their sizes differ", []
        names.append([file.path.stem for file in members if sizes[file.path] == counts[0][0]])
    if all(map(_is_run, names)):
        return "", localizers
    return "their sizes differ" if localizers else "their names hold no running number", []


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height as the header tells them; None where it doesn't, as reading will say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _is_run(names: Sequence[str]) -> bool:
    """Whether names are alike but for one number, which runs nearly without gaps."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return False
    columns = zip(*(map(int, part[1::2]) for part in parts), strict=True)
    varying = [numbers for numbers in map(set, columns) if len(numbers) > 1]
    if len(varying) != 1:
        return False
    [numbers] = varying
    return len(numbers) == len(names) and max(numbers) - min(numbers) < _GAPS * len(names)


def _say_single(reason: str, folders: Sequence[Path], files: Sequence[ScanSource]) -> None:
    """Log that files are read as single B-scans and why, and whose they may be."""
    others = f" and {counted(len(folders) - 1, 'other folder')}" if len(folders) > 1 else ""
    where = f"{folders[0].name or Path.cwd().name}{others}"
    if reason and len(files) > len(folders):  # a picture that is alone is single anyway
        what = counted(len(files), "picture")
        remedy = "" if "sizes" in reason else "; --volumes joins them"
        logger.warning(
            "%s of %s are read as single B-scans, since %s%s", what, where, reason, remedy
        )
    numbers = Counter(match[0] for file in files if (match := re.search(r"\d+", file.path.stem)))
    if 1 < len(numbers) < len(files) and all(file.group == file.name for file in files):
        logger.warning(
            "each picture of %s counts as a subject of its own, and names such as %s suggest that "
            "patients repeat: name them with --groups",
            where,
            files[0].path.name,
        )


# --- volumes ------------------------------------------------------------------------------------


def _joined(files: Sequence[ScanSource], keys: dict[Path, _Key]) -> list[ScanSource]:
    volumes: dict[_Key, list[ScanSource]] = {}
    depths: dict[_Key, int] = {}
    for file in files:
        key = keys.get(file.path)
        if key is not None:
            depths.setdefault(key, max(file.name.count("/"), 1))
        volumes.setdefault(key or (file.path, file.key), []).append(file)
    names = _folder_names(depths)
    joined = []
    for key, members in volumes.items():
        first = members[0]
        if key in names:
            parts = sorted((file.path for file in members), key=lambda path: natural_key(path.name))
            # Without folders or a rule a picture is its own subject, and so is the volume.
            group = names[key] if first.group == first.name else first.group
            first = ScanSource(first.path.parent, names[key], group, parts=tuple(parts))
        joined.append(first)
    return joined


def _folder_names(depths: dict[_Key, int]) -> dict[_Key, str]:
    """Name volumes by their folders' last `depths` parts, or more where two would be alike."""
    subjects = Counter(folder for folder, _ in depths)
    paths = {key: Path(os.path.abspath(key[0])).parts[1:] or ("B-scans",) for key in depths}
    while True:
        names = {}
        for (folder, subject), path in paths.items():
            own = [subject] if subject and subjects[folder] > 1 else []
            names[folder, subject] = "/".join([*path[-depths[folder, subject] :], *own])
        counts = Counter(names.values())
        alike = [
            key for key, name in names.items() if counts[name] > 1 and depths[key] < len(paths[key])
        ]
        if not alike:
            return names
        for key in alike:
            depths[key] += 1
