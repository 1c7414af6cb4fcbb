"""What a machine can do, and what a step asks of it: arithmetic and bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fanogan.training import lacking_bf16

PRODUCT = 2048  # the side of the matrices
COPIED = 1 << 28  # bytes, more than caches of a few cores hold


def rates(device: torch.device) -> dict[str, float]:
    """Multiply-adds a second of matrix products in each precision, and bytes a second of a sum.

    The sum is STREAM's triad, a = b + s·c: three arrays are moved.
    """
    found = {}
    dtypes = {"fp32": torch.float32} | ({} if lacking_bf16(device) else {"bf16": torch.bfloat16})
    for name, dtype in dtypes.items():
        a, b = torch.rand(2, PRODUCT, PRODUCT, device=device).to(dtype)
        found[name] = PRODUCT**3 / _median(lambda a=a, b=b: a @ b, device)
    b, c = torch.rand(2, COPIED // 4, device=device)
    a = torch.empty_like(b)
    found["bytes"] = 3 * COPIED / _median(lambda: torch.add(b, c, alpha=3.0, out=a), device)
    return found


def _median(step: Callable[[], object], device: torch.device) -> float:
    step()
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.moved += sum(t.numel() * t.element_size() for t in tensors)
        return out


def bytes_moved(step: Callable[[], object]) -> int:
    """Bytes that the operations of a step read and write, each by itself: nothing is fused."""
    counter = _Bytes()
    # Backward passes too, which PyTorch would do in another thread.
    with torch.autograd.set_multithreading_enabled(False), counter:
        step()
    return counter.moved


def bound(
    multiply_adds: float, moved: float, seconds: float, precision: str, of: dict[str, float]
) -> tuple[str, float]:
    """What bounds a step, 'arithmetic' or 'memory', and the step's share of that rate."""
    least = {"arithmetic": multiply_adds / of[precision], "memory": moved / of["bytes"]}
    name = max(least, key=lambda each: least[each])
    return name, least[name] / seconds


def picture(kept: Mapping[str, Any], kinds: Mapping[str, str], path: Path) -> None:
    """Draw a machine's roofs and the steps below them.

    Args:
        kept: what ``speed.py`` keeps of a machine.
        kinds: the precision of each kind of row that is drawn, by the kind's name.
        path: the picture to write.
    """
    from matplotlib import pyplot as plt

    roofs, colours = kept["rates"], {"fp32": "#1f6f8b", "bf16": "#c8553d"}
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    intensity = np.geomspace(0.3, 300, 200)
    for precision in kinds.values():
        roof = np.minimum(roofs[precision], intensity * roofs["bytes"])
        axes.loglog(intensity, 2e-9 * roof, color=colours[precision], label=precision)
    marks = dict(
        zip(dict.fromkeys(name.split(", ")[0] for name in kept["rows"]), "osD^", strict=True)
    )
    for name, one in kept["rows"].items():
        row, width, side, kind = name.split(", ", 3)
        if kind in kinds:
            x, y = (one["multiply_adds"] / one[each] for each in ("bytes", "seconds"))
            axes.plot(x, 2e-9 * y, marks[row], color=colours[kinds[kind]], markersize=5)
            if kind == next(iter(kinds)) and row == next(iter(marks)):
                at = f"{width} at {side}"
                axes.annotate(at, (x, 2e-9 * y), (4, -9), textcoords="offset points", fontsize=7)
    for row, mark in marks.items():
        axes.plot([], [], mark, color="grey", label=row, markersize=5)
    axes.set_xlabel("multiply-adds a byte that operations read and write")
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
