"""What DICOM shows (PS3.3 C.11): by hand from the standard's formulas, and by pydicom.

Where pydicom and the standard differ, which the tests name, the standard is what counts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dataset, item, save
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_rescale, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from fanogan.scans import BadScan, WindowLeftOut, read_scan

STORED = np.random.default_rng(0).integers(0, 4096, (12, 10)).astype(np.uint16)
EIGHT = (STORED // 16).astype(np.uint8)
WINDOWS = [
    ("LINEAR", 2048, 1000),
    ("LINEAR", 2000, 1),
    ("LINEAR_EXACT", 2000.5, 0.5),
    ("SIGMOID", 1900, 300),
    ("SIGMOID", 2000.1, 0.5),
]


def shown(tmp_path: Path, pixels: np.ndarray, bits: int | None = None, **elements: Any) -> Any:
    return read_scan(save(tmp_path / "a.dcm", dataset(pixels, bits, **elements))).pixels


def share(x: np.ndarray, function: str, centre: float, width: float) -> np.ndarray:
    """C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 with y from 0 to 1."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (x - centre) / width))
        if function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        inside = (x - centre) / width + 0.5
    return np.where(x <= centre - width / 2, 0, np.where(x > centre + width / 2, 1, inside))


@pytest.mark.parametrize(("function", "centre", "width"), WINDOWS)
@pytest.mark.parametrize("slope", [1, -1, 2, 0.5, -0.25])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_window_after_any_slope(
    tmp_path: Path, function: str, centre: float, width: float, slope: float, photometric: str
) -> None:
    intercept = 2000 - 2048 * slope
    elements: dict[str, Any] = {
        "PhotometricInterpretation": photometric,
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "VOILUTFunction": function,
        "WindowCenter": centre,
        "WindowWidth": width,
    }
    made = dataset(STORED, 12, **elements)
    ends = sorted((float(intercept), 4095 * slope + intercept))
    x = STORED * float(slope) + intercept
    expected = ends[0] + (ends[1] - ends[0]) * share(x, function, centre, width)
    if slope > 0:
        # Where the slope is negative, pydicom's output falls from the high end to the low.
        with np.errstate(over="ignore"):
            by_pydicom = apply_voi_lut(apply_rescale(STORED, made), made)
        np.testing.assert_allclose(expected, by_pydicom, atol=1e-9)
    if photometric == "MONOCHROME1":
        expected = sum(ends) - expected
    pixels = read_scan(save(tmp_path / "a.dcm", made)).pixels[0]
    if float(slope).is_integer():
        assert pixels.dtype in (np.uint16, np.int16)
        np.testing.assert_allclose(pixels, expected, atol=0.5)
    else:
        np.testing.assert_allclose(pixels, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_one_grey_means_one_value_in_frames_of_differing_slopes(
    tmp_path: Path, photometric: str
) -> None:
    values = STORED[:6].astype(np.int64) // 16 * 6  # in modality units
    slopes, intercepts = (1, 3, -2), (0, 0, 2000)
    pairs = list(zip(slopes, intercepts, strict=True))
    frames = np.stack([(values - add) // times for times, add in pairs]).astype(np.uint16)
    own = [
        item(PixelValueTransformationSequence=[item(RescaleSlope=times, RescaleIntercept=add)])
        for times, add in pairs
    ]
    voi = item(FrameVOILUTSequence=[item(WindowCenter=800, WindowWidth=900)])
    pixels = shown(
        tmp_path,
        frames,
        12,
        NumberOfFrames=3,
        PhotometricInterpretation=photometric,
        SharedFunctionalGroupsSequence=[voi],
        PerFrameFunctionalGroupsSequence=own,
    )
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])
    sign = 1 if photometric == "MONOCHROME2" else -1
    assert np.corrcoef(pixels[0].ravel(), share(values, "LINEAR", 800, 900).ravel())[
        0, 1
    ] == pytest.approx(sign)


def test_frames_have_their_own_windows(tmp_path: Path) -> None:
    windows = [(1000, 500), (3000, 800)]
    groups = [item(FrameVOILUTSequence=[item(WindowCenter=c, WindowWidth=w)]) for c, w in windows]
    pixels = shown(
        tmp_path,
        np.stack([STORED, STORED]),
        12,
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=groups,
    )
    for frame, window in zip(pixels, windows, strict=True):
        np.testing.assert_allclose(frame, 4095 * share(STORED, "LINEAR", *window), atol=0.5)


@pytest.mark.parametrize(
    ("elements", "window"),
    [
        ({"WindowCenter": 0, "WindowWidth": 0.5}, "LINEAR and 0.5 wide"),
        (
            {"WindowCenter": 5, "WindowWidth": -3, "VOILUTFunction": "SIGMOID"},
            "SIGMOID and -3 wide",
        ),
        ({"WindowCenter": 5}, "incomplete"),
        ({"WindowWidth": 5}, "incomplete"),
        (
            {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "CUBIC"},
            "of an unknown function",
        ),
    ],
)
def test_a_window_that_dicom_does_not_allow_is_noted(
    tmp_path: Path, elements: dict[str, Any], window: str
) -> None:
    scan = read_scan(save(tmp_path / "a.dcm", dataset(STORED, 12, **elements)))
    assert scan.notes == (WindowLeftOut(window),)
    np.testing.assert_array_equal(scan.pixels[0], STORED)


# --- where the bits are ---------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "high"), [(12, 15), (10, 15), (10, 11), (12, 11)])
@pytest.mark.parametrize("sign", ["u", "i"])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_bits_are_taken_from_where_the_header_says(
    tmp_path: Path, bits: int, high: int, sign: str, syntax: str | None
) -> None:
    values = STORED.astype(np.int64) % 2**bits - (2 ** (bits - 1) if sign == "i" else 0)
    noise = np.random.default_rng(1).integers(0, 2**16, STORED.shape)
    below = high + 1 - bits
    mask = (2**bits - 1) << below
    cells = ((values << below) & mask) | (noise & ~mask & 0xFFFF)
    made = dataset(
        cells.astype(np.uint16), bits, HighBit=high, PixelRepresentation=int(sign == "i")
    )
    if syntax:
        made.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_scan(save(tmp_path / "a.dcm", made)).pixels[0], values)


def test_a_high_bit_that_a_code_stream_cannot_have_is_refused(tmp_path: Path) -> None:
    made = dataset(np.tile(STORED, (6, 7)), 12)
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.HighBit = 15
    with pytest.raises(BadScan, match=r"a\.dcm is compressed and its high bit"):
        read_scan(save(tmp_path / "a.dcm", made))


# --- lookup tables --------------------------------------------------------------------------------


def table(entries: Any, first: int, depth: int, in_bytes: bool) -> Dataset:
    """A table of words, or of bytes padded to an even length (C.11.1.1.1)."""
    made = Dataset()
    made.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries), first, depth])
    data = np.asarray(entries, "u1" if in_bytes else "<u2").tobytes()
    made.add_new(0x00283006, "OW", data + b"\0" * (len(data) % 2))
    return made


@pytest.mark.parametrize("count", [256, 255])
@pytest.mark.parametrize("in_bytes", [True, False])
@pytest.mark.parametrize("step", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_of_8_bits_in_bytes_or_words(
    tmp_path: Path, count: int, in_bytes: bool, step: str
) -> None:
    entries = 255 - np.arange(count) // 2
    pixels = shown(tmp_path, EIGHT, **{step: [table(entries, 0, 8, in_bytes)]})
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0], entries[np.minimum(EIGHT, count - 1)])


@pytest.mark.parametrize("depth", [8, 9, 12, 16])
@pytest.mark.parametrize("step", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_of_any_depth_and_more_entries_than_pixels_have_values(
    tmp_path: Path, depth: int, step: str
) -> None:
    # pydicom keeps the index in the dtype of the pixels or of the entries, where it wraps around.
    entries = np.arange(4096) * (2**depth - 1) // 4095
    made = table(entries, 0, depth, in_bytes=False)
    for stored, bits in ((STORED, 12), (EIGHT, 8)):
        pixels = shown(tmp_path, stored, bits, **{step: [made]})
        assert pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
        np.testing.assert_array_equal(pixels[0], entries[stored])
        inverted = shown(
            tmp_path, stored, bits, PhotometricInterpretation="MONOCHROME1", **{step: [made]}
        )
        np.testing.assert_array_equal(inverted[0], 2**depth - 1 - entries[stored])


def test_tables_agree_with_pydicom_where_it_reads_them(tmp_path: Path) -> None:
    modality = table(np.arange(3000) * 20, 100, 16, in_bytes=False)
    voi = table(np.arange(4000)[::-1], 30_000, 12, in_bytes=False)
    made = dataset(STORED, 12, ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    expected = apply_voi_lut(apply_modality_lut(STORED, made), made)
    np.testing.assert_array_equal(read_scan(save(tmp_path / "a.dcm", made)).pixels[0], expected)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("in_bytes", [True, False])
def test_a_voi_table_begins_below_zero_in_any_byte_order(
    tmp_path: Path, syntax: str | None, in_bytes: bool
) -> None:
    # Implicit VR does not say that the first value mapped is signed: the rescaled range does.
    entries = np.arange(200)[::-1]
    made = dataset(STORED, 12, RescaleSlope=1, RescaleIntercept=-1024)
    made.VOILUTSequence = [table(entries, -100, 8, in_bytes)]
    if syntax:
        made.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        made.PixelData = STORED.astype(">u2").tobytes()
        data = made.VOILUTSequence[0].LUTData
        made.VOILUTSequence[0].LUTData = np.frombuffer(data, "<u2").astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    bare = Dataset()
    bare.update(made)
    bare.file_meta = made.file_meta
    dcmwrite(tmp_path / "a.dcm", bare, enforce_file_format=True)
    pixels = read_scan(tmp_path / "a.dcm").pixels[0]
    np.testing.assert_array_equal(pixels, entries[np.clip(STORED.astype(int) - 924, 0, 199)])


def test_a_table_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    made = table(np.arange(100), 0, 8, in_bytes=True)
    made.LUTDescriptor = [4096, 0, 16]
    with pytest.raises(BadScan, match=r"a\.dcm is damaged"):
        shown(tmp_path, STORED, 12, ModalityLUTSequence=[made])


@pytest.mark.parametrize("in_bytes", [True, False])
@pytest.mark.parametrize("stored", [EIGHT, STORED])
def test_palettes_of_8_bits(tmp_path: Path, in_bytes: bool, stored: np.ndarray) -> None:
    count = 256 if stored is EIGHT else 4096
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    colours = [(np.arange(count) * factor) % 256 for factor in (1, 3, 7)]
    for name, entries in zip(("Red", "Green", "Blue"), colours, strict=True):
        palette = f"{name}PaletteColorLookupTable"
        elements[f"{palette}Descriptor"] = [count, 0, 8]
        elements[f"{palette}Data"] = entries.astype("u1" if in_bytes else "<u2").tobytes()
    pixels = shown(tmp_path, stored, None, **elements)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0], np.stack([c[stored] for c in colours], axis=-1))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm"])
def test_pydicoms_examples_are_shown_as_pydicom_does(name: str) -> None:
    path = str(get_testdata_file(name))
    made = dcmread(path)
    expected = apply_voi_lut(apply_rescale(made.pixel_array, made), made)
    np.testing.assert_allclose(read_scan(path).pixels[0], expected, atol=0.5)
