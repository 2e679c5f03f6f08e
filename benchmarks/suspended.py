"""Handlers in the middle of a wait: as bytes and back, asleep on the disk, and woken in time.

The handler waits in a helper, so that two frames of the app are suspended, and asyncio's under
them. Its objects leave memory while they wait. Three processes follow on one data directory: one
puts 100,000 of them to sleep for a day, one looks what they cost it while they do, and one starts
when their time has almost come: then all of them are due at once.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import perdure
from benchmarks import inside
from benchmarks.app import Sleeper
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, at_most, median, micro, rate
from benchmarks.servers import check_proc
from perdure.clock import NS, RealClock, Timer
from perdure.host.machine import Machine
from perdure.suspend import heap


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Bytes and back; then a crowd that sleeps, and wakes."""
    check_proc()
    found = [in_child("suspended", "bytes_and_back") for _ in range(rounds)]
    plain = median(one["plain"] for one in found)
    for name, key in (("capture", "dump"), ("rebuild", "load")):
        cost = median(one[key] for one in found)
        first = f"; {micro(found[0]['first'])} with the trial that each place in code has once"
        beyond = found[0]["bytes"] - found[0]["state"]
        yield Figure(
            f"{name} a handler suspended in two frames",
            micro(cost),
            cost,
            [Beside("pickle.dumps and loads of its attributes", micro(plain), cost / plain)],
            [at_most(cost, 200, "µs"), at_most(beyond, 2048, "bytes beyond its attributes")],
            f"{found[0]['bytes']:.0f} bytes, {found[0]['state']:.0f} of them its attributes"
            + (first if key == "dump" else ""),
        )
    yield _crowd(1 if quick else rounds, 10_000 if quick else 100_000)


def _crowd(rounds: int, objects: int) -> Figure:
    found = [_round(objects) for _ in range(rounds)]
    middle = {name: median(one[name] for one in found) for name in found[0]}
    return Figure(
        f"{objects:,} sleepers woken at their time, from the disk to the end of their wait",
        rate(middle["rate"]),
        middle["cpu_us"],
        [],
        [at_least(middle["rate"], 5000, "/s"), at_most(middle["memory"], _MEMORY_MAX, "bytes")],
        f"all due in the same moment; while they sleep {middle['memory']:.1f} bytes of memory "
        f"each, {middle['disk']:,.0f} on disk with their history and what the log has left",
        {name: [one[name] for one in found] for name in middle},
    )


# None of them is in memory. This is what 100,000 may differ in by chance: pages of SQLite's cache.
_MEMORY_MAX = 10


def _round(objects: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        disk: float = in_child("suspended", "fall_asleep", directory, objects)
        with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as empty:
            alone: int = in_child("suspended", "grown_at_start", empty)
        held: int = in_child("suspended", "grown_at_start", directory)
        woken: dict[str, float] = in_child("suspended", "wake_up", directory, objects)
    return {"disk": disk, "memory": (held - alone) / objects} | woken


# Far enough ahead that the node holds no time of theirs in memory.
_SLEEP_S = 86_400


class Ahead(RealClock):
    """The clock of the machine, but about a day later: a few seconds before a moment."""

    def __init__(self, until_ns: int, seconds: int) -> None:
        self._ahead_ns = until_ns - RealClock.now_ns() - seconds * NS

    def now_ns(self) -> int:  # type: ignore[override]
        return RealClock.now_ns() + self._ahead_ns

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        return super().call_at(when_ns - self._ahead_ns, callback)


def fall_asleep(directory: str, objects: int) -> float:
    """In a process of its own: a crowd in the directory; bytes on disk for each."""
    inside.run(_fall_asleep(directory, objects))
    size = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
    return size / objects


async def _fall_asleep(directory: str, objects: int) -> None:
    node = await inside.start_node(directory)
    # For all of them the same moment.
    until = node.clock.now_ns() // NS + _SLEEP_S
    (Path(directory) / "until").write_text(str(until))
    for first in range(0, objects, 1000):
        await asyncio.gather(
            *(
                perdure.send(Sleeper.at(f"sleeper-{n}").nap_until, float(until))
                for n in range(first, min(first + 1000, objects))
            )
        )
        await node.host.log.durable(node.host.log.appended_lsn)
        for activation in node.host.live():
            node.host.residency.let_go(activation)
        await node.host.checkpointer.run()
    assert node.host.live_count == 0, node.host.live_count
    await node.drain()


def grown_at_start(directory: str) -> int:
    """In a process of its own: bytes of memory that a start with this directory takes."""
    return inside.run(_grown_at_start(directory))


async def _grown_at_start(directory: str) -> int:
    gc.collect()
    before = inside.resident_bytes()
    node = await inside.start_node(directory)
    gc.collect()
    grown = inside.resident_bytes() - before
    assert not node.host.sleepers.times
    assert not node.host.live()
    await node.drain()
    return grown


def wake_up(directory: str, objects: int) -> dict[str, float]:
    """In a process of its own: how fast the crowd wakes when its moment has come."""
    return inside.run(_wake_up(directory, objects))


async def _wake_up(directory: str, objects: int) -> dict[str, float]:
    until_ns = int((Path(directory) / "until").read_text()) * NS
    # Time to start in.
    node = await inside.start_node(directory, Ahead(until_ns, 3 + objects // 20_000))
    host = node.host
    assert (len(host.sleepers.times), host.turns) == (objects, 0)
    while not host.turns:
        await asyncio.sleep(0.001)
    watch, early = inside.Watch(), host.turns
    while host.turns < objects:
        await asyncio.sleep(0.001)
    await host.log.durable(host.log.appended_lsn)
    cost = watch.stop(objects - early)
    assert host.replayed == 0
    await node.drain()
    return cost


def bytes_and_back() -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return inside.run(_bytes_and_back(directory))


async def _bytes_and_back(directory: str) -> dict[str, float]:
    node = await inside.start_node(directory)
    inside.Calls(node, Sleeper, "nap", b'{"seconds": 1000000}').call("one")
    machine = node.host.live()[0].machine
    data = heap.dump_heap(machine)
    assert machine.instance is not None
    attributes = machine.instance.__dict__
    state = pickle.dumps(attributes, 5)

    def load() -> None:
        fresh = Machine(machine.kind, machine.key, machine.oid, machine.surroundings)
        heap.load_heap(fresh, data)
        fresh.discard()

    def capture_first() -> None:
        heap._tried.clear()
        heap.dump_heap(machine)

    return {
        "first": inside.cpu_of(lambda: [capture_first() for _ in range(500)], 500),
        "dump": inside.cpu_of(lambda: [heap.dump_heap(machine) for _ in range(500)], 500),
        "load": inside.cpu_of(lambda: [load() for _ in range(500)], 500),
        "plain": inside.cpu_of(
            lambda: [pickle.loads(pickle.dumps(attributes, 5)) for _ in range(5000)], 5000
        ),
        "bytes": len(data),
        "state": len(state),
    }
