"""The tables and the page of all that was scored."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fanogan.calibration import DriftRecord
from fanogan.report import write_score_report
from fanogan.retina import Region
from fanogan.scoring.about import ABOUT, SCAN_COLUMNS, SCANS
from fanogan.scoring.cases import region_of, unpack_case, unpack_volume
from fanogan.scoring.drift import RECORD
from fanogan.scoring.job import Journal
from fanogan.scoring.results_folder import digest_of, list_written
from fanogan.scoring.signal_maps import SPAN_COLUMNS
from fanogan.scoring.table import COLUMNS, to_parquet, write_csv
from fanogan.scoring.voxel_maps import REGION_COLUMNS
from fanogan.storage import write_whole
from fanogan.text import as_cells, counted

IN_GALLERY = 60
VOLUMES_SHOWN = 8

PATCHES = "patches.csv"
SHARD, ROWS = "shard.json", "rows.sqlite"
"""What a shard's results hold for ``merge``: which shard of which job, and its rows and cases."""
CASES = {"image": IN_GALLERY, "volume": VOLUMES_SHOWN, "steps": 1}
"""How many of each kind the page shows at most."""
ENDS = {"bscans": ("first_bscan", "last_bscan"), "columns": ("first_column", "last_column")}
IN_PARQUET = ("scores.csv", PATCHES, "regions.csv")
TABLES = (
    *("scores.csv", "report.html", PATCHES, "regions.csv", "regions.json", RECORD, SCANS, ABOUT),
    *(SHARD, ROWS),
    *(table.replace(".csv", ".parquet") for table in IN_PARQUET),
)


def write_tables(
    folder: Path,
    journal: Journal,
    about: Mapping[str, Any],
    skipped: Sequence[str],
    parquet: bool = False,
) -> None:
    """Write the tables and the page of all rows, and the list of all files.

    Args:
        folder: where the maps are.
        journal: the rows.
        about: as ``about_results`` tells it.
        skipped: sentences on what was left out.
        parquet: write each table in Parquet too.
    """
    volumes: list[dict[str, Any]] = []
    drift = DriftRecord.from_dict(about["drift"]) if about["drift"] else None
    regions: list[dict[str, Any]] = []
    warned = 0
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())
    with open(folder / SCANS, "w", newline="", encoding="utf-8") as file:
        scans = csv.DictWriter(file, SCAN_COLUMNS, lineterminator="\n")
        scans.writeheader()
        scans.writerows(as_cells(row["scan"]) for row in journal.rows() if "scan" in row)
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in journal.rows("score DESC, id"):
            writer.writerow(as_cells(row))
            warned += bool(row["warnings"])
            if row["unit"] == "volume":
                volumes.append(row["volume"])
            elif drift:
                day, *measures = row["measures"]
                drift.add(day, [measures])
    if drift:
        for day, squares in journal.squares().items():
            if day in drift.days:
                drift.days[day].squares = squares
        write_whole(folder / RECORD, json.dumps(drift.to_dict()).encode())
    volume_cases = [unpack_volume(data) for data in journal.cases("volume", VOLUMES_SHOWN)]
    if volume_cases and not about["scores_only"]:
        for row in journal.rows():
            found = map(region_of, row.get("found", ()))
            regions += [{"volume": row["name"], **vars(region)} for region in found]
        fields = ["volume", *(field.name for field in dataclasses.fields(Region))]
        columns = [column for name in fields for column in ENDS.get(name, (name,))]
        plain = [
            {column: value for name in fields for column, value in _cells(name, region[name])}
            for region in regions
        ]
        write_csv(folder / "regions.csv", columns, plain)
        write_whole(folder / "regions.json", json.dumps(regions, indent=1).encode())
    if about["kind"] != "image" and not about["scores_only"]:
        spans = [span for row in journal.rows() for span in row["spans"]]
        of_kind = SPAN_COLUMNS if about["kind"] == "signal" else REGION_COLUMNS
        write_csv(folder / "regions.csv", of_kind, spans)
    scores = journal.scores("image")
    warnings = [*skipped, *about["warnings"]]
    if warned:
        looks = "looks" if warned == 1 else "look"
        unlike = (
            f"{warned:,} of {len(journal):,} {looks} unlike the training normals: see the "
            "warnings in scores.csv"
        )
        warnings = [unlike, *warnings]
    noun, units = about["noun"], ["image", "volume"] if volumes else ["image"]
    write_score_report(
        folder / "report.html",
        noun=noun,
        title=f"Anomaly scores of {counted(len(scores), noun)}",
        model=about["model"],
        scale=about["scale"],
        statement="; ".join(about["statements"][unit] for unit in units),
        cases=[unpack_case(data) for data in journal.cases("image", IN_GALLERY)],
        total=len(scores),
        scores=scores,
        held_out=np.array(about["held_out"]),
        volumes=volumes,
        volume_cases=volume_cases,
        steps=next(journal.cases("steps", 1), None),
        warnings=warnings,
    )
    if parquet:
        for table in (folder / name for name in IN_PARQUET if (folder / name).exists()):
            to_parquet(table)
    tables = [name for name in TABLES if (folder / name).exists()]
    files = (file for row in journal.rows() for file in row.get("files", {}).items())
    # What images that are gone have left in this folder is not among them.
    digests = [(name, digest_of(folder / name)) for name in tables]
    list_written(folder, itertools.chain(digests, files))


def _cells(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Return a region's field as columns of a table, both ends of a range apart."""
    return zip(ENDS[name], value, strict=True) if name in ENDS else iter([(name, value)])
