"""The log of one partition: entries are gathered, committed as one chunk, and then outputs leave.

Nothing leaves an object before the entries behind it are durable: a reply, a step, a frame could
reveal what a crash would undo. So each entry carries its outputs, and they are released when its
chunk is on disk, in order. There is one commit for each pass of the event loop and one in flight.

A commit that fails breaks all that was gathered up to then: the entries are taken back, their
outputs get the error, and `on_broken` makes the host drop every activation that is ahead of the
disk. Nothing is served from memory whose write failed.

What the log holds in memory: the tail, which is every entry since the last checkpoint (so a wake
needs no read of the log), and the outbox, which is every message sent and not durably delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from perdure.clock import Clock
from perdure.errors import (
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    StoreFull,
    StoreUnavailable,
    Unavailable,
)
from perdure.journal import codec
from perdure.journal.codec import Message
from perdure.journal.entry import Entry, MessageId, Sent, StepDone, StepItem
from perdure.store.base import Batch, Claim, Store

RETRY_AFTER_FULL_S = 0.5


class Output(Protocol):
    """Something that waits behind the gate."""

    def release(self, error: PerdureError | None) -> None: ...


class _Chunk:
    """The entries of one commit on their way to the disk."""

    __slots__ = ("delivered", "frames", "oids", "outputs")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.oids: list[int] = []
        self.outputs: list[Output] = []
        self.delivered: list[MessageId] = []


class PartitionLog:
    """Gathers, commits, opens the gate. All methods are called from the event loop's thread."""

    def __init__(
        self,
        store: Store,
        claim: Claim,
        clock: Clock,
        on_broken: Callable[[PerdureError], None],
        on_lost: Callable[[OperatorError], None],
    ) -> None:
        self.part = claim.part
        self.tail = claim.tail
        """The last durable chunk."""
        self.checkpoint = claim.checkpoint
        self.tail_bytes = 0
        self.tail_since_ns = 0
        """When the oldest entry of the tail was appended; 0: the tail is empty."""
        self.outbox: dict[MessageId, tuple[int, Message]] = {}
        """Messages sent and not durably delivered, each with the chunk that sent it; in order."""
        self.blobs: dict[int, dict[str, int]] = {}
        """What entries of the tail name that rests beside it: by object, each with its turn."""
        self.commits = 0
        self.entries = 0
        self._store = store
        self._epoch = claim.epoch
        self._clock = clock
        self._on_broken = on_broken
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._recent: dict[int, list[bytes]] = {}
        self._older: dict[int, list[bytes]] = {}
        self._gathered = _Chunk()
        self._flying: _Chunk | None = None
        self._scheduled = False
        # Not by the wall clock, which somebody may set back by an hour.
        self._refuse_until_s = 0.0
        self._rotation: asyncio.Future[None] | None = None
        self._line = 0
        """The last chunk above the line of the checkpoint that was begun last."""
        self._taken: set[MessageId] = set()
        """Messages of the outbox whose delivery is on its way to the disk."""
        self._durable: list[tuple[int, asyncio.Future[None]]] = []
        for body in claim.outbox:
            message = codec.read_message(body, f"outbox of partition {self.part}")
            self.outbox[message.source] = (claim.checkpoint, message)

    # --- what is remembered

    def recover(self, chunks: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, Entry]]:
        """Take in the tail that an earlier owner left; gives each (oid, entry) on the way."""
        for lsn, chunk in chunks:
            place = f"journal of partition {self.part}, chunk {lsn}"
            self.tail_bytes += len(chunk)
            for oid, view in codec.read_chunk(chunk, place):
                body = bytes(view)
                try:
                    entry = codec.decode_entry(body)
                except Exception as error:
                    raise codec.corrupt(place, f"an entry cannot be read: {error}") from error
                self._recent.setdefault(oid, []).append(body)
                self._index(oid, entry, lsn)
                yield oid, entry
        if chunks:
            self.tail_since_ns = self._clock.now_ns()

    def _index(self, oid: int, entry: Entry, lsn: int) -> None:
        source = source_of(entry.event)
        if source is not None:
            self.outbox.pop(source, None)
        event = entry.event
        if isinstance(event, StepDone | StepItem) and event.blob:
            self.blobs.setdefault(oid, {})[event.blob] = entry.seq
        for index, command in enumerate(entry.commands):
            if type(command) is Sent:
                message = Message(MessageId(oid, entry.seq, index), command)
                self.outbox[message.source] = (lsn, message)

    def entries_of(self, oid: int) -> list[bytes]:
        """The entries of an object that are in no history segment yet, ascending."""
        older, recent = self._older.get(oid), self._recent.get(oid)
        if older and recent:
            return older + recent
        return list(older or recent or ())

    def last_entry(self, oid: int) -> Entry | None:
        """The newest entry of an object in the tail."""
        entries = self._recent.get(oid) or self._older.get(oid)
        return codec.decode_entry(entries[-1]) if entries else None

    def first_address(self, oid: int) -> str | None:
        """The address of an object whose first turn is in the tail."""
        entries = self._older.get(oid) or self._recent.get(oid)
        return codec.decode_entry(entries[0]).address or None if entries else None

    def dirty(self) -> set[int]:
        """Objects with entries in the tail."""
        return self._older.keys() | self._recent.keys()

    # --- the way in

    @property
    def refusing(self) -> bool:
        """The disk was full a moment ago; writing is tried again shortly."""
        return self._refuse_until_s != 0 and self._clock.monotonic() < self._refuse_until_s

    @property
    def gathering_lsn(self) -> int:
        """The chunk that an entry appended now will be in."""
        return self.tail + (1 if self._flying is None else 2)

    @property
    def appended_lsn(self) -> int:
        """The chunk that the newest entry is in."""
        return self.tail + (self._flying is not None) + bool(self._gathered.frames)

    def newest_lsn(self, oid: int) -> int:
        """A chunk that an object's newest entry is in or before."""
        return self.appended_lsn if oid in self._recent or oid in self._older else self.checkpoint

    def append(
        self, oid: int, entry: bytes, outputs: Sequence[Output], delivered: MessageId | None
    ) -> int:
        """Gather an entry with what leaves behind it; gives its chunk's number."""
        chunk = self._gathered
        chunk.frames.append(codec.FRAME.pack(len(entry), oid) + entry)
        chunk.oids.append(oid)
        if outputs:
            chunk.outputs += outputs
        if delivered is not None:
            chunk.delivered.append(delivered)
            self._taken.add(delivered)
        entries = self._recent.get(oid)
        if entries is None:
            self._recent[oid] = [entry]
        else:
            entries.append(entry)
        if self._flying is not None:
            return self.tail + 2
        if not self._scheduled:
            self._schedule()
        return self.tail + 1

    def send(self, message: Message) -> None:
        """Note a message of the entry that is appended next or was just appended."""
        self.outbox[message.source] = (self.gathering_lsn, message)

    def undelivered(self, source: MessageId) -> bool:
        """Whether a message still has to be taken: it may be offered twice, and is taken once."""
        return source in self.outbox and source not in self._taken

    def after(self, lsn: int, output: Output) -> None:
        """Release an output that rests on nothing later than chunk `lsn`."""
        if lsn <= self.tail:
            _release(output, None)
        elif self._flying is not None and lsn == self.tail + 1:
            self._flying.outputs.append(output)
        else:
            self._gathered.outputs.append(output)
            self._schedule()

    def fenced(self) -> StoreUnavailable:
        """Why the store has refused a write: the epoch is not this owner's any more."""
        return StoreUnavailable(
            f"partition {self.part} was taken over by another process",
            hint="Nothing of it was written. See which other process serves this data.",
        )

    async def durable(self, lsn: int) -> None:
        """Wait until chunk `lsn` is on disk. Raises what broke it."""
        if lsn > self.tail:
            future: asyncio.Future[None] = self._loop.create_future()
            self._durable.append((lsn, future))
            await future

    def _schedule(self) -> None:
        if not self._scheduled and self._flying is None:
            # One commit for each pass of the loop: every socket that had something to say in
            # this pass is in it.
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._flying is not None:
            return
        if self._rotation is not None:
            self._rotate()
        chunk = self._gathered
        if not chunk.frames:
            # Only outputs, whose entries are durable by now.
            self._gathered = _Chunk()
            for output in chunk.outputs:
                _release(output, None)
            return
        self._flying = chunk
        self._gathered = _Chunk()
        batch = Batch(self.part, self._epoch, self.tail + 1, codec.write_chunk(chunk.frames))
        future = self._store.commit([batch])
        if future.done():
            self._committed(future)
        else:
            future.add_done_callback(self._committed)

    def _committed(self, future: asyncio.Future[frozenset[int]]) -> None:
        try:
            accepted = future.result()
        except StoreFull as error:
            self._break(
                Unavailable(
                    "the disk is full: nothing of this was kept",
                    hint="It is accepted again when there is room.",
                ),
                error,
            )
            return
        except OperatorError as error:
            self._break(OutcomeUnknown(f"the store failed: {error.message}"), error)
            self._on_lost(error)
            return
        except Exception as error:
            unknown = StoreUnavailable(f"the store failed: {error!r}")
            self._break(OutcomeUnknown(unknown.message), unknown)
            self._on_lost(unknown)
            return
        if self.part not in accepted:
            fenced = self.fenced()
            self._break(OutcomeUnknown(fenced.message), fenced)
            self._on_lost(fenced)
            return
        chunk = self._flying
        assert chunk is not None
        self._flying = None
        self._refuse_until_s = 0.0
        self.tail += 1
        self.commits += 1
        self.entries += len(chunk.frames)
        if not self.tail_bytes:
            self.tail_since_ns = self._clock.now_ns()
        self.tail_bytes += sum(map(len, chunk.frames))
        for source in chunk.delivered:
            self.outbox.pop(source, None)
            self._taken.discard(source)
        if self._gathered.frames or self._gathered.outputs or self._rotation is not None:
            self._schedule()
        for output in chunk.outputs:
            _release(output, None)
        if self._durable:
            self._tell_durable()

    def _tell_durable(self) -> None:
        waiting, self._durable = self._durable, []
        for lsn, future in waiting:
            if lsn > self.tail:
                self._durable.append((lsn, future))
            elif not future.done():
                future.set_result(None)

    def _break(self, error: PerdureError, cause: OperatorError) -> None:
        """Take back everything that is not on disk."""
        self._refuse_until_s = self._clock.monotonic() + RETRY_AFTER_FULL_S
        lost = [chunk for chunk in (self._flying, self._gathered) if chunk is not None]
        self._flying = None
        self._gathered = _Chunk()
        for chunk in reversed(lost):
            for oid in reversed(chunk.oids):
                self._take_back(oid)
        self._taken.clear()
        for source, (lsn, _) in list(self.outbox.items()):
            if lsn > self.tail:
                del self.outbox[source]
        if self._rotation is not None and not self._rotation.done():
            self._rotation.set_exception(cause)
            self._rotation = None
        durable, self._durable = self._durable, []
        for _, waiting in durable:
            if not waiting.done():
                waiting.set_exception(cause)
        # The host drops what is ahead of the disk before any caller hears of it: a caller may
        # ask again at once, and must not meet the old memory.
        self._on_broken(error)
        for chunk in lost:
            for output in chunk.outputs:
                _release(output, error)

    def _take_back(self, oid: int) -> None:
        for index in (self._recent, self._older):
            entries = index.get(oid)
            if entries:
                entries.pop()
                if not entries:
                    del index[oid]
                return

    # --- checkpoints

    async def rotate(self) -> int:
        """Draw the line of a checkpoint; gives the chunk that is the last one above it.

        Entries up to the line are in `older_entries` until `drop_older`. Raises what broke the
        commit of that chunk.
        """
        assert self._rotation is None and not self._older
        self._rotation = self._loop.create_future()
        self._schedule()
        rotation = self._rotation
        try:
            await rotation
        except BaseException:
            # Also when whoever asked is cancelled: before the line was drawn, or after it.
            if self._rotation is rotation:
                self._rotation = None
            self.keep_older()
            raise
        return self._line

    def _rotate(self) -> None:
        # At the start of a flush nothing is in flight, so that every entry appended so far is
        # either durable or in the chunk that is about to be written.
        rotation, self._rotation = self._rotation, None
        assert rotation is not None
        self._older, self._recent = self._recent, {}
        self._line = self.appended_lsn
        if self._line > self.tail:
            # Registered here and not by whoever awaits it: if this commit fails at once, the next
            # chunk has the same number and entries below the line.
            self._durable.append((self._line, rotation))
        elif not rotation.done():
            rotation.set_result(None)

    @property
    def older_entries(self) -> dict[int, list[bytes]]:
        """What a checkpoint is moving into history."""
        return self._older

    def outbox_upto(self, upto: int) -> list[bytes]:
        """The undelivered messages that were sent above the line of a checkpoint."""
        return [
            codec.write_message(message) for lsn, message in self.outbox.values() if lsn <= upto
        ]

    def drop_older(self, upto: int) -> None:
        """The checkpoint is on disk: its entries are in history now."""
        for oid in self.blobs.keys() & self._older.keys():
            self._drop_blobs(oid, codec.decode_entry(self._older[oid][-1]).seq)
        self._older = {}
        self.checkpoint = upto
        self.tail_bytes = sum(len(body) for entries in self._recent.values() for body in entries)
        self.tail_since_ns = self._clock.now_ns() if self.tail_bytes else 0

    def _drop_blobs(self, oid: int, upto: int) -> None:
        self.blobs[oid] = {name: seq for name, seq in self.blobs[oid].items() if seq > upto}
        if not self.blobs[oid]:
            del self.blobs[oid]

    def keep_older(self) -> None:
        """The checkpoint failed: its entries stay in the tail."""
        for oid, entries in self._older.items():
            self._recent[oid] = entries + self._recent.get(oid, [])
        self._older = {}

    @property
    def epoch(self) -> int:
        return self._epoch

    def idle(self) -> bool:
        """Whether nothing is on its way to the disk."""
        return self._flying is None and not self._gathered.frames and not self._gathered.outputs


def source_of(event: object) -> MessageId | None:
    """The message that an event delivers, if it is one."""
    return getattr(event, "source", None)


def _release(output: Output, error: PerdureError | None) -> None:
    # Each on its own: a socket that is gone must not keep the answers of the others.
    try:
        output.release(error)
    except Exception as failed:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an output could not be released", "exception": failed}
        )
