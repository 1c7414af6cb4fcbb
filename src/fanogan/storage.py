"""Files and model folders are written whole or not at all; one process works in a folder at a time.

What is written has a temporary name until it is complete and synced. Weights are safetensors files,
the rest is JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanogan.errors import FanoganError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray
    from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = 2
LOCK = ".lock"
TEMPORARY = ".fanogan-unfinished-"
"""With what the names of unfinished files and folders begin."""
COPY_AGAIN = "copy the whole folder again from where it was made"


class BadFolder(FanoganError):
    """A run or model folder that is missing, damaged or of another version, in one sentence."""


class BusyFolder(BadFolder):
    """Another process is writing there."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it can't be written; the file that was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # named after the file that a user knows
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")


def remove_unfinished(files: Iterable[Path]) -> None:
    """Remove those files and folders that a killed process has left under temporary names."""
    for path in [path for path in files if path.name.startswith(TEMPORARY)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path, busy_error: Exception) -> Iterator[None]:
    """Hold a lock file for this process, and remove it at the end.

    The system releases the lock when the process is killed. On a file system without locks nothing
    is held.

    Raises:
        Exception: ``busy_error``, where the lock is held already.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise busy_error from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        log.debug("%s: the file system has no locks", path)
    try:
        yield
    finally:
        if sys.platform != "win32":  # there filelock removes it, since no open file can be
            path.unlink(missing_ok=True)  # before the release: afterwards it may be another's
        lock.release()


# --- arrays too large for memory ------------------------------------------------------------------

IN_MEMORY = 1 << 28
"""Bytes of an array from which on it lies in a temporary file."""


def room(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros: in memory, or if it is large in a temporary file that is mapped.

    The system keeps of the file what memory has room for. It lies where ``TMPDIR`` says, and is
    gone with the array.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize < IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix=TEMPORARY) as file:
        return np.memmap(file, dtype, "w+", shape=tuple(shape))


# --- model folder -------------------------------------------------------------------------------


def weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return weights as the content of ``model.safetensors``."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def write_model_folder(
    folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any], card: str
) -> None:
    """Write a model folder: ``model.safetensors``, ``model.json`` and ``card.md``.

    Raises:
        BadFolder: something that isn't a model lies there.
        OSError: it can't be written; a model that was there before is untouched.
    """
    folder = Path(folder)
    if folder.is_file():
        raise BadFolder(f"{folder}: is a file, give the path of a folder for the model")
    is_model = (folder / "model.json").exists() or (folder / "model.safetensors").exists()
    if folder.is_dir() and any(folder.iterdir()) and not is_model:
        raise BadFolder(f"{folder}: holds other files, give a new folder for the model")
    folder = folder.resolve()  # a link stays a link
    weights = weights_bytes(tensors)
    body = {"format": FORMAT, **values, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    temporary = _temporary(folder)
    try:
        write_whole(temporary / "model.safetensors", weights)
        write_whole(temporary / "model.json", _with_checksum(body).encode())
        write_whole(temporary / "card.md", card.encode(errors="backslashreplace"))
        put_in_place(temporary, folder)
    finally:
        # By now this is the model that was replaced, or what couldn't be written.
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a folder. Where one lies already they change places, on Linux in a single step."""
    if not folder.exists():
        os.replace(temporary, folder)
    elif not _exchanged(temporary, folder):
        # A process that is killed between these two steps leaves nothing at the path.
        replaced = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
        os.replace(folder, replaced)
        try:
            os.replace(temporary, folder)
        except BaseException:
            os.replace(replaced, folder)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in a single step, which Python's library doesn't offer; False: can't."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _with_checksum(body: Mapping[str, Any]) -> str:
    """Return the text of ``model.json``, which holds its own checksum."""
    plain = {key: value for key, value in body.items() if key != "checksum"}
    checksum = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return json.dumps({**plain, "checksum": checksum}, indent=1, sort_keys=True, allow_nan=False)


def model_folder(path: str | Path) -> Path:
    """Return the model folder at ``path``, which may also be the run folder that holds it.

    Raises:
        BadFolder: there is none.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "model.json").exists():
            return folder
    if path.is_file():
        raise BadFolder(f"{path}: is a file, not a model folder (a run's folder holds `model`)")
    for folder in (path, path / "model"):
        if (folder / "model.safetensors").exists():
            raise BadFolder(f"{folder}: damaged, model.json is missing; {COPY_AGAIN}")
    if (path / "config.yaml").exists():
        raise BadFolder(
            f"{path}: this run has no model yet; finish it with `fanogan fit --resume {path}`"
        )
    raise BadFolder(f"{path}: no model here; `fanogan fit NORMALS --out RUN` makes one")


def read_model_folder(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and values of a model folder, checked against its checksums.

    Raises:
        BadFolder: missing, damaged, or written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = model_folder(path)
    try:
        text = (folder / "model.json").read_text(encoding="utf-8")
        body = json.loads(text)
        version = body["format"]
        is_whole = text == _with_checksum(body)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadFolder(f"{folder}: damaged, model.json can't be read; {COPY_AGAIN}") from None
    if isinstance(version, int) and version > FORMAT:
        raise BadFolder(
            f"{folder}: in model format {version}, this version reads formats up to {FORMAT}; "
            f"update to fanogan {body.get('fanogan', 'of the machine that made it')} or newer"
        )
    if not is_whole:
        raise BadFolder(
            f"{folder}: damaged, model.json has changed since it was made; {COPY_AGAIN}"
        )
    try:
        weights = (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise BadFolder(
            f"{folder}: model.safetensors can't be read ({error.strerror}); {COPY_AGAIN}"
        ) from None
    if hashlib.sha256(weights).hexdigest() != body.get("weights_sha256"):
        raise BadFolder(
            f"{folder}: damaged, model.safetensors has changed since it was made; {COPY_AGAIN}"
        )
    try:
        return load(weights), body
    except SafetensorError as error:
        raise BadFolder(
            f"{folder}: model.safetensors holds no tensors ({error}); {COPY_AGAIN}"
        ) from None
