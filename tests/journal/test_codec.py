"""Entries, chunks, segments and messages: the way to bytes and back, and damage on the way."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import JournalCorrupt, SchemaTooNew
from perdure.journal import codec, entry
from perdure.journal.codec import Message
from perdure.journal.entry import Answered, Call, Entry, Fired, MessageId, Sent
from tests.journal.strategies import (
    COMMANDS,
    ENTRIES,
    EVENTS,
    FRAMES,
    MESSAGES,
)

PLACE = "journal of partition 3, chunk 17"

HEADER = struct.Struct("<2sHI")

# How many fields each kind was born with. All others came later, or may be left out: they have
# defaults, so that entries written without them are read.
BORN_WITH = {
    Entry: 5,
    MessageId: 3,
    Call: 4,
    entry.Started: 1,
    entry.Reply: 3,
    entry.Item: 3,
    Fired: 0,
    entry.StepDone: 3,
    entry.StepBegun: 1,
    entry.StepItem: 3,
    entry.Refused: 2,
    entry.Ended: 0,
    entry.Repaired: 5,
    entry.Skipped: 1,
    Answered: 3,
    entry.Yielded: 3,
    Sent: 2,
    entry.StepAsked: 6,
    entry.StepBegun: 1,
    entry.StepItem: 3,
    entry.StepDropped: 1,
    entry.Cancel: 1,
    entry.Resolved: 4,
    entry.Tick: 2,
    entry.Timetable: 1,
    entry.Upgraded: 1,
    entry.Connected: 4,
    entry.Received: 3,
    entry.Disconnected: 2,
    entry.Piece: 3,
    entry.Framed: 3,
    entry.Broadcast: 2,
    entry.Closed: 2,
    entry.Forked: 2,
    entry.Released: 0,
    entry.Promised: 4,
    entry.Settled: 1,
    entry.Planned: 2,
    Message: 2,
}


def chunk_of(frames: list[tuple[int, Entry]]) -> bytes:
    return codec.write_chunk(codec.frame(oid, codec.encode_entry(one)) for oid, one in frames)


def read_chunk(data: bytes) -> list[tuple[int, Entry]]:
    return list(codec.read_entries(data, PLACE))


def an_entry(event: entry.Event | None = None, *commands: entry.Command) -> Entry:
    return Entry(7, 1_700_000_000_000_000_000, "v1", event or Fired(), list(commands))


A_CALL = Call("0000000000000001-a", "post", entry.JSON, b'{"text":"hi"}', source=MessageId(4, 2, 1))
A_CHUNK = chunk_of(
    [
        (1, an_entry(A_CALL, Answered(A_CALL.id, True, b"3"))),
        (2, an_entry(None, Sent("Room/a", A_CALL))),
    ]
)
A_MESSAGE = codec.write_message(Message(MessageId(1, 7, 0), Sent("Room/a", A_CALL)))

SEALED = pytest.mark.parametrize(
    ("sealed", "read"),
    [
        (A_CHUNK, read_chunk),
        (A_MESSAGE, lambda data: codec.read_message(data, PLACE)),
    ],
    ids=["chunk", "message"],
)


# --- there and back


def test_the_strategies_know_every_kind() -> None:
    assert set(EVENTS) == set(get_args(entry.Event))
    assert set(COMMANDS) == set(get_args(entry.Command))


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_each_event_comes_back(kind: type[entry.Event], data: st.DataObject) -> None:
    written = an_entry(data.draw(EVENTS[kind]))
    assert codec.decode_entry(codec.encode_entry(written)) == written


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_each_command_comes_back(kind: type[entry.Command], data: st.DataObject) -> None:
    written = an_entry(None, data.draw(COMMANDS[kind]))
    assert codec.decode_entry(codec.encode_entry(written)) == written


@given(FRAMES)
def test_a_chunk_comes_back_in_order(frames: list[tuple[int, Entry]]) -> None:
    assert read_chunk(chunk_of(frames)) == frames


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_a_segment_comes_back_in_order(entries: list[Entry]) -> None:
    written = chunk_of([(5, one) for one in entries])
    assert [one for _, one in codec.read_entries(written, PLACE)] == entries


@given(FRAMES)
def test_frames_are_read_without_being_decoded(frames: list[tuple[int, Entry]]) -> None:
    found = [(oid, bytes(body)) for oid, body in codec.read_chunk(chunk_of(frames), PLACE)]
    assert found == [(oid, codec.encode_entry(one)) for oid, one in frames]


@given(MESSAGES)
def test_a_message_comes_back(message: Message) -> None:
    assert codec.read_message(codec.write_message(message), PLACE) == message


def test_a_long_answer_is_known_by_its_length_and_checksum() -> None:
    body = b"x" * 5_000
    assert entry.shortened(Answered("id", True, body)) == Answered(
        "id", True, b"", 5_000, zlib.crc32(body)
    )


# --- damage


@SEALED
def test_each_flipped_bit_is_found(sealed: bytes, read: Any) -> None:
    for at in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[at] ^= 1 << bit
            # A larger number of the format is what a newer release would write there.
            newer = at in (2, 3) and HEADER.unpack_from(damaged)[1] > codec.FORMAT
            with pytest.raises(SchemaTooNew if newer else JournalCorrupt) as caught:
                read(bytes(damaged))
            assert PLACE in str(caught.value)


@SEALED
def test_each_cut_is_found(sealed: bytes, read: Any) -> None:
    for end in range(len(sealed)):
        with pytest.raises(JournalCorrupt) as caught:
            read(sealed[:end])
        assert PLACE in str(caught.value)


@SEALED
def test_what_stands_behind_the_end_is_found(sealed: bytes, read: Any) -> None:
    for more in (b"\0", b"\x90", sealed):
        with pytest.raises(JournalCorrupt, match="checksum"):
            read(sealed + more)


@given(st.data(), FRAMES.filter(bool))
def test_any_damage_to_any_chunk_is_found(
    data: st.DataObject, frames: list[tuple[int, Entry]]
) -> None:
    damaged = bytearray(chunk_of(frames))
    at = data.draw(st.integers(HEADER.size, len(damaged) - 1))
    # CRC-32 finds every damage within 32 bits, and only such can be promised.
    length = min(4, len(damaged) - at)
    noise = data.draw(st.binary(min_size=length, max_size=length).filter(any))
    for offset, byte in enumerate(noise):
        damaged[at + offset] ^= byte
    with pytest.raises(JournalCorrupt, match=PLACE):
        read_chunk(bytes(damaged))


def sealed_as(magic: bytes, body: bytes) -> bytes:
    return HEADER.pack(magic, codec.FORMAT, zlib.crc32(body)) + body


@given(st.binary(max_size=80))
def test_bytes_that_are_no_entries_are_refused_also_under_a_right_checksum(body: bytes) -> None:
    framed = struct.pack("<IQ", len(body), 1) + body
    with contextlib.suppress(JournalCorrupt):  # and nothing else
        read_chunk(sealed_as(b"pC", body))
    with contextlib.suppress(JournalCorrupt):
        read_chunk(sealed_as(b"pC", framed))
    with contextlib.suppress(JournalCorrupt):
        codec.read_message(sealed_as(b"pM", body), PLACE)


@pytest.mark.parametrize(
    "body",
    [
        codec.encode_entry(an_entry(A_CALL)).replace(b"post", b"po\xff\xff"),
        b"\x95\x01\x02\xa1v" + b"\x91" * 100_000 + b"\x90\x90",
        b"\xc1",
        b"",
    ],
    ids=["not UTF-8", "nested too deep", "no msgpack", "empty"],
)
def test_entries_that_cannot_be_read_are_refused(body: bytes) -> None:
    sealed = codec.write_chunk([codec.frame(1, body)])
    with pytest.raises(JournalCorrupt, match="an entry cannot be read"):
        read_chunk(sealed)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\1", "header is cut off at byte 0"),
        (struct.pack("<IQ", 5, 1) + b"four", "a frame of 5 bytes is cut off at byte 12"),
    ],
)
def test_a_frame_that_ends_behind_its_chunk_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(JournalCorrupt, match=says):
        read_chunk(sealed_as(b"pC", body))


def test_a_message_is_no_chunk_and_a_chunk_no_message() -> None:
    with pytest.raises(JournalCorrupt, match="begins with b'pM'"):
        read_chunk(A_MESSAGE)
    with pytest.raises(JournalCorrupt, match="begins with b'pC'"):
        codec.read_message(A_CHUNK, PLACE)


# --- releases


@SEALED
def test_a_newer_format_is_refused_as_such(sealed: bytes, read: Any) -> None:
    newer = sealed[:2] + struct.pack("<H", codec.FORMAT + 1) + sealed[4:]
    with pytest.raises(SchemaTooNew, match=PLACE):
        read(newer)


@pytest.mark.parametrize("kind", BORN_WITH, ids=lambda kind: kind.__name__)
def test_fields_that_came_later_have_defaults(kind: type[msgspec.Struct]) -> None:
    needed = [field.required for field in msgspec.structs.fields(kind)]
    assert needed == sorted(needed, reverse=True)
    assert sum(needed) == BORN_WITH[kind]


def defaulted(value: msgspec.Struct, kept: int) -> msgspec.Struct:
    """A value with the defaults in place of all fields behind the first ones."""
    fields = [field.name for field in msgspec.structs.fields(type(value))][:kept]
    return type(value)(*(getattr(value, name) for name in fields))


@given(ENTRIES, st.data())
def test_an_entry_without_its_last_fields_is_read(written: Entry, data: st.DataObject) -> None:
    plain = msgspec.msgpack.decode(codec.encode_entry(written))
    kept = data.draw(st.integers(BORN_WITH[Entry], len(plain)))
    of_event = data.draw(st.integers(BORN_WITH[type(written.event)], len(plain[3]) - 1))
    plain[3] = plain[3][: 1 + of_event]  # the tag stands before the fields
    commands: list[Any] = []
    for at, command in enumerate(written.commands):
        of_command = data.draw(st.integers(BORN_WITH[type(command)], len(plain[4][at]) - 1))
        plain[4][at] = plain[4][at][: 1 + of_command]
        commands.append(defaulted(command, of_command))
    older: Any = msgspec.structs.replace(
        written, event=defaulted(written.event, of_event), commands=commands
    )
    read = codec.decode_entry(msgspec.msgpack.encode(plain[:kept]))
    assert read == defaulted(older, kept)


@given(ENTRIES)
def test_an_entry_without_a_field_it_was_born_with_is_refused(written: Entry) -> None:
    plain = msgspec.msgpack.decode(codec.encode_entry(written))
    sealed = codec.write_chunk([codec.frame(1, msgspec.msgpack.encode(plain[:4]))])
    with pytest.raises(JournalCorrupt, match=PLACE):
        read_chunk(sealed)


def test_tags_are_what_they_always_were() -> None:
    tags = {kind.__name__: kind.__struct_config__.tag for kind in (*EVENTS, *COMMANDS)}
    assert tags == {
        "Call": "call",
        "Started": "started",
        "Reply": "reply",
        "Item": "next",
        "Fired": "fired",
        "StepDone": "step",
        "StepBegun": "begun",
        "StepItem": "gave",
        "Refused": "refused",
        "Ended": "ended",
        "Repaired": "repaired",
        "Skipped": "skipped",
        "Resolved": "resolved",
        "Cancel": "cancel",
        "Timetable": "timetable",
        "Upgraded": "upgraded",
        "Connected": "connected",
        "Received": "received",
        "Disconnected": "disconnected",
        "Piece": "piece",
        "Framed": "frame",
        "Broadcast": "broadcast",
        "Closed": "close",
        "Forked": "forked",
        "Released": "released",
        "Answered": "answer",
        "Yielded": "item",
        "Sent": "sent",
        "StepAsked": "ask",
        "StepDropped": "drop",
        "Promised": "promised",
        "Settled": "settled",
        "Planned": "planned",
    }
