"""Reading prepared stores: whole ones, damaged ones, and those of other programs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from fanogan.retina import FlatSpace, FlatVolume, prepare, read_store, read_volumes, straighten
from fanogan.retina.flatten import OUTSIDE
from fanogan.retina.store import is_store
from fanogan.scans import BadScan, EmptyFrames, GreyStoredAsColour, Scan, Verbatim


def assert_equal(one: FlatVolume, other: FlatVolume) -> None:
    """Every field, but for how B-scans and margins are held."""
    for name in ("pixels", "recorded", "inner", "outer", "tissue", "margins", "bscans"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in (
        "name",
        "group",
        "spacing",
        "scan_spacing",
        "notes",
        "eye",
        "device",
        "grid",
        "affine",
        "grey_range",
    ):
        assert getattr(one, name) == getattr(other, name), name
    assert one.thickness == other.thickness and one.is_retina == other.is_retina
    assert one.en_face is not None and other.en_face is not None
    np.testing.assert_array_equal(one.en_face.pixels, other.en_face.pixels)
    np.testing.assert_array_equal(one.en_face.lines, other.en_face.lines)
    assert one.en_face.spacing == other.en_face.spacing
    assert one.en_face.grid_centre == other.en_face.grid_centre


# --- whole ones -----------------------------------------------------------------------------------


def test_volumes_come_back_as_they_were(straight: list[FlatVolume], made: Path) -> None:
    for volume, expected in zip(read_store(made), straight, strict=True):
        assert_equal(volume, expected)


@pytest.mark.parametrize("space", [FlatSpace(96, 90), FlatSpace(stretched=True)])
def test_another_space_is_made_from_the_stored_boundaries(
    eyes: list[Scan], made: Path, space: FlatSpace
) -> None:
    for volume, eye in zip(read_store(made, space), eyes, strict=True):
        assert_equal(volume, straighten(eye, space))
    assert [v.pixels.shape[1] for v in read_volumes(made, space)] == [space.rows] * 2


def test_margins_are_kept_for_another_space(eyes: list[Scan], tmp_path: Path) -> None:
    pixels = eyes[0].pixels.copy()
    pixels[:, -40:, :40] = 255
    affine = (
        (0.1, 0.0, 0.0, -4.5),
        (0.0, -0.2, 0.0, 1 / 3),
        (0.0, 0.0, 2.0, 7.0),
        (0.0, 0.0, 0.0, 1.0),
    )
    scan, space = replace(eyes[0], pixels=pixels, affine=affine), FlatSpace(160, 100)
    prepare(scan, tmp_path / "a.zarr")
    (volume,) = read_store(tmp_path / "a.zarr", space)
    expected = straighten(scan, space)
    assert_equal(volume, expected)
    assert ((volume.flat.region != OUTSIDE) & ~volume.recorded).any()


def test_bscans_are_read_one_by_one(made: Path) -> None:
    volume = next(read_store(made))
    whole = np.asarray(volume.bscans)
    assert not isinstance(volume.bscans, np.ndarray)
    assert volume.bscans.shape == (3, 240, 72) and whole.dtype == np.uint8
    np.testing.assert_array_equal(volume.bscans[1], whole[1])
    np.testing.assert_array_equal(volume.bscans[-1, 5:9], whole[-1, 5:9])
    for frame, expected in zip(volume.bscans, whole, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert (made / "000000/bscans/c/2/0/0").is_file()


def test_a_map_goes_back_to_the_scan(made: Path) -> None:
    volume = next(read_store(made))
    back = volume.to_original(1, volume.pixels[1].astype(np.float32))
    known = np.isfinite(back)
    assert back.shape == (240, 72) and known.mean() > 0.4
    assert np.abs(back - volume.bscans[1])[known].mean() < 12


def test_any_zarr_reader_reads_it(eyes: list[Scan], made: Path) -> None:
    group = zarr.open_group(made, mode="r")
    assert sorted(group.group_keys()) == ["000000", "000001"]
    assert group["000001"].attrs["name"] == eyes[1].name
    assert set(group["000001"].array_keys()) == {
        *("flat", "bscans", "margins", "inner", "outer", "epithelium", "confidence"),
        *("en_face", "en_face_lines"),
    }


def test_notes_are_kept_and_those_of_older_stores_are_text(eyes: list[Scan], store: Path) -> None:
    third = replace(eyes[0], name="third", notes=(EmptyFrames((1, 2), of=3),))
    prepare([*eyes, third], store)
    body = json.loads((store / "000001/zarr.json").read_text())
    assert body["attributes"]["notes"] == [{"kind": "Verbatim", "text": "a note"}]
    body["attributes"]["notes"] = ["an old note", {"kind": "GreyStoredAsColour"}]
    (store / "000001/zarr.json").write_text(json.dumps(body))
    _, older, newer = read_store(store)
    assert older.notes == (Verbatim("an old note"), GreyStoredAsColour())
    assert newer.notes == (EmptyFrames((1, 2), of=3),)
    body["attributes"]["notes"] = [{"kind": "OfTheFuture"}]
    (store / "000001/zarr.json").write_text(json.dumps(body))
    with pytest.raises(BadScan, match=r"OfTheFuture.*; update it"):
        list(read_store(store))


# --- damaged and foreign --------------------------------------------------------------------------


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
def test_a_damaged_volume_is_named_and_the_rest_continue(
    eyes: list[Scan], store: Path, damage: object, name: str
) -> None:
    damage(store / "000000" / name)  # type: ignore[operator]
    if name.endswith("json") and damage is flip_a_bit:
        (store / "000000" / name).write_text("{}")
    bad: list[BadScan] = []
    found = read_volumes(store, FlatSpace(), skip_bad=True, on_bad=bad.append)
    assert [volume.name for volume in found] == [eyes[1].name]
    assert str(bad[0]) == (
        f"{store}/000000 ({eyes[0].name}) of a prepared store is damaged: delete that folder, and "
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
def test_damaged_attributes_are_one_sentence(
    eyes: list[Scan], store: Path, text: str, name: str
) -> None:
    (store / name).write_text(text)
    with pytest.raises(BadScan, match=r"damaged: delete|is a Zarr store that") as caught:
        read_volumes(store, FlatSpace())
    assert str(store) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadScan):
        prepare(eyes, store)


@pytest.mark.parametrize(
    "facts", [{"name": ["a"]}, {"name": "a\0b"}, {"subject": 3}, {"source": None}, {"found": 0}]
)
def test_attributes_of_another_kind_are_damage(store: Path, facts: dict[str, object]) -> None:
    body = json.loads((store / "000000/zarr.json").read_text())
    body["attributes"] |= facts
    (store / "000000/zarr.json").write_text(json.dumps(body))
    with pytest.raises(BadScan, match="000000 of a prepared store is damaged"):
        read_volumes(store, FlatSpace())


def test_a_newer_store_says_which_version_reads_it(eyes: list[Scan], store: Path) -> None:
    body = json.loads((store / "zarr.json").read_text())
    body["attributes"]["fanogan"] |= {"format": 3, "version": "9.1"}
    (store / "zarr.json").write_text(json.dumps(body))
    for refused in (lambda: read_store(store), lambda: prepare(eyes, store)):
        with pytest.raises(BadScan, match=r"formats up to 2: update to fanogan 9\.1 or newer"):
            refused()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_of_another_program_is_left_alone(
    eyes: list[Scan], tmp_path: Path, zarr_format: int
) -> None:
    path = tmp_path / "other.zarr"
    zarr.open_group(path, mode="w", zarr_format=zarr_format).create_array(
        "x", shape=(3,), dtype="u1"
    )
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert is_store(path)
    for refused in (lambda: read_volumes(path, FlatSpace()), lambda: prepare(eyes, path)):
        with pytest.raises(BadScan, match="is a Zarr store that fanogan prepare didn't make"):
            refused()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
