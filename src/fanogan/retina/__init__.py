"""OCT is flattened: where the retina lies in a B-scan, the flat volume, and the way back.

`prepare` keeps flat volumes in a store; a `RetinalView` is what a model takes of them.
"""

from fanogan.retina.figure import steps_figure
from fanogan.retina.flat_volume import FlatVolume, make_flat, straighten
from fanogan.retina.flatten import FlatSpace
from fanogan.retina.intensity import DepthProfile
from fanogan.retina.layers import Boundaries, find_boundaries
from fanogan.retina.pictures import PicturesAs
from fanogan.retina.preparation import Summary, prepare
from fanogan.retina.regions import Region, find_regions, region_masks
from fanogan.retina.shape import SHAPE_RANGE, ShapeNormals
from fanogan.retina.spacing import (
    THICKNESS_MM,
    SpacingEstimated,
    ThicknessUnseen,
    estimated_row,
    median_thickness,
    with_row,
)
from fanogan.retina.store import given_spacing, is_store, read_store, stored_volumes
from fanogan.retina.view import RetinalView
from fanogan.retina.volumes import find_volumes, read_volumes, straightened

__all__ = [
    "SHAPE_RANGE",
    "THICKNESS_MM",
    "Boundaries",
    "DepthProfile",
    "FlatSpace",
    "FlatVolume",
    "PicturesAs",
    "Region",
    "RetinalView",
    "ShapeNormals",
    "SpacingEstimated",
    "Summary",
    "ThicknessUnseen",
    "estimated_row",
    "find_boundaries",
    "find_regions",
    "find_volumes",
    "given_spacing",
    "is_store",
    "make_flat",
    "median_thickness",
    "prepare",
    "read_store",
    "read_volumes",
    "region_masks",
    "steps_figure",
    "stored_volumes",
    "straighten",
    "straightened",
    "with_row",
]
