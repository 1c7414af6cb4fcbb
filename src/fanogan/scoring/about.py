"""What results say of the model and of where scans lie, by which ``review`` opens them again."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from typing import Any

from fanogan.remote import named
from fanogan.report import Maker
from fanogan.scoring.cases import about_model, statement_of
from fanogan.scoring.drift import drift_record
from fanogan.scoring.model import Model
from fanogan.scoring.result import Result

SCANS, ABOUT = "scans.csv", "about.json"
"""What ``review`` opens scans with: where each lies, and how the model's maps are coloured."""
SCAN_COLUMNS = ("name", "folder", "files", "eye", "bscan_mm", "row_mm", "column_mm")


def maker_of(model: Model) -> Maker:
    """Return what DICOM objects say of the model that made them."""
    return Maker(model.title, model.recipe.name, version("fanogan"), model.weights_sha256)


def scan_row(result: Result) -> dict[str, Any]:
    """Return a line of ``scans.csv``: the files' names are a list in JSON."""
    files = [os.path.abspath(path) for path in result.files]
    folder = os.path.commonpath([os.path.dirname(path) for path in files]) if files else ""
    names = json.dumps([os.path.relpath(path, folder) for path in files])
    values = (result.name, named(folder), names, result.eye, *result.spacing)
    return dict(zip(SCAN_COLUMNS, values, strict=True))


def about_results(model: Model, alpha: float, scores_only: bool) -> dict[str, Any]:
    """Return what the page says beside the rows, as plain values."""
    held_out = model.calibration.units.get("image")
    return {
        "noun": model.preprocessing.noun,
        "kind": model.preprocessing.kind,
        "model": about_model(model),
        "scale": model.calibration.map_scale,
        "grey": [model.preprocessing.depth, model.preprocessing.low, model.preprocessing.high],
        "en_face": model.calibration.en_face,
        "maker": vars(maker_of(model)),
        "statements": {unit: statement_of(model, alpha, unit) for unit in ("image", "volume")},
        "held_out": held_out.scores.tolist() if held_out else [],
        "warnings": list(model.provenance["warnings"]),
        "scores_only": scores_only,
        "drift": record.to_dict() if (record := drift_record(model)) else None,
    }
