"""Heidelberg's .vol and .E2E, built byte by byte from the published layout.

No file of a device is at hand: these show that the layout is read as it is published.
"""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from fanogan.scans import BadScan, ReflectivityAsShown, find_scans, read_scan
from fanogan.scans.heyex import without_patient

pytest.importorskip("eyepy", reason="eyepy, the extra 'oct', is not installed")

RNG = np.random.default_rng(0)
ROWS, COLUMNS, SCANS = 12, 16, 5
EXPONENTS = RNG.integers(52, 63, (SCANS, ROWS, COLUMNS))
LOCALIZER = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
SECRETS = ("Geheimrat", "Kaiserin", "PID-4711", "VISIT-08")
FLOAT_MAX = np.finfo(np.float32).max


def shown(reflectivity: np.ndarray) -> np.ndarray:
    """The grey value of a reflectivity of 0 to 1, as eyepy documents it."""
    grey = (np.log(reflectivity + 2.44e-4) + 8.3) / 8.285
    return np.rint(np.clip(grey, 0, 1) * 255)


def vol(pattern: int = 3, patient: bytes = b"PID-4711", scans: int = SCANS) -> bytes:
    """A .vol file: header, localizer, and each B-scan after a header of its own."""
    head = struct.pack(
        "<12s3I3d2I2dId4sQiI16s16sI24sdI24sd4I34s1790x",
        *(b"HSF-OCT-103", COLUMNS, scans, ROWS, 0.0117, 0.25, 0.0039, 20, 24, 0.5, 0.4),
        *(30, 0.5, b"OS", 131_000_000_000_000_000, pattern, 256 + 8 * COLUMNS),
        *(b"4711.8", b"", 4711, patient, 16_000.0, 8, b"VISIT-08", 43_000.0),
        *(0, 0, 0, 0, b"Kaiserin"),
    )
    assert len(head) == 2048
    body = LOCALIZER.tobytes()
    for i in range(SCANS):
        body += struct.pack(
            "<12sI4dIIfI6f168x",
            *(b"HSF-BS-103", 256 + 8 * COLUMNS, 1.0, 8 - i / 4, 7.4, 8 - i / 4),
            *(2, 256, 25.0, 0, *[0.0] * 6),
        )
        body += np.zeros((2, COLUMNS), np.float32).tobytes()
        values = np.exp2(EXPONENTS[i] - 63).astype(np.float32)
        values[0, 0] = FLOAT_MAX
        body += values.tobytes()
    return head + body


def e2e(pattern: int = 3, declared: int = SCANS, empty: bool = False) -> bytes:
    """An .E2E file: one chunk of folder headers, and the containers that they point to."""
    items: list[tuple[int, int, bytes]] = [
        (9, -1, b"Kaiserin".ljust(31, b"\0") + b"Geheimrat".ljust(66, b"\0") + bytes(34)),
        (11, -1, bytes(14) + b"R" + bytes(12)),
    ]
    for i in range(0 if empty else SCANS):
        meta = struct.pack(
            "<3I4fI3fI2f5I2fIQI2f12xI16xf12xf",
            *(0, ROWS, COLUMNS, -10.0, i - 2.0, 10.0, i - 2.0, 0, 0.0, 0.0039, 0.0, 0, 0.0, 0.0),
            *(0, COLUMNS, declared, i, pattern, 0.0, i - 2.0, 0, 10**17, 9, 0.8, 0.0, 9, 0.0, 25.0),
        )
        words = (EXPONENTS[i] << 10).astype("<u2").tobytes()
        size = ROWS * COLUMNS
        picture = struct.pack("<5I", size * 2 + 20, 35_652_097, size, ROWS, COLUMNS) + words
        items += [(10004, 2 * i, meta.ljust(428, b"\0")), (1_073_741_824, 2 * i, picture)]

    def head(magic: bytes, count: int) -> bytes:
        return struct.pack("<12sI20x4I", magic, 100, count, 88, 0, 0)

    position = 36 + 52 + 52 + 44 * len(items)
    folders = containers = b""
    for kind, slice_id, data in items:
        series = -1 if kind == 9 else 7
        ids = (1, -1 if kind == 9 else 5, series, slice_id)
        folders += struct.pack("<4I4i2H2I", 0, position, len(data), 0, *ids, 1, 0, kind, 0)
        containers += struct.pack(
            "<12s5I4i2H2I", b"MDbData", 0, 0, position, len(data), 0, *ids, 1, 0, kind, 0
        )
        containers += data
        position += 60 + len(data)
    start = struct.pack("<12sI20x", b"CMDb", 100)
    return start + head(b"MDbMDir", 0) + head(b"MDbDir", len(items)) + folders + containers


@pytest.fixture
def vol_file(tmp_path: Path) -> Path:
    (tmp_path / "a.vol").write_bytes(vol())
    return tmp_path / "a.vol"


@pytest.fixture
def e2e_file(tmp_path: Path) -> Path:
    (tmp_path / "a.E2E").write_bytes(e2e())
    return tmp_path / "a.E2E"


def test_vol_is_read(vol_file: Path) -> None:
    scan = read_scan(vol_file)
    expected = shown(np.exp2(EXPONENTS - 63.0))
    expected[:, 0, 0] = 0
    assert scan.pixels.dtype == np.uint8 and scan.is_volume
    assert abs(scan.pixels - expected).max() <= 1
    assert len(np.unique(scan.pixels)) > 8
    assert scan.spacing == (0.25, 0.0039, 0.0117)
    assert scan.eye == "left"
    assert scan.notes[0] == ReflectivityAsShown()


def test_bscans_of_a_vol_lie_on_its_localizer(vol_file: Path) -> None:
    en_face = read_scan(vol_file).en_face
    assert en_face is not None and en_face.spacing == (0.4, 0.5)
    np.testing.assert_array_equal(en_face.pixels, LOCALIZER)
    np.testing.assert_allclose(en_face.lines[0], [[20, 2], [20, 14.8]])
    np.testing.assert_allclose(en_face.lines[-1, :, 0], 17.5)


def test_ids_and_dates_of_a_vol_are_blanked() -> None:
    from eyepy.io.he.vol_reader import vol_format

    whole, blanked = vol_format.parse(vol()), vol_format.parse(without_patient(vol()))
    for field, value in (
        *(("patient_id", ""), ("visit_id", ""), ("prog_id", ""), ("id", ""), ("pid", 0)),
        *(("vid", 0), ("dob", "1899-12-30T00:00:00"), ("exam_time", "1601-01-01T00:00:00")),
    ):
        assert whole[field] != value == blanked[field]
    for field in ("size_x", "distance", "scan_position", "scan_pattern", "bscan_hdr_size"):
        assert whole[field] == blanked[field]


def test_values_that_are_no_reflectivity_are_black(vol_file: Path) -> None:
    data = bytearray(vol())
    data[-8:] = struct.pack("<2f", float("nan"), -1.0)
    vol_file.write_bytes(data)
    assert not read_scan(vol_file).pixels[-1, -1, -2:].any()


def test_a_patients_id_of_any_letters_does_not_stop_the_reader(vol_file: Path) -> None:
    vol_file.write_bytes(vol(patient="Müller 4711".encode("latin-1")))
    assert read_scan(vol_file).pixels.shape == (SCANS, ROWS, COLUMNS)


def test_e2e_is_read(e2e_file: Path) -> None:
    scan = read_scan(e2e_file)
    assert scan.pixels.dtype == np.uint8 and scan.is_volume
    assert abs(scan.pixels - shown(np.exp2(EXPONENTS - 63.0))).max() <= 1
    assert scan.spacing == (None, pytest.approx(0.0039), None)
    assert scan.eye == "right" and scan.en_face is None


def test_the_day_of_acquisition_is_read_apart(e2e_file: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra 'serve' isn't installed")
    from fanogan.review.dates import day_of

    case = {"scan": {"files": [str(e2e_file)]}, "visit": ""}
    assert day_of(case) == "1917-11-21"  # 10¹⁷ times 100 ns after 1600


def test_both_are_found(vol_file: Path, e2e_file: Path) -> None:
    assert [item.name for item in find_scans(vol_file.parent)] == ["a.E2E", "a.vol"]


@pytest.mark.parametrize("kind", ["vol", "E2E"])
def test_shapes_other_than_volumes_are_refused(tmp_path: Path, kind: str) -> None:
    for pattern, shape in ((2, "circular"), (5, "star-shaped")):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(vol(pattern) if kind == "vol" else e2e(pattern))
        with pytest.raises(BadScan, match=rf"a\.{kind} is a {shape} scan"):
            read_scan(path)


@pytest.mark.parametrize("kind", ["vol", "E2E"])
def test_truncated_files_are_named_and_say_nothing_else(
    tmp_path: Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / f"a.{kind}"
    data = vol() if kind == "vol" else e2e()
    path.write_bytes(data)
    told = [repr(read_scan(path))]
    for end in (5, 40, 90, 200, 1000, *range(1500, len(data), 397), len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(BadScan, match=rf"a\.{kind} is damaged or cut short") as caught:
            read_scan(path)
        told.append(f"{caught.value!r} {caught.value.__cause__!r}")
    told += [caplog.text, *capfd.readouterr()]
    assert not [secret for secret in SECRETS if secret in " ".join(told)]


def test_files_that_lack_bscans_are_named(vol_file: Path, e2e_file: Path) -> None:
    for data in (e2e(declared=SCANS + 1), e2e(empty=True)):
        e2e_file.write_bytes(data)
        with pytest.raises(BadScan, match=r"a\.E2E is damaged or cut short"):
            read_scan(e2e_file)
    vol_file.write_bytes(vol(scans=SCANS + 1))
    with pytest.raises(BadScan, match=r"a\.vol is damaged or cut short"):
        read_scan(vol_file)
    vol_file.write_bytes(vol(scans=10**9))
    with pytest.raises(BadScan, match="GB once decoded"):
        read_scan(vol_file)
