"""Clients that vanish, and a server that is told to stop while others are busy with it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.client import HTTPException
from typing import Any

import pytest

from tests.crash.conftest import Server, wait_until

pytestmark = [pytest.mark.crash]


def send(server: Server, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(request)
    return connection


def vanish(connection: socket.socket, *, politely: bool) -> None:
    """With a FIN, or with an RST as a machine that lost its process would."""
    if not politely:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def request(path: str, body: bytes, *, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


def complaints(server: Server) -> list[str]:
    """What the log says at error level, or not as a line of the log at all."""
    found = []
    for line in server.text().splitlines():
        if line.startswith("{") and json.loads(line)["level"] in ("error", "critical"):
            found.append(line)
        if "Traceback" in line:
            found.append(line)
    return found


def gauge(server: Server, name: str) -> int:
    """A figure of the server's metrics."""
    client = server.client()
    page = client.get("/_perdure/metrics").body.decode()
    client.close()
    (line,) = (line for line in page.splitlines() if line.startswith(f"{name} "))
    return int(float(line.split()[1]))


@pytest.mark.parametrize("politely", [True, False])
def test_uploads_that_break_off_change_nothing(serve: Any, politely: bool) -> None:
    server = serve("counter.py")
    server.start()
    worker = server.worker()
    whole = request("/Counter/a/increment", b'{"by": 7, "padding": "' + b"x" * 5000 + b'"}')
    chunked = (
        b"POST /Counter/a/increment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'8\r\n{"by": 7\r\n5\r\n, "pa'
    )
    parts = [whole[:1], whole[:20], whole[:60], whole[:-1], whole[:2000], chunked]
    for part in parts * 5:
        vanish(send(server, part), politely=politely)
    # Many at the same time, some of which stay.
    crowd = [send(server, parts[number % len(parts)]) for number in range(60)]
    assert server.call("/Counter/a/increment") == 1
    for connection in crowd:
        vanish(connection, politely=politely)
    # The server has heard of it: only the connection that asks is left.
    wait_until(lambda: gauge(server, "perdure_connections") == 1, "the connections are gone")
    assert server.call("/Counter/a/increment") == 2
    assert server.read("/Counter/a/read") == 2
    assert server.worker() == worker
    assert not complaints(server)
    assert server.stop() == 0


@pytest.mark.parametrize("politely", [True, False])
def test_a_call_goes_on_without_the_client_that_made_it(serve: Any, politely: bool) -> None:
    server = serve("counter.py")
    server.start()
    worker = server.worker()
    calls = 20
    sent = [send(server, request("/Counter/a/slow", b'{"seconds": 0.3}')) for _ in range(calls)]
    # All of them were taken; who had vanished before that might never have been heard.
    wait_until(lambda: gauge(server, "perdure_waiting") == calls, "the calls are under way")
    for connection in sent:
        vanish(connection, politely=politely)
    wait_until(lambda: server.read("/Counter/a/read") == calls, "all calls were done")
    assert server.call("/Counter/a/increment") == calls + 1
    assert server.worker() == worker
    assert not complaints(server)
    server.kill()
    server.start()
    assert server.read("/Counter/a/read") == calls + 1
    assert server.stop() == 0
    assert not complaints(server)


class Presser(threading.Thread):
    """Increments until the server is gone, and counts what was acknowledged."""

    def __init__(self, server: Server, handler: str) -> None:
        super().__init__(daemon=True)
        self._client = server.client()
        self._path = f"/Counter/{handler}/{handler}"
        self.sent = self.acknowledged = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while True:
            self.sent += 1
            try:
                answer = self._client.post(self._path)
            except (OSError, HTTPException):
                return
            if answer.status == 503:
                return
            if answer.status != 200:
                self.wrong.append(f"{answer.status} {answer.body!r}")
                return
            self.acknowledged += 1


def test_a_stop_under_load_keeps_all_that_was_acknowledged(serve: Any) -> None:
    server = serve("counter.py")
    server.start()
    done = {"increment": 0, "slow": 0}
    for _ in range(3):
        pressers = {name: [Presser(server, name) for _ in range(4)] for name in done}
        everybody = [presser for group in pressers.values() for presser in group]
        for presser in everybody:
            presser.start()
        wait_until(
            lambda all_=everybody: all(presser.acknowledged >= 2 for presser in all_), "all work"
        )
        assert server.stop() == 0
        for presser in everybody:
            presser.join(60)
            assert not presser.is_alive() and not presser.wrong
        assert not complaints(server)
        server.start()
        for name, group in pressers.items():
            value = server.read(f"/Counter/{name}/read")
            assert done[name] + sum(presser.acknowledged for presser in group) <= value
            assert value <= done[name] + sum(presser.sent for presser in group)
            done[name] = value
    assert server.stop() == 0
    assert not complaints(server)
