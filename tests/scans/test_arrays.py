"""Numpy files, arrays and tensors."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fanogan.scans import BadScan, Scan, arrays, is_array_like, read_scan, read_scans

STACK = np.random.default_rng(0).integers(0, 256, (5, 12, 10), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)


def read_array(array: object, **options: object) -> list[Scan]:
    return list(read_scans(array, **options))


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """A .npy of a header only."""
    file = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        (STACK, (5, 12, 10)),
        (STACK[0], (1, 12, 10)),
        (COLOUR, (5, 12, 10, 3)),
        (COLOUR[0], (1, 12, 10, 3)),
        (STACK[..., None], (5, 12, 10)),
        (np.asfortranarray(STACK), (5, 12, 10)),
    ],
)
def test_npy_and_npz_hold_images(
    tmp_path: Path, stored: np.ndarray, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", stored)
    np.savez_compressed(tmp_path / "a.npz", images=stored)
    for name in ("a.npy", "a.npz", "a.npz:images"):
        scan = read_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.pixels, stored.reshape(shape))
        assert not scan.is_volume
        assert scan.name == name


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        (np.bool_, np.uint8),
        (np.int8, np.int16),
        (np.int64, np.uint16),
        (">u2", np.uint16),
        (np.float16, np.float32),
        (np.float64, np.float32),
        (np.int16, np.int16),
    ],
)
def test_dtypes_are_made_storable(tmp_path: Path, stored: object, kept: type) -> None:
    np.save(tmp_path / "a.npy", (STACK % 2).astype(stored))
    pixels = read_scan(tmp_path / "a.npy").pixels
    assert pixels.dtype == np.dtype(kept)
    np.testing.assert_array_equal(pixels, (STACK % 2) * (255 if stored is np.bool_ else 1))
    (image, *_) = read_array((STACK % 2).astype(stored))
    np.testing.assert_array_equal(image.pixels[0], pixels[0])
    assert image.pixels.dtype == pixels.dtype


def test_wide_integers_beyond_sixteen_bits_become_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK.astype(np.int64) * 1000 - 7)
    assert read_scan(tmp_path / "a.npy").pixels.dtype == np.float32
    np.save(tmp_path / "b.npy", STACK.astype(np.int32) - 100)
    assert read_scan(tmp_path / "b.npy").pixels.dtype == np.int16


def test_several_arrays_need_a_key(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, train=STACK, test=COLOUR)
    with pytest.raises(BadScan, match=r"two\.npz holds several arrays \(test, train\).*:KEY"):
        read_scan(path)
    with pytest.raises(BadScan, match="has no array 'val'"):
        read_scan(path, key="val")
    scan = read_scan(f"{path}:train")
    assert scan.name == "two.npz:train"
    np.testing.assert_array_equal(scan.pixels, STACK)
    scans = list(read_scans(f"{path}:train"))
    assert [scan.name for scan in scans] == [f"two.npz:train#{i}" for i in range(5)]
    np.testing.assert_array_equal(np.concatenate([scan.pixels for scan in scans]), STACK)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1, None]], dtype=object), "holds Python objects"),
        (STACK.astype(np.complex64), "holds complex numbers"),
        (np.zeros((3, 4), dtype=[("x", "u1")]), "plain integers or floats"),
        (np.zeros((0, 12, 10), np.uint8), "holds no pixels"),
        (STACK[0, 0], r"has shape \(10,\)"),
        (np.zeros((2, 3, 12, 10), np.uint8), "channels come last"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), "has shape"),
        (np.full((2, 3, 5), 4, np.uint8), "same value in every pixel"),
        (np.where(STACK > 200, np.nan, STACK), "NaN or infinite"),
        (STACK * 1e300, r"values up to 2\.55e\+302, more than 32-bit floats can hold"),
        (np.where(STACK > 200, np.inf, STACK * 1e300), "NaN or infinite"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(BadScan, match=rf"bad\.npy.*{message}"):
        read_scan(tmp_path / "bad.npy")
    np.savez(tmp_path / "bad.npz", x=array, allow_pickle=True)
    with pytest.raises(BadScan, match=rf"bad\.npz:x.*{message}"):
        read_scan(tmp_path / "bad.npz", key="x")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 30_000, 30_000), "megapixels"),
        ((10**6, 1000, 1000), "GB once decoded"),
        ((10**15, 10**15, 10**15), "megapixels"),
        ((2, 100, 100), "damaged or cut short"),
    ],
)
def test_a_header_alone_decides_what_is_too_large(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    (tmp_path / "bomb.npy").write_bytes(npy_header(shape))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", npy_header(shape))
    for name in ("bomb.npy", "bomb.npz"):
        with pytest.raises(BadScan, match=rf"{name}.*{message}"):
            read_scan(tmp_path / name)


READ_ALL = """
import pathlib, re, sys
from fanogan.scans import read_scans
status = pathlib.Path("/proc/self/status")
before = int(re.search(r"VmRSS:\\s*(\\d+)", status.read_text())[1])
names = [(scan.name, scan.pixels[0, 0, 5]) for scan in read_scans(sys.argv[1])]
print(len(names), names[-1], int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how much was resident at most")
def test_an_npz_of_a_megabyte_takes_far_less_than_it_holds(tmp_path: Path) -> None:
    """The 400 MB of it are far more than the pieces that are read at a time."""
    path, image = tmp_path / "zeros.npz", bytes(5) + bytes([9]) + bytes(999_994)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(npy_header((400, 1000, 1000)))
        for _ in range(400):
            file.write(image)
    assert path.stat().st_size < 1_000_000
    command = [sys.executable, "-c", READ_ALL, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    count, *last, kilobytes = run.stdout.split()
    assert (count, last[0]) == ("400", "('zeros.npz#399',") and "9" in last[1]
    assert int(kilobytes) < 250_000


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "stored",
    [
        COLOUR,
        STACK.astype(bool),
        STACK.astype(">f8") / 3,
        # What one piece alone would have decided otherwise: int64 that fits 16 bits until the last.
        np.concatenate([STACK.astype(np.int64), [STACK[0] * np.int64(1000)]]),
        np.concatenate([STACK.astype(np.int32), [STACK[0] - np.int32(300)]]),
        np.concatenate([np.zeros_like(STACK), STACK]),
        np.concatenate([np.repeat(STACK[..., None], 3, axis=-1), COLOUR]),
        np.repeat(STACK[..., None], 3, axis=-1),
        np.concatenate([COLOUR, COLOUR[..., :1]], axis=-1),
    ],
)
def test_pieces_give_what_the_whole_file_holds(
    tmp_path: Path, stored: np.ndarray, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PIECE_BYTES", 2 * stored[0].nbytes)
    np.save(tmp_path / "a.npy", np.asarray(stored, order=order))
    np.savez_compressed(tmp_path / "a.npz", np.asarray(stored, order=order))
    for name in ("a.npy", "a.npz"):
        whole = read_scan(tmp_path / name)
        images = list(read_scans(tmp_path / name))
        assert [image.name for image in images] == [f"{name}#{i}" for i in range(len(stored))]
        assert {(image.pixels.dtype, image.notes) for image in images} == {
            (whole.pixels.dtype, whole.notes)
        }
        np.testing.assert_array_equal(np.concatenate([i.pixels for i in images]), whole.pixels)
        used = {f"{name}#{i}" for i in (0, 1, 2, 4)}
        rest = list(read_scans(tmp_path / name, done=used))
        assert [image.name for image in rest] == [i.name for i in images if i.name not in used]
        np.testing.assert_array_equal(rest[0].pixels, images[3].pixels)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_bad_last_piece_refuses_the_whole_file(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PIECE_BYTES", STACK[0].nbytes)
    stored = np.asarray(STACK, np.float32, order=order)
    stored[-1, -1, -1] = np.nan
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(BadScan, match=r"a\.npy holds NaN"):
        next(read_scans(tmp_path / "a.npy"))
    np.savez(tmp_path / "b.npz", np.asarray(STACK, order=order))
    data = (tmp_path / "b.npz").read_bytes()
    place = data.index(STACK.tobytes("C" if order == "C" else "F")[-20:])
    (tmp_path / "b.npz").write_bytes(data[:place] + b"?" + data[place + 1 :])
    with pytest.raises(BadScan, match=r"b\.npz is damaged"):  # by its checksum
        next(read_scans(tmp_path / "b.npz"))


def test_a_file_of_which_all_is_done_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", STACK)
    monkeypatch.setattr(arrays.ArrayFile, "_next", None)
    assert not list(read_scans(tmp_path / "a.npy", done={f"a.npy#{i}" for i in range(5)}))


def test_an_array_gives_one_scan_an_image_without_a_copy() -> None:
    scans = read_array(STACK)
    assert [scan.name for scan in scans] == [f"image {i:05d}" for i in range(5)]
    assert all(scan.group == scan.name and not scan.is_volume for scan in scans)
    assert all(np.shares_memory(scan.pixels, STACK) for scan in scans)
    np.testing.assert_array_equal(np.concatenate([scan.pixels for scan in scans]), STACK)


def test_tensors_have_their_channels_first() -> None:
    tensor = torch.from_numpy(np.moveaxis(COLOUR, -1, 1).copy())
    for expected, given in ((COLOUR, tensor), (STACK, torch.from_numpy(STACK))):
        pixels = np.concatenate([scan.pixels for scan in read_array(given)])
        np.testing.assert_array_equal(pixels, expected)
    assert read_array(torch.rand(2, 1, 6, 7, requires_grad=True))[1].pixels.shape == (1, 6, 7)
    with pytest.raises(BadScan, match=r"bfloat16.*\.float\(\)"):
        read_array(torch.rand(2, 6, 7).bfloat16())


def test_a_list_may_hold_sizes_that_differ() -> None:
    scans = read_array([STACK[0], STACK[1, :5], COLOUR[0], np.dstack([COLOUR[1], STACK[0]])])
    shapes = [scan.pixels.shape for scan in scans]
    assert shapes == [(1, 12, 10), (1, 5, 10), (1, 12, 10, 3), (1, 12, 10, 3)]


def test_grey_as_colour_is_decided_for_the_whole_array() -> None:
    grey = np.repeat(STACK[..., None], 3, axis=-1)
    assert {scan.pixels.shape for scan in read_array(grey)} == {(1, 12, 10)}
    mixed = np.concatenate([grey, COLOUR])
    assert {scan.pixels.shape for scan in read_array(mixed)} == {(1, 12, 10, 3)}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (STACK[0], r"shape \(12, 10\)"),
        (COLOUR[0], r"looks like one colour image: give it as array\[None\]"),
        (np.moveaxis(COLOUR, -1, 1), "channels come last"),
        (np.zeros((4, 6, 6)), "same value in every pixel"),
        (STACK.astype(complex), "complex"),
        (np.zeros((0, 6, 6)), "holds no pixels"),
    ],
)
def test_bad_arrays_in_memory_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(BadScan, match=message):
        read_array(array)


def test_a_bad_image_of_an_array_is_named_or_skipped() -> None:
    array = STACK.astype(np.float32)
    array[2, 3, 4] = np.nan
    with pytest.raises(BadScan, match="image 00002 holds NaN"):
        read_array(array)
    errors: list[BadScan] = []
    kept = read_array(array, skip_bad=True, on_bad=errors.append)
    assert [scan.name[-1] for scan in kept] == ["0", "1", "3", "4"]
    assert len(errors) == 1


def test_one_constant_image_among_others_passes() -> None:
    array = STACK.copy()
    array[1] = 0
    assert len(read_array(array)) == 5


@pytest.mark.parametrize(
    "array",
    [
        [np.asmatrix(image) for image in STACK],
        np.ma.array(STACK),
        np.asfortranarray(STACK),
        STACK.copy()[:, ::-1, ::-1][:, ::-1, ::-1],
        np.repeat(STACK, 2, axis=2)[:, :, ::2],
        STACK.astype(">u2"),
        np.frombuffer(STACK.tobytes(), np.uint8).reshape(STACK.shape),
        list(STACK.view(np.recarray)),
    ],
)
def test_subclasses_and_layouts_give_the_same_plain_pixels(array: np.ndarray) -> None:
    scans = read_array(array)
    np.testing.assert_array_equal(np.concatenate([scan.pixels for scan in scans]), STACK)
    assert {type(scan.pixels) for scan in scans} == {np.ndarray}  # a matrix of 3 axes: heap errors
    assert all(scan.pixels.dtype.isnative for scan in scans)


def test_a_masked_array_is_refused_where_something_is_masked() -> None:
    masked = np.ma.array(STACK, mask=STACK > 250)
    for source in (masked, [*masked]):
        with pytest.raises(BadScan, match=r"is masked in places: .*\.filled\(\)"):
            read_array(source)


def test_groups_are_refused_for_arrays() -> None:
    with pytest.raises(BadScan, match="groups"):
        read_array(STACK, groups="(.)")


def test_what_is_like_an_array() -> None:
    assert is_array_like(STACK) and is_array_like(torch.zeros(1)) and is_array_like([STACK])
    assert not any(map(is_array_like, ("a.png", Path("a"), [], ["a.png"], [STACK, "a.png"])))
