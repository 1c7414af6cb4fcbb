"""Runs side by side: the command, its table and its page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fanogan.cli.parser import main
from fanogan.detectors import Detector


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fours and other digits, and two models of fours, of smoke and of principal components."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    fours, others = (np.flatnonzero(same) for same in (found.target == 4, found.target != 4))
    for kind, indices in {"train": fours[:60], "normal": fours[60:70], "ill": others[:12]}.items():
        (folder / kind).mkdir()
        for index in indices:
            Image.fromarray(pixels[index]).save(folder / kind / f"{index}.png")
    fit = ["fit", str(folder / "train"), "--recipe", "smoke", "--out"]
    main([*fit, str(folder / "first")])
    main([*fit, str(folder / "second"), "--detector", "pca", "--set", "kappa=2"])
    begun = folder / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_bytes((folder / "first" / "config.yaml").read_bytes())
    line = {"stage": "gan", "step": 10, "diversity": 0.4, "warnings": ["samples collapse"]}
    (begun / "metrics.jsonl").write_text(f'{json.dumps(line)}\n{{"stage": "gan", "st')
    return folder


def rows_of(shown: str) -> dict[str, list[str]]:
    lines = (re.split(r" {2,}", line.strip()) for line in shown.splitlines())
    return {first: cells for first, *cells in lines}


def test_models_side_by_side_on_labelled_images(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [digits / "first", digits / "second" / "model"]
    labelled = ["--normal", str(digits / "normal"), "--anomalous", str(digits / "ill")]
    main(["compare", *map(str, models), *labelled, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    assert rows["detector"] == ["izi_f", "pca"] and rows["kappa"] == ["1.0", "2.0"]
    assert "base_width" not in rows and "seed" not in rows  # they are the same
    last = json.loads((models[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows["encoder: image held out"] == [f"{last['image_held_out']:.4g}", "–"]
    # Of 6 subjects, where a flag at 5 % needs 19, and at 1 % 99.
    assert rows["held-out images"] == ["6 of 6 subjects"] * 2
    assert "13 more" in shown and "93 more" in shown
    labels = np.repeat([0, 1], [10, 12])
    aucs = []
    for path in models:
        scores = [Detector.load(path).score(digits / kind).total for kind in ("normal", "ill")]
        aucs.append(f"{roc_auc_score(labels, np.concatenate(scores)):.3f}")
    assert rows["AUC"] == aucs
    assert "#2 warning of training: only 54 training images" in shown
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("<svg") == 4 and aucs[0] in page and "only 54 training images" in page
    assert not re.search(r'(src|href)="(?!#)', page)  # it loads nothing


def test_a_run_that_is_not_finished_can_be_compared(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", str(digits / "first"), str(digits / "begun")])
    shown = capsys.readouterr().out
    assert rows_of(shown)["gan: step"] == ["20", "10"]
    assert "#2 warning of training: not finished" in shown
    assert "#2 warning of training: samples collapse" in shown


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["first"], "one alone can't be compared: give two or more"),
        (["first", "missing"], "missing: no such folder; give folders that fanogan fit"),
        (["first", "train"], "train: neither a model nor a run; give folders that fanogan fit"),
        (["first", "store"], "store: neither a model nor a run"),
        (["first", "results"], "results: neither a model nor a run"),
        (["first", "site"], "site: neither a model nor a run"),
        (["first", "second", "--normal", "normal"], "give --normal and --anomalous, or neither"),
        (
            ["first", "begun", "--normal", "normal", "--anomalous", "ill"],
            "begun: has no model yet to score with",
        ),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(
    typed: list[str],
    said: str,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(digits)
    files = ("store/zarr.json", "{}"), ("results/scores.csv", ""), ("site/config.yaml", "a: b\n")
    for name, text in files:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["compare", *typed])
    shown = capsys.readouterr()
    assert ended.value.code == 1 and said in shown.err and len(shown.err.splitlines()) == 1
