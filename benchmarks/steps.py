"""Durable steps of a trivial function, asked for by many objects at a time.

Each is a call with one step in it: two turns, and a commit before the step starts and before the
answer leaves. fsync is on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import inside
from benchmarks.app import Worker
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, median, rate

OBJECTS = 1000
AT_A_TIME = 250


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Async steps, and plain functions, which run in threads."""
    steps = 5_000 if quick else 30_000
    found = [in_child("steps", "measure", steps) for _ in range(rounds)]
    bare = median(one["work_without"]["rate"] for one in found)
    bare_cpu = median(one["work_without"]["cpu_us"] for one in found)
    names = {
        "work": "durable step, 1,000 objects, async function",
        "work_in_a_thread": "the same, plain function (in a thread)",
    }
    for handler, name in names.items():
        a_second = median(one[handler]["rate"] for one in found)
        yield Figure(
            name,
            rate(a_second),
            median(one[handler]["cpu_us"] for one in found),
            [
                Beside(
                    "the durable call without a step",
                    f"{rate(bare)}, {bare_cpu:.1f} µs CPU",
                    a_second / bare,
                )
            ],
            [at_least(a_second, 10_000, "/s")] if handler == "work" else [],
            f"in process, {AT_A_TIME} at a time",
            {"rate": [one[handler]["rate"] for one in found]},
        )


def measure(steps: int) -> dict[str, Any]:
    """In a process of its own."""
    found = {}
    for handler in ("work", "work_in_a_thread", "work_without"):
        with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
            found[handler] = inside.run(_measure(directory, handler, steps))
    return found


async def _measure(directory: str, handler: str, steps: int) -> dict[str, float]:
    keys = [f"key-{n % OBJECTS}" for n in range(steps)]
    node = await inside.start_node(directory)
    calls = inside.Calls(node, Worker, handler, b'{"number": 1}')
    await calls.through(keys[:OBJECTS], AT_A_TIME)
    watch = inside.Watch()
    await calls.through(keys, AT_A_TIME)
    found = watch.stop(steps)
    await node.drain()
    return found
