"""The figures of a training: ``metrics.jsonl``, and the trackers that they go to besides.

Each takes figures by stage and step. The run's settings are its parameters where it has such.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import importlib.util
import io
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fanogan.errors import FanoganError
from fanogan.storage import write_whole

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

log = logging.getLogger(__name__)

MODULES = {
    "tensorboard": "tensorboardX",
    "csv": "csv",
    "mlflow": "mlflow",
    "wandb": "wandb",
}
"""The trackers by their names, and what each needs."""

PROJECT = "fanogan"
"""What experiment or project is called, unless the tracker's own environment variable says."""


class Tracker(Protocol):
    """Takes the figures of a training."""

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a step, by their names."""

    def close(self) -> None:
        """Write what isn't written yet."""


class BadTracker(FanoganError):
    """A tracker that isn't there, or can't be reached, said in one sentence."""


def check_tracker(name: str) -> None:
    """Refuse a tracker that isn't there.

    Raises:
        BadTracker: there is none of that name, or it isn't installed.
    """
    if name not in MODULES:
        raise BadTracker(f"no logger {name!r}: give one of {', '.join(MODULES)}")
    if importlib.util.find_spec(MODULES[name]) is None:
        raise BadTracker(
            f"logger {name} isn't installed: pip install 'fanogan[trackers]', or give another"
        )


def open_tracker(folder: Path, config: Mapping[str, Any]) -> Tracker:
    """Open the tracker that a run's ``config.yaml`` names; TensorBoard if it names none.

    A run that is resumed is found again.

    Raises:
        BadTracker: as of ``check_tracker``, or it can't be reached.
    """
    name = config.get("logger", "tensorboard")
    check_tracker(name)
    if name == "tensorboard":
        return _TensorBoard(folder)
    if name == "csv":
        return _Csv(folder)
    settings = {"detector": config.get("detector"), "seed": config.get("seed")}
    kind = _MLflow if name == "mlflow" else _WandB
    try:
        return _Forgiving(name, kind(folder, {**settings, **config.get("recipe", {})}))
    except Exception as error:  # of whatever kind its client or server raises
        reason = " ".join(str(error).split())
        raise BadTracker(f"logger {name} can't be opened ({reason}); give another") from error


class _Forgiving:
    """Training doesn't end because a server is gone."""

    def __init__(self, name: str, tracker: Tracker):
        self.name, self.tracker, self.failed = name, tracker, False

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        self._attempt(lambda: self.tracker.log(stage, step, figures))

    def close(self) -> None:
        self._attempt(self.tracker.close)

    def _attempt(self, what: Any) -> None:
        if self.failed:
            return
        try:
            what()
        except Exception as error:
            self.failed = True
            log.warning(
                "logger %s fails (%s): figures go to metrics.jsonl alone from here on",
                self.name,
                " ".join(str(error).split()),
            )


class _TensorBoard:
    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cached_property
    def events(self) -> SummaryWriter:  # a file from the first figure on
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self.folder / "events"))

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.events.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        if events := vars(self).pop("events", None):
            events.close()


class _Csv:
    """``metrics.csv``, a column for each figure, from the lines of ``metrics.jsonl``."""

    def __init__(self, folder: Path):
        self.folder = folder

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        lines = [{"stage": line["stage"], **numbers_of(line)} for line in read_metrics(self.folder)]
        text = io.StringIO()
        columns = dict.fromkeys(key for line in lines for key in line)
        table = csv.DictWriter(text, list(columns), lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())

    def close(self) -> None:
        pass


class _MLflow:
    """A run of MLflow; where, ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` say."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from mlflow import MlflowClient

        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        tag = _identity(folder)
        begun = self.client.search_runs([experiment], f"tags.`fanogan.run` = '{tag}'")
        if begun:
            self.run = begun[0].info.run_id
            return
        made = self.client.create_run(experiment, run_name=folder.name, tags={"fanogan.run": tag})
        self.run = made.info.run_id
        for key, value in settings.items():
            self.client.log_param(self.run, key, value)

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(f"{stage}/{name}", each, now, step) for name, each in figures.items()]
        self.client.log_batch(self.run, metrics)

    def close(self) -> None:
        self.client.set_terminated(self.run)


class _WandB:
    """A run of Weights & Biases; its own environment variables say where."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=_identity(folder),
            name=folder.name,
            dir=folder,
            config=dict(settings),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        # Its own step has to grow, and each stage begins at 0.
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        named = {f"{stage}/{name}": value for name, value in figures.items()}
        self.run.log({**named, f"{stage}/step": step})

    def close(self) -> None:
        self.run.finish()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ``metrics.jsonl``; none where it has none, nor damaged ones."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for text in (run / "metrics.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last
                line = json.loads(text)
                if isinstance(line, dict) and {"stage", "step"} <= line.keys():
                    lines.append(line)
    return lines


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures among the values of a line of metrics."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _identity(folder: Path) -> str:
    """Return what tells a run from others, so that it is found again when it is resumed."""
    return hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
