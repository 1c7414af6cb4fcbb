"""The en-face map of a scored volume as a picture: over the fundus, in millimetres, with regions.

Where the device took no fundus image, the mean of the B-scans along depth takes its place.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fanogan.report.images import OUTLINE_COLOUR, as_rgb, edge, overlay
from fanogan.retina import SHAPE_RANGE, Region
from fanogan.scans import EnFace, Spacing

MAP_SIDE = 768  # px of the longer side: a Spectralis' fundus picture keeps its own pixels
STRIP = 32  # px of the strip below a map, where its scale bar is
BAR_LENGTHS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)  # mm
LEAST_REACH = 2.0  # px painted to each side of a B-scan's line, at least
LONE_REACH = 8.0  # px, for a B-scan without neighbours
REGIONS_NUMBERED = 30  # more numbers would hide the map


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """One scored volume as pages and pictures show it.

    Attributes:
        name: Path of the volume relative to the searched folder.
        score: Anomaly score of the volume; higher is more anomalous.
        p_value: Conformal p-value against held-out volumes, in (0, 1], or None without them.
        flag: Whether the score lies above the calibrated threshold; None with too few held out.
        warnings: Sentences about this volume.
        bscans: (B-scans, rows, columns) uint8, the scan itself: an array, or a Zarr array that is
            read one B-scan at a time.
        residuals: (B-scans, rows, columns) abs(x - x_hat) in network units, [0, 2]; NaN where
            unknown.
        scores: (B-scans,) their scores; NaN where a B-scan wasn't scored.
        en_face: (B-scans, columns) mean residual over depth, NaN where unknown.
        en_face_floor: The value of `en_face` up to which there is no colour: the held-out median.
        en_face_scale: The value at which colour and opacity are strongest, as far above the
            threshold of regions as that is above the floor. Not finite where no volume was held
            out; the map then has no colours.
        spacing: Millimetres between B-scans, rows and columns; None where unknown.
        fundus: The device's fundus image, and the B-scans' lines on it.
        regions: Candidate regions of `en_face`.
        shape: (B-scans, columns) how far the retina's shape is from normals, as
            `retina.ShapeNormals.lines`, or None.
        masks: (B-scans, rows, columns) bool, ground truth, or None.
        held_out_subjects: Of how many subjects the held-out volumes are.

    Raises:
        ValueError: The arrays don't belong together.
    """

    name: str
    score: float
    p_value: float | None
    flag: bool | None
    warnings: tuple[str, ...] = ()
    bscans: Any
    residuals: np.ndarray
    scores: np.ndarray
    en_face: np.ndarray
    en_face_floor: float = 0.0
    en_face_scale: float
    spacing: Spacing
    fundus: EnFace | None
    regions: Sequence[Region]
    shape: np.ndarray | None = None
    masks: np.ndarray | None = None
    held_out_subjects: int = 0

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        whole = frames, _, columns = self.bscans.shape
        plane = (frames, columns)
        expected = {"scores": (frames,), "en_face": plane, "shape": plane}
        for field, shape in {**expected, "residuals": whole, "masks": whole}.items():
            values = getattr(self, field)
            if values is not None and values.shape != shape:
                raise ValueError(
                    f"{self.name}: {field} of shape {values.shape} don't fit B-scans of shape "
                    f"{whole}."
                )
        if self.fundus is not None and len(self.fundus.lines) != frames:
            raise ValueError(
                f"{self.name}: {len(self.fundus.lines)} lines on the fundus don't fit {frames} "
                "B-scans."
            )

    @cached_property
    def worst(self) -> int:
        """The number of the B-scan with the highest score."""
        return int(np.nan_to_num(self.scores, nan=-math.inf).argmax())

    @cached_property
    def of_shape(self) -> VolumeCase | None:
        """The same volume with the map of its shape as the en-face map, if there is one."""
        if self.shape is None:
            return None
        floor, end = SHAPE_RANGE
        return replace(self, en_face=self.shape, en_face_floor=floor, en_face_scale=end, regions=())


@dataclass(frozen=True)
class Ground:
    """The picture that an en-face map is drawn on.

    Attributes:
        picture: (rows, columns) uint8, with square pixels.
        lines: (B-scans, 2, 2) start and end of each B-scan as (row, column), (0, 0) at the upper
            left corner.
        bscans: (rows, columns) which B-scan a pixel shows; -1 where none.
        columns: (rows, columns) which of its columns.
        pixel_mm: Side of a pixel; None where unknown.
    """

    picture: np.ndarray
    lines: np.ndarray
    bscans: np.ndarray
    columns: np.ndarray
    pixel_mm: float | None

    @classmethod
    def of(cls, case: VolumeCase) -> Ground:
        """Take the device's fundus image, else the B-scans' own projection."""
        fundus = case.fundus or _projection(case)
        rows, columns = fundus.pixels.shape[:2]
        row_mm, column_mm = fundus.spacing
        size = (float(rows), float(columns))
        if row_mm is not None and column_mm is not None:
            size = (rows * row_mm, columns * column_mm)
        side = max(size) / MAP_SIDE
        shape = (max(1, round(size[0] / side)), max(1, round(size[1] / side)))
        picture = Image.fromarray(_as_bytes(fundus.pixels))
        lines = fundus.lines * (np.array(shape) / (rows, columns))
        return cls(
            np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR)),
            lines,
            *_nearest(shape, lines, case.en_face.shape[1]),
            None if None in fundus.spacing else side,
        )


def en_face_picture(case: VolumeCase, ground: Ground | None = None) -> np.ndarray:
    """Draw the en-face anomaly map of a volume.

    Args:
        case: The volume.
        ground: What the map lies on, where it has been made already.

    Returns:
        (rows, columns, 3) uint8, with square pixels where the spacing is known: the map in colours
        over the fundus, its regions outlined and the largest numbered, and, where millimetres are
        known, a strip below with a scale bar.
    """
    ground = ground or Ground.of(case)
    painted = ground.bscans >= 0
    drawn = as_rgb(ground.picture)
    if math.isfinite(case.en_face_scale):
        residual = np.where(painted, case.en_face[ground.bscans, ground.columns], np.nan)
        floor = case.en_face_floor
        drawn = overlay(ground.picture, np.maximum(residual - floor, 0), case.en_face_scale - floor)
    numbers = np.zeros(case.en_face.shape, dtype=np.int32)
    for place, region in enumerate(case.regions, start=1):
        numbers[region_mask(case.en_face, region)] = place
    numbers = np.where(painted, numbers[ground.bscans, ground.columns], 0)
    drawn[edge(numbers > 0, width=3)] = OUTLINE_COLOUR
    picture = Image.fromarray(drawn)
    boxes = ndimage.find_objects(numbers, max_label=len(case.regions))
    for region, box in list(zip(case.regions, boxes, strict=True))[:REGIONS_NUMBERED]:
        if box is not None:
            _write_number(picture, region.number, *box)
    drawn = np.asarray(picture)
    if ground.pixel_mm is None:
        return drawn
    return np.concatenate([drawn, _bar_strip(drawn.shape[1], ground.pixel_mm)])


def region_mask(en_face: np.ndarray, region: Region) -> np.ndarray:
    """Return the pixels of a region on its en-face map.

    A region is connected and higher than all around it, so climbing from its peak to the highest
    neighbour, again and again, takes all of it before anything else. Map and mask are (B-scans,
    columns).
    """
    values = np.pad(np.nan_to_num(en_face, nan=-np.inf), 1, constant_values=-np.inf)
    inside = np.zeros(values.shape, dtype=bool)
    queued = np.isneginf(values)
    peak = (region.bscan + 1, region.column + 1)
    queue = [(-float(values[peak]), peak)]
    queued[peak] = True
    for _ in range(region.pixels):
        if not queue:
            break
        _, (row, column) = heapq.heappop(queue)
        inside[row, column] = True
        for place in itertools.product(range(row - 1, row + 2), range(column - 1, column + 2)):
            if not queued[place]:
                queued[place] = True
                heapq.heappush(queue, (-float(values[place]), place))
    return inside[1:-1, 1:-1]


def _projection(case: VolumeCase) -> EnFace:
    """Draw the mean of the B-scans along depth as if it were a fundus image."""
    frames, columns = case.en_face.shape
    means = [np.asarray(case.bscans[frame]).mean(axis=0) for frame in range(frames)]
    between, _, across = case.spacing
    # Without a spacing the area is taken for square, and one B-scan is drawn as a narrow strip.
    height = columns if frames > 1 else max(1, round(2 * LONE_REACH * columns / MAP_SIDE))
    if between and across and frames > 1:
        height = max(1, round(frames * between / across))
    shown = (np.arange(height) * frames) // height
    lines = np.zeros((frames, 2, 2))
    lines[:, :, 0] = ((np.arange(frames) + 0.5) * height / frames)[:, np.newaxis]
    lines[:, 1, 1] = columns
    row_mm = frames * between / height if between and frames > 1 else across
    return EnFace(_as_bytes(np.stack(means)[shown]), (row_mm, across), lines)


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Scale a grey picture to 8 bits, from its 1st to its 99th percentile."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = np.percentile(pixels, (1, 99))
    level = (pixels - low) / max(high - low, 1e-12)
    return np.asarray(np.rint(255 * np.clip(level, 0, 1)), dtype=np.uint8)


def _nearest(
    shape: tuple[int, int], lines: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's nearest B-scan, -1 where none is near, and its column there."""
    reach = LONE_REACH
    if len(lines) > 1:
        # A little more than half the usual distance between neighbours, which aren't evenly apart.
        along = lines[:-1, 1] - lines[:-1, 0]
        step = np.diff(lines.mean(axis=1), axis=0)
        across = np.abs(step[:, 0] * along[:, 1] - step[:, 1] * along[:, 0])
        gaps = across / np.maximum(np.hypot(*along.T), 1e-12)
        reach = max(LEAST_REACH, 0.6 * float(np.median(gaps)))
    distance = np.full(shape, reach, dtype=np.float32)
    bscans = np.full(shape, -1, dtype=np.int32)
    places = np.zeros(shape, dtype=np.int32)
    for frame, (start, end) in enumerate(lines):
        length = float(np.hypot(*(end - start)))
        if not length > 0:
            continue
        first = np.clip(np.floor(np.minimum(start, end) - reach), 0, shape).astype(int)
        last = np.clip(np.ceil(np.maximum(start, end) + reach), 0, shape).astype(int)
        box = (slice(first[0], last[0]), slice(first[1], last[1]))
        down = np.arange(first[0], last[0])[:, np.newaxis] + 0.5 - start[0]
        right = np.arange(first[1], last[1])[np.newaxis] + 0.5 - start[1]
        direction = (end - start) / length
        along = (down * direction[0] + right * direction[1]) / length
        away = np.abs(down * direction[1] - right * direction[0])
        nearer = (away <= distance[box]) & (along >= 0) & (along < 1)
        distance[box][nearer] = away[nearer]
        bscans[box][nearer] = frame
        places[box][nearer] = (along[nearer] * columns).astype(np.int32)
    return bscans, places


def _write_number(picture: Image.Image, number: int, rows: slice, columns: slice) -> None:
    """Write a region's number beside the box that holds it."""
    draw = ImageDraw.Draw(picture)
    text, font = str(number), ImageFont.load_default(26)
    width = draw.textlength(text, font=font)
    right = columns.stop + 5
    place = right if right + width < picture.width else max(0, columns.start - 5 - width)
    middle = min(max((rows.start + rows.stop) / 2, 14), picture.height - 14)
    for colour, stroke in (((0, 0, 0), 4), (OUTLINE_COLOUR, 1)):
        style: dict[str, Any] = {"fill": colour, "stroke_fill": colour, "stroke_width": stroke}
        draw.text((place, middle), text, font=font, anchor="lm", **style)


def _bar_strip(width: int, pixel_mm: float) -> np.ndarray:
    """Draw a black strip with a white bar of a round length: (STRIP, width, 3)."""
    strip = Image.new("RGB", (width, STRIP))
    length = next((mm for mm in BAR_LENGTHS if mm <= width * pixel_mm / 3), None)
    if length is not None:
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(24)
        end, middle = 8 + round(length / pixel_mm), STRIP // 2
        draw.rectangle((8, middle - 2, end - 1, middle + 1), fill="white")
        draw.text((end + 8, middle), f"{length:g} mm", fill="white", font=font, anchor="lm")
    return np.asarray(strip)
