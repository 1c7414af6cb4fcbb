"""OCT is straightened: where the retina lies in a B-scan, made flat, and the way back."""

from fanogan.retina.layers import Boundaries, find_boundaries
from fanogan.retina.volume import FlatSpace, FlatVolume, make_flat, straighten

__all__ = [
    "Boundaries",
    "FlatSpace",
    "FlatVolume",
    "find_boundaries",
    "make_flat",
    "straighten",
]
