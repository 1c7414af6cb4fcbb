"""What a search of a folder leaves out, and says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanogan.scans import BadScan, each_scan, find_scans


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of two scans, the second in a subfolder."""
    folder = tmp_path / "scans"
    picture(folder / "a.png")
    picture(folder / "b" / "c.png")
    return folder


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)


def write(folder: Path, *names: str, text: str = "") -> None:
    """Write files, pictures and arrays among them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".tif")):
            picture(path)
        elif name.endswith(".npz"):
            np.savez(path, counts=np.eye(3))
        else:
            path.write_text(text)


def run(folder: Path) -> None:
    write(folder, "config.yaml", text="fanogan: 0.2.0\ndetector: izi_f\n")
    write(folder, "metrics.jsonl", "samples/round_000001.png", "model/model.json")


def killed_run(folder: Path) -> None:
    run(folder)
    (folder / "metrics.jsonl").unlink()
    shutil.rmtree(folder / "model")


def results(folder: Path) -> None:
    write(folder, "scores.csv", "report.html", "maps/a.tif", "overlays/b/c.png", "en_face/v.png")


def results_half_moved(folder: Path) -> None:
    write(folder, ".unfinished/results/scores.csv", "maps/a.tif")


def evaluation(folder: Path) -> None:
    write(folder, "scores.csv", "report.html", "metrics.json", "pixels.npz")


def study(folder: Path) -> None:
    write(folder, "study.json", text='{\n "data": "/scans",\n "recipe": {}\n}')
    write(folder, "figures/roc.png", "seed0/training.npz")
    run(folder / "seed0" / "izi_f")
    evaluation(folder / "seed0" / "izi_f" / "evaluation")


def demo(folder: Path) -> None:
    write(folder, ".fanogan-demo", "volumes/anomalous/ill.tif", "run/samples/round.png")


def store(folder: Path) -> None:
    write(folder, "zarr.json", "steps.png", "000000/zarr.json")


def old_store(folder: Path) -> None:
    write(folder, ".zgroup", "steps.png")


OWN = [run, killed_run, results, results_half_moved, evaluation, study, demo, store, old_store]


def names(source: object) -> list[str]:
    return [each.name for each in find_scans(source)]


@pytest.mark.parametrize("make", OWN, ids=lambda make: make.__name__)
def test_what_fanogan_wrote_is_left_out_and_said(
    scans: Path, caplog: pytest.LogCaptureFixture, make: object
) -> None:
    make(scans / "b" / "out")
    assert names(scans) == ["a.png", "b/c.png"]
    (record,) = caplog.records
    assert record.message.startswith(f"skipped: {scans}/b/out")
    assert record.message.endswith(", made by fanogan or part of a Zarr store")
    for glob in ("**/*.*", "*", "**/*"):
        assert names(f"{scans}/{glob}") == ["a.png", "b/c.png"]


@pytest.mark.parametrize("make", OWN, ids=lambda make: make.__name__)
def test_given_itself_it_is_refused(scans: Path, make: object) -> None:
    make(scans / "out")
    with pytest.raises(BadScan, match=r"no images in|is a Zarr store|is a demo's folder"):
        find_scans(scans / "out")


@pytest.mark.parametrize("make", [run, results, evaluation, study], ids=lambda make: make.__name__)
def test_scans_beside_what_fanogan_wrote_are_scans(scans: Path, make: object) -> None:
    make(scans)
    assert names(scans) == ["a.png", "b/c.png"]


def test_folders_of_a_user_are_searched_whatever_their_names(
    scans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(scans, "scores.csv", "study.json", "config.yaml", text="lr: 0.1\n")
    for folder in ("maps", "samples", "overlays", "figures", "seed1"):
        picture(scans / folder / "x.png")
    assert len(find_scans(scans)) == 7
    assert not caplog.records


def test_formats_that_are_not_read_are_counted_and_named_once(
    scans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(scans, "1.gif", "b/2.GIF", "b/3.mha", "4.nrrd", "b/5.img", "6.mnc.gz", "7.tmp", "8.txt")
    write(scans, ".hidden.gif", "b/out/maps/x.webp", "b/out/scores.csv", "b/out/report.html")
    (scans / "link.jp2").symlink_to(scans / "8.txt")
    assert names(scans) == ["a.png", "b/c.png"]
    formats, own = [record.message for record in caplog.records]
    assert formats == (
        "skipped: 7 files of formats that fanogan doesn't read "
        "(2 .gif, 1 .img, 1 .jp2, 1 .mha, 1 .mnc.gz, 1 .nrrd)"
    )
    assert own.startswith(f"skipped: {scans}/b/out/maps, made")
    caplog.clear()
    assert names(f"{scans}/*") == ["a.png", "b/c.png"]
    assert [record.message for record in caplog.records] == [formats, own]


def test_a_search_that_finds_nothing_says_what_it_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "1.webp", "2.heic")
    with pytest.raises(BadScan, match=r"no images in .* but 2 files of .*\(1 .heic, 1 .webp\)"):
        next(each_scan(tmp_path))
