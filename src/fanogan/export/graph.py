"""A detector as one graph: what goes into a file, and what takes the networks' place in memory.

``Deployed`` is all of scoring: stored pixels in; terms of the score, total, flag, map and
reconstruction out. ``Scorer`` is what the networks alone make of a batch.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.data import HALF
from fanogan.detectors import LearnedDetector
from fanogan.errors import FanoganError
from fanogan.models import ali_mean, feature_residual, folded, terms_and_maps

KEY = "fanogan"  # of the metadata in a file
ALPHA = 0.05
WITHOUT_FEATURES = ("izi", "ziz", "ae")


class BadExport(FanoganError):
    """What can't be exported or run, said in one sentence."""


class Scorer(nn.Module):
    """A detector's terms and maps (Eqs. 4 and 5) as a module of its own, on the CPU."""

    G: Any
    D: Any
    E: Any

    def __init__(self, detector: LearnedDetector):
        """Copy the networks.

        Raises:
            BadExport: a detector that is no fixed graph, or a user's own GAN.
        """
        super().__init__()
        if detector.name == "iterative":
            raise BadExport(
                "the detector iterative searches a latent for every image by back-propagation, "
                "which is no fixed graph: score it with PyTorch"
            )
        if detector.facts.get("gan", {}).get("own"):
            raise BadExport(
                "this model was trained on a GAN of your own, which isn't kept in it: score it "
                "with PyTorch"
            )
        self.name = detector.name
        self.critic_mean = detector.facts.get("critic_mean", 0.0)
        for letter, network in zip(detector.letters, detector.networks, strict=True):
            setattr(self, letter, folded(network).cpu())

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Arguments and results as of ``Detector._terms_and_maps``."""
        if self.name == "critic":
            value = self.D(x)
            terms = torch.stack([torch.zeros_like(value), self.critic_mean - value], 1)
            return terms, torch.cat([torch.zeros_like(x[:, :1]), x], 1)
        x_hat = self.G(ali_mean(self.E, x) if self.name == "ali" else self.E(x))
        if inside is not None:
            x_hat = torch.where(inside, x_hat, x)
        terms, maps = terms_and_maps(x, x_hat)
        if self.name in WITHOUT_FEATURES:
            return terms, maps
        # One after the other: torch.export can't halve a batch whose size it doesn't know.
        feature = feature_residual(self.D.features(x), self.D.features(x_hat))
        return torch.stack([terms[:, 0], feature], 1), maps


class Resample(nn.Module):
    """Antialiased bilinear resampling as the two matrices that it is: (…, H, W) → (…, h, w)."""

    rows: Tensor  # (h, H)
    columns: Tensor  # (W, w)

    def __init__(self, before: tuple[int, int], after: tuple[int, int]):
        """Read the matrices off: each is what becomes of an identity."""
        super().__init__()
        for name, old, new in zip(("rows", "columns"), before, after, strict=True):
            identity = torch.eye(old)[None, None]
            matrix = F.interpolate(identity, (new, old), mode="bilinear", antialias=True)[0, 0]
            self.register_buffer(name, matrix if name == "rows" else matrix.T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Rows and columns one after the other."""
        return self.rows @ x @ self.columns


class Deployed(nn.Module):
    """The whole way of a window: pixels as they are stored → all that a consumer needs.

    The window is the model's, or of whole images the size of its training normals.
    """

    means: Tensor
    weights: Tensor

    def __init__(self, detector: LearnedDetector):
        """Take over all that the detector has learnt; errors as of ``Scorer``."""
        super().__init__()
        self.scorer = Scorer(detector)
        self.preprocessing = seen = detector.preprocessing
        self.window = window_of(detector)
        same = self.window == seen.sides
        self.see = nn.Identity() if same else Resample(self.window, seen.sides)
        self.unsee = nn.Identity() if same else Resample(seen.sides, self.window)
        means, spreads = detector.term_scale or ((0.0, 0.0), (1.0, 1.0))
        kappa = 1.0 if detector.term_scale else detector.recipe.kappa
        self.register_buffer("means", torch.tensor(means))
        self.register_buffer("weights", torch.tensor([1.0, kappa]) / torch.tensor(spreads))
        self.threshold = threshold_of(detector)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """An example of each input by its name, of two windows."""
        seen = self.preprocessing
        dtype = torch.uint8 if seen.levels == 255 else torch.int32
        found = {"stored": torch.zeros(2, seen.channels, *self.window, dtype=dtype)}
        if seen.retina and seen.retina.score_retina_only:
            found["retina"] = torch.ones(2, 1, *self.window, dtype=torch.bool)
        return found

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what ``forward`` gives."""
        flag = () if self.threshold is None else ("flag",)
        return ("terms", "total", "map", "reconstruction", *flag)

    def forward(self, stored: Tensor, retina: Tensor | None = None) -> tuple[Tensor, ...]:
        """Score windows.

        Args:
            stored: (B, C, *window) uint8, or of models of more bits int32 in [0, 65535]: grey
                values as ``Preprocessing.encode`` keeps them.
            retina: (B, 1, *window) bool, of a model that scores the retina alone.

        Returns:
            ``terms`` (B, 2), A_R and A_D (Eq. 4); ``total`` (B,); ``map`` (B, *window), |x − x̂|
            in [0, 2] (Eq. 5); ``reconstruction`` (B, C, *window) in [−1, 1]; and where the
            calibration has a threshold for what a window is, ``flag`` (B,) bool.
        """
        inside = None if retina is None else self.see(retina.float()) > HALF
        terms, maps = self.scorer(self.see(self.preprocessing.to_network(stored)), inside)
        total = ((terms - self.means) * self.weights).sum(1)
        maps = self.unsee(maps)
        found = (terms, total, maps[:, 0], maps[:, 1:])
        return found if self.threshold is None else (*found, total > self.threshold)


def window_of(detector: LearnedDetector) -> tuple[int, int]:
    """Rows and columns of what the graph takes."""
    return detector.preprocessing.window or detector.familiar.sizes[0]


def threshold_of(detector: LearnedDetector) -> float | None:
    """The total above which a window is flagged at a false-positive rate of 5 %, or None.

    Thresholds are those of whole images or of patches of a retina; a larger image has one for the
    mean over its top windows, which no window alone can be held against.
    """
    seen = detector.preprocessing
    unit = "patch" if seen.retina else "image" if seen.window is None else ""
    held_out = detector.calibration.units.get(unit)
    return held_out.threshold(ALPHA) if held_out else None


def to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], metadata: str = ""
) -> bytes:
    """A module as an ONNX file, for batches of any size.

    Raises:
        torch.export's errors: the module holds to one batch size.
    """
    batch = {0: torch.export.Dim("batch")}
    names = list(inputs)
    with _quiet(), torch.no_grad():
        # Exported here, for torch.onnx would fall back to a fixed batch without a word.
        program = torch.export.export(
            module, tuple(inputs.values()), dynamic_shapes=tuple(batch for _ in names)
        )
        found = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=names, output_names=list(outputs)
        )
    assert found is not None
    proto = found.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, metadata
    return bytes(proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """None of the exporter's own notes, such as that torchvision isn't here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
