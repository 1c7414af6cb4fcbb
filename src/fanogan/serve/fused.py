"""The windows of requests that come at the same time go through the networks together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fanogan.scoring import BATCH, Model, score_batch
from fanogan.training import precision_of

Scored = tuple[Tensor, Tensor]


@dataclass
class _Waiting:
    x: Tensor
    inside: Tensor | None
    scored: Future[Scored]


class FusedScore(nn.Module):
    """The score module of a model, computed by one thread for all that ask within a moment."""

    def __init__(
        self, model: Model, milliseconds: float, on_batch: Callable[[int], None] = lambda size: None
    ):
        """Start the thread.

        Args:
            model: a trained one.
            milliseconds: for how long the first windows wait for others.
            on_batch: called with the number of windows of each batch.
        """
        super().__init__()
        self.model, self.seconds, self.on_batch = model, milliseconds / 1000, on_batch
        self.waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="networks", daemon=True)
        self.thread.start()

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Scored:
        """Score windows, as ``ReconstructionScore`` does; called from any thread."""
        scored: Future[Scored] = Future()
        self.waiting.put(_Waiting(x, inside, scored))
        return scored.result()

    def close(self) -> None:
        """End the thread, once all that wait have been scored."""
        self.waiting.put(None)
        self.thread.join()

    def _work(self) -> None:
        held: _Waiting | None = None  # of the other kind than the batch before it
        is_open = True
        while is_open or held:
            first = held or self.waiting.get()
            held = None
            if first is None:
                return
            batch, count = [first], len(first.x)
            until = time.monotonic() + self.seconds
            while count < BATCH and is_open:
                try:
                    item = self.waiting.get(timeout=max(until - time.monotonic(), 0))
                except queue.Empty:
                    break
                if item is None:
                    is_open = False
                elif (item.inside is None) == (first.inside is None):
                    batch.append(item)
                    count += len(item.x)
                else:
                    held = item
                    break
            self._score(batch)

    def _score(self, batch: list[_Waiting]) -> None:
        self.on_batch(sum(len(each.x) for each in batch))
        try:
            masks = [each.inside for each in batch if each.inside is not None]
            with torch.inference_mode(), precision_of("fp32"):
                x, inside = (
                    torch.cat([each.x for each in batch]),
                    torch.cat(masks) if masks else None,
                )
                terms, maps = score_batch(self.model, x, inside)
            sizes = [len(each.x) for each in batch]
            pieces = zip(batch, torch.split(terms, sizes), torch.split(maps, sizes), strict=True)
            for each, *scored in pieces:
                each.scored.set_result((scored[0], scored[1]))
        except Exception as error:  # it is raised where the windows came from
            for each in batch:
                if not each.scored.done():
                    each.scored.set_exception(error)


def fused(model: Model, milliseconds: float, on_batch: Callable[[int], None]) -> Model:
    """Return the model with a ``FusedScore``, which scores windows of many threads together."""
    return model.but(score=FusedScore(model, milliseconds, on_batch), engine="fused")
