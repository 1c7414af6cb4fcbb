"""Counts, and names of any bytes: every command takes them, and every output does no harm."""

import contextlib
import csv
import io
import json
import logging
import os
import re

import numpy as np
import pytest
from PIL import Image

from fanogan import FAnoGAN
from fanogan.cli.console import LogHandler, say
from fanogan.cli.parser import main
from fanogan.evaluation import evaluate
from fanogan.recipes import load_recipe
from fanogan.scans import BadScan
from fanogan.scoring import write_results
from fanogan.text import (
    LONGEST,
    as_cell,
    counted,
    harmless,
    number,
    of_cell,
    percent,
    place_of,
    plural,
    share,
)

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
OVERRIDE = "\u202e"
NAMES = [
    b"caf\xe9.png",  # Latin-1
    b"\xff\xfe/deep.png",
    b"n" * 251 + b".png",
    "ä".encode() * 125 + b".png",  # cut between characters, not within one
    b"\xe9" * 251 + b".png",
    b"two\nlines\r\x1b[2J\t.png",
    f"gnp{OVERRIDE}exe.png".encode(),
    b"=HYPERLINK(1).png",
    b"+1.png",
    b"-1.png",
    b"@SUM(1).png",
    b"'quoted.png",
    rb"back\slash\xff\u000a.png",
    b"<script>alert(1)</script>/&.png"[:0] + b"<b>&amp;.png",
]


def images_of(count, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 16, 16)).astype(np.uint8)


def save_named(folder, names=NAMES, seed=1):
    """Write an image for each name, in bytes; returns the names as Python has them."""
    for name, image in zip(names, images_of(len(names), seed), strict=True):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
    return {os.fsdecode(name) for name in names}


@pytest.fixture(scope="module")
def model():
    return FAnoGAN(TINY).fit(images_of(40)).model


def test_score_takes_any_name(model, tmp_path):
    names = save_named(tmp_path / "scans")
    rows = write_results(model, tmp_path / "scans", tmp_path / "out")
    assert {row["name"] for row in rows} == names
    text = (tmp_path / "out" / "scores.csv").read_text(encoding="utf-8")
    assert not re.search("[\0-\x09\x0b-\x1f\u202e\ud800-\udfff]", text)
    cells = [row[0] for row in csv.reader(text.splitlines())][1:]
    assert len(cells) == len(names)
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)
    # By hand, from the rule in the guide.
    assert {
        *(r"caf\xe9.png", r"\xff\xfe/deep.png", r"two\u000alines\u000d\u001b[2J\u0009.png"),
        *(r"gnp\u202eexe.png", "'=HYPERLINK(1).png", "'+1.png", "'-1.png", "'@SUM(1).png"),
        *("''quoted.png", r"back\\slash\\xff\\u000a.png"),
    } < set(cells)
    for folder in ("maps", "overlays"):
        files = [path for path in (tmp_path / "out" / folder).rglob("*") if path.is_file()]
        assert len(files) == len(names)
    assert (tmp_path / "out" / "maps" / r"caf\xe9.png.tif").exists()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert r"caf\xe9.png" in page and OVERRIDE not in page and "\x1b" not in page
    assert "<b>&amp;.png" not in page


def test_score_is_resumed_with_any_name(model, tmp_path):
    save_named(tmp_path / "scans")
    save_named(tmp_path / "scans", [b"%d\xe9.png" % index for index in range(70)], seed=2)

    def stop(result):
        if len(seen) > 66:
            raise KeyError
        seen.append(result.name)

    seen = []
    with pytest.raises(KeyError):
        write_results(model, tmp_path / "scans", tmp_path / "out", on_result=stop)
    write_results(model, tmp_path / "scans", tmp_path / "out")
    write_results(model, tmp_path / "scans", tmp_path / "fresh")
    both = [(tmp_path / name / "scores.csv").read_bytes() for name in ("out", "fresh")]
    assert both[0] == both[1]


def test_evaluate_takes_any_name(model, tmp_path):
    for part, seed in (("normal", 1), ("ill", 2), ("masks", 3)):
        names = save_named(tmp_path / part, seed=seed)
    out = tmp_path / "out"
    evaluate(model, tmp_path / "normal", tmp_path / "ill", out, masks=tmp_path / "masks")
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        read = {of_cell(row["name"]) for row in csv.DictReader(file)}
    assert read == names
    assert OVERRIDE not in (out / "report.html").read_text(encoding="utf-8")


def test_the_commands_take_any_name(tmp_path, capsys, recwarn):
    names = save_named(tmp_path / b"norm\xe9ls\n".decode(errors="surrogateescape"))
    normals = next(tmp_path.iterdir())
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps({"base": "smoke", "critic_updates": 2, "encoder_updates": 2}))
    run = os.fsencode(tmp_path) + b"/run\xe9"
    main(["fit", str(normals), "--recipe", str(recipe), "--out", os.fsdecode(run)])
    assert os.path.exists(run + b"/model/model.json")
    main(["score", os.fsdecode(run), str(normals), "--out", os.fsdecode(run) + "/../out\xe9"])
    (normals / "bad\nfanogan: all is well.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        main(["score", os.fsdecode(run), str(normals), "--out", str(tmp_path / "out2")])
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    assert r"bad\u000afanogan: all is well.png is not an image" in shown.err
    assert "\nfanogan: all" not in shown.out and OVERRIDE not in shown.out
    assert "\x1b[2J" not in shown.out and len(names) == len(NAMES)


def test_a_name_forges_no_line_in_the_log(capsys):
    log = logging.getLogger("fanogan.test of names")
    log.addHandler(LogHandler())
    log.warning("%s: skipped", "a\nb\x1b[2J\udce9")
    say("x\ny")
    assert capsys.readouterr().out == "a\\u000ab\\u001b[2J\\xe9: skipped\nx\\u000ay\n"
    with contextlib.suppress(KeyError):
        log.handlers.clear()
    assert str(BadScan("a\nb")) == r"a\u000ab"


@pytest.mark.parametrize("name", [os.fsdecode(name) for name in NAMES])
def test_a_cell_gives_the_name_back(name):
    assert of_cell(as_cell(name)) == name
    assert as_cell(name).encode() and harmless(harmless(name)) == harmless(name)


@pytest.mark.parametrize("number", ["-0.5", "1e-05", "+3", "inf", "-inf", "nan", "12"])
def test_numbers_stay_numbers(number):
    assert as_cell(number) == number and of_cell(number) == number


@pytest.mark.parametrize(
    "name", ["n" * 255, "ä" * 127, "\udce9" * 255, "d" * 255 + "/" + "n" * 255, "a/" * 2000 + "b"]
)
def test_a_place_fits_a_file_system(name, tmp_path):
    places = {place_of(other, "#12345.png") for other in (name, name[:-1] + "x", "x" + name[1:])}
    assert len(places) == 3
    for place in places:
        assert all(len(part.encode()) <= LONGEST for part in place.split("/"))
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")


def test_short_names_are_their_own_places():
    assert place_of("a/b.png", ".tif") == "a/b.png.tif"
    assert place_of("n" * 251, ".tif") == "n" * 251 + ".tif"


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (number, 0.0711, "0.07110"),
        (number, 1234.0, "1234"),
        (number, float("inf"), "–"),
        (share, 0.91, "0.910"),
        (share, float("nan"), "–"),
        (percent, 0.0834, "8.3 %"),
        (percent, None, "–"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize(
    ("noun", "many"), [("image", "images"), ("B-scan", "B-scans"), ("patch", "patches")]
)
def test_counts_come_with_their_noun(noun, many):
    assert plural(noun) == many
    assert counted(1, noun) == f"1 {noun}"
    assert counted(1200, noun) == f"1,200 {many}"
    assert counted(0, noun) == f"0 {many}"
