"""calibration."""

from fanogan.calibration.familiarity import Familiar, FamiliarBuilder
from fanogan.calibration.held_out import (
    EN_FACE_QUANTILE,
    MAP_QUANTILE,
    Calibration,
    HeldOut,
    ResidualHistogram,
    TermScale,
    split_subjects,
)

__all__ = [
    "EN_FACE_QUANTILE",
    "MAP_QUANTILE",
    "Calibration",
    "Familiar",
    "FamiliarBuilder",
    "HeldOut",
    "ResidualHistogram",
    "TermScale",
    "split_subjects",
]
