"""Where a service listens."""

from __future__ import annotations

import contextlib
import socket

from fanogan.serve import listening


def test_no_packet_of_an_answer_waits_for_the_one_before() -> None:
    with (
        contextlib.closing(listening("127.0.0.1", 0)) as taken,
        socket.create_connection(taken.getsockname()[:2]),
    ):
        accepted, _ = taken.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
