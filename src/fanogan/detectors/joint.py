"""What detectors share whose encoder and generator learn together, with no GAN before them."""

from __future__ import annotations

import abc
from typing import ClassVar

from fanogan.data import Preprocessing
from fanogan.detectors.detector import Detector
from fanogan.training import steps_within_budget


class JointDetector(Detector):
    """A detector trained in one stage, of as many steps as cost one GAN and one encoder."""

    stage: ClassVar[str]

    @abc.abstractmethod
    def step_cost(self, preprocessing: Preprocessing) -> int:
        """Count the multiply-adds of one step of training, of one image."""

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return the steps that the budget pays for."""
        cost, shape = self.step_cost(preprocessing), preprocessing.image_shape
        return {self.stage: steps_within_budget(self.recipe, shape, cost)}

    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of all steps."""
        steps = self.steps(preprocessing)[self.stage]
        return steps * self.recipe.batch_size * self.step_cost(preprocessing)
