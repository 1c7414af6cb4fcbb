"""DICOM images, good and bad, and what must never be told of them."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRETS, dataset, item, save
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from fanogan.scans import BadScan, UndeclaredFrames, read_scan

RNG = np.random.default_rng(0)
TWELVE_BITS = RNG.integers(0, 4096, (12, 10)).astype(np.uint16)


def read(tmp_path: Path, pixels: np.ndarray, bits: int | None = None, **elements: Any) -> Any:
    return read_scan(save(tmp_path / "a.dcm", dataset(pixels, bits, **elements)))


def test_plain_pixels_come_back_as_stored(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, 12)
    assert scan.pixels.dtype == np.uint16 and not scan.is_volume
    np.testing.assert_array_equal(scan.pixels[0], TWELVE_BITS)
    eight = (TWELVE_BITS // 16).astype(np.uint8)
    assert read(tmp_path, eight).pixels.dtype == np.uint8


def test_rescale_gives_signed_units(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, 12, RescaleSlope=1, RescaleIntercept=-1024)
    assert scan.pixels.dtype == np.int16
    np.testing.assert_array_equal(scan.pixels[0], TWELVE_BITS.astype(int) - 1024)
    fraction = read(tmp_path, TWELVE_BITS, 12, RescaleSlope=0.5, RescaleIntercept=0)
    assert fraction.pixels.dtype == np.float32
    np.testing.assert_array_equal(fraction.pixels[0], TWELVE_BITS * np.float32(0.5))


def test_modality_table_is_looked_up(tmp_path: Path) -> None:
    table = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
    table.add_new(0x00283006, "US", [2 * i + 3 for i in range(256)])
    eight = (TWELVE_BITS // 16).astype(np.uint8)
    scan = read(tmp_path, eight, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(scan.pixels[0], eight.astype(int) * 2 + 3)


def test_window_clips_and_spreads(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, 12, WindowCenter=[2048, 1], WindowWidth=[1000, 2])
    pixels = scan.pixels[0]
    assert pixels.dtype == np.uint16
    assert set(pixels[TWELVE_BITS < 1547]) == {0}
    assert set(pixels[TWELVE_BITS > 2548]) == {4095}
    assert (np.diff(pixels.ravel()[np.argsort(TWELVE_BITS, axis=None)].astype(int)) >= 0).all()


def test_a_window_of_no_width_is_left_out(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, 12, WindowCenter=0, WindowWidth=0)
    np.testing.assert_array_equal(scan.pixels[0], TWELVE_BITS)


def test_monochrome_1_is_inverted(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, 12, PhotometricInterpretation="MONOCHROME1")
    assert scan.pixels.dtype == np.uint16
    np.testing.assert_array_equal(scan.pixels[0], 4095 - TWELVE_BITS)
    windowed = read(
        tmp_path,
        TWELVE_BITS,
        12,
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=2048,
        WindowWidth=1000,
    )
    assert windowed.pixels[0][TWELVE_BITS < 1547].min() == 4095


def test_spacing_is_in_millimetres(tmp_path: Path) -> None:
    scan = read(tmp_path, TWELVE_BITS, PixelSpacing=[0.5, 0.25], SliceThickness=3)
    assert scan.spacing == (3.0, 0.5, 0.25)
    detector = read(tmp_path, TWELVE_BITS, ImagerPixelSpacing=[0.1, 0.2], SpacingBetweenSlices=1.5)
    assert detector.spacing == (1.5, 0.1, 0.2)
    assert read(tmp_path, TWELVE_BITS, PixelSpacing=[0, 0]).spacing == (None, None, None)


def test_frames_are_a_volume(tmp_path: Path) -> None:
    frames = np.stack([TWELVE_BITS, TWELVE_BITS // 2, TWELVE_BITS // 3])
    scan = read(tmp_path, frames, 12, NumberOfFrames=3)
    assert scan.is_volume
    np.testing.assert_array_equal(scan.pixels, frames)


@pytest.mark.filterwarnings("ignore:The pixel data is")
def test_frames_beyond_those_declared_are_left_out(tmp_path: Path) -> None:
    frames = np.stack([TWELVE_BITS, TWELVE_BITS // 2, TWELVE_BITS // 3])
    for declared in (1, 2):
        scan = read(tmp_path, frames, 12, NumberOfFrames=declared)
        np.testing.assert_array_equal(scan.pixels, frames[:declared])
        note = UndeclaredFrames(held=3, declared=declared)
        assert note in scan.notes
        made = dataset(frames, 12, NumberOfFrames=3)
        made.compress(RLELossless, generate_instance_uid=False)
        made.NumberOfFrames = declared
        scan = read_scan(save(tmp_path / "a.dcm", made))
        np.testing.assert_array_equal(scan.pixels, frames[:declared])
        assert note in scan.notes
    assert read(tmp_path, frames, 12, NumberOfFrames=3).notes == ()


def test_functional_groups_of_each_frame_are_applied(tmp_path: Path) -> None:
    frames = np.stack([TWELVE_BITS, TWELVE_BITS])
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.3, 0.4], SliceThickness=2)])
    per_frame = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0)],
        )
        for slope in (1, 3)
    ]
    scan = read(
        tmp_path,
        frames,
        12,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame,
    )
    assert scan.spacing == (2.0, 0.3, 0.4)
    np.testing.assert_array_equal(scan.pixels, [TWELVE_BITS, TWELVE_BITS * 3])


def test_colour_is_read(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    scan = read(tmp_path, colour, WindowCenter=100, WindowWidth=50)
    np.testing.assert_array_equal(scan.pixels[0], colour)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compressions(tmp_path: Path, syntax: str) -> None:
    pixels = np.tile(TWELVE_BITS, (6, 7))
    made = dataset(pixels)
    made.compress(syntax, generate_instance_uid=False)
    scan = read_scan(save(tmp_path / "a.dcm", made))
    np.testing.assert_array_equal(scan.pixels[0], pixels)


def test_jpeg_compression(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16) * 8, np.arange(16) * 7).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95)
    made = dataset(smooth)
    made.PixelData = encapsulate([file.getvalue()])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    scan = read_scan(save(tmp_path / "a.dcm", made))
    assert abs(scan.pixels[0].astype(int) - smooth).max() <= 6


def test_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    made = dataset(TWELVE_BITS, 12)
    bare = Dataset()
    bare.update(made)
    bare.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.dcm").pixels[0], TWELVE_BITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Rows": 30_000, "Columns": 30_000}, "more than the 100 megapixels"),
        ({"NumberOfFrames": 10**9}, "GB once decoded"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR", "NumberOfFrames": 7}
            | {"Rows": 10_000, "Columns": 10_000},
            r"4\.2 GB once decoded",
        ),
        # Of a byte a pixel as stored, and of four once a fraction has made floats of them.
        (
            {"RescaleSlope": "0.5", "NumberOfFrames": 11, "Rows": 10_000, "Columns": 10_000},
            r"4\.4 GB once decoded",
        ),
        ({"PixelData": None}, "without an image"),
        ({"Rows": 13}, "damaged or cut short"),
        ({"PixelData": bytes(240)}, "same value in every pixel"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = dataset(TWELVE_BITS)
    for keyword, value in change.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    with pytest.raises(BadScan, match=rf"bad\.dcm .*{message}"):
        read_scan(save(tmp_path / "bad.dcm", made))


def test_compressions_that_are_not_read_are_named(tmp_path: Path) -> None:
    for syntax, message in (
        (DeflatedExplicitVRLittleEndian, "deflated"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.3.4.5", "compression that is not read: pip install"),
    ):
        made = dataset(TWELVE_BITS)
        made.PixelData = encapsulate([bytes(20)])
        path = save(tmp_path / "a.dcm", made)
        made.file_meta.TransferSyntaxUID = syntax
        made["PixelData"].VR = "OB"
        made.save_as(path, implicit_vr=False, little_endian=True)
        with pytest.raises(BadScan, match=message):
            read_scan(path)


def test_nothing_about_the_patient_gets_out(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    path = save(tmp_path / "a.dcm", dataset(TWELVE_BITS, 12))
    data = path.read_bytes()
    told = [repr(read_scan(path))]
    for end in range(140, len(data), 40):
        path.write_bytes(data[:end])
        with pytest.raises(BadScan) as caught:
            read_scan(path)
        told.append(f"{caught.value!r} {caught.value.__cause__!r}")
    told += [caplog.text, *capfd.readouterr(), *(str(warning.message) for warning in recwarn)]
    assert not [secret for secret in SECRETS if secret in " ".join(told)]
