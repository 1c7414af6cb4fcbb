"""Files at a URL, as fsspec knows them: S3, Google Cloud, Azure, HTTP, archives, memory.

A file is copied whole before it is read, and written whole: an object store shows a new object only
when all of it is there. Credentials and endpoints are fsspec's.
"""

from fanogan.remote.copies import copy_of, written_at
from fanogan.remote.files import (
    BadRemote,
    below,
    fetch,
    fetched,
    files_at,
    first_bytes,
    is_file_at,
    is_url,
    model_at,
    named,
    stamp,
)

__all__ = [
    "BadRemote",
    "below",
    "copy_of",
    "fetch",
    "fetched",
    "files_at",
    "first_bytes",
    "is_file_at",
    "is_url",
    "model_at",
    "named",
    "stamp",
    "written_at",
]
