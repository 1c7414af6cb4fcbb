"""OCT is straightened: where the retina lies in a B-scan, made flat, and the way back."""

from fanogan.retina.flat_volume import FlatSpace, FlatVolume, make_flat, straighten
from fanogan.retina.intensity import DepthProfile
from fanogan.retina.layers import Boundaries, find_boundaries
from fanogan.retina.prepare import Summary, prepare
from fanogan.retina.regions import Region, find_regions
from fanogan.retina.steps_figure import steps_figure
from fanogan.retina.store import is_store, read_store
from fanogan.retina.volumes import find_volumes, read_volumes, straightened

__all__ = [
    "Boundaries",
    "DepthProfile",
    "FlatSpace",
    "FlatVolume",
    "Region",
    "Summary",
    "find_boundaries",
    "find_regions",
    "find_volumes",
    "is_store",
    "make_flat",
    "prepare",
    "read_store",
    "read_volumes",
    "steps_figure",
    "straighten",
    "straightened",
]
