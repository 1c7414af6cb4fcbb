"""From scans to what networks see: preprocessing, patches, the training set split by subject."""

from fanogan.data.normals import Normals, is_retina
from fanogan.data.patches import Patches, seeded
from fanogan.data.preprocessing import Preprocessing

__all__ = ["Normals", "Patches", "Preprocessing", "is_retina", "seeded"]
