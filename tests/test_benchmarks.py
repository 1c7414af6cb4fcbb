"""The benchmark scripts' own parts: which patches are cut, how they are labelled, and tables."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ecg import make_ecg

from fanogan import FAnoGAN, load_recipe

CHECKOUT = Path(__file__).resolve().parents[1]
TOP, BOTTOM = 150, 250


@pytest.fixture
def oct_patches(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("oct_patches")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("tables")


def bscan() -> np.ndarray:
    """A bright band on a dark ground with a white wedge at the upper left, and a bright spot."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 30, (400, 400), dtype=np.uint8)
    pixels[TOP:BOTTOM] += 120
    rows, columns = np.indices(pixels.shape)
    pixels[rows + columns < 170] = 255
    pixels[200:210, 300:310] = 255
    return pixels


def test_a_filled_margin_touches_the_frame_and_a_bright_spot_does_not(
    oct_patches: ModuleType,
) -> None:
    rows, columns = np.indices((400, 400))
    assert np.array_equal(oct_patches.filled_margin(bscan()), rows + columns < 170)


def test_the_band_finds_the_bright_rows(oct_patches: ModuleType) -> None:
    pixels = bscan()
    first, last = oct_patches.retina_band(pixels, oct_patches.filled_margin(pixels))
    # The 5th and 95th percentile of 100 rows, and what smoothing adds.
    assert np.abs(first[60:] - (TOP + 5)).max() <= 6
    assert np.abs(last[60:] - (BOTTOM - 5)).max() <= 6


def test_patches_lie_in_the_columns_and_the_band_and_touch_no_margin(
    oct_patches: ModuleType,
) -> None:
    pixels = bscan()
    margin = oct_patches.filled_margin(pixels)
    found = list(oct_patches.corners(pixels, range(10, 390), 32))
    assert found
    for row, column in found:
        assert column >= 10 and column + 64 <= 390
        assert TOP - 6 <= row + 32 <= BOTTOM + 6
        assert not margin[row : row + 64, column : column + 64].any()
    assert {row for row, _ in found} == {128, 160, 192}
    # (128, 10) is the one place of the grid that the wedge reaches.
    assert len(found) == 3 * 10 - 1 and (128, 10) not in found


def test_one_pixel_of_fluid_makes_a_patch_anomalous_and_levels_leave_out_what_lies_between(
    oct_patches: ModuleType,
) -> None:
    fluid = np.zeros((400, 400), dtype=bool)
    fluid[160, 74] = True  # only in the patches that begin at row 128 or 160, column 42 or 74
    patches = oct_patches.cut([("eye 1", bscan(), fluid)], range(10, 390))
    assert patches.fluid.sum() == (patches.share > 0).sum() == 4
    none, little, much = 0.0, 0.005, 0.06
    share = np.array([none, none, little, much] * 2)
    fluid = np.zeros((8, 64, 64), dtype=bool)
    for place, part in enumerate(share):
        fluid[place].reshape(-1)[: round(part * 64 * 64)] = True
    eyes = ("eye 1",) * 4 + ("eye 2",) * 4
    made_up = oct_patches.Patches(np.zeros(fluid.shape, dtype=np.uint8), fluid, eyes)
    # Right inside each eye, and wrong between them.
    total = np.array([10.0, 10.0, 11.0, 12.0, 20.0, 20.0, 21.0, 22.0])
    terms = {"total": total, "image": total, "feature": total}
    found = {
        level: oct_patches.at_level(least, made_up, terms, total, {"darkness": -total})
        for level, least in oct_patches.LEVELS.items()
    }
    assert [(one["n"], one["n_anomalous"]) for one in found.values()] == [(8, 4), (6, 2), (6, 2)]
    method = found["any"]["rows"][0]
    assert method["within"] == 1.0 and method["auc"] == 0.75
    assert method["eyes"] == {"eye 1": 1.0, "eye 2": 1.0}
    assert found["any"]["eyes_with_both"] == 2


def test_precision_at_another_prevalence_is_that_of_the_paper(
    oct_patches: ModuleType,
) -> None:
    oct_volumes = importlib.import_module("oct")
    point = {"sensitivity": 0.8091, "false_positive_rate": 1 - 0.9049}
    # Its table 1: .7863 and .7975, of 70,000 images of which about 30 % are anomalous.
    assert oct_volumes.at_prevalence(point) == pytest.approx((0.7863, 0.7975), abs=0.002)


def test_what_is_inserted_into_an_electrocardiogram_is_where_it_is_marked(
    tables: ModuleType,
) -> None:
    signals = importlib.import_module("signals")
    samples = make_ecg(0, seconds=8).samples
    for kind in signals.INSERTED:
        random = np.random.default_rng(0)
        found, marked = signals.changed(samples, 500, kind, random)
        differs = np.flatnonzero(found != samples)
        assert marked.sum() == (2 if kind == "spike" else 62), kind
        assert marked[differs].all() and len(differs) > 0.4 * marked.sum(), kind
        assert marked[500] or not kind.startswith("beat")
        assert signals.flat_run(found) >= 62 if kind == "flat" else signals.flat_run(found) < 20


def test_results_lie_with_the_code_and_networks_where_git_does_not_look(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "RUNS", tmp_path / "runs")
    path = tmp_path / "results" / "digits" / "seed0.json"
    normals = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    detector = FAnoGAN(load_recipe("smoke").but(critic_updates=5, encoder_updates=1))
    minutes = tables.trained(detector, normals, path)
    tables.keep(path, {"seed": 0, "minutes": minutes})
    assert tables.kept_results(path.parent) == [{"seed": 0, "minutes": minutes}] and minutes > 0
    assert (tmp_path / "runs" / "digits" / "seed0" / "model").is_dir()
    assert [path.name for path in path.parent.iterdir()] == ["seed0.json"]


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(
    tables: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    for name, text in (("one", "first"), ("two", "other"), ("one", "second"), ("one", "second")):
        tables.write_section(name, text, page)
    assert page.read_text(encoding="utf-8") == (
        "# Benchmarks\n\n<!-- one: begin -->\nsecond\n<!-- one: end -->\n"
        "\n<!-- two: begin -->\nother\n<!-- two: end -->\n"
    )


def test_a_spread_is_shown_only_where_there_is_one(tables: ModuleType) -> None:
    assert tables.spread([0.5]) == tables.spread([0.5, 0.5]) == "0.500"
    assert tables.spread([0.4, 0.6]) == "0.500 ± 0.141"


def test_the_rates_reached_are_averaged_over_seeds(tables: ModuleType) -> None:
    row = {"alpha": 0.05, "threshold": 1.0, "note": "evidence"}
    results = [
        {"seed": seed, "calibrated": {**row, "false_positive_rate": rate, "sensitivity": 0.5}}
        for seed, rate in enumerate((0.02, 0.06))
    ]
    said = tables.reached(results)
    assert "asked for 5 %: reached 4.0 % on average, from 2.0 % to 6.0 %" in said
    results[0]["calibrated"] = {**row, "threshold": None, "note": "too few held out"}
    assert "too few held out" in tables.reached(results[:1])


def test_a_ratio_that_fell_is_named_and_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    speed_tables = importlib.import_module("speed_tables")
    kept = json.loads((CHECKOUT / "benchmarks/results/speed/2-cores-amd-epyc.json").read_text())
    before = speed_tables.ratios(kept["rows"])
    scoring = before["score and map, width 8 at 64×64, ours against as written"]
    assert scoring == pytest.approx(3.41, abs=0.005)
    kept["rows"]["critic step, 8, 32, ours"]["share"] *= 0.8
    kept["rows"]["critic step, 16, 32, ours"]["share"] *= 0.95
    (fell,) = speed_tables.fallen(before, speed_tables.ratios(kept["rows"]))
    assert fell.startswith("critic step, width 8 at 32×32, ours against as written: 1.68× before")
    assert "| 90 % arithmetic |" in speed_tables.machine_text(kept)


def test_a_step_is_bound_by_what_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    roofline = importlib.import_module("roofline")
    a, b = torch.rand(2, 10, 10)
    # Two operands read and one result written, of 100 numbers of 4 bytes; a view moves nothing.
    assert roofline.bytes_moved(lambda: (a + b).T) == 1200
    able = {"fp32": 100.0, "bf16": 400.0, "bytes": 10.0}
    assert roofline.bound(200, 10, 4.0, "fp32", able) == ("arithmetic", 0.5)
    assert roofline.bound(200, 10, 4.0, "bf16", able) == ("memory", 0.25)


def test_the_rows_of_a_card_are_filled_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    speed = importlib.import_module("speed")
    rows = list(speed.whole_runs(torch.device("cpu"), "smoke", 0.01))
    assert [row[0] for row in rows] == [
        "gan of recipe smoke",
        "encoder of recipe smoke",
        "recipe smoke, extrapolated",
        "70,000 patches scored with maps",
    ]
    assert all(float(row[1].split()[0]) > 0 for row in rows)


def test_the_first_page_is_what_the_details_say(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of each section f-AnoGAN, the best that needs no network, the autoencoder, and untrained."""
    summary = importlib.import_module("summary")
    details, page = tmp_path / "details.md", tmp_path / "page.md"
    header = "| score | any (95 %) |\n| --- | --- |\n"
    rows = "| brightness | 0.6 |\n| low_contrast | 0.700 (0.6 to 0.8) |\n| untrained | 0.5 |"
    better, worse = (f"| f-AnoGAN | {auc} ± 0.01 (0.5 to 0.9) |\n" for auc in (0.8, 0.65))
    other = "| eye | AUC |\n| --- | --- |\n| 1 | 0.9 |"
    beside = "| autoencoder of equal cost | 0.9 |"
    text = f"One.\n\n{header}{better}{rows}\n{beside}\n\n{other}\n\n{header}{worse}{rows}"
    tables.write_section("here", text, details)
    monkeypatch.setattr(summary, "DOCS", details)
    monkeypatch.setattr(summary, "SUMMARY", page)
    monkeypatch.setattr(
        summary, "ROWS", [("here", at, 1, "normals", f"table {at}") for at in (0, 1)]
    )
    summary.main()
    lines = page.read_text(encoding="utf-8").splitlines()
    assert "| normals | table 0 | 0.8 ± 0.01 | 0.700 (low contrast) | ahead | 0.9 | 0.5 |" in lines
    assert (
        "| normals | table 1 | 0.65 ± 0.01 | 0.700 (low contrast) | **behind** | – | 0.5 |" in lines
    )


def test_the_details_have_each_section_that_the_first_page_shows(tables: ModuleType) -> None:
    summary = importlib.import_module("summary")
    for section, number, *_ in summary.ROWS:
        assert len([*summary.tables_of(section)]) > number, section


def test_a_piece_for_the_gpu_is_stopped_in_time_and_the_next_call_goes_on(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = importlib.import_module("gpu")
    done = []

    def pieces(*_: object) -> dict[str, Callable[[], None]]:
        slow = {} if done else {"slow": lambda: time.sleep(60)}
        return {"quick": lambda: done.append("quick"), **slow}

    monkeypatch.setattr(gpu, "pieces", pieces)
    monkeypatch.setattr(gpu, "RESERVE", 0)
    words = ["gpu.py", "--device", "cpu", "--data", str(tmp_path), "--minutes"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sys.argv", [*words, "0.02"])
    with pytest.raises(SystemExit, match="goes on from here"):
        gpu.main()
    assert done == ["quick"]
    monkeypatch.setattr("sys.argv", [*words, "10"])
    gpu.main()
    assert done == ["quick", "quick"]


@pytest.mark.slow
def test_all_that_wants_a_gpu_runs_tiny_on_the_processor(tables: ModuleType) -> None:
    """In full, into ``runs/tiny``; minutes, the first time."""
    data = Path(os.environ.get("FANOGAN_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (data / "oct" / "kermany").is_dir():
        pytest.skip("no benchmark data: set FANOGAN_DATA to the folder that holds it")
    shutil.rmtree(CHECKOUT / "runs" / "tiny", ignore_errors=True)
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu"]
    command += ["--minutes", "30", "--data", str(data)]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("all is done\n")
    results = CHECKOUT / "runs" / "tiny" / "results"
    kept = {path.relative_to(results).parts[0] for path in results.rglob("*.json")}
    assert kept == {"gpu", "oct_pictures", "lgg", "mnist"}
