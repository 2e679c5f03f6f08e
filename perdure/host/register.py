"""Which calls are open, and which failed, of all objects, asleep or not.

Nothing is written down for a call that ends well in the turn it came in. Of those that wait, an
object in memory knows itself; the store has the rest as of each object's last checkpoint. What
left memory since then is noted here, until a checkpoint has written it. After a crash, objects
with entries in the tail may have calls that nobody noted: the first who asks wakes them.

Calls that failed are noted when they do, some for each object, and stay for `call_retention`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.clock import NS
from perdure.errors import PerdureError
from perdure.host.activation import State
from perdure.host.failures import decode_failure
from perdure.journal.entry import Answered, Call, Entry
from perdure.store.base import CallFilter, CallRow, ObjectRow

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host
    from perdure.host.machine import Machine

RUNNING, QUEUED, FAILED, CANCELLED = "running", "queued", "failed", "cancelled"
OPEN = (RUNNING, QUEUED)

FAILED_OF_AN_OBJECT = 20
FAILED_AT_ALL = 10_000
"""Bounds of what is noted between two checkpoints; the journal has them all."""

_FAILURE_MAX = 500
_WOKEN_AT_ONCE = 1000


def _nothing(machine: Machine) -> dict[str, str]:
    return {}


class Register:
    """What memory knows of calls, over what the store knows."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asleep: dict[int, list[CallRow]] = {}
        """Open calls of objects that left memory, where the store has others."""
        self._unsure: set[int] = set()
        """Objects not in memory of which it is not known what is open."""
        self._failed: dict[int, list[tuple[int, CallRow]]] = {}
        """By object: (turn, the call)."""
        self._failed_count = 0
        self._begun: dict[str, tuple[int, Call]] = {}
        """While the tail is read: calls that have begun in it, and when."""
        self.words: Callable[[Machine], dict[str, str]] = _nothing
        """What each running call of an object waits for; set by who can tell (sight/calls.py)."""

    # --- what happens

    def arrived(self, activation: Activation) -> bool:
        """An object is in memory; whether the store may have open calls of it."""
        machine = activation.machine
        oid = machine.oid
        known = oid in self._asleep or oid in self._unsure
        self._asleep.pop(oid, None)
        self._unsure.discard(oid)
        return known or machine.running is not None or machine.queue is not None

    def left(self, activation: Activation) -> None:
        """An object leaves memory; nothing of it is on its way to the disk."""
        machine = activation.machine
        oid = machine.oid
        waits = machine.running is not None or machine.queue is not None
        if not (waits or activation.listed):
            return
        host = self._host
        if oid in host.stash or oid in host.log.dirty():
            # It is written at the next checkpoint, and its calls with it.
            self._asleep[oid] = open_calls(machine, self.words(machine) if waits else {})

    def fell(self, oid: int) -> None:
        """An object was thrown out of memory: what is open follows from what is on disk."""
        self._asleep.pop(oid, None)
        self._unsure.add(oid)

    def failed(self, activation: Activation) -> None:
        """Calls have failed in the object's last turn."""
        machine = activation.machine
        for event, since, code, text in machine.failed or ():
            row = _row(machine, event, CANCELLED if code == CANCELLED else FAILED, since)
            self._note(
                machine.seq,
                row._replace(
                    ended=machine.now_ns,
                    failure=text[:_FAILURE_MAX],
                    unheard=_is_unheard(event),
                ),
            )

    def _note(self, seq: int, row: CallRow) -> None:
        noted = self._failed.setdefault(row.oid, [])
        noted.append((seq, row))
        self._failed_count += 1
        if len(noted) > FAILED_OF_AN_OBJECT:
            del noted[0]
            self._failed_count -= 1
        while self._failed_count > FAILED_AT_ALL:
            oldest = next(iter(self._failed))
            self._failed_count -= len(self._failed.pop(oldest))

    def take_back(self, oid: int, last: int) -> None:
        """The object's turns behind `last` were not written."""
        self._keep(oid, [one for one in self._failed.get(oid, ()) if one[0] <= last])

    def _keep(self, oid: int, left: list[tuple[int, CallRow]]) -> None:
        self._failed_count += len(left) - len(self._failed.get(oid, ()))
        if left:
            self._failed[oid] = left
        else:
            self._failed.pop(oid, None)

    # --- after a crash

    def recover(self, oid: int, entry: Entry) -> None:
        """An entry that an earlier owner left in the tail."""
        event = entry.event
        if type(event) is Call and len(entry.commands) == 1:
            [command] = entry.commands
            if type(command) is Answered and command.id == event.id and command.ok:
                return
        self._unsure.add(oid)
        if type(event) is Call:
            self._begun[event.id] = entry.time, event
        for command in entry.commands:
            if type(command) is Answered:
                begun = self._begun.pop(command.id, None)
                if not command.ok:
                    self._note(entry.seq, _failed_then(oid, entry, command, begun))

    async def recovered(self) -> None:
        """All entries were told: complete what they did not say."""
        self._begun.clear()
        for oid, noted in list(self._failed.items()):
            identity = await self._host.identity(oid)
            kind, key = identity if identity is not None else ("", "")
            known = {}
            if any(not row.handler for _, row in noted):
                rows = await self._host.store.calls(CallFilter(OPEN, oid=oid), None, 1000)
                known = {row.id: row for row in rows}
            self._failed[oid] = [
                (seq, _completed(row, known.get(row.id), kind, key)) for seq, row in noted
            ]

    # --- at a checkpoint

    async def open_at(self, oid: int) -> tuple[list[CallRow] | None, int]:
        """All open calls of an object, to be written, and the chunk that has to be on disk before.

        None: the store has them.
        """
        host = self._host
        if oid in self._unsure and host.find(oid) is None:
            await self._wake(oid)
        activation = host.find(oid)
        if activation is not None and activation.state is State.ACTIVE:
            rows = open_calls(activation.machine)
            if not rows and not activation.listed:
                return None, 0
            return rows, activation.last_lsn
        return self._asleep.get(oid), 0

    def failed_upto(self, rows: Sequence[ObjectRow]) -> list[CallRow]:
        """Calls of these objects that failed up to their last turn in history."""
        return [
            call for row in rows for seq, call in self._failed.get(row.oid, ()) if seq <= row.last
        ]

    def written(
        self, rows: Sequence[ObjectRow], calls: Iterable[tuple[int, list[CallRow]]]
    ) -> None:
        """What `open_at` and `failed_upto` gave is in the store."""
        for oid, open_ in calls:
            if self._asleep.get(oid) is open_:
                del self._asleep[oid]
            activation = self._host.find(oid)
            if activation is not None and activation.state is State.ACTIVE:
                activation.listed = bool(open_)
        for row in rows:
            noted = self._failed.get(row.oid)
            if noted:
                self._keep(row.oid, [one for one in noted if one[0] > row.last])

    def forget_before(self) -> int:
        """Calls that ended before that time are no longer listed."""
        host = self._host
        return max(0, host.clock.now_ns() - int(host.settings.call_retention * NS))

    async def _wake(self, oid: int) -> None:
        try:
            await self._host.wake(oid)
        except PerdureError:
            pass  # It is quarantined, or cannot be read; then its calls are as they were
        self._unsure.discard(oid)

    # --- the list

    async def list(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> list[CallRow]:
        """Calls that are open or failed, the newest first, behind `after`."""
        host = self._host
        for oid in list(self._unsure)[:_WOKEN_AT_ONCE]:
            await self._wake(oid)
        # What is told must not be taken back by a crash.
        lsn = host.log.appended_lsn
        found: dict[str, CallRow] = {}
        for row in (*self._running(wanted, after, limit), *self._noted()):
            if wanted.fits(row) and (after is None or (row.since, row.id) < after):
                found[row.mark] = row
        position = after
        while True:
            rows = await host.store.calls(wanted, position, limit)
            for row in rows:
                if row.mark not in found and (row.ended or not self._knows(row.oid)):
                    found[row.mark] = row
            if len(rows) < limit:
                break
            position = (rows[-1].since, rows[-1].id)
            if sum((row.since, row.id) >= position for row in found.values()) >= limit:
                break
        await host.log.durable(lsn)
        newest = sorted(found.values(), key=lambda row: (row.since, row.id), reverse=True)
        return newest[:limit]

    def _running(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> Sequence[CallRow]:
        """The newest open calls of objects in memory. Rows are made of those alone that may be
        wanted: there may be a hundred thousand."""
        found: list[tuple[int, str, Machine, Call, str]] = []
        for activation in self._host.live():
            machine = activation.machine
            if (
                (machine.running is None and machine.queue is None)
                or activation.state is not State.ACTIVE
                or (wanted.kind is not None and wanted.kind != machine.kind.name)
                or (wanted.oid is not None and wanted.oid != machine.oid)
            ):
                continue
            for since, call, status in _under_way(machine):
                if (
                    since >= wanted.since
                    and (after is None or (since, call.id) < after)
                    and (wanted.statuses is None or status in wanted.statuses)
                    and (not wanted.late or 0 < call.deadline < wanted.late)
                    and not wanted.unheard
                ):
                    found.append((since, call.id, machine, call, status))
        newest = heapq.nlargest(limit, found, key=lambda one: one[:2])
        return [_row(machine, call, status, since) for since, _, machine, call, status in newest]

    def _noted(self) -> Iterable[CallRow]:
        for rows in self._asleep.values():
            yield from rows
        for noted in self._failed.values():
            for _, row in noted:
                yield row

    def _knows(self, oid: int) -> bool:
        """Whether an object's open calls are known here, so that the store's do not count."""
        activation = self._host.find(oid)
        if activation is not None and activation.state is State.ACTIVE:
            return True
        return oid in self._asleep


def open_calls(machine: Machine, words: dict[str, str] | None = None) -> list[CallRow]:
    """The calls of an object that have not ended."""
    words = words or {}
    return [
        _row(machine, call, status, since)._replace(waiting=words.get(call.id, ""))
        for since, call, status in _under_way(machine)
    ]


def _under_way(machine: Machine) -> Iterable[tuple[int, Call, str]]:
    """(since, the call, its status)."""
    for running in (machine.running or {}).values():
        yield running.since, running.event, RUNNING
    if machine.queue:
        # When it came is not kept: it waits at least as long as who runs before it was awaited.
        holder = machine.holder.id if machine.holder is not None else ""
        first = (machine.running or {}).get(holder)
        since = first.since if first is not None else machine.now_ns
        for call in machine.queue:
            yield since, call, QUEUED


def _row(machine: Machine, event: Call, status: str, since: int) -> CallRow:
    # In a copy of an object, calls have the ids that they had in the original.
    own = event.id.startswith(f"{machine.oid:016x}-")
    return CallRow(
        since,
        event.id,
        event.id if own else f"{event.id}@{machine.oid:x}",
        machine.oid,
        machine.kind.name,
        machine.key,
        event.handler,
        event.caller,
        status,
        deadline=event.deadline,
    )


def _is_unheard(event: Call) -> bool:
    """Whether nobody is told how a call ends."""
    return bool(event.schedule or (event.caller and not event.answer_to))


def _failed_then(
    oid: int, entry: Entry, answer: Answered, begun: tuple[int, Call] | None
) -> CallRow:
    status, text = FAILED, ""
    if answer.body:
        failure = decode_failure(answer.body)
        status = CANCELLED if failure.code == CANCELLED else FAILED
        text = f"{failure.error}: {failure.message}"
    since, call = begun if begun is not None else (entry.time, None)
    return CallRow(
        since,
        answer.id,
        answer.id,
        oid,
        "",
        "",
        call.handler if call is not None else "",
        call.caller if call is not None else "",
        status,
        ended=entry.time,
        failure=text[:_FAILURE_MAX],
        unheard=call is not None and _is_unheard(call),
    )


def _completed(row: CallRow, known: CallRow | None, kind: str, key: str) -> CallRow:
    if known is not None and not row.handler:
        row = row._replace(since=known.since, handler=known.handler, caller=known.caller)
    return row._replace(kind=kind, key=key)
