"""A worklist of ten thousand cases beside one of a hundred: opening, stepping, and the next case.

    python benchmarks/review.py --write

Cases have scores alone, and every tenth has been judged. Each page is asked for in this process,
through the whole application, and timed as the median of many.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from starlette.testclient import TestClient
from tables import ROOT, commit, machine, markdown, write_section

from fanogan.review import Database, Settings, User, import_results
from fanogan.review.access import Sessions
from fanogan.review.app import application
from fanogan.scoring import COLUMNS, write_csv

SIZES = (100, 10_000)
PAGES = {
    "the worklist opens": "/",
    "its second page": "/?page=1",
    "those not judged": "/?state=open",
    "a name is searched": "/?search=case+00077",
    "the next unread case is found": "/next",
    "a case opens": "/cases/50",
}


def times(count: int, repeats: int) -> dict[str, float]:
    """Median seconds of each page, of a review of so many cases."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scores = np.random.default_rng(0).random(count)
        plain = dict.fromkeys(COLUMNS, "") | {"unit": "image", "flag": "no"}
        rows = [
            plain | {"name": f"case {i:05}", "subject": f"subject {i // 4}", "score": score}
            for i, score in enumerate(scores)
        ]
        write_csv(folder / "scores.csv", COLUMNS, rows)
        database = Database(folder / "review.sqlite")
        import_results(database, folder)
        for case in range(10, count, 10):
            event = {"kind": "case", "value": "normal"}
            database.add(f"request {case}", "me", "admin", case, event)
        sessions = Sessions(database, User("me", "admin"))
        app = application(database, sessions, Settings())
        found = {}
        with TestClient(app, base_url="http://review", follow_redirects=False) as client:
            client.get(f"/enter?key={sessions.link}")
            for name, path in PAGES.items():
                taken = []
                for _ in range(repeats):
                    begun = time.perf_counter()
                    assert client.get(path).status_code < 400
                    taken.append(time.perf_counter() - begun)
                found[name] = float(np.median(taken))
        return found


def main() -> None:
    """Time both, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--write", action="store_true", help="into docs/review.md")
    given = parser.parse_args()
    few, many = (times(size, given.repeats) for size in SIZES)
    rows = [
        [
            name,
            f"{1000 * few[name]:.0f}",
            f"{1000 * many[name]:.0f}",
            f"{many[name] / few[name]:.1f}",
        ]
        for name in PAGES
    ]
    header = ["", "100 cases, ms", "10,000 cases, ms", "ratio"]
    text = (
        f"Median of {given.repeats}, without the browser; every tenth case was judged. "
        f"{machine()}, commit {commit()}.\n\n{markdown(header, rows)}"
    )
    if given.write:
        write_section("review", text, ROOT / "docs" / "review.md")
    else:
        print(text)


if __name__ == "__main__":
    main()
