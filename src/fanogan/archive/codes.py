"""Study codes for patients, and numbers in place of UIDs: always the same, and never guessed.

The file is a table of who is who, with a secret in its first line. It grows at its end alone, under
a lock, and a line that a killed process has left unfinished is cut off.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from filelock import FileLock

from fanogan.archive.errors import ArchiveError
from fanogan.text import as_cell, of_cell

_LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # no two of them look alike
_HEADER = "patient_id,code,secret:"


class Codes:
    """The table of codes in one file, which is made where it is missing."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            ArchiveError: others can read it, or it is something else.
            OSError: it can't be written.
        """
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", mode=0o600)
        self._codes: dict[str, str] = {}
        self._read = 0
        self._secret = b""
        with self._lock:
            if path.exists() and path.stat().st_mode & 0o077:
                raise ArchiveError(
                    f"{path} tells who is who, and others can read it: chmod 600 {path}"
                )
            self._take_in()
            if not self._secret:
                self._append(f"{_HEADER}{secrets.token_hex(32)}\n")
                self._take_in()

    def code_of(self, patient: str) -> str:
        """Return the code of a patient's id, a new one where it has none."""
        patient = patient.strip()
        if patient not in self._codes:
            with self._lock:
                self._take_in()
                if patient not in self._codes:
                    taken = set(self._codes.values())
                    code = ""
                    while not code or code in taken:
                        code = "P" + "".join(secrets.choice(_LETTERS) for _ in range(7))
                    quoted = as_cell(patient).replace('"', '""')
                    self._append(f'"{quoted}",{code}\n')
                    self._take_in()
        return self._codes[patient]

    def digest(self, *what: str) -> str:
        """Return a number for a text, as 64 hexadecimal digits."""
        return hmac.new(self._secret, "\0".join(what).encode(), hashlib.sha256).hexdigest()

    def uid_of(self, uid: str) -> str:
        """Return the UID in place of another."""
        return f"2.25.{int(self.digest('uid', uid)[:32], 16)}"

    def _take_in(self) -> None:
        """Read what has been added, by whomever."""
        if not self.path.exists():
            return
        strange = ArchiveError(
            f"{self.path} is no file of codes, or was changed: give another, or restore it"
        )
        with self.path.open("r+b") as file:
            file.seek(self._read)
            data = file.read()
            begun = _HEADER.encode()[: len(data)]
            if not self._secret and not data.startswith(begun):
                raise strange
            whole, newline, rest = data.rpartition(b"\n")
            if rest:  # of a process that was killed
                file.truncate(self._read + len(whole) + len(newline))
        try:
            lines = whole.decode().splitlines()
            if lines and not self._secret:
                self._secret = bytes.fromhex(lines.pop(0).removeprefix(_HEADER))
            for patient, code in csv.reader(lines):
                self._codes[of_cell(patient)] = code
        except (ValueError, csv.Error):
            raise strange from None
        self._read += len(whole) + len(newline)

    def _append(self, text: str) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
