"""A model.json that was changed and has a right checksum: it loads and scores, or is refused."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fanogan.detectors import Detector, untrained
from fanogan.report import model_card
from fanogan.scans import BadScan
from fanogan.scoring import about_model, results, row_of, statement_of
from fanogan.storage import BadFolder, _with_checksum, write_model_folder

MODELS = Path(__file__).parent / "former_models"
WRONG = (None, "x", -1, 0, 3.5, [], {}, [1], [[1, 2], [3, 4]], True, 1e300, 10**12)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value, and to the first two of a list."""
    if above:
        yield above
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(min(len(value), 2))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield from places(value[key], (*above, key))


def forgeries(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each value replaced by each wrong one, and each left out."""
    for way in places(body):
        if way[0] in ("checksum", "weights_sha256", "libraries"):
            continue
        for wrong in (*WRONG, "left out"):
            forged = copy.deepcopy(body)
            above = forged
            for key in way[:-1]:
                above = above[key]
            if wrong == "left out":
                del above[way[-1]]
            else:
                above[way[-1]] = wrong
            yield f"{'.'.join(map(str, way))}: {wrong}", forged


def check(folder: Path, name: str, count: int | None) -> None:
    shutil.copytree(MODELS / name, folder)
    body = json.loads((folder / "model.json").read_text())
    every = list(forgeries(body))
    refused = 0
    for what, forged in every if count is None else random.Random(0).sample(every, count):
        (folder / "model.json").write_text(_with_checksum(forged))
        try:
            model = Detector.load(folder, device="cpu").model
        except BadFolder as error:
            assert str(error).startswith(str(folder)) and "\n" not in str(error), what
            refused += 1
            continue
        model_card(model.to_dict()), about_model(model), statement_of(model, 0.05), untrained(model)
        if not model.preprocessing.retina:
            with contextlib.suppress(BadScan):  # of other channels than the forged model's
                for result in results(model, IMAGES):
                    row_of(result, model.calibration, 0.05)
    assert refused > len(every if count is None else range(count)) / 4


@pytest.mark.parametrize("name", ["izi_f", "retinal"])
def test_a_forged_model_is_used_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    check(tmp_path / "model", name, 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["izi_f", "ae", "critic", "retinal"])
def test_every_forged_model_is_used_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    check(tmp_path / "model", name, None)


@pytest.mark.parametrize("path", ["calibration.units", "recipe", "preprocessing.image_size"])
def test_the_sentence_names_what_is_wrong(path: str, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "izi_f", tmp_path / "model")
    text = (tmp_path / "model/model.json").read_text()
    forged = above = json.loads(text.replace('"sides"', '"image_size"'))
    for key in path.split(".")[:-1]:
        above = above[key]
    above[path.rpartition(".")[2]] = 7
    (tmp_path / "model/model.json").write_text(_with_checksum(forged))
    with pytest.raises(BadFolder, match=r"not a model that this version can read \(.*0\.1\.0"):
        Detector.load(tmp_path / "model", device="cpu")


def test_weights_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.loads((MODELS / "izi_f/model.json").read_text())
    monkeypatch.setattr("safetensors.torch.save", lambda tensors: b"no tensors")
    write_model_folder(tmp_path / "model", {}, body, "")
    with pytest.raises(BadFolder, match="holds no tensors"):
        Detector.load(tmp_path / "model")
