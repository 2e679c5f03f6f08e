"""WebSockets over a planned restart: their clients notice nothing, the plain ones neither."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_plain

from tests.cli.conftest import Shell

pytestmark = pytest.mark.crash

APP = """
from perdure import Connection, Object, query


class Room(Object):
    said: list[str] = []
    left: int = 0

    async def on_connect(self, conn: Connection) -> None:
        conn.send(f"VERSION {conn.query['name']}")

    async def on_message(self, conn: Connection, text: str) -> None:
        self.said.append(text)
        self.broadcast(f"VERSION {conn.query['name']}: {text}")

    async def on_disconnect(self, conn: Connection) -> None:
        self.left += 1

    @query
    def state(self) -> tuple[int, int, int]:
        return len(self.said), self.left, len(self.connections)
"""


def plain(server: Any, name: str, **options: Any) -> ClientConnection:
    url = server.url.replace("http", "ws")
    return connect_plain(f"{url}/Room/lobby?name={name}", **options)


def state(server: Any) -> list[int]:
    found: list[int] = server.call("Room/lobby/state")
    return found


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_sockets_stay_open_over_restarts_of_serve(shell: Shell, compression: str | None) -> None:
    shell.write("room.py", APP.replace("VERSION", "one"))
    server = shell.serve("serve", "room.py")
    with (
        plain(server, "ada", compression=compression) as ada,
        plain(server, "bob", compression=compression) as bob,
    ):
        assert (ada.recv(10), bob.recv(10)) == ("one ada", "one bob")
        for round_ in range(3):
            server.signal(signal.SIGHUP)
            # While the one worker goes and the other comes, and behind it.
            ada.send(f"{round_} during " + "x" * 2000)
            server.wait_for("serving again", round_ + 1)
            bob.send(f"{round_} after")
            for client in (ada, bob):
                assert client.recv(20).startswith(f"one ada: {round_} during")
                assert client.recv(20) == f"one bob: {round_} after"
        assert state(server) == [6, 0, 2]
    assert server.stop() == 0


def test_a_frame_that_has_come_half_goes_on_in_the_next_worker(shell: Shell) -> None:
    shell.write("room.py", APP.replace("VERSION", "one"))
    server = shell.serve("serve", "room.py")
    with plain(server, "ada", compression=None) as ada:
        ada.recv(10)
        # A masked text frame of five bytes, with a mask of zeros; only its beginning.
        ada.socket.sendall(bytes((0x81, 0x85, 0, 0, 0, 0)) + b"he")
        server.signal(signal.SIGHUP)
        server.wait_for("serving again")
        ada.socket.sendall(b"llo")
        assert ada.recv(20) == "one ada: hello"
    assert state(server)[0] == 1


def test_a_reload_in_dev_changes_the_code_under_open_sockets(shell: Shell) -> None:
    shell.write("room.py", APP.replace("VERSION", "one"))
    server = shell.serve("dev", "room.py")
    with plain(server, "ada") as ada:
        assert ada.recv(10) == "one ada"
        shell.write("room.py", APP.replace("VERSION", "two"))
        server.wait_for("serving again")
        ada.send("hello")
        assert ada.recv(20) == "two ada: hello"
        assert state(server) == [1, 0, 1]


def test_a_client_that_leaves_meanwhile_has_left(shell: Shell) -> None:
    shell.write("room.py", APP.replace("VERSION", "one"))
    server = shell.serve("serve", "room.py")
    with plain(server, "ada") as ada:
        ada.recv(10)
        server.signal(signal.SIGHUP)
    server.wait_for("serving again")
    with plain(server, "bob") as bob:
        assert bob.recv(10) == "one bob"
        while state(server)[1] == 0:
            pass
        assert state(server) == [0, 1, 1]
