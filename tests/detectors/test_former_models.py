"""Models of version 0.1.0 load, and score as they did."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fanogan.cli.demo import flat_phantom
from fanogan.detectors import Detector, FAnoGAN
from fanogan.phantom import make_phantom
from fanogan.storage import BadFolder

MODELS = Path(__file__).parent / "former_models"
DIGITS = np.load(MODELS / "digits.npz")["arr_0"]


def expected_scores(name: str) -> Any:
    return json.loads((MODELS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["izi_f", "ae", "critic"])
def test_digits_score_as_they_did(name: str, tmp_path: Path) -> None:
    expected = expected_scores(name)
    then = Detector.load(MODELS / name, device="cpu")
    then.save(tmp_path / "now")
    for detector in (then, Detector.load(tmp_path / "now", device="cpu")):
        assert detector.name == name
        scores = detector.score(DIGITS)
        for term in ("total", "image", "feature"):
            np.testing.assert_allclose(getattr(scores, term), expected[term], rtol=1e-5)
        assert detector.predict(DIGITS, 0.2).tolist() == expected["flags"]


def test_of_another_ali_it_is_said_which_version_reads_it() -> None:
    """ALI has had other networks since."""
    with pytest.raises(BadFolder) as raised:
        Detector.load(MODELS / "ali", device="cpu")
    assert str(raised.value) == (
        f"{MODELS / 'ali'}: not a model that this version can read: its networks aren't those of "
        "the detector ali here; fanogan 0.1.0, which made it, reads it, or train it anew"
    )


def test_volumes_of_retina_score_as_they_did() -> None:
    """With all that a recipe can ask of retinas: layers matched, depth, tissue alone, spreads."""
    shape, spacing = (4, 200, 96), (0.24, 0.00387, 0.022)
    volumes = [
        flat_phantom(make_phantom(seed, shape=shape, spacing=spacing, diseased=True))
        for seed in (200, 201)
    ]
    detector = Detector.load(MODELS / "retinal", device="cpu")
    expected = expected_scores("retinal")
    for found, (name, unit, *terms, windows) in zip(
        detector.results(volumes), expected, strict=True
    ):
        assert (found.name, found.unit, found.windows) == (name, unit, windows)
        np.testing.assert_allclose((found.total, found.image, found.feature), terms, rtol=1e-5)
        assert (found.shape, found.shape_line, found.combined) == (None, None, None)


@pytest.mark.parametrize(
    ("loss", "name"), [("izi_f", "izi_f"), ("izi", "izi-features"), ("ziz", "ziz-features")]
)
def test_what_was_called_f_anogan_is_known_by_its_loss(
    tmp_path: Path, loss: str, name: str
) -> None:
    """The first models name no variant, and lack fields that were added; all score by Eq. 4."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "izi_f", folder)
    values = json.loads((folder / "model.json").read_text())
    values["detector"] = "f-AnoGAN"
    values["recipe"]["encoder_loss"] = loss
    del values["steps"]
    for added in ("denoising", "score_features", "search_updates", "search_rate"):
        del values["recipe"][added]
    del values["checksum"]
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**values, "checksum": checksum}, indent=1, sort_keys=True)
    (folder / "model.json").write_text(text)
    for loaded in (Detector.load(folder, device="cpu"), FAnoGAN.load(folder, device="cpu")):
        assert loaded.name == loaded.model.detector == name
        total = loaded.score(DIGITS).total
        np.testing.assert_allclose(total, expected_scores("izi_f")["total"], rtol=1e-5)
        loaded.save(tmp_path / "again")
    assert Detector.load(tmp_path / "again").name == name
