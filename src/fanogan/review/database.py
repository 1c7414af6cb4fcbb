"""What readers decide: events that are only ever added, and the state that follows from them.

A SQLite database in WAL mode. An event is on the disk before it is acknowledged, and triggers
refuse to change or remove one. Undoing is an event too. All else, such as the worklist, is derived.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fanogan.storage import BadFolder

FORMAT = 1
PAGE = 50
"""Cases on one page of the worklist."""
KINDS = ("region", "draw", "case", "note", "fovea", "undo")
VERDICTS = ("accepted", "rejected", "redrawn")
JUDGEMENTS = ("normal", "abnormal", "ungradable")
SORTS = {
    "score": "c.score DESC, c.id",
    "p_value": "c.p_value IS NULL, c.p_value, c.id",
    "name": "c.place",
    "regions": "c.regions DESC, c.id",
}

# The plus keeps SQLite from looking up what is no undoing by its index, which all events are in.
SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    id INTEGER PRIMARY KEY, folder TEXT NOT NULL, name TEXT NOT NULL, subject TEXT NOT NULL,
    unit TEXT NOT NULL, score REAL NOT NULL, p_value REAL, flag TEXT NOT NULL, eye TEXT NOT NULL,
    visit TEXT NOT NULL, regions INTEGER NOT NULL, warnings TEXT NOT NULL, notes TEXT NOT NULL,
    place INTEGER NOT NULL, scan TEXT NOT NULL, import INTEGER NOT NULL, UNIQUE (folder, name));
CREATE INDEX IF NOT EXISTS by_score ON cases (score DESC, id);
CREATE INDEX IF NOT EXISTS by_subject ON cases (subject, eye);
CREATE TABLE IF NOT EXISTS frames (
    case_id INTEGER NOT NULL, frame INTEGER NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (case_id, frame)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS regions (
    id INTEGER PRIMARY KEY, case_id INTEGER NOT NULL, fields TEXT NOT NULL,
    import INTEGER NOT NULL, UNIQUE (case_id, fields));
CREATE TABLE IF NOT EXISTS imports (id INTEGER PRIMARY KEY, folder TEXT, digest TEXT, at TEXT);
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, role TEXT NOT NULL, secret TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL UNIQUE, at TEXT NOT NULL,
    who TEXT NOT NULL, role TEXT NOT NULL, case_id INTEGER NOT NULL REFERENCES cases (id),
    kind TEXT NOT NULL, region TEXT NOT NULL, value TEXT NOT NULL, undoes INTEGER UNIQUE);
CREATE INDEX IF NOT EXISTS by_case ON events (case_id, who, kind, region, id);
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
CREATE VIEW IF NOT EXISTS live AS SELECT * FROM events e WHERE +undoes IS NULL
    AND NOT EXISTS (SELECT 1 FROM events u WHERE u.undoes = e.id);
CREATE VIEW IF NOT EXISTS latest AS SELECT * FROM live e WHERE kind = 'draw' OR
    NOT EXISTS (SELECT 1 FROM live n WHERE n.case_id = e.case_id AND n.who = e.who
        AND n.kind = e.kind AND n.region = e.region AND n.id > e.id);
"""


class Refused(Exception):
    """A decision that makes no sense, in one sentence; nothing of it is kept."""


class Database:
    """The file of a review. Each thread has a connection of its own; writes wait for each other."""

    def __init__(self, path: Path):
        """Open it, or make it.

        Raises:
            BadFolder: the file is no database of ours, or of a newer version.
        """
        self.path, self.threads, self.writing = path, threading.local(), threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            (version,) = self.read().execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in self.read().execute("SELECT name FROM sqlite_master")}
            if version > FORMAT or (tables and not version):
                raise BadFolder(
                    f"{path}: is a database of a newer version or of another program; give "
                    "--database another file"
                )
            self.read().executescript(f"PRAGMA journal_mode = WAL; {SCHEMA}")
            self.read().execute(f"PRAGMA user_version = {FORMAT}")
        except sqlite3.DatabaseError as error:
            raise BadFolder(
                f"{path}: can't be opened as a database ({error}); give --database another file"
            ) from None

    def read(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        if not hasattr(self.threads, "connection"):
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            connection.row_factory = sqlite3.Row
            # An event is on the disk once its transaction has ended.
            connection.execute("PRAGMA synchronous = FULL")
            self.threads.connection = connection
        found: sqlite3.Connection = self.threads.connection
        return found

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction, which is there whole or not at all."""
        connection = self.read()
        with self.writing:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query as plain values."""
        return [dict(row) for row in self.read().execute(query, values)]

    # --- the worklist -----------------------------------------------------------------------------

    def worklist(self, who: str, filters: Mapping[str, str], page: int) -> list[dict[str, Any]]:
        """Return a page of cases with their state for a reader; one more tells that others follow.

        Args:
            who: whose decisions make the state.
            filters: by `flag`, `state`, `eye`, `warning`, `reader`, `search`, and `sort`.
            page: from 0.
        """
        where, values = _where(who, filters)
        sort = SORTS.get(filters.get("sort", ""), SORTS["score"])
        return self.rows(
            f"SELECT c.*, {_STATE} AS state, (SELECT COUNT(*) FROM latest e WHERE "
            "e.case_id = c.id AND e.who = ? AND e.kind = 'region') AS decided "
            f"FROM cases c WHERE {where} ORDER BY {sort} LIMIT ? OFFSET ?",
            *(who, who, who, *values, PAGE + 1, PAGE * page),
        )

    def next_unread(self, who: str, filters: Mapping[str, str], after: int | None) -> int | None:
        """Return the next case without a judgement: the highest below one, or else of all."""
        where, values = _where(who, {**filters, "state": "open"})
        sort = SORTS.get(filters.get("sort", ""), SORTS["score"])
        query = f"SELECT c.id FROM cases c WHERE {where} AND c.id IS NOT ? ORDER BY {sort} LIMIT 1"
        if after is not None and sort == SORTS["score"]:
            found = self.rows(
                f"SELECT c.id FROM cases c WHERE {where} AND (c.score, -c.id) < "
                f"(SELECT score, -id FROM cases WHERE id = ?) ORDER BY {sort} LIMIT 1",
                *(*values, after),
            )
            if found:
                return int(found[0]["id"])
        found = self.rows(query, *values, after)
        return int(found[0]["id"]) if found else None

    def progress(self, who: str) -> tuple[int, int]:
        """Return how many cases a reader has judged, and how many there are."""
        row = self.read().execute(
            "SELECT (SELECT COUNT(DISTINCT case_id) FROM live WHERE who = ? AND kind = 'case'), "
            "(SELECT COUNT(*) FROM cases)",
            [who],
        )
        done, count = row.fetchone()
        return int(done), int(count)

    def readers(self) -> list[str]:
        """Return all who have decided anything."""
        return [row["who"] for row in self.rows("SELECT DISTINCT who FROM events ORDER BY who")]

    # --- one case ---------------------------------------------------------------------------------

    def case(self, number: int) -> dict[str, Any] | None:
        """Return a case with its frames' scores and its regions; None where there is none."""
        found = self.rows("SELECT * FROM cases WHERE id = ?", number)
        if not found:
            return None
        frames = self.rows(
            "SELECT frame, score FROM frames WHERE case_id = ? ORDER BY frame", number
        )
        regions = self.rows(
            "SELECT r.id, r.fields FROM regions r JOIN cases c ON c.id = r.case_id "
            "WHERE c.id = ? AND r.import = c.import ORDER BY r.id",
            number,
        )
        return {
            **found[0],
            "scan": json.loads(found[0]["scan"]),
            "frames": {row["frame"]: row["score"] for row in frames},
            "regions": [{**json.loads(row["fields"]), "id": row["id"]} for row in regions],
        }

    def visits(self, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the other cases of the same subject's eye in the same results."""
        found = self.rows(
            "SELECT id, name, visit, score, flag, regions, scan FROM cases WHERE subject = ? AND "
            "eye = ? AND folder = ? AND unit = ? AND id <> ? ORDER BY place",
            *(case["subject"], case["eye"], case["folder"], case["unit"], case["id"]),
        )
        return [{**row, "scan": json.loads(row["scan"])} for row in found]

    def members(self, folder: str, name: str) -> int:
        """Return how many images of an array file these results hold."""
        query = "SELECT COUNT(*) AS n FROM cases WHERE folder = ? AND name GLOB ? || '#[0-9]*'"
        return int(self.rows(query, folder, _verbatim(name))[0]["n"])

    def decisions(self, case_id: int, who: str | None = None) -> list[dict[str, Any]]:
        """Return what stands of a case, by one reader or by all, in order."""
        query = "SELECT * FROM latest WHERE case_id = ? AND (who = ? OR ? IS NULL) ORDER BY id"
        return [_event(row) for row in self.rows(query, case_id, who, who)]

    def add(
        self, request: str, who: str, role: str, case_id: int, event: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Keep an event; the same request twice is kept once.

        Args:
            request: a name that the client gives it, so that it can be sent again.
            who: the reader.
            role: theirs.
            case_id: the case.
            event: its `kind`, `region` and `value`.

        Raises:
            Refused: there is no such case or region, or nothing to undo.
        """
        kind, region = event["kind"], str(event.get("region", ""))
        undoes = None
        with self.write() as connection:
            before = self.rows("SELECT * FROM events WHERE request = ?", request)
            if before:
                return _event(before[0])
            if not self.rows("SELECT 1 FROM cases WHERE id = ?", case_id):
                raise Refused("there is no such case")
            if kind == "undo":
                last = self.rows(
                    "SELECT MAX(id) AS id FROM live WHERE case_id = ? AND who = ?", case_id, who
                )
                undoes = last[0]["id"]
                if undoes is None:
                    raise Refused("there is nothing to undo")
            elif kind == "region" and not self._is_region(case_id, region, who, role):
                raise Refused("there is no such region")
            value = json.dumps(event.get("value"))
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            connection.execute(
                "INSERT INTO events (request, at, who, role, case_id, kind, region, value, undoes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [request, at, who, role, case_id, kind, region, value, undoes],
            )
            return _event(self.rows("SELECT * FROM events WHERE request = ?", request)[0])

    def _is_region(self, case_id: int, region: str, who: str, role: str) -> bool:
        """Tell whether a case has a region; 'd12' is what the event 12 has drawn."""
        if region.startswith("d"):
            query = (
                "SELECT 1 FROM live WHERE case_id = ? AND id = ? AND kind = 'draw' "
                "AND (who = ? OR ? <> 'reader')"
            )
            return bool(self.rows(query, case_id, region[1:], who, role))
        return bool(
            self.rows("SELECT 1 FROM regions WHERE case_id = ? AND id = ?", case_id, region)
        )


def _verbatim(name: str) -> str:
    """Return a pattern of GLOB that matches this name alone."""
    return re.sub(r"[*?[]", r"[\g<0>]", name)


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "value": json.loads(row["value"])}


_JUDGED = "EXISTS (SELECT 1 FROM live e WHERE e.case_id = c.id AND e.who = ? AND e.kind = 'case')"
_SEEN = "EXISTS (SELECT 1 FROM live e WHERE e.case_id = c.id AND e.who = ?)"
_STATE = (
    "COALESCE((SELECT json_extract(e.value, '$') FROM latest e WHERE e.case_id = c.id AND "
    f"e.who = ? AND e.kind = 'case'), CASE WHEN {_SEEN} THEN 'begun' ELSE 'unread' END)"
)


def _where(who: str, filters: Mapping[str, str]) -> tuple[str, Sequence[Any]]:
    """Return the condition of the filters, and its values."""
    parts, values = ["1"], list[Any]()

    def only(condition: str, *given: Any) -> None:
        parts.append(condition)
        values.extend(given)

    match filters.get("flag"):
        case "yes" | "no" as flag:
            only("c.flag = ?", flag)
    match filters.get("warning"):
        case "yes":
            only("c.warnings <> ''")
        case "no":
            only("c.warnings = ''")
    if (eye := filters.get("eye")) in ("right", "left"):
        only("c.eye = ?", eye)
    match filters.get("state"):
        case "open":
            only(f"NOT {_JUDGED}", who)
        case "unread":
            only(f"NOT {_SEEN}", who)
        case "begun":
            only(f"NOT {_JUDGED} AND {_SEEN}", who, who)
        case "done":
            only(_JUDGED, who)
    if reader := filters.get("reader"):
        only(_JUDGED, reader)
    if search := filters.get("search"):
        # Not LIKE, in which % and _ of a name would stand for anything.
        only("instr(lower(c.name || ' ' || c.subject), lower(?))", search)
    return " AND ".join(parts), values
