"""Handlers in the middle of a wait: as bytes and back, asleep on the disk, and woken in time.

The handler waits in a helper, so that two frames of the app are suspended, and asyncio's under
them. Its objects leave memory while they wait; at their time all of them are due at once.
"""

from __future__ import annotations

import asyncio
import pickle
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import inside
from benchmarks.app import Sleeper
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, at_most, median, micro, rate
from perdure.host.machine import Machine
from perdure.suspend import heap


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Bytes and back; then a crowd that wakes."""
    objects = 500 if quick else 5000
    found = [in_child("suspended", "measure", objects) for _ in range(rounds)]
    plain = median(one["plain"] for one in found)
    for name, key in (("capture", "dump"), ("rebuild", "load")):
        cost = median(one[key] for one in found)
        yield Figure(
            f"{name} a handler suspended in two frames",
            micro(cost),
            cost,
            [Beside("pickle.dumps and loads of its attributes", micro(plain), cost / plain)],
            [at_most(cost, 200, "µs")],
            f"{found[0]['bytes']:.0f} bytes, {found[0]['state']:.0f} of them its attributes",
        )
    woken = median(one["woken"] for one in found)
    yield Figure(
        "sleepers woken at their time, from the disk to the end of their wait",
        rate(woken),
        median(one["woken_cpu"] for one in found),
        [],
        [at_least(woken, 5000, "/s")],
        f"{objects} due in the same moment; none of them in memory before",
        {"woken": [one["woken"] for one in found]},
    )


def measure(objects: int) -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return inside.run(_measure(directory, objects))


async def _measure(directory: str, objects: int) -> dict[str, float]:
    node = await inside.start_node(directory)
    host = node.host
    found = await _bytes_and_back(node)
    # Long enough for all to be asleep before the first is due.
    wait_s = 2.0 + objects / 1000
    calls = inside.Calls(node, Sleeper, "nap", b'{"seconds": %d}' % wait_s)
    for first in range(0, objects, 100):
        for n in range(first, first + 100):
            calls.call(f"sleeper-{n}")
        await asyncio.sleep(0)
    await host.log.durable(host.log.appended_lsn)
    for activation in host.live():
        host.residency.let_go(activation)
    await host.checkpointer.run()
    assert host.live_count <= 1, host.live_count
    assert not host.stash
    watch: inside.Watch | None = None
    while calls.answered < objects:
        await asyncio.sleep(0.001)
        if watch is None and calls.answered:
            watch = inside.Watch()
            early = calls.answered
    assert watch is not None
    cost = watch.stop(objects - early)
    await node.drain()
    return found | {"woken": 1e6 / cost["cpu_us"], "woken_cpu": cost["cpu_us"]}


async def _bytes_and_back(node: Any) -> dict[str, float]:
    inside.Calls(node, Sleeper, "nap", b'{"seconds": 1000000}').call("one")
    machine = node.host.live()[0].machine
    data = heap.dump_heap(machine)
    attributes = machine.instance.__dict__
    state = pickle.dumps(attributes, 5)

    def load() -> None:
        fresh = Machine(machine.kind, machine.key, machine.oid, machine.surroundings)
        heap.load_heap(fresh, data)
        fresh.discard()

    return {
        "dump": inside.cpu_of(lambda: [heap.dump_heap(machine) for _ in range(500)], 500),
        "load": inside.cpu_of(lambda: [load() for _ in range(500)], 500),
        "plain": inside.cpu_of(
            lambda: [pickle.loads(pickle.dumps(attributes, 5)) for _ in range(5000)], 5000
        ),
        "bytes": len(data),
        "state": len(state),
    }
