"""Walks through an object's past: a copy of it as it was after any turn.

A walk begins at the newest snapshot before the turn and runs the turns from there on. On its way
it takes snapshots of its own, so that the next look begins near by. Built from any of them, or by
replay alone, the copy is the same. What an object holds in sets is walked in another order after
a trip through bytes, so a snapshot with sets counts only where the live object made that trip too.

Snapshots of suspended code, and those of earlier looks, are caches: on any doubt they are left
out and the walk begins further back. What then still diverges is told, never guessed.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from perdure.errors import DivergenceError, NotSerializable, PerdureError, StoreFull, UnknownTurn
from perdure.host.asking import Surroundings
from perdure.host.machine import Machine
from perdure.host.replay import replay_entries
from perdure.host.upgrades import begin_from, having, settle
from perdure.suspend import heap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.journal.entry import Entry
    from perdure.past.record import Record

SPACING = 1_000
"""Turns between two snapshots of a walk, where the object is small."""
KEPT_BYTES_MAX = 32 * 1024 * 1024
KEPT_MAX = 500
"""Bounds for the snapshots that walks keep of one object: beyond them, they are further apart."""


async def walk(record: Record, seq: int, surroundings: Surroundings | None = None) -> Machine:
    """A copy of the object as it was after turn `seq` (0: before the first).

    The caller lets go of it by `discard`. Raises UnknownTurn for a turn that is not there,
    DivergenceError where the code does not do any more what the journal says.
    """
    if not 0 <= seq <= record.last:
        raise UnknownTurn(
            f"{_address(record)} has no turn {seq}",
            hint=f"Its turns are 1 to {record.last}; 0 is before the first.",
        )
    upto = seq
    while True:
        snapshot = await record.snapshot(upto) if upto >= 0 else None
        machine = record.machine(surroundings)
        try:
            if snapshot is not None:
                begin_from(machine, snapshot.body, snapshot.seq)
            await _run(record, machine, seq, snapshot.seq if snapshot is not None else 0)
        except BaseException as error:
            machine.discard()
            if snapshot is None or not isinstance(error, PerdureError):
                raise
            if isinstance(error, UnknownTurn) or (
                snapshot.certain and isinstance(error, DivergenceError)
            ):
                raise
            # Its code may have changed, or the interpreter; what is further back decides.
            if not snapshot.certain:
                await record.distrust(snapshot)
            upto = snapshot.seq - 1
            continue
        return machine


async def _run(record: Record, machine: Machine, seq: int, begin: int) -> None:
    keeper = _Keeper(record, begin)
    async for page in record.pages(machine.seq, seq):
        await having(machine, functools.partial(keeper.replay, machine, page))
        # Others have their turn between two pages.
        await asyncio.sleep(0)
    await having(machine, functools.partial(settle, machine))
    await keeper.save()


class _Keeper:
    """Takes snapshots on the way."""

    def __init__(self, record: Record, begin: int) -> None:
        self._record = record
        self._newest = begin
        self._taken: list[tuple[int, bytes]] = []
        self._spacing = SPACING
        self._able = True

    def replay(self, machine: Machine, page: Sequence[Entry]) -> None:
        """Run a page, stopping where a snapshot is due."""
        # Begun a second time, where a version of the code had to be fetched: what ran, ran.
        page = [entry for entry in page if entry.seq > machine.seq]
        if not page:
            return
        begin = 0
        if self._able and page[-1].seq - self._newest > self._spacing:
            for i, entry in enumerate(page):
                # The snapshot is of the turn before this entry, and history has it for good.
                if not self._newest + self._spacing < entry.seq <= self._record.kept:
                    continue
                replay_entries(machine, page[begin:i])
                begin = i
                self._take(machine, entry)
                if not self._able:
                    break
        replay_entries(machine, page[begin:])

    def _take(self, machine: Machine, following: Entry) -> None:
        if machine.oid != self._record.oid:
            # Turns that a fork has from another object; what it keeps is its own.
            return
        try:
            body = heap.dump_heap(machine)
        except NotSerializable:
            # It waits in something that cannot be kept. It may be over in a while.
            self._newest = machine.seq
            return
        if heap.has_sets(body) and not following.reloaded:
            return
        self._newest = machine.seq
        self._taken.append((machine.seq, body))
        self._spacing = spacing_for(self._record.last, len(body))
        self._able = self._spacing <= self._record.last

    async def save(self) -> None:
        if self._taken:
            try:
                await self._record.keep(self._taken)
            except StoreFull:
                pass  # Only the next look is slower.


def spacing_for(last: int, size: int) -> int:
    """How far apart snapshots of `size` bytes are, in a past of `last` turns."""
    count = max(1, min(KEPT_MAX, KEPT_BYTES_MAX // max(size, 1)))
    spacing = SPACING
    while last // spacing > count:
        spacing *= 2
    return spacing


def _address(record: Record) -> str:
    return f"{record.kind.name}/{record.key}"
