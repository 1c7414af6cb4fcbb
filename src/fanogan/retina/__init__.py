"""OCT is straightened: where the retina lies in a B-scan, made flat, and the way back."""

from fanogan.retina.layers import Boundaries, find_boundaries
from fanogan.retina.prepare import Summary, prepare
from fanogan.retina.read import read_volumes
from fanogan.retina.store import is_store, read_store
from fanogan.retina.volume import FlatSpace, FlatVolume, make_flat, straighten

__all__ = [
    "Boundaries",
    "FlatSpace",
    "FlatVolume",
    "Summary",
    "find_boundaries",
    "is_store",
    "make_flat",
    "prepare",
    "read_store",
    "read_volumes",
    "straighten",
]
