"""data."""

from fanogan.data.normals import Normals, grey_shares, is_retina, single_images
from fanogan.data.patches import HALF, Patches, score_windows, seeded
from fanogan.data.preprocessing import Preprocessing

__all__ = [
    "HALF",
    "Normals",
    "Patches",
    "Preprocessing",
    "grey_shares",
    "is_retina",
    "score_windows",
    "seeded",
    "single_images",
]
