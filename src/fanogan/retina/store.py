"""Volumes that `prepare` has flattened: one Zarr store per data set, one group per volume.

Groups are numbered and a volume's name is an attribute, so a name may be anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanogan.remote import BadRemote, below, copy_of, is_file_at, is_url
from fanogan.retina.flat_volume import FlatVolume, make_flat
from fanogan.retina.flatten import FlatSpace
from fanogan.retina.layers import Boundaries
from fanogan.scans import BadScan, EnFace, Scan, Spacing, identity, note_from_json

if TYPE_CHECKING:
    from zarr import Array

FORMAT = 2
"""2 since all of `Boundaries` is kept."""

_PREPARE_AGAIN = "delete that folder, and run fanogan prepare again"


class StoredArray:
    """An array of a volume that is read when it is indexed, or when NumPy converts it."""

    def __init__(self, array: Array[Any], volume: StoredVolume):
        """Wrap a Zarr array; the volume is named where it turns out damaged."""
        self._array, self._volume = array, volume
        self.shape: tuple[int, ...] = array.shape

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a part; raises BadScan where it is damaged."""
        try:
            return np.asarray(self._array[key])
        except IndexError:
            raise
        except Exception as error:
            # Codecs raise whatever a damaged chunk leads them to.
            raise self._volume.damaged() from error

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the whole array."""
        return np.asarray(self[:], dtype=dtype)


@dataclass(frozen=True)
class StoredVolume:
    """A volume of a store; `name` and `group` as of a `Scan`."""

    path: Path  # the folder of its Zarr group
    name: str
    group: str
    attributes: Mapping[str, Any]  # what else is known of the scan, as in the store
    space: FlatSpace  # that it was prepared in

    @property
    def identity(self) -> str:
        """Digest that differs where the volume was prepared anew, or has another subject."""
        return identity([self.path / "zarr.json"], self.group, self.attributes["source"])

    def read(self, space: FlatSpace) -> FlatVolume:
        """Return the volume; its B-scans are read only if `space` isn't the stored one.

        Raises:
            BadScan: It is damaged.
        """
        import zarr

        try:
            opened = {
                folder.name: zarr.open_array(folder, mode="r")
                for folder in self.path.iterdir()
                if folder.is_dir()
            }
            # A missing chunk would be read as zeros.
            is_whole = all(array.nchunks_initialized == array.nchunks for array in opened.values())
        except Exception as error:
            # Zarr's errors have no common base.
            raise self.damaged() from error
        if not is_whole:
            raise self.damaged()
        arrays = {name: StoredArray(array, self) for name, array in opened.items()}
        try:
            return make_flat(
                self._scan(arrays),
                Boundaries(**{field.name: arrays[field.name][:] for field in fields(Boundaries)}),
                arrays["margins"],
                space,
                arrays["bscans"],
                arrays["flat"][:] if space == self.space else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error if isinstance(error, BadScan) else self.damaged() from error

    def damaged(self) -> BadScan:
        """Return the error for a volume that isn't as it was written."""
        return BadScan(
            f"{self.path} ({self.name}) of a prepared store is damaged: {_PREPARE_AGAIN}"
        )

    def _scan(self, arrays: Mapping[str, StoredArray]) -> Scan:
        known = self.attributes
        en_face = None
        if known["en_face"] is not None:
            row, column = known["en_face"]["spacing"]
            centre = known["en_face"]["grid_centre"]
            centre = None if centre is None else (centre[0], centre[1])
            lines = arrays["en_face_lines"][:]
            en_face = EnFace(arrays["en_face"][:], (row, column), lines, centre)
        try:
            notes = tuple(map(note_from_json, known["notes"]))
        except ValueError as error:
            raise BadScan(f"{self.path} ({self.name}): {error}; update it") from error
        between, row, column = known["spacing"]
        pixels: Any = arrays["bscans"]
        # Stores prepared before don't tell these.
        affine, grey_range = known.get("affine"), known.get("grey_range")
        return Scan(
            pixels,
            self.name,
            self.group,
            (between, row, column),
            is_volume=known["is_volume"],
            notes=notes,
            affine=None if affine is None else tuple(map(tuple, affine)),
            grey_range=None if grey_range is None else (grey_range[0], grey_range[1]),
            en_face=en_face,
            files=(self.path,),
            **{key: known[key] for key in ("eye", "device", "thickness", "is_retina")},
        )


def is_store(path: Any) -> bool:
    """Return whether a path is a Zarr store, of whatever program."""
    if not isinstance(path, str | os.PathLike):
        return False
    if is_url(path):  # of those that prepare makes, which are Zarr 3
        return is_file_at(below(path, "zarr.json"))
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def read_store(path: str | Path, space: FlatSpace | None = None) -> Iterator[FlatVolume]:
    """Read the volumes of a store that `prepare` made, in the order in which they were added.

    Their `bscans` are read on demand. For another `space` than the stored one, which None stands
    for, the flat pixels are computed anew from the stored boundaries.

    Raises:
        BadScan: The store or one of its volumes is damaged, of a newer version or another kind.
    """
    stored = stored_volumes(path)
    return (volume.read(space or volume.space) for volume in stored)


def settings_of(path: str | Path) -> dict[str, Any]:
    """Return the settings that a store was made with, from its attributes.

    Raises:
        BadScan: The store is damaged, of a newer version, or of another kind.
    """
    path = _here(path)
    body = _attributes(path)
    if body is not None and not isinstance(body.get("fanogan"), dict):
        raise BadScan(
            f"{path} is a Zarr store that fanogan prepare didn't make: give the scans that it was "
            "made from"
        )
    settings: dict[str, Any] = {} if body is None else body["fanogan"]
    version = settings.get("format")
    if not isinstance(version, int):
        raise BadScan(f"{path} is a prepared store whose zarr.json is damaged: {_PREPARE_AGAIN}")
    if version < FORMAT:
        raise BadScan(
            f"{path} was prepared by fanogan {settings.get('version')}, which kept less of the "
            f"retina's boundaries: {_PREPARE_AGAIN}"
        )
    if version > FORMAT:
        raise BadScan(
            f"{path} is a prepared store of format {version}, and this version reads formats up "
            f"to {FORMAT}: update to fanogan {settings.get('version')} or newer"
        )
    return settings


def given_spacing(source: Any) -> Spacing | None:
    """Return the spacing that was given to `prepare` for the first store among the entries."""
    for entry in source if isinstance(source, list | tuple) else [source]:
        if is_store(entry):
            between, row, column = settings_of(entry).get("spacing") or (None, None, None)
            return between, row, column
    return None


def stored_volumes(path: str | Path, *, may_be_empty: bool = False) -> list[StoredVolume]:
    """List the volumes of a store, in the order in which they were added.

    Raises:
        BadScan: The store is damaged, of a newer version, of another kind, or empty.
    """
    path = _here(path)
    try:
        space = FlatSpace.from_dict(settings_of(path)["space"])
    except (KeyError, TypeError) as error:
        raise BadScan(
            f"{path} is a prepared store whose zarr.json is damaged: {_PREPARE_AGAIN}"
        ) from error
    volumes = []
    for folder in sorted(folder for folder in path.iterdir() if folder.name.isdecimal()):
        known = _attributes(folder) or {}
        # What is asked before the arrays are read.
        texts = [known.get(key) for key in ("name", "subject", "source")]
        numbers = [known.get(key) for key in ("bscans", "columns", "found")]
        if not (
            all(isinstance(text, str) and "\0" not in text for text in texts)
            and all(isinstance(number, int | float) and number > 0 for number in numbers)
        ):
            raise BadScan(f"{folder} of a prepared store is damaged: {_PREPARE_AGAIN}")
        volumes.append(StoredVolume(folder, known["name"], known["subject"], known, space))
    if not volumes and not may_be_empty:
        raise BadScan(f"{path} holds no prepared volumes: run fanogan prepare again")
    return volumes


def _here(store: str | Path) -> Path:
    """Return a store on this machine, a copy of one at a URL."""
    try:
        return copy_of(store) if is_url(store) else Path(store)
    except BadRemote as error:
        raise BadScan(str(error)) from error


def _attributes(group: Path) -> dict[str, Any] | None:
    """Attributes of a group; None where they are damaged, empty in an older Zarr format."""
    if not (group / "zarr.json").exists() and is_store(group):
        return {}
    try:
        body = json.loads((group / "zarr.json").read_text(encoding="utf-8"))
        attributes: Any = body["attributes"] if body["node_type"] == "group" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**attributes} if isinstance(attributes, dict) else None
