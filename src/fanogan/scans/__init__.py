"""A scan comes in: files are found, named, grouped by subject, and read, whatever their format."""

from fanogan.scans.arrays import is_array_like
from fanogan.scans.find import ScanSource, composed, each_scan, find_scans, identity
from fanogan.scans.gather import EXTENSIONS, PICTURES, extension, is_dicom
from fanogan.scans.margins import filled_margins
from fanogan.scans.mask import marked, read_mask
from fanogan.scans.notes import (
    AlphaDropped,
    ConvertedToRGB,
    EmptyFrames,
    FirstFrameOnly,
    FirstVolumeOnly,
    GreyStoredAsColour,
    LabelsBelowWhite,
    MaskInAlpha,
    Note,
    OneBitGrey,
    ReflectivityAsShown,
    SlicesByName,
    SoftMask,
    UndeclaredFrames,
    UnevenBScans,
    UnevenSlices,
    Verbatim,
    WindowLeftOut,
    note_from_json,
    note_to_json,
)
from fanogan.scans.read import good_ones, read_scan, read_scans, scans_of, silence_decoders
from fanogan.scans.scan import (
    UNKNOWN_SPACING,
    Affine,
    BadScan,
    EnFace,
    Scan,
    Spacing,
    empty_frames_note,
)
from fanogan.scans.stack import read_volume, stack_bscans
from fanogan.scans.tiff import is_stack
from fanogan.scans.walk import natural_key

__all__ = [
    "EXTENSIONS",
    "PICTURES",
    "UNKNOWN_SPACING",
    "Affine",
    "AlphaDropped",
    "BadScan",
    "ConvertedToRGB",
    "EmptyFrames",
    "EnFace",
    "FirstFrameOnly",
    "FirstVolumeOnly",
    "GreyStoredAsColour",
    "LabelsBelowWhite",
    "MaskInAlpha",
    "Note",
    "OneBitGrey",
    "ReflectivityAsShown",
    "Scan",
    "ScanSource",
    "SlicesByName",
    "SoftMask",
    "Spacing",
    "UndeclaredFrames",
    "UnevenBScans",
    "UnevenSlices",
    "Verbatim",
    "WindowLeftOut",
    "composed",
    "each_scan",
    "empty_frames_note",
    "extension",
    "filled_margins",
    "find_scans",
    "good_ones",
    "identity",
    "is_array_like",
    "is_dicom",
    "is_stack",
    "marked",
    "natural_key",
    "note_from_json",
    "note_to_json",
    "read_mask",
    "read_scan",
    "read_scans",
    "read_volume",
    "scans_of",
    "silence_decoders",
    "stack_bscans",
]
