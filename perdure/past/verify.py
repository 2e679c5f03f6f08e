"""Verify: what new code does with the histories that are there, before it is deployed.

Each object is looked at on copies; nothing is written. Two things are done with it:

- The turns it has had since its code last changed are run again, by the new code. Each has to ask
  for what the journal says; else the new code *diverges* from the old at that turn.
- It is brought over to the new code as a deploy would, `on_upgrade` included. Suspended code
  *moves* or *stays*, or the object is *held* whole on its version; if this *fails*, it would be set
  aside. The state it then has is compared with the one that the new code came to by itself:
  where they *differ*, data that is there is not as the new code would have made it.

With code that has not changed both show what hides from a single process: values that depend on
the clock, on chance, on the order of sets, on other objects' doings or on what ran before.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.errors import DivergenceError, JournalCorrupt, PerdureError, UpgradeFailed
from perdure.host.asking import Surroundings
from perdure.host.machine import Machine
from perdure.host.replay import replay_entries
from perdure.host.upgrades import (
    Versions,
    begin_from,
    bring_copy_over,
    having,
    settle,
)
from perdure.journal import codec
from perdure.journal.entry import Entry, Upgraded
from perdure.journal.identity import oid_of
from perdure.kind import Kind
from perdure.past.state import changes, state_of
from perdure.ref import format_address, parse_address
from perdure.store.base import Layout, ObjectFilter, Store, Stored
from perdure.suspend.editions import Live

_KEPT_MAX = 50_000
"""Turns of one object that are held in memory: most objects are read from the store once."""
_CHANGES_MAX = 20
_STEP_BY_STEP_MAX = 5_000
"""Turns that are compared one by one, to find the first after which the states differ."""


class Finding(msgspec.Struct, omit_defaults=True):
    """What the new code would do to one object."""

    address: str
    turns: int = 0
    version: str = ""
    """Of the code that it is on."""
    diverges: dict[str, Any] | None = None
    """`seq, expected, found`: the first turn that comes out otherwise."""
    differs: dict[str, Any] | None = None
    """`seq` (the first turn behind which it does, where that can be told) and `changes`."""
    fails: str = ""
    """Why it could not be loaded, or brought over."""
    held: str = ""
    """Why it would stay whole on its version until its code has come to its end."""
    moves: bool = False
    """It has suspended code, all of which goes over."""
    stays: list[dict[str, str]] = []
    """Suspended code that goes on in its own version."""
    under: str = ""
    """Empty, or `another hash seed`."""

    @property
    def bad(self) -> bool:
        """Whether somebody should look at it before the deploy."""
        return bool(self.diverges or self.differs or self.fails)

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to say about it."""
        return not (self.bad or self.held or self.moves or self.stays)


class Source:
    """The objects of a store, as of the moment it is opened."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self.store = store
        self.layout = layout
        self._tail: dict[int, list[Entry]] = {}
        self._latest: tuple[int, list[Entry]] = (-1, [])
        """The history of the object that was read last, if it is not too long."""

    async def read_tail(self) -> None:
        """Take in what no checkpoint has moved yet."""
        for part in range(self.layout.partitions):
            for lsn, chunk in await self.store.tail(part, 0):
                place = f"journal of partition {part}, chunk {lsn}"
                for oid, entry in codec.read_entries(chunk, place):
                    self._tail.setdefault(oid, []).append(entry)

    async def names(self, kind: str | None) -> list[tuple[str, str]]:
        """(class, key) of all objects, or of one class."""
        found: dict[tuple[str, str], None] = {}
        after: tuple[str, str] | None = None
        while rows := await self.store.scan(ObjectFilter(kind), after, 1000):
            found.update({(row.kind, row.key): None for row in rows})
            after = rows[-1].kind, rows[-1].key
        for entries in self._tail.values():
            if entries[0].address:
                name = parse_address(entries[0].address)
                if kind in (None, name[0]):
                    found[name] = None
        return list(found)

    async def load(self, oid: int) -> Stored | None:
        return await self.store.load(0, oid)

    def tail_of(self, oid: int) -> list[Entry]:
        return self._tail.get(oid, [])

    async def pages(self, oid: int, after: int) -> AsyncIterator[list[Entry]]:
        """All turns behind `after`, a few at a time."""
        if self._latest[0] == oid:
            rest = [entry for entry in self._latest[1] if entry.seq > after]
            if rest:
                yield rest
            return
        self._latest = (-1, [])
        whole: list[Entry] = []
        begin = after
        while segments := await self.store.history(0, oid, after, 16):
            page = [
                entry
                for segment in segments
                for _, entry in codec.read_entries(segment.body, f"history of {oid:016x}")
                if entry.seq > after
            ]
            if not page:
                break
            yield page
            after = page[-1].seq
            if len(whole) < _KEPT_MAX:
                whole += page
        rest = [entry for entry in self.tail_of(oid) if entry.seq > after]
        if rest:
            yield rest
        whole += rest
        if begin == 0 and len(whole) < _KEPT_MAX:
            self._latest = oid, whole


class _Range(NamedTuple):
    """The turns that the new code is tried on."""

    since: int
    """The turn before the first of them: where the object's code last changed."""
    last: int
    version: str


class Verifier:
    """Looks at objects with new code. One for a process: it makes that code the newest."""

    def __init__(self, source: Source, live: Live, *, whole: bool = False) -> None:
        """`whole`: all turns there are, also those of code that was replaced since."""
        self._source = source
        self._live = live
        self._whole = whole
        store, layout = source.store, source.layout
        outer = asyncio.get_running_loop()
        self.by_version = Surroundings(layout.secret, outer, blob=self._blob)
        self.by_version.versions = Versions(store, live)
        self.by_new = Surroundings(layout.secret, outer, blob=self._blob)
        self.turns = 0

    def _blob(self, oid: int, name: str) -> bytes:
        future = self._source.store.get_blob(0, oid, name)
        sealed = future.result()
        if sealed is None:
            raise JournalCorrupt(
                f"the blob {name} of object {oid:016x} is missing",
                hint="perdure fsck says what else is.",
            )
        return codec.read_blob(sealed, name)

    async def look_at(self, kind_name: str, key: str) -> Finding:
        """Verify one object."""
        finding = Finding(format_address(kind_name, key))
        kind = self._live.kinds.find(kind_name)
        if kind is None:
            finding.fails = f"no class {kind_name!r} is served by the new code"
            return finding
        try:
            await self._look_at(finding, kind, key, oid_of(kind_name, key))
        except DivergenceError as error:
            finding.diverges = _told(error)
        except PerdureError as error:
            finding.fails = error.message
        return finding

    async def _look_at(self, finding: Finding, kind: Kind, key: str, oid: int) -> None:
        stored = await self._source.load(oid)
        if stored is not None and stored.row.status == "deleted" and not self._source.tail_of(oid):
            return
        range_, kept = await self._range(oid)
        if range_ is None:
            return
        finding.version, finding.turns = range_.version, range_.last
        over = await self._bring_over(finding, kind, key, oid, stored)
        begin = await self._begin(kind, key, oid, stored, range_, kept)
        if begin is None:
            _discard(over)
            return
        machine, after = begin
        seq = machine.seq
        try:
            async for page in self._source.pages(oid, after):
                entries = [entry for entry in page if entry.seq > machine.seq]
                await self._run(machine, entries)
            if over is not None and machine.seq == range_.last:
                found = changes(state_of(over), state_of(machine))
                if found:
                    first = await self._first(kind, key, oid, stored, range_, kept, seq)
                    finding.differs = {
                        "seq": first,
                        "changes": [str(change) for change in found[:_CHANGES_MAX]],
                    }
        finally:
            self.turns += machine.seq - seq
            machine.discard()
            _discard(over)

    async def _range(self, oid: int) -> tuple[_Range | None, int]:
        """What to try, and the first turn that is still there."""
        since, last, version, first = 0, 0, "", 0
        async for page in self._source.pages(oid, 0):
            first = first or page[0].seq
            for entry in page:
                if entry.version != version:
                    if version and not self._whole:
                        since = entry.seq if type(entry.event) is Upgraded else entry.seq - 1
                    version = entry.version
                last = entry.seq
        return (_Range(since, last, version) if last else None), first

    async def _begin(
        self,
        kind: Kind,
        key: str,
        oid: int,
        stored: Stored | None,
        range_: _Range,
        first: int,
    ) -> tuple[Machine, int] | None:
        """A copy as it was before the first turn of the range, under the new code."""
        machine = Machine(kind, key, oid, self.by_version)
        base = stored.row if stored is not None and stored.row.snapshot is not None else None
        if first > 1:
            # The turns before are no longer kept.
            if base is None or base.seq < first - 1:
                return None
            begin_from(machine, base.snapshot or b"", base.seq, range_.version)
        if range_.since > machine.seq:
            async for page in self._source.pages(oid, machine.seq):
                entries = [entry for entry in page if entry.seq <= range_.since]
                if not entries:
                    break
                run = _replaying(machine, entries)
                await having(machine, run)
        await having(machine, lambda: settle(machine))
        if machine.kind is not kind or machine.surroundings is not self.by_new:
            machine = await having(machine, lambda: _under(machine, kind, self.by_new))
        return machine, machine.seq

    async def _run(self, machine: Machine, entries: Sequence[Entry]) -> None:
        for run in _between_upgrades(entries):
            if isinstance(run, Entry):
                # What that upgrade did is not the new code's doing, nor is it undone by it.
                machine.seq += 1
                machine.now_ns = max(machine.now_ns, run.time)
            else:
                replay_entries(machine, run)

    async def _bring_over(
        self, finding: Finding, kind: Kind, key: str, oid: int, stored: Stored | None
    ) -> Machine | None:
        """A copy as a deploy would make it; None where it would not go over."""
        machine = Machine(kind, key, oid, self.by_version)
        after = 0
        if stored is not None:
            cache = stored.suspended
            body = cache.body if cache is not None else stored.row.snapshot
            if body is not None:
                after = cache.seq if cache is not None else stored.row.seq
                hint = stored.row.version if after == stored.row.last else ""
                begin_from(machine, body, after, hint)
        async for page in self._source.pages(oid, after):
            await having(machine, _replaying(machine, page))
        waits = bool(machine.tasks)
        try:
            over = await having(machine, lambda: bring_copy_over(machine, kind))
        except UpgradeFailed as error:
            finding.fails = error.message
            machine.discard()
            return None
        finding.held = over.held
        finding.stays = over.stays
        waits = waits or bool(over.machine.tasks)
        finding.moves = waits and not over.held and not over.stays
        if over.machine is not machine:
            _discard(machine)
        return over.machine

    async def _first(
        self,
        kind: Kind,
        key: str,
        oid: int,
        stored: Stored | None,
        range_: _Range,
        first: int,
        begin: int,
    ) -> int | None:
        """The first turn behind which old and new code have another state."""
        if range_.last - begin > _STEP_BY_STEP_MAX or range_.version == self._live.version:
            return None
        made = await self._begin(kind, key, oid, stored, range_, first)
        if made is None:
            return None
        new = made[0]
        old = Machine(kind, key, oid, self.by_version)
        try:
            async for page in self._source.pages(oid, 0):
                for entry in page:
                    await having(old, _replaying(old, [entry]))
                    if entry.seq > new.seq:
                        await self._run(new, [entry])
                        if changes(state_of(old), state_of(new)):
                            return entry.seq
        except PerdureError:
            return None
        finally:
            new.discard()
            old.discard()
        return None


def _under(machine: Machine, kind: Kind, surroundings: Surroundings) -> Machine:
    """The same memory under other code, without an upgrade."""
    from perdure.suspend import heap

    fresh = Machine(kind, machine.key, machine.oid, surroundings)
    if machine.seq:
        heap.load_heap(fresh, heap.dump_heap(machine), machine.kind.version)
    machine.discard()
    return fresh


def _replaying(machine: Machine, entries: Sequence[Entry]) -> Callable[[], int]:
    return lambda: replay_entries(machine, entries)


def _between_upgrades(entries: Sequence[Entry]) -> Iterator[Sequence[Entry] | Entry]:
    begin = 0
    for i, entry in enumerate(entries):
        if type(entry.event) is Upgraded:
            if i > begin:
                yield entries[begin:i]
            yield entry
            begin = i + 1
    if begin < len(entries):
        yield entries[begin:]


def _discard(machine: Machine | None) -> None:
    if machine is not None:
        machine.discard()


def _told(error: DivergenceError) -> dict[str, Any]:
    return {"seq": error.seq, "expected": error.expected, "found": error.found}


def collect() -> None:
    """Garbage of copies that were let go, between two objects."""
    gc.collect(1)
