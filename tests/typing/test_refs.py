"""Read by mypy and pyright alone: a ref has the type of its class, and wrong uses are errors."""

from __future__ import annotations

from typing import assert_type

import perdure
from perdure import Object, query


class Room(Object, hibernate_after=30.0):
    messages: list[str]

    def __init__(self) -> None:
        self.messages = []

    async def post(self, text: str, *, loud: bool = False) -> int:
        self.messages.append(text.upper() if loud else text)
        return len(self.messages)

    def count(self) -> int:
        return len(self.messages)

    @query
    async def read(self, last: int = 10) -> list[str]:
        return self.messages[-last:]


class Guest(Object, reentrant=False, atomic=True):
    home: Room | None = None

    async def move(self, key: str) -> None:
        # A ref can be kept like any value.
        self.home = Room.at(key)

    async def greet(self) -> int | None:
        if self.home is None:
            return None
        return await self.home.post("hello", loud=True)


async def refs() -> None:
    room = Room.at("lobby")
    assert_type(room, Room)
    assert_type(Room.new(), Room)
    assert_type(room.key, str)
    assert_type(room.address, str)
    assert_type(await room.post("hi"), int)
    assert_type(await Room.at("lobby").read(), list[str])
    assert_type(await Guest.at("ada").greet(), int | None)
    assert_type(Room.at("a") == Room.at("b"), bool)


async def wrong_refs() -> None:
    Room.at(1)  # type: ignore[arg-type]
    await Room.at("lobby").post(1)  # type: ignore[arg-type]
    await Room.at("lobby").post("hi", True)  # type: ignore[call-arg, misc, unused-ignore]
    await Room.at("lobby").leave()  # type: ignore[attr-defined]
    number: str = await Room.at("lobby").post("hi")  # type: ignore[assignment]
    print(number)


async def sends() -> None:
    room = Room.at("lobby")
    assert_type(await perdure.send(room.post, "hi"), str)
    assert_type(await perdure.send(room.post, "hi", loud=True), str)
    assert_type(await perdure.send(room.count), str)
    await perdure.delete(room)


async def wrong_sends() -> None:
    room = Room.at("lobby")
    await perdure.send(room.post)  # type: ignore[call-arg]
    await perdure.send(room.post, 1)  # type: ignore[arg-type]
    await perdure.send(room.post, "hi", loud="very")  # type: ignore[arg-type]
    await perdure.send(room.post("hi"))  # type: ignore[arg-type]


def wrong_options() -> None:
    class Hall(Object, hibernate_after="soon"):  # type: ignore[arg-type]
        pass

    print(Hall)


async def who_runs() -> None:
    running = perdure.current()
    assert_type(running.call_id, str | None)
    print(running.ref, running.caller, running.principal)
