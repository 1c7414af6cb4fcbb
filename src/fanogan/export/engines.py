"""ONNX Runtime and OpenVINO: running what was exported, and scoring in the place of PyTorch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fanogan.export.graph import KEY, BadExport, graph_of, to_onnx
from fanogan.scoring import BATCH, Model, score_batch
from fanogan.training import precision_of

FORMAT = 1
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
LIBRARIES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
ENGINES = ("auto", "torch", *LIBRARIES)

Run = Callable[..., list[np.ndarray]]


class ExportedModel:
    """A file that ``export`` wrote, ready to run on the CPU.

    Examples:
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
        opened = open_onnxruntime if path.suffix == ".onnx" else open_openvino
        check_installed(opened.__name__.removeprefix("open_"))
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


def open_onnxruntime(model: str | bytes, threads: int, precision: str = "fp32") -> tuple[Run, str]:
    """Return what runs a file (or its bytes) with ONNX Runtime, and the metadata in it.

    Raises:
        BadExport: a precision that it doesn't have.
    """
    if precision != "fp32":
        raise BadExport(
            f"ONNX Runtime computes on CPUs in fp32, not in {precision}: give --engine openvino or "
            "torch"
        )
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


def open_openvino(model: str | bytes, threads: int, precision: str = "fp32") -> tuple[Run, str]:
    """Return the same with OpenVINO; where the CPU has bfloat16 it would take that unless told."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model) if isinstance(model, str) else core.read_model(model, b"")
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    told = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(read, "CPU", told)

    # A mask, the last input, is dropped where nothing depends on it, as in the critic's graph.
    count = len(compiled.inputs)

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        return list(compiled(list(inputs[:count])).values())

    return run, str(read.get_rt_info(KEY).value) if read.has_rt_info(KEY) else ""


def check_installed(*libraries: str) -> None:
    """Raise BadExport unless they are."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise BadExport(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'fanogan[export]'"
        )


# --- in place of PyTorch --------------------------------------------------------------------------


def use_engine(model: Model, name: str) -> tuple[Model, str]:
    """Return a model whose score is computed by an engine, on the CPU, in the model's precision.

    Args:
        model: a trained one.
        name: one of ``ENGINES``; 'auto' is the fastest that is installed, by timing this model here
            on a batch of 64.

    Returns:
        The model, and which engine it uses and why, in one line.

    Raises:
        BadExport: no such engine, one that isn't installed, a detector that it can't run, or a
            precision that it doesn't have.
    """
    if name not in ENGINES:
        raise BadExport(f"--engine {name}: give one of {', '.join(ENGINES)}")
    if name == "torch":
        return model, "engine: torch"
    if name != "auto":
        if model.device.type != "cpu":
            raise BadExport(
                f"--engine {name} computes on the CPU, not on {model.device.type}: give "
                "--device cpu"
            )
        check_installed("onnx", "onnxscript", name)
        return with_engines(model, [name])[name], f"engine: {name}"
    if model.device.type != "cpu":
        return model, f"engine: torch, which alone computes on {model.device.type}"
    installed = [
        library
        for library in (LIBRARIES if model.precision == "fp32" else ["openvino"])
        if find_spec(library) and find_spec("onnxscript")
    ]
    try:
        models = {"torch": model, **with_engines(model, installed)}
    except BadExport as error:
        return model, f"engine: torch ({error})"
    speeds = images_a_second(models)
    fastest = max(speeds, key=lambda engine: speeds[engine])
    each = ", ".join(f"{engine} {speed:.0f}" for engine, speed in speeds.items())
    return models[fastest], f"engine: {fastest} (images a second here: {each})"


def with_engines(model: Model, names: Sequence[str]) -> dict[str, Model]:
    """Return the model with each engine; the graph is made once."""
    if not names:
        return {}
    graph = to_onnx(graph_of(model), inputs_of(model, 2), ("terms", "maps"))
    openers = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}
    threads, retina = torch.get_num_threads(), model.preprocessing.retina
    return {
        name: model.but(
            score=EngineScore(
                openers[name](graph, threads, model.precision)[0], retina is not None
            ),
            engine=name,
        )
        for name in names
    }


def inputs_of(model: Model, batch: int) -> dict[str, Tensor]:
    """Return random inputs of the score module, by their names."""
    random = torch.Generator().manual_seed(0)
    shape = model.preprocessing.image_shape
    inputs = {"x": 2 * torch.rand(batch, *shape, generator=random) - 1}
    if model.preprocessing.retina:
        inputs["inside"] = torch.ones(batch, 1, *shape[1:], dtype=torch.bool)
    return inputs


class EngineScore(nn.Module):
    """A score module that another library computes."""

    def __init__(self, run: Run, takes_inside: bool):
        """Take what runs the graph, and whether the graph has the second input."""
        super().__init__()
        self.run, self.takes_inside = run, takes_inside

    def forward(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score images, as ``ReconstructionScore`` does."""
        if inside is None and self.takes_inside:
            inside = torch.ones_like(x[:, :1], dtype=torch.bool)
        given = [each for each in (x, inside) if each is not None]
        terms, maps = self.run(*(np.ascontiguousarray(each.numpy()) for each in given))
        return torch.from_numpy(terms), torch.from_numpy(maps)


def images_a_second(
    models: Mapping[str, Model], *, batch: int = BATCH, repeats: int = 3
) -> dict[str, float]:
    """Return the speed of one model by several engines, by the fastest of a few batches each.

    They take turns, so that what else the machine does affects all of them; the first batch warms
    up.
    """
    inputs = inputs_of(next(iter(models.values())), batch)
    seconds: dict[str, list[float]] = {}
    with torch.inference_mode(), precision_of("fp32"):
        for _ in range(1 + repeats):
            for name, model in models.items():
                started = time.perf_counter()
                score_batch(model, *inputs.values())
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    return {name: batch / min(each[1:]) for name, each in seconds.items()}
