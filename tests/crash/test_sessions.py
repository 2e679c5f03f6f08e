"""Sockets and kill -9: who is lost is told once, and who comes back misses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.crash.conftest import Server, wait_until
from tests.crash.kills import kills, seeded
from tests.sessions.resuming import ResumeClient

pytestmark = [pytest.mark.crash]

PATIENCE_S = 120.0


def url(server: Server, key: str = "a") -> str:
    return f"ws://127.0.0.1:{server.port}/Room/{key}"


def read(server: Server, key: str = "a") -> Any:
    return server.call(f"/Room/{key}/read")


@pytest.mark.parametrize("checkpointed", [False, True])
def test_each_lost_connection_is_told_once(serve: Any, checkpointed: bool) -> None:
    options = ("--resume-grace", "1", "--checkpoint-seconds", "0.2" if checkpointed else "600")
    server = serve("room.py", *options)
    server.start()

    async def connected() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for key in "abc":
                for protocol in (None, ["perdure.v1"]):
                    for _ in range(3):
                        line = connect(url(server, key), subprotocols=protocol)  # type: ignore[arg-type]
                        await stack.enter_async_context(line)
            async with connect(url(server, "left")) as gone:
                await gone.send("bye")
            if checkpointed:
                await asyncio.sleep(1)
            server.kill()

    asyncio.run(connected())
    for life in range(2):
        server.start()
        for key in "abc":

            def all_told(key: str = key) -> bool:
                found = read(server, key)
                return len(found["left"]) >= 6 and not found["there"]

            wait_until(all_told, "each end is told")
            found = read(server, key)
            assert sorted(found["left"]) == sorted(found["joined"]), life
            # Those that could not come back were told at once, the others later.
            assert found["left"] == ["c1", "c2", "c3", "c4", "c5", "c6"]
        assert read(server, "left")["left"] == ["c1"]
        server.kill()


def test_a_stop_closes_with_1012_and_the_next_start_goes_on(serve: Any) -> None:
    server = serve("room.py")
    server.start()

    async def run() -> None:
        async with ResumeClient(url(server)) as one, connect(url(server)) as plain:
            await one.send("before")
            await one.until(lambda: one.received)
            assert await asyncio.to_thread(server.stop) == 0
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await plain.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await one.send("while nobody listens")
            await asyncio.to_thread(server.start)
            await one.until(lambda: len(one.received) == 2)
            assert one.lives == 2
            found = await asyncio.to_thread(read, server)
            assert found["there"] == [one.id]
            assert found["left"] == ["c2"]

    asyncio.run(run())


def _in_a_room(server: Server, clients: int, messages: int, count: int) -> None:
    """Clients that talk while the server is killed end with one and the same history."""
    chance = seeded("sessions")

    async def run() -> None:
        room = [ResumeClient(url(server)) for _ in range(clients)]
        for at in range(0, clients, 50):
            await asyncio.gather(*(one.__aenter__() for one in room[at : at + 50]))

        async def talk(number: int) -> None:
            await asyncio.sleep(chance.random() * 3)
            await room[number].send(f"{number}")

        async def kill() -> None:
            for _ in range(count):
                await asyncio.sleep(chance.random() * 1.5)
                if chance.random() < 0.3:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                else:
                    server.kill_worker()
                await asyncio.to_thread(server.wait_ready)

        talkers = chance.sample(range(clients), messages)
        await asyncio.gather(*(talk(number) for number in talkers), kill())
        async with asyncio.timeout(PATIENCE_S):
            for one in room:
                await one.until(lambda one=one: len(one.received) >= messages)
        found = await asyncio.to_thread(read, server)
        assert sorted(found["lines"]) == sorted(map(str, talkers))
        for one in room:
            assert one.received == found["lines"]
            assert not one.unacknowledged
        assert found["left"] == []
        assert sorted(found["there"]) == sorted(one.id for one in room)
        assert sum(one.lives for one in room) > clients
        for one in room:
            await one.__aexit__()

    asyncio.run(run())


def test_clients_in_a_room_survive_kills(serve: Any) -> None:
    server = serve("room.py", "--resume-grace", "60", "--checkpoint-bytes", "50000")
    server.start()
    _in_a_room(server, clients=20, messages=15, count=kills(4))


@pytest.mark.slow
def test_five_hundred_clients_in_a_room_survive_kills(serve: Any) -> None:
    server = serve("room.py", "--resume-grace", "120", "--checkpoint-bytes", "200000")
    server.start()
    _in_a_room(server, clients=500, messages=100, count=kills(6))
