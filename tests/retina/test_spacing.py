"""Spacing that neither file nor user tells: estimated over the normals, said, and kept."""

import numpy as np
import pytest

from fanogan.retina import (
    Boundaries,
    FlatVolume,
    RetinalView,
    SpacingEstimated,
    ThicknessUnseen,
    estimated_row,
    make_flat,
    with_row,
)
from fanogan.scans import Scan, Spacing

UNKNOWN: Spacing = (None, None, None)


def flat(thickness: float, columns: int = 100, spacing: Spacing = UNKNOWN) -> FlatVolume:
    """A single B-scan whose retina is so many rows thick."""
    pixels = np.random.default_rng(0).integers(0, 255, (1, 200, columns), dtype=np.uint8)
    inner = np.full((1, columns), 40, dtype=np.float32)
    outer = inner + np.float32(thickness)
    boundaries = Boundaries(inner, outer, outer, np.ones_like(inner))
    scan = Scan(pixels, f"{thickness}", "person", spacing)
    return make_flat(scan, boundaries, np.zeros(pixels.shape, dtype=np.bool_))


def test_rows_are_such_that_normals_are_as_thick_as_is_usual() -> None:
    # By hand: 0.3 mm in 55 rows, the median of 50, 55 and 60.
    assert estimated_row([flat(50), flat(55), flat(60)]) == pytest.approx(0.3 / 55)
    # 80 rows are 3.75 µm each, as near to a Spectralis's 3.87 as people differ.
    assert estimated_row([flat(80)]) == 0.00387
    # 20 rows would be 15 µm each, which no device has.
    assert estimated_row([flat(20)]) is None


def test_rows_that_are_known_are_left_alone() -> None:
    known = flat(55, spacing=(None, 0.004, 0.01))
    assert estimated_row([known]) is None
    assert estimated_row([known, flat(50)]) == pytest.approx(0.3 / 50)
    assert with_row(known, 0.006) is known


@pytest.mark.parametrize(
    ("row", "columns", "column"),
    # A Spectralis's B-scans of 512, 768 and 1,536 columns: 11.5 µm, and half of it at the double
    # density. OCTDL's of 882: 5.4 µm a row by the set's description.
    [
        (0.00387, 512, 0.0115),
        (0.00387, 768, 0.0115),
        (0.00387, 1536, 0.00575),
        (0.0054, 882, 0.016),
    ],
)
def test_columns_are_as_wide_as_is_usual_for_their_number(
    row: float, columns: int, column: float
) -> None:
    changed = with_row(flat(60, columns), row)
    assert changed.scan_spacing == (None, row, pytest.approx(column, rel=0.01))
    assert changed.notes == (SpacingEstimated(row, changed.scan_spacing[2]),)
    assert changed.grid.shape[1] == pytest.approx(columns * column / 0.022, rel=0.04)
    assert not changed.is_volume
    direct = flat(60, columns, changed.scan_spacing)
    np.testing.assert_array_equal(changed.pixels, direct.pixels)


def test_what_the_user_says_of_columns_is_kept() -> None:
    assert with_row(flat(60, spacing=(None, None, 0.02)), 0.005).scan_spacing == (None, 0.005, 0.02)


def test_a_retina_far_from_the_trainings_is_doubted(eyes: list[Scan]) -> None:
    view = RetinalView(flat(60).flat.space, 0.5, row=0.005, thickness=(0.28, 0.32))
    spaced = [with_row(flat(rows), view.row) for rows in (60, 78, 82, 46, 43)]
    assert [list(view.doubts(volume)) for volume in spaced] == [
        [],
        [],  # 0.39 mm; 0.4 is a quarter above the thickest
        [ThicknessUnseen(pytest.approx(0.41), (0.28, 0.32))],
        [],
        [ThicknessUnseen(pytest.approx(0.215), (0.28, 0.32))],
    ]
    assert RetinalView.from_dict(view.to_dict()) == view
    assert not list(RetinalView(view.space, 0.5).doubts(spaced[2]))  # a model of before


def test_a_view_reads_what_tells_no_spacing_with_its_own_estimate(eyes: list[Scan]) -> None:
    [eye] = eyes[:1]
    bare = Scan(eye.pixels, "bare", "person", is_volume=True)
    view = RetinalView(flat(60).flat.space, 0.5, row=0.005)
    [volume] = view.read(bare)
    assert volume.scan_spacing == (None, 0.005, pytest.approx(0.01485))
    [volume] = view.read(bare, spacing=(None, 0.004, 0.012))
    assert volume.scan_spacing == (None, 0.004, 0.012) and not volume.notes
