"""training."""

from fanogan.training.cost import (
    adversarial_rounds,
    ali_updates,
    autoencoder_updates,
    budget,
    costs,
    multiply_adds,
)
from fanogan.training.fabric import by_first, device_of, fabric_of, open_run
from fanogan.training.halves import ByHalves, halves, whole
from fanogan.training.joint import train_adversarial_autoencoder, train_ali, train_autoencoder
from fanogan.training.run_folder import RunFolder
from fanogan.training.stage import Progress, StopRequest, no_progress, shared_threads
from fanogan.training.wgan import (
    TensorFlowRMSprop,
    descend,
    frozen,
    statistics_untouched,
    train_encoder,
    train_gan,
    update_critic,
)

__all__ = [
    "ByHalves",
    "Progress",
    "RunFolder",
    "StopRequest",
    "TensorFlowRMSprop",
    "adversarial_rounds",
    "ali_updates",
    "autoencoder_updates",
    "budget",
    "by_first",
    "costs",
    "descend",
    "device_of",
    "fabric_of",
    "frozen",
    "halves",
    "multiply_adds",
    "no_progress",
    "open_run",
    "shared_threads",
    "statistics_untouched",
    "train_adversarial_autoencoder",
    "train_ali",
    "train_autoencoder",
    "train_encoder",
    "train_gan",
    "update_critic",
    "whole",
]
