"""From scans to what networks see: preprocessing, patches, the training set split by subject."""

from fanogan.data.normals import (
    DuplicateImages,
    FewImages,
    FewSubjects,
    HeldOutDuplicates,
    Normals,
    NoteOfScans,
    VolumesAsImages,
    is_retina,
)
from fanogan.data.patches import Patches, seeded
from fanogan.data.preprocessing import GreyRangeDoubtful, Preprocessing

__all__ = [
    "DuplicateImages",
    "FewImages",
    "FewSubjects",
    "GreyRangeDoubtful",
    "HeldOutDuplicates",
    "Normals",
    "NoteOfScans",
    "Patches",
    "Preprocessing",
    "VolumesAsImages",
    "is_retina",
    "seeded",
]
