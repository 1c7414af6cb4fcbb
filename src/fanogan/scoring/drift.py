"""The record of what a model was shown: begun, and read again."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

from fanogan.calibration import DriftRecord
from fanogan.scoring.model import Model
from fanogan.storage import BadFolder

RECORD = "drift.json"
"""In a folder of results."""


def today() -> str:
    """Return the date (UTC)."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def drift_record(model: Model) -> DriftRecord | None:
    """Return an empty record; None of a model that doesn't know its held-out normals' measures."""
    reference = model.calibration.reference
    return DriftRecord(model.weights_sha256, reference) if reference else None


def read_drift(paths: Sequence[Path]) -> DriftRecord:
    """Read records of one model, all in one.

    Args:
        paths: the files, or folders of results.

    Raises:
        BadFolder: there is none, it can't be read, or they are of two models.
    """
    records = list(map(_read, paths))
    try:
        return functools.reduce(DriftRecord.together, records)
    except ValueError as error:
        raise BadFolder(f"{', '.join(map(str, paths))}: {error}; give those of one") from None


def _read(path: Path) -> DriftRecord:
    if path.is_dir():
        path, folder = path / RECORD, path
        if not path.exists():
            raise BadFolder(
                f"{folder}: no drift.json here: give results of score, or a record of serve "
                "--drift; of a model that was made before drift was recorded, make one that knows "
                "its normals first: fanogan calibrate MODEL NORMALS --out NEW"
            )
    try:
        return DriftRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise BadFolder(
            f"{path}: not a drift record that this version can read ({reason:.80}); give one that "
            "score or serve has written"
        ) from None
