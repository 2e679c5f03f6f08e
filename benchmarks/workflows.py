"""Workflows of ten trivial steps: many at once, and one at a time.

The figure that engines of durable execution are compared by. Each step costs two turns, and a
commit with fsync before it begins and before the next one may follow.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import inside
from benchmarks.app import Worker
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, at_most, median, rate

AT_ONCE = 64
STEPS = 10


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """64 workflows at once, and one at a time."""
    workflows = 640 if quick else 3_200
    found = [in_child("workflows", "measure", workflows) for _ in range(rounds)]
    a_second = median(one["many"]["rate"] for one in found)
    cpu = median(one["many"]["cpu_us"] for one in found)
    yield Figure(
        "steps of workflows of 10, 64 at once",
        rate(a_second),
        cpu,
        [],
        [at_least(a_second, 10_000, "/s"), at_most(cpu, 100, "µs CPU")],
        "in process; 64 workflows at a time, each a call of its own object",
        {"rate": [one["many"]["rate"] for one in found]},
    )
    p50 = median(one["alone"]["p50_ms"] for one in found)
    fsync = median(one["alone"]["fsync_ms"] for one in found)
    yield Figure(
        "a workflow of 10 steps, alone",
        f"p50 {p50:.2f} ms",
        median(one["alone"]["cpu_us"] for one in found),
        [Beside("20 commits of this disk, one after the other", f"{20 * fsync:.2f} ms", 1.0)],
        [at_most(p50, 10, "ms")],
        "in process; one after the other",
        {"p50_ms": [one["alone"]["p50_ms"] for one in found]},
    )


def measure(workflows: int) -> dict[str, Any]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        many = inside.run(_many(directory, workflows))
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        alone = inside.run(_alone(directory, max(50, workflows // 16)))
    return {"many": many, "alone": alone}


async def _many(directory: str, workflows: int) -> dict[str, float]:
    node = await inside.start_node(directory)
    calls = inside.Calls(node, Worker, "workflow", b'{"steps": 10}')
    keys = [f"key-{n}" for n in range(workflows)]
    await calls.through(keys[:AT_ONCE], AT_ONCE)
    watch = inside.Watch()
    await calls.through(keys, AT_ONCE)
    found = watch.stop(workflows * STEPS)
    await node.drain()
    return found


async def _alone(directory: str, workflows: int) -> dict[str, float]:
    node = await inside.start_node(directory)
    calls = inside.Calls(node, Worker, "workflow", b'{"steps": 10}')
    await calls.through(["first"] * 20, 1)
    loop = asyncio.get_running_loop()
    commits = node.store.stats()
    times = []
    watch = inside.Watch()
    for n in range(workflows):
        began = loop.time()
        await calls.all_of([f"key-{n}"])
        times.append(loop.time() - began)
    found = watch.stop(workflows * STEPS)
    after = node.store.stats()
    await node.drain()
    spent_s = after.commit_seconds - commits.commit_seconds
    return found | {
        "p50_ms": median(times) * 1e3,
        "fsync_ms": spent_s / (after.commits - commits.commits) * 1e3,
    }
