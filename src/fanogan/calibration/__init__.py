"""What held-out normals say: p-values, thresholds, colour scales; what normals looked like."""

from fanogan.calibration.held_out import (
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    UNCALIBRATED,
    Calibration,
    HeldOut,
    ResidualHistogram,
    TermScale,
    counted,
    plural,
    split_subjects,
)
from fanogan.calibration.profile import Profile, ProfileBuilder

__all__ = [
    "EN_FACE_QUANTILE",
    "MAP_QUANTILE",
    "UNCALIBRATED",
    "Calibration",
    "HeldOut",
    "Profile",
    "ProfileBuilder",
    "ResidualHistogram",
    "TermScale",
    "counted",
    "plural",
    "split_subjects",
]
