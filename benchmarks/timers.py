"""A million pending timers: does a start notice them, and does it fire the others as fast?

The store holds a million sleeping objects, each with a timer: some are due together, the others in
months. It is filled with rows of one object's snapshot, since a million real calls would take
longer than all other benchmarks. The yardstick is the same without those that are not due.
And objects that are awake, with a thousand timers each that are due at one moment.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import inside
from benchmarks.app import Alarm
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, at_most, median, rate
from perdure.clock import NS, RealClock, Timer
from perdure.host.snapshots import take_snapshot
from perdure.journal.identity import oid_of
from perdure.node import Node
from perdure.store.base import Checkpoint

PENDING = 1_000_000
DUE = 20_000
AWAKE, EACH = 100, 1000
_DAY_NS = 86_400 * NS
_SLICE = 2000


class ShiftedClock(RealClock):
    """The machine's clock, set forward when the measurement wants the timers to be due."""

    ahead_ns = 0

    def now_ns(self) -> int:  # type: ignore[override]
        return RealClock.now_ns() + self.ahead_ns

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        return _Polling(self, when_ns, callback)


class _Polling:
    """Looks at the clock again and again, since it may be set forward at any moment."""

    def __init__(self, clock: ShiftedClock, when_ns: int, callback: Callable[[], None]) -> None:
        self._clock, self._when_ns, self._callback = clock, when_ns, callback
        self._arm()

    def _arm(self) -> None:
        delay = max(0.0, (self._when_ns - self._clock.now_ns()) / NS)
        self._handle = asyncio.get_running_loop().call_later(min(delay, 0.02), self._look)

    def _look(self) -> None:
        if self._clock.now_ns() >= self._when_ns:
            self._callback()
        else:
            self._arm()

    def cancel(self) -> None:
        self._handle.cancel()


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """The start, and both rates."""
    pending = 50_000 if quick else PENDING
    # Once: to fill the store takes longer than to measure it.
    found = [(in_child("timers", "measure", pending), in_child("timers", "measure", 0))]
    start, bare = (median(one[n]["start_s"] for one in found) for n in (0, 1))
    yield Figure(
        f"start with {pending:,} sleeping objects that have a timer each",
        f"{max(0.0, start - bare):.2f} s more",
        None,
        [Beside("the start without them", f"{bare:.2f} s", start / bare)],
        [at_most(start - bare, 0.5, "s more")],
        f"{DUE:,} of them due at once",
        {"start_s": [one[0]["start_s"] for one in found]},
    )
    a_second, alone = (median(one[n]["rate"] for one in found) for n in (0, 1))
    yield Figure(
        f"timers of sleeping objects fired, {pending:,} more pending",
        rate(a_second),
        median(one[0]["cpu_us"] for one in found),
        [Beside("the same with none pending", rate(alone), a_second / alone)],
        [at_least(a_second / alone, 0.8, "× without them")],
        "each wakes its object: a read of the store, a turn, its entry on disk",
        {"rate": [one[0]["rate"] for one in found], "alone": [one[1]["rate"] for one in found]},
    )
    awake = [in_child("timers", "measure_awake") for _ in range(1 if quick else rounds)]
    a_second = median(one["rate"] for one in awake)
    yield Figure(
        f"timers fired, {AWAKE * EACH:,} at one moment in {AWAKE} objects that are awake",
        rate(a_second),
        median(one["cpu_us"] for one in awake),
        [],
        [at_least(a_second, 20_000, "/s")],
        "by self.schedule, each a call of its own; setting one: "
        f"{median(one['set_us'] for one in awake):.1f} µs",
        {"rate": [one["rate"] for one in awake]},
    )


# --- asleep


def measure(pending: int) -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return inside.run(_measure(directory, pending))


async def _measure(directory: str, pending: int) -> dict[str, float]:
    clock = ShiftedClock()
    node = await inside.start_node(directory, clock)
    await Alarm.at("model").set(1, 1.0 * 86_400)
    await _fill(node, pending)
    await node.drain()
    clock.ahead_ns = _DAY_NS + 3600 * NS
    watch = inside.Watch()
    node = await inside.start_node(directory, clock)
    start_s = 1 / watch.stop(1)["rate"]
    watch = inside.Watch()
    await _until(lambda: node.host.log.entries >= DUE)
    found = watch.stop(DUE)
    await node.drain()
    return {**found, "start_s": start_s}


async def _fill(node: Node, pending: int) -> None:
    """Copies of one object under other keys: `DUE` that are due in a day, the others later."""
    host = node.host
    activation = host.at("Alarm", "model")
    assert activation is not None
    stored = take_snapshot(host, activation, stays=True)
    assert stored is not None
    row = stored.row
    total = DUE + pending
    for first in range(0, total, _SLICE):
        rows = [
            dataclasses.replace(
                row,
                oid=oid_of("Alarm", f"copy-{n}"),
                key=f"copy-{n}",
                last=row.seq,
                wake_at=row.wake_at if n < DUE else row.wake_at + (1 + n % 300) * _DAY_NS,
            )
            for n in range(first, min(total, first + _SLICE))
        ]
        assert await node.store.checkpoint(Checkpoint(host.log.part, host.log.epoch, rows))
        await asyncio.sleep(0)


# --- awake


def measure_awake() -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return inside.run(_measure_awake(directory))


async def _measure_awake(directory: str) -> dict[str, float]:
    clock = ShiftedClock()
    node = await inside.start_node(directory, clock)
    keys = [f"key-{n}" for n in range(AWAKE)]
    watch = inside.Watch()
    for key in keys:
        await Alarm.at(key).set(EACH, 86_400.0)
    set_us = watch.stop(AWAKE * EACH)["cpu_us"]
    before = node.host.log.entries
    clock.ahead_ns = _DAY_NS
    watch = inside.Watch()
    await _until(lambda: node.host.log.entries >= before + AWAKE)
    found = watch.stop(AWAKE * EACH)
    assert await Alarm.at("key-0").count() == EACH
    await node.drain()
    return {**found, "set_us": set_us}


async def _until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.002)
