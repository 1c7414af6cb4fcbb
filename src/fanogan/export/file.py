"""Where it goes: a trained model as one graph, for ONNX Runtime and OpenVINO.

``export`` writes a file that needs neither PyTorch nor this package (``Deployed``).
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fanogan.calibration import ALPHA
from fanogan.export.engines import (
    FORMAT,
    SUFFIXES,
    EngineScore,
    ExportedModel,
    check_installed,
    inputs_of,
    open_onnxruntime,
)
from fanogan.export.folder import TRITON, about_folder, triton_config
from fanogan.export.graph import KEY, BadExport, Deployed, graph_of, to_onnx
from fanogan.scoring import Model, in_precision
from fanogan.storage import TEMPORARY, put_in_place, write_whole
from fanogan.training import precision_of

MARKS = {"folder": ("runtime.py", '"""Score images with'), "triton": ("config.pbtxt", TRITON)}
"""The kinds of folders: a file in it, and how that begins, by which it is known again."""
TOLERANCE = 1e-4  # of a written file beside PyTorch


def export(model: Model, to: str, out: Path) -> float:
    """Write a model as one graph; it is read again and held beside PyTorch before it is kept.

    Args:
        model: a trained one.
        to: 'onnx', or 'openvino' (with the weights beside it, in a file .bin); 'folder', with a
            graph of the networks, ``model.json`` and ``runtime.py``, which score images; or
            'triton', a folder as model servers take it.
        out: a file .onnx or .xml, or the folder.

    Returns:
        The largest difference from PyTorch, relative where values are above 1.

    Raises:
        BadExport: a detector that has no graph, a wrong name, a library that isn't installed, or a
            file that doesn't give what PyTorch gives; or another file lies there.
        OSError: it can't be written.
    """
    model = in_precision(model, "fp32")[0]
    if to not in (*SUFFIXES, *MARKS):
        raise BadExport(f"--to {to}: give one of {', '.join((*SUFFIXES, *MARKS))}")
    if to in MARKS:
        return _export_folder(model, to, out)
    if out.suffix != SUFFIXES[to]:
        raise BadExport(f"{out}: give a file whose name ends with {SUFFIXES[to]}")
    check_installed("onnx", "onnxscript", "onnxruntime" if to == "onnx" else to)
    written = [out, out.with_suffix(".bin")] if to == "openvino" else [out]
    if any(map(os.path.lexists, written)):
        try:
            ExportedModel(out)
        except BadExport:
            raise BadExport(
                f"{out}: is there already, and no export wrote it; give another name"
            ) from None
    deployed = Deployed(model).eval()
    metadata = json.dumps(about(deployed, model), allow_nan=False)
    graph = to_onnx(deployed, deployed.inputs, deployed.outputs, metadata)
    with TemporaryDirectory() as folder:
        new = Path(folder) / out.name
        if to == "onnx":
            new.write_bytes(graph)
        else:
            _write_openvino(graph, metadata, new)
        difference = _difference(deployed, ExportedModel(new))
        _check(difference, out)
        for file in sorted(Path(folder).iterdir()):  # the weights before what names them
            write_whole(out.with_suffix(file.suffix), file.read_bytes())
    return difference


def _check(difference: float, out: Path) -> None:
    if difference > TOLERANCE:
        raise BadExport(
            f"{out}: not written, it differs from PyTorch by {difference:.2g} where "
            f"{TOLERANCE:g} is allowed; score this model with PyTorch"
        )


def _export_folder(model: Model, to: str, out: Path) -> float:
    """Write a folder, in the place of one that was written before; as ``export``."""
    check_installed("onnx", "onnxscript", "onnxruntime")
    kind = model.preprocessing.kind
    if to == "folder" and kind != "image":
        raise BadExport(f"runtime.py reads images, and this model takes {kind}s: give --to onnx")
    name, begins = MARKS[to]
    is_empty = out.is_dir() and not any(out.iterdir())
    is_ours = (out / name).is_file() and (out / name).read_bytes().startswith(begins.encode())
    if os.path.lexists(out) and not (is_empty or is_ours):
        raise BadExport(f"{out}: is there already, and no such export wrote it; give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=TEMPORARY, dir=out.parent) as temporary:
        folder = Path(temporary) / "folder"
        if to == "triton":
            difference = export(model, "onnx", folder / "1" / "model.onnx")
            write_whole(folder / name, triton_config(Deployed(model), out.name).encode())
        else:
            module, inputs = graph_of(model), inputs_of(model, 3)
            graph = to_onnx(module, inputs, ("terms", "maps"))
            write_whole(folder / "model.onnx", graph)
            run, _ = open_onnxruntime(str(folder / "model.onnx"), torch.get_num_threads())
            with torch.inference_mode(), precision_of("fp32"):
                expected = module(*inputs.values())
            found = EngineScore(run, len(inputs) > 1)(*inputs.values())
            pairs = zip(found, expected, strict=True)
            difference = max(float((one - other).abs().max()) for one, other in pairs)
            _check(difference, out)
            text = json.dumps(about_folder(model), indent=1, allow_nan=False, ensure_ascii=False)
            write_whole(folder / "model.json", text.encode())
            write_whole(folder / name, files("fanogan.export").joinpath(name).read_bytes())
        put_in_place(folder, out)
    return difference


def about(deployed: Deployed, model: Model) -> dict[str, Any]:
    """Return what goes into the file beside the graph, as plain values."""
    return {
        "format": FORMAT,
        "research_use": "Research use only, not a medical device.",
        "fanogan": version("fanogan"),
        "torch": version("torch"),
        "detector": model.detector,
        "inputs": {
            name: {"dtype": str(one.numpy().dtype), "shape": ["batch", *one.shape[1:]]}
            for name, one in deployed.inputs.items()
        },
        "outputs": list(deployed.outputs),
        "window": list(deployed.window),
        "sides": list(model.preprocessing.image_size),
        "levels": model.preprocessing.levels,
        "kappa": model.recipe.kappa,
        "threshold": deployed.threshold,
        "false_positive_rate": ALPHA,
        "recipe": model.recipe.to_dict(),
        "preprocessing": model.preprocessing.to_dict(),
        "calibration": model.calibration.to_dict(),
        "familiar": model.profile.to_dict(),
        "fingerprint": model.provenance["fingerprint"],
        "warnings": model.provenance["warnings"],
    }


def _write_openvino(graph: bytes, metadata: str, out: Path) -> None:
    """Write the intermediate representation: not by convert_model, which reports its use."""
    import openvino

    model = openvino.Core().read_model(graph, b"")
    model.set_rt_info(metadata, KEY)
    openvino.save_model(model, str(out), compress_to_fp16=False)


def _difference(deployed: Deployed, exported: ExportedModel) -> float:
    """Largest difference of any output, of random windows."""
    random = np.random.default_rng(0)
    levels = deployed.preprocessing.levels
    given = {
        name: random.integers(0, levels + 1, (3, *one.shape[1:])).astype(one.numpy().dtype)
        for name, one in deployed.inputs.items()
    }
    with torch.inference_mode(), precision_of("fp32"):
        expected = deployed(*(torch.from_numpy(one) for one in given.values()))
    found = exported(**given)
    return max(
        float(np.max(np.abs(found[name] - one) / np.maximum(1, np.abs(one))))
        for name, one in zip(deployed.outputs, (one.numpy() for one in expected), strict=True)
        if one.dtype != np.bool_
    )
