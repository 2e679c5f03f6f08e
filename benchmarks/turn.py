"""One turn, without HTTP and without a disk.

From the call as the gateway hands it over to its answer: mailbox, turn, entry, its bytes, the
chunk with its checksum, and the gate. Batches of 64 in one pass of the loop, as from 64
connections; the store is `memory:`, whose commit puts the chunk into a dict.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any

from benchmarks import inside
from benchmarks.app import Counter
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_most, median, micro, rate

BATCH = 64
OBJECTS = 1000


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Handlers that are `async def`, `def`, and queries."""
    turns = 20_000 if quick else 100_000
    found = [in_child("turn", "measure", turns) for _ in range(rounds)]
    names = {
        "increment": "turn without HTTP and disk, `async def` handler",
        "increment_plainly": "the same, `def` handler",
        "read": "query without HTTP",
    }
    bare = median(one["bare"] for one in found)
    for handler, name in names.items():
        cpu_us = median(one[handler]["cpu_us"] for one in found)
        yield Figure(
            name,
            rate(median(one[handler]["rate"] for one in found)),
            cpu_us,
            [Beside("the handler as a bare coroutine", micro(bare), cpu_us / bare)],
            [at_most(cpu_us, 8, "µs CPU")] if handler == "increment" else [],
            samples={"cpu_us": [one[handler]["cpu_us"] for one in found]},
        )


def measure(turns: int) -> dict[str, Any]:
    """In a process of its own."""
    return inside.run(_measure(turns))


async def _measure(turns: int) -> dict[str, Any]:
    counter = Counter.__new__(Counter)
    found: dict[str, Any] = {"bare": inside.cpu_of(lambda: _bare(counter, turns), turns)}
    keys = [f"key-{n % OBJECTS}" for n in range(turns)]
    for handler in ("increment", "increment_plainly", "read"):
        node = await inside.start_node(None)
        calls = inside.Calls(node, Counter, handler, b"" if handler == "read" else b'{"by": 1}')
        await inside.Calls(node, Counter, "increment").through(keys[:OBJECTS], BATCH)
        watch = inside.Watch()
        await calls.through(keys, BATCH)
        found[handler] = watch.stop(turns)
        await node.drain()
    return found


def _bare(counter: Counter, turns: int) -> None:
    for _ in range(turns):
        handler: Coroutine[Any, Any, int] = counter.increment(by=1)
        try:
            handler.send(None)
        except StopIteration:
            pass
