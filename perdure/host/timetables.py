"""Objects that run by themselves: those the App names, and what `@every` and `@cron` say for them.

At a start each of them is looked at, and one that never was comes into being, without any caller.
What its class declares is compared with what it has; only where that differs it gets a turn. An
object that is named no more loses what was declared when it wakes, and so before its next tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.host import schedules
from perdure.journal.entry import Tick, Timetable
from perdure.journal.identity import oid_of

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


class Timetables:
    """What each named object should have."""

    def __init__(self, host: Host, objects: Sequence[tuple[str, str]]) -> None:
        self._host = host
        self._wanted: dict[int, list[Tick]] = {}
        self._starting: dict[int, tuple[str, str]] = {}
        for kind, key in objects:
            ticks = [
                Tick(
                    id_,
                    handler,
                    rhythm.every_ns,
                    rhythm.cron,
                    rhythm.tz,
                    rhythm.missed,
                    rhythm.window_ns,
                )
                for id_, handler, rhythm in host.kinds[kind].declared
            ]
            if ticks:
                self._wanted[oid_of(kind, key)] = ticks
                self._starting[oid_of(kind, key)] = kind, key

    def start(self) -> None:
        """Have each of them in memory once, so that it is compared."""
        for oid, (kind, key) in list(self._starting.items()):
            if self._host.quarantine.refusal(oid) is None:
                self._host.activate(kind, key, oid)

    def compare(self, activation: Activation) -> None:
        """An object has been loaded."""
        machine = activation.machine
        if machine.timetable is None and machine.oid not in self._wanted:
            return
        starting = self._starting.pop(machine.oid, None) is not None
        if machine.instance is None and not starting:
            return
        wanted = self._wanted.get(machine.oid, [])
        if schedules.declared(machine) != wanted and not self._host.draining:
            # Before all that waits: what is due by the old timetable must not run any more.
            activation.put_first(Timetable(wanted))
