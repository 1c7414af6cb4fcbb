"""What several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: the tests' networks are so small that threads cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real scans; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("FANOGAN_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no folder of real scans at {folder}: name one in FANOGAN_DATA")
    return folder


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An S3 server with an empty bucket; copies are kept in ``tmp_path / "cache"``."""
    from s3_server import s3_server

    with s3_server(monkeypatch, tmp_path / "cache") as found:
        yield found
