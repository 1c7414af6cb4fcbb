import contextlib
import csv
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fanogan import FAnoGAN
from fanogan.cli import bars, console
from fanogan.cli import parser as cli
from fanogan.cli.parser import main, parser

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_MAIN = [sys.executable, "-m", "fanogan"]


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folders of PNGs of 16×16: fours to learn from, other fours, other digits and masks."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    fours, others = (np.flatnonzero(same) for same in (found.target == 4, found.target != 4))
    kinds = {"train": fours[:60], "normal": fours[60:70], "ill": others[:12]}
    for kind, indices in kinds.items():
        (folder / kind).mkdir()
        for index in indices:
            Image.fromarray(pixels[index]).save(folder / kind / f"{index}.png")
    (folder / "masks").mkdir()
    for index in kinds["ill"]:
        Image.fromarray((pixels[index] > 99) * np.uint8(255)).save(folder / f"masks/{index}.png")
    return folder


@pytest.fixture(scope="module")
def fitted(digits):
    """The run folder that the README's first command leaves, with recipe smoke, and its output."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        main(
            [
                *("fit", str(digits / "train"), "--recipe", "smoke"),
                *("--out", str(digits / "runs" / "mine"), "--seed", "7"),
            ]
        )
    return digits / "runs" / "mine", shown.getvalue()


@pytest.fixture(scope="module")
def run(fitted):
    return fitted[0]


# --- fit ----------------------------------------------------------------------------------------


def test_fit_says_what_it_does_and_leaves_a_run(fitted):
    run, shown = fitted
    for line in (
        "60 images of 60 subjects · grey, uint8 · whole images of 16×16 pixels, seen at 16×16 "
        "pixels",
        "held out for calibration: 6 images of 6 subjects",
        "note: only 54 training images: the model may learn them by heart",
    ):
        assert line in shown.splitlines()
    assert re.search(r"about \d+ seconds on this machine", shown)
    assert re.search(r"GAN rounds +━+ +20/20 ", shown)
    assert re.search(r"encoder updates +━+ +40/40 ", shown)
    assert shown.splitlines()[-1].startswith(f"model: {run}/model · recipe smoke: ")
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "samples", "events", "checkpoints", "model"} == names
    model = {path.name for path in (run / "model").iterdir()}
    assert model == {"model.safetensors", "model.json", "card.md"}
    assert json.loads((run / "model" / "model.json").read_text())["seed"] == 7


def test_dry_run_says_how_long_and_writes_nothing(digits, tmp_path, capsys):
    out = tmp_path / "run"
    main(["fit", str(digits / "train"), "--recipe", "small", "--out", str(out), "--dry-run"])
    shown = capsys.readouterr().out
    assert "held out for calibration: 6 images of 6 subjects" in shown
    few = "note: only 6 subjects held out: a flag at a false-positive rate of 5 % needs 19"
    assert shown.index(few) < shown.index("about ")
    assert re.search(r"about [\d.]+ (seconds|minutes|hours) on this machine", shown)
    assert not out.exists()


def test_dry_run_needs_no_run_folder(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry = ["--recipe", "smoke", "--groups", r"(\d)\d*\.png", "--dry-run"]
    main(["fit", str(digits / "train"), *dry])
    assert "60 images of 8 subjects" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_settings_are_changed_where_the_command_is_typed(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", str(digits / "train"), "--recipe", "smoke", "--out", "run"]
    changes = ["--set", "base_width=8", "critic_updates=4", "--set", "encoder_updates=2"]
    main([*fit, *changes])
    with_them = "recipe smoke with base_width=8, critic_updates=4, encoder_updates=2"
    assert with_them in capsys.readouterr().out
    recipe = yaml.safe_load(Path("run", "config.yaml").read_text())["recipe"]
    assert [recipe[key] for key in ("base_width", "critic_updates", "encoder_updates")] == [8, 4, 2]


def test_recipes_are_listed_with_the_time_that_they_take(monkeypatch, capsys):
    monkeypatch.setattr("fanogan.recipes.recipe_names", lambda: ["smoke"])  # the others take longer
    main(["recipes"])
    shown = " ".join(capsys.readouterr().out.split())
    assert re.fullmatch(r"smoke about [\d.]+ (seconds|minutes) seconds, to see that .*", shown)


def test_a_recipe_that_is_shown_can_be_trained_with(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["recipes", "show", "smoke"])
    Path("mine.yaml").write_text(capsys.readouterr().out)
    main(["fit", str(digits / "train"), "--recipe", "mine.yaml", "--dry-run"])
    assert "whole images of 16×16 pixels, seen at 16×16 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["show"], "give nothing for the list, or show and a recipe"),
        (["small"], "fanogan recipes small: give nothing for the list, or show and a recipe"),
        (["show", "smal"], "no recipe 'smal': give one of demo, digits, overnight, paper"),
    ],
)
def test_what_is_no_recipe_is_answered_with_what_is(typed, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["recipes", *typed])
    assert ended.value.code == 1 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["base_widht=8"], "did you mean base_width?"),
        (["base_width=wide"], "base_width is 'wide', it must be a whole number"),
        (["base_width"], "--set base_width: give a field and its value, such as base_width=16"),
        (["window=[16"], "--set window=[16: [16 can't be read; write it as in a recipe's file"),
        (["kappa=1", "kappa=2"], "--set kappa=2: kappa is given twice; give it once"),
        (["recipe=paper"], "no such field as recipe"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "study"])
def test_a_setting_that_cannot_be_is_refused(verb, typed, said, digits, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main([verb, str(digits), "--out", str(out), "--set", *typed])
    shown = capsys.readouterr().err
    assert ended.value.code == 1 and said in shown and len(shown.splitlines()) == 1
    assert not out.exists()


def test_a_folder_says_what_it_is(run, digits, tmp_path, capsys):
    main(["info", str(run)])
    said = capsys.readouterr().out
    model = json.loads((run / "model" / "model.json").read_text())
    for part in (
        "model of the detector izi_f, made by fanogan",
        "recipe smoke, as it is shipped",
        "learned from 54 images of 54 subjects: 16 rows and 16 columns, 1 channel, uint8",
        "seed 7",
        f"SHA-256 of the weights {model['weights_sha256']}",
    ):
        assert part in said, part
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / "config.yaml", begun)
    (begun / "metrics.jsonl").write_text('{"stage": "gan", "step": 1200, "warnings": []}\n')
    main(["info", str(begun)])
    said = capsys.readouterr().out
    assert "izi_f, not finished" in said and "gan, step 1,200" in said
    assert f"fanogan fit --resume {begun}" in said
    out = tmp_path / "results"
    main(["score", str(run), str(digits / "ill"), "--out", str(out), "--scores-only"])
    capsys.readouterr()
    main(["info", str(out)])
    assert "results: 12 images (" in capsys.readouterr().out
    (out / "scores.csv").write_text("a,b\n1,2\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.yaml").write_text("site_name: another program's\n")
    for folder, reason in (
        (out, "KeyError 'subject'"),
        (tmp_path, "no model, run, prepared"),
        (tmp_path / "site", "not of a run of fanogan fit"),
    ):
        with pytest.raises(SystemExit):
            main(["info", str(folder)])
        assert reason in capsys.readouterr().err


def test_a_detector_that_is_named_twice_is_refused(digits, tmp_path, capsys):
    typed = ["fit", str(digits), "--out", str(tmp_path / "run"), "--detector", "izi"]
    with pytest.raises(SystemExit):
        main([*typed, "--set", "encoder_loss=ziz"])
    assert "--detector and --set encoder_loss each name a detector" in capsys.readouterr().err


def test_stopped_by_ctrl_c_says_how_to_go_on_and_goes_on(digits, tmp_path, capsys, caplog):
    recipe, out = tmp_path / "long.yaml", tmp_path / "scans" / "run"
    recipe.write_text("base: smoke\ncritic_updates: 60\nencoder_updates: 20\n")
    scans = shutil.copytree(digits / "train", tmp_path / "scans")  # the run is made among them
    process = subprocess.Popen(
        [*RUN_MAIN, "fit", scans, "--recipe", recipe, "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 240
    left = "samples/*.png", "checkpoints/gan.safetensors"
    while not all(any(out.glob(files)) for files in left):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (130, "")
    assert shown.splitlines()[-1] == f"stopped; resume with: fanogan fit --resume {out}"
    assert not (out / "model").exists()

    main(["fit", "--resume", str(out)])
    assert f"model: {out}/model" in capsys.readouterr().out
    assert f"skipped: {out}/samples, made by fanogan" in caplog.text
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "gan"]
    assert steps == [10, 20, 30]
    assert len(FAnoGAN.load(out).score(digits / "ill")) == 12


# --- score --------------------------------------------------------------------------------------


def test_score_writes_what_python_says(run, digits, tmp_path, capsys):
    out = tmp_path / "results"
    main(["score", str(run), str(digits / "ill"), "--out", str(out), "--alpha", "0.2"])
    shown = capsys.readouterr()
    detector = FAnoGAN.load(run)
    scores = detector.score(digits / "ill")
    held_out = detector.model.calibration.units["image"].scores
    rows = {row["name"]: row for row in read_rows(out / "scores.csv")}
    assert set(rows) == set(scores.names)
    for name, total, residual in zip(
        scores.names, scores.total, detector.localize(digits / "ill"), strict=True
    ):
        assert float(rows[name]["score"]) == pytest.approx(total, rel=1e-5)
        p = (1 + sum(held_out >= float(rows[name]["score"]))) / 7
        assert float(rows[name]["p_value"]) == pytest.approx(p)
        assert rows[name]["flag"] == ("yes" if p <= 0.2 else "no")
        written = tifffile.imread(out / "maps" / f"{name}.tif")
        assert written.dtype == np.float32
        assert np.allclose(written, residual, rtol=1e-5, atol=1e-6)
        assert Image.open(out / "overlays" / f"{name}.png").size == (16, 16)
    assert shown.err == ""
    highest = max(rows.values(), key=lambda row: float(row["score"]))
    assert "6 held-out images of 6 subjects" in shown.out
    # It ends with the three to look at first, and where the page is.
    first, *others = shown.out.split("look first at:\n")[1].splitlines()
    assert first.startswith(f"{highest['name']} ") and f"{float(highest['score']):.4g}" in first
    assert "▲ flagged" in first
    assert others[2] == "… and 9 more in scores.csv"
    assert others[-2].startswith(f"the page: {out / 'report.html'} · ")
    assert others[-1] == "Research use only, not a medical device."


def test_too_few_held_out_is_said(run, digits, tmp_path, capsys):
    main(["score", str(run), str(digits / "ill"), "--out", str(tmp_path / "results")])
    assert "images: too few held out: 6 held-out images of 6 subjects" in capsys.readouterr().out
    rows = read_rows(tmp_path / "results" / "scores.csv")
    assert {row["flag"] for row in rows} == {"too few held out"}


def test_a_run_and_its_model_folder_score_alike(run, digits, tmp_path):
    for name, model in (("one", run), ("other", run / "model")):
        pattern = digits / "ill" / "*1.png"
        main(["score", str(model), str(pattern), "--out", str(tmp_path / name)])
    tables = [(tmp_path / name / "scores.csv").read_text() for name in ("one", "other")]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") > 1


# --- evaluate -----------------------------------------------------------------------------------


def test_evaluate_with_masks(run, digits, tmp_path, capsys):
    out = tmp_path / "evaluation"
    main(
        [
            *("evaluate", str(run), "--normal", str(digits / "normal")),
            *("--anomalous", str(digits / "ill"), "--masks", str(digits / "masks")),
            *("--out", str(out), "--alpha", "0.2"),
        ]
    )
    shown = capsys.readouterr()
    found = json.loads((out / "metrics.json").read_text())
    detector = FAnoGAN.load(run)
    totals = [detector.score(digits / kind).total for kind in ("normal", "ill")]
    auc = roc_auc_score(np.repeat([0, 1], [10, 12]), np.concatenate(totals))
    assert found["rows"][0]["auc"] == pytest.approx(auc)
    assert found["pixel"]["regions"]["images_with_lesion"] == 12
    assert shown.err == ""
    said = " ".join(shown.out.split())
    assert "on 22 images; 12 (54.5 %) are anomalous." in said
    assert ("that needs no trained network" in said) != ("A trivial score does better" in said)
    assert re.search(rf"f-AnoGAN \(A\) +{auc:.3f} ", shown.out)
    for name in ("untrained networks", "score inverted (−A)", "darkness", "low gradient"):
        assert name in shown.out
    assert "(asked for 0.2)" in shown.out
    assert re.search(
        r"Per pixel, where it is: AUC 0\.\d{3}, the best trivial map \([A-Za-z ]+\) \d\.\d{3}", said
    )


# --- help ---------------------------------------------------------------------------------------


def help_of(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # nothing is wrapped
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_has_an_example_that_parses_and_a_text_for_each_option(verb, capsys, monkeypatch):
    shown = help_of(verb, capsys, monkeypatch)
    example = re.search(r"^Example: fanogan (.+)$", shown, re.MULTILINE)[1]
    assert parser().parse_args(shlex.split(example)).subcommand == verb
    function, positional = cli.VERBS[verb]
    for name, parameter in inspect.signature(function).parameters.items():
        option = name if name in positional else rf"--{name.replace('_', '-')}( [^a-z]+)?"
        text = re.search(rf"^  {option}  +(\w.+)$", shown, re.MULTILINE)
        assert text, f"{verb} says nothing of {name}"
        default = parameter.default
        if isinstance(default, str | int | float | Path) and default is not False:
            assert text[0].endswith(f"(default: {default})")


def test_help_imports_nothing_heavy():
    program = """
import sys
from fanogan.cli.parser import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "lightning_fabric", "monai", "matplotlib", "sklearn", "skimage", "PIL"}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    for arguments in (["--help"], ["fit", "--help"], ["--version"]):
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def documented_commands():
    """The lines of code of the README and the documentation that begin with 'fanogan '."""
    return [
        pytest.param(line.strip().removeprefix("$ "), id=f"{path.name}:{number}")
        for path in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("**/*.md"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r" *(\$ )?fanogan ", line)
    ]


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_parse(command):
    words = shlex.split(command, comments=True)
    assert parser().parse_args(words[1:]).subcommand in cli.VERBS


def test_the_documents_show_every_verb_but_the_demo():
    shown = {shlex.split(entry.values[0])[1] for entry in documented_commands()}
    assert shown >= set(cli.VERBS) - {"demo"}


@pytest.mark.parametrize("text", ["[ab]+", "null", "12", "# x", "a: b", "{x}", r"^(p\d+)_", "true"])
def test_words_are_taken_as_they_are_typed(text):
    given = parser().parse_args(["fit", text, "--groups", text, "--out", text]).fit
    assert (given.normals, given.groups, given.out) == ([text], text, Path(text))


def test_an_option_of_several_values_can_be_repeated():
    typed = ["--normal", "a", "b", "--normal", "c", "--anomalous", "d"]
    given = parser().parse_args(["evaluate", "m", *typed, "--beside", "x", "--beside", "y"])
    assert given.evaluate.normal == ["a", "b", "c"]
    assert given.evaluate.beside == [Path("x"), Path("y")]


@pytest.mark.parametrize("arguments", [[], ["paint"], ["fit", "--seed", "x"], ["evaluate", "run"]])
def test_what_cannot_be_parsed_ends_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        """Break.

        Example: fanogan demo
        """
        raise ValueError("not the user's to mend")

    monkeypatch.setitem(cli.VERBS, "demo", (broken, ()))
    with pytest.raises(ValueError, match="not the user's"):
        main(["demo"])


# --- what the terminal shows --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "2 seconds"),
        (89, "89 seconds"),
        (90, "1.5 minutes"),
        (1200, "20 minutes"),
        (7200, "2.0 hours"),
        (86400 * 20, "20 days"),
    ],
)
def test_duration(seconds, text):
    assert bars.duration(seconds) == text


def test_what_is_left_in_all_follows_the_pace_of_this_run(monkeypatch):
    clock = 0.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock)
    pace = bars.Pace({"gan": 100.0, "encoder": 50.0, "calibrating izi_f": 10.0})
    assert pace.update("gan", 1, 101) is None
    clock = 20.0  # ten rounds of 2 seconds, twice as slow as expected
    assert pace.update("gan", 11, 101) == pytest.approx(2 * 90 + 2.02 * (50 + 10))
    clock = 202.0
    pace.update("gan", 101, 101)
    pace.update("encoder", 1, 51)
    clock = 227.0  # half of the encoder's updates in 25 seconds: as slow as was expected
    left = pace.update("encoder", 26, 51)
    assert left == pytest.approx(25 + 10 * (2.02 * 101 + 51) / 150)


def test_a_log_hears_how_far_long_work_is(monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock)
    line = bars.milestones("scoring")
    for minute in range(10):
        clock = 60.0 * minute
        line(100 * minute + 50, 1050)  # 50 were done before
    # 100 a minute: the rest at 1, 2, 4 and 8 minutes, and nothing in between.
    assert capsys.readouterr().out.splitlines() == [
        "scoring: 150 of 1,050, about 9.0 minutes left",
        "scoring: 250 of 1,050, about 8.0 minutes left",
        "scoring: 450 of 1,050, about 6.0 minutes left",
        "scoring: 850 of 1,050, about 2.0 minutes left",
    ]


def score_row(name, unit="image", score=0.5, p_value="0.05", flag="no", warnings=""):
    return {
        "name": name,
        "unit": unit,
        "score": repr(score),
        "p_value": p_value,
        "held_out_subjects": 120,
        "flag": flag,
        "warnings": warnings,
    }


def test_scores_are_shown_in_columns_that_fit_a_terminal(capsys):
    long = "a/very/long/way/to/an/image/that/does/not/fit/[bold]x.png"
    rows = [
        score_row(long, score=1.23456, p_value="0.01", flag="yes", warnings="size"),
        score_row("b:key:#1", p_value="", flag="too few held out"),
    ]
    console.say_scores(rows)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("…")
    assert first.endswith("[bold]x.png  score 1.235    p 0.010  ▲ flagged  unlike training")
    assert len(first) <= 80
    assert second.startswith("b:key:#1 ")
    assert second.index("score") == first.index("score")


def test_a_p_value_that_cannot_be_smaller_is_shown_as_what_it_is(capsys):
    rows = [score_row(name, p_value=p) for name, p in (("a", repr(1 / 3)), ("b", repr(2 / 3)))]
    console.say_scores([{**row, "held_out_subjects": 2} for row in rows])
    first, second, last = capsys.readouterr().out.splitlines()
    assert "  p 1/3" in first and "  p 0.667" in second
    assert last == "p 1/3: above both held-out subjects; two can show no less than 1/3"


def test_of_volumes_their_own_scores_are_shown(capsys):
    frames = [score_row(f"v.tif#{i}") for i in range(3)]
    console.say_scores([frames[0], score_row("v.tif", unit="volume"), *frames[1:]])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["v.tif", "…"]
    assert shown[1] == "… and 3 more in scores.csv"


def test_of_several_processes_only_the_first_speaks(monkeypatch, capsys):
    try:
        for rank in ("0", "1"):
            monkeypatch.setenv("LOCAL_RANK", rank)
            console.console.cache_clear()
            console.say(f"I am {rank}")
    finally:
        console.console.cache_clear()
    assert capsys.readouterr().out == "I am 0\n"
