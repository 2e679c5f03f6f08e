"""The index of Indexed attributes: by their values, objects are found without waking any.

The values travel in the entry of the turn that changed one, so they are there exactly if the turn
is. The store has them as of each object's last checkpoint; what the tail says beyond that is kept
here in memory, and found again in the entries after a crash.

A class whose Indexed attributes are others than when the store was written is gone through once
at the start, object by object; until that is done, whoever wants to find something waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import BadArguments, CallError, OperatorError, UnknownKind
from perdure.indexed import index_key, ranges, split_name
from perdure.journal.entry import Entry
from perdure.logs import logger
from perdure.store.base import Checkpoint, Condition, IndexedRow, ObjectFilter, ObjectRow, meets

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host
    from perdure.host.machine import Machine


LIMIT_MAX = 10_000
_PAGE = 200

Values = dict[str, bytes]


class Seen:
    """The values of an object in memory, as of its last turn."""

    __slots__ = ("keys", "raw")

    def __init__(self, machine: Machine) -> None:
        self.raw = _raw(machine)
        self.keys = _keys(machine, self.raw)

    def change(self, machine: Machine) -> Values | None:
        """All values, if one has changed since this was asked last."""
        raw = _raw(machine)
        if len(raw) == len(self.raw) and all(map(_same, raw.values(), self.raw.values())):
            return None
        self.raw = raw
        keys = _keys(machine, raw)
        if keys == self.keys:
            return None
        self.keys = keys
        return keys


def _same(one: object, other: object) -> bool:
    return one is other


def _raw(machine: Machine) -> dict[str, Any]:
    if machine.instance is None:
        return {}
    values = machine.instance.__dict__
    return {name: values[name] for name in machine.kind.indexed if name in values}


def _keys(machine: Machine, raw: Mapping[str, Any]) -> Values:
    found: Values = {}
    for name, value in raw.items():
        try:
            found[name] = index_key(value)
        except Exception as error:  # A value's own class may raise anything.
            logger.warning(
                "an Indexed attribute has a value that is in no index",
                object=machine.address,
                attribute=name,
                why=str(error),
            )
    return found


class Index:
    """What the tail says of indexed values, over what the store says; and the search."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tail: dict[int, list[tuple[int, Values]]] = {}
        """By object: (turn, its values from there on), in their order."""
        self._building: dict[str, asyncio.Future[None]] = {}
        """Classes whose objects are being gone through."""

    def note(self, oid: int, seq: int, values: Values) -> None:
        """A turn has changed an object's values."""
        self._tail.setdefault(oid, []).append((seq, values))

    def recover(self, oid: int, entry: Entry) -> None:
        """An entry that an earlier owner left in the tail."""
        if entry.indexed is not None:
            self.note(oid, entry.seq, entry.indexed)

    def take_back(self, oid: int, last: int) -> None:
        """The object's turns behind `last` were not written."""
        self._keep(oid, [one for one in self._tail.get(oid, ()) if one[0] <= last])

    # --- at a checkpoint

    def upto(self, rows: Sequence[ObjectRow]) -> list[IndexedRow]:
        """The values that these objects have at their last turn in history, where they changed."""
        found = []
        for row in rows:
            values = [values for seq, values in self._tail.get(row.oid, ()) if seq <= row.last]
            if values:
                found.append(IndexedRow(row.oid, row.kind, row.key, values[-1]))
        return found

    def written(self, rows: Sequence[ObjectRow]) -> None:
        """What `upto` gave is in the store."""
        for row in rows:
            self._keep(row.oid, [one for one in self._tail.get(row.oid, ()) if one[0] > row.last])

    def _keep(self, oid: int, left: list[tuple[int, Values]]) -> None:
        if left:
            self._tail[oid] = left
        else:
            self._tail.pop(oid, None)

    # --- the search

    async def find(
        self, kind: str, where: Mapping[str, Any], limit: int, after: str | None
    ) -> list[ObjectRow]:
        """Objects of a class by key; a row is as of the last checkpoint, or made for a new one.

        Raises UnknownKind, BadArguments.
        """
        host = self._host
        if kind not in host.kinds:
            raise UnknownKind(f"no class {kind!r} is served here")
        conditions = self._conditions(kind, where)
        if not 0 < limit <= LIMIT_MAX:
            raise BadArguments(f"find: limit is from 1 to {LIMIT_MAX}, not {limit}")
        while kind in self._building:
            await asyncio.shield(self._building[kind])
        # What is told must not be taken back by a crash.
        lsn = host.log.appended_lsn
        found = await self._in_tail(kind, conditions, after)
        position = after
        while True:
            rows = await host.store.find(kind, conditions, position, limit)
            found |= {row.key: row for row in rows if row.oid not in self._tail}
            if len(rows) < limit:
                break
            position = rows[-1].key
            if sum(key <= position for key in found) >= limit:
                break
        await host.log.durable(lsn)
        return [found[key] for key in sorted(found)[:limit]]

    def _conditions(self, kind: str, where: Mapping[str, Any]) -> list[Condition]:
        known = self._host.kinds[kind].indexed
        if not where:
            raise BadArguments(
                "find: there is no condition", hint="A list of all objects: perdure ls"
            )
        conditions = []
        for name, value in where.items():
            attribute, how = split_name(name, known)
            conditions.append(Condition(attribute, ranges(how, value)))
        # The one that says most is looked up, the others are looked at.
        return sorted(conditions, key=lambda one: any(high != low + b"\0" for low, high in one[1]))

    async def _in_tail(
        self, kind: str, conditions: Sequence[Condition], after: str | None
    ) -> dict[str, ObjectRow]:
        host = self._host
        found = {}
        for oid, noted in list(self._tail.items()):
            seq, values = noted[-1]
            if not meets(values, conditions):
                continue
            identity = await host.identity(oid)
            if identity is None or identity[0] != kind or (after and identity[1] <= after):
                continue
            last = host.log.last_entry(oid)
            seq, time = (last.seq, last.time) if last is not None else (seq, 0)
            found[identity[1]] = ObjectRow(
                oid, *identity, 0, seq, 0, "", "", time, time, host.version, None
            )
        return found

    # --- a class that has become Indexed, or otherwise than before

    async def start(self) -> None:
        """See which classes the store's index is not complete for, and begin to go through them."""
        host = self._host
        if not any(kind.indexed for kind in host.kinds.values()):
            return
        known = await host.store.indexed_kinds()
        for kind in host.kinds.values():
            names = ",".join(sorted(kind.indexed))
            if known.get(kind.name, "") != names:
                self._building[kind.name] = asyncio.get_running_loop().create_future()
                host.keep(self._build(kind.name, names))

    async def _build(self, kind: str, names: str) -> None:
        done = self._building[kind]
        try:
            if await self._go_through(kind):
                if not self._host.draining:
                    # What was noted of objects in the tail is in no entry.
                    await self._host.checkpointer.run()
                await self._store(kinds=[(kind, names)])
        except OperatorError as error:
            logger.warning("the index is not complete", kind=kind, why=str(error))
        finally:
            del self._building[kind]
            if not done.done():
                done.set_result(None)

    async def _go_through(self, kind: str) -> bool:
        """Write the values of all objects of a class; whether all could be read."""
        host = self._host
        whole = True
        after: tuple[str, str] | None = None
        while True:
            rows = await host.store.scan(ObjectFilter(kind), after, _PAGE)
            for row in rows:
                whole = await self._add(row.oid) and whole
            if len(rows) < _PAGE:
                break
            after = rows[-1].kind, rows[-1].key
        for oid in host.log.dirty():
            identity = await host.identity(oid)
            if identity is not None and identity[0] == kind:
                whole = await self._add(oid) and whole
        return whole

    async def _add(self, oid: int) -> bool:
        host = self._host
        if host.draining:
            return False
        asleep = host.find(oid) is None
        try:
            activation = await host.wake(oid)
        except CallError:
            return False
        if activation is None:
            return True
        machine = activation.machine
        if oid in self._tail:
            pass
        elif oid in host.log.dirty():
            self.note(oid, machine.seq, Seen(machine).keys)
        else:
            # Nothing of it is under way, so that no later turn's values come first.
            row = IndexedRow(oid, machine.kind.name, machine.key, Seen(machine).keys)
            await self._store([row])
        if asleep:
            # Coming into memory, it may have gone over to newer code in a turn.
            await host.log.durable(activation.last_lsn)
            host.residency.let_go(activation)
        return True

    async def _store(
        self, rows: Sequence[IndexedRow] = (), kinds: Sequence[tuple[str, str]] = ()
    ) -> None:
        log = self._host.log
        slice_ = Checkpoint(log.part, log.epoch, indexed=rows, indexed_kinds=kinds)
        if not await self._host.store.checkpoint(slice_):
            raise log.fenced()


def changed(activation: Activation, seq: int) -> Values | None:
    """What a turn has changed of an object's values, noted."""
    machine = activation.machine
    if activation.indexed is None:
        activation.indexed = Seen(machine)
        return None
    values = activation.indexed.change(machine)
    if values is not None:
        activation.host.index.note(machine.oid, seq, values)
    return values
