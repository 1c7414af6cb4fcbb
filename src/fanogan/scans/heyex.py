"""Heidelberg's own files, .vol and .E2E, by eyepy. Not tested with a device's own file.

Nothing here asks eyepy for a patient's data, and in a .vol those bytes are blanked before eyepy
reads them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.scans.checks import BadScan, check_size, damaged
from fanogan.scans.notes import FirstVolumeOnly, Note, ReflectivityAsShown
from fanogan.scans.scan import EYES, EnFace, Pixels, Scan, known_length

_VOL_HEADER = 2048
_VOL_SIZES = struct.Struct("<12s3I24x2I")
_VOL_PATTERN = struct.Struct("<i")
_VOL_PATTERN_AT = 96
# Time of examination; IDs, date of birth and dates of visits; ID of the progression.
_VOL_PERSONAL = (slice(88, 96), slice(104, 208), slice(224, 258))
_NO_DATA = np.finfo(np.float32).max
_CIRCLE, _STAR = 2, 5


def read_vol(path: Path) -> Scan:
    """Read a .vol volume.

    Returns:
        (B-scans, rows, columns) uint8, the reflectivity as the device's software shows it (its
        logarithm, by eyepy); 0 where the device left no data. Spacing in mm, eye and localizer.

    Raises:
        BadScan: Cut short, altered, or a circular or star-shaped scan.
        ImportError: eyepy is not installed.
    """
    from eyepy.core.utils import from_vol_intensity
    from eyepy.io.he.vol_reader import vol_format

    _check_vol(path)
    parsed: Any = vol_format.parse(without_patient(path.read_bytes()))
    raw = np.stack([scan.data for scan in parsed.bscans])
    # Only a damaged file has negative values or NaN, which have no logarithm.
    raw[~(raw >= 0)] = _NO_DATA
    pixels: Pixels = from_vol_intensity(raw)
    scale = (known_length(parsed.scale_y_slo), known_length(parsed.scale_x_slo))
    lines = np.array(
        [[[scan.start_y, scan.start_x], [scan.end_y, scan.end_x]] for scan in parsed.bscans]
    )
    en_face = None
    if parsed.localizer.size and scale[0] and scale[1] and np.isfinite(lines).all():
        en_face = EnFace(parsed.localizer.copy(), scale, lines / np.array(scale))
    lengths = (parsed.distance, parsed.scale_y, parsed.scale_x)
    between, row, column = map(known_length, lengths)
    return Scan(
        pixels,
        spacing=(between, row, column),
        is_volume=len(pixels) > 1,
        notes=(ReflectivityAsShown(),),
        eye=EYES.get(parsed.scan_position.strip(" \0")),
        en_face=en_face,
        is_retina=True,
    )


def without_patient(data: bytes) -> bytes:
    """Blank IDs and dates in the header of a .vol file, so that eyepy never reads them."""
    blanked = bytearray(data)
    for part in _VOL_PERSONAL:
        blanked[part] = bytes(part.stop - part.start)
    return bytes(blanked)


def _check_vol(path: Path) -> None:
    """Compare the declared sizes with the file's, before eyepy reads it."""
    with path.open("rb") as file:
        head = file.read(_VOL_HEADER)
    if len(head) < _VOL_HEADER:
        raise damaged(str(path), "a .vol volume")
    _, columns, scans, rows, slo_columns, slo_rows = _VOL_SIZES.unpack_from(head)
    check_size(str(path), rows, columns, scans, 4)
    least = _VOL_HEADER + slo_columns * slo_rows + scans * rows * columns * 4
    if path.stat().st_size < least:
        raise damaged(str(path), "a .vol volume")
    _refuse_pattern(path, _VOL_PATTERN.unpack_from(head, _VOL_PATTERN_AT)[0])


def _refuse_pattern(path: Path, pattern: int) -> None:
    if pattern in (_CIRCLE, _STAR):
        shape = "circular" if pattern == _CIRCLE else "star-shaped"
        raise BadScan(f"{path} is a {shape} scan: export a volume scan, or leave it out")


def read_e2e(path: Path) -> Scan:
    """Read the first volume of an .E2E file.

    Returns:
        (B-scans, rows, columns) uint8, the reflectivity as the device's software shows it, by
        eyepy; the spacing of rows in mm, and the eye. The file gives positions in degrees, so
        the other spacings are unknown, and B-scans are not placed on the localizer.

    Raises:
        BadScan: Cut short, altered, without a volume, or a circular or star-shaped scan.
        ImportError: eyepy is not installed.
    """
    from eyepy.core.utils import from_e2e_intensity
    from eyepy.io.he import HeE2eReader
    from eyepy.io.he.e2e_format import TypesEnum

    with HeE2eReader(path) as reader:
        series = [each for each in reader.series if _slices(each)]
        if not series:
            raise damaged(str(path), "an .E2E file with a volume")
        slices = _slices(series[0])
        meta = slices[0].get_meta()
        _refuse_pattern(path, meta["scan_pattern"])
        if len(slices) != meta["n_bscans"]:
            raise damaged(str(path), "an .E2E file")
        rows, columns = meta["size_y"], meta["size_x"]
        check_size(str(path), rows, columns, len(slices), 4)
        raw = [np.asarray(bscan.get_bscan(), dtype=np.float32) for bscan in slices]
        sides = series[0].folders.get(TypesEnum.laterality)
        eye = EYES.get(chr(int(sides[0].data.laterality))) if sides else None
    if any(frame.shape != (rows, columns) for frame in raw):
        raise BadScan(f"{path} holds B-scans of different sizes: export each volume as a file")
    notes: tuple[Note, ...] = (ReflectivityAsShown(),)
    if len(series) > 1:
        notes = (FirstVolumeOnly(of=len(series)), *notes)
    pixels: Pixels = from_e2e_intensity(np.stack(raw))
    return Scan(
        pixels,
        spacing=(None, known_length(meta["scale_y"]), None),
        is_volume=len(raw) > 1,
        notes=notes,
        eye=eye,
        is_retina=True,
    )


def _slices(series: Any) -> list[Any]:
    """Return the B-scans of a series in the order in which they were taken."""
    from eyepy.io.he.e2e_format import TypesEnum

    slices = [each for each in series.slices.values() if TypesEnum.bscanmeta in each.folders]
    return sorted(slices, key=lambda bscan: int(bscan.get_meta()["aktImage"]))
