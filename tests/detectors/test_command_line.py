"""Detectors by name from the shell: fit, build on a GAN, resume, score, and refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fanogan import cli
from fanogan.detectors import Detector
from fanogan.training import Run, encoder


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "HEALTH_IMAGES", 16)
    monkeypatch.setattr(Run, "REESTIMATE_BATCHES", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a short recipe and a run of f-AnoGAN's."""
    folder = tmp_path_factory.mktemp("shell")
    random = np.random.default_rng(0)
    np.save(folder / "normals.npy", random.integers(0, 256, (30, 16, 16), dtype=np.uint8))
    np.save(folder / "new.npy", random.integers(0, 256, (3, 16, 16), dtype=np.uint8))
    changed = {"base": "smoke", "critic_updates": 4, "encoder_updates": 4, "search_updates": 3}
    (folder / "short.yaml").write_text(yaml.safe_dump(changed))
    fit(folder, "run")
    return folder


def fit(folder: Path, out: str, *options: Any) -> None:
    recipe = () if "--recipe" in options else ("--recipe", folder / "short.yaml")
    words = ["fit", folder / "normals.npy", *recipe, "--out", folder / out, *options]
    cli.main([str(word) for word in words])


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_a_detector_by_its_name_is_fitted_and_scores(folder: Path, tmp_path: Path) -> None:
    fit(folder, "ae", "--detector", "ae")
    assert Detector.load(folder / "ae").name == "ae"
    cli.main(["score", str(folder / "ae"), str(folder / "new.npy"), "--out", str(tmp_path)])
    assert (tmp_path / "scores.csv").exists()


def test_a_recipes_encoder_is_the_detector_where_none_is_named(folder: Path) -> None:
    (folder / "ziz.yaml").write_text((folder / "short.yaml").read_text() + "encoder_loss: ziz\n")
    fit(folder, "by_recipe", "--recipe", folder / "ziz.yaml")
    assert Detector.load(folder / "by_recipe").name == "ziz"


def test_a_run_on_a_gan_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(folder, "whole", "--detector", "izi", "--gan", folder / "run")
    assert not (folder / "whole" / "checkpoints" / "gan.safetensors").exists()
    compute, calls = encoder.encoder_terms, itertools.count()

    def stop(*arguments: Any) -> Any:
        if (folder / "stopped" / "config.yaml").exists() and next(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(encoder, "encoder_terms", stop)
    resumes = f"resume with: fanogan fit --resume {folder}/stopped"
    with pytest.raises(KeyboardInterrupt, match=resumes):
        fit(folder, "stopped", "--detector", "izi", "--gan", folder / "run")
    assert (folder / "stopped" / "checkpoints" / "encoder.safetensors").exists()
    cli.main(["fit", "--resume", str(folder / "stopped")])
    ended, whole = (Detector.load(folder / name) for name in ("stopped", "whole"))
    assert ended.name == "izi"
    images = np.load(folder / "new.npy")
    np.testing.assert_array_equal(ended.score(images).total, whole.score(images).total)
    said = refusal(capsys, "fit", "--resume", folder / "stopped", "--detector", "ae")
    assert "a run is resumed as it was begun; give --resume without" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--detector", "vae"), "no detector 'vae': give one of izi_f, izi, ziz"),
        (("--detector", "ae", "--gan", "run"), "the detector ae trains all its networks"),
        (("--gan", "nowhere"), "no model here"),
        (("--gan", "run", "--recipe", "smoke.yaml"), "its GAN doesn't fit these normals and this"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    (folder / "smoke.yaml").write_text("base: smoke\nbase_width: 2\n")
    given = [folder / word if word in ("run", "smoke.yaml") else word for word in options]
    recipe = () if "--recipe" in options else ("--recipe", folder / "short.yaml")
    out = ("--out", folder / "refused")
    said = refusal(capsys, "fit", folder / "normals.npy", *recipe, *out, *given)
    assert words in said and len(said.splitlines()) == 1
    assert not (folder / "refused").exists()
