"""Where it goes: a trained model as one graph, for ONNX Runtime and OpenVINO.

``export`` writes a file that needs neither PyTorch nor this package: stored pixels in; terms of the
score, total, flag, map and reconstruction out (``Deployed``). ``use_engine`` lets ONNX Runtime or
OpenVINO compute what the networks make of a batch (``Scorer``) while everything else stays here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fanogan.detectors import LearnedDetector
from fanogan.detectors.detector import BATCH, precision_of
from fanogan.folders import write_whole
from fanogan.losses import ali_mean, feature_residual, terms_and_maps
from fanogan.networks import folded
from fanogan.patches import HALF

FORMAT = 1
KEY = "fanogan"  # of the metadata in a file
ALPHA = 0.05
TOLERANCE = 1e-4  # of a written file beside PyTorch
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
LIBRARIES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
ENGINES = ("auto", "torch", *LIBRARIES)
WITHOUT_FEATURES = ("izi", "ziz", "ae")

Run = Callable[..., list[np.ndarray]]


class BadExport(ValueError):
    """What can't be exported or run, said in one sentence."""


# --- the graph ------------------------------------------------------------------------------------


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


def about(deployed: Deployed, detector: LearnedDetector) -> dict[str, Any]:
    """What goes into the file beside the graph, as plain values."""
    recipe = detector.recipe
    return {
        "format": FORMAT,
        "research_use": "Research use only, not a medical device.",
        "fanogan": version("fanogan"),
        "torch": version("torch"),
        "detector": detector.name,
        "inputs": {
            name: {"dtype": str(one.numpy().dtype), "shape": ["batch", *one.shape[1:]]}
            for name, one in deployed.inputs.items()
        },
        "outputs": list(deployed.outputs),
        "window": list(deployed.window),
        "sides": list(detector.preprocessing.sides),
        "levels": detector.preprocessing.levels,
        "kappa": recipe.kappa,
        "threshold": deployed.threshold,
        "false_positive_rate": ALPHA,
        "recipe": recipe.to_dict(),
        "preprocessing": detector.preprocessing.to_dict(),
        "calibration": detector.calibration.to_dict(),
        "familiar": detector.familiar.to_dict(),
        "fingerprint": detector.facts["fingerprint"],
        "warnings": detector.facts["warnings"],
    }


# --- writing it -----------------------------------------------------------------------------------


def export(detector: LearnedDetector, to: str, out: Path) -> float:
    """Write a model as one graph; it is read again and held beside PyTorch before it is kept.

    Args:
        detector: one that has learnt.
        to: 'onnx', or 'openvino' (with the weights beside it, in a file .bin).
        out: a file .onnx or .xml.

    Returns:
        The largest difference from PyTorch, relative where values are above 1.

    Raises:
        BadExport: a detector that has no graph, a wrong name, a library that isn't installed, or a
            file that doesn't give what PyTorch gives.
        OSError: it can't be written.
    """
    if to not in SUFFIXES:
        raise BadExport(f"--to {to}: give one of {', '.join(SUFFIXES)}")
    if out.suffix != SUFFIXES[to]:
        raise BadExport(f"{out}: give a file whose name ends with {SUFFIXES[to]}")
    _check_installed("onnx", "onnxscript", "onnxruntime" if to == "onnx" else to)
    deployed = Deployed(detector).eval()
    metadata = json.dumps(about(deployed, detector), allow_nan=False)
    graph = to_onnx(deployed, deployed.inputs, deployed.outputs, metadata)
    with TemporaryDirectory() as folder:
        written = Path(folder) / out.name
        if to == "onnx":
            written.write_bytes(graph)
        else:
            _write_openvino(graph, metadata, written)
        difference = _difference(deployed, ExportedModel(written))
        if difference > TOLERANCE:
            raise BadExport(
                f"{out}: not written, it differs from PyTorch by {difference:.2g} where "
                f"{TOLERANCE:g} is allowed; score this model with PyTorch"
            )
        for file in sorted(Path(folder).iterdir()):  # the weights before what names them
            write_whole(out.with_suffix(file.suffix), file.read_bytes())
    return difference


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


def _write_openvino(graph: bytes, metadata: str, out: Path) -> None:
    """The intermediate representation: not through convert_model, which reports its use."""
    import openvino

    model = openvino.Core().read_model(graph, b"")
    model.set_rt_info(metadata, KEY)
    openvino.save_model(model, str(out), compress_to_fp16=False)


def _difference(deployed: Deployed, model: ExportedModel) -> float:
    """Largest difference of any output, of random windows."""
    random = np.random.default_rng(0)
    levels = deployed.preprocessing.levels
    given = {
        name: random.integers(0, levels + 1, (3, *one.shape[1:])).astype(one.numpy().dtype)
        for name, one in deployed.inputs.items()
    }
    with torch.inference_mode(), precision_of("fp32"):
        expected = deployed(*(torch.from_numpy(one) for one in given.values()))
    found = model(**given)
    return max(
        float(np.max(np.abs(found[name] - one) / np.maximum(1, np.abs(one))))
        for name, one in zip(deployed.outputs, (one.numpy() for one in expected), strict=True)
        if one.dtype != np.bool_
    )


# --- running it -----------------------------------------------------------------------------------


class ExportedModel:
    """A file that ``export`` wrote, ready to run on the CPU.

    Example:
        >>> model = ExportedModel("retina.onnx")            # doctest: +SKIP
        >>> model(stored)["total"], model.about["window"]   # doctest: +SKIP
    """

    about: dict[str, Any]

    def __init__(self, path: str | Path, *, threads: int | None = None):
        """Read it, by its name with ONNX Runtime (.onnx) or OpenVINO (.xml).

        Raises:
            BadExport: no such file, not one of ours, or of a newer format.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES.values():
            raise BadExport(f"{path}: give a file .onnx or .xml that fanogan export wrote")
        if not path.is_file():
            raise BadExport(f"{path}: no such file; write one with fanogan export")
        opened = _onnxruntime if path.suffix == ".onnx" else _openvino
        _check_installed(opened.__name__.strip("_"))
        try:
            self._run, metadata = opened(str(path), threads or torch.get_num_threads())
            self.about = json.loads(metadata)
        except (RuntimeError, ValueError) as error:
            raise BadExport(
                f"{path}: not a whole file of fanogan export ({type(error).__name__}); write it "
                "again"
            ) from None
        if self.about["format"] > FORMAT:
            raise BadExport(
                f"{path}: of format {self.about['format']}, this version reads up to {FORMAT}: use "
                f"fanogan {self.about['fanogan']}"
            )

    def __call__(self, stored: np.ndarray, retina: np.ndarray | None = None) -> dict[str, Any]:
        """Run it; arguments and results as of ``Deployed.forward``, the results by their names.

        Raises:
            BadExport: an input that the graph doesn't take.
        """
        given = {"stored": stored} | ({} if retina is None else {"retina": retina})
        wanted = self.about["inputs"]
        if set(given) != set(wanted):
            raise BadExport(f"give {' and '.join(wanted)}, not {' and '.join(given)}")
        for name, one in given.items():
            shape, dtype = wanted[name]["shape"][1:], wanted[name]["dtype"]
            if list(one.shape[1:]) != shape or not len(one) or one.dtype != dtype:
                asked = "×".join(map(str, ["batch", *shape]))
                raise BadExport(
                    f"{name} is {'×'.join(map(str, one.shape))} {one.dtype}, the model takes "
                    f"{asked} {dtype}"
                )
        found = self._run(*(np.ascontiguousarray(one) for one in given.values()))
        return dict(zip(self.about["outputs"], found, strict=True))


def _onnxruntime(model: str | bytes, threads: int) -> tuple[Run, str]:
    """What runs a file (or its bytes) with ONNX Runtime, and the metadata in it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds have no common base but this
        raise RuntimeError(str(error)) from None
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run, session.get_modelmeta().custom_metadata_map.get(KEY, "")


def _openvino(model: str | bytes, threads: int) -> tuple[Run, str]:
    """The same with OpenVINO; where the CPU has bfloat16 it would take that unless told."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model) if isinstance(model, str) else core.read_model(model, b"")
    told = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(read, "CPU", told)

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        return list(compiled(list(inputs)).values())

    return run, str(read.get_rt_info(KEY).value) if read.has_rt_info(KEY) else ""


def _check_installed(*libraries: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise BadExport(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'fanogan[export]'"
        )


# --- in the place of PyTorch ----------------------------------------------------------------------


def use_engine(detector: LearnedDetector, name: str) -> str:
    """Let an engine compute what the detector's networks make of a batch, on the CPU.

    Args:
        detector: one that has learnt.
        name: one of ``ENGINES``; 'auto' is the fastest one that is installed, by timing this
            model here on a batch of 64.

    Returns:
        Which one it is, and why, in one line.

    Raises:
        BadExport: no such engine, one that isn't installed, or a detector that it can't run.
    """
    if name not in ENGINES:
        raise BadExport(f"--engine {name}: give one of {', '.join(ENGINES)}")
    if name == "torch":
        return "engine: torch"
    if name != "auto":
        if detector.device.type != "cpu":
            raise BadExport(
                f"--engine {name} computes on the CPU, not on {detector.device.type}: give "
                "--device cpu"
            )
        _check_installed("onnx", "onnxscript", name)
        (detector.engine,) = engines_of(detector, [name]).values()
        return f"engine: {name}"
    if detector.device.type != "cpu":
        return f"engine: torch, which alone computes on {detector.device.type}"
    installed = [library for library in LIBRARIES if find_spec(library) and find_spec("onnxscript")]
    try:
        engines = engines_of(detector, installed)
    except BadExport as error:
        return f"engine: torch ({error})"
    speeds = images_a_second(detector, engines)
    fastest = max(speeds, key=lambda one: speeds[one])
    detector.engine = engines.get(fastest)
    each = ", ".join(f"{one} {speed:.0f}" for one, speed in speeds.items())
    return f"engine: {fastest} (images a second here: {each})"


def engines_of(detector: LearnedDetector, names: Sequence[str]) -> dict[str, Engine]:
    """Each engine by its name; the graph is made once."""
    if not names:
        return {}
    scorer, seen = Scorer(detector).eval(), detector.preprocessing
    inputs = {"x": torch.zeros(2, seen.channels, *seen.sides)}
    if seen.retina and seen.retina.score_retina_only:
        inputs["inside"] = torch.ones(2, 1, *seen.sides, dtype=torch.bool)
    graph = to_onnx(scorer, inputs, ("terms", "maps"))
    openers = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    return {name: Engine(openers[name](graph, torch.get_num_threads())[0]) for name in names}


@dataclasses.dataclass(frozen=True)
class Engine:
    """``Detector._terms_and_maps`` by another library."""

    run: Run

    def __call__(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Arguments and results as there."""
        given = [one for one in (x, inside) if one is not None]
        terms, maps = self.run(*(np.ascontiguousarray(one.numpy()) for one in given))
        return torch.from_numpy(terms), torch.from_numpy(maps)


def images_a_second(
    detector: LearnedDetector,
    engines: Mapping[str, Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]],
    *,
    batch: int = BATCH,
    repeats: int = 3,
) -> dict[str, float]:
    """The speed of PyTorch as ``score`` uses it and of engines, by the fastest of a few batches.

    They take turns, so that what else the machine does meets all of them; the first batch warms up.
    """
    seen = detector.preprocessing
    random = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(batch, seen.channels, *seen.sides, generator=random) - 1
    inside = None
    if seen.retina and seen.retina.score_retina_only:
        inside = torch.ones(batch, 1, *seen.sides, dtype=torch.bool)
    seconds: dict[str, list[float]] = {}
    plain = copy.copy(detector)
    plain.engine = None
    with torch.inference_mode(), precision_of("fp32"):
        for _ in range(1 + repeats):
            for name, run in {"torch": plain.look, **engines}.items():
                started = time.perf_counter()
                run(x, inside)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    return {name: batch / min(each[1:]) for name, each in seconds.items()}
