"""The models of a service, each under its name; one is loaded anew while requests go on."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch

from fanogan.calibration import DriftRecord
from fanogan.errors import FanoganError
from fanogan.scoring import Model, drift_record, read_drift, today
from fanogan.serve.fused import FusedScore, fused
from fanogan.serve.gate import Metrics, Settings
from fanogan.storage import write_whole

Load = Callable[[], Model]
"""Reads a model anew from where it lies."""

log = logging.getLogger("fanogan.serve")


class NoReference(FanoganError):
    """A model of which no drift can be recorded."""


class Served:
    """A model that takes scans: networks of its own, and its record of drift."""

    def __init__(
        self,
        name: str,
        model: Model,
        settings: Settings,
        metrics: Metrics,
        before: Served | None = None,
    ):
        """Score once, since the first batch takes longer.

        Raises:
            NoReference: drift is to be recorded, and the model knows no reference.
            BadFolder: the record that is there can't be read.
        """
        whole = model.weights_sha256 + json.dumps(model.to_dict())
        self.name, self.version = name, hashlib.sha256(whole.encode()).hexdigest()[:12]
        self.lock, self.is_written = threading.Lock(), True
        self.record, self.path = _record_of(name, model, settings.drift)
        if before and before.path == self.path:  # it goes on counting until this one is ready
            self.record, self.lock = before.record, before.lock
        self.model = fused(model, settings.milliseconds, metrics.windows.labels(name).observe)
        assert isinstance(self.model.score, FusedScore)
        self.networks = self.model.score
        self.at_work, self.is_retired = 0, False
        try:
            with torch.inference_mode():
                self.networks(torch.zeros(1, *model.preprocessing.image_shape, device=model.device))
        except BaseException:
            self.networks.close()
            raise

    def submit(self, threads: Executor, work: Callable[[], Any]) -> Future[Any]:
        """Begin a request; the networks are there until it ends, even if nobody waits for it."""
        future = threads.submit(work)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        with self.lock:
            self.at_work -= 1
            is_last = self.is_retired and not self.at_work
        if is_last:
            self.close()

    def retire(self) -> None:
        """Take no more requests, and end once those that are in have been answered."""
        with self.lock:
            self.is_retired = True
            is_last = not self.at_work
        if is_last:
            self.close()

    def close(self) -> None:
        """Write the record, and end the networks' thread."""
        self.write()
        self.networks.close()

    def count(self, images: Sequence[Sequence[float]]) -> None:
        """Record the images of a request, as of one subject."""
        if self.record:
            with self.lock:
                self.record.add(today(), images)
                self.is_written = False

    def write(self) -> None:
        """Write the record where it has changed; if that can't be, the next time does."""
        if not self.record or self.is_written:
            return
        with self.lock:
            text = json.dumps(self.record.to_dict())
            self.is_written = True
        try:
            write_whole(self.path, text.encode())
        except OSError as error:
            self.is_written = False
            log.info(
                "%s", json.dumps({"time": _now(), "drift": self.name, "error": error.strerror})
            )


def _record_of(name: str, model: Model, folder: Path | None) -> tuple[DriftRecord | None, Path]:
    if folder is None:
        return None, Path()
    record = drift_record(model)
    if record is None:
        raise NoReference(
            f"{name}: was made before drift was recorded; calibrate it anew with fanogan calibrate "
            "MODEL NORMALS --out NEW, or leave out --drift"
        )
    # Of its own for each version and calibration.
    digest = hashlib.sha256(json.dumps(record.to_dict()).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}.json"
    return (read_drift([path]) if path.exists() else record), path


class Models:
    """All models of a service by name; the first is the one that is meant where none is named."""

    def __init__(self, sources: Mapping[str, Load], settings: Settings, metrics: Metrics):
        """Load each.

        Raises:
            FanoganError: one of them can't be.
        """
        self.sources, self.settings, self.metrics = sources, settings, metrics
        self.first = next(iter(sources))
        self.served = {
            name: Served(name, load(), settings, metrics) for name, load in sources.items()
        }
        self.since = dict.fromkeys(sources, _now())
        self.failed: dict[str, str] = {}
        self.lock, self.reloading = threading.Lock(), threading.Lock()

    def take(self, name: str | None) -> Served | None:
        """Return a model for one ``submit``, until which it stays; None: there is none such."""
        with self.lock:
            served = self.served.get(self.first if name is None else name)
            if served:
                with served.lock:
                    served.at_work += 1
            return served

    def reload(self) -> None:
        """Load each anew; one that can't be stays as it is, and why is logged."""
        with self.reloading:
            for name, load in self.sources.items():
                before = self.served[name]
                try:
                    new = Served(name, load(), self.settings, self.metrics, before)
                except Exception as error:  # whatever is wrong with it, the one before goes on
                    self.failed[name] = " ".join(str(error).split()) or type(error).__name__
                    self._tell(name, before, error=self.failed[name])
                    continue
                with self.lock:
                    self.served[name], self.since[name] = new, _now()
                self.failed.pop(name, None)
                before.retire()
                self._tell(name, new)

    def _tell(self, name: str, served: Served, **error: str) -> None:
        self.metrics.reloads.labels(name, "failed" if error else "done").inc()
        record = {"time": _now(), "reload": name, "version": served.version, **error}
        log.info("%s", json.dumps(record))

    def about(self) -> dict[str, Any]:
        """Return what each is."""
        return {
            name: {
                "detector": each.model.detector,
                "recipe": each.model.recipe.name,
                "device": each.model.device.type,
                "version": each.version,
                "since": self.since[name],
                "error": self.failed.get(name),
            }
            for name, each in self.served.items()
        }

    def write(self) -> None:
        """Write the records of drift."""
        for each in list(self.served.values()):
            each.write()

    def close(self) -> None:
        """End all."""
        for each in self.served.values():
            each.close()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
