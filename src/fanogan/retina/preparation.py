"""Volumes are prepared: flattened once, and kept in a Zarr store.

A group appears in the store whole, when its folder is renamed, so a prepare that was killed can be
resumed. Nothing about a person is kept but the file's name and the subject.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.remote import stamp
from fanogan.retina.flat_volume import FlatVolume
from fanogan.retina.flatten import FlatSpace
from fanogan.retina.pictures import PicturesAs
from fanogan.retina.store import FORMAT, StoredVolume, is_store, settings_of, stored_volumes
from fanogan.retina.volumes import VolumeSource, find_volumes, straightened
from fanogan.scans import BadScan, Scan, ScanSource, Spacing, note_to_json
from fanogan.storage import (
    LOCK,
    TEMPORARY,
    exclusive,
    put_in_place,
    remove_unfinished,
    write_whole,
)
from fanogan.text import as_cell

# B-scans of a chunk; those of the recorded scan are read one by one.
_CHUNKS = {"bscans": 1, "flat": 16}
_PARTIAL = ".partial"

# What `fit` and `score` advise; here bad volumes are left out automatically.
_ADVICE = ", or leave it out with --skip-bad"


@dataclass(frozen=True)
class Summary:
    """What a store holds after `prepare`."""

    volumes: int
    bscans: int  # of volumes, and single ones
    found: float  # share of all columns in which the retina was found
    kept: int  # volumes that were there before
    removed: int  # volumes that were there, and are not among the scans any more
    failed: tuple[tuple[str, str], ...]  # name and reason of each volume that could not be used


def prepare(
    source: Any,
    out: str | Path,
    *,
    space: FlatSpace | None = None,
    groups: str | None = None,
    pictures: PicturesAs = "auto",
    spacing: Spacing | None = None,
    on_volume: Callable[[str, FlatVolume | BadScan | None], None] | None = None,
) -> Summary:
    """Flatten volumes, and keep them in a Zarr store.

    A store that is there already is resumed: volumes made from the same files with the same
    settings are kept. Those of other files or of another subject are made anew, and those that the
    source doesn't hold any more are removed. Volumes that cannot be used are listed in the store's
    attributes and in its ``failed.csv``.

    Args:
        source: As for `find_volumes`.
        out: The store to make or to resume.
        space: The flat area; the paper's where None.
        groups: Whose files these are, as for `find_scans`.
        pictures: What the pictures of a folder are, as for `find_volumes`.
        spacing: Millimetres between B-scans, rows and columns, for what a file doesn't tell.
        on_volume: Called with each volume's name and the volume, or why it cannot be used, or
            None where it was there already.

    Raises:
        BadScan: Nothing found, nothing that could be used, or a store that is damaged, of another
            kind or of other settings, or that is the source itself.
        OSError: The store cannot be written.
    """
    out = Path(out)
    report = on_volume or (lambda name, volume: None)
    sources = find_volumes(source, groups, pictures=pictures)
    within = [each for each in sources if isinstance(each, StoredVolume)]
    if any(each.path.parent.resolve() == out.resolve() for each in within):
        raise BadScan(f"{out} can't be prepared into itself: give another store")
    space = space or FlatSpace()
    made_with = {"space": asdict(space), "spacing": None if spacing is None else list(spacing)}
    if not is_store(out):
        if out.is_file():
            raise BadScan(f"{out} is a file: give the store another name")
        if out.is_dir() and any(not path.name.startswith(TEMPORARY) for path in out.iterdir()):
            raise BadScan(f"{out} holds other files: give the store a folder of its own")
        _write_settings(out, made_with)
    busy = BadScan(f"{out} is being written to by another fanogan prepare: wait until it ends")
    with exclusive(out / LOCK, busy):
        _check_settings(out, made_with)
        shutil.rmtree(out / _PARTIAL, ignore_errors=True)
        remove_unfinished(out.iterdir())
        stored = {volume.name: volume for volume in stored_volumes(out, may_be_empty=True)}
        missing, kept = list[VolumeSource](), set[str]()
        for found in sources:
            there = stored.get(found.name)
            made_of = (found.group, _fingerprint(found))
            if there and (there.group, there.attributes["source"]) == made_of:
                kept.add(found.name)
                report(found.name, None)
            else:
                missing.append(found)
        if kept != set(stored):  # the picture of the first volume, which may be another now
            (out / "steps.png").unlink(missing_ok=True)
        gone = set(stored) - {found.name for found in sources}
        for name in gone:
            _remove(stored[name].path, out)
        failed: list[tuple[str, str]] = []
        for new, result in zip(missing, straightened(missing, space, spacing), strict=True):
            if isinstance(result, BadScan):
                result = BadScan(str(result).removesuffix(_ADVICE))
                failed.append((new.name, str(result)))
                if new.name in stored:
                    _remove(stored[new.name].path, out)
            else:
                before = stored.get(new.name)
                _add(out, result, _fingerprint(new), before.path if before else None)
            report(new.name, result)
        _write_settings(out, made_with, failed)
        if failed:
            table = io.StringIO(newline="")
            rows = [("name", "reason"), *failed]
            csv.writer(table).writerows([map(as_cell, row) for row in rows])
            write_whole(out / "failed.csv", table.getvalue().encode())
        else:
            (out / "failed.csv").unlink(missing_ok=True)
        entries = [volume.attributes for volume in stored_volumes(out, may_be_empty=True)]
    if not entries:
        raise BadScan(f"none of {len(failed)} volumes could be used; the first: {failed[0][1]}")
    columns = [known["bscans"] * known["columns"] for known in entries]
    return Summary(
        volumes=sum(known["is_volume"] for known in entries),
        bscans=sum(known["bscans"] for known in entries),
        found=float(np.average([known["found"] for known in entries], weights=columns)),
        kept=len(kept),
        removed=len(gone),
        failed=tuple(failed),
    )


def _check_settings(out: Path, made_with: Mapping[str, Any]) -> None:
    """Refuse a store that was made with other settings."""

    def described(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {value[key]}" for key in value)
        return f"no {name} given" if value is None else f"{name} {value}"

    settings = settings_of(out)
    for name, value in made_with.items():
        if settings.get(name) != value:
            raise BadScan(
                f"{out} was prepared with {described(name, settings.get(name))}, not with "
                f"{described(name, value)}: give the same settings, or another store"
            )


def _write_settings(
    out: Path, made_with: Mapping[str, Any], failed: Sequence[tuple[str, str]] = ()
) -> None:
    reasons = [{"name": name, "reason": reason} for name, reason in failed]
    ours = {"format": FORMAT, "version": version("fanogan"), **made_with, "failed": reasons}
    body = {"zarr_format": 3, "node_type": "group", "attributes": {"fanogan": ours}}
    write_whole(out / "zarr.json", json.dumps(body, indent=1).encode())


def _fingerprint(source: VolumeSource) -> str:
    """Return what a volume is made of, whatever its name: a digest of its files or its arrays."""
    digest = hashlib.sha256()
    if isinstance(source, FlatVolume):
        for array in (source.bscans, *vars(source.boundaries).values()):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(source.scan_spacing).encode())
    elif isinstance(source, Scan):
        digest.update(np.ascontiguousarray(source.pixels).data)
        digest.update(repr((source.pixels.shape, source.spacing)).encode())
    elif isinstance(source, ScanSource):
        for path in () if source.url else source.files:
            digest.update(path.name.encode(errors="surrogateescape"))
            digest.update(path.read_bytes())
        digest.update(stamp(source.url).encode() if source.url else b"")
        digest.update((source.key or "").encode(errors="surrogateescape"))
    else:
        digest.update(str(source.attributes["source"]).encode())
    return digest.hexdigest()


def _remove(volume: Path, out: Path) -> None:
    volume.rename(out / _PARTIAL)  # whole: a kill leaves no half of it
    shutil.rmtree(out / _PARTIAL)


def _add(out: Path, volume: FlatVolume, fingerprint: str, place: Path | None) -> None:
    """Write a volume under a temporary name, and rename it once it is whole.

    It goes to ``place``, that of a volume that it replaces, or behind all others.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    partial, en_face = out / _PARTIAL, volume.en_face
    numbers = [int(folder.name) for folder in out.iterdir() if folder.name.isdecimal()]
    arrays = {
        "flat": volume.pixels,
        "bscans": np.asarray(volume.bscans),
        "margins": np.asarray(volume.margins),
        **vars(volume.boundaries),
    }
    if en_face is not None:
        arrays |= {"en_face": en_face.pixels, "en_face_lines": en_face.lines}
    try:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        for name, array in arrays.items():
            bscans = min(_CHUNKS.get(name, len(array)), len(array))
            group.create_array(
                name,
                data=array,
                chunks=(bscans, *array.shape[1:]),
                compressors=(ZstdCodec(level=3), Crc32cCodec()),
                config={"write_empty_chunks": True},
            )
        group.attrs.update(
            {
                "name": volume.name,
                "subject": volume.group,
                "source": fingerprint,
                "bscans": len(volume.pixels),
                "columns": volume.inner.shape[1],
                "found": volume.found,
                "spacing": list(volume.scan_spacing),
                "eye": volume.eye,
                "device": volume.device,
                "notes": [note_to_json(note) for note in volume.notes],
                "thickness": None if volume.thickness is None else dict(volume.thickness),
                "is_retina": volume.is_retina,
                "is_volume": volume.is_volume,
                "affine": volume.affine,
                "grey_range": volume.grey_range,
                "en_face": None
                if en_face is None
                else {"spacing": en_face.spacing, "grid_centre": en_face.grid_centre},
            }
        )
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("r+b") as opened:
                    os.fsync(opened.fileno())
        put_in_place(partial, place or out / f"{max(numbers, default=-1) + 1:06d}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
