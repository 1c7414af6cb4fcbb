"""What held-out normals say: p-values, thresholds, colour scales; what normals looked like."""

from fanogan.calibration.combination import Combination
from fanogan.calibration.held_out import (
    ALPHA,
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    UNCALIBRATED,
    Calibration,
    HeldOut,
    TermScale,
    held_out_needed,
    split_subjects,
)
from fanogan.calibration.histogram import ResidualHistogram
from fanogan.calibration.profile import (
    BitDepthUnseen,
    ChannelsUnseen,
    GreyRangeUnseen,
    GreyValuesUnseen,
    Profile,
    ProfileBuilder,
    SizeUnseen,
    SpacingUnseen,
)
from fanogan.calibration.statistics import Statistics, plain_statistics

__all__ = [
    "ALPHA",
    "EN_FACE_QUANTILE",
    "MAP_QUANTILE",
    "UNCALIBRATED",
    "BitDepthUnseen",
    "Calibration",
    "ChannelsUnseen",
    "Combination",
    "GreyRangeUnseen",
    "GreyValuesUnseen",
    "HeldOut",
    "Profile",
    "ProfileBuilder",
    "ResidualHistogram",
    "SizeUnseen",
    "SpacingUnseen",
    "Statistics",
    "TermScale",
    "held_out_needed",
    "plain_statistics",
    "split_subjects",
]
