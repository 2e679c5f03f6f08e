"""Objects in processes of their own behind the real server: each of the processes is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.crash.conftest import Server, wait_until

pytestmark = [pytest.mark.crash]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def process_of(server: Server, key: str) -> int:
    return int(server.call(f"/Game/{key}/process"))


def test_no_kill_loses_an_answered_call(serve: Any) -> None:
    server = serve("games.py", "--checkpoint-seconds", "0.3", "--hibernate-after", "1")
    server.start()
    answered = 0
    for life in range(4):
        for turn in range(30):
            answered = server.call("/Game/a/play")
            assert server.call("/Lobby/l/visit") == life * 30 + turn + 1
            if turn % 10 == 5:
                os.kill(process_of(server, "a"), signal.SIGKILL)
                # It is built again; whoever comes in the very moment may be told to come again.
                wait_until(lambda: _read(server) is not None, "the object is back")
                assert _read(server) == answered
        process = process_of(server, "a")
        server.kill()
        # The kernel ends it with its node, also in the middle of a turn.
        wait_until(lambda process=process: not lives(process), "its process ends with the server")
        server.start()
        assert _read(server) == answered


def _read(server: Server) -> Any:
    with contextlib.suppress(AssertionError):
        return server.call("/Game/a/read")
    return None


def test_a_process_in_an_endless_turn_ends_with_the_server(serve: Any) -> None:
    server = serve("games.py")
    server.start()
    server.call("/Game/a/play")
    process = process_of(server, "a")

    async def spin() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /Game/a/spin HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    asyncio.run(spin())
    assert server.call("/Lobby/l/visit") == 1
    server.kill()
    wait_until(lambda: not lives(process), "its process ends with the server")


def test_a_socket_outlives_the_process_of_its_object(serve: Any) -> None:
    server = serve("games.py")
    server.start()

    async def play() -> None:
        async with connect(f"ws://127.0.0.1:{server.port}/Game/a") as one:
            await one.send("hello")
            assert await one.recv() == "hello 1"
            with contextlib.suppress(OSError):
                os.kill(process_of(server, "a"), signal.SIGKILL)
            await one.send("again")
            assert await one.recv() == "again 2"

    asyncio.run(play())
    server.stop()
