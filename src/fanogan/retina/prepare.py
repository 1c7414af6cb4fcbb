"""Volumes are prepared: made straight once, and kept in a Zarr store.

A group appears in the store whole, by the renaming of its folder, so a prepare that was killed
goes on where it was. Of a person nothing is kept but what the file's name and the subject say.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fanogan.retina.flat_volume import FlatSpace, FlatVolume
from fanogan.retina.store import FORMAT, StoredVolume, is_store, settings_of, volumes_in
from fanogan.retina.volumes import find_volumes, none_usable, straightened
from fanogan.scans import PICTURES, BadScan, Scan, ScanSource, Spacing, extension
from fanogan.storage import LOCK, exclusive, write_whole

if TYPE_CHECKING:
    from zarr import Group

# B-scans of a chunk; those of the scan itself are read one by one.
_CHUNKS = {"bscans": 1, "flat": 16}
_PARTIAL = ".partial"

# What `fit` and `score` advise; here bad volumes are left out without being asked.
_ADVICE = ", or leave it out with --skip-bad"


@dataclass(frozen=True)
class Summary:
    """What a store holds after `prepare`.

    Attributes:
        volumes: Volumes in the store.
        bscans: Their B-scans.
        found: Share of all their columns in which the retina was found.
        kept: How many of them were there before.
        failed: Name and reason of each volume that could not be used.
    """

    volumes: int
    bscans: int
    found: float
    kept: int
    failed: tuple[tuple[str, str], ...]


def prepare(
    source: Any,
    out: str | Path,
    *,
    space: FlatSpace | None = None,
    groups: str | None = None,
    spacing: Spacing | None = None,
    on_volume: Callable[[str, FlatVolume | BadScan | None], None] | None = None,
) -> Summary:
    """Makes volumes straight, and keeps them in a Zarr store.

    One that was stopped goes on: a volume that is in the store already, made of the same files
    with the same settings, is not made again. Volumes that cannot be used are listed in the
    store's attributes and in its ``failed.csv``, and the rest go on.

    Args:
        source: As `find_volumes` takes it.
        out: The store to make or to go on with.
        space: The area that the retina is brought into; the paper's where None.
        groups: Whose files these are, as `find_scans` says.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.
        on_volume: Called with each volume's name and the volume, or why it cannot be used, or
            None where it was there already.

    Returns:
        What the store holds now.

    Raises:
        BadScan: Nothing found, nothing that could be used, or a store that is damaged, of another
            kind or of other settings, or that holds other volumes of the same names.
        OSError: The store cannot be written.
    """
    out, space = Path(out), space or FlatSpace()
    sources = find_volumes(source, groups)
    made_with = {"space": asdict(space), "spacing": None if spacing is None else list(spacing)}
    _create(out, made_with)
    busy = BadScan(f"{out} is being written to by another fanogan prepare: wait for its end")
    with exclusive(out / LOCK, busy):
        there = {volume.name: volume for volume in _kept(out, made_with)}
        for one in sources:
            if one.name in there:
                _check_same(out, there[one.name], one)
                if on_volume is not None:
                    on_volume(one.name, None)
        todo = [one for one in sources if one.name not in there]
        failed: list[tuple[str, BadScan]] = []
        for one, found in zip(todo, straightened(todo, space, spacing), strict=True):
            if isinstance(found, BadScan):
                found = BadScan(str(found).removesuffix(_ADVICE))
                failed.append((one.name, found))
            else:
                _add(out, found, _fingerprint(one))
            if on_volume is not None:
                on_volume(one.name, found)
        _list_failed(out, made_with, failed)
        volumes = volumes_in(out)
    if not volumes:
        raise none_usable([error for _, error in failed])
    return _summary(volumes, len(there), failed)


def _summary(volumes: list[StoredVolume], kept: int, failed: list[tuple[str, BadScan]]) -> Summary:
    bscans = [volume.facts["bscans"] for volume in volumes]
    columns = [volume.facts["bscans"] * volume.facts["columns"] for volume in volumes]
    found = np.average([volume.facts["found"] for volume in volumes], weights=columns)
    reasons = tuple((name, str(error)) for name, error in failed)
    return Summary(len(volumes), sum(bscans), float(found), kept, reasons)


def _create(out: Path, made_with: Mapping[str, Any]) -> None:
    """Makes an empty store, unless one lies there."""
    if is_store(out):
        return
    if out.is_file():
        raise BadScan(f"{out} is a file: give the store another name")
    if out.is_dir() and any(out.iterdir()):
        raise BadScan(f"{out} holds other files: give the store a folder of its own")
    _write_settings(out, made_with, [])


def _kept(out: Path, made_with: Mapping[str, Any]) -> list[StoredVolume]:
    """Lists what the store holds, if it was made with the same settings."""
    settings = settings_of(out)
    for name, value in made_with.items():
        if settings.get(name) != value:
            raise BadScan(
                f"{out} was prepared with {_said(name, settings.get(name))}, not with "
                f"{_said(name, value)}: give the same settings, or another store"
            )
    shutil.rmtree(out / _PARTIAL, ignore_errors=True)
    return volumes_in(out)


def _said(name: str, value: Any) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {value[key]}" for key in value)
    return f"no {name} given" if value is None else f"{name} {value}"


def _write_settings(
    out: Path, made_with: Mapping[str, Any], failed: list[tuple[str, BadScan]]
) -> None:
    reasons = [{"name": name, "reason": str(error)} for name, error in failed]
    ours = {"format": FORMAT, "version": version("fanogan"), **made_with, "failed": reasons}
    body = {"zarr_format": 3, "node_type": "group", "attributes": {"fanogan": ours}}
    write_whole(out / "zarr.json", json.dumps(body, indent=1).encode())


def _list_failed(
    out: Path, made_with: Mapping[str, Any], failed: list[tuple[str, BadScan]]
) -> None:
    """Keeps the list of what could not be used; there is no file where that is nothing."""
    _write_settings(out, made_with, failed)
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("name", "reason"), *failed])
    if failed:
        write_whole(out / "failed.csv", table.getvalue().encode(errors="surrogateescape"))
    else:
        (out / "failed.csv").unlink(missing_ok=True)


def _check_same(out: Path, stored: StoredVolume, source: ScanSource | Scan | StoredVolume) -> None:
    if (stored.group, stored.facts["source"]) != (source.group, _fingerprint(source)):
        raise BadScan(
            f"{out} holds a volume {source.name} already, of other files or of another subject: "
            "give another store"
        )


def _fingerprint(source: ScanSource | Scan | StoredVolume) -> str:
    """What a volume is made of, whatever its name: the content of its files or its arrays."""
    digest = hashlib.sha256()
    if isinstance(source, FlatVolume):
        for array in (source.bscans, source.inner, source.outer):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(source.scan_spacing).encode())
    elif isinstance(source, Scan):
        digest.update(np.ascontiguousarray(source.pixels).data)
        digest.update(repr((source.pixels.shape, source.spacing)).encode())
    elif isinstance(source, ScanSource):
        for path in _files(source):
            digest.update(path.name.encode(errors="surrogateescape"))
            digest.update(path.read_bytes())
        digest.update((source.key or "").encode())
    else:
        digest.update(str(source.facts["source"]).encode())
    return digest.hexdigest()


def _files(source: ScanSource) -> list[Path]:
    """The files of a volume; a Heidelberg export's pictures lie beside its XML."""
    if source.parts:
        return list(source.parts)
    if extension(source.path) != ".xml":
        return [source.path]
    beside = [path for path in source.path.parent.iterdir() if extension(path) in PICTURES]
    return [source.path, *sorted(beside)]


def _add(out: Path, volume: FlatVolume, fingerprint: str) -> None:
    """Writes a volume under a temporary name, and gives it its number once it is whole."""
    import zarr

    partial = out / _PARTIAL
    numbers = [int(folder.name) for folder in out.iterdir() if folder.name.isdecimal()]
    try:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        _write_arrays(
            group,
            {
                "flat": volume.pixels,
                "bscans": np.asarray(volume.bscans),
                "margins": np.asarray(volume.margins),
                "inner": volume.inner,
                "outer": volume.outer,
            },
        )
        if volume.en_face is not None:
            _write_arrays(
                group, {"en_face": volume.en_face.pixels, "en_face_lines": volume.en_face.lines}
            )
        group.attrs.update(_facts(volume, fingerprint))
        for file in partial.rglob("*"):
            _sync(file)
        partial.rename(out / f"{max(numbers, default=-1) + 1:06d}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_arrays(group: Group, arrays: Mapping[str, NDArray[Any]]) -> None:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    for name, array in arrays.items():
        chunk = _CHUNKS.get(name)
        group.create_array(
            name,
            data=array,
            chunks=array.shape if chunk is None else (min(chunk, len(array)), *array.shape[1:]),
            compressors=(ZstdCodec(level=3), Crc32cCodec()),
            config={"write_empty_chunks": True},
        )


def _facts(volume: FlatVolume, fingerprint: str) -> dict[str, Any]:
    en_face = volume.en_face
    return {
        "name": volume.name,
        "subject": volume.group,
        "source": fingerprint,
        "bscans": len(volume.pixels),
        "columns": volume.inner.shape[1],
        "found": volume.found,
        "spacing": list(volume.scan_spacing),
        "eye": volume.eye,
        "device": volume.device,
        "notes": list(volume.notes),
        "thickness": None if volume.thickness is None else dict(volume.thickness),
        "is_retina": volume.is_retina,
        "en_face": None
        if en_face is None
        else {
            "spacing": list(en_face.spacing),
            "grid_centre": None if en_face.grid_centre is None else list(en_face.grid_centre),
        },
    }


def _sync(file: Path) -> None:
    """Has the system write a file to the disk."""
    if file.is_file():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
