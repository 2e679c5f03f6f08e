"""Clients with sockets in a world: slow lines, lines that break, and processes that end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import Connection, Object, Reject, query
from perdure.testing import World


class Room(Object):
    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_connect(self, conn: Connection) -> None:
        if conn.query.get("name") == "eve":
            raise Reject("not you")
        self.log.append(f"+{conn.query.get('name')}")

    async def on_message(self, conn: Connection, text: str) -> None:
        self.log.append(text)
        self.broadcast(f"{conn.query.get('name')}: {text}")

    async def on_disconnect(self, conn: Connection) -> None:
        self.log.append(f"-{conn.query.get('name')}")

    @query
    async def read(self) -> list[str]:
        return self.log


async def test_clients_talk_through_an_object(world: World) -> None:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, name="ada")
    grace = await world.connect(room, name="grace")
    await ada.send("hello")
    assert await grace.receive() == "ada: hello" == await ada.receive()
    await world.hibernate(room)
    await grace.send("hi")
    assert await ada.receive() == "grace: hi"
    await ada.close()
    await world.settle()
    assert await room.read() == ["+ada", "+grace", "hello", "hi", "-ada"]
    assert ada.closed == (1000, "")
    with pytest.raises(ConnectionError, match="the line has ended"):
        await ada.send("still there?")


async def test_who_is_refused_is_told(world: World) -> None:
    with pytest.raises(ConnectionError, match=r"refused with 403.*not you"):
        await world.connect(world.at(Room, "lobby"), name="eve")


async def test_a_slow_line_takes_its_time(world: World) -> None:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, name="ada", delay=timedelta(seconds=3))
    before = world.now
    await ada.send("hello")
    assert await ada.receive() == "ada: hello"
    assert world.now - before == timedelta(seconds=6)


async def test_a_line_that_breaks_loses_what_is_on_its_way(world: World) -> None:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, name="ada", delay=timedelta(seconds=3))
    await ada.send("lost")
    await ada.drop()
    await world.advance(timedelta(minutes=5))
    assert await room.read() == ["+ada", "-ada"]
    assert (ada.received, ada.closed) == ([], (1006, ""))


async def test_one_that_resumes_misses_nothing(world: World) -> None:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, resumes=True, name="ada")
    grace = await world.connect(room, name="grace")
    await ada.send("one")
    assert await ada.receive() == "ada: one"
    await ada.drop()
    await grace.send("two")
    await ada.send("three")
    await world.settle()
    await ada.resume()
    await world.settle()
    assert ada.received == ["ada: one", "grace: two", "ada: three"]
    assert await room.read() == ["+ada", "+grace", "one", "two", "three"]


async def test_one_that_comes_back_too_late_is_gone(world: World) -> None:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, resumes=True, name="ada")
    await ada.drop()
    await world.advance(timedelta(minutes=10))
    with pytest.raises(ConnectionError, match="the connection is gone"):
        await ada.resume()
    assert (await room.read())[-1] == "-ada"


async def scenario(world: World) -> Any:
    room = world.at(Room, "lobby")
    ada = await world.connect(room, resumes=True, name="ada")
    for number in range(3):
        await ada.send(f"m{number}")
        while len(ada.received) <= number:
            if ada.closed is not None:
                await ada.resume()
            await asyncio.sleep(0.1)
    return ada.received, await room.read()


async def test_a_crash_anywhere_loses_no_message(world: World) -> None:
    def check(result: tuple[list[str], list[str]]) -> None:
        received, log = result
        assert received == ["ada: m0", "ada: m1", "ada: m2"]
        assert [line for line in log if line.startswith("m")] == ["m0", "m1", "m2"]

    sweep = await world.crash_everywhere(scenario, check=check, same=False)
    assert sweep.runs > 20


async def test_misuse_is_told(world: World) -> None:
    ada = await world.connect(world.at(Room, "lobby"), name="ada")
    with pytest.raises(TypeError, match="str or bytes"):
        await ada.send(3)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="cannot resume"):
        await ada.resume()
    with pytest.raises(TypeError, match="delay is a timedelta"):
        await world.connect(Room.at("x"), delay=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a ref is needed"):
        await world.connect("Room/lobby")
