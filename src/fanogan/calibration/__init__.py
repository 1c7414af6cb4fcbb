"""What held-out normals say: p-values, thresholds, colour scales; what normals looked like."""

from fanogan.calibration.combination import Combination
from fanogan.calibration.drift import (
    ALPHA_DRIFT,
    LEAST,
    MEASURES,
    DriftRecord,
    Period,
    Reference,
    Shift,
    Tally,
    grey_measures,
    periods,
    resolution,
)
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
    "ALPHA_DRIFT",
    "EN_FACE_QUANTILE",
    "LEAST",
    "MAP_QUANTILE",
    "MEASURES",
    "UNCALIBRATED",
    "BitDepthUnseen",
    "Calibration",
    "ChannelsUnseen",
    "Combination",
    "DriftRecord",
    "GreyRangeUnseen",
    "GreyValuesUnseen",
    "HeldOut",
    "Period",
    "Profile",
    "ProfileBuilder",
    "Reference",
    "ResidualHistogram",
    "Shift",
    "SizeUnseen",
    "SpacingUnseen",
    "Statistics",
    "Tally",
    "TermScale",
    "grey_measures",
    "held_out_needed",
    "periods",
    "plain_statistics",
    "resolution",
    "split_subjects",
]
