"""The folder of a training run: settings, metrics, sample pictures and checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn, optim

from fanogan.storage import BadFolder, write_whole
from fanogan.training.trackers import Tracker, numbers_of, open_tracker

State = dict[str, nn.Module | optim.Optimizer]
"""Networks and optimisers by name."""

LOSSES = "losses."
"""With what the names of the losses in a checkpoint begin."""
CURVE_ROWS = 64
"""Height of the curves that a grid shows of signals."""


class RunFolder:
    """The folder of one run, new or to be resumed."""

    def __init__(self, path: str | Path, *, resume: bool = False):
        """Open ``path`` for a new run, or for the run that it holds.

        Raises:
            BadFolder: a new run where one lies already, or nothing to resume.
        """
        self.path = Path(path)
        self._tracker: Tracker | None = None
        exists = (self.path / "config.yaml").exists()
        if self.path.exists() and not self.path.is_dir():
            raise BadFolder(f"{self.path}: is a file; give --out a folder")
        if resume and not exists:
            raise BadFolder(f"{self.path}: no run here to resume (it has no config.yaml)")
        if (self.path / "model").exists() and not exists:
            raise BadFolder(f"{self.path}: holds a `model` already; give --out another folder")
        if exists and not resume:
            raise BadFolder(
                f"{self.path}: holds a run already; resume it with `fanogan fit --resume "
                f"{self.path}`, or give --out another folder"
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

    def save_checkpoint(
        self, stage: str, step: int, state: State, losses: Mapping[str, Sequence[Tensor]]
    ) -> None:
        """Write all that an exact resume needs: networks, optimisers, and the step reached.

        Random numbers are a function of seed, stage and step, so the step is their state too.
        ``losses`` are those that no line of metrics has averaged yet.
        """
        tensors = _flatten(state)
        tensors |= {f"{LOSSES}{name}": torch.stack([*each]).cpu() for name, each in losses.items()}
        metadata = {"step": str(step), "sha256": _digest(step, tensors)}
        data = save(tensors, metadata=metadata)
        write_whole(self.path / "checkpoints" / f"{stage}.safetensors", data)

    def load_checkpoint(self, stage: str, state: State) -> tuple[int, dict[str, list[Tensor]]]:
        """Load a stage's last checkpoint into ``state``; return its step, 0 if there is none.

        Also returns the losses that were saved with it.

        Raises:
            BadFolder: the checkpoint is damaged or of other networks.
        """
        path = self.path / "checkpoints" / f"{stage}.safetensors"
        if not path.exists():
            return 0, {}
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
        losses = {
            name.removeprefix(LOSSES): list(each)
            for name, each in tensors.items()
            if name.startswith(LOSSES)
        }
        return step, losses

    def metrics(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, and hand the numbers to the tracker."""
        line = json.dumps({"stage": stage, "step": step, **values})
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._tracker is None:  # of a run that is resumed, or has no settings
            self.track(self.config if (self.path / "config.yaml").exists() else {})
        assert self._tracker is not None
        self._tracker.log(stage, step, numbers_of(values))

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
        """Write images (n, C, H, W) in [−1, 1] as one PNG, unused places grey.

        Eight are a row, of wide ones fewer. Of volumes it is the middle slice of each, of signals
        the first channel as a curve.
        """
        if images.ndim == 5:
            images = images[:, :, images.shape[2] // 2]
        if images.shape[2] == 1:
            images = _curves(images[:, 0, 0])
        grey = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
        n, channels, rows, columns = grey.shape
        across = min(n, 8, max(1, 8 * rows // columns))
        unused = np.full((-n % across, channels, rows, columns), 128, np.uint8)
        grid = np.concatenate([grey, unused]).reshape(-1, across, channels, rows, columns)
        grid = grid.transpose(0, 3, 1, 4, 2).reshape(-1, across * columns, channels)
        picture = Image.fromarray(grid[..., 0] if channels < 3 else grid[..., :3])
        picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        write_whole(self.path / "samples" / f"{name}.png", buffer.getvalue())

    def track(self, config: Mapping[str, Any]) -> None:
        """Open the tracker that the settings name.

        Raises:
            BadTracker: as of ``open_tracker``.
        """
        self._tracker = open_tracker(self.path, config)

    def close(self) -> None:
        """Let the tracker write what it holds."""
        if self._tracker:
            self._tracker.close()
            self._tracker = None


def _curves(signals: np.ndarray) -> np.ndarray:
    """Draw signals (n, samples) in [−1, 1] as images (n, 1, CURVE_ROWS, samples), lines between."""
    places = np.round((1 - np.clip(signals, -1, 1)) / 2 * (CURVE_ROWS - 2))
    before = np.concatenate([places[:, :1], places[:, :-1]], axis=1)
    low, high = np.minimum(before, places)[:, None], np.maximum(before, places)[:, None]
    rows = np.arange(CURVE_ROWS)[:, None]
    found = np.where((rows >= low) & (rows <= high), 1.0, -1.0)
    found[:, -1] = found[:, :, -1] = 0.0
    return found[:, None]


def _digest(step: int, tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of a checkpoint: safetensors itself notices only a damaged header."""
    digest = hashlib.sha256(str(step).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flatten(state: State) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, part in state.items():
        values: Mapping[str, Any] = part.state_dict()
        if isinstance(part, optim.Optimizer):
            moments = values["state"].items()
            values = {f"{index}.{key}": value for index, of in moments for key, value in of.items()}
        tensors |= {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }
    return tensors


def _unflatten(tensors: Mapping[str, Tensor], state: State) -> None:
    for name, part in state.items():
        prefix = f"{name}."
        values: dict[str, Any] = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if isinstance(part, optim.Optimizer):
            moments: dict[int, dict[str, Tensor]] = {}
            parameters = [p for group in part.param_groups for p in group["params"]]
            for key, tensor in values.items():
                index, _, field = key.partition(".")
                p = parameters[int(index)]
                if tensor.shape == p.shape:
                    # As the parameter lies in memory, which torch's fused updates take for given.
                    tensor = torch.empty_like(p).copy_(tensor)
                moments.setdefault(int(index), {})[field] = tensor
            values = {**part.state_dict(), "state": moments}
        part.load_state_dict(values)
