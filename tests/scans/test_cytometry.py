"""Flow cytometry: files that flowio writes, and plots by hand."""

from pathlib import Path

import flowio
import numpy as np
import pytest

from fanogan.scans import BadScan, find_scans, read_scan, read_scans

NAMES = ["FSC-A", "FSC-H", "SSC-A", "CD45", "Time"]


def written(path: Path, events: np.ndarray, names: list[str]) -> Path:
    with path.open("wb") as file:
        flowio.create_fcs(file, events.astype(float).ravel(), names)
    return path


def test_a_tube_is_a_stack_of_plots_against_side_scatter(tmp_path: Path) -> None:
    # create_fcs declares the range 262,144 of every channel.
    quarter = 262_144 / 4
    events = np.array([[quarter, 1, 3 * quarter, 0, 5]] * 900 + [[0, 1, 0, 262_144, 6]] * 100)
    scan = read_scan(written(tmp_path / "a.fcs", events, NAMES))
    assert scan.pixels.shape == (2, 64, 64) and scan.is_volume  # no height, no time
    scatter, marker = scan.pixels
    # Rows count from the top, where side scatter is highest; density is logarithmic.
    expected = [255 * np.log1p(4096 * share) / np.log1p(4096) for share in (0.9, 0.1)]
    assert {tuple(at) for at in np.argwhere(scatter)} == {(15, 16), (63, 0)}
    assert [int(scatter[15, 16]), int(scatter[63, 0])] == [round(each) for each in expected]
    # Fluorescence 0 lies a tenth of an axis from the left: .1 / 1.1 of 64 bins.
    assert {tuple(at) for at in np.argwhere(marker)} == {(15, 5), (63, 63)}


def test_a_plot_does_not_depend_on_how_many_events_there_are(tmp_path: Path) -> None:
    events = np.random.default_rng(0).uniform(0, 2e5, (500, 5))
    one = read_scan(written(tmp_path / "a.fcs", events, NAMES))
    other = read_scan(written(tmp_path / "b.fcs", np.tile(events, (3, 1)), NAMES))
    assert np.array_equal(one.pixels, other.pixels)


def test_they_are_found_and_bad_ones_named(tmp_path: Path) -> None:
    events = np.random.default_rng(0).uniform(0, 2e5, (50, 5))
    written(tmp_path / "a.fcs", events, NAMES)
    (tmp_path / "b.fcs").write_bytes((tmp_path / "a.fcs").read_bytes()[:300])
    written(tmp_path / "c.fcs", events[:, :1], NAMES[:1])
    assert [source.name for source in find_scans(tmp_path)] == ["a.fcs", "b.fcs", "c.fcs"]
    bad: list[BadScan] = []
    good = list(read_scans(tmp_path, skip_bad=True, on_bad=bad.append))
    assert [scan.name for scan in good] == ["a.fcs"]
    damaged, lonely = map(str, bad)
    assert "b.fcs is damaged" in damaged
    with pytest.raises(BadScan, match=r"c\.fcs holds 50 events of 1 channels"):
        raise BadScan(lonely)
