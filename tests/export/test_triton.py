"""A real Triton loads an exported folder as it is, and answers as PyTorch does."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from stripes import fitted

from fanogan.export import export
from fanogan.scoring import Model, score_batch, totals_of

# PyPI has the server with its backend for Python alone, which lets a backend be written in Python:
# the one for ONNX Runtime is stood in by this. Repository, settings, shapes, kinds of numbers and
# dynamic batches are the server's own affair.
# Arrays pass by DLPack, since the backend's own way knows NumPy 1 alone.
BACKEND = """
import numpy
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path)
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        answers = []
        for request in requests:
            stored = numpy.from_dlpack(triton.get_input_tensor_by_name(request, "stored")).copy()
            found = self.session.run(self.names, {"stored": stored})
            tensors = [triton.Tensor.from_dlpack(*each) for each in zip(self.names, found)]
            answers.append(triton.InferenceResponse(tensors))
        return answers
"""


@contextlib.contextmanager
def triton(repository: Path, work: Path) -> Iterator[str]:
    """Give the address of a server of a repository."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs pip install --no-deps nvidia-pytriton")
    package = Path(spec.submodule_search_locations[0])
    server, backends = package / "tritonserver", work / "backends"
    shutil.copytree(server / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = shutil.copy(
        server / "python_backend_stubs" / version / "triton_python_backend_stub",
        backends / "python",
    )
    program = shutil.copy(server / "bin" / "tritonserver", work)
    for each in (stub, program):
        Path(each).chmod(0o755)
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(BACKEND)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(package.with_name("nvidia_pytriton.libs")),
        # The backend for Python looks for this environment's packages beside the first python.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    where = ["--model-repository", str(repository), "--backend-directory", str(backends)]
    port = str(20000 + os.getpid() % 10000)
    alone = ["--http-port", port, "--allow-grpc", "false", "--allow-metrics", "false"]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            [program, *where, *alone], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(300):
                assert process.poll() is None, (work / "log").read_text()
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready").close()
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v2/models"
        finally:
            process.terminate()
            process.wait(60)


def asked(url: str, window: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs for one window of shape (1, C, H, W)."""
    given = {"name": "stored", "datatype": "UINT8", "shape": window.shape}
    body = json.dumps({"inputs": [{**given, "data": window.ravel().tolist()}]}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/infer", body)) as answer:
            outputs: list[dict[str, Any]] = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in outputs}


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted("izi_f").model


@pytest.mark.system
@pytest.mark.slow
def test_triton_loads_the_folder_and_answers_as_pytorch(model: Model, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    export(model, "triton", repository / "stripes")
    shape = model.preprocessing.image_shape
    windows = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    with torch.inference_mode():
        x = model.preprocessing.to_device(windows, model.device)
        terms, maps = (each.numpy() for each in score_batch(model, x, None))
    with triton(repository, tmp_path) as models, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: asked(f"{models}/stripes", one[None]), windows))
        with urllib.request.urlopen(f"{models}/stripes/stats") as answer:
            (stats,) = json.load(answer)["model_stats"]
    assert_allclose([each["terms"][0] for each in found], terms, atol=1e-5)
    assert_allclose([each["total"][0, 0] for each in found], totals_of(model, terms), atol=1e-5)
    assert_allclose([each["map"][0] for each in found], maps[:, 0], atol=1e-5)
    assert stats["inference_count"] == 20
    assert stats["inference_stats"]["fail"]["count"] == 0
