"""One case, opened: its scan read again from its file, its maps, its regions, all on one grid."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanogan.report import VolumeCase, region_mask
from fanogan.retina import Region, stored_volumes
from fanogan.review.voxels import Outlines, Voxels
from fanogan.scans import (
    BadScan,
    Kind,
    Scan,
    ScanSource,
    Spacing,
    extension,
    read_scan,
    scans_of,
    stack_bscans,
)
from fanogan.text import place_of

_SAMPLE = 64  # every so manieth pixel of a scan tells its usual range of grey values


class Opened:
    """A case of the database with the pictures that belong to it.

    Attributes:
        case: As `Database.case` returns it.
        about: What the results say of the model; empty where they are of an older version.
        scan: The scan, or None.
        problem: Why there is no scan, in one sentence, or ''.
        shape: (frames, rows, columns) of the scan; of its map where there is no scan.
    """

    def __init__(self, case: Mapping[str, Any]):
        """Read the scan."""
        self.case, self.folder = case, Path(case["folder"])
        about = self.folder / "about.json"
        self.about: dict[str, Any] = json.loads(about.read_text("utf-8")) if about.exists() else {}
        self.is_signal = self.about.get("kind") == "signal"
        self.scan: Scan | None = None
        self.problem = ""
        try:
            if not self.is_signal:
                self.scan = _read(case, self.about.get("kind", "image"))
        except BadScan as error:
            self.problem = str(error).replace(", or leave it out with --skip-bad", "")
        self.shape = self._shape()

    def _shape(self) -> tuple[int, int, int]:
        if self.scan is not None:
            frames, rows, columns = self.scan.pixels.shape[:3]
            return frames, rows, columns
        if (first := self.residual(0)) is not None:
            lines = self.lines
            count = len(self.case["frames"]) if lines is None else lines.shape[1]
            return max(1, count), *first.shape
        return 1, 1, 1

    @property
    def spacing(self) -> Spacing:
        """Millimetres between frames, rows and columns, as it was scored with."""
        between, row, column = self.case["scan"].get("spacing") or (None, None, None)
        return between, row, column

    @cached_property
    def grey_range(self) -> tuple[float, float]:
        """The values that are shown black and white at first."""
        if self.scan is None or (pixels := self.scan.pixels).dtype == np.uint8:
            return 0.0, 255.0
        low, high = np.percentile(np.asarray(pixels).reshape(-1)[::_SAMPLE], (0.5, 99.5))
        return float(low), max(float(high), float(low) + 1e-6)

    def frame(self, number: int, low: float, high: float) -> NDArray[np.uint8]:
        """Return a frame as it is shown where `low` is black and `high` white."""
        assert self.scan is not None
        return _shaded(np.asarray(self.scan.pixels[number]).astype(np.float32), low, high)

    def residual(self, number: int) -> NDArray[np.float32] | None:
        """Return a frame's map (rows, columns), NaN where nothing is known; None without maps."""
        if (nifti := self.folder / "maps" / place_of(self.case["name"], ".nii.gz")).exists():
            values = _nifti(nifti)
            files = self.case["scan"].get("files") or [""]
            if extension(files[0]) not in (".nii", ".nii.gz", ".hdr"):
                values = values.transpose(1, 0, 2)
            return np.asarray(values[..., number], dtype=np.float32)
        stored = self._stored("maps", number)
        return None if stored is None else np.asarray(stored, dtype=np.float32)

    def normal(self, number: int, low: float, high: float) -> NDArray[np.uint8] | None:
        """Return what the networks made of a frame, its nearest normal version, as `frame` does.

        Black where they saw nothing. None where the results hold none.
        """
        if (pixels := self._stored("reconstructions", number)) is None:
            return None
        depth, black, white = self.about["grey"]
        if self.scan is None or str(self.scan.pixels.dtype) != depth:
            return pixels  # on the model's own grey scale, for another can't be held against it
        values = black + pixels.astype(np.float32) / 255 * (white - black)
        return _shaded(values, low, high)

    def _stored(self, kind: str, number: int) -> NDArray[Any] | None:
        """Return a frame of what the results hold as TIFF of a scan, whole or frame by frame."""
        import tifffile

        name, folder = self.case["name"], self.folder / kind
        whole, single = (folder / place_of(f"{name}{end}", ".tif") for end in ("", f"#{number}"))
        if whole.exists():
            return np.asarray(tifffile.imread(whole, key=number))
        return np.asarray(tifffile.imread(single)) if single.exists() else None

    @cached_property
    def lines(self) -> NDArray[np.float32] | None:
        """The retina's inner and outer line in rows of the scan, (2, B-scans, columns), or None."""
        return self._plane("layers")

    @cached_property
    def thickness(self) -> NDArray[np.float32] | None:
        """The retina's thickness, (B-scans, columns) in µm, or None."""
        row = self.spacing[1]
        if self.lines is None or row is None:
            return None
        return np.asarray((self.lines[1] - self.lines[0]) * row * 1000, dtype=np.float32)

    @cached_property
    def en_face(self) -> NDArray[np.float32] | None:
        """The mean of the map over depth, (B-scans, columns), or None."""
        return self._plane("en_face")

    def _plane(self, kind: str) -> NDArray[np.float32] | None:
        import tifffile

        path = self.folder / kind / place_of(self.case["name"], ".tif")
        return np.asarray(tifffile.imread(path), np.float32) if path.exists() else None

    @property
    def curves(self) -> Path | None:
        """The picture of a signal's curves, where there is one."""
        path = self.folder / "overlays" / place_of(self.case["name"], ".png")
        return path if self.is_signal and path.exists() else None

    # --- regions ----------------------------------------------------------------------------------

    @cached_property
    def regions(self) -> Sequence[tuple[int, Region]]:
        """The candidate regions of an en-face map, with their ids in the database."""
        if self.about.get("kind", "image") != "image":
            return []
        found = []
        for region in self.case["regions"]:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in region.items()
                if key != "id"
            }
            found.append((region["id"], Region(**fields)))
        return found

    @cached_property
    def region_planes(self) -> Mapping[int, NDArray[np.bool_]]:
        """Where on the en-face map each region lies, (B-scans, columns) by id."""
        if self.en_face is None:
            return {}
        return {number: region_mask(self.en_face, region) for number, region in self.regions}

    @cached_property
    def voxels(self) -> Voxels | None:
        """The regions of a volume that is seen in three dimensions; of all else None."""
        if self.about.get("kind") != "volume" or not self.about["en_face"]:
            return None
        residual = [self.residual(frame) for frame in range(self.shape[0])]
        known = [frame for frame in residual if frame is not None]
        if not known:
            return None
        return Voxels(np.stack(known), self.about["en_face"][1], self.case["regions"])

    def region_volume(self, number: int) -> NDArray[np.bool_]:
        """Return a candidate region, (frames, rows, columns): what lies in the retina below it."""
        if self.voxels is not None:
            return self.voxels.mask(number)
        plane = self.region_planes.get(number)
        return np.zeros(self.shape, dtype=np.bool_) if plane is None else self.below(plane)

    def region_outlines(self, number: int) -> Outlines:
        """Return a candidate region's outlines on the frames that it lies on."""
        if self.voxels is not None:
            return self.voxels.outlines(number)
        plane = self.region_planes.get(number)
        return {} if plane is None else self.outlines(plane)

    def below(self, plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return what lies in the retina below a part of the en-face map, (frames, rows, columns).

        Args:
            plane: The part, (B-scans, columns).
        """
        mask, row = np.zeros(self.shape, dtype=np.bool_), np.arange(self.shape[1])[:, None]
        if self.lines is None:
            return mask
        inner, outer = self.lines
        for frame in np.flatnonzero(plane.any(axis=1)):
            within = (row >= inner[frame]) & (row <= outer[frame])
            mask[frame] = within & plane[frame]
        return mask

    def outlines(self, plane: NDArray[np.bool_]) -> Outlines:
        """Return the outlines of what is `below` by the B-scans, as (column, row) points."""
        found: Outlines = {}
        _, rows, columns = self.shape
        inner, outer = (
            self.lines
            if self.lines is not None
            else (np.zeros(plane.shape), np.full(plane.shape, rows - 1.0))
        )
        for frame in np.flatnonzero(plane.any(axis=1)).tolist():
            edges = np.flatnonzero(np.diff(np.pad(plane[frame].astype(np.int8), 1)))
            for first, end in edges.reshape(-1, 2).tolist():
                step = max(1, (end - first) // 24)
                at = np.array(sorted({*range(first, end, step), end - 1}))
                top, bottom = (
                    np.nan_to_num(line[frame, at], nan=(rows - 1) / 2) for line in (inner, outer)
                )
                x = np.clip(at + 0.5, None, columns)
                x[0], x[-1] = first, end
                there, back = np.stack([x, top], 1), np.stack([x, bottom + 1], 1)[::-1]
                points = np.round(np.concatenate([there, back]), 1).tolist()
                found.setdefault(frame, []).append(points)
        return found

    # --- en face ----------------------------------------------------------------------------------

    @cached_property
    def volume_case(self) -> VolumeCase | None:
        """What the picture of the en-face map is drawn from; None without such a map."""
        if self.en_face is None:
            return None
        _, rows, columns = self.shape
        median, threshold = self.about.get("en_face") or (0.0, np.inf)
        shape = (*self.en_face.shape[:1], rows, columns)
        nothing = np.broadcast_to(np.float32(np.nan), shape)
        grey = self.scan is not None and self.scan.pixels.ndim == 3
        return VolumeCase(
            name=self.case["name"],
            score=self.case["score"],
            p_value=None,
            flag=None,
            bscans=self.scan.pixels if grey and self.scan else np.zeros(shape, np.uint8),
            residuals=nothing,
            scores=np.full(shape[0], np.nan),
            en_face=self.en_face,
            en_face_floor=median,
            en_face_scale=2 * threshold - median,
            spacing=self.spacing,
            fundus=None if self.scan is None else self.scan.en_face,
            regions=(),
        )


def _shaded(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    level = (values - low) * (255 / max(high - low, 1e-9))
    return np.asarray(np.clip(np.rint(level), 0, 255), dtype=np.uint8)


_opening = threading.Lock()


@lru_cache(maxsize=3)  # of 50 MB or more each
def _opened(number: int, version: str) -> Opened:
    case = json.loads(version)
    case["frames"] = {int(frame): score for frame, score in case["frames"].items()}
    return Opened(case)


def opened(case: Mapping[str, Any]) -> Opened:
    """Return a case with its pictures; the last few are kept."""
    with _opening:  # two requests for one case read it once
        return _opened(case["id"], json.dumps(case, sort_keys=True))


def member_of(case: Mapping[str, Any]) -> tuple[str, int]:
    """Return the name of a case's file, and which image of an array file it is, or else 0."""
    base, _, number = case["name"].rpartition("#")
    files = case["scan"].get("files") or [""]
    if number.isdecimal() and extension(files[0]) in (".npy", ".npz"):
        return base, int(number)
    return case["name"], 0


def _read(case: Mapping[str, Any], kind: Kind) -> Scan:
    """Read the scan of a case by the package's own readers.

    Raises:
        BadScan: its place isn't known, it is gone, or can't be read any more.
    """
    files = [Path(path) for path in case["scan"].get("files", ())]
    if not files:
        raise BadScan(
            "These results don't say where the scan lies: they are of arrays, or of a version "
            "that didn't keep it; score the files again to see the scan"
        )
    missing = next((path for path in files if not path.exists()), None)
    if missing is not None:
        raise BadScan(f"{missing} is gone: put it back to see the scan; its maps are shown alone")
    first, name = files[0], case["name"]
    if first.is_dir():  # a group of a prepared store
        stored = next(each for each in stored_volumes(first.parent) if each.path == first)
        volume = stored.read(stored.space)
        pixels = np.stack([volume.original(frame) for frame in range(len(volume.bscans))])
        return Scan(pixels, name, name, volume.scan_spacing, True, en_face=volume.en_face)
    if extension(first) in (".npy", ".npz"):
        base, _ = member_of(case)
        key = base.rpartition(":")[2] if ":" in base else None
        source = ScanSource(first, base, base, key, kind=kind)
        return next(scan for scan in scans_of(source) if scan.name == name)
    if len(files) == 1:
        return read_scan(first)
    if extension(first) in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        return stack_bscans(files, first.parent, name, name)
    return read_scan(first, parts=files)


@lru_cache(maxsize=1)
def _nifti(path: Path) -> NDArray[np.float32]:
    import nibabel

    image: Any = nibabel.load(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    return values.reshape(*values.shape[:2], -1)
