"""A scan comes in: files are found, named, grouped by subject, and read, whatever their format."""

from fanogan.scans.arrays import is_array_like
from fanogan.scans.find import ScanSource, each_scan, find_scans
from fanogan.scans.margins import filled_margins
from fanogan.scans.read import read_mask, read_scan, read_scans
from fanogan.scans.scan import BadScan, EnFace, Scan
from fanogan.scans.volume import read_volume

__all__ = [
    "BadScan",
    "EnFace",
    "Scan",
    "ScanSource",
    "each_scan",
    "filled_margins",
    "find_scans",
    "is_array_like",
    "read_mask",
    "read_scan",
    "read_scans",
    "read_volume",
]
