"""fetch and send against a real Orthanc, over DICOMweb and DICOM's own protocol."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRETS, save
from dicom_volumes import STUDY, ct_series, eye, of_study
from orthanc import PIXELS, SPACING, Orthanc, Typed, https_in_front, needs_orthanc
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage

from fanogan.archive import open_archive, send
from fanogan.archive.errors import Unreachable
from fanogan.report import Found, Maker, dicom_objects
from fanogan.scans import find_scans, read_scan

pytestmark = [pytest.mark.slow, pytest.mark.system, needs_orthanc]
both = pytest.mark.parametrize("way", ["web", "dimse"])


def address(orthanc: Orthanc, way: str) -> str:
    return orthanc.dimse if way == "dimse" else orthanc.web


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def results(folder: Path, source: Path, weights: str) -> Path:
    """What score --dicom writes; other weights make other objects."""
    residual = np.random.default_rng(1).uniform(0, 2, PIXELS.shape).astype(np.float32)
    found = Found(residual, 0.8, 12.5, None)
    (folder / "dicom").mkdir(parents=True)
    maker = Maker("f-AnoGAN", "small", "0.2.0", weights)
    for end, data in dicom_objects([source], found, maker):
        (folder / "dicom" / f"eye{end}").write_bytes(data)
    return folder


# --- fetch --------------------------------------------------------------------------------------


@both
def test_a_selection_is_listed_fetched_and_not_fetched_twice(
    way: str, orthanc: Orthanc, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, out = address(orthanc, way), tmp_path / "scans"
    status, text = typed("fetch", where, "--modality", "CT", "OPT", "--dry-run", "--out", out)
    assert status == 0 and "1 study, 2 series, 7 files" in text and STUDY in text
    assert "CT 6 files" in text and not out.exists()
    assert typed("fetch", where, "--modality", "OPT", "--out", out)[0] == 0
    assert len(files(out)) == 1 and out.stat().st_mode & 0o777 == 0o700
    status, text = typed("fetch", where, "--patient", "PID-*", "--out", out)
    assert status == 0 and "6 files fetched of 1 study, 2 series" in text and "1 were here" in text
    before = {path: path.stat().st_mtime_ns for path in files(out)}
    status, text = typed("fetch", where, "--date", "2020-01-01..2020-01-31", "--out", out)
    assert "0 files fetched" in text and "7 were here already" in text
    assert {path: path.stat().st_mtime_ns for path in files(out)} == before
    # They are the scans that went in: an eye, and a series whose slices lie in one folder.
    eye_file, series = sorted(find_scans(out), key=lambda one: len(one.parts))
    np.testing.assert_array_equal(read_scan(eye_file.path).pixels, PIXELS)
    assert len(series.parts) == 6 and series.group == eye_file.group
    # No name, and nothing that is said, tells whose they are.
    names = " ".join(str(path.relative_to(tmp_path)) for path in out.rglob("*"))
    assert not [one for one in (*SECRETS, STUDY, "4711") if one in names + text]


def test_c_move_brings_the_same_files(orthanc: Orthanc, typed: Typed, tmp_path: Path) -> None:
    for name, words in (("get", ()), ("move", ("--listen", orthanc.moves))):
        words = (*words, "--modality", "CT", "--out", tmp_path / name)
        assert typed("fetch", orthanc.dimse, *words)[0] == 0
    one, other = ([dcmread(path) for path in files(tmp_path / name)] for name in ("get", "move"))
    assert one == other and len(one) == 6
    status, text = typed(
        *("fetch", orthanc.dimse, "--modality", "CT", "--out", tmp_path / "no"),
        *("--listen", orthanc.moves + 1),  # a port that the archive doesn't know
    )
    assert status == 1 and "whether it knows the port of --listen" in text
    assert "6 failed, 0 are done" in text


@both
def test_compressed_files_come_as_they_lie_there(
    way: str, orthanc: Orthanc, typed: Typed, tmp_path: Path
) -> None:
    source = dcmread(str(get_testdata_file("JPEG2000.dcm")))
    orthanc.put(Path(str(get_testdata_file("JPEG2000.dcm"))))
    words = ("--study", source.StudyInstanceUID, "--out", tmp_path / "s")
    assert typed("fetch", address(orthanc, way), *words)[0] == 0
    (path,) = files(tmp_path / "s")
    made = dcmread(path)
    assert made.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert made.PixelData == source.PixelData


@both
def test_wrong_names_and_what_is_not_there(
    way: str, orthanc: Orthanc, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = address(orthanc, way)
    words = ("--modality", "CT", "--out", tmp_path / "s")
    status, text = typed("fetch", where, "--study", "1.2.3.4", "--out", tmp_path / "s")
    assert status == 1 and "the archive has nothing like that: check ids" in text
    if way == "dimse":
        status, text = typed("fetch", where.replace("ORTHANC", "PACS"), *words)
        assert status == 1 and "PACS@127.0.0.1" in text
        assert "refuses FANOGAN (called ae title not recognised): check the AE title" in text
        status, text = typed("fetch", where, "--aet", "STRANGER", *words)
        assert status == 1 and "check that it runs, and that it knows us as STRANGER" in text
    else:
        status, text = typed("fetch", where.replace("dicom-web", "wado"), *words)
        assert status == 1 and "(HTTP 404): it has no such address: check the path" in text
        monkeypatch.setenv("FANOGAN_ARCHIVE_PASSWORD", "wrong")
        status, text = typed("fetch", where, *words)
        assert status == 1 and "(HTTP 401): it wants to know who asks: set FANOGAN_ARCH" in text
        # ~/.netrc does as well.
        monkeypatch.delenv("FANOGAN_ARCHIVE_USER")
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login {Orthanc.user} password {Orthanc.password}\n")
        monkeypatch.setenv("NETRC", str(netrc))
        assert typed("fetch", where, *words)[0] == 0


def test_pseudonymised_scans_tell_nobody(
    orthanc: Orthanc, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = f"{STUDY}.77"
    letter = of_study(np.zeros((2, 2), np.uint8), EncapsulatedPDFStorage, 8, 1)
    burnt = of_study(np.zeros((2, 2), np.uint8), CTImageStorage, 9, 1)
    letter.Modality, burnt.Modality, burnt.BurnedInAnnotation = "DOC", "CT", "YES"
    letter.EncapsulatedDocument, letter.StudyInstanceUID = b"Geheimrat ", study
    burnt.StudyInstanceUID = study
    del letter.PixelData
    orthanc.put(save(tmp_path / "a.dcm", letter), save(tmp_path / "b.dcm", burnt))
    out, codes = tmp_path / "scans", tmp_path / "keys" / "codes.csv"
    words = ("--patient", "PID-4711", "--out", out, "--codes", codes)
    status, text = typed("fetch", orthanc.web, *words, "--pseudonymise")
    assert status == 0 and "7 files fetched of 2 studies, 4 series, 9 files" in text
    assert "left out: 1 file: it is no image, and its text can name anybody" in text
    assert "left out: 1 file: it says that the patient can be read in its pixels" in text
    assert "7 files may have text in the pixels, which nothing here removes" in text
    written = [path for path in out.rglob("*") if path.is_file()]
    for path in written:
        data = path.read_bytes() + str(path.relative_to(tmp_path)).encode()
        traces = (*SECRETS, STUDY, "20200102", "101112", "4711")
        assert not [trace for trace in traces if trace.encode() in data], path
    assert sum(path.name.endswith(".left-out.txt") for path in written) == 2
    # The same patient has the same code over the other protocol, and nothing comes twice.
    status, text = typed("fetch", orthanc.dimse, *words, "--pseudonymise")
    assert status == 0 and "0 files fetched" in text and "9 were here already" in text
    assert len(codes.read_text().splitlines()) == 2 and SECRETS[2] in codes.read_text()
    status, text = typed("fetch", orthanc.web, *words)
    assert status == 1 and "the two must not be mixed: give another folder" in text
    words = ("--patient", "PID-4711", "--out", out, "--codes", tmp_path / "other.csv")
    status, text = typed("fetch", orthanc.web, *words, "--pseudonymise")
    assert status == 1 and "was fetched with other codes" in text


# --- send ---------------------------------------------------------------------------------------


@both
def test_objects_are_sent_once_and_found_in_the_study(
    way: str, orthanc: Orthanc, typed: Typed, tmp_path: Path
) -> None:
    source = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    folder = results(tmp_path / "out", source, {"web": "ab", "dimse": "cd"}[way] * 32)
    where = address(orthanc, way)
    status, text = typed("send", where, folder)
    assert status == 0 and "2 objects sent" in text and "already" not in text
    for _ in range(2):
        status, text = typed("send", where, folder, folder)
        assert status == 0 and "0 objects sent · 4 were there already" in text
    # QIDO finds them in the study of their scan.
    sent = {dcmread(path).SOPInstanceUID for path in files(folder)}
    answer = orthanc.rest(f"/dicom-web/studies/{STUDY}/instances").json()
    assert sent <= {one["00080018"]["Value"][0] for one in answer}
    stored = [one["MainDicomTags"]["SOPInstanceUID"] for one in orthanc.instances()]
    assert len(stored) == len(set(stored))


@both
def test_what_belongs_nowhere_or_is_broken_does_not_stop_the_rest(
    way: str, orthanc: Orthanc, typed: Typed, tmp_path: Path
) -> None:
    alone = eye(tmp_path / "alone.dcm", PIXELS, SPACING, StudyInstanceUID="1.2.3.4.5")
    folder = results(tmp_path / "out", alone, "ab" * 32)
    at_home = results(tmp_path / "home", eye(tmp_path / "eye.dcm", PIXELS, SPACING), f"{way:>64}")
    (folder / "dicom" / "broken.dcm").write_bytes(b"no DICOM")
    before = len(orthanc.instances())
    status, text = typed("send", address(orthanc, way), folder, at_home)
    assert status == 1 and "3 failed, 2 are done" in text
    assert "is of a study that the archive doesn't have" in text
    assert "broken.dcm is no DICOM object, or damaged: score again" in text
    assert len(orthanc.instances()) == before + 2


# --- an archive that loses files, or dies ---------------------------------------------------------


class Dying:
    """An archive that does something at one of its calls, and passes all on to a real one."""

    def __init__(self, real: Any, at: dict[str, Callable[[], None]]) -> None:
        self.real, self.at = real, at

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            if name in self.at:
                self.at.pop(name)()
            return getattr(self.real, name)(*given)

        return call


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Orthanc]:
    (tmp_path / "orthanc").mkdir()
    made = Orthanc(tmp_path / "orthanc").start()
    yield made
    made.kill()


@both
def test_a_file_that_the_archive_has_lost_does_not_stop_the_rest(
    way: str, mortal: Orthanc, typed: Typed, tmp_path: Path
) -> None:
    mortal.put(*ct_series(tmp_path / "ct", PIXELS))
    stored = [path for path in (tmp_path / "orthanc" / "db").rglob("*") if path.is_file()]
    next(path for path in stored if path.read_bytes()[128:132] == b"DICM").unlink()
    mortal.put(eye(tmp_path / "eye.dcm", PIXELS, SPACING, StudyInstanceUID=f"{STUDY}.5"))
    # Orthanc can't list the series any more that the file was of; the other study comes.
    words = ("--patient", "PID-4711", "--out", tmp_path / "scans")
    status, text = typed("fetch", address(mortal, way), *words)
    assert status == 1 and "1 failed, 1 are done" in text and "see the archive's log" in text, text
    assert len(files(tmp_path / "scans")) == 1


@both
def test_an_archive_that_dies_while_fetching_loses_nothing(
    way: str, mortal: Orthanc, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal.put(*ct_series(tmp_path / "ct", np.tile(PIXELS, (10, 8, 8))))
    out, where = tmp_path / "scans", address(mortal, way)

    def kill_at_half() -> None:
        while len(files(out)) < 20:
            time.sleep(0.001)
        mortal.kill()

    killer = threading.Thread(target=kill_at_half)
    killer.start()
    status, text = typed("fetch", where, "--modality", "CT", "--out", out, "--timeout", 5)
    killer.join()
    here = len(files(out))
    assert status == 1 and text.count("trying again") == 3 and 20 <= here < 60, (here, text)
    assert not list(out.rglob(".fanogan-unfinished-*"))
    for path in files(out):
        assert dcmread(path).pixel_array.shape == (128, 176)
    mortal.start()
    status, text = typed("fetch", where, "--modality", "CT", "--out", out)
    assert status == 0 and f"{60 - here} files fetched" in text and f"{here} were here" in text
    assert len(files(out)) == 60


@both
def test_an_archive_that_dies_while_sending_gets_each_object_once(
    way: str, mortal: Orthanc, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = eye(tmp_path / "eye.dcm", PIXELS, SPACING)
    mortal.put(source)
    folder = results(tmp_path / "out", source, "ab" * 32)
    monkeypatch.setenv("FANOGAN_ARCHIVE_USER", Orthanc.user)
    real = open_archive(address(mortal, way), "FANOGAN", None, 5.0)

    def restart() -> None:
        mortal.kill()
        with pytest.raises(Unreachable):
            real.store(files(folder)[0])
        mortal.start()
        raise Unreachable("it was killed")

    made = send(Dying(real, {"store": restart}), files(folder))
    assert (made.sent, made.there, made.failed) == (2, 0, [])

    # The answer was lost, and the object not: it isn't sent a second time.
    more = results(tmp_path / "more", source, "cd" * 32)

    class Lost(Dying):
        def store(self, path: Path) -> None:
            self.real.store(path)
            raise Unreachable("the answer was lost")

    made = send(Lost(real, {}), files(more))
    assert (made.sent, made.there, made.failed) == (2, 0, [])
    assert len(mortal.instances()) == 5
    mortal.kill()
    status, text = typed("send", address(mortal, way), results(tmp_path / "x", source, "ef" * 32))
    assert status == 1 and "trying again" in text


# --- TLS ----------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, whole = (tmp_path / f"{name}.pem" for name in ("key", "cert", "whole"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    whole.write_text(key.read_text() + certificate.read_text())
    made = Orthanc(
        tmp_path,
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(certificate),
        DicomTlsPrivateKey=str(key),
        DicomTlsTrustedCertificates=str(certificate),
    ).start()
    web = f"https://127.0.0.1:{https_in_front(made.http, whole)}/dicom-web"
    try:
        made.put(eye(tmp_path / "eye.dcm", PIXELS, SPACING))
        for way in ("web", "dimses"):
            where = web if way == "web" else made.dimse.replace("dimse:", "dimses:")
            words = ("--modality", "OPT", "--out", tmp_path / way)
            monkeypatch.delenv("FANOGAN_ARCHIVE_CA", raising=False)
            status, text = typed("fetch", where, *words)
            assert status == 1 and "FANOGAN_ARCHIVE_CA" in text and "certificate" in text
            monkeypatch.setenv("FANOGAN_ARCHIVE_CA", str(certificate))
            if way == "dimses":  # Orthanc wants to know us too
                monkeypatch.setenv("FANOGAN_ARCHIVE_CERTIFICATE", str(whole))
            status, text = typed("fetch", where, *words)
            assert status == 0 and len(files(tmp_path / way)) == 1, text
        monkeypatch.setenv("FANOGAN_ARCHIVE_CA", str(tmp_path / "nothing.pem"))
        status, text = typed("fetch", web, "--modality", "OPT")
        assert status == 1 and "FANOGAN_ARCHIVE_CA is" in text and "no such file of PEM" in text
    finally:
        made.kill()
