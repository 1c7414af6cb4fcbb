"""What a user types, as values; each function raises UsageError where it makes no sense."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanogan.errors import FanoganError
from fanogan.remote import copy_of, is_url

if TYPE_CHECKING:
    from fanogan.retina import PicturesAs
    from fanogan.scans import Spacing
    from fanogan.scoring import MapsAs


class UsageError(FanoganError):
    """A command that can't be done as it was typed, said in one sentence."""


def pictures_as(bscans: bool, volumes: bool) -> PicturesAs:
    """Return what the two options say of the pictures of a folder."""
    if bscans and volumes:
        raise UsageError("--bscans and --volumes contradict each other: give one of them")
    return "bscans" if bscans else "volumes" if volumes else "auto"


def maps_as(text: str, scores_only: bool) -> MapsAs:
    """Return in which format maps are to be written."""
    if text == "tiff":
        return "tiff"
    if text != "nifti":
        raise UsageError(f"--maps {text}: give tiff or nifti, which 3D Slicer and ITK-SNAP read")
    if scores_only:
        raise UsageError("--maps and --scores-only contradict each other: give one of them")
    if importlib.util.find_spec("nibabel") is None:
        raise UsageError("--maps nifti needs an extra: pip install 'fanogan[nifti]'")
    return "nifti"


def check_dicom(dicom: bool, scores_only: bool) -> None:
    """Refuse objects that can't be written."""
    if dicom and scores_only:
        raise UsageError("--dicom and --scores-only contradict each other: give one of them")
    if dicom and importlib.util.find_spec("highdicom") is None:
        raise UsageError("--dicom needs an extra: pip install 'fanogan[dicom]'")


def spacing_in(text: str | None) -> Spacing | None:
    """Three lengths with commas between them."""
    if text is None:
        return None
    try:
        between, row, column = (float(part) if part.strip() else None for part in text.split(","))
    except ValueError:
        between = row = column = -1.0
    if not all(length is None or 0 < length < math.inf for length in (between, row, column)):
        raise UsageError(
            f"--spacing {text}: give three lengths in mm, between B-scans, rows and columns, such "
            "as 0.12,0.0039,0.0115"
        )
    return between, row, column


@contextlib.contextmanager
def scans_in(images: Sequence[str], listed: str | None, shard: str | None) -> Iterator[Any]:
    """Give what is to be read: IMAGES or the list, and the shard of it."""
    from fanogan.scans import FileList, Shard, Sharded

    if not images and not listed:
        raise UsageError("no images: fanogan score MODEL IMAGES --out DIR")
    if images and listed:
        raise UsageError(f"--list {listed} and {images[0]}: give a list, or images")
    with value_errors_as_usage():
        part = Shard.parse(shard) if shard else None
    with tempfile.NamedTemporaryFile(prefix="fanogan-list-") as copy:
        source: Any = list(images)
        if listed:
            source = FileList(copy_of(listed), listed) if is_url(listed) else FileList(Path(listed))
        if listed == "-":  # it is read more than once
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            source = FileList(Path(copy.name), "standard input")
        yield Sharded(source, part) if part else source


def settings_in(texts: Sequence[str] | None) -> dict[str, Any]:
    """Return the fields of a recipe that --set gives, with values as in a recipe's file."""
    import yaml

    settings: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {text}: give a field and its value, such as base_width=16")
        if name in settings:
            raise UsageError(f"--set {text}: {name} is given twice; give it once")
        try:
            settings[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UsageError(
                f"--set {text}: {value} can't be read; write it as in a recipe's file"
            ) from None
    return settings


def labels_in(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--mask-labels {text}: give whole numbers such as 1,3") from None


def check_alpha(alpha: float) -> None:
    """Refuse what is no false-positive rate."""
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha is {alpha:g}: give a false-positive rate between 0 and 1")


@contextlib.contextmanager
def value_errors_as_usage() -> Iterator[None]:
    """Turn a ValueError, which is about a value that the user gave, into a sentence."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
