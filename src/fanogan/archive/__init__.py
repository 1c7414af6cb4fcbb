"""An image archive (PACS): fetching scans, sending results back, and study codes for patients."""

from fanogan.archive.codes import Codes
from fanogan.archive.errors import ArchiveError
from fanogan.archive.fetching import Chosen, Fetched, Series, fetch, listed
from fanogan.archive.opened import open_archive
from fanogan.archive.sending import Sent, objects_in, send

__all__ = [
    "ArchiveError",
    "Chosen",
    "Codes",
    "Fetched",
    "Sent",
    "Series",
    "fetch",
    "listed",
    "objects_in",
    "open_archive",
    "send",
]
