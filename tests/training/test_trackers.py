"""Where figures of a training go: each tracker is read back by its own means."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stripes import NORMALS, TINY

from fanogan import FAnoGAN
from fanogan.training import BadTracker, check_tracker, read_metrics

RECIPE = TINY.but(critic_updates=20, encoder_updates=10, log_every=2)


def fit(out: Path, **options: Any) -> None:
    FAnoGAN(RECIPE, seed=3, device="cpu").fit(NORMALS, out=out, **options)


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The figures of ``metrics.jsonl`` by stage and name, with their steps."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(out):
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                found.setdefault(f"{line['stage']}/{name}", []).append((line["step"], value))
    return found


def test_csv_has_every_figure_of_both_stages(tmp_path: Path) -> None:
    fit(tmp_path / "run", logger="csv")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = curves(tmp_path / "run")
    assert {name.split("/")[0] for name in expected} == {"gan", "encoder"}
    for name, points in expected.items():
        stage, key = name.split("/")
        ours = [row for row in rows if row["stage"] == stage]
        assert [(int(row["step"]), float(row[key])) for row in ours] == points
    assert not (tmp_path / "run" / "events").exists()


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of MLflow whose runs are files."""
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'fanogan[trackers]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return mlflow.MlflowClient()


def test_mlflow_has_one_run_with_settings_and_figures_though_it_was_stopped(
    tmp_path: Path, mlflow_store: Any
) -> None:
    def stop(stage: str, step: int, steps: int, figures: Any) -> None:
        if (stage, step) == ("gan", 5):
            raise KeyboardInterrupt

    out = tmp_path / "retina"
    with pytest.raises(KeyboardInterrupt):
        fit(out, logger="mlflow", progress=stop)
    fit(out, logger="mlflow", resume=True)
    experiment = mlflow_store.get_experiment_by_name("fanogan")
    (run,) = mlflow_store.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("retina", "FINISHED")
    assert run.data.params["seed"] == "3" and run.data.params["detector"] == "izi_f"
    assert run.data.params["critic_updates"] == "20"
    for name, points in curves(out).items():
        history = mlflow_store.get_metric_history(run.info.run_id, name)
        found = {point.step: point.value for point in history}
        assert list(found) == [step for step, _ in points]
        if not name.endswith("seconds"):  # which a resumed run counts anew
            assert np.allclose(list(found.values()), [value for _, value in points])


def test_training_outlives_a_tracker_that_fails(
    tmp_path: Path, mlflow_store: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def gone(*arguments: Any) -> None:
        raise ConnectionError("the server is\ngone")

    monkeypatch.setattr("mlflow.MlflowClient.log_batch", gone)
    fit(tmp_path / "run", logger="mlflow")
    assert caplog.text.count("logger mlflow fails (the server is gone)") == 1
    assert (tmp_path / "run" / "model" / "model.json").exists()


def test_a_tracker_that_cannot_be_opened_is_said_before_the_training(
    tmp_path: Path, mlflow_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at.all")
    with pytest.raises(BadTracker, match=r"logger mlflow can't be opened \(.*nowhere"):
        fit(tmp_path / "run", logger="mlflow")
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_keeps_a_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs pip install 'fanogan[trackers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(tmp_path / "run", logger="wandb")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    written = file.read_bytes()
    for name in ("gan/wasserstein_held_out", "encoder/image_held_out", "critic_updates"):
        assert name.encode() in written


def test_what_is_no_tracker_is_answered_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadTracker, match="no logger 'neptune': give one of tensorboard, csv, ml"):
        check_tracker("neptune")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadTracker, match=r"wandb isn't installed: pip install 'fanogan\[trackers"):
        check_tracker("wandb")


def test_a_run_remembers_its_tracker(tmp_path: Path) -> None:
    fit(tmp_path / "run", logger="csv")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["logger"] == "csv"
