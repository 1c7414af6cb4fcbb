"""Volumes that `prepare` made straight: one Zarr store a data set, one group a volume.

Groups are numbered, and a volume's name is an attribute, so a name may be anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fanogan.retina.flat_volume import FlatSpace, FlatVolume, make_flat
from fanogan.scans import BadScan, EnFace, Scan, note_from_json

if TYPE_CHECKING:
    from zarr import Array

FORMAT = 1

_ANEW = "delete that folder, and run fanogan prepare again"


class StoredArray:
    """An array of a volume, read when it is asked for.

    It is indexed as an array is, and numpy makes an array of it.
    """

    def __init__(self, array: Array[Any], volume: StoredVolume):
        """Takes the Zarr array, and the volume to name where it turns out damaged."""
        self._array, self._volume = array, volume
        self.shape: tuple[int, ...] = array.shape
        self.dtype, self.ndim = np.dtype(array.dtype), array.ndim

    def __len__(self) -> int:
        """The length of the first axis: of B-scans their number."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Reads a part.

        Raises:
            BadScan: It is damaged.
        """
        try:
            return np.asarray(self._array[key])
        except IndexError:
            raise
        except Exception as error:
            # Codecs raise whatever a damaged chunk leads them to.
            raise self._volume.damaged() from error

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Reads the whole, as numpy asks for it."""
        return np.asarray(self[:], dtype=dtype)


@dataclass(frozen=True)
class StoredVolume:
    """A volume of a store.

    Attributes:
        path: The folder of its group.
        name: As that of the `Scan`.
        group: The subject.
        facts: What else is known of it.
        space: The flat space that it was prepared in.
    """

    path: Path
    name: str
    group: str
    facts: Mapping[str, Any]
    space: FlatSpace

    def read(self, space: FlatSpace) -> FlatVolume:
        """Reads the volume; its B-scans only where another space than the stored one is wanted.

        Raises:
            BadScan: It is damaged.
        """
        try:
            arrays = self._arrays()
            return make_flat(
                self._scan(arrays),
                arrays["inner"][:],
                arrays["outer"][:],
                arrays["margins"],
                space,
                arrays["bscans"],
                arrays["flat"][:] if space == self.space else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error if isinstance(error, BadScan) else self.damaged() from error

    def damaged(self) -> BadScan:
        """The error for a volume that is not as it was written."""
        return BadScan(f"{self.path} ({self.name}) of a prepared store is damaged: {_ANEW}")

    def _arrays(self) -> dict[str, StoredArray]:
        """Opens its arrays, each with all of its chunks: a missing one would be read as zeros."""
        import zarr

        try:
            arrays = {
                folder.name: zarr.open_array(folder, mode="r")
                for folder in self.path.iterdir()
                if folder.is_dir()
            }
            is_whole = all(array.nchunks_initialized == array.nchunks for array in arrays.values())
        except Exception as error:
            # There is no common base of Zarr's errors.
            raise self.damaged() from error
        if not is_whole:
            raise self.damaged()
        return {name: StoredArray(array, self) for name, array in arrays.items()}

    def _scan(self, arrays: Mapping[str, StoredArray]) -> Scan:
        facts = self.facts
        en_face = None
        if facts["en_face"] is not None:
            centre = facts["en_face"]["grid_centre"]
            row, column = facts["en_face"]["spacing"]
            en_face = EnFace(
                arrays["en_face"][:],
                (row, column),
                arrays["en_face_lines"][:],
                None if centre is None else (centre[0], centre[1]),
            )
        between, row, column = facts["spacing"]
        pixels: Any = arrays["bscans"]
        return Scan(
            pixels,
            self.name,
            self.group,
            (between, row, column),
            is_volume=True,
            notes=tuple(map(note_from_json, facts["notes"])),
            eye=facts["eye"],
            device=facts["device"],
            en_face=en_face,
            thickness=facts["thickness"],
            is_retina=facts["is_retina"],
        )


def is_store(path: Any) -> bool:
    """Says whether a path is a Zarr store, of whatever program."""
    if not isinstance(path, str | os.PathLike):
        return False
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def read_store(path: str | Path, space: FlatSpace | None = None) -> Iterator[FlatVolume]:
    """Reads the volumes of a store that `prepare` made, in the order in which they were added.

    Args:
        path: The store.
        space: The flat space wanted; the stored one where None. Where it is another, the flat
            pixels are made anew from the stored boundaries.

    Returns:
        An iterator over the volumes; their `bscans` are read when they are asked for.

    Raises:
        BadScan: The store, or a volume of it, is damaged, of a newer version, or of another kind.
    """
    stored = stored_volumes(path)
    return (volume.read(space or volume.space) for volume in stored)


def stored_volumes(path: str | Path) -> list[StoredVolume]:
    """Lists the volumes of a store, in the order in which they were added.

    Raises:
        BadScan: The store is damaged, of a newer version, of another kind, or empty.
    """
    path = Path(path)
    volumes = volumes_in(path)
    if not volumes:
        raise BadScan(f"{path} holds no prepared volumes: run fanogan prepare again")
    return volumes


def settings_of(path: Path) -> dict[str, Any]:
    """Reads what a store was made with, from its attributes.

    Raises:
        BadScan: The store is damaged, of a newer version, or of another kind.
    """
    body = _attributes(path)
    if body is not None and not isinstance(body.get("fanogan"), dict):
        raise BadScan(
            f"{path} is a Zarr store, but none that fanogan prepare made: give the scans that it "
            "was made of"
        )
    ours: dict[str, Any] = {} if body is None else body["fanogan"]
    version = ours.get("format")
    if not isinstance(version, int):
        raise BadScan(f"{path} is a prepared store whose zarr.json is damaged: {_ANEW}")
    if version > FORMAT:
        raise BadScan(
            f"{path} is a prepared store of format {version}, and this version reads formats up "
            f"to {FORMAT}: update to fanogan {ours.get('version')} or newer"
        )
    return ours


def volumes_in(path: Path) -> list[StoredVolume]:
    """Lists the volumes of a store that may be empty still.

    Raises:
        BadScan: The store is damaged, of a newer version, or of another kind.
    """
    try:
        space = FlatSpace(**settings_of(path)["space"])
    except (KeyError, TypeError) as error:
        raise BadScan(f"{path} is a prepared store whose zarr.json is damaged: {_ANEW}") from error
    volumes = []
    for folder in sorted(folder for folder in path.iterdir() if folder.name.isdecimal()):
        facts = _attributes(folder)
        if not facts or not _are_known(facts):
            raise BadScan(f"{folder} of a prepared store is damaged: {_ANEW}")
        volumes.append(StoredVolume(folder, facts["name"], facts["subject"], facts, space))
    return volumes


def _are_known(facts: Mapping[str, Any]) -> bool:
    """Whether a volume's attributes tell what is asked of them before its arrays are read."""
    texts = [facts.get(key) for key in ("name", "subject", "source")]
    numbers = [facts.get(key) for key in ("bscans", "columns", "found")]
    return all(isinstance(text, str) and "\0" not in text for text in texts) and all(
        isinstance(number, int | float) and number > 0 for number in numbers
    )


def _attributes(group: Path) -> dict[str, Any] | None:
    """Reads the attributes of a group; None where they are damaged, empty of an older Zarr."""
    if not (group / "zarr.json").exists() and is_store(group):
        return {}
    try:
        body = json.loads((group / "zarr.json").read_text(encoding="utf-8"))
        attributes: Any = body["attributes"] if body["node_type"] == "group" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**attributes} if isinstance(attributes, dict) else None
