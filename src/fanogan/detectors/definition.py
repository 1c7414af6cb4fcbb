"""What a detector says of itself: its networks, its training, its score."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fanogan.data import Preprocessing
from fanogan.recipes import Recipe, load_recipe
from fanogan.training import Run, device_of


class Definition(abc.ABC):
    """The settings of a detector, and what differs from one detector to another.

    Attributes:
        has_generator: Whether networks["G"] makes normal images of z ~ N(0, I).
        builds_on_gan: Whether a trained GAN, (G, D), can be given in place of training one.
        exportable: Whether its score module is a fixed graph.
        averages_pixels: Whether its terms are means over an image's pixels or features, so that
            those of a part that isn't known can be left out.
    """

    has_generator: ClassVar[bool] = False
    builds_on_gan: ClassVar[bool] = False
    exportable: ClassVar[bool] = True
    averages_pixels: ClassVar[bool] = True

    def __init__(
        self,
        recipe: str | Path | Recipe = "small",
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        devices: int = 1,
        **settings: Any,
    ):
        """Make an untrained detector.

        Args:
            recipe: a shipped recipe's name, a YAML file, or a ``Recipe``.
            seed: of the split, the weights and all of training.
            device: 'auto', 'cpu', 'cuda', one of several GPUs as 'cuda:1', or 'mps'.
            devices: how many processes train together (one per GPU).
            settings: fields of the recipe to change, such as ``base_width=16``.

        Raises:
            BadRecipe: the recipe can't be read, or a setting isn't one of its fields.
            ValueError: no such device here, or a batch that can't be shared out.
        """
        self.recipe = load_recipe(recipe, **settings)
        if devices < 1 or self.recipe.batch_size % devices:
            raise ValueError(
                f"a batch of {self.recipe.batch_size} can't be shared by {devices} devices: give a "
                "number that divides it"
            )
        self.seed = seed
        self.devices = devices
        self.device = device if isinstance(device, torch.device) else device_of(device)
        if devices > 1 and self.device.type == "cuda" and self.device.index is not None:
            raise ValueError(
                f"device {self.device} is a single GPU, and {devices} devices are to train: give "
                "device cuda, and name the GPUs in the environment's CUDA_VISIBLE_DEVICES"
            )

    @abc.abstractmethod
    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make new networks for what the preprocessing gives, by their letters: G, D, E."""

    @abc.abstractmethod
    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return the stages of training, in order, and the rounds or updates of each."""

    @abc.abstractmethod
    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Train the networks in place, through the stages of ``run.steps``.

        Returns:
            Health warnings.

        Raises:
            TrainingFailed: a loss isn't finite.
        """

    @abc.abstractmethod
    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> nn.Module:
        """Return the module x, inside → terms, maps of trained networks (``ReconstructionScore``).

        PyTorch, the ONNX graph and the cost counter all use it.
        """

    def constants(self, networks: Mapping[str, nn.Module], run: Run) -> dict[str, float]:
        """Return numbers that the score needs beside trained networks; they are kept with them."""
        return {}

    @abc.abstractmethod
    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of training, that of a GAN that is given included."""
