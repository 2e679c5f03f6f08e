"""Clients for whom there is more than they take: none misses a message without being told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from perdure import Connection, Object
from tests.gateway.fakes import until
from tests.sessions.faces import Served, faces, own_front
from tests.sessions.resuming import ResumeClient


class Talker(Object):
    """Has much to say, before its clients can hear it."""

    def __init__(self) -> None:
        self.gone: list[Any] = []

    async def on_connect(self, conn: Connection) -> None:
        for number in range(40):
            conn.send(f"{number} " + "x" * 10_000)
        await asyncio.sleep(0.01)
        for number in range(40, 50):
            conn.send(f"{number} ")
        if "close" in conn.query:
            conn.close(4000, "that is all")
            await asyncio.sleep(0.01)

    async def on_message(self, conn: Connection, text: str) -> None:
        conn.send(text)

    async def on_disconnect(self, conn: Connection) -> None:
        self.gone.append(conn.close_code)

    async def read(self) -> list[Any]:
        return self.gone


async def heard(client: ClientConnection) -> tuple[list[int], int | None]:
    """The numbers of the messages up to the end, and its code."""
    numbers = []
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(20):
            while True:
                numbers.append(int(str(await client.recv()).split()[0]))
    return numbers, client.close_code


def client(served: Served, path: str) -> ResumeClient:
    return ResumeClient(f"ws://127.0.0.1:{served.port}{path}")


@faces
async def test_what_does_not_fit_before_the_upgrade_ends_the_line(
    face: Any, tmp_path: Path
) -> None:
    async with face(tmp_path, Talker, socket_queue_bytes=100_000) as served:
        async with served.connect("/Talker/a", compression=None) as plain:
            numbers, code = await heard(plain)
        assert (numbers, code) == (list(range(len(numbers))), 1013)
        assert 5 < len(numbers) < 40
        assert await served.eventually("/Talker/a/read", bool) == [1013]


@faces
async def test_whoever_can_resume_comes_back_for_what_did_not_fit(
    face: Any, tmp_path: Path
) -> None:
    async with (
        face(tmp_path, Talker, socket_queue_bytes=100_000) as served,
        client(served, "/Talker/a") as back,
    ):
        await back.send("51 and here")
        await back.until(lambda: len(back.received) == 51)
        assert [int(str(one).split()[0]) for one in back.received] == [*range(50), 51]
        assert back.lives == 2
        assert await served.call("/Talker/a/read") == []


@faces
async def test_what_was_said_before_the_end_comes_behind_the_greeting(
    face: Any, tmp_path: Path
) -> None:
    async with (
        face(tmp_path, Talker) as served,
        served.connect("/Talker/a?close=", subprotocols=["perdure.v1"]) as line,
    ):
        got = []
        with pytest.raises(ConnectionClosed):
            while True:
                got.append(str(await line.recv()).split()[0])
        assert got == ["hello", *["m"] * 50]
        assert line.close_code == 4000


async def test_messages_of_the_line_before_are_not_counted_on_this_one(tmp_path: Path) -> None:
    async with own_front(tmp_path, Talker) as served, client(served, "/Talker/a") as back:
        await back.until(lambda: len(back.received) == 50)
        await until(lambda: len(served.front.sockets) == 1)
        (socket,) = served.front.sockets
        # What came on a line before this one is on disk only now.
        socket.settled()
        assert socket.to_pass() is not None


async def test_a_drain_reads_no_more_from_one_whose_messages_come_to_disk(tmp_path: Path) -> None:
    async with own_front(tmp_path, Talker) as served, served.connect("/Talker/a") as plain:
        await plain.recv()
        await until(lambda: len(served.front.sockets) == 1)
        (socket,) = served.front.sockets
        for _ in range(1000):
            socket.taken()
        assert not socket._transport.is_reading()
        served.front.draining = True
        for _ in range(1000):
            socket.settled()
        assert not socket._transport.is_reading()
        served.front.draining = False
        socket.pause(False)
        await plain.send("and on")
        while await plain.recv() != "and on":
            pass
