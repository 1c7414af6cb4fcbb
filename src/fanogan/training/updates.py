"""What the training loops share: optimisers, frozen networks, batch-norm statistics, processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fanogan.models import BatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSprop as TensorFlow 1 defines it, with which the authors trained the encoder.

    ms ← .9 ms + .1 g², from ms = 1; p ← p − lr · g / √(ms + 1e-10). ``torch.optim.RMSprop`` starts
    at 0, decays by .99 and adds its epsilon outside the root.
    """

    def __init__(self, params: Any, lr: float):
        """Make it for parameters and a learning rate."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if p not in self.state:
                    self.state[p]["mean_square"] = torch.ones_like(p)
            gradients = [p.grad for p in parameters]
            means = [self.state[p]["mean_square"] for p in parameters]
            torch._foreach_mul_(means, 0.9)
            torch._foreach_addcmul_(means, gradients, gradients, 0.1)
            root = torch._foreach_add(means, 1e-10)
            torch._foreach_sqrt_(root)
            torch._foreach_addcdiv_(parameters, gradients, root, -group["lr"])


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Let the parameters of ``networks`` take no gradients for a while."""
    parameters = [p for network in networks for p in network.parameters()]
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


@contextlib.contextmanager
def statistics_untouched(*networks: nn.Module) -> Iterator[None]:
    """Let batch norms use the batch and leave their running statistics as they are."""
    norms = [m for net in networks for m in net.modules() if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set the running statistics of batch norms to their plain mean over ``batches``.

    With momentum .01 they still hold 28 % of their initial values after 125 updates, and the
    encoder of a short recipe would train on another generator than the one that was trained.
    """
    norms = [m for m in network.modules() if isinstance(m, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    network.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, fabric: Fabric) -> None:
    """Back-propagate a loss and update."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    update(optimiser, fabric)


def update(optimiser: torch.optim.Optimizer, fabric: Fabric) -> None:
    """Update; with several processes, by the mean of their gradients."""
    if fabric.world_size > 1:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        mean = fabric.all_reduce(joined, reduce_op="mean")
        assert isinstance(mean, Tensor)
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
    optimiser.step()


def share_buffers(network: nn.Module, fabric: Fabric) -> None:
    """Give all processes the first one's statistics: each has seen its own part of the batches."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            buffer.copy_(fabric.broadcast(buffer))
