"""Heidelberg XML exports: a small one written by hand, hostile ones, and the real ones."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fanogan.scans import (
    BadScan,
    EmptyFrames,
    Scan,
    UnevenBScans,
    find_scans,
    read_scan,
    read_scans,
)

RNG = np.random.default_rng(0)
BSCANS = RNG.integers(0, 256, (4, 20, 32), dtype=np.uint8)
LOCALIZER = RNG.integers(0, 256, (48, 48), dtype=np.uint8)
SECRETS = ("Geheimrat", "Kaiserin", "1945", "PID-4711", "Empfang", "Dokumente", "dr_secret")
FOLDER = "file:///C:\\Dokumente\\dr_secret\\"


def image(number: int, kind: str, name: str, y: float, folder: str = FOLDER) -> str:
    """One `Image` element; B-scans run from x = 1 to 7.4 mm, at the height y."""
    ends = "".join(
        f"<{end}><Coord><X>{x}</X><Y>{y:.3f}</Y></Coord></{end}>"
        for end, x in (("Start", 1), ("End", 7.4))
    )
    scale = ("0.2000", "0.0039") if kind == "OCT" else ("0.2000", "0.2500")
    return (
        f"<Image><ID>{number}</ID><ImageNumber>{number}</ImageNumber><Laterality>L</Laterality>"
        f"<ImageType><Type>{kind}</Type></ImageType><OphthalmicAcquisitionContext>"
        f"<ScaleX>{scale[0]}</ScaleX><ScaleY>{scale[1]}</ScaleY>{ends if kind == 'OCT' else ''}"
        "</OphthalmicAcquisitionContext><ImageData><Extension>TIF</Extension>"
        f"<ExamURL>{folder}{name}</ExamURL></ImageData></Image>"
    )


def document(images: list[str], head: str = "") -> str:
    return (
        f"{head}<HEDX><BODY><Patient><ID>PID-4711</ID><LastName>Geheimrat</LastName>"
        "<FirstNames>Kaiserin</FirstNames><Birthdate><Date><Year>1945</Year></Date></Birthdate>"
        "<Study><Operator>Empfang</Operator><Series><Type>Volume</Type><GeneralEquipment>"
        "<Manufacturer>Heidelberg Engineering</Manufacturer>"
        "<ManufacturerModelName>Spectralis</ManufacturerModelName></GeneralEquipment>"
        "<ThicknessGrid><CenterPos><Coord><X>20</X><Y>24</Y></Coord></CenterPos>"
        "<Zone><Name>C0</Name><AvgThickness>0.300</AvgThickness></Zone>"
        "<Zone><Name>N1</Name><AvgThickness>0.368</AvgThickness></Zone>"
        "<Zone><Name>S1</Name><AvgThickness>n/a</AvgThickness></Zone></ThicknessGrid>"
        f"{''.join(images)}</Series></Study></Patient></BODY></HEDX>"
    )


IMAGES = [
    image(0, "LOCALIZER", "L.tif", 0),
    # Not in the order of the numbers, and one in another case than its file.
    *(image(i + 1, "OCT", f"B{i}.TIF" if i == 3 else f"B{i}.tif", 9 - i / 4) for i in (2, 0, 3, 1)),
]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of four B-scans, grey stored as RGB, and a localizer."""
    folder = tmp_path / "scans" / "eye1"
    folder.mkdir(parents=True)
    for name, pixels in [*((f"B{i}.tif", scan) for i, scan in enumerate(BSCANS)), ("L.tif", None)]:
        grey = LOCALIZER if pixels is None else pixels
        tifffile.imwrite(folder / name, np.stack([grey] * 3, -1), photometric="rgb")
    (folder / "X1.xml").write_text(document(IMAGES))
    return folder / "X1.xml"


def test_bscans_come_in_the_order_of_their_numbers(export: Path) -> None:
    scan = read_scan(export)
    assert scan.is_volume and scan.pixels.dtype == np.uint8
    np.testing.assert_array_equal(scan.pixels, BSCANS)
    assert scan.spacing == pytest.approx((0.25, 0.0039, 0.2))
    assert (scan.eye, scan.device, scan.notes) == ("left", "Spectralis", ())
    assert scan.thickness == {"C0": 0.3, "N1": 0.368}


def test_bscans_lie_on_the_localizer(export: Path) -> None:
    en_face = read_scan(export).en_face
    assert en_face is not None and en_face.spacing == (0.25, 0.2)
    np.testing.assert_array_equal(en_face.pixels, LOCALIZER)
    np.testing.assert_allclose(en_face.lines[0], [[36, 5], [36, 37]])
    np.testing.assert_allclose(en_face.lines[:, 0, 0], [36, 35, 34, 33])
    assert en_face.grid_centre == (24, 20)


def test_a_length_in_mm_is_finer_than_the_rounded_scale(export: Path) -> None:
    text = export.read_text().replace("<X>7.4</X>", "<X>7.3990</X>")
    export.write_text(text)
    assert read_scan(export).spacing[2] == pytest.approx(6.399 / 32, rel=1e-9)
    export.write_text(text.replace("<X>7.3990</X>", "<X>6.5</X>"))
    assert read_scan(export).spacing[2] == 0.2


@pytest.mark.parametrize("change", [("8.750", "8.900"), ("8.750", "up"), ("8.750", "nan")])
def test_irregular_bscans_have_no_distance(export: Path, change: tuple[str, str]) -> None:
    export.write_text(export.read_text().replace(*change))
    scan = read_scan(export)
    assert scan.spacing[0] is None and len(scan.pixels) == 4
    assert scan.notes == (UnevenBScans(),)


def test_an_export_without_extras_is_still_a_volume(export: Path) -> None:
    plain = document(IMAGES[1:])
    plain = plain[: plain.index("<ThicknessGrid>")] + plain[plain.index("</ThicknessGrid>") + 16 :]
    export.write_text(plain.replace("Laterality>L", "Laterality>?"))
    scan = read_scan(export)
    assert (scan.eye, scan.en_face, scan.thickness) == (None, None, None)
    np.testing.assert_array_equal(scan.pixels, BSCANS)


def test_a_folder_with_an_export_is_one_scan(export: Path) -> None:
    root = export.parents[1]
    (root / "notes.xml").write_text("<note/>")
    (root / "lone.tif").write_bytes(b"x")
    (export.parent / "settings.xml").write_text("<settings/>")
    found = find_scans(root)
    assert [(item.name, item.group) for item in found] == [
        ("eye1", "eye1"),
        ("lone.tif", "lone.tif"),
    ]
    assert found[0].path == export
    assert [item.name for item in find_scans(export.parent)] == ["eye1"]
    assert [item.name for item in find_scans(export)] == ["X1"]
    assert [item.name for item in find_scans(f"{root}/*/*")] == ["eye1"]
    # Asked for by name, the TIFFs are pictures.
    assert len(find_scans(f"{root}/eye1/*.tif")) == 5
    assert [scan.pixels.shape for scan in read_scans(export.parent)] == [(4, 20, 32)]


def test_two_exports_in_a_folder_go_by_their_own_names(export: Path) -> None:
    (export.parent / "X2.xml").write_text(document(IMAGES))
    found = find_scans(export.parents[1])
    assert [(item.name, item.group) for item in found] == [("eye1/X1", "eye1"), ("eye1/X2", "eye1")]


def test_other_xml_is_left_out_unless_named(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<note/>")
    with pytest.raises(BadScan, match="no images in"):
        find_scans(tmp_path)
    with pytest.raises(BadScan, match=r"a\.xml is no XML export of a Heidelberg device"):
        list(read_scans(tmp_path / "a.xml"))


def test_a_missing_tiff_is_named_with_its_xml(export: Path) -> None:
    (export.parent / "B2.tif").unlink()
    with pytest.raises(BadScan, match=r"X1\.xml lists B2\.tif, which is not beside it"):
        read_scan(export)


@pytest.mark.parametrize(
    "folder", ["..\\", "../", "file:///C:\\..\\..\\", "../../scans/", "/etc/", "..\\../"]
)
def test_paths_in_the_xml_never_leave_the_folder(export: Path, folder: str) -> None:
    outside = RNG.integers(0, 256, (20, 32), dtype=np.uint8)
    for place in (export.parents[1], export.parents[2]):
        tifffile.imwrite(place / "outside.tif", outside)
    for name in ("outside.tif", "..", "."):
        export.write_text(document([image(1, "OCT", name, 9, folder)]))
        with pytest.raises(BadScan, match="is not beside it"):
            read_scan(export)
    export.write_text(document([image(1, "OCT", "B0.tif", 9, folder)]))
    np.testing.assert_array_equal(read_scan(export).pixels, BSCANS[:1])


def _bomb(levels: int = 9) -> str:
    lines = [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, levels)]
    return f'<!DOCTYPE HEDX [<!ENTITY a0 "ha">{"".join(lines)}]>'


@pytest.mark.parametrize(
    "head",
    [
        _bomb(),
        '<!DOCTYPE HEDX [<!ENTITY a8 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE HEDX SYSTEM "http://localhost/a.dtd">',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_declarations_of_entities_are_refused(export: Path, head: str, encoding: str) -> None:
    declaration = f'<?xml version="1.0" encoding="{encoding}"?>{head}'
    text = document(IMAGES, declaration).replace("<Type>Volume", "<Type>&a8;")
    export.write_bytes(text.encode(encoding))
    with pytest.raises(BadScan, match=r"X1\.xml declares a document type"):
        read_scan(export)


def test_names_in_another_code_page_do_not_stop_the_reader(export: Path) -> None:
    text = document(IMAGES).replace("Geheimrat", "Geheimrätin")
    for head, encoding in (
        ("", "latin-1"),
        ("", "utf-8-sig"),
        ('<?xml version="1.0" encoding="iso-8859-1"?>', "latin-1"),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-16"),
    ):
        export.write_bytes((head + text).encode(encoding))
        np.testing.assert_array_equal(read_scan(export).pixels, BSCANS)


def _coloured() -> np.ndarray:
    colours = np.stack([BSCANS[2]] * 3, -1)
    colours[3, :, 0] = 255 - colours[3, :, 0]
    return colours


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (BSCANS[2, :10], "differs in size"),
        (BSCANS[2].astype(np.uint16), "differs in size or depth"),
        (_coloured(), "has colours drawn on it"),
        (BSCANS[:2], "has several pages"),
    ],
)
def test_tiffs_that_do_not_fit_are_named(export: Path, pixels: np.ndarray, message: str) -> None:
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(export.parent / "B2.tif", pixels, photometric=photometric)
    with pytest.raises(BadScan, match=rf"X1\.xml lists B2\.tif, which {message}"):
        read_scan(export)


def test_damaged_exports_are_named(export: Path) -> None:
    text = export.read_text()
    for end in range(10, len(text) - 8, 97):
        export.write_text(text[:end])
        with pytest.raises(BadScan, match=r"X1\.xml is (damaged or cut short|no XML export)"):
            read_scan(export)
    for changed, message in (
        (document([]), "lists no B-scans"),
        (document([image(0, "LOCALIZER", "L.tif", 0)]), "lists no B-scans"),
        (text.replace("<ImageNumber>2</ImageNumber>", ""), "damaged"),
        (text.replace("</Series>", f"</Series><Series>{IMAGES[1]}</Series>"), "lists 2 series"),
    ):
        export.write_text(changed)
        with pytest.raises(BadScan, match=message):
            read_scan(export)
    export.write_text(text)
    (export.parent / "B1.tif").write_bytes((export.parent / "B1.tif").read_bytes()[:900])
    with pytest.raises(BadScan, match=r"B1\.tif"):
        read_scan(export)


def test_an_empty_bscan_is_noted(export: Path) -> None:
    tifffile.imwrite(export.parent / "B1.tif", np.zeros((20, 32, 3), np.uint8), photometric="rgb")
    scan = read_scan(export)
    assert scan.notes == (EmptyFrames((1,), of=4),)
    assert not scan.pixels[1].any()


def test_nothing_about_the_patient_gets_out(
    export: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    text = export.read_text()
    told = [repr(read_scan(export)), repr(find_scans(export.parent))]
    broken = [text[:end] for end in range(10, len(text), 53)]
    broken += [text.replace("<Study>", "<Study>&Geheimrat;"), text.replace("B1.tif", "B9.tif")]
    for changed in broken:
        export.write_text(changed)
        try:
            told.append(repr(read_scan(export)))
        except BadScan as error:
            told.append(f"{error!r} {error.__cause__!r}")
    told += [caplog.text, *capfd.readouterr()]
    assert not [secret for secret in SECRETS if secret in " ".join(told)]


NAMES = ["AMD_patient1", "AMD_patient2", "healthy_subject1", "healthy_subject2", "healthy_subject3"]


def test_real_exports_are_read(data_folder: Path) -> None:
    folder = data_folder / "oct" / "spectralis"
    if not folder.is_dir():
        pytest.skip(f"no Spectralis exports at {folder}")
    found = find_scans(folder)
    assert [(item.name, item.group) for item in found] == [(name, name) for name in NAMES]
    for item, eye in ((found[0], "left"), (found[2], "right")):
        scan = read_scan(item.path)
        assert scan.eye == eye
        assert scan.pixels.shape == (49, 496, 512) and scan.pixels.dtype == np.uint8
        between, rows, columns = scan.spacing
        assert between is not None and 0.11 < between < 0.13
        assert rows == 0.0039 and columns is not None and 0.0111 < columns < 0.0123
        assert scan.device == "Spectralis" and scan.notes == ()
        assert scan.thickness is not None and len(scan.thickness) == 9
        assert scan.en_face is not None and scan.en_face.pixels.shape == (768, 768)
        assert (scan.en_face.lines > 100).all() and (scan.en_face.lines < 660).all()
        assert _likeness(scan, scan.pixels) > 0.05 > _likeness(scan, scan.pixels[::-1])


def _likeness(scan: Scan, pixels: np.ndarray) -> float:
    """Correlation of the B-scans' mean with the localizer along their lines: vessels agree."""
    from scipy import ndimage

    assert scan.en_face is not None
    start, end = scan.en_face.lines[:, :1], scan.en_face.lines[:, 1:]
    points = start + (end - start) * np.linspace(0, 1, pixels.shape[2])[:, None]
    smooth = ndimage.gaussian_filter(scan.en_face.pixels.astype(float), 1.5)
    along = ndimage.map_coordinates(smooth, np.moveaxis(points, -1, 0), order=1)
    pictures = [
        picture - ndimage.gaussian_filter1d(picture, 15) for picture in (along, pixels.mean(1))
    ]
    return float(np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1])
