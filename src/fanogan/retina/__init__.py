"""OCT is straightened: where the retina lies in a B-scan, column by column."""

from fanogan.retina.layers import Boundaries, find_boundaries

__all__ = ["Boundaries", "find_boundaries"]
