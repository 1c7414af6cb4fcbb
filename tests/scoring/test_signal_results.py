"""What scoring writes of signals: maps over time, spans, curves."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ecg import make_ecg
from PIL import Image
from small_runs import RECIPE

from fanogan import FAnoGAN
from fanogan.calibration import Calibration
from fanogan.data import SignalView
from fanogan.evaluation import evaluate
from fanogan.report import Curves, draw_curves
from fanogan.scans import BadScan
from fanogan.scoring import Model, results, write_results
from fanogan.scoring.cases import case_of, pack, unpack_case
from fanogan.scoring.result import Result
from fanogan.scoring.signal_maps import DRAWN, curves_of, span_row, spans_of

TINY = RECIPE.but(window=(1, 128), image_size=(1, 128), held_out_fraction=0.4, base_width=4)


def save_csv(folder: Path, seed: int, seconds: float = 12, **how: bool) -> np.ndarray:
    """Two leads, the second upside down; returns the first."""
    folder.mkdir(exist_ok=True)
    lead = make_ecg(seed, seconds=seconds, **how).samples
    table = np.column_stack([np.arange(len(lead)) / 125, lead, -2 * lead])
    head = "time,I,II"
    np.savetxt(folder / f"{seed}.csv", table, "%.8g", ",", header=head, comments="")
    return lead


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("normals")
    for seed in range(5):
        save_csv(folder, seed)
    detector = FAnoGAN(recipe=TINY, device="cpu").fit(folder)
    detector.save(folder / "model")
    return FAnoGAN.load(folder / "model", device="cpu").model


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_maps_lie_over_time_beside_signal_and_nearest_normal(model: Model, tmp_path: Path) -> None:
    lead = save_csv(tmp_path / "new", 100, diseased=True)
    (row,) = write_results(model, tmp_path / "new", tmp_path / "out")
    # Windows of 128 at every 64 of 1,500 samples, and one at the end.
    assert row["windows"] == 22 + 1
    residual = np.load(tmp_path / "out" / "maps" / "100.csv.npy")
    assert (residual.shape, residual.dtype) == ((1500,), np.float32)
    table = rows_of(tmp_path / "out" / "maps" / "100.csv.csv")
    assert list(table[0]) == [
        *("time", "I", "II", "I nearest normal", "II nearest normal", "residual")
    ]
    values = {name: np.array([float(line[name]) for line in table]) for name in table[0]}
    np.testing.assert_allclose(values["time"], np.arange(1500) / 125, atol=1e-6)
    np.testing.assert_allclose(values["I"], lead, atol=1e-3)
    np.testing.assert_allclose(values["II"], -2 * lead, atol=2e-3)
    np.testing.assert_allclose(values["residual"], residual, atol=1e-6)
    # |x − x̂|, the mean of both channels, in units of half of their ranges; fused over windows.
    view = model.preprocessing.signal
    assert view is not None and view.names == ("I", "II") and view.rate == 125
    half = (np.array(view.highs) - np.array(view.lows)) / 2
    apart = [
        np.abs(values[name] - values[f"{name} nearest normal"]) / of
        for name, of in zip(view.names, half, strict=True)
    ]
    assert (residual >= np.mean(apart, 0) - 2e-4).all()
    picture = Image.open(tmp_path / "out" / "overlays" / "100.csv.png")
    assert picture.size == (900, 420)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "1,500 samples: signal, nearest normal version, and what differs" in page
    assert "windows of 128 samples, seen at 128 samples" in page


def test_a_score_is_the_same_alone_and_among_others(model: Model, tmp_path: Path) -> None:
    for seed in (100, 101, 102):
        save_csv(tmp_path, seed, seconds=12 + seed - 100)
    together = {r.name: r.total for r in results(model, tmp_path)}
    assert sorted(together) == ["100.csv", "101.csv", "102.csv"]
    for name, total in together.items():
        (alone,) = results(model, tmp_path / name)
        assert alone.total == pytest.approx(total, rel=1e-5)


def with_line(line: np.ndarray, rate: float | None) -> Result:
    view = SignalView((0.0, -1.0), (1.0, 3.0), rate, ())
    x = np.zeros((1, len(line), 2), np.float32)
    x[0, :, 1] = line
    zero = np.zeros_like(x)
    residual = line[None].astype(np.float32)
    known = {"residual": residual, "picture": x, "reconstruction": zero, "smoothed": residual[0]}
    return Result("a.csv", "a.csv", "a", "image", 0, 1, 1, 0, 1, 1, 1, signal=view, **known)


def test_spans_begin_and_end_in_seconds() -> None:
    line = np.full(3000, 0.1)
    line[1000:1100] = 0.5
    line[2000:2050] = 0.7
    line[500:504] = 0.9  # shorter than any span
    calibration = Calibration({}, 1.0, (0.1, 0.3))
    spans = spans_of(with_line(line, 250), calibration)
    rows = [span_row(with_line(line, 250), span) for span in spans]
    assert [(row["start_s"], row["end_s"]) for row in rows] == [("4", "4.4"), ("8", "8.2")]
    assert [(row["first_sample"], row["last_sample"]) for row in rows] == [
        *((1000, 1099), (2000, 2049))
    ]
    assert float(rows[1]["peak"]) == pytest.approx(0.7)
    unknown = span_row(with_line(line, None), spans[0])
    assert (unknown["start_s"], unknown["first_sample"]) == ("", 1000)
    assert spans_of(with_line(line, 250), Calibration({}, 1.0)) == []


def test_curves_show_where_and_in_which_channel_a_signal_differs_most() -> None:
    line = np.full(3000, 0.1)
    line[2000:2050] = 0.7
    result = with_line(line, 250)
    curves = curves_of(result, Calibration({}, 1.0, (0.1, 0.3)))
    time, signal, normal, within = curves.values
    assert len(time) == DRAWN
    assert (time[0], curves.unit) == (pytest.approx((2000 - DRAWN // 2) / 250), "s")
    assert curves.channel == "channel 1"
    np.testing.assert_allclose(normal, 1)  # 0 of −1 … 1 in the range −1 … 3
    np.testing.assert_allclose(signal, 1 + 2 * line[2000 - DRAWN // 2 :][:DRAWN], rtol=1e-6)
    assert within.sum() == 50
    assert curves.extent == "4.096 of 12 s, where it differs most"
    case = case_of(result, Calibration({}, 1.0, (0.1, 0.3)), 0.05)
    again = unpack_case(pack(case)).curves
    assert again is not None and np.array_equal(again.values, curves.values)
    assert again.extent == curves.extent


def test_a_flat_stretch_can_be_drawn() -> None:
    values = np.zeros((4, 30), np.float32)
    values[0] = np.arange(30)
    assert draw_curves(Curves(values, "samples", "I", "all")).shape == (420, 900, 3)


def test_recordings_are_evaluated_beside_scores_that_need_no_network(
    model: Model, tmp_path: Path
) -> None:
    for kind, diseased in (("normal", False), ("anomalous", True)):
        for seed in range(100, 104):
            save_csv(tmp_path / kind, seed, diseased=diseased)
    found = evaluate(model, tmp_path / "normal", tmp_path / "anomalous", tmp_path / "out")
    assert {"low gradient", "PCA residual"} <= {row["name"] for row in found["rows"]}
    assert "held-out signals of 2 subjects" in found["calibrated"]["note"]
    assert len(rows_of(tmp_path / "out" / "scores.csv")) == 8
    assert "nearest normal version" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_masks_of_signals_say_which_samples_are_anomalous(model: Model, tmp_path: Path) -> None:
    for seed in (100, 101):
        save_csv(tmp_path / "normal", seed)
    marked = {}
    for seed in (200, 201, 202):
        save_csv(tmp_path / "ill", seed, diseased=True)
        marked[seed] = make_ecg(seed, seconds=12, diseased=True).ventricular
    (tmp_path / "masks").mkdir()
    # As arrays and as a column of a table.
    np.save(tmp_path / "masks" / "200.npy", marked[200])
    np.savez(tmp_path / "masks" / "202.npz", marked[202])
    table = np.column_stack([np.arange(1500) / 125, marked[201]])
    np.savetxt(tmp_path / "masks" / "201.csv", table, "%g", ",", header="time,marked", comments="")
    parts = [tmp_path / name for name in ("normal", "ill", "eval")]
    found = evaluate(model, *parts, masks=tmp_path / "masks")
    anomalous = sum(each.sum() for each in marked.values())
    assert found["pixel"]["prevalence"] == anomalous / (5 * 1500)
    page = (tmp_path / "eval" / "report.html").read_text("utf-8")
    assert "<h2>Samples</h2>" in page and "sample AUC of gradient, a trivial map" in page
    np.save(tmp_path / "masks" / "200.npy", marked[200][:-1])
    with pytest.raises(
        BadScan, match=r"the mask of 200\.csv has 1×1499 pixels and the image 1×1500"
    ):
        evaluate(model, *parts, masks=tmp_path / "masks")
