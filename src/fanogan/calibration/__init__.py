"""What held-out normals say: p-values, thresholds, colour scales; what normals looked like."""

from fanogan.calibration.held_out import (
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    UNCALIBRATED,
    Calibration,
    HeldOut,
    ResidualHistogram,
    TermScale,
    split_subjects,
)
from fanogan.calibration.profile import (
    BitDepthUnseen,
    ChannelsUnseen,
    GreyValuesUnseen,
    Profile,
    ProfileBuilder,
    SizeUnseen,
    SpacingUnseen,
)

__all__ = [
    "EN_FACE_QUANTILE",
    "MAP_QUANTILE",
    "UNCALIBRATED",
    "BitDepthUnseen",
    "Calibration",
    "ChannelsUnseen",
    "GreyValuesUnseen",
    "HeldOut",
    "Profile",
    "ProfileBuilder",
    "ResidualHistogram",
    "SizeUnseen",
    "SpacingUnseen",
    "TermScale",
    "split_subjects",
]
