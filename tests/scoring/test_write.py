import csv
import errno
import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from fanogan import FAnoGAN
from fanogan.recipes import load_recipe
from fanogan.scans import BadScan
from fanogan.scoring import (
    COLUMNS,
    Gallery,
    case_of,
    results,
    row_of,
    statement_of,
    whole_folder,
    write_csv,
    write_results,
)
from fanogan.storage import BadFolder
from fanogan.text import place_of

# Two updates a stage: what is tested here is what is written, not what is learnt.
TINY = load_recipe("smoke").but(
    critic_updates=2, encoder_updates=2, reestimate_batch_norm=False, held_out_fraction=0.5
)


def images_of(count, rows=16, columns=16, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, rows, columns)).astype(np.uint8)


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def detector():
    """Sees windows of 16×16; 20 of its 40 normals are held out."""
    return FAnoGAN(TINY).fit(images_of(40, 20, 24))


@pytest.fixture(scope="module")
def model(detector):
    return detector.model


@pytest.fixture(scope="module")
def with_volumes(tmp_path_factory):
    """Trained on volumes, of which one is held out."""
    folder = tmp_path_factory.mktemp("normal volumes")
    for index in range(3):
        tifffile.imwrite(
            folder / f"{index}.tif", images_of(21, 20, 24, seed=index), photometric="minisblack"
        )
    return FAnoGAN(TINY.but(held_out_fraction=0.1)).fit(folder).model


@pytest.fixture
def folder(tmp_path):
    """Two PNGs, one in a folder, and a volume of three frames."""
    a, b, *frames = images_of(5, 20, 24, seed=9)
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    Image.fromarray(a).save(tmp_path / "scans" / "a.png")
    Image.fromarray(b).save(tmp_path / "scans" / "deep" / "b.png")
    tifffile.imwrite(tmp_path / "scans" / "volume.tif", np.stack(frames), photometric="minisblack")
    return tmp_path / "scans"


def test_writes_a_table_maps_overlays_and_a_page(model, folder, tmp_path):
    out = tmp_path / "out"
    returned = write_results(model, folder, out)
    rows = read_rows(out / "scores.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == [row["name"] for row in returned]
    names = ["a.png", "deep/b.png", "volume.tif#0", "volume.tif#1", "volume.tif#2"]
    assert sorted(row["name"] for row in rows) == sorted([*names, "volume.tif"])
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert written == {
        ".fanogan-results",
        "scores.csv",
        "report.html",
        "scans.csv",
        "about.json",
        "drift.json",
        *(f"{kind}/{name}.tif" for kind in ("maps", "reconstructions") for name in names),
        *(f"overlays/{name}.png" for name in names),
    }


def test_numbers_are_exactly_those_of_the_detector(detector, model, folder, tmp_path):
    write_results(model, folder, tmp_path / "out")
    rows = {row["name"]: row for row in read_rows(tmp_path / "out" / "scores.csv")}
    scores = detector.score(folder)
    held_out = model.calibration.units["image"]
    for name, total, image, feature in zip(
        scores.names, scores.total, scores.image, scores.feature, strict=True
    ):
        row = rows[name]
        assert float(row["score"]) == total
        assert (float(row["image_residual"]), float(row["feature_residual"])) == (image, feature)
        expected = (1 + np.sum(held_out.scores >= total)) / 21
        assert float(row["p_value"]) == pytest.approx(expected)
        assert row["flag"] == ("yes" if expected <= 0.05 else "no")
        assert (row["held_out"], row["held_out_subjects"]) == ("20", "20")
        assert float(row["mean_of_windows"]) <= total <= float(row["largest_window"])
    for name, residual in zip(scores.names, detector.localize(folder), strict=True):
        written = tifffile.imread(tmp_path / "out" / "maps" / f"{name}.tif")
        assert written.dtype == np.float32
        assert written.shape == (20, 24)
        assert np.array_equal(written, residual)
    coloured = Image.open(tmp_path / "out" / "overlays" / "deep" / "b.png.png")
    assert (coloured.mode, coloured.size) == ("RGB", (24, 20))


def test_rows_fall_from_the_highest_score(model, folder, tmp_path):
    rows = write_results(model, folder, tmp_path / "out")
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_flags_are_those_of_p_values_at_alpha(model, folder, tmp_path):
    for alpha in (0.05, 0.5, 0.99):
        rows = write_results(model, folder, tmp_path / "out", alpha=alpha)
        for row in rows:
            if row["unit"] == "image":
                assert (row["flag"] == "yes") == (float(row["p_value"]) <= alpha)
    assert any(row["flag"] == "yes" for row in rows)


def test_too_few_held_out_gives_no_flag(model, folder, tmp_path):
    rows = write_results(model, folder, tmp_path / "out", alpha=0.01)
    assert {row["flag"] for row in rows if row["unit"] == "image"} == {"too few held out"}
    assert "too few held out: 20 held-out images" in (tmp_path / "out/report.html").read_text()


def test_a_volume_has_a_row_and_stands_in_the_page(with_volumes, folder, tmp_path):
    out = tmp_path / "out"
    rows = {row["name"]: row for row in write_results(with_volumes, folder, out)}
    volume = rows["volume.tif"]
    assert volume["unit"] == "volume"
    assert (volume["held_out"], volume["held_out_subjects"]) == (1, 1)
    held_out = with_volumes.calibration.units["volume"].scores
    assert float(volume["p_value"]) == (1 + np.sum(held_out >= float(volume["score"]))) / 2
    assert volume["flag"] == "too few held out"
    frames = [float(rows[f"volume.tif#{frame}"]["largest_window"]) for frame in range(3)]
    assert float(volume["largest_window"]) == max(frames)
    page = (out / "report.html").read_text()
    score = f"{float(volume['score']):#.4g}"
    assert re.search(rf"volume\.tif</t[dh]>\s*<td[^>]*>\s*{re.escape(score)}\s*</td>", page)
    assert "1 held-out volume of 1 subject" in page


def test_without_held_out_volumes_a_volume_has_no_p_value(model, folder, tmp_path):
    rows = write_results(model, folder, tmp_path / "out")
    volume = next(row for row in rows if row["unit"] == "volume")
    assert (volume["p_value"], volume["held_out"]) == ("", 0)
    assert volume["flag"] == "too few held out"
    assert "no volume was held out of training" in (tmp_path / "out/report.html").read_text()


def test_warns_of_images_unlike_the_training_normals(model, tmp_path):
    rows = write_results(model, images_of(2, 17, 30), tmp_path / "out")
    assert all("size 17×30 is outside the training normals (20×24)" in r["warnings"] for r in rows)
    page = (tmp_path / "out/report.html").read_text()
    assert "2 of 2 look unlike the training normals" in page


def test_skipped_files_are_listed_in_the_page(model, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    rows = write_results(model, folder, tmp_path / "out", skip_bad=True)
    assert "broken.png" not in {row["name"] for row in rows}
    assert re.search(
        r"skipped: \S*broken\.png is damaged", (tmp_path / "out/report.html").read_text()
    )


def test_files_without_an_image_are_counted_in_the_page(model, folder, tmp_path):
    count = len(write_results(model, folder, tmp_path / "before"))
    shutil.copy(get_testdata_file("rtplan.dcm"), folder / "IM1")
    assert len(write_results(model, folder, tmp_path / "out")) == count
    page = (tmp_path / "out/report.html").read_text()
    assert "skipped: 1 file without an image (1 DICOM RT Plan)" in page


def test_a_bad_file_among_the_first_leaves_nothing(model, folder, tmp_path):
    (folder / "0.png").write_bytes(b"no image")
    with pytest.raises(BadScan, match=r"0\.png"):
        write_results(model, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_file_leaves_what_was_there(model, folder, tmp_path):
    out = tmp_path / "out"
    write_results(model, folder, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (folder / "z.png").write_bytes(b"no image")
    with pytest.raises(BadScan):
        write_results(model, folder, out)
    # What was done before the bad file is kept to be gone on with.
    unfinished = out / ".unfinished"
    files = (p for p in out.rglob("*") if p.is_file() and unfinished not in p.parents)
    assert {p: p.read_bytes() for p in files} == before
    assert len(list(out.iterdir())) == 9 + unfinished.exists()


def test_names_never_lead_out_of_the_folder(model, tmp_path, monkeypatch):
    for place in ("one/s", "two/s"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(images_of(1, 20, 24)[0]).save(tmp_path / place / "x.png")
    monkeypatch.chdir(tmp_path)
    # Of one name within their folders, so more of the path is taken in.
    write_results(model, ["one/s", "../" + tmp_path.name + "/two/s"], "out")
    maps = sorted(str(p) for p in (tmp_path / "out" / "maps").rglob("*.tif"))
    assert len(maps) == 2


@pytest.mark.parametrize("name", ["../x", "....//x", "....//....//x", "/x", "a/../../x", "..", ""])
def test_a_name_is_a_place_below(name):
    assert os.path.normpath(f"maps/{place_of(name)}.tif").startswith("maps/")


def test_every_image_is_reported_once(model, folder, tmp_path):
    seen = []
    write_results(model, folder, tmp_path / "out", on_result=seen.append)
    assert [result.unit for result in seen].count("image") == 5
    assert [result.unit for result in seen].count("volume") == 1


def test_whole_folder_moves_all_or_nothing(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyError), whole_folder(out, ["sub"]) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyError
    assert not out.exists()
    with whole_folder(out, ["sub"]) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "whole.txt").write_text("whole")
        assert not (out / "sub").exists()
    assert sorted(p.name for p in out.iterdir()) == [".fanogan-results", "sub"]
    assert (out / "sub" / "whole.txt").read_text() == "whole"


# --- one result after another in a folder ---------------------------------------------------------


def files_of(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_another_result_takes_the_place_of_the_one_before_and_of_nothing_else(
    model, folder, tmp_path
):
    write_results(model, folder, tmp_path / "expected")
    out, others = tmp_path / "out", tmp_path / "others"
    others.mkdir()
    for name in ("mine.png", "changed.png", "a.png"):
        Image.fromarray(images_of(1, 20, 24, seed=5)[0]).save(others / name)
    write_results(model, others, out)
    (out / "maps" / "mine.txt").write_text("my own")
    (out / "notes.txt").write_text("my own")
    (out / "overlays" / "changed.png.png").write_text("drawn over by me")
    write_results(model, folder, out)
    left = files_of(out)
    for name in ("maps/mine.txt", "notes.txt", "overlays/changed.png.png"):
        assert left.pop(name)
    assert left == files_of(tmp_path / "expected")
    # And one without maps, from memory, leaves none.
    write_results(model, images_of(2, 20, 24), out, scores_only=True)
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        *(".fanogan-results", "scores.csv", "report.html", "scans.csv", "about.json", "drift.json"),
        *("maps/mine.txt", "notes.txt", "overlays/changed.png.png"),
    }


@pytest.mark.parametrize("name", ["scores.csv", "maps/a.png.tif"])
def test_files_that_are_no_results_are_not_written_over(model, folder, tmp_path, name):
    own = tmp_path / "out" / name
    own.parent.mkdir(parents=True)
    own.write_text("my own")
    with pytest.raises(BadFolder, match=r"would be written over, and \.fanogan-results doesn't"):
        write_results(model, folder, tmp_path / "out")
    assert files_of(tmp_path / "out") == {name: b"my own"}


def test_files_among_results_are_not_written_over(model, folder, tmp_path):
    out, others = tmp_path / "out", tmp_path / "others"
    others.mkdir()
    Image.fromarray(images_of(1, 20, 24, seed=5)[0]).save(others / "other.png")
    write_results(model, others, out)
    own = out / "maps" / "a.png.tif"
    own.write_text("my own")
    before = files_of(out)
    with pytest.raises(BadFolder, match=r"a\.png\.tif: would be written over, and is not what"):
        write_results(model, folder, out)
    left = {name: data for name, data in files_of(out).items() if ".unfinished" not in name}
    assert left == before
    own.rename(tmp_path / "moved.tif")
    read = []
    write_results(model, folder, out, on_result=read.append)
    assert not read  # all that was left to do was to move the result
    write_results(model, folder, tmp_path / "expected")
    assert files_of(out) == files_of(tmp_path / "expected")


@pytest.mark.parametrize("link", ["maps", "overlays/deep", "scores.csv"])
def test_a_link_that_leads_out_is_not_followed(model, folder, tmp_path, link):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    if link == "overlays/deep":
        write_results(model, folder, out)
        (out / "overlays" / "deep" / "b.png.png").rename(elsewhere / "b.png.png")
        (out / link).rmdir()
    out.mkdir(exist_ok=True)
    (out / link).symlink_to(elsewhere)
    before = files_of(elsewhere)
    with pytest.raises(BadFolder, match="is a link that leads out of"):
        write_results(model, folder, out)
    assert files_of(elsewhere) == before
    (out / link).unlink()
    write_results(model, folder, out)
    write_results(model, folder, tmp_path / "expected")
    assert files_of(out) == files_of(tmp_path / "expected")


def test_a_damaged_list_of_results_is_refused(model, folder, tmp_path):
    write_results(model, folder, tmp_path / "out")
    (tmp_path / "out" / ".fanogan-results").write_text('["scores.csv"]')
    with pytest.raises(BadFolder, match="damaged, so what is to be replaced isn't known"):
        write_results(model, folder, tmp_path / "out")


def test_a_forged_list_of_results_removes_nothing_elsewhere(model, folder, tmp_path):
    write_results(model, folder, tmp_path / "out")
    digest = hashlib.sha256(b"my own").hexdigest()
    (tmp_path / "mine.txt").write_text("my own")
    forged = tmp_path / "out" / ".fanogan-results"
    lines = [["../mine.txt", digest], [str(tmp_path / "mine.txt"), digest]]
    forged.write_text(forged.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    write_results(model, folder, tmp_path / "out")
    assert (tmp_path / "mine.txt").read_text() == "my own"


def test_whole_folder_names_the_folder_in_errors(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError) as caught, whole_folder(file, []):
        pass
    assert caught.value.filename == str(file)
    with pytest.raises(OSError) as caught, whole_folder(tmp_path / "out", []):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_no_calibration_allows_is_said(model):
    result = next(results(model, images_of(1, 20, 24)))
    assert row_of(result, model.calibration, 0.05)["p_value"]
    assert statement_of(model, 0.05, "volume").startswith("no volume was held out of training")


def test_gallery_keeps_the_highest_of_any_number(model):
    gallery = Gallery(3)
    found = list(results(model, images_of(8, 20, 24, seed=3)))
    for result in found:
        gallery.add(case_of(result, model.calibration, 0.05))
    assert gallery.count == 8
    expected = sorted((result.total for result in found), reverse=True)[:3]
    assert [case.score for case in gallery.cases] == expected


def test_a_table_is_written_whole(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [{"a": "x, y", "b": 1}])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n"x, y",1\n'
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
