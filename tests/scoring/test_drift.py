"""What score records of the images in use, and what ``fanogan drift`` says of it."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan import FAnoGAN
from fanogan.calibration import MEASURES, periods
from fanogan.cli import main
from fanogan.recipes import load_recipe
from fanogan.scans import Shard, Sharded
from fanogan.scoring import Model, merge, read_drift, results, write_results

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
SPACING = 0.2, 0.3  # mm between rows and columns


def pictures(count: int, seed: int, gain: float = 1.0) -> np.ndarray:
    """Images whose brightness varies by some 3 %."""
    random = np.random.default_rng(seed)
    mean = random.normal(110, 3, (count, 1, 1))
    return (gain * (mean + random.normal(0, 15, (count, 20, 24)))).clip(0, 255).astype(np.uint8)


def files_of(folder: Path, images: np.ndarray, spacing: tuple[float, float] = SPACING) -> Path:
    """Write TIFF files of Jane's that tell how far rows and columns are apart."""
    folder.mkdir()
    for number, each in enumerate(images):
        tifffile.imwrite(
            folder / f"Jane-{number}.tif",
            each,
            imagej=True,
            resolution=(1 / spacing[1], 1 / spacing[0]),
            metadata={"unit": "mm"},
        )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    normals = files_of(tmp_path_factory.mktemp("normals") / "files", pictures(120, 0))
    return FAnoGAN(TINY, device="cpu").fit(normals).model


def shifted_in(model: Model, scans: Path) -> list[str]:
    write_results(model, scans, scans.with_suffix(".out"), scores_only=True)
    (period,) = periods(read_drift([scans.with_suffix(".out")]))
    return period.shifted


def test_brightness_and_spacing_that_shift_are_found(model: Model, tmp_path: Path) -> None:
    same = files_of(tmp_path / "same", pictures(60, 1))
    assert shifted_in(model, same) == []
    brighter = shifted_in(model, files_of(tmp_path / "brighter", pictures(60, 2, gain=1.1)))
    assert "brightness" in brighter and not any("spacing" in name for name in brighter)
    other = files_of(tmp_path / "other", pictures(60, 3), (0.2, 0.32))
    assert shifted_in(model, other) == ["column spacing"]


def test_the_record_holds_numbers_alone(model: Model, tmp_path: Path) -> None:
    scans = files_of(tmp_path / "scans", pictures(30, 4))
    write_results(model, scans, tmp_path / "out", scores_only=True)
    text = (tmp_path / "out/drift.json").read_text()
    assert "Jane" not in text and "normal" not in text
    record = read_drift([tmp_path / "out"])
    (day,) = record.days.values()
    assert day.images == day.squares == 30
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    edges = record.reference.edges["score"]
    assert sum(day.cells["score"][::2]) == 30  # none is a held-out score
    assert day.cells["score"][0] == sum(score < edges[0] for score in scores)
    result = next(results(model, scans))
    pixels = pictures(30, 4)[0] / 255
    assert result.measures[1:] == pytest.approx((pixels.mean(), pixels.std(), 0.0, 0.2, 0.3))
    assert len(result.measures) == len(MEASURES)


def test_shards_count_a_subject_once(model: Model, tmp_path: Path) -> None:
    for number, pixels in enumerate(pictures(12, 5)):
        path = tmp_path / "images" / f"subject-{number // 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    write_results(model, tmp_path / "images", tmp_path / "whole", scores_only=True)
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        source = Sharded(tmp_path / "images", Shard(number, 2))
        write_results(model, source, part, scores_only=True)
    merge(parts, tmp_path / "merged")
    whole, merged = (read_drift([tmp_path / name]) for name in ("whole", "merged"))
    assert whole == merged
    (day,) = whole.days.values()
    assert (day.images, day.squares, day.effective) == (12, 4 * 9, 4)


def run(*arguments: str) -> int:
    try:
        main(list(map(str, arguments)))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command_shows_a_page_and_ends_with_3_where_it_shifted(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, gain in (("same", 1.0), ("brighter", 1.1)):
        images = files_of(tmp_path / f"{name}-scans", pictures(60, 6, gain=gain))
        write_results(model, images, tmp_path / name, scores_only=True)
    page = tmp_path / "page.html"
    assert run("drift", tmp_path / "same", "--out", page) == 0
    said = capsys.readouterr().out
    assert said.startswith("No shift is shown (20") and f"the page: {page}" in said
    assert run("drift", tmp_path / "brighter", "--out", page) == 3
    assert re.match(
        r"Shifted \(20\S+, 60 images\): .*brightness 0\.\d\d \(0\.", capsys.readouterr().out
    )
    text = page.read_text()
    assert '<p class="alarm">Shifted' in text and "PSI" in text and "Jane" not in text
    assert "frame spacing" not in text and "row spacing" in text  # nobody knows the first
    assert run("drift", tmp_path / "brighter", "--out", page, "--json") == 3
    values = json.loads(capsys.readouterr().out)
    assert values["shifted"] is True and "brightness" in values["periods"][0]["shifted"]
    # Beside a time like itself it isn't shifted.
    itself = ("--against", tmp_path / "brighter")
    assert run("drift", tmp_path / "brighter", "--out", page, *itself) == 0
    assert "images of an earlier time" in capsys.readouterr().out


def test_what_is_no_record_is_a_sentence(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = model.but(calibration=dataclasses.replace(model.calibration, reference=None))
    scans = files_of(tmp_path / "scans", pictures(3, 7))
    write_results(older, scans, tmp_path / "older", scores_only=True)
    (tmp_path / "other.json").write_text('{"drift": 7}')
    record = tmp_path / "few"
    write_results(model, scans, record, scores_only=True)
    for given, said in (
        ([], "no record: fanogan drift RESULTS_OR_RECORD"),
        ([tmp_path / "older"], "fanogan calibrate MODEL NORMALS --out NEW"),
        ([tmp_path / "other.json"], "not a drift record that this version can read"),
        ([tmp_path / "none.json"], "none.json: no such file or directory"),
        ([record, "--against", tmp_path / "older"], "no drift.json here"),
        ([record, "--alpha", "2"], "--alpha is 2"),
    ):
        assert run("drift", *given, "--out", tmp_path / "page.html") == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    assert run("drift", record, "--out", tmp_path / "page.html") == 0
    assert "too few to tell: images as good as 3 independent ones" in capsys.readouterr().out


def test_an_older_model_is_calibrated_anew(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = model.but(calibration=dataclasses.replace(model.calibration, reference=None))
    older.save(tmp_path / "older")
    files_of(tmp_path / "new", pictures(25, 9))
    assert run("calibrate", tmp_path / "older", tmp_path / "new", "--out", tmp_path / "model") == 0
    assert "25 held-out images" in capsys.readouterr().out
    newer = FAnoGAN.load(tmp_path / "model", device="cpu").model
    assert newer.calibration.subjects("image") == 25
    assert newer.provenance["fingerprint"]["held_out_images"] == 25
    expected = sorted(result.total for result in results(older, tmp_path / "new"))
    assert sorted(newer.calibration.units["image"].scores) == pytest.approx(expected)
    write_results(newer, tmp_path / "new", tmp_path / "out", scores_only=True)
    (period,) = periods(read_drift([tmp_path / "out"]))
    assert period.shifts["score"].distance == 0
    seen = older.seen
    assert seen is not None
    files_of(tmp_path / "seen", pictures(120, 0))  # half of them it was trained on
    assert run("calibrate", tmp_path / "older", tmp_path / "seen", "--out", tmp_path / "no") == 1
    assert "the model was trained on it" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
