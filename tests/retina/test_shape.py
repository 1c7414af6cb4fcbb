"""What flattening takes away: thickness, elevation, roughness and clarity, against normals."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from fanogan.phantom import make_phantom
from fanogan.retina import Boundaries, FlatVolume, ShapeNormals, make_flat
from fanogan.scans import Scan

SPACING = (0.24, 0.00387, 0.0114)


def flat(boundaries: Boundaries, rows: int = 200) -> FlatVolume:
    """A volume of noise with these boundaries."""
    shape = (len(boundaries.inner), rows, boundaries.inner.shape[1])
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    scan = Scan(pixels, "eye", "eye", SPACING, is_volume=True)
    return make_flat(scan, boundaries, np.zeros(shape, bool))


@functools.cache
def eye(seed: int, lesion: str = "") -> tuple[FlatVolume, np.ndarray]:
    """A made-up eye with its exact boundaries, and which columns of it are ill."""
    lesions = {"diseased": True, "lesions": [lesion]} if lesion else {}
    made = make_phantom(seed, shape=(3, 300, 256), spacing=SPACING, **lesions)
    lines = made.boundaries
    clear = np.ones(lines["ILM"].shape, np.float32)
    boundaries = Boundaries(lines["ILM"], lines["Bruch"], lines["RPE outer"], clear)
    return flat(boundaries, 300), made.mask.any(axis=1)


@pytest.fixture(scope="module")
def normals() -> ShapeNormals:
    return ShapeNormals.of(eye(seed)[0] for seed in range(12))


@pytest.fixture(scope="module")
def healthy(normals: ShapeNormals) -> list[float]:
    return [float(normals.lines(eye(seed)[0]).mean()) for seed in range(20, 26)]


def flat_lines(columns: int = 400, thick: float = 77.52) -> Boundaries:
    """An even retina of so many rows (of 3.87 µm; 77.52 are 0.3 mm), clear in every column."""
    inner = np.full((1, columns), 60, np.float32)
    outer = inner + np.float32(thick)
    return Boundaries(inner, outer, outer.copy(), np.ones_like(inner))


def test_one_column_by_hand() -> None:
    """Everywhere alike, all widths are too; noise is added before the logarithm is taken."""
    low = np.repeat(np.log([0.21, 0.001, 0.001, 0.01]), 3)
    median = np.repeat(np.log([0.31, 0.004, 0.002, 0.05]), 3)
    high = np.repeat(np.log([0.41, 0.012, 0.004, 0.15]), 3)
    normals = ShapeNormals(tuple(low), tuple(median), tuple(high))
    lines = flat_lines()
    np.testing.assert_allclose(normals.lines(flat(lines)), 0, atol=1e-3)
    # 0.2 mm thick, raised by 20 rows (0.0774 mm), unclear by 0.4.
    changed = dataclasses.replace(
        lines,
        inner=lines.outer - np.float32(0.2 / 0.00387),
        epithelium=lines.epithelium - 20,
        confidence=lines.confidence - np.float32(0.4),
    )
    thin = np.log(0.31 / 0.21) / np.log(0.31 / 0.21)
    raised = np.log(0.0814 / 0.004) / np.log(3)
    unclear = np.log(0.45 / 0.05) / np.log(3)
    expected = np.sqrt(((0.6 * thin) ** 2 + (0.6 * raised) ** 2 + unclear**2) / 4)
    np.testing.assert_allclose(normals.lines(flat(changed)), expected, rtol=1e-3)


def test_thin_counts_as_thick_does_but_smooth_and_clear_never() -> None:
    normals = ShapeNormals.of([flat(flat_lines(thick=thick)) for thick in (60, 70, 80)])
    far = [normals.lines(flat(flat_lines(thick=thick))).mean() for thick in (50, 70, 100)]
    assert far[0] > 0.5 > 0.01 > far[1] and far[2] > 0.5


@pytest.mark.parametrize("lesion", ["drusen", "pigment epithelium detachment"])
def test_what_lifts_the_epithelium_scores_above_normals_where_it_is(
    normals: ShapeNormals, healthy: list[float], lesion: str
) -> None:
    for seed in (31, 32, 33):
        ill, where = eye(seed, lesion)
        line = normals.lines(ill)
        assert line.mean() > max(healthy), "the picture"
        frame = int(where.sum(axis=1).argmax())
        assert where[frame, line[frame].argmax()], "its highest column is the lesion's"


@pytest.mark.parametrize("change", ["thick", "thin", "rough", "unclear"])
def test_each_quantity_alone_raises_the_line_where_it_is(
    normals: ShapeNormals, change: str
) -> None:
    volume, _ = eye(20)
    lines, place = volume.boundaries, np.s_[1, 100:160]
    inner, epithelium = lines.inner.copy(), lines.epithelium.copy()
    confidence = lines.confidence.copy()
    if change in ("thick", "thin"):
        inner[place] += -40 if change == "thick" else 25
    elif change == "rough":
        epithelium[place] -= np.tile([0, 0, 4, 4], 15)
    else:
        confidence[place] = 0.2
    changed = normals.lines(flat(Boundaries(inner, lines.outer, epithelium, confidence), 300))
    before = normals.lines(volume)
    assert changed[1, 110:150].min() > before.max()
    np.testing.assert_array_equal(changed[[0, 2]], before[[0, 2]])
    assert 90 <= changed[1].argmax() < 170


def test_where_the_search_went_astray_in_a_normal_is_no_example(normals: ShapeNormals) -> None:
    """A third of the columns say that the retina is 0.1 mm thin, and are hardly believed."""
    strayed = []
    for seed in range(12):
        volume, _ = eye(seed)
        lines = volume.boundaries
        inner, confidence = lines.inner.copy(), lines.confidence.copy()
        inner[:, 170:] = lines.outer[:, 170:] - 26
        confidence[:, 170:] = 0.3
        strayed.append(flat(dataclasses.replace(lines, inner=inner, confidence=confidence), 300))
    found = ShapeNormals.of(strayed)
    thickness = slice(0, 2)  # at 2 mm a column reaches into the part that is astray
    np.testing.assert_allclose(found.low[thickness], normals.low[thickness], atol=0.1)
    np.testing.assert_allclose(found.median[thickness], normals.median[thickness], atol=0.1)


def test_unknown_columns_are_left_out_of_their_neighbours_means(normals: ShapeNormals) -> None:
    lines = flat_lines()
    gaps = np.zeros_like(lines.inner, bool)
    gaps[0, 50:60] = gaps[0, 200] = gaps[0, 390:] = True
    some = Boundaries(*(np.where(gaps, np.float32(np.nan), line) for line in vars(lines).values()))
    whole, parts = normals.lines(flat(lines)), normals.lines(flat(some))
    assert (np.isnan(parts) == gaps).all()
    np.testing.assert_allclose(parts[~gaps], whole[~gaps], rtol=1e-4, atol=1e-4)


def test_a_tilt_is_no_roughness_at_the_edge(normals: ShapeNormals) -> None:
    level = flat_lines()
    slope = np.arange(400, dtype=np.float32) / 10
    tilted = Boundaries(
        *(line + slope for line in (level.inner, level.outer, level.epithelium)), level.confidence
    )
    np.testing.assert_allclose(
        normals.lines(flat(tilted)), normals.lines(flat(level)), rtol=1e-3, atol=1e-3
    )


def test_widths_are_millimetres(normals: ShapeNormals) -> None:
    """An eye that is recorded with half as many columns is as far from normals."""
    made = [
        make_phantom(34, shape=(1, 300, columns), spacing=(0.24, 0.00387, mm), diseased=True)
        for columns, mm in ((512, 0.0057), (256, 0.0114))
    ]
    fine, coarse = (
        normals.lines(
            dataclasses.replace(
                flat(
                    Boundaries(
                        one.boundaries["ILM"],
                        one.boundaries["Bruch"],
                        one.boundaries["RPE outer"],
                        np.ones_like(one.boundaries["ILM"]),
                    ),
                    300,
                ),
                scan_spacing=one.spacing,
            )
        )
        for one in made
    )
    np.testing.assert_allclose(fine[0].reshape(-1, 2).mean(axis=1), coarse[0], atol=0.35)
    assert fine.mean() == pytest.approx(coarse.mean(), rel=0.05)


def test_percentiles_that_make_no_distance_are_refused() -> None:
    twelve = tuple(range(12))
    rising = [tuple(value + step for value in twelve) for step in range(3)]
    with pytest.raises(ValueError, match="12 rising percentiles"):
        ShapeNormals(rising[0], rising[0], rising[2])
    with pytest.raises(ValueError, match="12 rising percentiles"):
        ShapeNormals(*(each[:4] for each in rising))
    with pytest.raises(ValueError):
        ShapeNormals(twelve[:4], *rising[1:])
