"""One stage of a run: resume, checkpoints, metrics, stopping, and giving up with a sentence."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fanogan.errors import FanoganError
from fanogan.storage import BadFolder
from fanogan.training.fabric import by_each
from fanogan.training.run import Run, no_progress
from fanogan.training.run_folder import State

log = logging.getLogger(__name__)


class TrainingFailed(FanoganError):
    """Training can't go on, said in one sentence with what to try."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request that the loop grants between two rounds."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        """Take over the signals, where that's possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        if self.requested:  # asked twice: at once
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self.requested = True

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Give the signals back; what was asked too late for the loop is granted here.

        Raises:
            KeyboardInterrupt: it was asked to stop, and nothing else ends the loop.
        """
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested and kind is None:
            raise KeyboardInterrupt


@contextlib.contextmanager
def shared_threads(parts: int) -> Iterator[None]:
    """So many trainings at once on the CPU, each with its share of the threads.

    Networks of a few channels leave most of a second core idle.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // parts))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Stage:
    """One stage of a run: resume, checkpoints, metrics, and the checks that all stages share."""

    def __init__(
        self,
        name: str,
        run: Run,
        state: State,
    ):
        """Load the last checkpoint of the stage into ``state``, where the run has one.

        Args:
            name: one of ``run.steps``.
            run: how long it trains, how often it reports and saves, and where.
            state: networks and optimisers, which a checkpoint holds.
        """
        self.name, self.steps, self.state, self.run = name, run.steps[name], state, run
        self.folder, self.fabric = run.folder, run.fabric
        self.leads = run.fabric.is_global_zero
        self.progress = run.progress if self.leads else no_progress
        losses: dict[str, list[Tensor]] = {}
        self.first = 0
        if run.folder:
            folder = run.folder
            self.first, losses = by_each(run.fabric, lambda: folder.load_checkpoint(name, state))
            first = run.fabric.broadcast(self.first)
            by_each(run.fabric, lambda: self._check_first(first))
        self.collected = {
            name: [loss.to(run.device) for loss in each] for name, each in losses.items()
        }
        if run.folder and self.leads:
            run.folder.forget_metrics_after(name, self.first)
        self.warned: set[str] = set()
        self.stop = StopRequest()
        self.saved = self.started = time.monotonic()

    def _check_first(self, first: int) -> None:
        if self.folder and self.first != first:
            raise BadFolder(
                f"{self.folder.path}: {socket.gethostname()} sees another checkpoint there than "
                "the first process; give a folder on a file system that all machines share"
            )

    def __enter__(self) -> Stage:
        """From here on a signal is a request."""
        self.stop.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Signals as before."""
        self.stop.__exit__(*exception)

    def steps_left(self) -> Iterator[int]:
        """Each step still to do; after each, checkpoint if it is time, stop if asked to."""
        for step in range(self.first, self.steps):
            yield step
            done = step + 1
            self._show(done, {})
            if done == self.steps:
                break
            due = time.monotonic() - self.saved >= 60 * self.run.recipe.checkpoint_minutes
            stop = self.agreed(self.stop.requested)
            if self.agreed(due) or stop:
                self.checkpoint(done)
            if stop:
                raise KeyboardInterrupt

    def _show(self, done: int, figures: Mapping[str, float]) -> None:
        """Call ``progress``; where it raises KeyboardInterrupt, that is a request to stop."""
        try:
            self.progress(self.name, done, self.steps, figures)
        except KeyboardInterrupt:
            self.stop.requested = True

    def finish(self) -> None:
        """Save the last checkpoint, which holds the re-estimated statistics too."""
        if self.first < self.steps:
            self.checkpoint(self.steps)
        if self.agreed(self.stop.requested):
            raise KeyboardInterrupt

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes it: one that stops alone would leave the others waiting."""
        if self.fabric.world_size == 1:
            return wish
        wishes = self.fabric.all_reduce(
            torch.tensor(float(wish), device=self.fabric.device), reduce_op="sum"
        )
        assert isinstance(wishes, Tensor)
        return bool(wishes > 0)

    def collect(self, **losses: Tensor) -> None:
        """Keep losses, unread, for the next tick: reading one would wait for the device."""
        for name, loss in losses.items():
            self.collected.setdefault(name, []).append(loss.detach())

    def is_due(self, step: int) -> bool:
        """Tell whether figures are reported after this step."""
        return (step + 1) % self.run.recipe.log_every == 0 or step + 1 == self.steps

    def means(self) -> dict[str, float]:
        """Return the mean of each collected loss since the last tick.

        Raises:
            TrainingFailed: one isn't finite.
        """
        # In the order of their names, which is that of a checkpoint.
        means = {name: self._mean(self.collected[name]) for name in sorted(self.collected)}
        self.collected = {}
        for name, value in means.items():
            if not math.isfinite(value):
                self.fail(f"the {name} is {value}")
        return means

    def _mean(self, losses: list[Tensor]) -> float:
        """Over all processes, so that all see a loss that isn't finite in the same step."""
        mean = self.fabric.all_reduce(torch.stack(losses).float().mean(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return float(mean)

    def report(self, step: int, figures: dict[str, float], **more: Any) -> None:
        """Show figures, and keep them as a line of metrics."""
        self._show(step + 1, figures)
        if self.folder and self.leads:
            seconds = round(time.monotonic() - self.started, 1)
            self.folder.metrics(self.name, step + 1, {**figures, **more, "seconds": seconds})

    def warn(self, key: str, sentence: str) -> list[str]:
        """Log a warning the first time; returns it each time, for the metrics."""
        if key not in self.warned and self.leads:
            self.warned.add(key)
            log.warning(sentence)
        return [sentence]

    def warn_of_collapse(self, key: str, images: str, ratio: float) -> list[str]:
        """Warn that ``images`` are less diverse than real ones; as ``warn``."""
        return self.warn(
            key,
            f"{images} collapse: their diversity is {ratio:.2f} of the real images'; look at the "
            "sample grids, and train longer or with a lower gan_learning_rate",
        )

    def warn_of_overfit(self, residual: str, seen: float, unseen: float) -> list[str]:
        """Warn where held-out normals have a much higher residual than those of training.

        Where the encoder learns more than its images, the two differ by a few per cent.
        """
        if unseen <= 1.5 * seen:
            return []
        return self.warn(
            f"overfit {residual}",
            f"the encoder overfits: the {residual} residual of training normals is {seen:.2g} and "
            f"that of held-out normals {unseen:.2g}; more normals, or a shorter recipe",
        )

    def grid_is_due(self, step: int, grids: int) -> bool:
        """Tell whether a grid of images is written after this step, so many over the stage."""
        every = -(-self.steps // grids)
        due = (step + 1) % every == 0 or step + 1 == self.steps
        return self.folder is not None and self.leads and due

    def sample_grid(self, name: str, images: Tensor) -> None:
        """Write images (n, C, H, W) in [−1, 1] to the run folder."""
        assert self.folder is not None
        self.folder.sample_grid(name, images.cpu().numpy())

    def checkpoint(self, step: int) -> None:
        """Save, if all is finite: so the last checkpoint is always a good one.

        Raises:
            TrainingFailed: something isn't finite.
        """
        if not all(_all_finite(part) for part in self.state.values()):
            self.fail("a weight or a moment of the optimiser isn't finite")
        if self.folder and self.leads:
            self.folder.save_checkpoint(self.name, step, self.state, self.collected)
        self.saved = time.monotonic()

    def fail(self, what: str) -> NoReturn:
        """Give up with a sentence that says what to try.

        Raises:
            TrainingFailed: always.
        """
        checkpoint = (
            self.folder.path / "checkpoints" / f"{self.name}.safetensors" if self.folder else None
        )
        kept = checkpoint is not None and checkpoint.exists()
        where = f"; the last good checkpoint is kept: {checkpoint}" if kept else ""
        rate = f"{'encoder' if self.name == 'encoder' else 'gan'}_learning_rate"
        stage = "GAN" if self.name == "gan" else self.name
        precision = "" if self.run.recipe.precision == "fp32" else " and precision: fp32"
        raise TrainingFailed(
            f"training of the {stage} broke down: {what}; try a recipe with half the {rate} "
            f"({getattr(self.run.recipe, rate) / 2:g}){precision}, or look for broken images among "
            f"the normals{where}"
        )


def _all_finite(part: nn.Module | torch.optim.Optimizer) -> bool:
    """Whether all that training goes on from is finite: an infinite moment freezes a weight."""
    if isinstance(part, nn.Module):
        tensors = list(part.parameters())
    else:
        tensors = [t for state in part.state.values() for t in state.values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
