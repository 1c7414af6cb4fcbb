"""A model as one graph: stored pixels in; terms, total, flag, map and reconstruction out."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.calibration import ALPHA
from fanogan.errors import FanoganError
from fanogan.recipes import Sides
from fanogan.scoring import HALF, Model

KEY = "fanogan"  # of the metadata in a file


class BadExport(FanoganError):
    """What can't be exported or run, said in one sentence."""


def graph_of(model: Model) -> nn.Module:
    """Return a model's score module on the CPU, x, inside → terms, maps.

    Raises:
        BadExport: a detector that is no fixed graph, or a user's own GAN.
    """
    if not model.exportable:
        raise BadExport(
            f"the detector {model.detector} computes its score step by step, which is no fixed "
            "graph: score it with PyTorch"
        )
    if len(model.kept_networks) < len(model.networks):
        raise BadExport(
            "this model was trained on a GAN of your own, which isn't kept in it: score it with "
            "PyTorch"
        )
    return copy.deepcopy(model.score).cpu().eval()


class Resample(nn.Module):
    """Antialiased linear resampling as the matrices that it is: (B, C, *sides) → (B, C, *after)."""

    slices: Tensor  # (d, D), of volumes
    rows: Tensor  # (h, H)
    columns: Tensor  # (W, w)

    def __init__(self, before: Sides, after: Sides):
        """Read the matrices off: each is what becomes of an identity."""
        super().__init__()
        self.after = after
        names = ("slices", "rows", "columns")[-len(after) :]
        for name, old, new in zip(names, before, after, strict=True):
            identity = torch.eye(old)[None, None]
            matrix = F.interpolate(identity, (new, old), mode="bilinear", antialias=True)[0, 0]
            self.register_buffer(name, matrix.T.contiguous() if name == "columns" else matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Rows and columns one after the other, and then slices."""
        x = self.rows @ x @ self.columns
        if len(self.after) == 3:
            x = (self.slices @ x.flatten(3)).reshape(*x.shape[:2], *self.after)
        return x


class Deployed(nn.Module):
    """The whole way of a window: pixels as they are stored → all that a consumer needs.

    The window is the model's, or of whole images the size of its training normals.
    """

    means: Tensor
    weights: Tensor

    def __init__(self, model: Model):
        """Copy all that the model has learned; errors as of ``graph_of``."""
        super().__init__()
        self.score = graph_of(model)
        self.preprocessing = seen = model.preprocessing
        self.window = seen.window or model.profile.sizes[0]
        same = self.window == seen.image_size
        self.resize = nn.Identity() if same else Resample(self.window, seen.image_size)
        self.resize_back = nn.Identity() if same else Resample(seen.image_size, self.window)
        scale = model.calibration.term_scale
        means, spreads = scale or ((0.0, 0.0), (1.0, 1.0))
        kappa = 1.0 if scale else model.recipe.kappa
        self.register_buffer("means", torch.tensor(means))
        self.register_buffer("weights", torch.tensor([1.0, kappa]) / torch.tensor(spreads))
        # Thresholds are those of whole images or of patches of a retina; a larger image has one for
        # the mean over its top windows, which no window alone can be compared with.
        unit = "patch" if "patch" in model.calibration.units else "" if seen.window else "image"
        held_out = model.calibration.units.get(unit)
        self.threshold = held_out.threshold(ALPHA) if held_out else None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """An example of each input by its name, of two windows."""
        seen = self.preprocessing
        dtype = torch.uint8 if seen.levels == 255 else torch.int32
        found = {"stored": torch.zeros(2, seen.channels, *self.window, dtype=dtype)}
        if seen.tissue_only:
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
        inside = None if retina is None else self.resize(retina.float()) > HALF
        terms, maps = self.score(self.resize(self.preprocessing.normalise(stored)), inside)
        total = ((terms - self.means) * self.weights).sum(1)
        maps = self.resize_back(maps)
        found = (terms, total, maps[:, 0], maps[:, 1:])
        return found if self.threshold is None else (*found, total > self.threshold)


def to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], metadata: str = ""
) -> bytes:
    """Return a module as an ONNX file, for batches of any size.

    Raises:
        BadExport: torch can't export it, for example because it holds to one batch size.
    """
    batch = {0: torch.export.Dim("batch")}
    names = list(inputs)
    with _quiet(), torch.no_grad():
        # Exported here, for torch.onnx would fall back to a fixed batch without a word.
        try:
            program = torch.export.export(
                module, tuple(inputs.values()), dynamic_shapes=tuple(batch for _ in names)
            )
        except Exception as error:  # torch's kinds have no common base but this
            reason = str(error).partition("\n")[0]
            raise BadExport(f"torch can't export this detector's score: {reason}") from error
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
    """Silence the exporter's own notes, such as that torchvision isn't here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
