"""Valid files of every format, changed at random: a scan or a sentence, and nothing else.

A change that once led to another error stays in `ONCE_FAILED`. An alarm bounds the seconds of a
read. Memory is what it was at most resident beyond what was so before; the address space is limited
too, so that a read that asks for far more stops the test and not the machine.
"""

import functools
import gzip
import io
import logging
import resource
import shutil
import signal
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import test_heidelberg
import test_heyex
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagecodecs import png_encode
from PIL import Image
from pydicom.data import get_testdata_file

from fanogan.phantom.eye import make_phantom
from fanogan.retina import prepare, read_store
from fanogan.scans import BadScan, Scan, read_scan

MOST_SECONDS = 20
MOST_MEMORY, MOST_ADDRESSES = 500_000_000, 8_000_000_000

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (16, 18), dtype=np.uint8)
VOLUME = RNG.integers(0, 256, (3, 16, 18), dtype=np.uint8)
RGB = RNG.integers(0, 256, (16, 18, 3), dtype=np.uint8)

Files = dict[str, bytes]
"""A sample: its files by name; the first is the one to read."""

Change = tuple[str, int, int, bytes]
"""What is done, where, how many bytes it concerns, and what is written."""


# --- samples ------------------------------------------------------------------------------------


def saved(name: str, write: Callable[[Path], object]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return {name: (Path(folder) / name).read_bytes()}


def pillow(name: str, image: np.ndarray | Image.Image, **options: object) -> Files:
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return saved(name, lambda path: made.save(path, **options))


def tiff(pixels: np.ndarray, name: str = "a.tif", **options: object) -> Files:
    return saved(name, lambda path: tifffile.imwrite(path, pixels, **options))


def nifti(name: str, kind: type, pixels: np.ndarray) -> Files:
    return saved(name, lambda path: nibabel.save(kind(pixels, np.diag([2, 3, 4, 1])), path))


def dicom(name: str) -> Files:
    return {"a.dcm": Path(get_testdata_file(name, download=False)).read_bytes()}


def heidelberg() -> Files:
    document = test_heidelberg.document(test_heidelberg.IMAGES)
    files = {"a.xml": document.encode()}
    for i, pixels in enumerate(test_heidelberg.BSCANS):
        files |= tiff(pixels, f"B{i}.tif", compression="zlib")
    return files | tiff(test_heidelberg.LOCALIZER, "L.tif")


def store() -> Files:
    spacing = (0.5, 0.00387, 0.022)
    eye = make_phantom(1, shape=(2, 240, 72), spacing=spacing)
    volume = Scan(eye.pixels, "eye", "person", spacing, is_volume=True, is_retina=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        prepare([volume], path)
        found = {file.relative_to(folder).as_posix(): file for file in path.rglob("*")}
        return {name: file.read_bytes() for name, file in sorted(found.items()) if file.is_file()}


EXIF = Image.Exif()
EXIF[0x0112] = 6
SAMPLES: dict[str, list[Callable[[], Files]]] = {
    "PNG": [
        lambda: pillow("a.png", GREY),
        lambda: pillow("a.png", RGB, exif=EXIF),
        lambda: pillow("a.png", Image.fromarray(RGB).quantize(16), transparency=3),
        lambda: pillow("a.png", Image.fromarray(GREY > 127)),
        lambda: {"a.png": png_encode(RGB.astype(np.uint16) * 257)},
        lambda: pillow("a.png", GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)]),
    ],
    "JPEG": [
        lambda: pillow("a.jpg", GREY, exif=EXIF),
        lambda: pillow("a.jpg", RGB, progressive=True),
        lambda: pillow("a.jpg", Image.fromarray(RGB).convert("CMYK")),
    ],
    "BMP": [
        lambda: pillow("a.bmp", GREY),
        lambda: pillow("a.bmp", RGB),
        lambda: pillow("a.bmp", Image.fromarray(GREY > 127)),
    ],
    "TIFF": [
        lambda: tiff(VOLUME, photometric="minisblack", compression="lzw"),
        lambda: tiff(VOLUME, photometric="minisblack", metadata=None, byteorder=">"),
        lambda: tiff(VOLUME, imagej=True, metadata={"axes": "ZYX", "unit": "mm"}, truncate=True),
        lambda: tiff(VOLUME, "a.ome.tif", photometric="minisblack", metadata={"axes": "ZYX"}),
        lambda: tiff(RGB, compression="zlib", predictor=True, tile=(16, 16)),
        lambda: tiff(RGB, photometric="ycbcr", compression="jpeg", subsampling=(2, 2)),
        lambda: tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"),
        lambda: tiff(GREY.astype(np.float32), compression="zlib", predictor=3, bigtiff=True),
        lambda: pillow("a.tif", Image.fromarray(RGB).quantize(16), compression="packbits"),
        lambda: pillow("a.tif", Image.fromarray(GREY > 127), compression="group4"),
    ],
    "DICOM": [
        functools.partial(dicom, name)
        for name in (
            *("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"),
            *("MR_small_bigendian.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_2frame.dcm"),
            *("CT_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
        )
    ],
    "NIfTI": [
        lambda: nifti("a.nii", nibabel.Nifti1Image, VOLUME),
        lambda: nifti("a.nii", nibabel.Nifti2Image, VOLUME.astype(np.float32)),
        lambda: nifti("a.nii.gz", nibabel.Nifti1Image, VOLUME.astype(np.int16)),
    ],
    "npy": [
        lambda: saved("a.npy", lambda path: np.save(path, VOLUME)),
        lambda: saved("a.npy", lambda path: np.save(path, RGB.astype(">f8"))),
    ],
    "npz": [
        lambda: saved("a.npz", lambda path: np.savez(path, images=VOLUME)),
        lambda: saved("a.npz", lambda path: np.savez_compressed(path, images=VOLUME)),
    ],
    "Heidelberg XML": [heidelberg],
    "vol": [lambda: {"a.vol": test_heyex.vol()}],
    "E2E": [lambda: {"a.e2e": test_heyex.e2e()}],
    "store": [store],
}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Keep the decoders' warnings of thousands of files out of the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@functools.cache
def sample(kind: str, number: int) -> Files:
    return SAMPLES[kind][number]()


# --- changes --------------------------------------------------------------------------------------


def extreme_numbers() -> list[bytes]:
    """Numbers that a header may hold at most, at least, or nearly so, in both byte orders."""
    found = [struct.pack(f"{order}{form}", value) for order in "<>" for form, value in (
        *(("H", n) for n in (0, 1, 255, 256, 32767, 65535)),
        *(("I", n) for n in (0, 1, 65536, 2**31 - 1, 2**31, 2**32 - 1)),
        *(("Q", n) for n in (0, 2**32, 2**63, 2**64 - 1)),
        *(("f", n) for n in (np.nan, np.inf, -np.inf, 3e38, -1)),
        *(("d", n) for n in (np.nan, -np.inf, 1e300)),
    )]  # fmt: skip
    texts = [b"0", b"-1", b"9" * 9, b"1e999", b"nan", b"", b"\xff", b"<", b'"', b"{", b"null"]
    return list(dict.fromkeys([*found, *texts]))


def changed(data: bytes, changes: list[Change]) -> bytes:
    """Return the bytes after each change in turn; places beyond the end go round to the start."""
    for what, place, count, content in changes:
        place %= len(data) or 1
        end = place + count
        if what == "flip" and data:
            flipped = bytes([data[place] ^ 1 << count % 8])
            data = data[:place] + flipped + data[place + 1 :]
        elif what == "cut":
            data = data[:place]
        elif what == "remove":
            data = data[:place] + data[end:]
        elif what == "repeat":
            data = data[:end] + data[place:]
        elif what == "move":
            data = data[end:] + data[place:end] + data[:place]
        elif what == "write":
            data = data[:place] + content + data[place + len(content) :]
    return data


def inside(name: str, data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change what checksums and compression protect, so that more than these is tried."""
    if name.endswith(".gz"):
        return gzip.compress(change(gzip.decompress(data)))
    if name.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = archive.read("images.npy")
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", change(content))
        return out.getvalue()
    data = change(data)
    if name.endswith(".png"):
        place = 8
        while place + 12 <= len(data):
            end = place + 8 + int.from_bytes(data[place : place + 4], "big")
            crc = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
            data, place = data[:end] + crc + data[end + 4 :], end + 4
    return data


PLACES = st.one_of(st.integers(0, 400), st.integers(0, 2**16))
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "write", "write", "cut", "remove", "repeat", "move"]),
        PLACES,
        st.integers(0, 64),
        st.sampled_from(extreme_numbers()),
    ),
    min_size=1,
    max_size=4,
)
CASES = st.tuples(st.integers(0, 2**16), st.integers(0, 2**16), CHANGES, st.booleans())
Case = tuple[int, int, list[Change], bool]


# --- the property -------------------------------------------------------------------------------


class Hang(BaseException):
    """No `Exception`, which the reader would take for damage."""


def memory(field: str) -> int:
    """Bytes that this process has (VmSize), has resident (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def bounded() -> Iterator[None]:
    """Raise `Hang` after `MOST_SECONDS`, and fail where more than `MOST_MEMORY` was taken."""

    def stop(*_: object) -> None:
        raise Hang(f"a read took more than {MOST_SECONDS} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    Path("/proc/self/clear_refs").write_text("5")  # the most resident is counted from here
    resident = memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + MOST_ADDRESSES, hard))
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert memory("VmHWM") - resident < MOST_MEMORY


def read_changed(kind: str, case: Case) -> bool:
    """Read a changed sample; return whether it was a scan, and fail where it is neither."""
    which, part, changes, is_inside = case
    files = sample(kind, which % len(SAMPLES[kind]))
    hit = list(files)[part % len(files)]
    folder = Path(tempfile.mkdtemp())
    try:
        for name, data in files.items():
            if name == hit:
                change = functools.partial(changed, changes=changes)
                data = inside(name, data, change) if is_inside else change(data)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        first = folder / next(iter(files)).partition("/")[0]
        with bounded():
            try:
                if kind == "store":
                    read = [np.asarray(volume.pixels) for volume in read_store(first)]
                else:
                    read = [read_scan(first).pixels]
            except BadScan as error:
                read = []
                assert str(folder) in str(error) and "\n" not in str(error), error
        assert all(np.isfinite(pixels).all() for pixels in read)
        return bool(read)
    finally:
        shutil.rmtree(folder)


ONCE_FAILED = [
    # A NIfTI of 4,000 bytes that declares gigabytes of pixels, which nibabel made room for.
    ("NIfTI", (1, 0, [("flip", 43, 0, b"")], False)),
    ("NIfTI", (1, 0, [("flip", 52026, 59, b"")], True)),
]


@pytest.mark.parametrize(("kind", "case"), ONCE_FAILED)
@pytest.mark.filterwarnings("ignore")
def test_what_once_failed_no_longer_does(kind: str, case: Case) -> None:
    read_changed(kind, case)


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.filterwarnings("ignore")
def test_unchanged_samples_are_read(kind: str) -> None:
    for number in range(len(SAMPLES[kind])):
        assert read_changed(kind, (number, 0, [], False)), number


def fuzzed(count: int) -> Callable[..., None]:
    @settings(
        max_examples=count,
        derandomize=True,  # the same cases each time
        database=None,
        deadline=None,  # see `bounded`
        suppress_health_check=list(HealthCheck),
    )
    @given(case=CASES)
    def test(kind: str, case: Case) -> None:
        read_changed(kind, case)

    return pytest.mark.filterwarnings("ignore")(pytest.mark.parametrize("kind", SAMPLES)(test))


test_changed_files_give_a_scan_or_a_sentence = fuzzed(15)
test_many_changed_files_give_a_scan_or_a_sentence = pytest.mark.slow(fuzzed(500))
