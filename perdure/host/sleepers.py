"""Objects that are not in memory and have something to do: when, and waking them then.

In memory are the times of the next minutes alone; those further ahead stay in the objects' rows,
and the store is asked in good time which of them have come near. What an entry of the log's tail
says comes before what the row says, which is as old as the last checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from perdure.errors import OperatorError
from perdure.host.alarms import FOREVER_NS, HORIZON_NS
from perdure.host.delivery import RETRY_S
from perdure.logs import logger

if TYPE_CHECKING:
    from perdure.host.host import Host


SCAN_OBJECTS = 100_000
"""So many sleeping objects are asked for at a time when the store is looked through."""


class Sleepers:
    """Who has to be woken before long."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.times: dict[int, int] = {}
        """Objects not in memory that have to be woken before long: when."""
        self._horizon_ns = HORIZON_NS if host.keeps_house else FOREVER_NS
        """How far ahead times are held in memory."""
        self._looking: asyncio.Task[None] | None = None

    async def recover(self, wake: Mapping[int, int]) -> None:
        """Take up what is owed: `wake` are the times that the log's tail tells."""
        await self._look(skip=wake.keys())
        for oid, wake_at in wake.items():
            self.add(oid, wake_at)

    def start(self) -> None:
        """Look into the store from now on, from time to time."""
        self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def add(self, oid: int, wake_at: int) -> None:
        """An object is not in memory (any more), and is to be woken then; 0: by an event alone."""
        if wake_at:
            self.times[oid] = wake_at
            self._host.alarms.set(oid, wake_at)
        else:
            self.times.pop(oid, None)

    def remove(self, oid: int) -> None:
        """An object is awake, or there is none."""
        self.times.pop(oid, None)

    def written(self, oid: int) -> None:
        """Its row is in the store: far ahead of its time it needs no memory here."""
        when = self.times.get(oid)
        if when is not None and when > self._host.clock.now_ns() + self._horizon_ns:
            del self.times[oid]

    def ring(self, oid: int, when: int) -> None:
        """An alarm has come due: of an object that sleeps, or of one in memory."""
        host = self._host
        if host.draining:
            return
        if host.log.refusing:
            # The disk is full: what fires now would be taken back at once, and ring again at once.
            asyncio.get_running_loop().call_later(RETRY_S, self.ring, oid, when)
            return
        activation = host.find(oid)
        if activation is not None:
            activation.ring(when)
        elif self.times.get(oid) == when:
            host.delivery.wake(oid)

    async def _keep_looking(self) -> None:
        host = self._host
        while True:
            await asyncio.sleep(HORIZON_NS / 2e9)
            try:
                await self._look(skip=host.live_oids() | host.log.dirty())
            except OperatorError as error:
                logger.warning("looking for due timers failed; it is tried again", error=str(error))

    async def _look(self, skip: Container[int]) -> None:
        host = self._host
        before = host.clock.now_ns() + self._horizon_ns
        limit = SCAN_OBJECTS
        while len(rows := await host.store.due([host.log.part], before, limit)) == limit:
            # The rows of those that have woken since are the first ones until a checkpoint.
            limit *= 2
        for row in rows:
            if row.oid not in skip and row.kind in host.kinds:
                self.add(row.oid, row.wake_at)
