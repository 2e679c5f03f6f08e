"""Each kind of event and command with every field set, and the messages that can be on their way.

A kind, or a field, that comes to the journal is added here and gets golden files: test_schema2.py
fails without.
"""

from __future__ import annotations

from perdure.clock import NS
from perdure.journal.entry import (
    HTTP,
    JSON,
    PICKLE,
    RULES,
    UPLOAD,
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
from perdure.testing.virtual import START_NS

SOURCE = MessageId(11, 12, 13)
ID = "000000000000000b-1.abc.7"
VERSION = "0123456789ab"
FAILURE = b'{"code": "handler-error"}'
LATER = START_NS + 60 * NS

CALL = Call(
    ID,
    "post",
    PICKLE,
    b"\x80\x05args",
    caller="Room/a",
    principal=b"\x80\x05ada",
    keep_ns=24 * 3600 * NS,
    digest=2**64 - 1,
    answer_to=21,
    source=SOURCE,
    schedule="daily",
    due_ns=START_NS,
    deadline=LATER,
)
ENDED = Ended(23, "Room/a", SOURCE)
RESOLVED = Resolved("000000000000000b-token", True, JSON, b"17", "Room/a", 25, SOURCE)
CANCEL = Cancel(ID, 3600 * NS, True, 26, "Room/a", SOURCE)
REPLY = Reply(21, True, b"\x80\x05result", SOURCE)
ITEM = Item(21, 3, b"\x80\x05item", SOURCE)

MESSAGES = [
    Sent("Room/b", CALL),
    Sent("Room/ä b%2F", REPLY),
    Sent("#000000000000000b", ITEM),
    Sent("Room/b", ENDED),
    Sent("#000000000000000b", RESOLVED),
    Sent("#000000000000000b", CANCEL),
]

EVENTS: list[Event] = [
    CALL,
    Call(ID, "on_request", HTTP, b"\x00request"),
    Call(ID, "on_request", UPLOAD, b"\x00request"),
    REPLY,
    ITEM,
    Fired(limit=5, now_ns=START_NS),
    StepDone(3, True, b"\x80\x05done", blob="step-3"),
    StepBegun(3),
    StepItem(3, 2, b"\x80\x05item", blob="step-3-2"),
    Started(ID),
    Refused(ID, FAILURE),
    ENDED,
    Skipped("call", SOURCE, 24, "Room/a"),
    RESOLVED,
    Timetable([Tick("sweep", "sweep", 3600 * NS, "0 9 * * *", "Europe/Lisbon", "all", 60 * NS)]),
    CANCEL,
    Upgraded("ba9876543210"),
    Repaired("attribute", "status", b"\x80\x05lost", "ada", "it was so"),
    Connected(
        ID,
        "/Room/a",
        {"name": "ada"},
        {"user-agent": "golden"},
        b"\x80\x05ada",
        ["chat"],
        resumable=True,
    ),
    Received("c1", b"hello", text=True, number=4),
    Disconnected("c1", 1006, "the line was lost", silent=True),
    Piece(ID, b"more of it", 2, "whole"),
    Forked("Room/a", "Room/b", MESSAGES[:1]),
    Released(),
]
COMMANDS: list[Command] = [
    Answered(ID, True, b"17", size=2, checksum=2**32 - 1),
    Yielded(ID, 1, b"17"),
    *MESSAGES,
    StepAsked(3, "app:fetch", b"\x80\x05args", ID, 2, 2.5, once=True, size=9, checksum=8),
    StepDropped(3),
    Promised("000000000000000b-token", "app:Approval", LATER, "Room/a"),
    Settled("000000000000000b-token"),
    Planned("daily", LATER, START_NS),
    Framed("c1", b"hello", text=True, size=5, checksum=7),
    Broadcast(b"hello", text=True, to=["c1", "c2"], but=["c2"], size=5, checksum=7),
    Closed("c1", 4000, "as asked"),
]


def entries() -> list[Entry]:
    """One with each event, the last with all commands, and every field of an entry set."""
    made = [Entry(seq, START_NS + seq, VERSION, event, []) for seq, event in enumerate(EVENTS, 1)]
    full = Entry(
        len(made) + 1,
        START_NS + 99,
        VERSION,
        Fired(),
        COMMANDS,
        wake_at=LATER,
        duration_us=1234,
        address="Room/a",
        undone=True,
        reloaded=True,
        rules=RULES,
        connections=2,
        indexed={"status": b"open"},
        chance=bytes(range(16)),
    )
    return [*made, full]
