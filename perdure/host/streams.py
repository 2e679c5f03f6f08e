"""Handlers that stream: async generators whose items leave one by one, each when it is durable.

The generator runs in its object like other code. Each item is a command of the turn that made it:
`Yielded` for a call from outside, a message for a call of another object. So nothing a client gets
was not in the journal before, and a client that lost its line finds what it missed there
(following.py). Nobody who stops listening stops the handler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from perdure.host.task import Future
from perdure.journal.entry import PICKLE, Call, Item, Sent, Yielded
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.machine import Machine


class Streamed:
    """What an object remembers of a call from outside that streams, while it can be asked for."""

    __slots__ = ("count", "expires", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        """The turn it began in: its items stand in entries from there on."""
        self.count = 0
        self.expires = 0
        """When it is forgotten; 0 while it runs."""


# --- a handler that streams


def begin(machine: Machine, event: Call) -> None:
    """A call that streams begins."""
    if event.caller:
        return
    streamed = machine.streamed
    if streamed is None:
        streamed = machine.streamed = {}
    for id_ in [id_ for id_, one in streamed.items() if 0 < one.expires < machine.now_ns]:
        del streamed[id_]
    streamed[event.id] = Streamed(machine.seq)


def ended(machine: Machine, event: Call) -> None:
    """It has come to its end, and is remembered as long as its answer."""
    streamed = machine.streamed.get(event.id) if machine.streamed else None
    if streamed is not None:
        streamed.expires = machine.now_ns + event.keep_ns


async def drive(machine: Machine, event: Call, generator: AsyncGenerator[Any, None]) -> None:
    """Run a handler that streams, and give each of its items out."""
    index = 0
    try:
        async for item in generator:
            index += 1
            # The call as it is now: in a copy of the object it is another (forking.py).
            _give(machine, machine.call or event, index, item)
    finally:
        # An item that does not fit ends the loop while the generator still stands at its yield.
        await generator.aclose()


def _give(machine: Machine, event: Call, index: int, item: Any) -> None:
    handler = machine.kind.handlers.get(event.handler)
    body = b""
    if event.format == PICKLE:
        body = heap.dumps(handler.signature.check_result(item) if handler is not None else item)
    elif handler is not None:
        body = handler.signature.encode_result(item)
    if event.answer_to:
        machine.commands.append(Sent(event.caller, Item(event.answer_to, index, body)))
    elif not event.caller:
        machine.commands.append(Yielded(event.id, index, body))
        if machine.streamed and event.id in machine.streamed:
            machine.streamed[event.id].count = index


# --- one who asked another object for a stream


class Items:
    """The items of another object's stream, as they come; an async iterator."""

    __slots__ = ("_future", "_items", "_waiter")

    def __init__(self, future: Future) -> None:
        self._future = future
        """Done when the stream has ended."""
        self._items: deque[Any] = deque()
        self._waiter: Future | None = None
        future.add_done_callback(self._wake)

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._future.done():
                # What the handler raised is raised here.
                self._future.result()
                raise StopAsyncIteration
            waiter = self._waiter = Future(loop=self._future.get_loop())  # type: ignore[arg-type]
            try:
                await waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    async def aclose(self) -> None:
        """Listen no longer. The handler there is cancelled, if it still runs."""
        self._items.clear()
        self._future.cancel()
