"""A call from outside on its way to a turn, and the answer on its way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import PerdureError
from perdure.failure import Failure, failure_of
from perdure.host.failures import decode_failure
from perdure.journal.entry import JSON, Answered, Event
from perdure.kind import Handler, Kind
from perdure.serde import Arguments
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


class Answer(msgspec.Struct, frozen=True):
    """What a call came to. It may leave: what it rests on is durable."""

    call_id: str
    body: bytes
    """The result as JSON (pickled for a pickled call); empty if it failed."""
    failure: Failure | None
    replayed: bool = False
    """It is the remembered answer of an earlier call with the same idempotency key."""


def answer_of(answered: Answered, *, replayed: bool = False) -> Answer:
    """What a caller gets for the answer of a turn."""
    if answered.ok:
        return Answer(answered.id, answered.body, None, replayed)
    return Answer(answered.id, b"", decode_failure(answered.body), replayed)


# Structs, since one of each is made for every call: they cost a third of a class's __init__.
class IncomingCall(msgspec.Struct, eq=False):
    """One call from outside. `on_answer` is called exactly once, from the event loop.

    `body` are the bytes to journal, `args` the same decoded. With `idempotency_key` or `keep` the
    result stays to be asked for. `on_accepted` is called with the call's id once the call is on
    disk; if the call is refused, `on_answer` alone says so.
    """

    kind: Kind
    key: str
    handler: Handler
    args: Arguments
    body: bytes
    on_answer: Callable[[Answer], None]
    format: int = JSON
    principal: Any = None
    idempotency_key: str | None = None
    keep: bool = False
    on_accepted: Callable[[str], None] | None = None
    on_item: Callable[[int, bytes], None] | None = None
    """Of a handler that streams: called with each item's number (from 1) and body."""
    after: int = 0
    """The last item that the caller has, of a call with the same idempotency key before."""
    deadline_ns: int = 0
    """When it is cancelled if it has not ended; 0: never."""
    id: str = ""
    lsn: int = 0
    """The chunk its first entry is in."""
    answer: Answer | None = None
    items: list[bytes] | None = None
    """Those of a query that streams: they are there at once."""

    def enter(self, activation: Activation) -> Event | None:
        """The event for its turn, of what is no call but comes in as one does (lines.py); None if
        it needs none, or was refused."""
        raise NotImplementedError

    def refuse(self, error: BaseException) -> None:
        """Answer with an error; nothing ran, or nothing of it is left."""
        self.on_answer(Answer(self.id, b"", failure_of(error)))

    # --- as an output behind the gate (journal/log.py)

    def release(self, error: PerdureError | None) -> None:
        """The entry behind the answer is durable, or (with an error) never will be."""
        if error is not None:
            self.refuse(error)
            return
        assert self.answer is not None
        if self.items is not None and self.on_item is not None:
            for index, body in enumerate(self.items, 1):
                self.on_item(index, body)
        self.on_answer(self.answer)


class LateAnswer:
    """The output that answers a call in a later turn than the one that took it in."""

    __slots__ = ("call", "host")

    def __init__(self, call: IncomingCall, host: Host) -> None:
        self.call = call
        self.host = host

    def release(self, error: PerdureError | None) -> None:
        call = self.call
        if error is None or call.lsn > self.host.log.tail:
            call.release(error)
            return
        # The turn that answered it is lost, but not the call: it goes on, and so does the wait.
        # Its caller must not hear that nothing of it was kept.
        call.answer = None
        self.host.waiting[call.id] = call


class Acceptance:
    """The output that tells a caller its call is on disk, while the call still runs."""

    __slots__ = ("call",)

    def __init__(self, call: IncomingCall) -> None:
        self.call = call

    def release(self, error: PerdureError | None) -> None:
        # On an error the call itself is refused, by whoever holds it as waiting.
        if error is None and self.call.on_accepted is not None:
            self.call.on_accepted(self.call.id)


class Watched:
    """The output of somebody who watches a call."""

    __slots__ = ("answer", "on_answer")

    def __init__(self, on_answer: Callable[[Answer], None], answer: Answer) -> None:
        self.on_answer = on_answer
        self.answer = answer

    def release(self, error: PerdureError | None) -> None:
        if error is not None:
            self.on_answer(Answer(self.answer.call_id, b"", failure_of(error)))
        else:
            self.on_answer(self.answer)


def pickled_principal(principal: Any) -> bytes:
    """Who is calling, as the journal has it. Raises NotSerializable."""
    return heap.dumps(principal, "the principal") if principal is not None else b""
