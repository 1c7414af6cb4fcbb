"""Where a service listens."""

from __future__ import annotations

import socket

from fanogan.errors import FanoganError


class CannotListen(FanoganError):
    """An address or port that can't be had, in one sentence."""


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a port; 0 takes a free one.

    Raises:
        CannotListen: there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        # Else the body of an answer waits for the acknowledgement of its head, which takes 40 ms:
        # asyncio sees to that only for sockets that it has made itself.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"nothing can listen at {host}:{port} ({reason}): give another"
        ) from None


def address_of(taken: socket.socket, host: str) -> str:
    """Return the address that a browser is given."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{taken.getsockname()[1]}"
