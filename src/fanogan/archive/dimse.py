"""An archive over DICOM's own network protocol, by pynetdicom: C-FIND, C-GET, C-MOVE, C-STORE."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pynetdicom import (
    AE,
    ALL_TRANSFER_SYNTAXES,
    AllStoragePresentationContexts,
    build_context,
    build_role,
    evt,
)
from pynetdicom.association import Association

from fanogan.archive.errors import ArchiveError, Unreachable
from fanogan.archive.opened import Keep, Level, certificates

_FIND = uid.UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = uid.UID("1.2.840.10008.5.1.4.1.2.2.2")
_GET = uid.UID("1.2.840.10008.5.1.4.1.2.2.3")
_SYNTAXES = [
    *(uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000),
]
"""A context each, so that the archive sends a file as it lies there."""
_USUAL = [
    *(uid.OphthalmicTomographyImageStorage, uid.OphthalmicPhotography8BitImageStorage),
    *(uid.OphthalmicPhotography16BitImageStorage, uid.SecondaryCaptureImageStorage),
    *(uid.CTImageStorage, uid.MRImageStorage, uid.EnhancedMRImageStorage),
    *(uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation),
    *(uid.UltrasoundImageStorage, uid.VLPhotographicImageStorage),
]
"""What is asked for where an archive doesn't tell a class; with all syntaxes, below 128."""
_TOGETHER = 50
"""Instances of one request: a list of UIDs has to stay short."""
_RESOURCES = range(0xA700, 0xA800)
_DUPLICATE = 0x0111


class DimseArchive:
    """An archive that a host's AE title names."""

    def __init__(
        self,
        where: tuple[str, int],
        theirs: str,
        ours: str,
        listen: int | None,
        timeout: float,
        *,
        tls: bool,
    ) -> None:
        """Take the address; nothing is asked yet."""
        self.where, self.theirs, self.ours, self.listen = where, theirs, ours, listen
        self.name = f"{theirs}@{where[0]}:{where[1]}"
        self.timeout, self.context = timeout, certificates()[2] if tls else None
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it quotes what is sent

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Ask by C-FIND."""
        asked = Dataset()
        asked.QueryRetrieveLevel = level
        if not "".join(keys.values()).isascii():
            asked.SpecificCharacterSet = "ISO_IR 192"
        for key, value in keys.items():
            setattr(asked, key, value)
        found = []
        with self._associated([build_context(_FIND)]) as association:
            for answer, each in association.send_c_find(asked, _FIND):
                if each is not None:
                    found.append(each)
                self._check(answer, "C-FIND")
        return found

    def retrieve(
        self, study: str, series: str, instances: Mapping[str, str], keep: Keep
    ) -> list[ArchiveError]:
        """Fetch by C-GET on the same connection, or by C-MOVE where we listen."""
        troubles: list[Exception] = []

        def on_store(event: Any) -> int:
            number = str(event.request.AffectedSOPInstanceUID)
            if number not in instances:  # whoever finds our port
                return 0xC000
            try:
                keep(number, event.encoded_dataset())
            except Exception as error:  # pynetdicom would only log it
                troubles.append(error)
                return 0xA700
            return 0

        failed: list[ArchiveError] = []
        handlers: list[Any] = [(evt.EVT_C_STORE, on_store)]
        classes = defaultdict(list)
        for number, sop_class in instances.items():
            classes["" if self.listen else sop_class].append(number)
        for sop_class, numbers in classes.items():
            for first in range(0, len(numbers), _TOGETHER):
                asked = Dataset()
                asked.QueryRetrieveLevel = "IMAGE"
                asked.StudyInstanceUID, asked.SeriesInstanceUID = study, series
                asked.SOPInstanceUID = numbers[first : first + _TOGETHER]
                try:
                    if self.listen:
                        self._move(asked, self.listen, handlers)
                    else:
                        self._get(asked, [sop_class] if sop_class else _USUAL, handlers)
                except Unreachable:
                    raise
                except ArchiveError as error:
                    failed.append(error)
                if troubles:
                    raise troubles[0]
        return failed

    def _get(self, asked: Dataset, classes: list[Any], handlers: list[Any]) -> None:
        contexts = [build_context(each, syntax) for each in classes for syntax in _SYNTAXES]
        roles = [build_role(each, scp_role=True) for each in classes]
        with self._associated(
            [build_context(_GET), *contexts], ext_neg=roles, evt_handlers=handlers
        ) as association:
            for answer, _ in association.send_c_get(asked, _GET):
                self._check(answer, "C-GET")

    def _move(self, asked: Dataset, port: int, handlers: list[Any]) -> None:
        receiver = AE(self.ours)
        for context in AllStoragePresentationContexts:
            receiver.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
        try:
            receiver.start_server(("", port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ArchiveError(
                f"--listen {port}: nothing can be received at this port "
                f"({error.strerror}): give another, which the archive knows"
            ) from None
        try:
            with self._associated([build_context(_MOVE)]) as association:
                for answer, _ in association.send_c_move(asked, self.ours, _MOVE):
                    if answer and answer.Status == 0xA801:
                        raise ArchiveError(
                            f"{self.name} doesn't know where {self.ours} is: have this AE title, "
                            "this machine's address and the port of --listen registered there, or "
                            "leave out --listen"
                        )
                    self._check(answer, "C-MOVE")
        finally:
            receiver.shutdown()

    def store(self, path: Path) -> None:
        """Store by C-STORE."""
        made = dcmread(path)
        context = build_context(made.SOPClassUID, made.file_meta.TransferSyntaxUID)
        with self._associated([context]) as association:
            answer = association.send_c_store(made)
            if not answer or answer.Status != _DUPLICATE:
                self._check(answer, f"C-STORE of {path}")

    def _check(self, answer: Any, what: str) -> None:
        """Go on with a success, a pending answer or a warning."""
        if not answer:
            raise Unreachable(
                f"{self.name} broke off, or took too long to answer: check that it runs, and that "
                f"it knows us as {self.ours} (--aet)"
            )
        status = int(answer.Status)
        if status in _RESOURCES:
            raise Unreachable(f"{self.name} is busy, or has no room (status {status:#06x})")
        if status not in (0, 1, 0xFF00, 0xFF01) and not 0xB000 <= status < 0xC000:
            raise ArchiveError(
                f"{self.name} refused {what} (status {status:#06x}): see the archive's log, "
                f"whether {self.ours} may do that there, and whether it knows the port of --listen"
            )

    @contextlib.contextmanager
    def _associated(self, contexts: list[Any], **options: Any) -> Iterator[Association]:
        """Give an association in which all contexts of a service are accepted."""
        unit = AE(self.ours)
        unit.acse_timeout = unit.dimse_timeout = self.timeout
        unit.network_timeout = unit.connection_timeout = self.timeout
        reached: list[Any] = []
        options.setdefault("evt_handlers", [])
        options["evt_handlers"] = [*options["evt_handlers"], (evt.EVT_CONN_OPEN, reached.append)]
        association = unit.associate(
            *self.where,
            contexts,
            ae_title=self.theirs,
            tls_args=(self.context, self.where[0]) if self.context else None,
            **options,
        )
        try:
            if association.is_rejected:
                answer: Any = association.acceptor.primitive
                if answer.result == 2:
                    raise Unreachable(f"{self.name} takes no association now: it is busy")
                raise ArchiveError(
                    f"{self.name} refuses {self.ours} ({answer.reason_str.lower()}): check the AE "
                    "title in the address, and have ours (--aet) registered there"
                )
            if not association.is_established and not association.rejected_contexts:
                why = "nothing answers there" if not reached else "it broke off"
                tls = ", or its certificate isn't trusted (FANOGAN_ARCHIVE_CA)"
                raise Unreachable(
                    f"no association with {self.name}: {why}{tls if self.context else ''}: check "
                    "host and port, and that the archive runs"
                )
            accepted = {each.abstract_syntax for each in association.accepted_contexts}
            if contexts[0].abstract_syntax not in accepted:
                what = uid.UID(str(contexts[0].abstract_syntax)).name
                raise ArchiveError(
                    f"{self.name} takes no {what} from {self.ours}: have it allowed there, or use "
                    "another way (DICOMweb, or --listen for C-MOVE)"
                )
            yield association
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()
