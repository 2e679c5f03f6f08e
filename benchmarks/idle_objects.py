"""Memory of 100,000 objects that are live and idle: what the process grows by.

Each has had one call; then a checkpoint, as a node makes it by itself after a minute, takes their
entries out of the log's tail in memory. And the same objects in a process that has only woken
them, by a query each.
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
from benchmarks.servers import check_proc

OBJECTS = 100_000
_MB = 1_000_000


class Plain:
    """The yardstick: what the same object would be without an engine."""

    def __init__(self) -> None:
        self.value = 1


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Always with all 100,000: fewer would say less about each."""
    check_proc()
    found = [_round() for _ in range(1 if quick else rounds)]
    live, plain, woken, tail = (
        median(one[name] for one in found) / _MB for name in ("live", "plain", "woken", "tail")
    )
    yield Figure(
        "100,000 live idle objects, after a call each",
        f"{live:.0f} MB",
        None,
        [Beside("plain instances in a dict", f"{plain:.0f} MB", live / plain)],
        [at_most(live, 100, "MB")],
        f"{live * _MB / OBJECTS:,.0f} bytes each; {tail:.0f} MB before the checkpoint",
        {name: [one[name] for one in found] for name in ("live", "tail", "plain")},
    )
    yield Figure(
        "the same, woken by a query each",
        f"{woken:.0f} MB",
        None,
        [Beside("plain instances in a dict", f"{plain:.0f} MB", woken / plain)],
        [],
        f"{woken * _MB / OBJECTS:,.0f} bytes each",
        {"woken": [one["woken"] for one in found]},
    )


def _round() -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        called: dict[str, int] = in_child("idle_objects", "after_a_call", directory, OBJECTS)
        woken: int = in_child("idle_objects", "woken", directory, OBJECTS)
    return {**called, "woken": woken, "plain": in_child("idle_objects", "plain", OBJECTS)}


def plain(objects: int) -> int:
    """The yardstick, in a process of its own."""
    before = inside.resident_bytes()
    instances = {f"plain-{n}": Plain() for n in range(objects)}
    grown = inside.resident_bytes() - before
    assert len(instances) == objects
    return grown


def after_a_call(directory: str, objects: int) -> dict[str, int]:
    """In a process of its own; leaves the objects in the directory."""
    return inside.run(_after_a_call(directory, objects))


def woken(directory: str, objects: int) -> int:
    """In a process of its own."""
    return inside.run(_woken(directory, objects))


async def _woken(directory: str, objects: int) -> int:
    node = await inside.start_node(directory)
    calls = inside.Calls(node, Counter, "read")
    await calls.through([f"first-{n}" for n in range(1000)], 100)
    _trim()
    before = inside.resident_bytes()
    await calls.through([f"key-{n}" for n in range(objects)], 100)
    gc.collect()
    _trim()
    grown = inside.resident_bytes() - before
    assert node.host.live_count == objects + 1000
    await node.drain()
    return grown


async def _after_a_call(directory: str, objects: int) -> dict[str, int]:
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
