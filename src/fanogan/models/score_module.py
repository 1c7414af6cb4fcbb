"""What a detector makes of images, as one module: for PyTorch, for ONNX, for the cost counter."""

from __future__ import annotations

from torch import Tensor, nn

from fanogan.models.losses import terms_and_maps
from fanogan.models.networks import Discriminator, JointDiscriminator


class ReconstructionScore(nn.Module):
    """Eqs. 4 and 5 of images and their reconstructions x̂.

    Every detector's score module has this ``forward``.
    """

    def __init__(
        self, *reconstruct: nn.Module, features: Discriminator | JointDiscriminator | None = None
    ):
        """Take networks that only score.

        Args:
            reconstruct: one after the other x → x̂, such as E and G.
            features: the D whose f(·) gives the feature residual; None: A_D = 0.
        """
        super().__init__()
        self.reconstruct = nn.Sequential(*reconstruct)
        self.discriminator = features

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            x: (B, C, rows, columns) in [−1, 1], as the networks see them.
            inside: (B, 1, rows, columns) bool, where x̂ counts; elsewhere x takes its place. None:
                everywhere.

        Returns:
            (A_R, A_D) as (B, 2) (Eq. 4), and |x − x̂| (Eq. 5) and x̂ as (B, 1 + C, rows, columns).
        """
        features = self.discriminator.features if self.discriminator else None
        return terms_and_maps(x, self.reconstruct(x), inside, features)
