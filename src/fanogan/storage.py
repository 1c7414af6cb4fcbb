"""What is written to disk: the run folder (while it learns) and the model folder (what it learnt).

Everything is written whole or not at all: under a temporary name, synced, then renamed. Weights
and checkpoints are safetensors files, the rest is JSON and YAML: nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from fanogan.errors import FanoganError

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

    State = Mapping[str, nn.Module | optim.Optimizer]

FORMAT = 2
LOCK = ".lock"
COPY_AGAIN = "copy the whole folder again from where it was made"


class BadFolder(FanoganError):
    """A run or model folder that is missing, damaged or of another version, in one sentence."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it can't be written; the file that was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):  # named after the file that a user knows
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def alone(path: Path, busy: Exception) -> Iterator[None]:
    """Hold a file of its own for this process alone, and remove it at the end.

    The system lets go of it when the process is killed. It is opened for writing, since NFS locks
    no other; where a file system has no locks at all, nothing is held.

    Raises:
        Exception: ``busy``, where another process holds it.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            log.debug("%s: the file system has no locks", path)
        try:
            is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            is_ours = False
        if not is_ours:  # whoever held it has removed it this moment
            raise busy
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- model folder -------------------------------------------------------------------------------


def write_model_folder(
    folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any], card: str
) -> None:
    """Write a model folder: ``model.safetensors``, ``model.json`` and ``card.md``.

    Raises:
        BadFolder: something that isn't a model lies there.
        OSError: it can't be written; a model that was there before is untouched.
    """
    from safetensors.torch import save

    folder = Path(folder)
    _refuse_to_replace(folder)
    folder = folder.resolve()  # a link stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    body = {"format": FORMAT, **values, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    body["checksum"] = _checksum(body)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_whole(temporary / "model.safetensors", weights)
        write_whole(temporary / "model.json", _text(body).encode())
        write_whole(temporary / "card.md", card.encode())
        temporary.chmod(0o777 & ~_umask())
        _put_in_place(temporary, folder)
    finally:
        # By now what lies there is the model that was replaced, or what couldn't be written.
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_to_replace(folder: Path) -> None:
    if folder.is_file():
        raise BadFolder(f"{folder}: is a file, give the path of a folder for the model")
    is_model = (folder / "model.json").exists() or (folder / "model.safetensors").exists()
    if folder.is_dir() and any(folder.iterdir()) and not is_model:
        raise BadFolder(f"{folder}: holds other files, give a new folder for the model")


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a folder; where one lies already they change places, on Linux in a single step."""
    if not folder.exists():
        os.replace(temporary, folder)
    elif not _exchanged(temporary, folder):
        _replaced_in_two_steps(temporary, folder)


def _replaced_in_two_steps(temporary: Path, folder: Path) -> None:
    replaced = temporary.with_name(f"{temporary.name}.old")
    os.replace(folder, replaced)
    try:
        os.replace(temporary, folder)
    except BaseException:
        os.replace(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two paths change places at once, which Python's library doesn't offer; False: can't."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _text(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False)


def _checksum(body: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in body.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def model_folder(path: str | Path) -> Path:
    """The model folder at ``path``, which may also be the run folder that holds it.

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
    """The tensors and facts of a model folder, checked against its checksums.

    Raises:
        BadFolder: missing, damaged, or written by a newer version.
    """
    from safetensors.torch import load

    folder = model_folder(path)
    try:
        text = (folder / "model.json").read_text(encoding="utf-8")
        body = json.loads(text)
        version, checksum = body["format"], body["checksum"]
        # The text too: another digit of a number may be lost in reading it.
        is_whole = checksum == _checksum(body) and text == _text(body)
    except (OSError, ValueError, KeyError, TypeError):
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
    return load(weights), body


# --- run folder ---------------------------------------------------------------------------------


class RunFolder:
    """Where a run keeps its settings, metrics, sample pictures and checkpoints."""

    def __init__(self, path: str | Path, *, resume: bool = False):
        """Open ``path`` for a new run, or for the run that it holds.

        Raises:
            BadFolder: a new run where one lies already, or nothing to resume.
        """
        self.path = Path(path)
        exists = (self.path / "config.yaml").exists()
        if self.path.exists() and not self.path.is_dir():
            raise BadFolder(f"{self.path}: is a file; give --out a folder")
        if resume and not exists:
            raise BadFolder(f"{self.path}: no run here to resume (it has no config.yaml)")
        if (self.path / "model").exists() and not exists:
            raise BadFolder(f"{self.path}: holds a `model` already; give --out another folder")
        if exists and not resume:
            raise BadFolder(
                f"{self.path}: holds a run already; go on with `fanogan fit --resume {self.path}`, "
                "or give --out another folder"
            )

    @property
    def config(self) -> dict[str, Any]:
        """Every setting of the run.

        Raises:
            BadFolder: ``config.yaml`` is damaged.
        """
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            config = None
        if not isinstance(config, dict):
            raise BadFolder(f"{self.path / 'config.yaml'}: damaged, it can't be read")
        return config

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the settings; the run exists from here on."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_whole(self.path / "config.yaml", text.encode())

    def save_checkpoint(self, stage: str, step: int, state: State) -> None:
        """Write all that an exact resume needs: networks, optimisers, and the step reached.

        Random numbers are a function of seed, stage and step, so the step is their state too.
        """
        from safetensors.torch import save

        tensors = _flatten(state)
        metadata = {"step": str(step), "sha256": _digest(step, tensors)}
        data = save(tensors, metadata=metadata)
        write_whole(self.path / "checkpoints" / f"{stage}.safetensors", data)

    def load_checkpoint(self, stage: str, state: State) -> int:
        """Put the last checkpoint of a stage into ``state``; returns its step, 0 if there is none.

        Raises:
            BadFolder: the checkpoint is damaged or of other networks.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / "checkpoints" / f"{stage}.safetensors"
        if not path.exists():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            step = int(metadata["step"])
            if metadata["sha256"] != _digest(step, tensors):
                raise ValueError("its checksum is another")
            _unflatten(tensors, state)
        except (SafetensorError, KeyError, RuntimeError, OSError, ValueError) as error:
            raise BadFolder(
                f"{path}: damaged checkpoint ({type(error).__name__}); delete it to begin this "
                "stage anew"
            ) from None
        return step

    def metrics(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, and the numbers to the TensorBoard events."""
        line = json.dumps({"stage": stage, "step": step, **values})
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        for name, value in numbers.items():
            self._events.add_scalar(f"{stage}/{name}", value, step)

    def forget_metrics_after(self, stage: str, step: int) -> None:
        """Drop the lines that a resumed run will write again, and any that are damaged."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                if entry["stage"] != stage or entry["step"] <= step:
                    kept.append(line + b"\n")
        write_whole(path, b"".join(kept))

    def sample_grid(self, name: str, images: np.ndarray) -> None:
        """Write images (n, C, H, W) in [−1, 1] as one PNG, eight a row, places left over grey."""
        import io

        from PIL import Image

        grey = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
        n, channels, rows, columns = grey.shape
        across = min(n, 8)
        left_over = np.full((-n % across, channels, rows, columns), 128, np.uint8)
        grey = np.concatenate([grey, left_over])
        grid = grey.reshape(-1, across, channels, rows, columns).transpose(0, 3, 1, 4, 2)
        grid = grid.reshape(-1, across * columns, channels)
        picture = Image.fromarray(grid[..., 0] if channels < 3 else grid[..., :3])
        buffer = io.BytesIO()
        picture.resize((grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST).save(
            buffer, "PNG"
        )
        write_whole(self.path / "samples" / f"{name}.png", buffer.getvalue())

    @property
    def _events(self) -> Any:
        if not hasattr(self, "_writer"):
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.path / "events"))
        return self._writer

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if hasattr(self, "_writer"):
            self._writer.close()
            del self._writer


def _digest(step: int, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of a checkpoint: safetensors itself notices only a damaged header."""
    import torch

    digest = hashlib.sha256(str(step).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flatten(state: State) -> dict[str, Tensor]:
    from torch import Tensor, nn

    tensors = {}
    for name, part in state.items():
        if isinstance(part, nn.Module):
            entries: Mapping[Any, Any] = {None: part.state_dict()}
        else:
            entries = part.state_dict()["state"]
        for index, values in entries.items():
            prefix = name if index is None else f"{name}.{index}"
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}.{key}"] = value.detach().cpu().contiguous()
    return tensors


def _unflatten(tensors: Mapping[str, Tensor], state: State) -> None:
    from torch import nn

    for name, part in state.items():
        own = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.")
        }
        if isinstance(part, nn.Module):
            part.load_state_dict(own)
            continue
        entries: dict[int, dict[str, Tensor]] = {}
        for key, tensor in own.items():
            index, _, field = key.partition(".")
            entries.setdefault(int(index), {})[field] = tensor
        part.load_state_dict({"state": entries, "param_groups": part.state_dict()["param_groups"]})
