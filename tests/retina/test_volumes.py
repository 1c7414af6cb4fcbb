"""Volumes come in, from files, stores or memory, and are flattened."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from fanogan.phantom.eye import make_phantom
from fanogan.retina import FlatSpace, FlatVolume, make_flat, prepare, straighten
from fanogan.retina import volumes as read
from fanogan.retina.volumes import find_volumes, read_volumes
from fanogan.scans import BadScan, EmptyFrames, FileList, Scan, find_scans

SPACE = FlatSpace()
SPACING = (0.5, 0.00387, 0.022)


def pictures(
    folder: Path, pixels: np.ndarray, prefix: str = "scan", extension: str = "png"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(pixels):
        # 9, 10, 11: in natural order, which isn't that of the alphabet.
        Image.fromarray(frame).save(folder / f"{prefix}{number + 9}.{extension}")
    return folder


def one(source: object, space: FlatSpace = SPACE, **options: object) -> FlatVolume:
    (volume,) = read_volumes(source, space, **options)
    return volume


def assert_equal(one: FlatVolume, other: FlatVolume) -> None:
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.recorded, other.recorded)
    np.testing.assert_array_equal(one.inner, other.inner)
    np.testing.assert_array_equal(np.asarray(one.bscans), np.asarray(other.bscans))


# --- what is a volume, and what it is called ----------------------------------------------------


@pytest.mark.parametrize("extension", ["png", "tif", "bmp"])
def test_pictures_of_a_folder_are_one_volume(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path, extension: str
) -> None:
    pictures(tmp_path / "scans/ann/left", eyes[0].pixels, extension=extension)
    volume = one(tmp_path / "scans", spacing=SPACING)
    assert_equal(volume, straight[0])
    assert (volume.name, volume.group, volume.scan_spacing) == ("ann/left", "ann", SPACING)
    assert one(tmp_path / "scans/ann/left", spacing=SPACING).name == "left"


def test_pictures_of_one_folder_and_subject_are_one_volume(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path
) -> None:
    for scan, person in zip(eyes, ("Subject_02", "Subject_10"), strict=True):
        pictures(tmp_path / "b", scan.pixels, f"{person}_")
    first, second = read_volumes(tmp_path / "b", SPACE, groups=r"Subject_\d+", spacing=SPACING)
    assert [(v.name, v.group) for v in (first, second)] == [
        ("b/Subject_02", "Subject_02"),
        ("b/Subject_10", "Subject_10"),
    ]
    assert_equal(first, straight[0])
    assert_equal(second, straight[1])
    alone = find_volumes([str(tmp_path / "b" / f"Subject_02_{n}.png") for n in (10, 9)], "02|10")
    assert [(v.name, v.group, len(v.parts)) for v in alone] == [("b", "02", 2)]
    assert [part.name for part in alone[0].parts] == ["Subject_02_9.png", "Subject_02_10.png"]


def test_folders_of_one_name_are_told_apart(eyes: list[Scan], tmp_path: Path) -> None:
    folders = [pictures(tmp_path / who / "oct", eyes[0].pixels) for who in ("ann", "bob")]
    assert [v.name for v in find_volumes(folders, pictures="volumes")] == ["ann/oct", "bob/oct"]
    (tmp_path / "bob/oct/scan9.png").rename(tmp_path / "bob/oct/scan8.png")
    for path in (tmp_path / "bob/oct/scan10.png", tmp_path / "bob/oct/scan11.png"):
        path.unlink()
    assert [v.name for v in find_volumes(folders, pictures="volumes")] == ["ann/oct", "bob/oct"]


def test_stacks_and_arrays_in_files_are_volumes_of_their_own(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "b.tif", eyes[0].pixels, photometric="minisblack")
    np.save(tmp_path / "a.npy", eyes[0].pixels)
    pictures(tmp_path, eyes[1].pixels[:2])
    names = [v.name for v in find_volumes(tmp_path)]
    assert names == ["a.npy", "b.tif", tmp_path.name]
    for name in names[:2]:
        volume = one(tmp_path / name, spacing=SPACING)
        assert volume.is_volume
        assert_equal(volume, straight[0])


def test_given_spacing_fills_in_and_does_not_override(eyes: list[Scan], tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "eye.tif",
        eyes[0].pixels,
        imagej=True,
        resolution=(1 / 0.022, 1 / 0.00387),
        metadata={"unit": "mm", "axes": "ZYX"},
    )
    volume = one(tmp_path, spacing=(0.5, 1.0, None))
    assert volume.scan_spacing == pytest.approx(SPACING)
    assert (
        one(replace(eyes[0], spacing=(None, None, None)), spacing=SPACING).scan_spacing == SPACING
    )


def test_a_store_and_its_pictures_are_no_scans(eyes: list[Scan], tmp_path: Path) -> None:
    pictures(tmp_path / "scans", eyes[0].pixels)
    prepare(eyes[1], tmp_path / "scans/done.zarr")
    Image.fromarray(eyes[0].pixels[0]).save(tmp_path / "scans/done.zarr/steps.png")
    assert [v.name for v in find_volumes(tmp_path / "scans")] == ["scans"]


# --- from memory and from a store ---------------------------------------------------------------


def test_sources_mix_and_keep_their_order(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path
) -> None:
    pictures(tmp_path / "c", eyes[0].pixels)
    prepare(eyes[1], tmp_path / "done.zarr")
    source = [eyes[0], tmp_path / "done.zarr", str(tmp_path / "c"), replace(straight[1], name="d")]
    found = list(read_volumes(source, SPACE, spacing=SPACING))
    assert [v.name for v in found] == [eyes[0].name, eyes[1].name, "c", "d"]
    for volume, expected in zip(found, straight * 2, strict=True):
        assert_equal(volume, expected)


@pytest.mark.parametrize(
    "space", [FlatSpace(96, 88), FlatSpace(128, 100), FlatSpace(stretched=True)]
)
def test_flat_volumes_of_another_space_are_flattened_anew(
    eyes: list[Scan], straight: list[FlatVolume], space: FlatSpace
) -> None:
    volume, expected = one(straight[0], space), straighten(eyes[0], space)
    assert volume.pixels.shape == (3, space.rows, 72)
    assert_equal(volume, expected)
    assert (volume.name, volume.scan_spacing) == (expected.name, expected.scan_spacing)


def test_margins_once_given_are_not_looked_for_again(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path
) -> None:
    """No grey value tells these margins, so a second look would lose them."""
    margins = np.zeros(eyes[0].pixels.shape, bool)
    margins[:, :, :20] = True
    known = make_flat(eyes[0], straight[0].boundaries, margins)
    prepare(known, tmp_path / "a.zarr")
    for source in (known, tmp_path / "a.zarr"):
        volume = one(source, FlatSpace(96, 88))
        np.testing.assert_array_equal(volume.margins, margins)
        assert not volume.recorded[:, :, :20].any() and volume.recorded[:, :, 20:].any()


def test_arrays_are_refused(eyes: list[Scan]) -> None:
    for source in (eyes[0].pixels, [eyes[0].pixels], [eyes[0], eyes[1].pixels]):
        with pytest.raises(BadScan, match=r"give each volume as fanogan\.Scan"):
            read_volumes(source, SPACE)
    with pytest.raises(BadScan, match="no volumes in an empty list"):
        read_volumes([], SPACE)


# --- what cannot be used ------------------------------------------------------------------------

HEIDELBERG = """<HEDX><BODY><Patient><Study><Series><Type>Volume</Type><Image><ID>1</ID>
<ImageNumber>1</ImageNumber><ImageType><Type>OCT</Type></ImageType><ImageData>
<ExamURL>C:\\gone.tif</ExamURL></ImageData></Image></Series></Study></Patient></BODY></HEDX>"""


def save_ct(path: Path, pixels: np.ndarray) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = pixels.tobytes()
    made.save_as(path, enforce_file_format=True)


def test_each_bad_volume_is_one_sentence_and_the_rest_continue(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path
) -> None:
    pictures(tmp_path / "1 whole", eyes[0].pixels)
    pictures(tmp_path / "2 sizes", eyes[0].pixels)
    Image.fromarray(eyes[0].pixels[0, :99]).save(tmp_path / "2 sizes" / "scan10.png")
    (tmp_path / "3 xml").mkdir()
    (tmp_path / "3 xml" / "export.xml").write_text(HEIDELBERG)
    (tmp_path / "4.e2e").write_bytes(b"CMDb" + bytes(600))
    save_ct(tmp_path / "5.dcm", eyes[0].pixels[0])
    noise = np.random.default_rng(0).integers(0, 60, (2, 240, 72), dtype=np.uint8)
    pictures(tmp_path / "7 cut", eyes[0].pixels)
    whole = (tmp_path / "7 cut" / "scan10.png").read_bytes()
    (tmp_path / "7 cut" / "scan10.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.dstack([eyes[0].pixels[0], noise[0], noise[1]])).save(tmp_path / "8.png")
    pictures(tmp_path / "9 noise", noise)
    bad: list[BadScan] = []
    reading = {"pictures": "volumes", "spacing": SPACING}
    found = list(read_volumes(tmp_path, SPACE, **reading, skip_bad=True, on_bad=bad.append))
    assert [volume.name for volume in found] == ["1 whole"]
    assert_equal(found[0], straight[0])
    expected = [
        r"2 sizes/scan10\.png differs in size or type from scan9\.png of the same volume",
        r"gone\.tif",
        r"4\.e2e is damaged or cut short",
        r"5\.dcm is DICOM of another kind than ophthalmic tomography",
        r"7 cut/scan10\.png is damaged or cut short",
        r"is in colour, and OCT is grey",
        r"no retina was found in 9 noise",
    ]
    assert len(bad) == len(expected)
    for error, text in zip(bad, expected, strict=True):
        assert error.__class__ is BadScan and "\n" not in str(error)
        assert re.search(text, str(error)), error
    with pytest.raises(BadScan, match=r"differs in size or type.*\(--bscans\)"):
        list(read_volumes(tmp_path, SPACE, **reading))


def test_nothing_usable_is_said(tmp_path: Path) -> None:
    (tmp_path / "4.e2e").write_bytes(b"CMDb" + bytes(600))
    with pytest.raises(BadScan, match=r"none of 1 volumes could be used; the first: .*4\.e2e"):
        list(read_volumes(tmp_path, SPACE, skip_bad=True))
    with pytest.raises(BadScan, match="does not exist"):
        read_volumes(tmp_path / "none", SPACE)


@pytest.mark.parametrize("kind", ["pictures", "npy"])
def test_a_black_bscan_has_no_retina_and_the_rest_has(
    eyes: list[Scan], tmp_path: Path, kind: str
) -> None:
    pixels = eyes[0].pixels.copy()
    pixels[1] = 0
    if kind == "npy":
        np.save(tmp_path / "eye.npy", pixels)
    else:
        pictures(tmp_path, pixels)
    volume = one(tmp_path, spacing=SPACING)
    assert volume.notes == (EmptyFrames((1,), of=len(volume.pixels)),)
    assert not volume.recorded[1].any() and not volume.tissue[1].any()
    assert np.isfinite(volume.inner[[0, 2]]).mean() > 0.95


def test_volumes_of_differing_spacing_come_to_one_pixel_size(eyes: list[Scan]) -> None:
    wide = make_phantom(3, shape=(2, 200, 64), spacing=(0.5, 0.005, 0.044))
    scan = Scan(wide.pixels, wide.name, wide.name, wide.spacing, is_volume=True)
    for volume in read_volumes([eyes[0], scan], SPACE):
        assert volume.spacing[1:] == pytest.approx((0.00387, 0.022), rel=0.03)


def test_two_volumes_of_one_name_are_refused(eyes: list[Scan]) -> None:
    bad: list[BadScan] = []
    source = [eyes[0], replace(eyes[1], name=eyes[0].name), eyes[1]]
    (volume,) = read_volumes(source, SPACE, skip_bad=True, on_bad=bad.append)
    assert volume.name == eyes[1].name
    assert [str(error) for error in bad] == [
        "2 volumes are called phantom_0001: rename all but one"
    ] * 2


# --- several processes --------------------------------------------------------------------------


def test_several_processes_give_the_same_in_order(
    eyes: list[Scan], straight: list[FlatVolume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MOST_PROCESSES", 2)
    (tmp_path / "2.e2e").write_bytes(b"CMDb" + bytes(600))
    source = [
        eyes[0],
        str(tmp_path),
        replace(eyes[1], pixels=eyes[1].pixels[:1], name="short"),
        eyes[1],
    ]
    bad: list[BadScan] = []
    found = list(read_volumes(source, SPACE, skip_bad=True, on_bad=bad.append))
    assert [v.name for v in found] == [eyes[0].name, "short", eyes[1].name]
    assert_equal(found[0], straight[0])
    assert_equal(found[2], straight[1])
    assert len(bad) == 1


@pytest.mark.slow
def test_a_script_needs_no_guard(eyes: list[Scan], tmp_path: Path) -> None:
    """The standard library's processes would run the script anew in each of them."""
    for person, eye in zip("ab", eyes, strict=True):
        pictures(tmp_path / "scans" / person, eye.pixels)
    script = tmp_path / "script.py"
    script.write_text(
        "from fanogan.retina import FlatSpace\n"
        "from fanogan.retina import read_volumes\n"
        "print('begun')\n"
        f"print([v.name for v in read_volumes({str(tmp_path / 'scans')!r}, FlatSpace())])\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("begun\n['a', 'b']\n", "")


@pytest.mark.slow
def test_real_pictures_are_grouped_by_subject(data_folder: Path) -> None:
    folder = data_folder / "oct/chiu_dme/bscans"
    found = find_volumes(folder, r"(subject\d+)")
    assert [v.group for v in found] == [f"subject0{n}" for n in range(1, 7)]
    assert sum(len(v.parts) for v in found) == len(find_scans(folder)) == 66
    volume = next(iter(read_volumes(folder, SPACE, groups=r"(subject\d+)")))
    assert volume.pixels.shape[:2] == (11, 128) and volume.found > 0.9


def test_volumes_at_a_url_are_those_of_this_machine(eyes: list[Scan], tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    folder = tmp_path / "eyes"
    (folder / "ill").mkdir(parents=True)
    np.save(folder / "ill" / "eye.npy", eyes[0].pixels)
    memory.pipe_file("/eyes/ill/eye.npy", (folder / "ill" / "eye.npy").read_bytes())
    here, there = (one(source, spacing=SPACING) for source in (str(folder), "memory://eyes"))
    assert (here.name, here.group) == (there.name, there.group)
    assert_equal(here, there)
    store = tmp_path / "prepared.zarr"
    assert prepare("memory://eyes", store, spacing=SPACING).kept == 0
    assert prepare("memory://eyes", store, spacing=SPACING).kept == 1
    (tmp_path / "list.txt").write_text("memory://eyes/0.png\n")
    listed = FileList(tmp_path / "list.txt")
    with pytest.raises(BadScan, match=r"list\.txt lists pictures at URLs, .* give their folders"):
        find_volumes(listed)
    assert [each.url for each in find_volumes(listed, pictures="bscans")] == ["memory://eyes/0.png"]
