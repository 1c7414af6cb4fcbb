"""A detector of another package: one class, registered, and everything works with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from stripes import IMAGES, NORMALS, TINY, assert_same_scores, assert_same_weights, fit, fitted
from torch import nn

from fanogan.cli import main
from fanogan.data import Preprocessing
from fanogan.detectors import (
    BadDetector,
    Detector,
    detector_names,
    new_detector,
    register,
    registry,
    untrained,
)
from fanogan.evaluation import evaluate
from fanogan.export import ExportedModel, export
from fanogan.models import ReconstructionScore
from fanogan.scoring import score, write_results
from fanogan.training import Run, Stage


class MeanImage(nn.Module):
    """x → the mean of the normals, whatever x is."""

    mean: torch.Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean.expand_as(x)


class Toy(Detector):
    """Scores by the distance from the mean image."""

    def networks(self, preprocessing: Preprocessing) -> dict[str, nn.Module]:
        return {"M": MeanImage(preprocessing.image_shape)}

    def steps(self, preprocessing: Preprocessing) -> dict[str, int]:
        return {"mean": 6}

    def train(self, networks: Mapping[str, nn.Module], run: Run) -> list[str]:
        network = networks["M"]
        assert isinstance(network, MeanImage)
        with Stage("mean", run, {"network": network}) as stage:
            for step in stage.steps_left():
                x = run.normals.draw(run.batch_size, run.random_at("mean", step))
                network.mean.lerp_(x.mean(0), 1 / (step + 1))
                stage.collect(image=(x - network.mean).square().mean())
                if stage.is_due(step):
                    stage.report(step, stage.means())
            stage.finish()
        return []

    def score_module(
        self, networks: Mapping[str, nn.Module], constants: Mapping[str, float]
    ) -> ReconstructionScore:
        return ReconstructionScore(networks["M"])

    def training_cost(self, preprocessing: Preprocessing) -> int:
        return 0


@pytest.fixture
def toy() -> Iterator[str]:
    register("toy", title="the mean image")(Toy)
    yield "toy"
    del registry._registered["toy"]


def test_it_learns_scores_and_is_kept(toy: str, tmp_path: Path) -> None:
    assert detector_names()[-1] == toy
    detector = new_detector(toy, TINY, device="cpu").fit(NORMALS, out=tmp_path / "run")
    assert detector.model.title == "the mean image"
    x = IMAGES[:, None] * (2 / 255) - 1
    mean = detector.model.networks["M"].mean.numpy()
    assert np.abs(mean - (NORMALS * (2 / 255) - 1).mean(0)).mean() < 0.1
    scores = detector.score(IMAGES)
    np.testing.assert_allclose(scores.total, ((x - mean) ** 2).mean((1, 2, 3)), rtol=1e-5)
    loaded = Detector.load(tmp_path / "run", device="cpu")
    assert isinstance(loaded, Toy) and loaded.name == toy
    assert_same_scores(loaded.score(IMAGES), scores)
    assert not np.allclose(score(untrained(loaded.model), IMAGES).total, scores.total)
    assert "6 steps of mean" in (tmp_path / "run" / "model" / "card.md").read_text()


def test_its_run_is_resumed_bit_equal(toy: str, tmp_path: Path) -> None:
    def stop(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy, out=tmp_path, progress=stop)
    assert_same_weights(fit(toy, out=tmp_path, resume=True).model, fit(toy).model)


def test_it_writes_results_and_is_evaluated_beside_others(toy: str, tmp_path: Path) -> None:
    model = fit(toy).model
    table = write_results(model, IMAGES, tmp_path / "results")
    assert len(table) == len(IMAGES)
    assert "the mean image" in (tmp_path / "results" / "report.html").read_text()
    ill = 255 - IMAGES
    for first, second in ((model, fitted("pca").model), (fitted("pca").model, model)):
        out = tmp_path / first.detector
        metrics = evaluate(first, IMAGES, ill, out, beside=[second])
        rows = json.dumps(metrics)
        assert first.title in rows and second.detector in rows
        assert (out / "report.html").exists()


def test_its_exported_graph_is_equal(toy: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    detector = fit(toy)
    assert export(detector.model, "onnx", tmp_path / "toy.onnx") < 1e-5
    exported = ExportedModel(tmp_path / "toy.onnx")
    found = exported(IMAGES[:, None])
    scores = detector.score(IMAGES)
    np.testing.assert_allclose(found["total"], scores.total, rtol=1e-5)
    np.testing.assert_allclose(found["map"], np.stack(detector.localize(IMAGES)), atol=1e-6)
    assert exported.about["detector"] == toy


def test_the_command_line_knows_it(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "normals.npy", NORMALS)
    np.save(tmp_path / "new.npy", IMAGES)
    np.save(tmp_path / "ill.npy", 255 - IMAGES)
    normals, new, ill, run, results, evaluation = (
        str(tmp_path / name)
        for name in ("normals.npy", "new.npy", "ill.npy", "run", "results", "evaluation")
    )
    main(["fit", normals, "--detector", toy, "--recipe", "smoke", "--out", run])
    assert Detector.load(run).name == toy
    main(["score", run, new, "--out", results])
    assert len((tmp_path / "results" / "scores.csv").read_text().splitlines()) == 1 + len(IMAGES)
    main(["evaluate", run, "--normal", new, "--anomalous", ill, "--out", evaluation])
    assert (tmp_path / "evaluation" / "metrics.json").exists()
    with pytest.raises(SystemExit):
        main(["fit", normals, "--detector", "toi", "--out", str(tmp_path / "other")])
    assert "no detector 'toi': give one of izi_f, " in capsys.readouterr().err


def test_a_name_is_given_once(toy: str) -> None:
    for name in (toy, "ae"):
        with pytest.raises(ValueError, match=f"there is a detector '{name}' already"):
            register(name)(Toy)


def test_two_models_of_one_detector_stand_beside_each_other(toy: str, tmp_path: Path) -> None:
    model, ill = fit(toy).model, 255 - IMAGES
    metrics = evaluate(model, IMAGES, ill, tmp_path / "out", beside=[model, model])
    others = [row for row in metrics["rows"] if row["kind"] == "other"]
    assert [row["name"] for row in others] == ["toy", "toy (2)"]
    assert others[0]["auc"] == others[1]["auc"]


def test_a_class_without_a_name_is_told_to_take_one() -> None:
    with pytest.raises(BadDetector, match=r"Toy has no name: register it, with @register"):
        _ = Toy(TINY, device="cpu").name


# --- entry points ---------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what they register is forgotten afterwards."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before, modules = dict(registry._registered), set(sys.modules)
    registry._load_entry_points.cache_clear()
    yield site
    registry._load_entry_points.cache_clear()
    registry._registered.clear()
    registry._registered.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("lab_"):
            del sys.modules[name]


def install(site: Path, package: str, program: str, entry_point: str) -> None:
    about = site / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[fanogan.detectors]\n{entry_point}\n")
    (site / f"{package}.py").write_text(program)


def test_another_packages_detector_appears(site: Path) -> None:
    program = "from fanogan.detectors import PrincipalComponents\nclass Few(PrincipalComponents):"
    install(site, "lab_few", f"{program} ...\n", "few = lab_few:Few")
    settled = f"{program} ...\nfrom fanogan.detectors import register\n"
    settled += "register('many', title='Many', latent_size=7)(Few)\n"
    install(site, "lab_many", settled, "many = lab_many:Few")
    assert {"few", "many"} < set(detector_names())
    few, many = (new_detector(name, TINY, device="cpu") for name in ("few", "many"))
    assert (few.name, many.name) == ("few", "many")
    assert (few.recipe.latent_size, many.recipe.latent_size) == (TINY.latent_size, 7)
    model = many.fit(NORMALS).model
    assert (model.detector, model.title) == ("many", "Many")


def test_a_package_that_cannot_be_loaded_leaves_the_others_at_work(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "lab_broken", "import a_library_that_is_not_there\n", "broken = lab_broken:Toy")
    assert "izi_f" in detector_names() and "broken" not in detector_names()
    (told,) = caplog.messages
    assert "the detector broken can't be loaded from lab_broken:Toy: No module named" in told
