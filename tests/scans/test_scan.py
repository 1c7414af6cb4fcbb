"""What a plain scan answers when scoring asks it."""

from dataclasses import dataclass

import numpy as np

from fanogan.scans import Scan

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 10), dtype=np.uint8)


def test_the_pixels_of_a_plain_scan_are_what_was_recorded() -> None:
    scan, map = Scan(PIXELS, "a.png", "a"), np.ones((12, 10), np.float32)
    assert scan.usable_windows((4, 4), 0.5, True) is None and scan.tissue is None
    assert scan.to_original(0, map) is map
    assert scan.original(1) is None and scan.en_face_line(1, map) is None
    assert scan.original_position(1, 2.5, 3) == (1, 2.5, 3)


def test_a_subclass_may_hold_its_tissue_as_a_field() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Masked(Scan):
        tissue: np.ndarray

    masked = Masked(pixels=PIXELS, name="a", group="a", tissue=PIXELS > 100)
    np.testing.assert_array_equal(masked.tissue, PIXELS > 100)
