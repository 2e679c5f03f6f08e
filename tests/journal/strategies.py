"""Entries, events and commands of every kind, at random; written by hand, field by field."""

from __future__ import annotations

from hypothesis import strategies as st

from perdure.journal.codec import Message
from perdure.journal.entry import (
    Answered,
    Broadcast,
    Call,
    Cancel,
    Closed,
    Command,
    Connected,
    Disconnected,
    Ended,
    Entry,
    Event,
    Fired,
    Forked,
    Framed,
    Item,
    MessageId,
    Piece,
    Planned,
    Promised,
    Received,
    Refused,
    Released,
    Repaired,
    Reply,
    Resolved,
    Sent,
    Settled,
    Skipped,
    Started,
    StepAsked,
    StepBegun,
    StepDone,
    StepDropped,
    StepItem,
    Tick,
    Timetable,
    Upgraded,
    Yielded,
)

OIDS = st.integers(0, 2**63 - 1)
CODES = st.integers(1000, 4999)
NUMBERS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=20)
BODIES = st.binary(max_size=64)
SOURCES = st.none() | st.builds(MessageId, OIDS, NUMBERS, st.integers(0, 2**31))

CALLS = st.builds(
    Call,
    id=TEXTS,
    handler=TEXTS,
    format=st.integers(0, 1),
    body=BODIES,
    caller=TEXTS,
    principal=BODIES,
    keep_ns=NUMBERS,
    digest=st.integers(0, 2**64 - 1),
    answer_to=NUMBERS,
    source=SOURCES,
    schedule=TEXTS,
    due_ns=NUMBERS,
)
REPLIES = st.builds(Reply, number=NUMBERS, ok=st.booleans(), body=BODIES, source=SOURCES)
ENDS = st.builds(Ended, answer_to=NUMBERS, caller=TEXTS, source=SOURCES)

ITEMS = st.builds(Item, number=NUMBERS, index=NUMBERS, body=BODIES, source=SOURCES)

RESOLUTIONS = st.builds(
    Resolved,
    token=TEXTS,
    ok=st.booleans(),
    format=st.integers(0, 1),
    body=BODIES,
    caller=TEXTS,
    answer_to=NUMBERS,
    source=SOURCES,
)
CANCELS = st.builds(
    Cancel,
    id=TEXTS,
    keep_ns=NUMBERS,
    again=st.booleans(),
    answer_to=NUMBERS,
    caller=TEXTS,
    source=SOURCES,
)
TICKS = st.builds(
    Tick,
    id=TEXTS,
    handler=TEXTS,
    every_ns=NUMBERS,
    cron=TEXTS,
    tz=TEXTS,
    missed=TEXTS,
    window_ns=st.integers(-1, 2**62),
)

EVENTS: dict[type[Event], st.SearchStrategy[Event]] = {
    Call: CALLS,
    Started: st.builds(Started, id=TEXTS),
    Reply: REPLIES,
    Item: ITEMS,
    Fired: st.builds(Fired, limit=NUMBERS, now_ns=NUMBERS),
    StepDone: st.builds(StepDone, number=NUMBERS, ok=st.booleans(), body=BODIES, blob=TEXTS),
    StepBegun: st.builds(StepBegun, number=NUMBERS),
    StepItem: st.builds(StepItem, number=NUMBERS, index=NUMBERS, body=BODIES, blob=TEXTS),
    Refused: st.builds(Refused, id=TEXTS, failure=BODIES),
    Ended: ENDS,
    Repaired: st.builds(Repaired, what=TEXTS, target=TEXTS, body=BODIES, by=TEXTS, why=TEXTS),
    Skipped: st.builds(
        Skipped,
        what=st.sampled_from(["call", "timer"]),
        source=SOURCES,
        answer_to=NUMBERS,
        caller=TEXTS,
    ),
    Resolved: RESOLUTIONS,
    Upgraded: st.builds(Upgraded, before=TEXTS),
    Connected: st.builds(
        Connected,
        id=TEXTS,
        path=TEXTS,
        query=st.dictionaries(TEXTS, TEXTS, max_size=2),
        headers=st.dictionaries(TEXTS, TEXTS, max_size=2),
        principal=BODIES,
        subprotocols=st.lists(TEXTS, max_size=2),
        resumable=st.booleans(),
    ),
    Received: st.builds(Received, conn=TEXTS, body=BODIES, text=st.booleans(), number=NUMBERS),
    Disconnected: st.builds(
        Disconnected, conn=TEXTS, code=CODES, reason=TEXTS, silent=st.booleans()
    ),
    Piece: st.builds(Piece, id=TEXTS, body=BODIES, number=NUMBERS, end=TEXTS),
    Cancel: CANCELS,
    Forked: st.builds(
        Forked, origin=TEXTS, address=TEXTS, asked=st.lists(st.deferred(lambda: SENT), max_size=2)
    ),
    Released: st.builds(Released),
    Timetable: st.builds(Timetable, ticks=st.lists(TICKS, max_size=3)),
}

SENT = st.builds(Sent, to=TEXTS, event=st.one_of(CALLS, REPLIES, ITEMS, ENDS, RESOLUTIONS, CANCELS))

COMMANDS: dict[type[Command], st.SearchStrategy[Command]] = {
    Answered: st.builds(
        Answered,
        id=TEXTS,
        ok=st.booleans(),
        body=BODIES,
        size=NUMBERS,
        checksum=st.integers(0, 2**32 - 1),
    ),
    Sent: SENT,
    Framed: st.builds(
        Framed,
        conn=TEXTS,
        body=BODIES,
        text=st.booleans(),
        size=NUMBERS,
        checksum=st.integers(0, 2**32 - 1),
    ),
    Broadcast: st.builds(
        Broadcast,
        body=BODIES,
        text=st.booleans(),
        to=st.none() | st.lists(TEXTS, max_size=2),
        but=st.lists(TEXTS, max_size=2),
        size=NUMBERS,
        checksum=st.integers(0, 2**32 - 1),
    ),
    Closed: st.builds(Closed, conn=TEXTS, code=CODES, reason=TEXTS),
    StepAsked: st.builds(
        StepAsked,
        number=NUMBERS,
        name=TEXTS,
        body=BODIES,
        id=TEXTS,
        attempt=st.integers(1, 2**31),
        timeout_s=st.floats(0, 1e9),
    ),
    Yielded: st.builds(Yielded, id=TEXTS, index=NUMBERS, body=BODIES),
    StepDropped: st.builds(StepDropped, number=NUMBERS),
    Promised: st.builds(Promised, token=TEXTS, of=TEXTS, until_ns=NUMBERS, address=TEXTS),
    Settled: st.builds(Settled, token=TEXTS),
    Planned: st.builds(Planned, id=TEXTS, next_ns=NUMBERS),
}

ENTRIES = st.builds(
    Entry,
    seq=NUMBERS,
    time=NUMBERS,
    version=TEXTS,
    event=st.one_of(*EVENTS.values()),
    commands=st.lists(st.one_of(*COMMANDS.values()), max_size=4),
    wake_at=NUMBERS,
    duration_us=NUMBERS,
    address=TEXTS,
    undone=st.booleans(),
    reloaded=st.booleans(),
    connections=NUMBERS,
)

FRAMES = st.lists(st.tuples(OIDS, ENTRIES), max_size=4)

MESSAGES = st.builds(
    Message, source=st.builds(MessageId, OIDS, NUMBERS, st.integers(0, 2**31)), sent=SENT
)
