"""An Orthanc for each file of tests, and commands as a user types them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_volumes import ct_series, eye
from orthanc import PIXELS, SPACING, Orthanc, Typed

from fanogan.archive import errors, sending
from fanogan.cli.parser import main


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One that holds an eye and a CT series of the same patient and study."""
    folder = tmp_path_factory.mktemp("orthanc")
    made = Orthanc(folder).start()
    made.put(eye(folder / "eye.dcm", PIXELS, SPACING), *ct_series(folder / "ct", PIXELS))
    yield made
    made.kill()


@pytest.fixture
def typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Typed:
    """Type a command; return its exit status and all that it said, on one line."""
    monkeypatch.setenv("FANOGAN_ARCHIVE_USER", Orthanc.user)
    monkeypatch.setenv("FANOGAN_ARCHIVE_PASSWORD", Orthanc.password)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for module in (errors, sending):
        monkeypatch.setattr(module, "WAITS", (0.05, 0.1, 0.2))

    def command(*words: object) -> tuple[int, str]:
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        notes = "\n".join(record.getMessage() for record in caplog.records)
        caplog.clear()
        return status, " ".join(f"{notes}\n{said.out}{said.err}".split())

    return command
