"""Preparing a store: writing, resuming, and what cannot be used."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image
from pydicom.data import get_testdata_file

from fanogan.cli.parser import main
from fanogan.retina import FlatSpace, FlatVolume, is_store, prepare, read_store, straighten
from fanogan.scans import BadScan, Scan

BROKEN = Scan(
    np.stack([np.zeros((2, 50, 60), np.uint8)] * 2 + [np.full((2, 50, 60), 99, np.uint8)], axis=-1),
    "colour",
    "colour",
    is_volume=True,
)
DRAWN = ((56, 189, 248), (248, 113, 113))  # the inner boundary, the first patch


def assert_equal(one: FlatVolume, other: FlatVolume) -> None:
    for name in ("pixels", "bscans", "margins", "inner", "outer"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("name", ["../../up", "/root", "a/b", "..", "ä ∆ \n \udcff", "n" * 400, ""])
def test_a_name_may_be_anything(straight: list[FlatVolume], tmp_path: Path, name: str) -> None:
    out = tmp_path / "in/a.zarr"
    summary = prepare([replace(straight[0], name=name), replace(BROKEN, name=name + "x")], out)
    (volume,) = read_store(out)
    assert volume.name == name and (out / "failed.csv").is_file()
    assert [failed[0] for failed in summary.failed] == [name + "x"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in out.parent.iterdir()] == ["a.zarr"]


# --- resuming -------------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(eyes: list[Scan], store: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in store.glob("0*/**/*")}
    seen = []
    more = replace(eyes[0], name="third")
    summary = prepare(
        [*eyes, more], store, on_volume=lambda name, found: seen.append((name, found))
    )
    assert [(name, found is None) for name, found in seen] == [
        *((eye.name, True) for eye in eyes),
        ("third", False),
    ]
    assert (summary.volumes, summary.bscans, summary.kept, summary.failed) == (3, 9, 2, ())
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [v.name for v in read_store(store)] == [eyes[0].name, eyes[1].name, "third"]


def test_half_written_volumes_are_made_again(
    eyes: list[Scan], straight: list[FlatVolume], store: Path
) -> None:
    # As a kill leaves it: the second volume under its temporary name, without its last files.
    (store / "000001").rename(store / ".partial")
    shutil.rmtree(store / ".partial/outer")
    assert [v.name for v in read_store(store)] == [eyes[0].name]
    assert prepare(eyes, store).kept == 1
    for volume, expected in zip(read_store(store), straight, strict=True):
        assert_equal(volume, expected)
    assert not (store / ".partial").exists()


def test_files_are_known_again_by_their_content(eyes: list[Scan], tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    np.save(folder / "eye.npy", eyes[0].pixels)
    prepare(folder, tmp_path / "a.zarr")
    shutil.copytree(folder, tmp_path / "copy")
    assert prepare(tmp_path / "copy", tmp_path / "a.zarr").kept == 1


def test_what_changed_is_made_anew_and_what_is_gone_goes(
    eyes: list[Scan], store: Path, tmp_path: Path
) -> None:
    (store / "steps.png").write_bytes(b"of the first volume")
    other = replace(eyes[1], name=eyes[0].name)
    assert prepare([other, eyes[1]], store).kept == 1
    prepare([other, eyes[1]], tmp_path / "fresh.zarr")
    for volume, expected in zip(
        read_store(store), read_store(tmp_path / "fresh.zarr"), strict=True
    ):
        assert volume.name == expected.name
        assert_equal(volume, expected)
    assert not (store / "steps.png").exists()
    summary = prepare(replace(eyes[1], group="another person"), store)
    assert (summary.volumes, summary.kept, summary.removed) == (1, 0, 1)
    assert [(v.name, v.group) for v in read_store(store)] == [(eyes[1].name, "another person")]
    with pytest.raises(BadScan, match="can't be prepared into itself"):
        prepare(store, store)


def test_a_new_volume_takes_no_place_of_one_that_is_replaced(eyes: list[Scan], store: Path) -> None:
    new, changed = replace(eyes[0], name="a"), replace(eyes[1], name=eyes[0].name)
    summary = prepare([new, changed], store)  # and the last one is gone
    assert (summary.volumes, summary.kept, summary.removed) == (2, 0, 1)
    assert [volume.name for volume in read_store(store)] == [eyes[0].name, "a"]
    assert {path.name for path in store.iterdir()} == {"000000", "000001", "zarr.json"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"space": FlatSpace(96, 90)},
            "with rows 128, base 120, stretched False, to_membrane True, not with rows 96",
        ),
        ({"spacing": (None, 0.004, None)}, r"no spacing given, not with spacing \[None, 0\.004"),
    ],
)
def test_other_settings_are_refused(
    eyes: list[Scan], store: Path, settings: dict[str, object], text: str
) -> None:
    with pytest.raises(BadScan, match=text):
        prepare(eyes, store, **settings)


def test_files_without_an_image_are_told(
    eyes: list[Scan], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    np.save(folder / "eye.npy", eyes[0].pixels)
    shutil.copy(str(get_testdata_file("rtplan.dcm")), folder / "IM1")
    summary = prepare(folder, tmp_path / "a.zarr")
    assert (summary.volumes, summary.failed) == (1, ())
    assert caplog.messages == ["skipped: 1 file without an image (1 DICOM RT Plan)"]


def test_spacing_given_twice_is_the_same(eyes: list[Scan], tmp_path: Path) -> None:
    given = (0.5, 0.00387, None)
    assert prepare(eyes[0], tmp_path / "a.zarr", spacing=given).kept == 0
    assert prepare(eyes[0], tmp_path / "a.zarr", spacing=given).kept == 1


def test_a_store_is_a_source(eyes: list[Scan], made: Path, tmp_path: Path) -> None:
    space = FlatSpace(96, 90)
    assert prepare(made, tmp_path / "b.zarr", space=space).volumes == 2
    assert prepare(made, tmp_path / "b.zarr", space=space).kept == 2
    for volume, eye in zip(read_store(tmp_path / "b.zarr"), eyes, strict=True):
        assert_equal(volume, straighten(eye, space))


def test_two_at_once_are_refused(eyes: list[Scan], store: Path) -> None:
    def another(name: str, found: object) -> None:
        with pytest.raises(BadScan, match="is being written to by another fanogan prepare"):
            prepare(eyes, store)

    assert prepare(eyes, store, on_volume=another).kept == 2


@pytest.mark.slow
def test_a_killed_prepare_is_resumed(eyes: list[Scan], tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "a.zarr"
    scans.mkdir()
    for number in range(6):
        np.save(scans / f"eye{number}.npy", np.roll(eyes[number % 2].pixels, number, axis=2))
    command = [sys.executable, "-m", "fanogan", "prepare", str(scans)]
    run = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    while not (out / "000001").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    made = [path.name for path in out.glob("0*")]
    assert 2 <= len(made) < 6
    again = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert again.returncode == 0 and f"{len(made)} of them were prepared before" in again.stdout
    assert [v.name for v in read_store(out)] == [f"eye{number}.npy" for number in range(6)]
    for volume, scan in zip(read_store(out), sorted(scans.iterdir()), strict=True):
        expected = straighten(Scan(np.load(scan), scan.name, scan.name, is_volume=True))
        np.testing.assert_array_equal(volume.pixels, expected.pixels)


# --- what cannot be used --------------------------------------------------------------------------


def test_failures_are_listed_until_they_are_fixed(eyes: list[Scan], tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    summary = prepare([BROKEN, eyes[0]], out)
    reason = "colour is in colour, and OCT is grey: give the scanner's own export in grey"
    assert summary.failed == (("colour", reason),) and summary.volumes == 1
    with (out / "failed.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "reason"], ["colour", reason]]
    listed = zarr.open_group(out, mode="r").attrs["fanogan"]["failed"]
    assert listed == [{"name": "colour", "reason": reason}]
    mended = replace(eyes[1], name="colour")
    assert prepare([mended, eyes[0]], out).failed == ()
    assert not (out / "failed.csv").exists()
    assert zarr.open_group(out, mode="r").attrs["fanogan"]["failed"] == []


def test_what_is_left_out_is_called_by_its_name_and_needs_no_option(
    eyes: list[Scan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = tmp_path / "black eye"
    black.mkdir()
    monkeypatch.chdir(black)
    flat = Image.fromarray(np.zeros((200, 200), dtype=np.uint8))
    reason = "has the same value in every pixel, so there is nothing to learn or score: replace it"
    flat.save("1.png")
    (failed,) = prepare([Path("1.png"), eyes[0]], tmp_path / "a.zarr").failed
    assert failed == ("1.png", f"1.png {reason}")
    flat.save("2.png")
    (failed,) = prepare([Path(), eyes[0]], tmp_path / "b.zarr").failed
    assert failed == ("black eye", f"black eye {reason}")


def test_nothing_prepared_is_an_error(eyes: list[Scan], tmp_path: Path) -> None:
    with pytest.raises(BadScan, match="none of 1 volumes could be used; the first: colour is in"):
        prepare(BROKEN, tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr/failed.csv").is_file()
    assert prepare([BROKEN, eyes[0]], tmp_path / "a.zarr").volumes == 1


def test_other_places_are_left_alone(eyes: list[Scan], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x").write_text("x")
    with pytest.raises(BadScan, match="is a file: give the store another name"):
        prepare(eyes, tmp_path / "file")
    with pytest.raises(BadScan, match="holds other files"):
        prepare(eyes, tmp_path / "folder")
    assert not is_store(tmp_path) and not is_store("nowhere") and not is_store(eyes[0])


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def scans(eyes: list[Scan], tmp_path: Path) -> Path:
    """One volume as an array in a file, and one that cannot be used."""
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans/eye.npy", eyes[0].pixels)
    (tmp_path / "scans/cut.e2e").write_bytes(b"CMDb" + bytes(600))
    return tmp_path / "scans"


def test_the_command_says_what_it_found(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scans.parent / "a.zarr"
    command = ["prepare", str(scans), "--out", str(out), "--spacing", ",0.00387,0.022"]
    main(command)
    shown = capsys.readouterr().out.replace("\n", " ")
    for text in (
        "left out: ",
        "cut.e2e is damaged or cut short",
        "eye.npy  3 B-scans · ? × 0.00387 × 0.022 mm · retina found in 100.0 % of columns",
        "1 volume, 3 B-scans · retina found in 100.0 % of columns",
        f"1 left out: {out}/failed.csv",
    ):
        assert text in shown
    picture = Image.open(out / "steps.png")
    pixels = np.asarray(picture.convert("RGB"))
    assert picture.format == "PNG" and min(picture.size) > 500
    assert all((pixels == colour).all(axis=-1).any() for colour in DRAWN)
    assert next(read_store(out)).scan_spacing == (None, 0.00387, 0.022)
    main(command)
    assert "prepared before" in capsys.readouterr().out


def test_the_command_takes_files_of_any_name(
    eyes: list[Scan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["caf\udce9.npy", "n" * 251 + ".npy", "two\nlines\u202e.npy"]
    (tmp_path / "scans").mkdir()
    for name in names:
        with (tmp_path / "scans" / name).open("wb") as file:
            np.save(file, eyes[0].pixels)
    (tmp_path / "scans" / "=bad\udcff\n.e2e").write_bytes(b"CMDb" + bytes(600))
    out = tmp_path / "a\udcff.zarr"
    main(["prepare", str(tmp_path / "scans"), "--out", str(out)])
    assert sorted(volume.name for volume in read_store(out)) == sorted(names)
    shown = capsys.readouterr().out
    assert r"two\u000alines\u202e.npy  3 B-scans" in shown and "\u202e" not in shown
    with (out / "failed.csv").open(newline="", encoding="utf-8") as file:
        (name, reason), *_ = list(csv.reader(file))[1:]
    assert name == r"'=bad\xff\u000a.e2e" and r"=bad\\xff" in reason


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--bscans", "--volumes"], "--bscans and --volumes contradict each other: give one"),
        (["--spacing", "0.1,0.2"], "--spacing 0.1,0.2: give three lengths in mm"),
        (["--spacing", "a,b,c"], "--spacing a,b,c: give three lengths in mm"),
        (["--spacing=-1,1,1"], "--spacing -1,1,1: give three lengths in mm"),
        (["--spacing", "nan,1,1"], "--spacing nan,1,1: give three lengths in mm"),
        (["--recipe", "none.yaml"], "none.yaml"),
        (["--groups", "nobody"], "does not match groups"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(
    scans: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scans.parent / "a.zarr"
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(scans), "--out", str(out), *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and text in error and error.count("\n") == 1
    assert not out.exists()


def test_the_command_fails_where_nothing_could_be_prepared(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "eye.npy").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(scans), "--out", str(scans.parent / "a.zarr")])
    assert ended.value.code == 1
    assert "none of 1 volumes could be used" in capsys.readouterr().err


def test_decoders_say_nothing_of_their_own(tmp_path: Path) -> None:
    """In a process of its own, which begins others, for what is really shown."""
    for name in "ab":
        pixels = np.arange(360, dtype=np.int16).reshape(8, 9, 5)
        image = nibabel.Nifti1Image(pixels, np.diag([0.01, 0.01, 0.01, 1]))
        path = tmp_path / "scans" / f"{name}.nii"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(image, path)
        content = bytearray(path.read_bytes())
        content[252] = 77  # a qform_code that there isn't, of which nibabel would tell
        path.write_bytes(content)
    command = ["prepare", str(path.parent), "--out", str(tmp_path / "a.zarr")]
    ended = subprocess.run(
        [sys.executable, "-m", "fanogan", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout.count("left out: no retina was found in") == 2
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("fanogan: none of 2 volumes could be used")
