"""From scans to what networks see: preprocessing, patches, the training set split by subject."""

from fanogan.data.normals import (
    DuplicateImages,
    FewHeldOut,
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
from fanogan.data.seen import BLANK, Seen, SeenBefore, short_hashes

__all__ = [
    "BLANK",
    "DuplicateImages",
    "FewHeldOut",
    "FewImages",
    "FewSubjects",
    "GreyRangeDoubtful",
    "HeldOutDuplicates",
    "Normals",
    "NoteOfScans",
    "Patches",
    "Preprocessing",
    "Seen",
    "SeenBefore",
    "VolumesAsImages",
    "is_retina",
    "seeded",
    "short_hashes",
]
