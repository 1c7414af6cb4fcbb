"""PCA: the residual of a principal-component reconstruction, which a learned detector must beat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fanogan.data import Preprocessing
from fanogan.detectors.detector import Detector
from fanogan.detectors.projection import Projection
from fanogan.detectors.registry import register
from fanogan.models import ReconstructionScore
from fanogan.training import Run


@register("pca")
class PrincipalComponents(Detector):
    """``pca``: scored by the image residual (A_R) of the nearest image that the components span.

    Not the paper's. As many components as the recipe's latent has dimensions, or a sixteenth of the
    pixels where that is less, fitted by scikit-learn to random training patches, flipped as in
    training. It learns within seconds: a detector that stays behind it has learned nothing there
    that linear algebra doesn't know.
    """

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        """Make an empty projection."""
        return {"P": Projection(self.recipe, preprocessing)}

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        """Return nothing: there is no loop."""
        return {}

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        """Fit mean and components to random training images."""
        projection = networks["P"]
        assert isinstance(projection, Projection)
        projection.fit(run)
        return []

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        """Return Eqs. 4 and 5 with x̂ the projection, and no feature term."""
        return ReconstructionScore(networks["P"])

    def training_cost(self, preprocessing: Preprocessing) -> int:
        """Return the multiply-adds of one product of all images with all components."""
        projection = Projection(self.recipe, preprocessing)
        return projection.images * projection.components.numel()
