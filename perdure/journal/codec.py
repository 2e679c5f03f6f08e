"""Entries, chunks, segments and messages as bytes, each versioned and checksummed.

    chunk, segment   magic b"pC" | format u16 | crc32 u32 of what follows | frame ...
      frame          length u32 | oid u64 | entry as msgpack, `length` bytes
    message          magic b"pM" | format u16 | crc32 u32 of what follows | msgpack Message
    blob             magic b"pB" | format u16 | crc32 u32 of what follows | the body

All numbers are little-endian. A chunk holds the entries of one commit, in the order of the log; a
segment those of one object, in the order of seq. A checksum that fails raises JournalCorrupt with
the place; nothing behind it is guessed at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from perdure.errors import JournalCorrupt, SchemaTooNew
from perdure.journal.entry import Entry, MessageId, Sent

FORMAT = 1

_HEADER = struct.Struct("<2sHI")
FRAME = struct.Struct("<IQ")
_CHUNK = b"pC"
_MESSAGE = b"pM"
_BLOB = b"pB"

_encoder = msgspec.msgpack.Encoder()
_decode_entry = msgspec.msgpack.Decoder(Entry).decode


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A message on its way: sent, and not yet known to be delivered."""

    source: MessageId
    sent: Sent


_decode_message = msgspec.msgpack.Decoder(Message).decode

encode_entry = _encoder.encode


def decode_entry(body: bytes | memoryview) -> Entry:
    """An entry's bytes as an Entry. Raises msgspec.DecodeError for what is none."""
    return _decode_entry(body)


def frame(oid: int, entry: bytes) -> bytes:
    """An entry's bytes as they stand in a chunk or segment."""
    return FRAME.pack(len(entry), oid) + entry


def write_chunk(frames: Iterable[bytes]) -> bytes:
    """A chunk (or segment) of frames."""
    return _seal(_CHUNK, b"".join(frames))


def read_chunk(chunk: bytes, place: str) -> Iterator[tuple[int, memoryview]]:
    """(oid, entry bytes) of each frame. Raises JournalCorrupt naming `place`."""
    body = _open(_CHUNK, chunk, place)
    at, end = 0, len(body)
    while at < end:
        if at + FRAME.size > end:
            raise corrupt(place, f"a frame's header is cut off at byte {at}")
        length, oid = FRAME.unpack_from(body, at)
        at += FRAME.size
        if at + length > end:
            raise corrupt(place, f"a frame of {length} bytes is cut off at byte {at}")
        yield oid, body[at : at + length]
        at += length


def read_entries(chunk: bytes, place: str) -> Iterator[tuple[int, Entry]]:
    """(oid, Entry) of each frame of a chunk or segment."""
    for oid, body in read_chunk(chunk, place):
        try:
            entry = _decode_entry(body)
        except Exception as error:  # text that is no UTF-8 raises no error of msgspec's own
            raise corrupt(place, f"an entry cannot be read: {error}") from error
        yield oid, entry


def read_turns(chunk: bytes, place: str, first: int, after: int, upto: int) -> Iterator[Entry]:
    """The turns behind `after`, up to `upto`, of a segment that begins with turn `first`.

    Those before are passed over without being read.
    """
    for seq, (_, body) in enumerate(read_chunk(chunk, place), first):
        if seq > upto:
            return
        if seq > after:
            try:
                yield _decode_entry(body)
            except Exception as error:
                raise corrupt(place, f"an entry cannot be read: {error}") from error


def write_message(message: Message) -> bytes:
    return _seal(_MESSAGE, _encoder.encode(message))


def read_message(body: bytes, place: str) -> Message:
    opened = _open(_MESSAGE, body, place)
    try:
        return _decode_message(opened)
    except Exception as error:
        raise corrupt(place, f"a message cannot be read: {error}") from error


def write_blob(body: bytes) -> bytes:
    """What rests beside the journal since it is too large for it."""
    return _seal(_BLOB, body)


def read_blob(sealed: bytes, place: str) -> bytes:
    """The body of a blob. Raises JournalCorrupt naming `place`."""
    return bytes(_open(_BLOB, sealed, place))


def _seal(magic: bytes, body: bytes) -> bytes:
    return _HEADER.pack(magic, FORMAT, zlib.crc32(body)) + body


def _open(magic: bytes, sealed: bytes, place: str) -> memoryview:
    if len(sealed) < _HEADER.size:
        raise corrupt(place, f"only {len(sealed)} bytes are there")
    found, version, checksum = _HEADER.unpack_from(sealed)
    if found != magic:
        raise corrupt(place, f"it begins with {found!r} and not with {magic!r}")
    if version > FORMAT:
        raise SchemaTooNew(
            f"{place}: a newer perdure wrote format {version}; this one reads up to {FORMAT}",
            hint="Install that version, or a later one.",
        )
    if version < 1:
        raise corrupt(place, f"its format is {version}, which no perdure ever wrote")
    body = memoryview(sealed)[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise corrupt(place, "its checksum does not match")
    return body


def corrupt(place: str, what: str) -> JournalCorrupt:
    """The error for bytes that cannot be believed, with what to do about it."""
    return JournalCorrupt(
        f"{place}: {what}",
        hint="Restore the data directory from a backup; or look at the damage with "
        "`perdure fsck --data DIR`, which can also cut the log there and says what is lost.",
    )
