"""Which objects stay in memory: idle ones hibernate, and under a bound the longest idle go first.

Leaving memory loses nothing: what an object is, is snapshot and journal. A snapshot taken on the
way out waits in the host's stash for the next checkpoint, and until then its entries are in the
log's tail, so a crash in between costs a replay and no more.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from typing import TYPE_CHECKING

from perdure.clock import NS
from perdure.host.activation import Activation, State
from perdure.host.apart import Apart
from perdure.host.snapshots import REPLAY_MAX, take_snapshot

if TYPE_CHECKING:
    from perdure.host.host import Host

_SWEEP_S = 1.0
_TICK_NS = NS // 20

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Residency:
    """Looks at each activation when it may have become idle, and at the bounds once a second."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._looks: dict[int, list[Activation]] = {}
        """Each activation once, by the tick in which to look at it: a list costs it 8 bytes."""
        self._ticks: list[int] = []
        """The ticks of `_looks`, as a heap."""
        self._task: asyncio.Task[None] | None = None
        self.hibernated = 0
        self.evicted = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._sweep())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def add(self, activation: Activation) -> None:
        """An activation came to life."""
        self._look_at(activation, activation.used_ns + self._idle_ns(activation))

    def _look_at(self, activation: Activation, when_ns: int) -> None:
        tick = when_ns // _TICK_NS + 1
        looks = self._looks.get(tick)
        if looks is None:
            self._looks[tick] = [activation]
            heapq.heappush(self._ticks, tick)
        else:
            looks.append(activation)

    def _idle_ns(self, activation: Activation) -> int:
        own = activation.machine.kind.hibernate_after
        return int((own if own is not None else self._host.settings.hibernate_after) * NS)

    async def _sweep(self) -> None:
        while True:
            self.hibernate_idle()
            self._keep_bounds()
            # Short waits when something is due soon, so that a small hibernate_after is honoured.
            now_ns = self._host.clock.now_ns()
            due_s = (self._ticks[0] * _TICK_NS - now_ns) / NS if self._ticks else _SWEEP_S
            await asyncio.sleep(min(_SWEEP_S, max(0.005, due_s)))

    def hibernate_idle(self, limit: int = 200) -> None:
        """Let go what has been idle long enough; a bounded number at once."""
        now = self._host.clock.now_ns()
        while limit > 0 and self._ticks and self._ticks[0] * _TICK_NS <= now:
            looks = self._looks[self._ticks[0]]
            while looks and limit > 0:
                limit -= 1
                self._look(looks.pop(), now)
            if not looks:
                del self._looks[heapq.heappop(self._ticks)]

    def _look(self, activation: Activation, now: int) -> None:
        if activation.state is State.LOADING:
            self._look_at(activation, now + NS)
        if activation.state is not State.ACTIVE:
            return
        idle_until = activation.used_ns + self._idle_ns(activation)
        if idle_until > now:
            self._look_at(activation, idle_until)
        elif self.let_go(activation):
            self.hibernated += 1
        else:
            self._look_at(activation, now + self._idle_ns(activation))

    def _keep_bounds(self) -> None:
        settings = self._host.settings
        over = 0
        live = self._host.live_count
        if settings.max_live_objects:
            over = live - settings.max_live_objects
        if settings.max_memory_bytes and _resident_bytes() > settings.max_memory_bytes:
            # A tenth at a time: the size of the process follows with a delay.
            over = max(over, live // 10 + 1)
        if over <= 0:
            return
        candidates = [activation for activation in self._host.live() if activation.evictable()]
        for activation in heapq.nsmallest(over, candidates, key=lambda one: one.used_ns):
            if self.let_go(activation):
                self.evicted += 1

    def let_go(self, activation: Activation) -> bool:
        """Let an activation leave memory, if nothing is lost by it; whether it did."""
        if not activation.evictable():
            return False
        host = self._host
        machine = activation.machine
        if isinstance(activation, Apart):
            activation.leave()
            return False
        if machine.seq > activation.snapshot_seq:
            stored = take_snapshot(host, activation, stays=False)
            if stored is not None:
                host.stash[machine.oid] = stored
            elif machine.seq - activation.snapshot_seq > REPLAY_MAX:
                # It cannot be kept as bytes, and a replay would cost too much at each wake.
                return False
        host.left(activation)
        activation.retire()
        return True


def _resident_bytes() -> int:
    # Linux alone has it for the asking; elsewhere the bound on live objects is the one to set.
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        return 0
