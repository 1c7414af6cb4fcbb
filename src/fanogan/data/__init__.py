"""From scans to what networks see: preprocessing, patches, the training set split by subject."""

from fanogan.data.grey import GreyRangeDoubtful
from fanogan.data.normals import Normals, is_retina
from fanogan.data.notes import (
    DuplicateImages,
    FewHeldOut,
    FewImages,
    FewSubjects,
    HeldOutDuplicates,
    NoteOfScans,
    VolumesAsImages,
)
from fanogan.data.patches import Patches, seeded
from fanogan.data.preprocessing import Preprocessing
from fanogan.data.seen import BLANK, Seen, SeenBefore, short_hashes
from fanogan.data.signal_view import ChannelsNotSeen, SamplingRateUnknown, SignalView

__all__ = [
    "BLANK",
    "ChannelsNotSeen",
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
    "SamplingRateUnknown",
    "Seen",
    "SeenBefore",
    "SignalView",
    "VolumesAsImages",
    "is_retina",
    "seeded",
    "short_hashes",
]
