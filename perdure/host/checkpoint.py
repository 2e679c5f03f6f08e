"""Checkpoints: entries move from the log into snapshots and history, and the log gets short again.

The order of writes is what makes a crash harmless at any point. First a line is drawn in the log
(`rotate`) and everything above it is on disk. Then, slice by slice, come snapshots and history
segments; an entry that is in history and still in the log is recognised by its seq and not run
twice. Last, one write drops the log above the line and replaces the stored outbox.

A snapshot may be of a later turn than the line; it is written only when that turn is on disk.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from perdure.clock import NS
from perdure.errors import CallError, OperatorError
from perdure.host.activation import State
from perdure.host.apart import Apart
from perdure.host.retention import cutoffs
from perdure.host.snapshots import (
    TURNS_BEHIND_BASE,
    newest_seq,
    promotable,
    take_snapshot,
    worth_it,
)
from perdure.journal import codec
from perdure.journal.entry import Call, Connected, Ended, Timetable
from perdure.journal.identity import first_name
from perdure.logs import logger
from perdure.ref import parse_address
from perdure.store.base import (
    Blob,
    CallRow,
    Checkpoint,
    ObjectRow,
    Pruning,
    Segment,
    Stored,
    Suspended,
)

if TYPE_CHECKING:
    from perdure.host.host import Host


SLICE_OBJECTS = 100
SLICE_BYTES = 256 * 1024
SEGMENT_ENTRIES = 1000
RETRY_S = 5.0
PRUNE_EVERY_NS = 3_600 * NS


class Checkpointer:
    """Starts a checkpoint when the tail is long or old, and one at the end."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.done = 0
        self._unpromoted: dict[int, int] = {}
        """Objects that did not get a newer base when they should, by how many turns they have to
        be behind it to be tried again: the trial replays all of them."""
        self._ended_ns = self._pruned_ns = host.clock.now_ns()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop watching, and make a last checkpoint."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.run()
        except OperatorError as error:
            logger.warning("the last checkpoint failed; the log has everything", error=str(error))

    async def _watch(self) -> None:
        settings = self._host.settings
        while True:
            await asyncio.sleep(0.25)
            log = self._host.log
            # Objects that hibernate wait for a checkpoint too: it takes them out of memory.
            since_ns = log.tail_since_ns or (self._ended_ns if self._host.stash else 0)
            age_ns = self._host.clock.now_ns() - since_ns
            old = since_ns and age_ns > settings.checkpoint_seconds * NS
            if log.tail_bytes < settings.checkpoint_bytes and not old:
                continue
            try:
                await self.run()
                await self._prune()
            except OperatorError as error:
                logger.warning("a checkpoint failed; it is tried again", error=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                # A bug of ours. Giving up would let the log grow without anybody noticing.
                logger.error("a checkpoint failed inside perdure", exc_info=error)
                await asyncio.sleep(RETRY_S)

    async def _prune(self) -> None:
        """Now and then, remove the history that is older than it is wanted."""
        host = self._host
        if host.clock.now_ns() - self._pruned_ns < PRUNE_EVERY_NS:
            return
        self._pruned_ns = host.clock.now_ns()
        before = cutoffs(host)
        if before:
            await host.store.prune(Pruning(host.log.part, host.log.epoch, before, apply=True))

    async def run_down(self, passes: int = 6, small_bytes: int = 64 * 1024) -> None:
        """Checkpoints until little is left to write: what comes meanwhile is less each time."""
        for _ in range(passes):
            await self.run()
            if self._host.log.tail_bytes < small_bytes:
                return

    async def run(self) -> None:
        """One checkpoint. Raises what the store raises; then the log is as long as before."""
        async with self._lock:
            await self._run()

    async def put(self, slice_: Checkpoint) -> None:
        """Write a slice of somebody else's, between two checkpoints. Raises as `run` does."""
        async with self._lock:
            await self._store(slice_)

    async def _run(self) -> None:
        log = self._host.log
        if not log.tail_bytes and not self._host.stash and log.idle():
            return
        upto = await log.rotate()
        try:
            await self._write(upto)
        except BaseException:
            log.keep_older()
            raise
        log.drop_older(upto)
        self.done += 1
        self._ended_ns = self._host.clock.now_ns()

    async def _write(self, upto: int) -> None:
        log = self._host.log
        for oids in self._slices():
            rows: list[ObjectRow] = []
            segments: list[Segment] = []
            suspended: list[Suspended] = []
            blobs: list[Blob] = []
            calls: list[tuple[int, list[CallRow]]] = []
            lsn = log.tail
            for oid in oids:
                entries = log.older_entries.get(oid, [])
                segments += _segments(oid, entries)
                row, stored, at = await self._row(oid, entries)
                lsn = max(lsn, at)
                rows.append(row)
                blobs += [
                    Blob(oid, name, seq)
                    for name, seq in log.blobs.get(oid, {}).items()
                    if seq <= row.last
                ]
                if stored is not None and stored.suspended is not None:
                    suspended.append(stored.suspended)
                open_, at = await self._host.register.open_at(oid)
                if open_ is not None:
                    lsn = max(lsn, at)
                    calls.append((oid, open_))
            await log.durable(lsn)
            forget = self._forgotten(rows)
            lasts = {row.oid: row.last for row in rows}
            promises, settled = self._host.open_promises.upto(lasts)
            await self._store(
                Checkpoint(
                    log.part,
                    log.epoch,
                    rows,
                    segments,
                    suspended=suspended,
                    forget=forget,
                    promises=promises,
                    settled=settled,
                    blobs=blobs,
                    indexed=self._host.index.upto(rows),
                    calls=calls,
                    failed=self._host.register.failed_upto(rows),
                )
            )
            self._host.open_promises.written(lasts)
            self._host.index.written(rows)
            self._host.register.written(rows, calls)
            caches = {one.oid: one.seq for one in suspended}
            for row in rows:
                self._written(row, caches.get(row.oid, 0))
            await self._promote(rows)
            # The others have their turn between two slices.
            await asyncio.sleep(0)
        await self._store(
            Checkpoint(
                log.part,
                log.epoch,
                upto=upto,
                outbox=log.outbox_upto(upto),
                forget_calls=self._host.register.forget_before(),
            )
        )

    def _slices(self) -> Iterator[list[int]]:
        older = self._host.log.older_entries
        # An object may have hibernated after its entries went to history.
        asleep = [oid for oid in self._host.stash if oid not in older]
        slice_: list[int] = []
        size = 0
        for oid, entries in [*older.items(), *((oid, []) for oid in asleep)]:
            slice_.append(oid)
            size += sum(map(len, entries))
            if len(slice_) >= SLICE_OBJECTS or size >= SLICE_BYTES:
                yield slice_
                slice_, size = [], 0
        if slice_:
            yield slice_

    async def _store(self, slice_: Checkpoint) -> None:
        if not await self._host.store.checkpoint(slice_):
            raise self._host.log.fenced()

    async def _snapshot(self, oid: int) -> tuple[Stored | None, int]:
        """A snapshot to write, and the chunk that has to be on disk before it."""
        host = self._host
        activation = host.find(oid)
        if (
            activation is not None
            and activation.state is State.ACTIVE
            and (worth_it(activation) or (host.draining and not activation.unkept))
        ):
            if isinstance(activation, Apart):
                stored = await activation.take(stays=True)
            else:
                stored = take_snapshot(host, activation, stays=True)
            if stored is not None:
                return stored, activation.last_lsn
        # Of an object that hibernates, or did so since the last checkpoint.
        return host.stash.get(oid), 0

    async def _row(self, oid: int, entries: list[bytes]) -> tuple[ObjectRow, Stored | None, int]:
        """The row of an object, the snapshot in it, and the chunk that has to be on disk before.

        A snapshot may be older than the newest entry: the object has woken again, and runs. Then
        when to wake it, and whether it is there at all, is what the entries say.
        """
        host = self._host
        before = await host.store.load(host.log.part, oid)
        known = before.row if before is not None else None
        last = codec.decode_entry(entries[-1]) if entries else None
        last_seq = last.seq if last is not None else known.last if known is not None else 0
        stored, lsn = await self._snapshot(oid)
        gone = _is_gone(entries, known is None or known.status == "deleted")
        if gone and (stored is None or newest_seq(stored) < last_seq):
            # With its last life an object's snapshot goes. What is left of it is kept in one of
            # its own, and that can only be had from memory.
            await self._wake(oid)
            stored, lsn = await self._snapshot(oid)
        snapshot = stored.row if stored is not None else None
        if stored is not None and newest_seq(stored) >= last_seq:
            wake_at, status = stored.row.wake_at, stored.row.status
            connections = stored.row.connections
        elif last is not None:
            wake_at, status, connections = last.wake_at, "", last.connections
        else:
            assert known is not None
            wake_at, status, connections = known.wake_at, known.status, known.connections
        if known is not None:
            kind, key, created = known.kind, known.key, known.created
        else:
            first = codec.decode_entry(entries[0])
            kind, key = parse_address(first.address)
            kind = first_name(kind)
            created = first.time
        if last is not None:
            updated, version = last.time, last.version
        else:
            assert known is not None
            updated, version = known.updated, known.version
        quarantined = host.quarantine.objects.get(oid)
        row = ObjectRow(
            oid=oid,
            kind=kind,
            key=key,
            # Any number but 0 keeps the snapshot that is there, where this row brings none.
            seq=snapshot.seq if snapshot is not None and snapshot.snapshot is not None else 1,
            last=last_seq,
            wake_at=wake_at,
            status="quarantined" if quarantined is not None else status,
            detail=quarantined or "",
            created=created,
            updated=updated,
            version=version,
            snapshot=snapshot.snapshot if snapshot is not None else None,
            connections=connections,
        )
        return row, stored, lsn

    async def _wake(self, oid: int) -> None:
        try:
            await self._host.wake(oid)
        except CallError:
            pass  # It is quarantined, and stays as it is.

    def _written(self, row: ObjectRow, cache_seq: int) -> None:
        host = self._host
        activation = host.find(row.oid)
        newest = max(cache_seq, row.seq if row.snapshot is not None else 0)
        stash = host.stash.get(row.oid)
        if stash is not None and newest_seq(stash) <= newest:
            del host.stash[row.oid]
        if activation is not None:
            if row.snapshot is not None:
                activation.base_seq = max(activation.base_seq, row.seq)
            activation.snapshot_seq = max(activation.snapshot_seq, newest)
            if activation.taken is not None and newest_seq(activation.taken) <= newest:
                activation.taken = None
        else:
            host.sleepers.written(row.oid)

    def _forgotten(self, rows: list[ObjectRow]) -> list[tuple[int, int]]:
        """With no history wanted, what lies at or before the base that a row brings."""
        host = self._host
        return [
            (row.oid, row.seq)
            for row in rows
            if row.snapshot is not None
            and row.kind in host.kinds
            and (host.kinds[row.kind].history or host.settings.history) == "none"
        ]

    def far_behind(self, oid: int) -> int:
        """So many turns behind its base an object gets a newer one, if it is never at rest."""
        return self._unpromoted.get(oid, TURNS_BEHIND_BASE)

    async def _promote(self, rows: list[ObjectRow]) -> None:
        """Give objects that are never at rest a newer base."""
        host, log = self._host, self._host.log
        for row in rows:
            if row.snapshot is not None or row.kind not in host.kinds:
                continue
            if host.nursery is not None and host.kinds[row.kind].isolation is not None:
                continue  # To try a base is to run the object's code, and that is not for here.
            stored = await host.store.load(log.part, row.oid)
            if stored is None or stored.suspended is None:
                continue
            behind = stored.row.last - stored.row.seq
            if behind < self.far_behind(row.oid):
                continue
            if not await promotable(host, stored):
                self._unpromoted[row.oid] = behind * 2
                continue
            self._unpromoted.pop(row.oid, None)
            cache = stored.suspended
            # What was replayed is on disk, and nothing but a checkpoint writes rows.
            base = dataclasses.replace(stored.row, seq=cache.seq, snapshot=cache.body)
            await self._store(
                Checkpoint(log.part, log.epoch, [base], forget=self._forgotten([base]))
            )
            self._written(base, 0)


def _is_gone(entries: list[bytes], before: bool) -> bool:
    """Whether the object is deleted after these turns, if `before` them it was (or never was)."""
    for body in reversed(entries):
        entry = codec.decode_entry(body)
        if isinstance(entry.event, Ended):
            return True
        if isinstance(entry.event, (Call, Connected, Timetable)) and not entry.undone:
            return False
    return before


def _segments(oid: int, entries: list[bytes]) -> Iterator[Segment]:
    """Entries as segments, so small that one turn of a long history is soon found.

    They are cut by number: a checkpoint that is tried again cuts at the same places, and its
    segments replace those of the first try.
    """
    for begin in range(0, len(entries), SEGMENT_ENTRIES):
        piece = entries[begin : begin + SEGMENT_ENTRIES]
        first, last = codec.decode_entry(piece[0]), codec.decode_entry(piece[-1])
        body = codec.write_chunk(codec.frame(oid, entry) for entry in piece)
        yield Segment(oid, first.seq, last.seq, body, last.time)
