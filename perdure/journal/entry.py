"""The vocabulary of the journal: what comes in (events) and what a turn asks for (commands).

One frozen class a kind. They are written as msgpack arrays with a tag, so a field may be added at
the end with a default, a new kind may be added with a new tag, and nothing may be removed,
renamed or moved: journals of every release stay readable (tests/golden).
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

JSON = 0
"""The body is JSON as it came over HTTP."""
PICKLE = 1
"""The body was pickled by an object or a program of the same app (suspend/heap.py)."""
HTTP = 2
"""The body is a whole HTTP request for `on_request` (host/raw_requests.py)."""
UPLOAD = 3
"""The same, but its own body has not come whole: what has is in it, the rest comes as Pieces."""
TEXT = 16
"""The call is a hook of a connection (host/sessions.py), and the body the text of its message."""
BINARY = 17
"""The same, and the body is its bytes."""

RULES = 1
"""How turns run now; a replayed turn runs by the rules that its entry names.

1: a call that nobody awaits any more is cancelled where it runs; what becomes of a call whose code
   was cancelled is CallCancelled; a send that failed leaves the failure in its answer.
"""

BODY_KEPT_MAX = 1024
"""An answer longer than this is recorded by its length and checksum: replay gives it again."""

ARGUMENTS_KEPT_MAX = 64 * 1024
"""The same for the arguments of a step. Shorter ones are kept for whoever reads the journal."""


class MessageId(msgspec.Struct, array_like=True, frozen=True):
    """Names a message between objects for ever: command `index` of turn `seq` of the sender."""

    oid: int
    seq: int
    index: int


# --- events: what comes in, one a turn


class Call(msgspec.Struct, array_like=True, frozen=True, tag="call"):
    """Somebody calls a handler."""

    id: str
    handler: str
    format: int
    body: bytes
    """The arguments: the bytes that came in."""
    caller: str = ""
    """Address of the calling object; empty for a call from outside."""
    principal: bytes = b""
    """What `authorize` returned, pickled; empty for None."""
    keep_ns: int = 0
    """How long the result stays to be asked for by the id; 0: not at all."""
    digest: int = 0
    """Checksum of the arguments of a call with an idempotency key, to refuse others under it."""
    answer_to: int = 0
    """The caller's number for it, by which its Reply is known; 0: a send, nobody waits."""
    source: MessageId | None = None
    schedule: str = ""
    """The schedule of this object that made the call; empty for a call that somebody made."""
    due_ns: int = 0
    """When the schedule meant it to be."""
    deadline: int = 0
    """When the call is cancelled if it has not ended, in nanoseconds; 0: it may take its time."""


class Reply(msgspec.Struct, array_like=True, frozen=True, tag="reply"):
    """The answer to a call this object made."""

    number: int
    ok: bool
    body: bytes
    """A pickled result, or a Failure as JSON."""
    source: MessageId | None = None


class Item(msgspec.Struct, array_like=True, frozen=True, tag="next"):
    """An item of a stream that this object asked another one for."""

    number: int
    index: int
    """From 1."""
    body: bytes
    """Pickled."""
    source: MessageId | None = None


class Fired(msgspec.Struct, array_like=True, frozen=True, tag="fired"):
    """It is time: every timer that is due by the entry's time fires."""

    limit: int = 0
    """At most so many timers, the earliest; 0: all of them."""
    now_ns: int = 0
    """What the clock shows, which may be behind the entry's time where it was set back. No timer
    of a later moment fires; 0: it shows the entry's time."""


class StepDone(msgspec.Struct, array_like=True, frozen=True, tag="step"):
    """An attempt of a step has ended."""

    number: int
    ok: bool
    body: bytes
    """A pickled result, or a Failure as JSON with the exception pickled inside."""
    blob: str = ""
    """Where a body rests that is too large for the journal; `body` is empty then."""


class StepBegun(msgspec.Struct, array_like=True, frozen=True, tag="begun"):
    """An attempt that must not be repeated is about to begin: from here on it may have happened."""

    number: int


class StepItem(msgspec.Struct, array_like=True, frozen=True, tag="gave"):
    """A streaming step has given an item."""

    number: int
    index: int
    """From 0, over all attempts of the step."""
    body: bytes
    """Pickled."""
    blob: str = ""
    """As in StepDone."""


class Started(msgspec.Struct, array_like=True, frozen=True, tag="started"):
    """A call that waited in the object's queue begins."""

    id: str


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """The host takes a call out of the object's queue and answers it with a failure."""

    id: str
    failure: bytes


class Ended(msgspec.Struct, array_like=True, frozen=True, tag="ended"):
    """The object is deleted."""

    answer_to: int = 0
    caller: str = ""
    source: MessageId | None = None


class Skipped(msgspec.Struct, array_like=True, frozen=True, tag="skipped"):
    """An operator had an event set aside: it counts as delivered, and nothing ran."""

    what: str
    """`call`, `timer` or `connect`."""
    source: MessageId | None = None
    answer_to: int = 0
    caller: str = ""


class Resolved(msgspec.Struct, array_like=True, frozen=True, tag="resolved"):
    """Somebody resolves or rejects a promise of this object."""

    token: str
    ok: bool
    format: int
    body: bytes
    """The value; if not ok, a Failure as JSON."""
    caller: str = ""
    answer_to: int = 0
    source: MessageId | None = None


class Tick(msgspec.Struct, array_like=True, frozen=True):
    """A schedule that a class declares: what `@every` or `@cron` says of a handler."""

    id: str
    handler: str
    every_ns: int = 0
    cron: str = ""
    tz: str = "UTC"
    missed: str = "once"
    window_ns: int = -1
    """How late a tick may be; -1: not said."""


class Timetable(msgspec.Struct, array_like=True, frozen=True, tag="timetable"):
    """From now on these are the schedules that the object's class declares for it."""

    ticks: list[Tick]


class Connected(msgspec.Struct, array_like=True, frozen=True, tag="connected"):
    """A client wants to be connected."""

    id: str
    """Of the call that `on_connect` is."""
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    principal: bytes = b""
    subprotocols: list[str] = []
    """What the client offers, without those that are the gateway's own."""
    resumable: bool = False
    """It speaks the resume protocol."""


class Received(msgspec.Struct, array_like=True, frozen=True, tag="received"):
    """A message of a connection."""

    conn: str
    body: bytes
    text: bool
    number: int = 0
    """Of a connection that can be resumed, the place of the message: 1, 2, 3 …"""


class Disconnected(msgspec.Struct, array_like=True, frozen=True, tag="disconnected"):
    """A connection has ended, or its line was lost and nobody came back."""

    conn: str
    code: int
    reason: str = ""
    silent: bool = False
    """Without `on_disconnect`: it has ended the process, and an operator has skipped it."""


class Piece(msgspec.Struct, array_like=True, frozen=True, tag="piece"):
    """More of the body of an HTTP request, whose call was taken in when its head was there."""

    id: str
    """The call."""
    body: bytes
    number: int
    """Its place: 1, 2, 3 … One that leaves a gap does not count."""
    end: str = ""
    """`whole`: the body is complete. `gone`: its client has left, or was lost, and the body stays
    as it is. `silent`: the same, and the handler is not told: that has ended the process, and an
    operator has skipped it. Empty: more comes."""


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag="cancel"):
    """Somebody wants a call of this object to end before it has a result."""

    id: str
    keep_ns: int = 0
    """How long what becomes of it stays to be asked for; filled in where it is received."""
    again: bool = False
    """Raise it in code that has been told already, and goes on."""
    answer_to: int = 0
    caller: str = ""
    source: MessageId | None = None


class Repaired(msgspec.Struct, array_like=True, frozen=True, tag="repaired"):
    """An operator has changed something by hand."""

    what: str
    """`step`, `fail-step`, `attribute` or `call` (host/repairing.py)."""
    target: str
    """The step's number, the attribute's name, the call's id."""
    body: bytes
    """The new value, pickled; a Failure as JSON."""
    by: str
    why: str


class Upgraded(msgspec.Struct, array_like=True, frozen=True, tag="upgraded"):
    """The object goes over to the version of the code that this entry names."""

    before: str
    """The version it was on."""


class Forked(msgspec.Struct, array_like=True, frozen=True, tag="forked"):
    """The turns before are those of another object; from here on this one goes on by itself.

    What it asks of the outside is kept back until it is released.
    """

    origin: str
    """The address of that object."""
    address: str
    """Its own."""
    asked: list[Sent] = []
    """Calls of the origin that had no answer: it makes them itself when it is released."""


class Released(msgspec.Struct, array_like=True, frozen=True, tag="released"):
    """A copy may reach the outside from here on: what was kept back is asked for."""


Event = (
    Call
    | Started
    | Reply
    | Item
    | Fired
    | StepDone
    | StepBegun
    | StepItem
    | Refused
    | Ended
    | Skipped
    | Resolved
    | Timetable
    | Cancel
    | Upgraded
    | Repaired
    | Connected
    | Received
    | Disconnected
    | Piece
    | Forked
    | Released
)


# --- commands: what a turn asks of the outside, in order


class Answered(msgspec.Struct, array_like=True, frozen=True, tag="answer"):
    """The result of a call from outside."""

    id: str
    ok: bool
    body: bytes
    """JSON (or pickled, if the call was); a Failure as JSON if it failed; empty if left out."""
    size: int = 0
    checksum: int = 0
    """Of a body that was left out for its length."""


class Yielded(msgspec.Struct, array_like=True, frozen=True, tag="item"):
    """An item of a handler that streams, called from outside. Whoever comes back for items that
    it missed gets them from here."""

    id: str
    """The call."""
    index: int
    """From 1."""
    body: bytes
    """JSON (or pickled, if the call was)."""


class Sent(msgspec.Struct, array_like=True, frozen=True, tag="sent"):
    """A message to another object (or to itself). It is in the sender's outbox from here on."""

    to: str
    event: Call | Reply | Item | Ended | Resolved | Cancel
    """As the receiver will have it, but for the source."""


class StepAsked(msgspec.Struct, array_like=True, frozen=True, tag="ask"):
    """Run one attempt of a step."""

    number: int
    name: str
    """`module:qualname` of the function."""
    body: bytes
    """The arguments, pickled."""
    id: str
    attempt: int
    timeout_s: float
    """For this attempt; 0: none."""
    once: bool = False
    """Never tried a second time by itself: `repeat=False`."""
    size: int = 0
    checksum: int = 0
    """Of arguments that were left out for their length: a replay gives them again."""


class StepDropped(msgspec.Struct, array_like=True, frozen=True, tag="drop"):
    """Nobody waits for a step any more; it may be cancelled."""

    number: int


class Promised(msgspec.Struct, array_like=True, frozen=True, tag="promised"):
    """A promise is open from now on."""

    token: str
    of: str
    """The name of the type of its value."""
    until_ns: int
    """When it ends by itself; 0: never."""
    address: str
    """Of the object, so that an entry alone is enough to list the promise."""


class Settled(msgspec.Struct, array_like=True, frozen=True, tag="settled"):
    """A promise is no longer open: resolved, rejected, timed out, withdrawn, or its object gone."""

    token: str


class Planned(msgspec.Struct, array_like=True, frozen=True, tag="planned"):
    """When a schedule is due next. It follows from time zones, whose rules change: so a replay
    takes it from here, and does not work it out again."""

    id: str
    next_ns: int
    """0: never again."""
    runs_ns: int = 0
    """The tick that runs in this turn; 0: none."""


class Framed(msgspec.Struct, array_like=True, frozen=True, tag="frame"):
    """A message to one connection."""

    conn: str
    body: bytes
    text: bool
    size: int = 0
    checksum: int = 0
    """Of a body that was left out for its length, where nobody can ask for it again."""


class Broadcast(msgspec.Struct, array_like=True, frozen=True, tag="broadcast"):
    """A message to many connections."""

    body: bytes
    text: bool
    to: list[str] | None = None
    """These; None: all that are open."""
    but: list[str] = []
    """Without these."""
    size: int = 0
    checksum: int = 0


class Closed(msgspec.Struct, array_like=True, frozen=True, tag="close"):
    """The object is done with a connection."""

    conn: str
    code: int
    reason: str = ""


Command = (
    Answered
    | Yielded
    | Sent
    | StepAsked
    | StepDropped
    | Promised
    | Settled
    | Planned
    | Framed
    | Broadcast
    | Closed
)


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One turn of one object: what came in, what went out."""

    seq: int
    time: int
    """Nanoseconds since 1970: what time it is inside the turn. Never less than the turn before."""
    version: str
    """The code that ran it (its bundle's name)."""
    event: Event
    commands: list[Command]
    wake_at: int = 0
    """When the object has something to do by itself: 0 never, 1 at once, else nanoseconds."""
    duration_us: int = 0
    address: str = ""
    """In the first turn of an object's life; it is then that a row can be made for it."""
    undone: bool = False
    """An atomic call that raised: nothing of it but the answer is left, and replay skips it."""
    reloaded: bool = False
    """The memory that the turn found had just come from bytes, and holds sets: they are walked in
    another order than before, so a replay that comes from further back goes through bytes here."""
    rules: int = 0
    """By which of the RULES below it ran; 0 in journals of schema 1."""
    connections: int = 0
    """How many clients are there after the turn, of whom the object has to hear when they are lost:
    open connections, and those that still send the body of their request."""
    indexed: dict[str, bytes] | None = None
    """All values of the object's Indexed attributes, where one is another than before the turn, in
    the bytes of indexed.py. They follow from the memory, so no replay compares them."""
    chance: bytes = b""
    """What its chance was derived from, in an entry that was copied out of another object or
    store: there it follows from a secret that is not known here."""


def shortened(answered: Answered) -> Answered:
    """A long answer as an entry keeps it: its length and checksum."""
    return Answered(answered.id, answered.ok, b"", len(answered.body), zlib.crc32(answered.body))


def without_arguments(asked: StepAsked) -> StepAsked:
    """A step with long arguments as an entry keeps it: their length and checksum."""
    size, checksum = len(asked.body), zlib.crc32(asked.body)
    return msgspec.structs.replace(asked, body=b"", size=size, checksum=checksum)


M = TypeVar("M", bound=Framed | Broadcast)


def shortened_message(message: M) -> M:
    """A long message to connections that cannot be resumed, as an entry keeps it."""
    body = message.body
    return msgspec.structs.replace(message, body=b"", size=len(body), checksum=zlib.crc32(body))
