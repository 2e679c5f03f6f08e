"""Those who listen to a call that streams: its first caller, and who comes back for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from perdure.errors import Conflict, PerdureError, UnknownCall
from perdure.host.incoming import Answer, IncomingCall, answer_of
from perdure.journal import codec
from perdure.journal.entry import Entry, Yielded
from perdure.journal.identity import oid_of_call

if TYPE_CHECKING:
    from perdure.host.host import Host

OnItem = Callable[[int, bytes], None]

_SEGMENTS_A_READ = 16


class ItemOutput:
    """The output that brings an item to one who listens."""

    __slots__ = ("command", "on_item")

    def __init__(self, on_item: OnItem, command: Yielded) -> None:
        self.on_item = on_item
        self.command = command

    def release(self, error: PerdureError | None) -> None:
        # On an error whoever waits for the call hears it as its answer.
        if error is None:
            self.on_item(self.command.index, self.command.body)


class _Follower:
    """One who comes back: first what was missed, from the journal, then what comes."""

    def __init__(self, after: int, on_item: OnItem, on_answer: Callable[[Answer], None]) -> None:
        self._last = after
        self._on_item = on_item
        self._on_answer = on_answer
        self._held: list[tuple[int, bytes]] | None = []
        """What came while the journal was read; None once that is done."""
        self._answer: Answer | None = None

    def item(self, index: int, body: bytes) -> None:
        if self._held is not None:
            self._held.append((index, body))
        elif index > self._last:
            self._last = index
            self._on_item(index, body)

    def answer(self, answer: Answer) -> None:
        if self._held is not None:
            self._answer = answer
        else:
            self._on_answer(answer)

    def caught_up(self, missed: list[tuple[int, bytes]]) -> None:
        held, self._held = self._held or [], None
        for index, body in (*missed, *held):
            self.item(index, body)
        if self._answer is not None:
            self._on_answer(self._answer)


async def follow(
    host: Host, call_id: str, after: int, on_item: OnItem, on_answer: Callable[[Answer], None]
) -> None:
    """Listen to a call that streams: its items behind number `after`, then its answer.

    Raises UnknownCall, and Conflict where items that were missed are no longer kept.
    """
    activation = await host.wake(oid_of_call(call_id))
    machine = activation.machine if activation is not None else None
    streamed = (machine.streamed or {}).get(call_id) if machine is not None else None
    if activation is None or machine is None or streamed is None:
        raise UnknownCall(f"no call {call_id!r} that streams is known")
    follower = _Follower(after, on_item, on_answer)
    kept = (machine.kept or {}).get(call_id)
    if kept is not None and kept.answer is not None:
        follower.answer(answer_of(kept.answer))
    else:
        # From here on, so that nothing falls between the journal and what comes.
        host.listeners.setdefault(call_id, []).append(follower.item)
        host.watch(call_id, follower.answer)
    count, lsn = streamed.count, activation.last_lsn
    missed: list[tuple[int, bytes]] = []
    if after < count:
        async for entry in entries(host, machine.oid, machine.address, streamed.first - 1):
            for command in entry.commands:
                if type(command) is Yielded and command.id == call_id and command.index > after:
                    missed.append((command.index, command.body))
            if missed and missed[-1][0] >= count:
                break
    # What was read of the log's end leaves when it is on disk.
    await host.log.durable(lsn)
    if len(missed) < count - after:
        raise Conflict(
            f"items {after + 1} to {count} of call {call_id!r} are no longer kept",
            hint="The class's history is dropped; begin the stream anew.",
        )
    follower.caught_up(missed)


async def entries(host: Host, oid: int, address: str, after: int) -> AsyncIterator[Entry]:
    """An object's entries behind turn `after`, from its history and from the log's tail."""
    seen = after
    while segments := await host.store.history(host.log.part, oid, seen, _SEGMENTS_A_READ):
        for segment in segments:
            place = f"history of {address}, turns {segment.first} to {segment.last}"
            for _, entry in codec.read_entries(segment.body, place):
                if entry.seq > seen:
                    seen = entry.seq
                    yield entry
    for body in host.log.entries_of(oid):
        entry = codec.decode_entry(body)
        if entry.seq > seen:
            yield entry


async def take_up(host: Host, call: IncomingCall) -> None:
    """The same call again, by its idempotency key: the stream from where the client wants it."""
    assert call.on_item is not None
    try:
        await follow(host, call.id, call.after, call.on_item, call.on_answer)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        call.refuse(error)
