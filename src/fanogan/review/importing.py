"""Folders of results become cases; the same folder again changes nothing, new cases appear."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanogan.review.database import Database
from fanogan.scans import identity
from fanogan.scoring import read_csv
from fanogan.storage import BadFolder

_DATE = re.compile(r"(?<!\d)(19|20)(\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d)")
"""A day in a name; one in a file's header is read when it is shown (see `dates`)."""


def import_results(database: Database, folder: Path) -> int:
    """Take the cases of a folder of results into a review; returns how many are new.

    A case that is there already has its score and regions renewed. A region that isn't found any
    more is no longer shown, and what was decided of it stays among the events.

    Raises:
        BadFolder: there are no results, or they are damaged.
    """
    folder = folder.resolve()
    table = folder / "scores.csv"
    if not table.is_file():
        raise BadFolder(f"{folder}: no results here; give the folder that fanogan score wrote")
    files = [table, *(folder / name for name in ("scans.csv", "regions.json", "regions.csv"))]
    digest = identity(files)
    if database.rows(
        "SELECT 1 FROM imports i WHERE folder = ? AND digest = ? AND id = "
        "(SELECT MAX(id) FROM imports n WHERE n.folder = i.folder)",
        *(str(folder), digest),
    ):
        return 0
    try:
        return _import(database, folder, digest)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise BadFolder(
            f"{folder}: its tables can't be read ({type(error).__name__}: {error}); score it again"
        ) from None


def _import(database: Database, folder: Path, digest: str) -> int:
    with database.write() as connection:
        (before,) = connection.execute("SELECT COUNT(*) FROM cases").fetchone()
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        number = connection.execute(
            "INSERT INTO imports (folder, digest, at) VALUES (?, ?, ?)", [str(folder), digest, at]
        ).lastrowid
        # Tables, since the names of a large archive would take much memory.
        connection.execute("CREATE TEMP TABLE scans (name TEXT PRIMARY KEY, scan TEXT)")
        connection.execute("CREATE TEMP TABLE volumes (name TEXT PRIMARY KEY)")
        connection.executemany("INSERT OR REPLACE INTO temp.scans VALUES (?, ?)", _scans(folder))
        rows = (row for row in read_csv(folder / "scores.csv") if row["unit"] == "volume")
        connection.executemany(
            "INSERT OR REPLACE INTO temp.volumes VALUES (?)", ([row["name"]] for row in rows)
        )
        is_volume = "SELECT 1 FROM temp.volumes WHERE name = ?"

        def volume_of(row: dict[str, str]) -> str | None:
            """Return the volume that a row is a frame of."""
            volume, _, frame = row["name"].rpartition("#")
            is_frame = row["unit"] == "image" and frame.isdecimal()
            return (
                volume if is_frame and connection.execute(is_volume, [volume]).fetchone() else None
            )

        rows = (row for row in read_csv(folder / "scores.csv") if volume_of(row) is None)
        for place, row in enumerate(rows):
            _take(connection, folder, row, place, number)
        for row in read_csv(folder / "scores.csv"):
            if (volume := volume_of(row)) is not None:
                frame = int(row["name"].rpartition("#")[2])
                connection.execute(
                    "INSERT OR REPLACE INTO frames SELECT id, ?, ? FROM cases WHERE folder = ? "
                    "AND name = ?",
                    [frame, float(row["score"]), str(folder), volume],
                )
        for name, region in _regions(folder):
            connection.execute(
                "INSERT INTO regions (case_id, fields, import) SELECT id, ?, ? FROM cases WHERE "
                "folder = ? AND name = ? ON CONFLICT DO UPDATE SET import = excluded.import",
                [json.dumps(region, sort_keys=True), number, str(folder), name],
            )
        # What is gone from the results goes from the worklist, unless something was decided of it.
        connection.execute(
            "DELETE FROM cases WHERE folder = ? AND import <> ? AND id NOT IN "
            "(SELECT case_id FROM events)",
            [str(folder), number],
        )
        for name in ("frames", "regions"):
            connection.execute(f"DELETE FROM {name} WHERE case_id NOT IN (SELECT id FROM cases)")
        connection.execute("DROP TABLE temp.scans")
        connection.execute("DROP TABLE temp.volumes")
        (after,) = connection.execute("SELECT COUNT(*) FROM cases").fetchone()
    return int(after - before)


def _take(
    connection: Any, folder: Path, row: dict[str, str], place: int, number: int | None
) -> None:
    found = connection.execute("SELECT scan FROM temp.scans WHERE name = ?", [row["name"]])
    (scan,) = found.fetchone() or ("{}",)
    day = _DATE.search(row["name"])
    visit = f"{day[1]}{day[2]}-{day[3]}-{day[4]}" if day else ""
    values = {
        "folder": str(folder),
        **{key: row[key] for key in ("name", "subject", "unit", "flag", "warnings", "notes")},
        "score": float(row["score"]),
        "p_value": float(row["p_value"]) if row["p_value"] else None,
        "eye": json.loads(scan).get("eye", ""),
        "visit": visit,
        "regions": int(row["regions"] or 0),
        "place": place,
        "scan": scan,
        "import": number,
    }
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    renewed = ", ".join(f"{name} = excluded.{name}" for name in values)
    connection.execute(
        f"INSERT INTO cases ({names}) VALUES ({marks}) "
        f"ON CONFLICT (folder, name) DO UPDATE SET {renewed}",
        [*values.values()],
    )


def _scans(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield where each scan lies; results of versions before 0.2 don't tell."""
    if not (folder / "scans.csv").is_file():
        return
    for row in read_csv(folder / "scans.csv"):
        spacing = [float(row[key]) if row[key] else None for key in _SPACING]
        files = [str(Path(row["folder"]) / name) for name in json.loads(row["files"])]
        yield row["name"], json.dumps({"files": files, "eye": row["eye"], "spacing": spacing})


_SPACING = ("bscan_mm", "row_mm", "column_mm")


def _regions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each candidate region and whose it is: of OCT, of voxels, or spans of a signal."""
    if (folder / "regions.json").is_file():
        for region in json.loads((folder / "regions.json").read_text("utf-8")):
            yield region.pop("volume"), region
    elif (folder / "regions.csv").is_file():
        for row in read_csv(folder / "regions.csv"):
            numbers = {"number": int(row["number"])}
            if is_voxels := "volume" in row:
                numbers["bscan"] = int(row["peak_slice"])
            yield row.pop("volume" if is_voxels else "signal"), {**row, **numbers}
