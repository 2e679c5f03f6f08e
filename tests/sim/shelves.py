"""The classes of the simulated world: objects that keep tokens.

A token stands for one effect of one call at one object. Whatever a handler does on its way (sleeps,
calls, sends, steps, timers, tasks), it ends in tokens, and each is to be there exactly once if its
call was acknowledged, and not at all if the call was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import perdure
from perdure import (
    Fatal,
    Limit,
    Object,
    OutcomeUnknown,
    Retry,
    atomic,
    query,
    step,
    step_id,
    step_items,
)
from perdure.ref import Ref, parse_address


class Outside:
    """What steps reach: it remembers each run, and fails as often as it is told to."""

    def __init__(self, gate: Callable[[str], None]) -> None:
        self.gate = gate
        """Called with the step id before anything happens: raises if that must not run yet."""
        self.runs: dict[str, int] = {}
        self.left_to_fail: dict[int, int] = {}

    async def work(self, token: int, seconds: float, fails: int) -> int:
        id_ = step_id()
        self.gate(id_)
        self.runs[id_] = self.runs.get(id_, 0) + 1
        await asyncio.sleep(seconds)
        left = self.left_to_fail.setdefault(token, fails)
        if left > 0:
            self.left_to_fail[token] = left - 1
            raise ConnectionError(f"try {left} more times")
        if left < 0:
            raise Fatal("never")
        return token


_outside: list[Outside] = []


def outside_is(outside: Outside) -> None:
    _outside[:] = [outside]


@step(retry=Retry(attempts=5, initial=0.3, max_delay=2))
async def work(token: int, seconds: float, fails: int) -> int:
    return await _outside[0].work(token, seconds, fails)


@step(retry=Retry(attempts=2, initial=0.1), timeout=3)
async def short_work(token: int, seconds: float, fails: int) -> int:
    return await _outside[0].work(token, seconds, fails)


@step(retry=Retry(attempts=4, initial=0.2))
async def pieces(tokens: list[int], seconds: float) -> AsyncIterator[tuple[int, bytes]]:
    """Each token, and every third as large as a blob. It fails now and then."""
    outside = _outside[0]
    outside.gate(step_id())
    for number in range(len(step_items()), len(tokens)):
        await asyncio.sleep(seconds)
        left = outside.left_to_fail.setdefault(tokens[0], 2)
        if left > 0 and number == left:
            outside.left_to_fail[tokens[0]] = left - 1
            raise ConnectionError("cut off")
        yield tokens[number], bytes(100_000 if tokens[number] % 3 == 0 else 10)


@step(repeat=False, limit=Limit(concurrency=2, key=lambda: "all"))
async def once(token: int, seconds: float) -> int:
    outside = _outside[0]
    outside.gate(step_id())
    assert step_id() not in outside.runs, "it was begun a second time"
    outside.runs[step_id()] = 1
    await asyncio.sleep(seconds)
    return token


def at(address: str) -> Shelf:
    return cast(Shelf, Ref(*parse_address(address)))


class Shelf(Object):
    """Keeps tokens, and does everything an object may do on the way to them."""

    tokens: list[int] = []
    fired: list[tuple[int, int, int]] = []
    """(token, due, now) of timers, in nanoseconds."""
    marks: set[int] = set()
    gate: asyncio.Event | None = None

    @query
    async def read(self) -> list[int]:
        return self.tokens

    @query
    async def read_fired(self) -> list[tuple[int, int, int]]:
        return self.fired

    # --- at once

    async def put(self, token: int) -> int:
        self.tokens.append(token)
        return len(self.tokens)

    def put_plainly(self, token: int) -> int:
        self.tokens.append(token)
        return len(self.tokens)

    async def mark(self, token: int, number: int) -> list[int]:
        """The answer is in the order of the set, which follows from its whole past."""
        self.tokens.append(token)
        self.marks.add(number)
        if len(self.marks) > 12:
            self.marks.discard(next(iter(self.marks)))
        return list(self.marks)

    async def put_and_fail(self, token: int) -> None:
        self.tokens.append(token)
        raise ValueError("what was done stays done")

    @atomic
    async def undo(self, token: int, to: str) -> None:
        """Leaves nothing behind."""
        self.tokens.append(token)
        asyncio.get_running_loop().call_later(1, self.tokens.append, token)
        await perdure.send(at(to).put, token)
        raise ValueError("undone")

    async def much(self, token: int, size: int) -> str:
        """An answer that the journal does not keep whole."""
        self.tokens.append(token)
        return "x" * size + str(token)

    # --- waiting

    async def nap(self, token: int, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.tokens.append(token)
        return token

    async def nap_twice(self, token: int, seconds: float) -> int:
        async with asyncio.timeout(1e6):
            await asyncio.sleep(seconds / 2)
            await asyncio.wait_for(asyncio.sleep(seconds / 2), 1e6)
        self.tokens.append(token)
        return token

    async def later(self, token: int, seconds: float) -> None:
        loop: Any = asyncio.get_running_loop()
        timer = loop.call_later(seconds, lambda: None)
        timer.cancel()
        loop.call_later(seconds, self._fire, token, loop.now_ns + int(seconds * 1e9))

    def _fire(self, token: int, due: int) -> None:
        loop: Any = asyncio.get_running_loop()
        self.tokens.append(token)
        self.fired.append((token, due, loop.now_ns))

    async def background(self, token: int, seconds: float) -> None:
        """The call is answered before its task has ended."""
        asyncio.create_task(self.nap(token, seconds))  # noqa: RUF006 - the object holds it

    async def wait_for_gate(self, token: int) -> int:
        if self.gate is None:
            self.gate = asyncio.Event()
        await self.gate.wait()
        self.tokens.append(token)
        return token

    async def open_gate(self, token: int) -> None:
        self.tokens.append(token)
        if self.gate is not None:
            self.gate.set()
            self.gate = None

    # --- others

    async def pass_on(self, tokens: list[int], path: list[str]) -> int:
        """Put the first token here and the others at the objects of the path, by calls."""
        self.tokens.append(tokens[0])
        if path:
            return 1 + await at(path[0]).pass_on(tokens[1:], path[1:])
        return 1

    async def send_on(self, tokens: list[int], path: list[str]) -> None:
        self.tokens.append(tokens[0])
        if path:
            await perdure.send(at(path[0]).send_on, tokens[1:], path[1:])

    async def fan_out(self, tokens: list[int], to: list[str], seconds: float) -> int:
        calls = [at(one).nap(token, seconds) for token, one in zip(tokens[1:], to, strict=True)]
        found = await asyncio.gather(*calls)
        self.tokens.append(tokens[0])
        return sum(found)

    async def burst(self, tokens: list[int], to: str) -> None:
        """Messages to one object arrive in the order in which they were sent."""
        for token in tokens:
            await perdure.send(at(to).put, token)

    async def give_up(self, tokens: list[int], to: str, seconds: float) -> bool:
        """The call goes on there, whether anybody waits here or not."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(at(to).nap(tokens[1], 2.0))
        except TimeoutError:
            pass
        finally:
            self.tokens.append(tokens[0])
        return True

    async def call_off(self, tokens: list[int], to: str, seconds: float) -> bool:
        """The call is cancelled there, and has something to undo; or it was over before."""
        try:
            async with asyncio.timeout(seconds):
                await at(to).nap_or_undo(tokens[1], 2.0)
        except TimeoutError:
            pass
        finally:
            self.tokens.append(tokens[0])
        return True

    async def nap_or_undo(self, token: int, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(seconds / 4)
            raise
        finally:
            self.tokens.append(token)

    # --- the outside

    async def work(self, token: int, seconds: float, fails: int) -> int:
        found = await work(token, seconds, fails)
        self.tokens.append(found)
        return found

    async def work_much(self, tokens: list[int], seconds: float) -> int:
        found = await asyncio.gather(*(work(token, seconds, 1) for token in tokens))
        self.tokens.extend(found)
        return len(found)

    async def give_up_work(self, token: int, seconds: float, patience: float) -> None:
        try:
            await asyncio.wait_for(short_work(token, seconds, 0), patience)
        except (TimeoutError, Fatal):
            pass
        finally:
            self.tokens.append(token)

    async def stream(self, tokens: list[int], seconds: float) -> None:
        async for token, _ in pieces(tokens, seconds):
            await asyncio.sleep(0.01)
            self.tokens.append(token)

    async def leave_stream(self, tokens: list[int], seconds: float) -> None:
        async for token, _ in pieces(tokens, seconds):
            self.tokens.append(token)
            if token == tokens[1]:
                break

    async def once(self, token: int, seconds: float) -> None:
        try:
            await once(token, seconds)
        except OutcomeUnknown:
            pass
        self.tokens.append(token)

    # --- the end

    async def delete_other(self, token: int, to: str) -> None:
        await perdure.delete(at(to))
        self.tokens.append(token)


class Vault(Shelf, reentrant=False):
    """One call at a time."""


class Brief(Shelf, hibernate_after=1.0):
    """Seldom in memory."""


class Slow(Shelf):
    """Takes its time to come into being."""

    async def on_create(self) -> None:
        await asyncio.sleep(0.5)
        await perdure.send(Shelf.at("births").put, int(self.key))


class Leaf(Object):
    """Is deleted now and then; the model knows what may be in it."""

    tokens: list[int] = []

    async def put(self, token: int) -> list[int]:
        self.tokens.append(token)
        return self.tokens

    async def put_late(self, token: int, seconds: float) -> list[int]:
        await asyncio.sleep(seconds)
        self.tokens.append(token)
        return self.tokens

    @query
    async def read(self) -> list[int]:
        return self.tokens


CLASSES = (Shelf, Vault, Brief, Slow, Leaf)
