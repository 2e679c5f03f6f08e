"""A store in plain dicts: the model the others are compared with, and the disk of simulations.

It promises what base.py says, but for the disk: it lives as long as this Python object. `open` may
be called again at any time, as after a crash: what was committed is there, and the owners from
before are deposed by the next `claim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from perdure.store.base import (
    Batch,
    CallFilter,
    CallRow,
    Checkpoint,
    Claim,
    Condition,
    IndexedRow,
    Layout,
    ObjectFilter,
    ObjectRow,
    PromiseFilter,
    PromiseRow,
    Pruned,
    Pruning,
    Segment,
    Stored,
    StoreStats,
    Suspended,
    Waypoint,
    meets,
    new_layout,
)

R = TypeVar("R")


@dataclass
class Partition:
    """A partition's fence, its log behind the checkpoint, and its outbox."""

    epoch: int = 0
    tail: int = 0
    checkpoint: int = 0
    log: dict[int, bytes] = field(default_factory=dict)
    outbox: list[bytes] = field(default_factory=list)


class MemoryStore:
    """See `Store` for what the methods promise. All futures are done when they are returned."""

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or new_layout()
        self.partitions = {part: Partition() for part in range(self.layout.partitions)}
        self._rows: dict[int, tuple[int, ObjectRow]] = {}
        self._segments: dict[int, dict[int, Segment]] = {}
        self._suspended: dict[int, Suspended] = {}
        self._promises: dict[str, PromiseRow] = {}
        self._calls: dict[str, CallRow] = {}
        self._indexed: dict[int, IndexedRow] = {}
        self._indexed_kinds: dict[str, str] = {}
        self._versions: dict[str, bytes] = {}
        self._versions_put: dict[str, int] = {}
        self._blobs: dict[tuple[int, str], tuple[int, int, bytes]] = {}
        self._waypoints: dict[tuple[int, int], Waypoint] = {}
        self._commits = 0
        self._committed_bytes = 0

    async def open(self, node: str) -> Layout:
        """Never refused: a crashed owner had no chance to close."""
        return self.layout

    async def claim(self, parts: Sequence[int]) -> list[Claim]:
        """Raise the epochs."""
        missing = set(parts) - set(self.partitions)
        if missing:
            raise ValueError(f"the store has no partition {min(missing)}")
        claims = []
        for part in parts:
            partition = self.partitions[part]
            partition.epoch += 1
            claims.append(
                Claim(
                    part,
                    partition.epoch,
                    partition.tail,
                    partition.checkpoint,
                    list(partition.outbox),
                )
            )
        return claims

    def commit(self, batches: Sequence[Batch]) -> asyncio.Future[frozenset[int]]:
        """Append at once."""
        accepted = set()
        for batch in batches:
            if self._may_append(batch):
                partition = self.partitions[batch.part]
                partition.tail = batch.lsn
                partition.log[batch.lsn] = batch.chunk
                accepted.add(batch.part)
                self._committed_bytes += len(batch.chunk)
        self._commits += 1
        return _done(frozenset(accepted))

    async def tail(self, part: int, after: int) -> list[tuple[int, bytes]]:
        """The log."""
        partition = self.partitions[part]
        first = max(after, partition.checkpoint) + 1
        return [(lsn, partition.log[lsn]) for lsn in range(first, partition.tail + 1)]

    def load(self, part: int, oid: int) -> asyncio.Future[Stored | None]:
        """A row with the segments behind its snapshot."""
        home, row = self._rows.get(oid, (None, None))
        if row is None or home != part:
            return _done(None)
        suspended = self._suspended.get(oid)
        newest = suspended.seq if suspended is not None else row.seq
        return _done(Stored(row, self._segments_behind(oid, newest), suspended))

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        """Write a slice at once."""
        if not self._owns(slice_.part, slice_.epoch):
            return _done(False)
        for oid in slice_.drop:
            for table in (self._rows, self._segments, self._suspended, self._indexed):
                table.pop(oid, None)
            self._calls = {mark: row for mark, row in self._calls.items() if row.oid != oid}
            self._forget_waypoints(oid, 0, 1 << 62)
            self._promises = {t: one for t, one in self._promises.items() if one.oid != oid}
            for place in [p for p, (_, seq, _) in self._blobs.items() if p[0] == oid and seq]:
                del self._blobs[place]
        for row in slice_.rows:
            if row.snapshot is not None or row.seq == 0 or row.status == "deleted":
                self._suspended.pop(row.oid, None)
            self._rows[row.oid] = (slice_.part, self._merged(row))
        for suspended in slice_.suspended:
            self._suspended[suspended.oid] = suspended
        for segment in slice_.segments:
            self._segments.setdefault(segment.oid, {})[segment.first] = segment
        for oid, name, seq in slice_.blobs:
            if (oid, name) in self._blobs:
                part, _, body = self._blobs[oid, name]
                self._blobs[oid, name] = (part, seq, body)
        for oid, upto in slice_.forget:
            kept = self._segments.get(oid, {})
            self._segments[oid] = {n: one for n, one in kept.items() if one.last > upto}
            gone = [
                place
                for place, (_, seq, _) in self._blobs.items()
                if place[0] == oid and 0 < seq <= upto
            ]
            for place in gone:
                del self._blobs[place]
            self._forget_waypoints(oid, 0, upto)
        for token in slice_.settled:
            self._promises.pop(token, None)
        self._put_calls(slice_)
        for indexed in slice_.indexed:
            self._indexed[indexed.oid] = indexed
        self._indexed_kinds.update(slice_.indexed_kinds)
        self._promises |= {promise.token: promise for promise in slice_.promises}
        if slice_.upto is not None:
            partition = self.partitions[slice_.part]
            assert partition.checkpoint <= slice_.upto <= partition.tail, slice_
            partition.checkpoint = slice_.upto
            partition.log = {n: chunk for n, chunk in partition.log.items() if n > slice_.upto}
            partition.outbox = list(slice_.outbox)
        return _done(True)

    async def due(self, parts: Sequence[int], before: int, limit: int) -> list[ObjectRow]:
        """By looking at every row."""
        waiting = [
            replace(row, snapshot=None)
            for part, row in self._rows.values()
            if part in parts and 0 < row.wake_at <= before and row.status == ""
        ]
        return sorted(waiting, key=lambda row: (row.wake_at, row.oid))[:limit]

    async def connected(self, part: int, after: int, limit: int) -> list[ObjectRow]:
        """By looking at every row."""
        found = [
            replace(row, snapshot=None)
            for home, row in self._rows.values()
            if home == part and row.connections > 0 and row.oid > after
        ]
        return sorted(found, key=lambda row: row.oid)[:limit]

    async def history(self, part: int, oid: int, after: int, limit: int) -> list[Segment]:
        """An object's segments."""
        return self._segments_behind(oid, after)[:limit]

    async def put_waypoints(self, waypoints: Sequence[Waypoint]) -> None:
        """By turn."""
        for waypoint in waypoints:
            self._waypoints[waypoint.oid, waypoint.seq] = waypoint

    async def waypoint(self, oid: int, upto: int, version: str) -> Waypoint | None:
        """By looking at every one."""
        found = [
            one
            for one in self._waypoints.values()
            if one.oid == oid and one.seq <= upto and one.version == version
        ]
        return max(found, key=lambda one: one.seq, default=None)

    async def waypoints(self, oid: int) -> list[tuple[int, int]]:
        """By looking at every one."""
        return sorted(
            (one.seq, len(one.body)) for one in self._waypoints.values() if one.oid == oid
        )

    async def drop_waypoints(self, oid: int, first: int, end: int) -> None:
        """At once."""
        self._forget_waypoints(oid, first, end)

    def _forget_waypoints(self, oid: int, first: int, end: int) -> None:
        for place in [p for p in self._waypoints if p[0] == oid and first <= p[1] < end]:
            del self._waypoints[place]

    async def scan(
        self, wanted: ObjectFilter, after: tuple[str, str] | None, limit: int
    ) -> list[ObjectRow]:
        """By looking at every row."""
        found = [
            replace(row, snapshot=None)
            for _, row in self._rows.values()
            if wanted.fits(row) and (after is None or (row.kind, row.key) > after)
        ]
        return sorted(found, key=lambda row: (row.kind, row.key))[:limit]

    async def promises(
        self, wanted: PromiseFilter, after: tuple[int, str] | None, limit: int
    ) -> list[PromiseRow]:
        """By looking at every row."""
        found = [
            row
            for row in self._promises.values()
            if wanted.fits(row) and (after is None or (row.since, row.token) > after)
        ]
        return sorted(found)[:limit]

    def _put_calls(self, slice_: Checkpoint) -> None:
        replaced = {oid for oid, _ in slice_.calls}
        self._calls = {
            mark: row for mark, row in self._calls.items() if row.ended or row.oid not in replaced
        }
        rows = [row for _, open_ in slice_.calls for row in open_]
        self._calls |= {row.mark: row for row in (*rows, *slice_.failed)}
        if slice_.forget_calls:
            self._calls = {
                mark: row
                for mark, row in self._calls.items()
                if not 0 < row.ended < slice_.forget_calls
            }

    async def calls(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> list[CallRow]:
        """By looking at every row."""
        found = [
            row
            for row in self._calls.values()
            if wanted.fits(row) and (after is None or (row.since, row.id) < after)
        ]
        return sorted(found, key=lambda row: (row.since, row.id), reverse=True)[:limit]

    async def find(
        self, kind: str, conditions: Sequence[Condition], after: str | None, limit: int
    ) -> list[ObjectRow]:
        """By looking at every row."""
        found = [
            replace(row, snapshot=None)
            for oid, (_, row) in self._rows.items()
            if row.kind == kind
            and row.status != "deleted"
            and (after is None or row.key > after)
            and oid in self._indexed
            and meets(self._indexed[oid].values, conditions)
        ]
        return sorted(found, key=lambda row: row.key)[:limit]

    async def indexed(self, oid: int) -> dict[str, bytes]:
        """The values, or none."""
        row = self._indexed.get(oid)
        return dict(row.values) if row is not None else {}

    async def indexed_kinds(self) -> dict[str, str]:
        """What is complete."""
        return dict(self._indexed_kinds)

    def put_blob(
        self, part: int, epoch: int, oid: int, name: str, body: bytes
    ) -> asyncio.Future[bool]:
        """Keep it at once."""
        if not self._owns(part, epoch):
            return _done(False)
        self._blobs[oid, name] = (part, 0, body)
        return _done(True)

    def get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        """What was put, or None."""
        home, _, body = self._blobs.get((oid, name), (None, 0, None))
        return _done(body if home == part else None)

    async def unnamed_blobs(self, part: int) -> list[tuple[int, str]]:
        """By looking at every blob."""
        return sorted(
            place for place, (home, seq, _) in self._blobs.items() if home == part and seq == 0
        )

    async def drop_blobs(self, part: int, epoch: int, blobs: Sequence[tuple[int, str]]) -> bool:
        """Remove them at once."""
        if not self._owns(part, epoch):
            return False
        for place in blobs:
            self._blobs.pop(place, None)
        return True

    async def erase(self, part: int, epoch: int, oid: int, row: ObjectRow | None, now: int) -> bool:
        """Forget it."""
        if not self._owns(part, epoch):
            return False
        self._blobs = {place: blob for place, blob in self._blobs.items() if place[0] != oid}
        self._promises = {t: one for t, one in self._promises.items() if one.oid != oid}
        self._calls = {id_: one for id_, one in self._calls.items() if one.oid != oid}
        for table in (self._rows, self._segments, self._suspended, self._indexed):
            table.pop(oid, None)
        self._forget_waypoints(oid, 0, 2**63 - 1)
        if row is not None:
            self._rows[oid] = part, row
        return True

    async def compact(self) -> None:
        """There is no free space."""

    async def prune(self, asked: Pruning) -> Pruned | None:
        """Forget what is old."""
        if not self._owns(asked.part, asked.epoch):
            return None
        objects = segments = size = 0
        for oid, (home, row) in self._rows.items():
            until, most = asked.before.get(row.kind, 0), asked.over.get(row.kind)
            if home != asked.part or row.snapshot is None:
                continue
            of_object = self._segments.get(oid, {})
            old: list[Segment] = []
            newer = 0
            for one in sorted(of_object.values(), key=lambda one: -one.last):
                is_old = 0 < one.until < until or (most is not None and newer >= most and newer)
                if is_old and one.last <= row.seq:
                    old.append(one)
                newer += len(one.body)
            objects += bool(old)
            segments += len(old)
            size += sum(len(one.body) for one in old)
            for one in old if asked.apply else ():
                del of_object[one.first]
            if asked.apply and old:
                last = max(one.last for one in old)
                self._forget_waypoints(oid, 0, last + 1)
                for place in [
                    place
                    for place, (_, seq, _) in self._blobs.items()
                    if place[0] == oid and 0 < seq <= last
                ]:
                    del self._blobs[place]
        return Pruned(objects, segments, size)

    async def put_version(self, version: str, bundle: bytes, now: int) -> None:
        """Once for each version."""
        self._versions.setdefault(version, bundle)
        self._versions_put.setdefault(version, now)

    def take_in_versions(self, bundles: Mapping[str, bytes]) -> None:
        """Have code at hand that came from elsewhere, as an export brings it."""
        self._versions.update(bundles)

    async def versions(self) -> list[tuple[str, int, int]]:
        """In the order they came."""
        return [
            (version, self._versions_put[version], len(bundle))
            for version, bundle in self._versions.items()
        ]

    async def get_version(self, version: str) -> bytes | None:
        """The bundle, or None."""
        return self._versions.get(version)

    async def close(self) -> None:
        """Nothing is held."""

    async def hand_over(self) -> None:
        """Nothing is held."""

    def stats(self) -> StoreStats:
        """Figures since the store was made."""
        return StoreStats(self._commits, self._committed_bytes, 0.0, True)

    def _owns(self, part: int, epoch: int) -> bool:
        return self.partitions[part].epoch == epoch

    def _may_append(self, batch: Batch) -> bool:
        partition = self.partitions[batch.part]
        return self._owns(batch.part, batch.epoch) and batch.lsn == partition.tail + 1

    def _merged(self, row: ObjectRow) -> ObjectRow:
        """The row as it is kept, with what it leaves as it was."""
        if row.snapshot is not None or row.seq == 0 or row.status == "deleted":
            return row
        _, stored = self._rows.get(row.oid, (None, None))
        if stored is None:
            return replace(row, seq=0)
        return replace(row, seq=stored.seq, snapshot=stored.snapshot)

    def _segments_behind(self, oid: int, after: int) -> list[Segment]:
        segments = self._segments.get(oid, {})
        return sorted(segment for segment in segments.values() if segment.last > after)


def _done(result: R) -> asyncio.Future[R]:
    future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
