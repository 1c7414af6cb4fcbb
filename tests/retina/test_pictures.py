"""Which pictures of a folder are a volume, and which are single B-scans."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fanogan.retina import FlatSpace, find_volumes, prepare, read_store, read_volumes
from fanogan.scans import BadScan, Scan

SPACING = (0.5, 0.00387, 0.022)


def blank(folder: Path, *names: str, size: tuple[int, int] = (20, 10)) -> Path:
    """Pictures of one value, whose headers are all that is read of them here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", size).save(folder / name)
    return folder


def found(source: object, groups: str | None = None, **options: object) -> list[tuple[str, int]]:
    """Names, and of how many pictures each is; 0 of a single B-scan."""
    return [(each.name, len(each.parts)) for each in find_volumes(source, groups, **options)]


# As the published sets name their pictures: class, patient, picture.
KERMANY = ("NORMAL-1384-1.jpeg", "NORMAL-15307-1.jpeg", "NORMAL-15307-2.jpeg")
OCTDL = ("no_1153297_1.jpg", "no_1153297_2.jpg", "no_1250592_1.jpg", "no_1250592_2.jpg")


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (KERMANY, None),
        (KERMANY, r"-(\d+)-"),
        (OCTDL, None),
        (("left.png", "right.png"), None),
        (("eye1.png", "eye2.png", "eye7.png"), None),  # too many gaps
        (("eye1.png", "eye01.png"), None),  # one number twice
        (("eye.png",), None),
    ],
)
def test_names_without_a_running_number_are_of_single_bscans(
    tmp_path: Path, names: tuple[str, ...], groups: str | None
) -> None:
    folder = blank(tmp_path / "set", *names)
    assert sorted(found(folder, groups)) == [(name, 0) for name in sorted(names)]
    assert len(found(folder, pictures="volumes")) == 1


def test_a_running_number_is_of_a_volume_and_may_have_a_gap(tmp_path: Path) -> None:
    folder = blank(tmp_path / "eye", *(f"bscan_{n}.png" for n in (8, 9, 10, 12)))
    assert found(folder) == [("eye", 4)]
    assert found(folder, pictures="bscans") == [(f"bscan_{n}.png", 0) for n in (8, 9, 10, 12)]


def test_the_decision_is_one_for_the_folder_and_looks_at_each_subject(tmp_path: Path) -> None:
    names = [f"subject{s:02d}_{n:02d}.png" for s in (1, 2) for n in range(3)]
    folder = blank(tmp_path / "b", *names)
    assert found(folder, r"(subject\d+)") == [("b/subject01", 3), ("b/subject02", 3)]
    assert found(folder) == [(name, 0) for name in names]
    blank(folder, "subject03_00.png")  # alone, so that nothing runs
    assert {parts for _, parts in found(folder, r"(subject\d+)")} == {0}


def test_sizes_that_differ_are_of_single_bscans(tmp_path: Path) -> None:
    folder = blank(tmp_path / "set", "eye1.png", "eye2.png")
    blank(folder, "eye3.png", "eye4.png", size=(30, 10))
    assert found(folder) == [(f"eye{n}.png", 0) for n in (1, 2, 3, 4)]
    with pytest.raises(BadScan, match=r"differs in size .* single B-scans \(--bscans\)"):
        list(read_volumes(folder, FlatSpace(), pictures="volumes"))


@pytest.mark.parametrize("localizer", ["slo.png", "bscan_0.png"])
def test_one_picture_of_another_size_is_a_localizer(tmp_path: Path, localizer: str) -> None:
    folder = blank(tmp_path / "eye", *(f"bscan_{n}.png" for n in range(1, 4)))
    blank(folder, localizer, size=(30, 30))
    told: list[BadScan] = []
    assert [(v.name, len(v.parts)) for v in find_volumes(folder, None, told.append)] == [("eye", 3)]
    assert [f"{localizer} has another size" in str(each) for each in told] == [True]


def test_files_of_several_bscans_stay_volumes(eyes: list[Scan], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", eyes[0].pixels, photometric="minisblack")
    [volume] = read_volumes(tmp_path, FlatSpace(), pictures="bscans", spacing=SPACING)
    assert volume.is_volume and len(volume.pixels) == len(eyes[0].pixels)


def test_what_was_decided_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    blank(tmp_path / "CNV", "CNV-7-1.jpeg", "CNV-9-1.jpeg")
    folder = blank(tmp_path / "NORMAL", *KERMANY)
    find_volumes(tmp_path, r"-(\d+)-")
    assert caplog.messages == [
        "5 pictures of CNV and 1 other folder are read as single B-scans, since their names hold "
        "no running number; --volumes joins them"
    ]
    caplog.clear()
    blank(folder, "NORMAL-15307-3.jpeg", "NORMAL-15307-4.jpeg", size=(30, 10))
    find_volumes(folder)
    assert caplog.messages == [
        "5 pictures of NORMAL are read as single B-scans, since their sizes differ",
        "each picture of NORMAL counts as a subject of its own, and names such as "
        "NORMAL-1384-1.jpeg suggest that patients repeat: name them with --groups",
    ]


def test_single_bscans_are_images_of_their_patient_in_a_store_too(
    eyes: list[Scan], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, frame in zip(
        ("no_7_1.png", "no_7_2.png", "no_12_1.png"), eyes[0].pixels, strict=True
    ):
        Image.fromarray(frame).save(folder / name)
    options = {"groups": r"_(\d+)_", "spacing": SPACING}
    read = list(read_volumes(folder, FlatSpace(), **options))
    assert [(b.name, b.group, b.is_volume) for b in read] == [
        ("no_7_1.png", "7", False),
        ("no_7_2.png", "7", False),
        ("no_12_1.png", "12", False),
    ]
    summary = prepare(folder, tmp_path / "set.zarr", **options)
    assert (summary.volumes, summary.bscans) == (0, 3)
    stored = read_store(tmp_path / "set.zarr")
    for one, other in zip(read, stored, strict=True):
        assert (one.name, one.group, one.is_volume) == (other.name, other.group, other.is_volume)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_scan_in_memory_says_itself_what_it_is(eyes: list[Scan]) -> None:
    alone = Scan(eyes[0].pixels[:1], "a", "person", SPACING)
    together = Scan(eyes[0].pixels, "b", "person", SPACING)
    volumes = read_volumes([alone, together], FlatSpace())
    assert [volume.is_volume for volume in volumes] == [False, True]
