"""A scan comes in: files are found, named, grouped by subject, and read, whatever their format."""

from fanogan.scans.arrays import is_array_like
from fanogan.scans.checks import BadScan, NoneUsable, limit_pixels
from fanogan.scans.dicom_source import DicomSource, check_source, read_source
from fanogan.scans.find import composed, each_scan, find_scans
from fanogan.scans.gather import EXTENSIONS, PICTURES, extension, is_dicom
from fanogan.scans.lists import FileList, Shard, Sharded
from fanogan.scans.margins import filled_margins
from fanogan.scans.mask import marked, read_mask
from fanogan.scans.nifti import as_nifti
from fanogan.scans.notes import (
    AlphaDropped,
    ColouredMarks,
    ColourMapUndone,
    ConvertedToRGB,
    EmptyFrames,
    FirstFrameOnly,
    FirstVolumeOnly,
    GreyStoredAsColour,
    LabelsBelowWhite,
    MaskInAlpha,
    Note,
    OneBitGrey,
    PerhapsSideBySide,
    ReflectivityAsShown,
    SlicesByName,
    SoftMask,
    TintedGrey,
    UndeclaredFrames,
    UnevenBScans,
    UnevenSlices,
    Verbatim,
    WhiteMarks,
    WindowLeftOut,
    note_from_json,
    note_to_json,
)
from fanogan.scans.pixels import empty_frames_note
from fanogan.scans.read import (
    format_of,
    good_ones,
    on_this_machine,
    read_scan,
    read_scans,
    scans_of,
    silence_decoders,
)
from fanogan.scans.scan import UNKNOWN_SPACING, Affine, EnFace, Scan, Spacing
from fanogan.scans.signals import SIGNAL_EXTENSIONS, Signal
from fanogan.scans.source import Kind, ScanSource, identity, keep_sources, kept_sources
from fanogan.scans.stack import read_volume, stack_bscans
from fanogan.scans.tiff import is_stack
from fanogan.scans.walk import natural_key

__all__ = [
    "EXTENSIONS",
    "PICTURES",
    "SIGNAL_EXTENSIONS",
    "UNKNOWN_SPACING",
    "Affine",
    "AlphaDropped",
    "BadScan",
    "ColourMapUndone",
    "ColouredMarks",
    "ConvertedToRGB",
    "DicomSource",
    "EmptyFrames",
    "EnFace",
    "FileList",
    "FirstFrameOnly",
    "FirstVolumeOnly",
    "GreyStoredAsColour",
    "Kind",
    "LabelsBelowWhite",
    "MaskInAlpha",
    "NoneUsable",
    "Note",
    "OneBitGrey",
    "PerhapsSideBySide",
    "ReflectivityAsShown",
    "Scan",
    "ScanSource",
    "Shard",
    "Sharded",
    "Signal",
    "SlicesByName",
    "SoftMask",
    "Spacing",
    "TintedGrey",
    "UndeclaredFrames",
    "UnevenBScans",
    "UnevenSlices",
    "Verbatim",
    "WhiteMarks",
    "WindowLeftOut",
    "as_nifti",
    "check_source",
    "composed",
    "each_scan",
    "empty_frames_note",
    "extension",
    "filled_margins",
    "find_scans",
    "format_of",
    "good_ones",
    "identity",
    "is_array_like",
    "is_dicom",
    "is_stack",
    "keep_sources",
    "kept_sources",
    "limit_pixels",
    "marked",
    "natural_key",
    "note_from_json",
    "note_to_json",
    "on_this_machine",
    "read_mask",
    "read_scan",
    "read_scans",
    "read_source",
    "read_volume",
    "scans_of",
    "silence_decoders",
    "stack_bscans",
]
