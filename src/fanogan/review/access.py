"""Who may come in: users with roles, sessions, and the headers that every answer has."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fanogan.review.database import Database

ROLES = ("reader", "adjudicator", "admin")
COOKIE = "fanogan-review"
HOURS = 12.0
"""Without a request, after which a session ends."""
MOST_BYTES = 1 << 20
"""Of a request's body: decisions are small, and nothing else comes in."""
OPEN = ("/login", "/enter", "/static/")
"""What is answered without a session."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_COST = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 1 << 26}


@dataclass(frozen=True)
class User:
    """Who decides: a name and a role of `ROLES`."""

    name: str
    role: str

    @property
    def sees_all(self) -> bool:
        """Whether they see what others have decided."""
        return self.role != "reader"


def add_user(database: Database, user: User, password: str) -> None:
    """Let someone in by a password, or give them another one or another role."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_COST)
    secret = json.dumps([salt.hex(), digest.hex()])
    with database.write() as connection:
        connection.execute(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "role = excluded.role, secret = excluded.secret",
            [user.name, user.role, secret],
        )


class Sessions:
    """Who is in. Sessions are in memory: whoever was in comes in anew after a restart."""

    def __init__(self, database: Database, owner: User | None):
        """Nobody is in yet; `owner` comes in by a link, where there are no users."""
        self.database, self.owner = database, owner
        self.link = secrets.token_urlsafe(24)
        self.inside: dict[str, tuple[User, float]] = {}
        self.slow = threading.Lock()

    def enter(self, link: str) -> str | None:
        """Return a session for the one who knows the link that was printed."""
        if self.owner is None or not hmac.compare_digest(link.encode(), self.link.encode()):
            return None
        return self._begin(self.owner)

    def login(self, name: str, password: str) -> str | None:
        """Return a session for a user with this password; a wrong one costs a second."""
        found = self.database.rows("SELECT * FROM users WHERE name = ?", name)
        salt, digest = json.loads(found[0]["secret"]) if found else ("00", "00")
        with self.slow:  # one at a time, so that guessing is slow and takes little memory
            given = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), dklen=32, **_COST)
            if hmac.compare_digest(given, bytes.fromhex(digest)):
                return self._begin(User(name, found[0]["role"]))
            time.sleep(1)
        return None

    def _begin(self, user: User) -> str:
        key = secrets.token_urlsafe(32)
        now = time.monotonic()
        self.inside = {k: v for k, v in self.inside.items() if v[1] > now}
        self.inside[key] = (user, now + HOURS * 3600)
        return key

    def user(self, key: str | None) -> User | None:
        """Return whose session it is."""
        user, until = self.inside.get(key or "", (None, 0.0))
        if user is None or until < time.monotonic():
            return None
        self.inside[str(key)] = (user, time.monotonic() + HOURS * 3600)
        return user

    def leave(self, key: str | None) -> None:
        """End a session."""
        self.inside.pop(key or "", None)


def with_session(response: Response, key: str, is_secure: bool) -> Response:
    """Return an answer that gives a session to the browser, and to no other site."""
    response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=is_secure)
    return response


class Guard:
    """An ASGI application around another that lets in only who has a session."""

    def __init__(self, app: ASGIApp, sessions: Sessions):
        """Let nobody in yet."""
        self.app, self.sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        request = Request(scope)
        refused = self._refusal(request, scope)
        await (refused or self.app)(scope, receive, guarded)

    def _refusal(self, request: Request, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if request.method not in ("GET", "HEAD"):
            # The cookie is sent by no other site; an old browser's other site is known by this.
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                return PlainTextResponse("This came from another site.", 403)
            length = headers.get("content-length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                return PlainTextResponse("Give a body of known length, up to 1 MB.", 413)
        path = request.url.path
        user = self.sessions.user(request.cookies.get(COOKIE))
        scope["state"] = {"user": user}
        if user is not None or path.startswith(OPEN):
            return None
        if request.method == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.", 401)
