"""Maps as files: numbers in the scan's own geometry, and pictures of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fanogan.calibration import Calibration
from fanogan.recipes import Sides
from fanogan.report import (
    VolumeCase,
    as_rgb,
    describe,
    draw_curves,
    en_face_picture,
    overlay,
    with_strip,
)
from fanogan.retina import FlatVolume, find_regions, region_masks
from fanogan.scans import UNKNOWN_SPACING, Affine, Spacing, as_nifti, extension
from fanogan.scoring.cases import as_picture, of_slice
from fanogan.scoring.result import Result
from fanogan.scoring.signal_maps import curves_of, in_units
from fanogan.scoring.voxel_maps import shown_slice
from fanogan.text import place_of

Files = Iterator[tuple[str, bytes | mmap]]
"""Places below the results' folder, and what is to lie there."""

MapsAs = Literal["tiff", "nifti"]
"""In which format residual maps are written."""

MOST_TIFF_BYTES = 1 << 32
DRAWN_ROWS = 192
"""Of a picture of a slice, at least: smaller ones are enlarged."""

PATCH_COLUMNS = ("volume", "bscan", "row", "column", "score", "image_residual", "feature_residual")
BSCANS_DRAWN = 3
"""The overlays of a volume: its B-scans of the highest scores."""


class VolumeMaps:
    """The maps of a volume's B-scans, in the scan's own geometry."""

    def __init__(self, volume: FlatVolume, normal: tuple[float, float] | None):
        """Nothing is known yet; ``normal`` is the calibration's ``en_face``."""
        self.volume = volume
        self.median, self.threshold = normal or (0.0, np.inf)
        shape = volume.bscans.shape
        self.residuals = np.full(shape, np.nan, dtype=np.float32)
        self.normal = np.zeros(shape, np.uint8)
        self.en_face = np.full((shape[0], shape[2]), np.nan, dtype=np.float32)
        self.scores = np.full(shape[0], np.nan)
        self.shape: np.ndarray | None = None  # (B-scans, columns), as `ShapeNormals.lines`
        self.masks: np.ndarray | None = None

    def add(self, result: Result, mask: np.ndarray | None = None) -> None:
        """Add a B-scan, and where it is known its truth (rows, columns) bool."""
        assert result.residual is not None and result.reconstruction is not None
        self.residuals[result.frame] = result.residual
        self.normal[result.frame] = as_picture(result.reconstruction)
        self.en_face[result.frame] = self.volume.en_face_line(result.frame, result.residual)
        self.scores[result.frame] = result.total
        if result.shape_line is not None:
            if self.shape is None:
                self.shape = np.full_like(self.en_face, np.nan)
            self.shape[result.frame] = result.shape_line
        if mask is not None:
            if self.masks is None:
                self.masks = np.zeros(self.residuals.shape, dtype=np.bool_)
            self.masks[result.frame] = mask

    def case(self, result: Result, calibration: Calibration, alpha: float) -> VolumeCase:
        """Return the volume as the page shows it, with its candidate regions."""
        volume = self.volume
        p_value, flag = calibration.assess(result.unit, result.total, alpha)
        deepest = np.nan_to_num(self.residuals, nan=-1).argmax(axis=1)
        regions = find_regions(self.en_face, deepest, self.threshold, volume.scan_spacing)
        return VolumeCase(
            name=result.name,
            score=result.total,
            p_value=p_value,
            flag=flag,
            warnings=tuple(map(describe, (*result.warnings, *result.notes))),
            bscans=volume.bscans,
            residuals=self.residuals.astype(np.float16),
            scores=self.scores,
            en_face=self.en_face,
            en_face_floor=self.median,
            en_face_scale=2 * self.threshold - self.median,
            spacing=volume.scan_spacing,
            fundus=volume.en_face,
            regions=regions,
            shape=self.shape,
            masks=self.masks,
            held_out_subjects=calibration.subjects(result.unit),
        )

    def region_labels(self) -> np.ndarray:
        """Return the number of the region that each pixel of the scan lies in, uint16, or 0.

        A region of the en-face map is what lies in the retina below it.
        """
        labels = np.zeros(self.residuals.shape, dtype=np.uint16)
        masks = region_masks(self.en_face, self.threshold)
        for number, mask in enumerate(masks, start=1):
            for frame in np.flatnonzero(mask.any(axis=1)).tolist():
                inside = self.volume.within_retina(frame, len(labels[frame]))
                labels[frame][inside & mask[frame]] = number
        return labels

    def files(self, case: VolumeCase, scale: float, maps: MapsAs = "tiff") -> Files:
        """Yield the map in the scan's geometry, the en-face map, the layers, the worst B-scans.

        And what the networks made of it, its nearest normal version.

        `layers/` has the retina's inner and outer line, (2, B-scans, columns), in rows of the scan.
        """
        volume = self.volume
        between, _, across = spacing = volume.scan_spacing
        yield map_file(case.name, self.residuals, spacing, volume.affine, volume.files, maps)
        yield reconstruction_file(case.name, self.normal, spacing)
        yield (
            f"en_face/{place_of(case.name, '.tif')}",
            float_tiff(self.en_face, (None, between, across)),
        )
        yield f"en_face/{place_of(case.name, '.png')}", _png(en_face_picture(case))
        yield (
            f"layers/{place_of(case.name, '.tif')}",
            float_tiff(np.stack([volume.inner, volume.outer])),
        )
        if case.of_shape is not None:
            plane = (None, between, across)
            yield f"shape/{place_of(case.name, '.tif')}", float_tiff(case.of_shape.en_face, plane)
            yield f"shape/{place_of(case.name, '.png')}", _png(en_face_picture(case.of_shape))
        worst = np.argsort(-np.nan_to_num(self.scores, nan=-np.inf), kind="stable")
        for frame in worst[: min(BSCANS_DRAWN, int(np.isfinite(self.scores).sum()))]:
            residual = np.nan_to_num(self.residuals[frame])
            coloured = overlay(np.asarray(case.bscans[frame]), residual, scale)
            if self.shape is not None:
                coloured = with_strip(coloured, self.shape[frame])
            yield f"overlays/{place_of(case.name, f'#{frame}.png')}", _png(coloured)


def patch_rows(volume: FlatVolume, result: Result, window: Sides) -> Iterator[dict[str, Any]]:
    """Lines of ``patches.csv``: the middle of each patch in the scan's own rows and columns."""
    assert result.patches is not None
    for row, column, *scores in result.patches:
        middle = row + (window[0] - 1) / 2, column + (window[1] - 1) / 2
        _, *at = volume.original_position(result.frame, *middle)
        values = [volume.name, result.frame, *map(round, at)]
        yield dict(zip(PATCH_COLUMNS, [*values, *(repr(float(v)) for v in scores)], strict=True))


def map_file(
    name: str,
    residual: np.ndarray,
    spacing: Spacing,
    affine: Affine | None,
    sources: tuple[Path, ...],
    maps: MapsAs,
) -> tuple[str, bytes | mmap]:
    """Return the place and the content of a raw map, ([frames,] rows, columns)."""
    if maps == "tiff":
        return f"maps/{place_of(name, '.tif')}", float_tiff(residual, spacing)
    whole = residual.reshape(-1, *residual.shape[-2:])
    rows_first = bool(sources) and extension(sources[0]) in (".nii", ".nii.gz", ".hdr")
    return f"maps/{place_of(name, '.nii.gz')}", as_nifti(whole, spacing, affine, rows_first)


def image_files(result: Result, scale: float, maps: MapsAs = "tiff") -> Files:
    """Yield an image's raw map, its nearest normal version, and the map in colours over the image.

    As NIfTI the maps of a volume's frames are one file, which follows with the volume.
    """
    assert result.residual is not None and result.picture is not None
    assert result.reconstruction is not None
    coloured = overlay(as_picture(result.picture), result.residual, scale)
    if result.shape_line is not None:
        coloured = with_strip(coloured, result.shape_line)
    if maps == "tiff" or not result.of_volume:
        place = result.spacing, result.affine, result.files
        yield map_file(result.name, result.residual, *place, maps)
    yield reconstruction_file(result.name, as_picture(result.reconstruction), result.spacing)
    yield f"overlays/{place_of(result.name, '.png')}", _png(coloured)


def voxel_files(result: Result, scale: float, maps: MapsAs) -> Files:
    """Yield the map of a volume that is seen in three dimensions, and a picture of one slice.

    The picture has side by side the slice that differs most, its nearest normal version, and the
    map in colours over the slice. A map that is too large for TIFF's 4 GB is NIfTI all the same.
    """
    residual = result.residual
    assert residual is not None
    if residual.nbytes >= MOST_TIFF_BYTES:
        maps = "nifti"
    yield map_file(result.name, residual, result.spacing, result.affine, result.files, maps)
    assert result.reconstruction is not None
    slices = np.stack([as_picture(each) for each in result.reconstruction])
    if slices.nbytes < MOST_TIFF_BYTES:
        yield reconstruction_file(result.name, slices, result.spacing)
    shown = of_slice(result, shown_slice(result))
    assert shown.residual is not None and shown.picture is not None
    assert shown.reconstruction is not None
    picture, normal = as_picture(shown.picture), as_picture(shown.reconstruction)
    drawn = [as_rgb(picture), as_rgb(normal), overlay(picture, shown.residual, scale)]
    larger = max(1, -(-DRAWN_ROWS // len(picture)))
    panels = [one.repeat(larger, axis=0).repeat(larger, axis=1) for one in drawn]
    gap = np.zeros((larger * len(picture), 4, 3), np.uint8)
    side_by_side = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
    yield f"overlays/{place_of(result.name, '.png')}", _png(side_by_side)


def signal_files(result: Result, calibration: Calibration) -> Files:
    """Yield the map over time as NPY and as CSV beside signal and nearest normal, and curves."""
    signal = result.signal
    assert signal is not None and result.residual is not None
    buffer = io.BytesIO()
    np.save(buffer, result.residual[0].astype(np.float32))
    yield f"maps/{place_of(result.name, '.npy')}", buffer.getvalue()
    values, normal = in_units(result)
    time = np.arange(len(values)) / (signal.rate or 1.0)
    heading = ["time" if signal.rate else "sample", *signal.called]
    heading += [f"{name} nearest normal" for name in signal.called] + ["residual"]
    table = np.column_stack([time, values, normal, result.residual[0]])
    text = io.StringIO(",".join(f'"{name}"' for name in heading) + "\n")
    text.seek(0, io.SEEK_END)
    np.savetxt(text, table, fmt=["%.9g", *["%.7g"] * (table.shape[1] - 1)], delimiter=",")
    yield f"maps/{place_of(result.name, '.csv')}", text.getvalue().encode()
    curves = draw_curves(curves_of(result, calibration))
    yield f"overlays/{place_of(result.name, '.png')}", _png(curves)


def write_files(folder: Path, files: Files) -> dict[str, str]:
    """Write files below a folder; returns their places there, and the SHA-256 of each.

    They are neither synced nor renamed one by one, which would take longer than making them:
    whoever goes on in this folder looks at each, and syncs all before they are moved elsewhere.
    """
    written = {}
    for place, data in files:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written[place] = hashlib.sha256(data).hexdigest()
    return written


def reconstruction_file(name: str, pixels: np.ndarray, spacing: Spacing) -> tuple[str, bytes]:
    """Return place and content of what the networks made of a scan: 8 bits, TIFF in any case."""
    return f"reconstructions/{place_of(name, '.tif')}", _tiff(pixels, spacing)


def mask_tiff(mask: np.ndarray, spacing: Spacing) -> bytes:
    """Return a mask ([frames,] rows, columns) as TIFF of 8 bits, 255 where it is true."""
    return _tiff(mask.astype(np.uint8) * np.uint8(255), spacing)


def float_tiff(residual: np.ndarray, spacing: Spacing = UNKNOWN_SPACING) -> bytes:
    """Return a map as TIFF, its axes and its spacing in mm as ImageJ, Fiji and napari read them."""
    return _tiff(residual.astype(np.float32), spacing)


def _tiff(values: np.ndarray, spacing: Spacing) -> bytes:
    import tifffile

    between, row, column = spacing
    has_colours = values.dtype == np.uint8 and values.ndim > 2 and values.shape[-1] == 3
    axes = "ZYX"[-(values.ndim - has_colours) :] + "S" * has_colours
    # Without axes tifffile takes the first of three for channels.
    metadata: dict[str, Any] = {"axes": axes}
    if row and column:
        apart = {"spacing": between} if between and "Z" in axes else {}
        metadata |= {"unit": "mm", **apart}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        values,
        imagej=True,
        compression="zlib",
        resolution=(1 / column, 1 / row) if row and column else None,
        metadata=metadata,
    )
    return buffer.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
