"""An archive over DICOMweb: QIDO-RS, WADO-RS and STOW-RS, by dicomweb-client."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from fanogan.archive.errors import ArchiveError, Unreachable
from fanogan.archive.opened import CREDENTIALS, Keep, Level, certificates

_BUSY = (408, 429, 502, 503, 504)
_REMEDIES = {
    401: f"it wants to know who asks: set {CREDENTIALS}",
    403: "this user may not do that: ask the archive's administrator",
    404: "it has no such address: check the path, which often ends in /dicom-web",
    413: "the object is too large for it: raise its limit",
}
_UIDS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class WebArchive:
    """An archive at the root of its DICOMweb services."""

    def __init__(self, address: str, timeout: float) -> None:
        """Take who we are from the environment; requests itself looks into ~/.netrc."""
        self.address = address
        for name in ("dicomweb_client", "retrying", "urllib3"):  # they tell UIDs, and tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
        session = requests.Session()
        if token := os.environ.get("FANOGAN_ARCHIVE_TOKEN"):
            session.auth = _Bearer(token)
        elif user := os.environ.get("FANOGAN_ARCHIVE_USER"):
            password = os.environ.get("FANOGAN_ARCHIVE_PASSWORD", "")
            session.auth = (user, password)
        trusted, own, _ = certificates()
        session.cert = own
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(trusted))
        self.client = DICOMwebClient(address, session, permissive_uid=True, timeout=timeout)
        self.client.set_http_retry_params(retry=False)  # `patiently` knows what may be repeated

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Ask by QIDO, page by page until nothing new comes."""
        filters = {key: value for key, value in keys.items() if value}
        fields = [key for key, value in keys.items() if not value]
        client = self.client
        search: Any = {
            "STUDY": client.search_for_studies,
            "SERIES": client.search_for_series,
            "IMAGE": client.search_for_instances,
        }[level]
        path = {}
        if level != "STUDY":
            path["study_instance_uid"] = filters.pop("StudyInstanceUID")
        if level == "IMAGE":
            path["series_instance_uid"] = filters.pop("SeriesInstanceUID")
        found: dict[str, Dataset] = {}
        before = -1
        while before < len(found):  # a server may send few at once, or take no offset
            before = len(found)
            with self._in_words():
                try:
                    page = search(**path, fields=fields, search_filters=filters, offset=before)
                except requests.HTTPError as error:
                    if level == "STUDY" or _status(error) != 404:
                        raise
                    page = []  # no such study or series
                for each in map(Dataset.from_json, page):
                    found[str(each[_UIDS[level]].value)] = each
        return list(found.values())

    def retrieve(
        self, study: str, series: str, instances: Mapping[str, str], keep: Keep
    ) -> list[ArchiveError]:
        """Fetch by WADO, one instance a request, as it is compressed in the archive."""
        failed: list[ArchiveError] = []
        for uid in instances:
            buffer = io.BytesIO()
            try:
                with self._in_words():
                    made = self.client.retrieve_instance(
                        study, series, uid, media_types=(("application/dicom", "*"),)
                    )
                    if made.SOPInstanceUID != uid:
                        raise ValueError
                    made.save_as(buffer, enforce_file_format=True)
            except Unreachable:
                raise
            except ArchiveError as error:
                failed.append(error)
                continue
            keep(uid, buffer.getvalue())
        return failed

    def store(self, path: Path) -> None:
        """Store by STOW."""
        made = dcmread(path)
        with self._in_words():
            answer = self.client.store_instances([made], made.StudyInstanceUID)
        if failed := answer.get("FailedSOPSequence"):
            reason = failed[0].get("FailureReason") or 0
            raise ArchiveError(
                f"{self.address} refused {path} (reason {reason:#06x}): see the archive's log"
            )

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        where = self.address
        try:
            yield
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise Unreachable(
                    f"{where}: no secure connection came about, or it was lost: check whether "
                    "the archive speaks https"
                ) from None
            raise ArchiveError(
                f"{where} has a certificate that nobody here vouches for, or that is of another "
                "host: check that it is your archive, and set FANOGAN_ARCHIVE_CA to the file of "
                "its certificate or of who signed it"
            ) from None
        except requests.HTTPError as error:
            status = _status(error)
            if status in _BUSY:
                raise Unreachable(f"{where} is busy (HTTP {status})") from None
            remedy = _REMEDIES.get(status, "see the archive's log")
            raise ArchiveError(f"{where} refused (HTTP {status}): {remedy}") from None
        except requests.Timeout:
            raise Unreachable(f"{where} took too long to answer") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
            raise ArchiveError(f"{where} is no address: correct it") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            raise Unreachable(
                f"{where} doesn't answer, or broke off: check that it runs, and the address"
            ) from None
        except (ArchiveError, MemoryError):
            raise
        except (InvalidDicomError, OSError, ValueError, LookupError, TypeError, AttributeError):
            # 'from None': what came may quote anything.
            raise ArchiveError(
                f"{where} answered with something that isn't DICOM: check that the path is that of "
                "its DICOMweb services"
            ) from None


def _status(error: requests.HTTPError) -> int:
    return 0 if error.response is None else error.response.status_code


class _Adapter(requests.adapters.HTTPAdapter):
    """Trusts whom it was told to, and leaves wildcards as they are.

    REQUESTS_CA_BUNDLE would replace what a session trusts; some archives don't know an escaped '*'.
    """

    def __init__(self, trusted: str | None) -> None:
        super().__init__()
        self.trusted = trusted

    def send(self, request: Any, *others: Any, **options: Any) -> requests.Response:
        request.url = request.url.replace("%2A", "*")
        if self.trusted:
            options["verify"] = self.trusted
        return super().send(request, *others, **options)


class _Bearer(requests.auth.AuthBase):
    """Sends a token; as a header alone ~/.netrc would replace it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request
