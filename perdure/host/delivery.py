"""Events from inside on their way to objects: messages, timers, ends of steps, work that is owed.

They go through one queue, so that a chain of objects calling each other is a loop here and not a
recursion, and so that each pass of the event loop takes a bounded number and sockets get their
turn. Losing what is queued here loses nothing: a message is in the log's outbox until the entry
that takes it is durable, and what else is owed stands in the objects' own entries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from perdure.clock import NS
from perdure.errors import OperatorError, PerdureError, UnknownCall, UnknownKind
from perdure.failure import failure_of
from perdure.host import promises
from perdure.host.failures import encode_failure
from perdure.journal.codec import Message
from perdure.journal.entry import Call, Cancel, Event, Reply, Resolved
from perdure.journal.identity import oid_of, oid_of_target
from perdure.journal.log import source_of
from perdure.logs import logger
from perdure.ref import format_address, parse_address
from perdure.store.base import Stored

if TYPE_CHECKING:
    from perdure.host.host import Host


# Events in one pass of the loop, after which sockets get their turn again.
EVENTS_A_PASS = 256

RETRY_S = 0.5


class Delivery:
    """The queue of events from inside."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._events: deque[tuple[int, Event] | Message] = deque()
        self._running = False
        self._scheduled = False
        self._held: set[int] = set()
        """Objects that could not be read a moment ago: their messages stay in the outbox."""

    def event(self, oid: int, event: Event) -> None:
        """An event for an object of this partition, to be taken after those before it."""
        self._events.append((oid, event))
        self._schedule()

    def message(self, message: Message) -> None:
        """A message between objects; it is in the outbox already."""
        self._events.append(message)
        self._schedule()

    def all_messages(self) -> None:
        """Deliver everything that is in the outbox, as at a start."""
        self._events.extend(message for _, message in self._host.log.outbox.values())
        self._schedule()

    def hold(self, oid: int) -> None:
        """Deliver nothing to an object until it is taken up: a later message must not overtake
        those that came while it could not be read."""
        self._held.add(oid)

    def take_up(self, oid: int) -> None:
        """Give an object that is back what it is owed: its own work, and messages that wait."""
        self._held.discard(oid)
        for _, message in self._host.log.outbox.values():
            if oid_of_target(message.sent.to) == oid:
                self._events.append(message)
        self.wake(oid)
        self._schedule()

    def forget_messages(self) -> None:
        """Drop what is queued of messages: the outbox says which of them are still true."""
        self._events = deque(item for item in self._events if type(item) is not Message)

    def clear(self) -> None:
        """Drop everything that is queued."""
        self._events.clear()

    def _schedule(self) -> None:
        if self._events and not self._running and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._on_schedule)

    def _on_schedule(self) -> None:
        self._scheduled = False
        self.run()

    def run(self) -> None:
        """Take what is queued, up to a bound; the rest in the next pass of the loop."""
        if self._running or not self._events:
            return
        if self._host.log.refusing:
            if not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_later(RETRY_S, self._on_schedule)
            return
        self._running = True
        try:
            for _ in range(EVENTS_A_PASS):
                if not self._events or self._host.log.refusing:
                    break
                item = self._events.popleft()
                if type(item) is Message:
                    self._deliver(item)
                else:
                    oid, event = item  # type: ignore[misc]
                    self._hand(oid, event)
        finally:
            self._running = False
        self._schedule()

    # --- to an object that is known by its number alone

    def _hand(self, oid: int, event: Event) -> None:
        activation = self._host.find(oid)
        if activation is not None:
            activation.event(event)
        else:
            self.wake(oid, event)

    def wake(self, oid: int, event: Event | None = None) -> None:
        """Wake an object, and give it an event."""
        host = self._host
        stored = host.stash.get(oid)
        if stored is not None:
            self._woken(oid, event, stored)
            return
        future = host.store.load(host.log.part, oid)
        if future.done():
            # Nothing can be written before the object is built: it need not be read once more.
            self._loaded(oid, event, future, future)
        else:
            future.add_done_callback(lambda done: self._loaded(oid, event, done, None))

    def _loaded(
        self,
        oid: int,
        event: Event | None,
        future: asyncio.Future[Stored | None],
        read: asyncio.Future[Stored | None] | None,
    ) -> None:
        try:
            stored = future.result()
        except OperatorError as error:
            logger.warning("an object could not be read; it is tried again", error=str(error))
            asyncio.get_running_loop().call_later(RETRY_S, self.wake, oid, event)
            return
        self._woken(oid, event, stored, read)

    def _woken(
        self,
        oid: int,
        event: Event | None,
        stored: Stored | None,
        read: asyncio.Future[Stored | None] | None = None,
    ) -> None:
        host = self._host
        if host.quarantine.refusal(oid) is not None:
            return
        if stored is not None:
            kind, key = stored.row.kind, stored.row.key
        else:
            address = host.log.first_address(oid)
            if address is None:
                # Its first turn was taken back: there is no such object. Or there never was one,
                # and whoever sent a message to its number hears so.
                host.sleepers.remove(oid)
                self._no_such_object(event)
                return
            kind, key = parse_address(address)
        if kind not in host.kinds:
            logger.warning(
                "an object has work to do, but its class is not served",
                object=format_address(kind, key),
            )
            return
        activation = host.activate(kind, key, oid, read)
        if event is not None:
            activation.event(event)

    def _no_such_object(self, event: Event | None) -> None:
        """Whoever asked an object that is known by its number alone hears that there is none."""
        source = source_of(event)
        answer_to = getattr(event, "answer_to", 0)
        if source is None or not answer_to:
            return
        error: PerdureError
        if isinstance(event, Resolved):
            error = promises.unknown()
        else:
            error = UnknownCall("no object has that number: the id names nothing that was here")
        self._hand(source.oid, Reply(answer_to, False, encode_failure(failure_of(error)), source))

    # --- messages

    def _deliver(self, message: Message) -> None:
        host = self._host
        if self._held and oid_of_target(message.sent.to) in self._held:
            return
        if message.sent.to[0] == "#":
            oid = oid_of_target(message.sent.to)
            self._hand(oid, _with_retention(_with_source(message), host))
            return
        kind, key = parse_address(message.sent.to)
        if kind not in host.kinds:
            self._undeliverable(message, kind)
            return
        activation = host.at(kind, key)
        if activation is None:
            oid = oid_of(kind, key)
            if host.quarantine.refusal(oid) is not None:
                # It stays in the outbox, and is delivered when the object is back.
                return
            activation = host.activate(kind, key, oid)
        activation.event(_with_source(message))

    def _undeliverable(self, message: Message, kind: str) -> None:
        event = message.sent.event
        if isinstance(event, Call) and event.answer_to:
            # Returned to the sender, which takes the message out of the outbox with its own entry.
            error = UnknownKind(f"no class {kind!r} is served here")
            reply = Reply(event.answer_to, False, encode_failure(failure_of(error)), message.source)
            self._hand(message.source.oid, reply)
            return
        logger.warning("a message waits: its class is not served", to=message.sent.to)


def _with_source(message: Message) -> Event:
    """The event as its receiver has it: with the name by which it is taken only once."""
    return msgspec.structs.replace(message.sent.event, source=message.source)


def _with_retention(event: Event, host: Host) -> Event:
    """What becomes of a cancelled call can be asked for, as long as this host's settings say."""
    if type(event) is Cancel:
        keep_ns = int(host.settings.call_retention * NS)
        return msgspec.structs.replace(event, keep_ns=keep_ns)
    return event
