"""Models and runs side by side: tables, and the page that holds them with the curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fanogan.report.figures import training_figures
from fanogan.report.page import page_from
from fanogan.storage import write_whole
from fanogan.text import counted


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """A table with a column for each model.

    Attributes:
        title: What it shows.
        rows: The cells of each row, by its heading.
        sentences: What is to be read before it.
    """

    title: str
    rows: Mapping[str, Sequence[str]]
    sentences: Sequence[str] = ()


def write_comparison(
    path: Path,
    names: Mapping[str, str],
    tables: Sequence[SideBySide],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    warnings: Mapping[str, Sequence[str]],
) -> None:
    """Write the page of models side by side.

    Args:
        path: the HTML file.
        names: what each model is called, by the number that heads its column.
        tables: in their order on the page.
        metrics: the lines of each run's ``metrics.jsonl``, by number.
        warnings: of each model's training, by number.
    """
    page = page_from(
        "compare.html",
        title=f"{counted(len(names), 'model')} side by side",
        names=names,
        tables=tables,
        figures=training_figures(metrics),
        warnings=warnings,
    )
    write_whole(path, page)
