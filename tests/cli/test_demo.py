"""The demo: what ships for it, and that each of its steps can be done by hand."""

import csv
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanogan.cli import demo, main
from fanogan.cli.demo import CREDIT, GROUPS, KINDS, MITBIH, OCTDL

RECIPE = """
base: demo
critic_updates: 2
encoder_updates: 2
base_width: 4
reestimate_batch_norm: false
held_out_fraction: 0.5
"""


def patients(kind: str) -> set[str]:
    return {re.search(GROUPS["octdl"], file.name)[1] for file in (OCTDL / kind).glob("*.jpg")}


# --- the pictures that ship -------------------------------------------------------------------


def test_nobody_is_both_learnt_from_and_tested() -> None:
    train, normal, anomalous = map(patients, KINDS)
    assert (len(train), len(normal), len(anomalous)) == (38, 13, 61)
    assert len(train | normal | anomalous) == 38 + 13 + 61


def test_nobody_is_there_under_two_numbers() -> None:
    files = sorted(OCTDL.glob("*/*.jpg"))
    thumbnails = []
    for file in files:
        with Image.open(file) as image:
            thumbnails.append(np.asarray(image.resize((64, 24))).ravel())
    correlations = np.corrcoef(thumbnails) - np.eye(len(files))
    one, other = (files[index] for index in divmod(int(correlations.argmax()), len(files)))
    # Over all of OCTDL: .944 between different pictures, .988 where a picture is there twice.
    assert correlations.max() < 0.97, (one.name, other.name)


def test_the_source_says_what_there_is_and_whose() -> None:
    text = (OCTDL / "SOURCE.md").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/" in text and "10.1038/s41597-024" in text
    counts = {kind: len(list((OCTDL / kind).glob("*.jpg"))) for kind in KINDS}
    assert f"{sum(counts.values())} of the set's pictures" in text
    assert f"`train` | {counts['train']} normal ones of {len(patients('train'))} people" in text
    assert f"`normal` | {counts['normal']} normal ones of {len(patients('normal'))} others" in text
    for disease, count in re.findall(r"\(`(\w+)`, (\d+)\)", text):
        assert len(list((OCTDL / "anomalous").glob(f"{disease}_*"))) == int(count)


def test_pictures_are_small_grey_and_of_one_size() -> None:
    files = list(OCTDL.glob("*/*.jpg"))
    assert sum(file.stat().st_size for file in files) < 3.5e6
    for file in files:
        with Image.open(file) as image:
            assert image.mode == "L" and 540 <= image.width <= 546 and 305 <= image.height <= 330


# --- the heart beats that ship ----------------------------------------------------------------


def test_the_people_whose_beats_are_learnt_are_not_tested_and_the_source_says_how_many() -> None:
    files = {kind: sorted((MITBIH / kind).glob("*.npy")) for kind in KINDS}
    people = {kind: {file.stem for file in files[kind]} for kind in KINDS}
    assert not people["train"] & (people["normal"] | people["anomalous"])
    assert people["anomalous"] <= people["normal"]
    text = (MITBIH / "SOURCE.md").read_text(encoding="utf-8")
    assert "https://opendatacommons.org/licenses/by/1-0/" in text and "10.1109/51.932724" in text
    for kind in KINDS:
        beats = np.concatenate([np.load(file) for file in files[kind]])
        count, of = re.search(rf"`{kind}` \| (\d+) .*, of (\d+) ", text).groups()
        assert (len(beats), len(files[kind])) == (int(count), int(of))
        assert beats.shape[1:] == (1, 128) and beats.dtype == np.float32
        # A beat lies in the middle, on average higher than a fifth of a second before it.
        heights = np.abs(beats[:, 0] - np.median(beats[:, 0], axis=1, keepdims=True)).mean(0)
        assert heights[59:70].max() > 2 * heights[34:45].max()


# --- the demo ---------------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave eight of the pictures, and training of two updates."""
    for kind, names in (("train", "no_*_1.jpg"), ("normal", "no_*_1.jpg"), ("anomalous", "*.jpg")):
        (tmp_path / "octdl" / kind).mkdir(parents=True)
        count = 4 if kind == "train" else 2
        for file in sorted((OCTDL / kind).glob(names))[:count]:
            shutil.copy(file, tmp_path / "octdl" / kind)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr(demo, "OCTDL", tmp_path / "octdl")
    monkeypatch.setitem(demo.RECIPES, "octdl", str(tmp_path / "tiny.yaml"))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # to start processes takes longer than the work
    monkeypatch.chdir(tmp_path)


def scores(folder: str) -> dict[str, float]:
    with open(Path(folder, "scores.csv"), newline="") as file:
        return {row["name"]: float(row["score"]) for row in csv.DictReader(file)}


def test_each_step_can_be_done_by_hand(few, capsys) -> None:
    main(["demo"])
    printed = capsys.readouterr().out
    assert CREDIT["octdl"] in printed and "learning from 4 B-scans of 4 healthy people" in printed
    page = Path("demo", "report.html").read_text(encoding="utf-8")
    assert "Kulyabin" in page and "CC BY 4.0" in page
    assert '<th scope="row">ae' in page  # the autoencoder has its row beside the others
    found = json.loads(Path("demo", "metrics.json").read_text())
    assert (found["unit"], found["n"], found["n_anomalous"], found["n_subjects"]) == (
        *("image", 4, 2, 4),
    )
    assert {"ae", "untrained networks", "darkness"} <= {row["name"] for row in found["rows"]}

    commands = [line.strip() for line in printed.splitlines() if line.startswith("  fanogan ")]
    assert [command.split()[1] for command in commands] == ["fit", "score", "evaluate"]
    for command in commands:
        main(shlex.split(command)[1:])
    by_demo = scores("demo")
    assert scores("evaluation") == pytest.approx(by_demo, rel=1e-4)
    for name, value in scores("results/octdl").items():
        assert value == pytest.approx(by_demo[name], rel=1e-4)


def test_one_kind_of_images_at_a_time(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--phantom", "--digits", "--out", str(tmp_path / "demo")])
    assert "--phantom and --digits contradict each other" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_missing_extra_is_named(few, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(SystemExit):
        main(["demo"])
    assert "pip install 'fanogan[oct]'" in capsys.readouterr().err


def test_heart_beats_are_real_and_each_step_can_be_done_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("demo", "signal"))
    monkeypatch.setitem(demo.RECIPES, "signal", str(tmp_path / "tiny.yaml"))
    for kind, people in (("train", "11*"), ("normal", "10*"), ("anomalous", "10*")):
        (tmp_path / "mitbih" / kind).mkdir(parents=True)
        for file in (MITBIH / kind).glob(f"{people}.npy"):
            np.save(tmp_path / "mitbih" / kind / file.name, np.load(file)[:5])
    monkeypatch.setattr(demo, "MITBIH", tmp_path / "mitbih")
    monkeypatch.chdir(tmp_path)
    main(["demo", "--signal"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        CREDIT["signal"],
        "learning from 15 normal beats of 3 people; testing on 10 normal and 6 ventricular ones of "
        "2 others",
    ]
    found = json.loads(Path("demo", "metrics.json").read_text())
    assert (found["n"], found["n_anomalous"], found["n_subjects"]) == (16, 6, 2)
    commands = [line.strip() for line in lines if line.startswith("  fanogan ")]
    for command in commands:
        main(shlex.split(command)[1:])
    by_demo = scores("demo")
    assert scores("evaluation") == pytest.approx(by_demo, rel=1e-4)
    for name, value in scores("results/signal").items():
        assert value == pytest.approx(by_demo[name], rel=1e-4)


@pytest.mark.slow
def test_made_up_eyes_have_exact_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("demo", "phantom"))
    monkeypatch.setitem(demo.RECIPES, "phantom", str(tmp_path / "tiny.yaml"))
    found = demo.run_demo(tmp_path / "demo", "phantom")
    assert found["unit"] == "patch" and found["pixel"]["auc"] is not None
    assert len(list((tmp_path / "demo" / "volumes" / "masks").iterdir())) == len(demo.DISEASED)
