"""A model that several commands take."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from noise import model_in

    return model_in(tmp_path_factory.mktemp("cli") / "model")
