"""Shards, each scored by a process of its own, put together are the whole."""

import csv
import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose
from PIL import Image

from fanogan import FAnoGAN
from fanogan.cli import main
from fanogan.phantom import make_phantom
from fanogan.recipes import load_recipe
from fanogan.retina import FlatSpace, prepare
from fanogan.scans import BadScan, FileList, Shard, Sharded, find_scans
from fanogan.scoring import images_done, merge, write_results
from fanogan.storage import BadFolder

TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)
OF = 3
NUMBERS = ("score", "image_residual", "feature_residual", "largest_window", "mean_of_windows")


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16)).astype(np.uint8)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_rows(found, expected, key="name"):
    assert len(found) == len(expected)
    pairs = (sorted(rows, key=lambda row: row[key]) for rows in (found, expected))
    for one, other in zip(*pairs, strict=True):
        assert {k: v for k, v in one.items() if k not in NUMBERS} == {
            k: v for k, v in other.items() if k not in NUMBERS
        }
        assert_allclose([float(one[k]) for k in NUMBERS], [float(other[k]) for k in NUMBERS], 1e-5)


@pytest.fixture(scope="module")
def detector():
    return FAnoGAN(TINY).fit(images_of(40))


@pytest.fixture(scope="module")
def model(detector):
    return detector.model


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """30 pictures of 5 subjects, and a volume of three frames."""
    folder = tmp_path_factory.mktemp("archive") / "scans"
    for index, image in enumerate(images_of(30, seed=1)):
        place = folder / f"p{index % 5}" / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    tifffile.imwrite(folder / "p0" / "stack.tif", images_of(3, seed=2), photometric="minisblack")
    return folder


@pytest.fixture(scope="module")
def shards(model, scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    for number in range(1, OF + 1):
        write_results(model, Sharded([str(scans)], Shard(number, OF)), out / str(number))
    return [out / str(number) for number in range(1, OF + 1)]


@pytest.fixture
def mine(shards, tmp_path):
    """The same, to be changed."""
    return [shutil.copytree(shard, tmp_path / "mine" / shard.name) for shard in shards]


# --- shards ---------------------------------------------------------------------------------------


def test_a_shard_is_the_rest_of_a_digest_of_the_name():
    """By hand: the first 8 bytes of BLAKE2b, a number with the highest byte first."""
    for name in ("a.png", "p1/b é.png"):
        digest = int(blake2b(name.encode(), digest_size=8).hexdigest(), 16)
        assert [Shard(n, 7).holds(name) for n in range(1, 8)].index(True) == digest % 7


def test_each_file_is_in_one_shard_and_stays_there_when_files_come(scans, tmp_path):
    def shards_of(folder):
        return {
            source.name: number
            for number in range(1, 6)
            for source in find_scans(Sharded(str(folder), Shard(number, 5)))
        }

    before = shards_of(scans)
    assert set(before) == {source.name for source in find_scans(scans)}
    assert len(set(before.values())) > 2
    more = shutil.copytree(scans, tmp_path / "more")
    for name in ("0 first.png", "p3/7a.png", "z/last.png"):
        (more / name).parent.mkdir(exist_ok=True)
        shutil.copy(scans / "p0" / "0.png", more / name)
    after = shards_of(more)
    assert len(after) == len(before) + 3
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match=f"^{text} is no shard: give one such as 3/100"):
        Shard.parse(text)


# --- lists ----------------------------------------------------------------------------------------


def listed(folder, data, name="files.txt"):
    (folder / name).write_bytes(data)
    return FileList(folder / name)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_has_a_path_a_line_or_nul(tmp_path, separator):
    names = ["./p1/a.png", "/far/ü.png", " b c.png", "p1/a.npz:key"]
    data = separator.join(map(os.fsencode, names)) + separator
    found = find_scans(listed(tmp_path, data))
    assert [each.name for each in found] == ["p1/a.png", "/far/ü.png", " b c.png", "p1/a.npz:key"]
    assert [each.group for each in found] == [each.name for each in found]
    assert (str(found[3].path), found[3].key) == ("p1/a.npz", "key")


def test_a_name_with_a_newline_needs_nul(tmp_path):
    [found] = find_scans(listed(tmp_path, b"one\ntwo.png\0"))
    assert found.name == "one\ntwo.png"


def test_a_table_names_subjects_too(tmp_path):
    text = 'subject,path,site\nAnna,"a, 1.png",x\nBert,b.png,y\n'
    for data in (text.encode(), text.encode("utf-8-sig")):
        found = find_scans(listed(tmp_path, data, "files.csv"))
        assert [(each.name, each.group) for each in found] == [
            ("a, 1.png", "Anna"),
            ("b.png", "Bert"),
        ]
    assert find_scans(listed(tmp_path, b"x/Anna/1.png\n"), "Anna")[0].group == "Anna"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("files.txt", b"\n \n", "lists no file: give a path on each line"),
        ("files.txt", b"a.png\nb.png\n./a.png\n", "lists a.png twice, or another file"),
        ("files.txt", b"x/a.png\n../x/a.png\n", r"lists \.\./x/a.png twice, or another file"),
        ("files.txt", "a.png\n".encode("utf-16"), "is in UTF-16: save it in UTF-8"),
        ("files.csv", b"a.png\n", "has no columns 'path' and 'subject'"),
        ("files.csv", b"path,subject\na.png,\n", "lacks a path or a subject in line 2"),
        ("files.csv", b"path,subject\na.png,\xff\n", "is no CSV table in UTF-8"),
        ("none/files.txt", None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_bad_lists_are_refused_by_name(tmp_path, name, data, said):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadScan, match=f"^{path} {said}"):
        find_scans(FileList(path))
    with pytest.raises(BadScan, match=r"^standard input "):
        find_scans(FileList(path, "standard input"))


def test_a_list_and_groups_can_t_both_name_subjects(tmp_path):
    with pytest.raises(BadScan, match="names subjects, and so does --groups"):
        find_scans(listed(tmp_path, b"path,subject\na.png,A\n"), "a")


def test_a_listed_file_that_is_missing_or_a_folder_is_named_or_skipped(model, scans, tmp_path):
    lines = f"{scans}/p0/0.png\n{scans}/gone.png\n{scans}/p1\n"
    files = listed(tmp_path, lines.encode())
    with pytest.raises(BadScan, match=r"gone\.png does not exist"):
        write_results(model, files, tmp_path / "out")
    rows = write_results(model, files, tmp_path / "out", skip_bad=True)
    assert [row["name"] for row in rows] == [f"{scans}/p0/0.png"]
    page = (tmp_path / "out/report.html").read_text()
    assert "gone.png does not exist" in page and "p1 is no file" in page


# --- merge ----------------------------------------------------------------------------------------


def test_shards_together_are_the_whole_row_for_row(model, scans, shards, tmp_path):
    write_results(model, [str(scans)], tmp_path / "whole")
    merged = merge(shards[::-1], tmp_path / "out")
    rows, whole = (read(tmp_path / name / "scores.csv") for name in ("out", "whole"))
    same_rows(rows, whole)
    assert [float(row["score"]) for row in rows] == sorted(
        (float(row["score"]) for row in rows), reverse=True
    )
    assert len(merged.table) == len(rows) == 34
    files = {
        name: {str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*")}
        for name in ("out", "whole")
    }
    assert files["out"] == files["whole"]
    for place in (place for place in files["whole"] if place.endswith(".tif")):
        if (tmp_path / "whole" / place).is_file():
            found, expected = (tifffile.imread(tmp_path / n / place) for n in ("out", "whole"))
            assert_allclose(found, expected, atol=1e-5)
    assert (
        merged.copied == 0 and merged.linked == 99
    )  # a map, a reconstruction and an overlay of 33
    page = (tmp_path / "out/report.html").read_text()
    assert "34" not in page[:200] and "Anomaly scores of 33 images" in page
    assert "all 33 images" in page
    # The next scoring knows what lies there.
    write_results(model, [str(scans / "p1")], tmp_path / "out")
    assert len(list((tmp_path / "out" / "maps").rglob("*.tif"))) == 6


def test_volumes_patches_and_regions_come_together(tmp_path):
    for seed in range(4):
        made = make_phantom(seed, shape=(2, 240, 96), spacing=(0.24, 0.00387, 0.022))
        (tmp_path / "files").mkdir(exist_ok=True)
        tifffile.imwrite(
            tmp_path / "files" / f"{seed}.tif",
            made.pixels,
            imagej=True,
            resolution=(1 / 0.022, 1 / 0.00387),
            metadata={"spacing": 0.24, "unit": "mm", "axes": "ZYX"},
        )
    store = tmp_path / "eyes.zarr"
    prepare(tmp_path / "files", store, space=FlatSpace(128, 120, False))
    recipe = TINY.but(geometry="retina", window=(64, 64), held_out_fraction=0.34)
    model, source = FAnoGAN(recipe).fit(store).model, [str(store)]
    low = model.calibration.en_face[0]  # so that it finds regions, though it has learnt nothing
    calibration = dataclasses.replace(model.calibration, en_face=(0.8 * low, low))
    model = model.but(calibration=calibration)
    write_results(model, source, tmp_path / "whole")
    outs = [tmp_path / f"shard{n}" for n in (1, 2)]
    for number, out in enumerate(outs, 1):
        write_results(model, Sharded(source, Shard(number, 2)), out)
    merge(outs, tmp_path / "out")
    same_rows(read(tmp_path / "out/scores.csv"), read(tmp_path / "whole/scores.csv"))
    for name, numbers in (("patches.csv", 3), ("regions.csv", None)):
        found, expected = (read(tmp_path / f / name) for f in ("out", "whole"))
        assert len(found) == len(expected)
        assert found
        if numbers:
            keys = ("volume", "bscan", "row", "column")
            assert sorted([r[k] for k in keys] for r in found) == sorted(
                [r[k] for k in keys] for r in expected
            )
    texts = [(tmp_path / f / "report.html").read_text() for f in ("out", "whole")]
    assert texts[0].count("<img") == texts[1].count("<img")


def test_a_killed_shard_resumes_and_merges(model, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("fanogan.scoring.frames.BATCH", 4)
    monkeypatch.setattr("fanogan.scoring.job.BATCH", 4)
    source = Sharded([str(scans)], Shard(1, 2))
    count = itertools.count(1)

    def kill(result):
        if next(count) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(model, source, tmp_path / "1", on_result=kill)
    assert 0 < images_done(tmp_path / "1") < 7
    write_results(model, Sharded([str(scans)], Shard(2, 2)), tmp_path / "2")
    with pytest.raises(
        BadFolder, match=r"/1: its scoring isn't finished; the same command resumes"
    ):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    seen = []
    write_results(model, source, tmp_path / "1", on_result=seen.append)
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    rows = read(tmp_path / "out/scores.csv")
    assert len({row["name"] for row in rows}) == len(rows) == 34
    assert len(seen) < len(read(tmp_path / "1/scores.csv"))


def test_an_empty_shard_is_a_result_too(model, scans, tmp_path):
    holder = next(n for n in range(1, 5) if Shard(n, 4).holds("0.png"))
    for number in range(1, 5):
        rows = write_results(
            model, Sharded(str(scans / "p0" / "0.png"), Shard(number, 4)), tmp_path / str(number)
        )
        assert len(rows) == (number == holder)
    merge([tmp_path / str(n) for n in range(1, 5)], tmp_path / "out")
    assert [row["name"] for row in read(tmp_path / "out/scores.csv")] == ["0.png"]


def test_a_shard_of_bad_files_alone_is_empty_and_says_so(model, tmp_path):
    names = [f"{number}.png" for number in range(12)]
    holds = [name for name in names if Shard(1, 2).holds(name)]
    (tmp_path / "scans").mkdir()
    for name, image in zip(names, images_of(12), strict=True):
        Image.fromarray(image).save(tmp_path / "scans" / name)
    for name in holds:
        (tmp_path / "scans" / name).write_bytes(b"\x89PNG damaged")
    sources = [Sharded(str(tmp_path / "scans"), Shard(number, 2)) for number in (1, 2)]
    with pytest.raises(BadScan):
        write_results(model, sources[0], tmp_path / "1")
    for number, source in enumerate(sources, 1):
        rows = write_results(model, source, tmp_path / str(number), skip_bad=True)
        assert len(rows) == (0 if number == 1 else 12 - len(holds))
    assert f"scans/{holds[0]} is not an image" in (tmp_path / "1" / "report.html").read_text()
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    found = {row["name"] for row in read(tmp_path / "out" / "scores.csv")}
    assert found == {*names} - {*holds}
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"scans/{name} is not an image" in page for name in holds)
    for name in names:
        (tmp_path / "scans" / name).write_bytes(b"\x89PNG damaged")
    for number, source in enumerate(sources, 1):
        write_results(model, source, tmp_path / f"bad-{number}", skip_bad=True)
    with pytest.raises(BadFolder, match=r"^none of the images could be scored; the first skipped:"):
        merge([tmp_path / "bad-1", tmp_path / "bad-2"], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    with pytest.raises(BadScan, match=r"^none of"):  # without shards nothing has been scored
        write_results(model, str(tmp_path / "scans"), tmp_path / "whole", skip_bad=True)


def test_what_can_t_be_merged_is_refused_by_name(model, detector, scans, mine, tmp_path):
    first, second, third = mine
    out = tmp_path / "out"

    def refused(folders, said):
        with pytest.raises(BadFolder, match=said):
            merge(folders, out)
        assert not out.exists()

    refused([first, third], "^missing 1 shard: 2/3; give all$")
    refused([first], "^missing 2 shards: 2/3, 3/3; give all$")
    twice = shutil.copytree(first, tmp_path / "twice")
    refused([first, twice, second, third], "are both shard 1/3: give one of them")
    refused([*mine, tmp_path], f"^{tmp_path}: no results of fanogan score --shard here$")
    with pytest.raises(BadFolder, match="is one of the shards"):
        merge(mine, second)

    def scored(number, of, name, model=model, source=str(scans), **settings):
        write_results(model, Sharded([source], Shard(number, of)), tmp_path / name, **settings)
        return tmp_path / name

    refused([first, second, scored(3, 4, "four")], "is shard 3/4, and .*: give the shards of one")
    alpha = scored(3, 3, "alpha", alpha=0.2)
    refused(
        [first, second, alpha], r"alpha: was scored with another alpha than .* \(0.2, not 0.05\)"
    )
    other = model.but(recipe=model.recipe.but(kappa=0.3))
    refused(
        [first, second, scored(3, 3, "other", other)], "other: was scored with another model than"
    )

    renamed = tmp_path / "renamed"  # the list has changed between: an image lies in two shards
    shutil.copytree(scans, renamed)
    name = next(row["name"] for row in read(first / "scores.csv") if row["unit"] == "image")
    doubled = json.loads((third / "shard.json").read_text())
    assert doubled["job"]["shard"] == "3/3"
    again = scored(1, 3, "again")
    record = json.loads((again / "shard.json").read_text())
    record["job"]["shard"] = "3/3"
    (again / "shard.json").write_text(json.dumps(record))
    refused([first, second, again], "shard.json: damaged or missing; score that shard again")
    sign(again)
    refused(
        [first, second, again], r"^p\d/\S+ is in .*mine/1 and in .*again: it has been scored twice"
    )
    assert name

    (third / "rows.sqlite").write_bytes((third / "rows.sqlite").read_bytes()[:-100])
    refused(mine, "rows.sqlite: damaged or missing; score that shard again")


def sign(folder):
    """Let the list of a folder's files name what lies there now."""
    from fanogan.scoring.results_folder import WRITTEN, digest_of, list_written, written

    places = [place for place, _ in written(folder)]
    os.remove(folder / WRITTEN)
    list_written(folder, [(place, digest_of(folder / place)) for place in places])


def test_a_missing_map_is_named_and_nothing_is_written(mine, tmp_path):
    gone = next((mine[1] / "maps").rglob("*.tif"))
    gone.unlink()
    with pytest.raises(BadFolder, match=f"^{gone}: missing; score that shard again"):
        merge(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_there_are_no_links_maps_are_copied(shards, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merged = merge(shards, tmp_path / "out")
    assert (merged.linked, merged.copied) == (0, 99)
    assert len(list((tmp_path / "out/maps").rglob("*.tif"))) == 33


# --- the commands ---------------------------------------------------------------------------------


def test_the_commands_take_lists_shards_and_merge(detector, scans, tmp_path, capsys):
    detector.save(tmp_path / "model")
    names = sorted(str(path) for path in scans.rglob("*.png"))
    random.Random(0).shuffle(names)
    (tmp_path / "files.txt").write_text("\n".join(names))
    outs = [str(tmp_path / f"out{n}") for n in (1, 2)]
    for number, out in enumerate(outs, 1):
        main(
            [
                *("score", str(tmp_path / "model"), "--list", str(tmp_path / "files.txt")),
                *("--shard", f"{number}/2", "--out", out, "--scores-only"),
            ]
        )
    capsys.readouterr()
    main(["merge", *outs, "--out", str(tmp_path / "merged")])
    shown = capsys.readouterr().out
    assert "2 shards · 0 files of maps under a second name (hard links), 0 copied" in shown
    assert {row["name"] for row in read(tmp_path / "merged/scores.csv")} == set(names)

    for words, said in (
        (["more", "--list", "files.txt"], "--list files.txt and more: give a list, or images"),
        ([], "no images: fanogan score MODEL IMAGES --out DIR"),
        (["more", "--shard", "5/4"], "5/4 is no shard: give one such as 3/100"),
    ):
        with pytest.raises(SystemExit):
            main(["score", str(tmp_path / "model"), *words])
        assert capsys.readouterr().err.startswith(f"fanogan: {said}")


def test_standard_input_is_a_list(detector, scans, tmp_path):
    detector.save(tmp_path / "model")
    names = b"\0".join(os.fsencode(path) for path in sorted((scans / "p1").iterdir()))
    command = [sys.executable, "-m", "fanogan", "score", tmp_path / "model", "--list", "-"]
    run = subprocess.run(
        [*command, "--out", tmp_path / "out"], input=names, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(read(tmp_path / "out/scores.csv")) == 6
