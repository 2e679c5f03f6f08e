"""Memory of 100,000 objects that are live and idle: what the process grows by.

Each has had one call; then a checkpoint, as a node makes it by itself after a minute, takes their
entries out of the log's tail in memory.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from collections.abc import Iterator

from benchmarks import inside
from benchmarks.app import Counter
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_most, median

OBJECTS = 100_000
_MB = 1_000_000


class Plain:
    """The yardstick: what the same object would be without an engine."""

    def __init__(self) -> None:
        self.value = 1


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Always with all 100,000: fewer would say less about each."""
    found = [in_child("idle_objects", "measure", OBJECTS) for _ in range(1 if quick else rounds)]
    live, plain = (median(one[name] for one in found) / _MB for name in ("live", "plain"))
    yield Figure(
        "100,000 live idle objects",
        f"{live:.0f} MB",
        None,
        [Beside("plain instances in a dict", f"{plain:.0f} MB", live / plain)],
        [at_most(live, 100, "MB")],
        f"{live * _MB / OBJECTS:,.0f} bytes each; "
        f"{median(one['tail'] for one in found) / _MB:.0f} MB before the checkpoint",
        {name: [one[name] for one in found] for name in ("live", "tail", "plain")},
    )


def measure(objects: int) -> dict[str, int]:
    """In a process of its own."""
    before = inside.resident_bytes()
    plain = {f"plain-{n}": Plain() for n in range(objects)}
    plain_bytes = inside.resident_bytes() - before
    del plain
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return {"plain": plain_bytes, **inside.run(_measure(directory, objects))}


async def _measure(directory: str, objects: int) -> dict[str, int]:
    node = await inside.start_node(directory)
    calls = inside.Calls(node, Counter, "increment", b'{"by": 1}')
    # What is made once in a process is no object's.
    await calls.through([f"first-{n}" for n in range(1000)], 100)
    await node.host.checkpointer.run()
    _trim()
    before = inside.resident_bytes()
    await calls.through([f"key-{n}" for n in range(objects)], 100)
    gc.collect()
    tail = inside.resident_bytes() - before
    await node.host.checkpointer.run()
    gc.collect()
    _trim()
    live = inside.resident_bytes() - before
    assert node.host.live_count == objects + 1000
    await node.drain()
    return {"live": live, "tail": tail}


def _trim() -> None:
    # glibc keeps freed pages for later; what it keeps is no object's either.
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass
