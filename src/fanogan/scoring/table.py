"""The rows of a ``scores.csv``."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from fanogan.calibration import Calibration
from fanogan.report import describe
from fanogan.scoring.result import Result
from fanogan.storage import write_whole
from fanogan.text import as_cells, of_cell

COLUMNS = (
    *("name", "subject", "unit", "score", "image_residual", "feature_residual"),
    *("largest_window", "mean_of_windows", "windows"),
    *("p_value", "held_out", "held_out_subjects", "flag"),
    *("shape", "shape_p_value", "combined", "combined_p_value"),
    *("regions", "largest_region_mm2", "largest_region_bscan", "precision", "warnings", "notes"),
)
TEXTS = {"name", "subject", "unit", "flag", "precision", "warnings", "notes", "volume", "signal"}
COUNTS = {"windows", "held_out", "held_out_subjects", "regions", "largest_region_bscan"}


def row_of(result: Result, calibration: Calibration, alpha: float) -> dict[str, Any]:
    """Return a result as a line of the table, beside the held-out normals of its kind of unit."""
    held_out = calibration.units.get(result.unit)
    p_value, flag = calibration.assess(result.unit, result.total, alpha)
    beside: dict[str, str] = {}
    for name, value, of in (
        ("shape", result.shape, calibration.shapes),
        ("combined", result.combined, calibration.combined),
    ):
        known = of.get(result.unit)
        beside[name] = "" if value is None else repr(value)
        beside[f"{name}_p_value"] = (
            "" if value is None or known is None else repr(known.p_value(value))
        )
    return {
        "name": result.name,
        "subject": result.group,
        "unit": result.unit,
        "score": repr(result.total),
        "image_residual": repr(result.image),
        "feature_residual": repr(result.feature),
        "largest_window": repr(result.largest),
        "mean_of_windows": repr(result.mean),
        "windows": result.windows,
        "p_value": "" if p_value is None else repr(p_value),
        "held_out": held_out.n if held_out else 0,
        "held_out_subjects": calibration.subjects(result.unit),
        "flag": "too few held out" if flag is None else "yes" if flag else "no",
        **beside,
        "precision": result.precision,
        "warnings": "; ".join(map(describe, result.warnings)),
        "notes": "; ".join(map(describe, result.notes)),
    }


class Table(Sequence[dict[str, Any]]):
    """The rows of a ``scores.csv``, read from the file whenever they are asked for."""

    def __init__(self, path: Path, length: int):
        """Open a file with ``length`` rows."""
        self.path, self.length = path, length

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each row by its columns, counts as integers."""
        for row in read_csv(self.path):
            yield {k: int(v) if v and k in COUNTS else v for k, v in row.items()}

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a row or several; what comes before them in the file is read too."""
        if isinstance(index, int):
            return next(itertools.islice(self, range(self.length)[index], None))
        return list(itertools.islice(self, *index.indices(self.length)))


def read_csv(path: str | Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of ours, names as they were before they were written."""
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {column: of_cell(text) for column, text in row.items()}


def to_parquet(table: Path) -> None:
    """Write a table of ours in Parquet beside it: texts, counts, and other numbers as doubles."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with table.open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    schema = pa.schema(
        (name, pa.string() if name in TEXTS else pa.int64() if name in COUNTS else pa.float64())
        for name in columns
    )
    rows = read_csv(table)
    with ParquetWriter(table.with_suffix(".parquet"), schema) as writer:
        while some := [*itertools.islice(rows, 10_000)]:
            texts = {
                name: pa.array([row[name] if name in TEXTS else row[name] or None for row in some])
                for name in columns
            }
            writer.write_table(pa.table(texts).cast(schema))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(as_cells, rows))
    write_whole(path, text.getvalue().encode())
