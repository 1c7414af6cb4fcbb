"""The command that opens results for reading and deciding."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from fanogan.cli import console
from fanogan.cli.arguments import UsageError
from fanogan.cli.commands import RESEARCH_ONLY
from fanogan.cli.console import say
from fanogan.text import counted

LOCAL = ("127.0.0.1", "::1", "localhost")


def review(
    results: Sequence[Path] = (),
    database: Path = Path("review.sqlite"),
    labels: Sequence[str] | None = None,
    masks: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8010,
    open: bool = False,
    add_user: str | None = None,
    role: str = "reader",
) -> None:
    """Read results in the browser: go through cases, accept or reject regions, send decisions out.

    Example: fanogan review results --open

    Args:
        results: folders that score has written; those of an earlier review may be left out.
        database: the file that keeps all decisions.
        labels: what regions may be called, such as fluid drusen artefact.
        masks: a folder with masks of the truth, named as evaluate --masks takes them. Admins see
            their outlines by the key t; whoever starts a review without users is one.
        host: the address to listen at; another one than this machine needs users.
        port: where to listen; 0 takes a free one.
        open: open the page in this machine's browser.
        add_user: let this user in by a password, which is asked for, and end.
        role: of the user to add: reader, who sees only what they have decided; adjudicator, who
            sees all and has the last word; or admin, who sees all.
    """
    try:
        from fanogan.review import LABELS, ROLES, Database, Settings, Truth, User, import_results
        from fanogan.review import add_user as add
        from fanogan.review import review as start
    except ImportError as error:
        raise UsageError(f"{error.name} is missing: pip install 'fanogan[serve]'") from None
    if role not in ROLES:
        raise UsageError(f"--role {role}: give {', '.join(ROLES)}")
    if not results and not add_user and not database.exists():
        raise UsageError("no results: fanogan review RESULTS …")
    kept = Database(database)
    if add_user:
        add(kept, User(add_user, role), _password(add_user))
        say(f"{add_user} may come in as {role}; a running review knows it at once")
        return
    for folder in results:
        with console.status(f"taking up {folder}"):
            new = import_results(kept, folder)
        say(f"{folder}: {counted(new, 'new case')}")
    has_users = bool(kept.rows("SELECT 1 FROM users"))
    if host not in LOCAL and not has_users:
        raise UsageError(
            f"--host {host}: others could come in, and there are no users yet; add them with "
            "--add-user NAME"
        )
    if host not in LOCAL:
        say(f"passwords go to {host} unencrypted: put a proxy with TLS before it", "yellow")
    owner = None if has_users else User(getpass.getuser(), "admin")
    settings = Settings(tuple(labels or LABELS), Truth(masks) if masks else None)

    def on_start(address: str) -> None:
        say(f"decisions are kept in {database}")
        say(RESEARCH_ONLY)
        say(f"open {address}")
        if open:
            import webbrowser

            webbrowser.open(address)

    start(kept, owner, settings, host, port, on_start)


def _password(name: str) -> str:
    """Ask for a password twice, or take the first line of a pipe."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = getpass.getpass(f"password of {name}: ")
        if getpass.getpass("once more: ") != password:
            raise UsageError("the two passwords differ: start again")
    if len(password) < 8:
        raise UsageError("the password has fewer than 8 characters: give a longer one")
    return password
