"""Objects in a file: journal, snapshot, code versions and blobs, for another place to go on with.

    export     section, section, …            each by itself checked, one kind after the other
    section    "pX" | format u16 | crc32 u32 | length u32 | zlib of msgpack, `length` bytes

The first section is a map `{"perdure": …}` that says who wrote the file and when; then come
`{"version", "bundle"}` for each version of the code that a turn names, an `{"object": …}` for each
object, and `{"end": number of sections}`. A file that was cut off has no end, and is refused.

The chance of each turn is in its entry (`chance`), so that the past can be run again elsewhere;
nothing of the store's secret is in the file, so nothing follows from it for turns to come.
"""

from __future__ import annotations

import asyncio
import bisect
import struct
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import JournalCorrupt, SchemaTooNew, UnknownTurn
from perdure.host.asking import Surroundings
from perdure.host.blobs import named_in
from perdure.host.chance import key_of
from perdure.host.machine import Machine
from perdure.journal import codec
from perdure.journal.entry import Entry, Forked
from perdure.journal.identity import oid_of
from perdure.kind import Kind
from perdure.past.record import PAGE, HostRecord, Record, Snapshot, record_of
from perdure.past.state import carried_by_msgpack, state_of
from perdure.past.walk import walk
from perdure.ref import format_address

if TYPE_CHECKING:
    from perdure.host.host import Host

FORMAT = 1

_HEADER = struct.Struct("<2sHII")
_MAGIC = b"pX"
SEGMENT = 1000
"""Entries in a segment of a copy."""


class Extract(msgspec.Struct):
    """One object, as a file holds it."""

    kind: str
    key: str
    last: int
    """Its newest turn."""
    first: int
    """The first turn that is there; the snapshot is needed where that is not 1."""
    segments: list[bytes]
    """Its turns as segments, ascending (codec.py)."""
    snapshot_seq: int = 0
    snapshot: bytes = b""
    """The memory after some turn; empty where it cannot be kept as bytes."""
    blobs: dict[str, bytes] = {}
    """Bodies that turns name, each by its name."""
    state: Any = None
    """The attributes after the last turn, for people and other programs."""
    versions: list[str] = []
    """The versions of the code that its turns name."""

    @property
    def address(self) -> str:
        return format_address(self.kind, self.key)

    def entries(self) -> Iterator[Entry]:
        """Its turns."""
        for n, body in enumerate(self.segments):
            for _, entry in codec.read_entries(body, f"export of {self.address}, segment {n}"):
                yield entry


class Head(msgspec.Struct):
    """Who wrote a file."""

    perdure: str
    python: str
    made: int
    """Nanoseconds since 1970."""
    hash_seed: int
    """Of the processes that ran the objects: a replay under another walks sets in another order."""


class Export(msgspec.Struct):
    """What is in a file."""

    head: Head
    versions: dict[str, bytes]
    objects: list[Extract]


# --- bytes


def write(head: Head, versions: dict[str, bytes], objects: Iterable[Extract]) -> Iterator[bytes]:
    """The sections of a file, one after the other."""
    count = 1
    yield _section({"perdure": msgspec.structs.asdict(head)})
    for version, bundle in versions.items():
        count += 1
        yield _section({"version": version, "bundle": bundle})
    for one in objects:
        count += 1
        yield _section({"object": msgspec.structs.asdict(one)})
    yield _section({"end": count + 1})


def _section(value: dict[str, Any]) -> bytes:
    body = zlib.compress(msgspec.msgpack.encode(value), 3)
    return _HEADER.pack(_MAGIC, FORMAT, zlib.crc32(body), len(body)) + body


def read(data: bytes, place: str) -> Export:
    """What `write` has written. Raises JournalCorrupt naming `place`, or SchemaTooNew."""
    head: Head | None = None
    versions: dict[str, bytes] = {}
    objects: list[Extract] = []
    count = ended = 0
    for value in _sections(data, place):
        count += 1
        try:
            if "perdure" in value:
                head = msgspec.convert(value["perdure"], Head)
            elif "version" in value:
                versions[value["version"]] = value["bundle"]
            elif "object" in value:
                objects.append(msgspec.convert(value["object"], Extract))
            elif "end" in value:
                ended = value["end"]
        except (msgspec.ValidationError, KeyError) as error:
            raise _corrupt(place, f"section {count} is not as it should be: {error}") from error
    if head is None or ended != count:
        raise _corrupt(place, "it ends too early")
    return Export(head, versions, objects)


def _sections(data: bytes, place: str) -> Iterator[dict[str, Any]]:
    at = 0
    while at < len(data):
        if at + _HEADER.size > len(data):
            raise _corrupt(place, "it ends too early")
        magic, version, checksum, length = _HEADER.unpack_from(data, at)
        if magic != _MAGIC:
            raise _corrupt(place, f"there is no section at byte {at}: it is no export of perdure")
        if version > FORMAT:
            raise SchemaTooNew(
                f"{place}: a newer perdure wrote format {version}; this one reads up to {FORMAT}",
                hint="Install that version, or a later one.",
            )
        at += _HEADER.size
        body = data[at : at + length]
        if len(body) < length:
            raise _corrupt(place, "it ends too early")
        if version < 1 or zlib.crc32(body) != checksum:
            raise _corrupt(place, f"the checksum of the section at byte {at} does not match")
        try:
            value = msgspec.msgpack.decode(zlib.decompress(body))
        except (zlib.error, msgspec.DecodeError) as error:
            raise _corrupt(place, f"the section at byte {at} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise _corrupt(place, f"the section at byte {at} is no map")
        yield value
        at += length


def _corrupt(place: str, what: str) -> JournalCorrupt:
    return JournalCorrupt(f"{place}: {what}", hint="Export it once more, or copy it again.")


# --- out of a running host


async def extract(record: HostRecord, upto: int | None = None) -> Extract:
    """An object with its turns up to `upto`, as it can go on elsewhere.

    Raises UnknownTurn, and DivergenceError where its past does not replay.
    """
    seq = record.last if upto is None else upto
    machine = await walk(record, seq)
    try:
        state = carried_by_msgpack(state_of(machine))
    finally:
        machine.discard()
    # A copy that no repr has run in.
    machine = await walk(record, seq)
    try:
        snapshot = _snapshot_of(machine)
        first = seq + 1
        frames: list[bytes] = []
        segments: list[bytes] = []
        blobs: set[str] = set()
        versions: set[str] = set()
        try:
            async for page in record.pages(0, seq):
                first = min(first, page[0].seq)
                for entry in page:
                    copied = lent(record.host.layout.secret, record.oid, entry)
                    frames.append(codec.frame(record.oid, codec.encode_entry(copied)))
                    blobs.add(named_in(entry))
                    versions.add(entry.version)
                    if len(frames) == SEGMENT:
                        segments.append(codec.write_chunk(frames))
                        frames = []
                await asyncio.sleep(0)
        except UnknownTurn:
            # What is left of its past begins behind a snapshot, and cannot be run without it.
            if not snapshot:
                raise
            first, frames, segments = seq + 1, [], []
        if frames:
            segments.append(codec.write_chunk(frames))
    finally:
        machine.discard()
    return Extract(
        record.kind.name,
        record.key,
        seq,
        first,
        segments,
        seq if snapshot else 0,
        snapshot,
        await _blobs(record, blobs - {""}),
        state,
        sorted(versions),
    )


def _snapshot_of(machine: Machine) -> bytes:
    from perdure.errors import NotSerializable
    from perdure.suspend import heap

    try:
        return heap.dump_heap(machine)
    except NotSerializable:
        return b""


def lent(secret: bytes, oid: int, entry: Entry) -> Entry:
    """An entry that says what its chance follows from."""
    if entry.chance:
        return entry
    return msgspec.structs.replace(entry, chance=key_of(secret, oid, entry.seq))


def segments_of(oid: int, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Entries as segments of an object."""
    for begin in range(0, len(entries), SEGMENT):
        piece = entries[begin : begin + SEGMENT]
        yield codec.write_chunk(codec.frame(oid, codec.encode_entry(one)) for one in piece)


def first_of(segment: bytes, place: str) -> Entry:
    """The first turn of a segment. Raises JournalCorrupt for one without any."""
    for _, entry in codec.read_entries(segment, place):
        return entry
    raise codec.corrupt(place, "it is empty")


async def _blobs(record: HostRecord, names: set[str]) -> dict[str, bytes]:
    host = record.host
    found: dict[str, bytes] = {}
    for name in sorted(names):
        body = await host.store.get_blob(host.log.part, record.oid, name)
        if body is not None:
            found[name] = body
    return found


async def export(host: Host, addresses: Iterable[str]) -> AsyncIterator[bytes]:
    """The sections of a file with these objects, one after the other.

    Versions stand before the objects that need them.
    """
    import platform

    from perdure import __version__

    head = Head(__version__, platform.python_version(), host.clock.now_ns(), host.layout.hash_seed)
    yield _section({"perdure": msgspec.structs.asdict(head)})
    count = 1
    known: set[str] = set()
    for address in addresses:
        one = await extract(await record_of(host, address))
        for version in sorted({*one.versions, host.version}):
            bundle = None if version in known else await host.store.get_version(version)
            known.add(version)
            if bundle is not None:
                count += 1
                yield _section({"version": version, "bundle": bundle})
        count += 1
        yield _section({"object": msgspec.structs.asdict(one)})
    yield _section({"end": count + 1})


# --- a record of what a file holds


class ExtractRecord:
    """The past of an object in a file: what `walk` and the looks need."""

    def __init__(self, one: Extract, kind: Kind, surroundings: Surroundings) -> None:
        self.kind = kind
        self.key = one.key
        self.oid = oid_of(one.kind, one.key)
        self.kept = self.last = one.last
        self.extract = one
        self._surroundings = surroundings
        place = f"export of {one.address}"
        self._firsts = [first_of(body, place).seq for body in one.segments]
        self._read: dict[int, list[Entry]] = {}
        self._snapshots: dict[int, bytes] = {}

    def machine(self, surroundings: Surroundings | None = None) -> Machine:
        """A copy that is the object; turns of its past bring what their chance was."""
        return Machine(self.kind, self.key, self.oid, surroundings or self._surroundings)

    async def snapshot(self, upto: int) -> Snapshot | None:
        """One of an earlier look, or the file's own."""
        one = self.extract
        found = max((seq for seq in self._snapshots if seq <= upto), default=None)
        if found is not None:
            return Snapshot(found, self._snapshots[found], certain=False)
        if one.snapshot and one.snapshot_seq <= upto:
            # Where all turns are there, it is a cache: it may hold code of another interpreter.
            return Snapshot(one.snapshot_seq, one.snapshot, certain=one.first > 1)
        return None

    async def pages(self, after: int, upto: int) -> AsyncIterator[list[Entry]]:
        """From the file."""
        while after < upto:
            segment = self._segment(after + 1)
            page = [entry for entry in segment if after < entry.seq <= min(upto, after + PAGE)]
            if not page or page[0].seq != after + 1:
                raise UnknownTurn(f"turn {after + 1} of {self.extract.address} is not in the file")
            after = page[-1].seq
            yield page

    async def probe(self, seq: int) -> Entry | None:
        """From the file."""
        if seq > self.last or not self._firsts:
            return None
        segment = self._segment(max(seq, self._firsts[0]))
        return next((entry for entry in segment if entry.seq >= seq), None)

    def _segment(self, seq: int) -> list[Entry]:
        """The turns of the segment that holds one, read when they are wanted first."""
        n = bisect.bisect_right(self._firsts, seq) - 1
        if n < 0:
            return []
        if n not in self._read:
            place = f"export of {self.extract.address}, segment {n}"
            found = codec.read_entries(self.extract.segments[n], place)
            self._read[n] = [entry for _, entry in found]
        return self._read[n]

    async def keep(self, snapshots: Sequence[tuple[int, bytes]]) -> None:
        """For as long as this is there."""
        self._snapshots.update(snapshots)

    async def distrust(self, snapshot: Snapshot) -> None:
        """It is left out from now on."""
        self._snapshots.pop(snapshot.seq, None)
        if snapshot.seq == self.extract.snapshot_seq:
            self.extract.snapshot = b""


async def calls_without_answer(record: Record, machine: Machine) -> list[Any]:
    """What a copy has sent and still waits for, as it stands in the journal."""
    from perdure.journal.entry import Sent
    from perdure.past.history import seq_at

    waiting = dict(machine.asked or {})
    found: dict[int, Sent] = {}
    # Each call stands in the turn at whose time the wait began.
    for since in sorted({asked.since for asked in waiting.values()}):
        first = await seq_at(record, since - 1) + 1
        async for page in record.pages(first - 1, min(await seq_at(record, since), machine.seq)):
            for entry in page:
                for command in entry.commands:
                    number = getattr(command.event, "answer_to", 0) if type(command) is Sent else 0
                    if number in waiting and type(command) is Sent:
                        found[number] = command
                if isinstance(entry.event, Forked):
                    for sent in entry.event.asked:
                        found.setdefault(getattr(sent.event, "answer_to", 0), sent)
    return [found[number] for number in sorted(found) if number in waiting]
