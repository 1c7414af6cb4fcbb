"""A prepared store: written once, gone on with, read again, and damaged ones."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from fanogan.cli import main
from fanogan.phantom import make_phantom
from fanogan.retina import FlatSpace, FlatVolume, read, straighten
from fanogan.retina.flatten import OUTSIDE
from fanogan.retina.picture import steps_figure
from fanogan.retina.prepare import prepare
from fanogan.retina.read import read_volumes
from fanogan.retina.store import is_store, read_store
from fanogan.scans import BadScan, EnFace, Scan

SPACING = (0.5, 0.00387, 0.022)
EYES = [
    Scan(
        eye.pixels,
        eye.name,
        f"person {seed}",
        SPACING,
        is_volume=True,
        notes=("a note",),
        eye="left",
        device="Phantom",
        thickness={"C0": 0.25},
        en_face=EnFace(
            np.arange(30, dtype=np.uint8).reshape(5, 6),
            (0.01, None),
            np.arange(12, dtype=np.float64).reshape(3, 2, 2),
            (2.5, 3.0),
        ),
        is_retina=True,
    )
    for seed in (1, 2)
    for eye in [make_phantom(seed, shape=(3, 240, 96), spacing=SPACING)]
]
DRAWN = ((56, 189, 248), (248, 113, 113))  # the inner boundary, the first patch
BROKEN = Scan(np.zeros((2, 50, 60, 3), np.uint8), "colour", "colour", is_volume=True)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MOST_PROCESSES", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "prepared.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "MOST_PROCESSES", 1)
        prepare(EYES, out)
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "prepared.zarr"))


def assert_equal(one: FlatVolume, other: FlatVolume) -> None:
    """Every field, but for how the B-scans are held."""
    for name in ("pixels", "tissue", "inner", "outer", "retina"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(np.asarray(one.bscans), np.asarray(other.bscans))
    for name in ("name", "group", "spacing", "scan_spacing", "notes", "eye", "device", "grid"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.thickness == other.thickness and one.is_retina == other.is_retina
    assert one.en_face is not None and other.en_face is not None
    np.testing.assert_array_equal(one.en_face.pixels, other.en_face.pixels)
    np.testing.assert_array_equal(one.en_face.lines, other.en_face.lines)
    assert one.en_face.spacing == other.en_face.spacing
    assert one.en_face.grid_centre == other.en_face.grid_centre


# --- written and read again ---------------------------------------------------------------------


def test_volumes_come_back_as_they_were(made: Path) -> None:
    for volume, eye in zip(read_store(made), EYES, strict=True):
        assert_equal(volume, straighten(eye))


@pytest.mark.parametrize("space", [FlatSpace(96, 90), FlatSpace(stretched=True)])
def test_another_space_is_made_from_the_stored_boundaries(made: Path, space: FlatSpace) -> None:
    for volume, eye in zip(read_store(made, space), EYES, strict=True):
        assert_equal(volume, straighten(eye, space))
    assert [v.pixels.shape[1] for v in read_volumes(made, space)] == [space.rows] * 2


def test_margins_are_kept_for_another_space(tmp_path: Path) -> None:
    pixels = EYES[0].pixels.copy()
    pixels[:, -40:, :40] = 255
    scan, space = replace(EYES[0], pixels=pixels), FlatSpace(160, 100)
    prepare(scan, tmp_path / "a.zarr")
    (volume,) = read_store(tmp_path / "a.zarr", space)
    expected = straighten(scan, space)
    assert_equal(volume, expected)
    assert ((volume.flat.region != OUTSIDE) & ~volume.tissue).any()


def test_bscans_are_read_one_by_one(made: Path) -> None:
    volume = next(read_store(made))
    whole = np.asarray(volume.bscans)
    assert not isinstance(volume.bscans, np.ndarray)
    assert (volume.bscans.shape, volume.bscans.dtype, len(volume.bscans)) == ((3, 240, 96), "u1", 3)
    np.testing.assert_array_equal(volume.bscans[1], whole[1])
    np.testing.assert_array_equal(volume.bscans[-1, 5:9], whole[-1, 5:9])
    for frame, expected in zip(volume.bscans, whole, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert (made / "000000/bscans/c/2/0/0").is_file()


def test_a_map_goes_back_to_the_scan(made: Path) -> None:
    volume = next(read_store(made))
    back = volume.back(1, volume.pixels[1].astype(np.float32))
    known = np.isfinite(back)
    assert back.shape == (240, 96) and known.mean() > 0.4
    assert np.abs(back - volume.bscans[1])[known].mean() < 12


def test_any_zarr_reader_reads_it(made: Path) -> None:
    group = zarr.open_group(made, mode="r")
    assert sorted(group.group_keys()) == ["000000", "000001"]
    assert group["000001"].attrs["name"] == EYES[1].name
    assert set(group["000001"].array_keys()) == {
        *("flat", "bscans", "margins", "inner", "outer", "en_face", "en_face_lines")
    }


@pytest.mark.parametrize("name", ["../../up", "/root", "a/b", "..", "ä ∆ \n \udcff", "n" * 400, ""])
def test_a_name_may_be_anything(tmp_path: Path, name: str) -> None:
    out = tmp_path / "in/a.zarr"
    summary = prepare([replace(EYES[0], name=name), replace(BROKEN, name=name + "x")], out)
    (volume,) = read_store(out)
    assert volume.name == name and (out / "failed.csv").is_file()
    assert [failed[0] for failed in summary.failed] == [name + "x"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in out.parent.iterdir()] == ["a.zarr"]


# --- gone on with -------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(store: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in store.glob("0*/**/*")}
    seen = []
    more = replace(EYES[0], name="third")
    summary = prepare(
        [*EYES, more], store, on_volume=lambda name, found: seen.append((name, found))
    )
    assert [(name, found is None) for name, found in seen] == [
        *((eye.name, True) for eye in EYES),
        ("third", False),
    ]
    assert (summary.volumes, summary.bscans, summary.kept, summary.failed) == (3, 9, 2, ())
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [v.name for v in read_store(store)] == [EYES[0].name, EYES[1].name, "third"]


def test_half_written_volumes_are_made_again(store: Path) -> None:
    # As a kill leaves it: the second volume under its temporary name, without its last files.
    (store / "000001").rename(store / ".partial")
    shutil.rmtree(store / ".partial/outer")
    assert [v.name for v in read_store(store)] == [EYES[0].name]
    assert prepare(EYES, store).kept == 1
    for volume, eye in zip(read_store(store), EYES, strict=True):
        assert_equal(volume, straighten(eye))
    assert not (store / ".partial").exists()


def test_files_are_known_again_by_their_content(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    np.save(folder / "eye.npy", EYES[0].pixels)
    prepare(folder, tmp_path / "a.zarr")
    shutil.copytree(folder, tmp_path / "copy")
    assert prepare(tmp_path / "copy", tmp_path / "a.zarr").kept == 1
    np.save(folder / "eye.npy", EYES[1].pixels)
    with pytest.raises(BadScan, match=r"a\.zarr holds a volume eye\.npy already, of other files"):
        prepare(folder, tmp_path / "a.zarr")
    with pytest.raises(BadScan, match="or of another subject"):
        prepare(tmp_path / "copy", tmp_path / "a.zarr", groups="e.e")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"space": FlatSpace(96, 90)},
            "with rows 128, base 120, stretched False, not with rows 96",
        ),
        ({"spacing": (None, 0.004, None)}, r"no spacing given, not with spacing \[None, 0\.004"),
    ],
)
def test_other_settings_are_refused(store: Path, settings: dict[str, object], text: str) -> None:
    with pytest.raises(BadScan, match=text):
        prepare(EYES, store, **settings)


def test_spacing_given_twice_is_the_same(tmp_path: Path) -> None:
    given = (0.5, 0.00387, None)
    assert prepare(EYES[0], tmp_path / "a.zarr", spacing=given).kept == 0
    assert prepare(EYES[0], tmp_path / "a.zarr", spacing=given).kept == 1


def test_a_store_is_a_source(made: Path, tmp_path: Path) -> None:
    space = FlatSpace(96, 90)
    assert prepare(made, tmp_path / "b.zarr", space=space).volumes == 2
    assert prepare(made, tmp_path / "b.zarr", space=space).kept == 2
    for volume, eye in zip(read_store(tmp_path / "b.zarr"), EYES, strict=True):
        assert_equal(volume, straighten(eye, space))


def test_failures_are_listed_until_they_are_mended(tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    summary = prepare([BROKEN, EYES[0]], out)
    reason = "colour is in colour, and OCT is grey: give the scanner's own export"
    assert summary.failed == (("colour", reason),) and summary.volumes == 1
    with (out / "failed.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "reason"], ["colour", reason]]
    listed = zarr.open_group(out, mode="r").attrs["fanogan"]["failed"]
    assert listed == [{"name": "colour", "reason": reason}]
    mended = replace(EYES[1], name="colour")
    assert prepare([mended, EYES[0]], out).failed == ()
    assert not (out / "failed.csv").exists()
    assert zarr.open_group(out, mode="r").attrs["fanogan"]["failed"] == []


def test_nothing_prepared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadScan, match="none of 1 volumes could be used; the first: colour is in"):
        prepare(BROKEN, tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr/failed.csv").is_file()
    assert prepare([BROKEN, EYES[0]], tmp_path / "a.zarr").volumes == 1


def test_two_at_once_are_refused(store: Path) -> None:
    def another(name: str, found: object) -> None:
        with pytest.raises(BadScan, match="is being written to by another fanogan prepare"):
            prepare(EYES, store)

    assert prepare(EYES, store, on_volume=another).kept == 2


@pytest.mark.slow
def test_a_killed_prepare_goes_on(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "a.zarr"
    scans.mkdir()
    for number in range(6):
        np.save(scans / f"eye{number}.npy", np.roll(EYES[number % 2].pixels, number, axis=2))
    command = [sys.executable, "-c", "from fanogan.cli import main; main()", "prepare", str(scans)]
    run = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    while not (out / "000001").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    made = [path.name for path in out.glob("0*")]
    assert 2 <= len(made) < 6
    again = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert again.returncode == 0 and f"{len(made)} of them were there already" in again.stdout
    assert [v.name for v in read_store(out)] == [f"eye{number}.npy" for number in range(6)]
    for volume, scan in zip(read_store(out), sorted(scans.iterdir()), strict=True):
        expected = straighten(Scan(np.load(scan), scan.name, scan.name, is_volume=True))
        np.testing.assert_array_equal(volume.pixels, expected.pixels)


# --- damaged and foreign ------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, cut, os.remove])
@pytest.mark.parametrize(
    "name",
    ["flat/c/0/0/0", "inner/c/0/0", "margins/c/0/0/0", "en_face/c/0/0", "outer/zarr.json"],
)
def test_a_damaged_volume_is_named_and_the_rest_go_on(
    store: Path, damage: object, name: str
) -> None:
    damage(store / "000000" / name)  # type: ignore[operator]
    if name.endswith("json") and damage is flip_a_bit:
        (store / "000000" / name).write_text("{}")
    bad: list[BadScan] = []
    found = read_volumes(store, FlatSpace(), skip_bad=True, on_bad=bad.append)
    assert [volume.name for volume in found] == [EYES[1].name]
    assert str(bad[0]) == (
        f"{store}/000000 ({EYES[0].name}) of a prepared store is damaged: delete that folder, and "
        "run fanogan prepare again"
    )
    with pytest.raises(BadScan, match="is damaged"):
        list(read_store(store))


@pytest.mark.parametrize("damage", [flip_a_bit, cut])
def test_a_damaged_bscan_is_found_when_it_is_read(store: Path, damage: object) -> None:
    damage(store / "000000/bscans/c/1/0/0")  # type: ignore[operator]
    volume = next(read_store(store))
    assert volume.bscans[0].any()
    with pytest.raises(BadScan, match=r"000000 \(phantom_0001\) of a prepared store is damaged"):
        volume.bscans[1]
    with pytest.raises(BadScan, match="is damaged"):
        np.asarray(volume.bscans)


def test_a_missing_bscan_is_found_at_once(store: Path) -> None:
    (store / "000000/bscans/c/1/0/0").unlink()
    with pytest.raises(BadScan, match="is damaged"):
        next(read_store(store))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": 3, "node_type": "group"}'])
@pytest.mark.parametrize("name", ["zarr.json", "000000/zarr.json"])
def test_damaged_attributes_are_one_sentence(store: Path, text: str, name: str) -> None:
    (store / name).write_text(text)
    with pytest.raises(BadScan, match=r"damaged: delete|is a Zarr store, but none") as caught:
        read_volumes(store, FlatSpace())
    assert str(store) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadScan):
        prepare(EYES, store)


def test_a_newer_store_says_which_version_reads_it(store: Path) -> None:
    body = json.loads((store / "zarr.json").read_text())
    body["attributes"]["fanogan"] |= {"format": 2, "version": "9.1"}
    (store / "zarr.json").write_text(json.dumps(body))
    for refused in (lambda: read_store(store), lambda: prepare(EYES, store)):
        with pytest.raises(BadScan, match=r"formats up to 1: update to fanogan 9\.1 or newer"):
            refused()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_of_another_program_is_left_alone(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "other.zarr"
    zarr.open_group(path, mode="w", zarr_format=zarr_format).create_array(
        "x", shape=(3,), dtype="u1"
    )
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert is_store(path)
    for refused in (lambda: read_volumes(path, FlatSpace()), lambda: prepare(EYES, path)):
        with pytest.raises(BadScan, match="is a Zarr store, but none that fanogan prepare made"):
            refused()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_other_places_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x").write_text("x")
    with pytest.raises(BadScan, match="is a file: give the store another name"):
        prepare(EYES, tmp_path / "file")
    with pytest.raises(BadScan, match="holds other files"):
        prepare(EYES, tmp_path / "folder")
    assert not is_store(tmp_path) and not is_store("nowhere") and not is_store(EYES[0])


# --- the picture --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(64, 64), (200, 64)])
def test_the_picture_of_the_steps(made: Path, window: tuple[int, int]) -> None:
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(steps_figure(next(read_store(made)), 1, window)))
    assert picture.format == "PNG" and min(picture.size) > 500
    pixels = np.asarray(picture.convert("RGB"))
    inner, first_patch = ((pixels == colour).all(axis=-1).any() for colour in DRAWN)
    assert inner and first_patch == (window == (64, 64))


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """One volume as an array in a file, and one that cannot be used."""
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans/eye.npy", EYES[0].pixels)
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
    assert (out / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert next(read_store(out)).scan_spacing == (None, 0.00387, 0.022)
    main(command)
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
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
