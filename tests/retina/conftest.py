"""Fixtures of the retina: two made-up eyes, and a store that holds them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fanogan.phantom.eye import make_phantom
from fanogan.retina import FlatVolume, prepare, straighten
from fanogan.retina import volumes as read
from fanogan.scans import EnFace, Scan, Verbatim

SPACING = (0.5, 0.00387, 0.022)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MOST_PROCESSES", 1)


@pytest.fixture(scope="session")
def eyes() -> list[Scan]:
    """Two volumes in which every field of a scan is set."""
    return [
        Scan(
            eye.pixels,
            eye.name,
            f"person {seed}",
            SPACING,
            is_volume=True,
            notes=(Verbatim("a note"),),
            eye="left",
            device="Phantom",
            thickness={"C0": 0.25},
            en_face=EnFace(
                np.arange(30, dtype=np.uint8).reshape(5, 6),
                (0.01, None),
                np.arange(12, dtype=np.float64).reshape(3, 2, 2),
                (2.5, 3.0),
            ),
            is_retina=True,
        )
        for seed in (1, 2)
        for eye in [make_phantom(seed, shape=(3, 240, 72), spacing=SPACING)]
    ]


@pytest.fixture(scope="session")
def straight(eyes: list[Scan]) -> list[FlatVolume]:
    return [straighten(eye) for eye in eyes]


@pytest.fixture(scope="session")
def made(eyes: list[Scan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "prepared.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "MOST_PROCESSES", 1)
        prepare(eyes, out)
    return out


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "prepared.zarr"))
