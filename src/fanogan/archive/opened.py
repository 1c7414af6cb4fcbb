"""One form of address for all archives, and what each of them can do."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

from fanogan.archive.errors import ArchiveError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Level = Literal["STUDY", "SERIES", "IMAGE"]
Keep = Callable[[str, bytes], None]
"""Takes the UID of an instance and the content of its file."""

FORMS = (
    "give https://HOST/PATH for DICOMweb, such as https://pacs.example.org/dicom-web, or "
    "dimse://TITLE@HOST:PORT (with TLS dimses://) with the archive's AE title"
)
CREDENTIALS = (
    "FANOGAN_ARCHIVE_USER and FANOGAN_ARCHIVE_PASSWORD, FANOGAN_ARCHIVE_TOKEN, or ~/.netrc"
)


class Archive(Protocol):
    """What DICOMweb and DIMSE have in common. Only `Unreachable` is worth another try."""

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Return what matches the keys that have a value; those without one are returned too."""

    def retrieve(
        self, study: str, series: str, instances: Mapping[str, str], keep: Keep
    ) -> list[ArchiveError]:
        """Give the instances of a series, UID to SOP class, to `keep`; return what failed."""

    def store(self, path: Path) -> None:
        """Store an object. After `Unreachable` nobody knows whether the archive has it."""


def open_archive(address: str, title: str, listen: int | None, timeout: float) -> Archive:
    """Return the archive at an address, which is not asked yet.

    Args:
        address: as `FORMS` says.
        title: our own AE title.
        listen: the port at which instances are received by C-MOVE; by C-GET where None.
        timeout: how many seconds an answer may take.

    Raises:
        ArchiveError: no such address, or what is needed for it isn't installed.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ArchiveError(f"{address} is no address of an archive: {FORMS}") from None
    if parts.password is not None or (parts.scheme in ("http", "https") and parts.username):
        raise ArchiveError(
            "an address with a password ends up in the shell's history and in the list of "
            f"processes: leave it out, and set {CREDENTIALS}"
        )
    ours = (title, *([parts.username] if parts.username else []))
    if any(not 1 <= len(each.strip()) <= 16 or not each.isascii() for each in ours):
        raise ArchiveError("an AE title has 1 to 16 plain letters: see the archive's settings")
    try:
        if parts.scheme in ("http", "https") and parts.hostname:
            if listen is not None:
                raise ArchiveError("--listen is for dimse:// alone: leave it out")
            from fanogan.archive.web import WebArchive

            return WebArchive(address.rstrip("/"), timeout)
        if parts.scheme in ("dimse", "dimses") and parts.hostname and parts.username:
            is_safe = parts.scheme == "dimses"
            if is_safe and listen is not None:
                raise ArchiveError(
                    "--listen receives without TLS, on a connection of its own: leave it out, and "
                    "C-GET is used"
                )
            from fanogan.archive.dimse import DimseArchive

            where = (parts.hostname, port or (2762 if is_safe else 104))
            return DimseArchive(where, parts.username, title, listen, timeout, tls=is_safe)
    except ImportError:
        raise ArchiveError("an archive needs an extra: pip install 'fanogan[archive]'") from None
    raise ArchiveError(f"{address} is no address of an archive: {FORMS}")


def certificates() -> tuple[str | None, str | None, ssl.SSLContext]:
    """Return the file of who is trusted, that of our own certificate with its key, and both in one.

    Raises:
        ArchiveError: one of them can't be read.
    """
    names = ("FANOGAN_ARCHIVE_CA", "FANOGAN_ARCHIVE_CERTIFICATE")
    trusted, own = (os.environ.get(name) or None for name in names)
    try:
        name = names[0]
        context = ssl.create_default_context(cafile=trusted)
        name = names[1]
        if own:
            context.load_cert_chain(own)
    except OSError:
        path = os.environ.get(name)
        raise ArchiveError(f"{name} is {path}, and no such file of PEM is there") from None
    return trusted, own, context
