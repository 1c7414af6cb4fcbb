"""Training: one loop for each stage, exact resume and checkpoints, and what it costs."""

from fanogan.training.cost import (
    backward,
    critic_update,
    encoder_cost,
    gan_cost,
    multiply_adds,
    steps_within_budget,
)
from fanogan.training.encoder import ENCODER, train_encoder
from fanogan.training.fabric import (
    by_each,
    by_first,
    device_of,
    fabric_of,
    lacking_bf16,
    launched,
    others_there,
    precision_of,
)
from fanogan.training.reconstruction import ReconstructionHealth, finish_autoencoder
from fanogan.training.run import Progress, Run, check_agreement, no_progress, open_run
from fanogan.training.run_folder import RunFolder, State
from fanogan.training.split_batch import ForEachPart, half_batches, whole_batch
from fanogan.training.stage import Stage, StopRequest, TrainingFailed, shared_threads
from fanogan.training.trackers import BadTracker, check_tracker, read_metrics
from fanogan.training.updates import (
    TensorFlowRMSprop,
    descend,
    frozen,
    share_buffers,
    statistics_untouched,
    update,
)
from fanogan.training.wgan import GAN, train_gan, update_critic
from fanogan.training.where_it_stands import standing

__all__ = [
    "ENCODER",
    "GAN",
    "BadTracker",
    "ForEachPart",
    "Progress",
    "ReconstructionHealth",
    "Run",
    "RunFolder",
    "Stage",
    "State",
    "StopRequest",
    "TensorFlowRMSprop",
    "TrainingFailed",
    "backward",
    "by_each",
    "by_first",
    "check_agreement",
    "check_tracker",
    "critic_update",
    "descend",
    "device_of",
    "encoder_cost",
    "fabric_of",
    "finish_autoencoder",
    "frozen",
    "gan_cost",
    "half_batches",
    "lacking_bf16",
    "launched",
    "multiply_adds",
    "no_progress",
    "open_run",
    "others_there",
    "precision_of",
    "read_metrics",
    "share_buffers",
    "shared_threads",
    "standing",
    "statistics_untouched",
    "steps_within_budget",
    "train_encoder",
    "train_gan",
    "update",
    "update_critic",
    "whole_batch",
]
