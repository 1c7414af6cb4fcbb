"""A scan comes in: files are found, named, grouped by subject, and read, whatever their format."""

from fanogan.scans.arrays import is_array_like
from fanogan.scans.find import ScanSource, find_scans
from fanogan.scans.read import read_mask, read_scan, read_scans
from fanogan.scans.scan import BadScan, Scan

__all__ = [
    "BadScan",
    "Scan",
    "ScanSource",
    "find_scans",
    "is_array_like",
    "read_mask",
    "read_scan",
    "read_scans",
]
