"""Looks at the past of an object with a long history, in a store on disk.

The first look at the middle runs the turns before it and leaves snapshots on its way; the later
ones begin at those.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_most, median, micro
from perdure import Object, Past
from perdure.journal.identity import oid_of
from perdure.node import Node
from perdure.settings import load_settings

TURNS = 100_000
LOOKS = 100
_AT_ONCE = 1000


class Ledger(Object):
    """Some numbers, some text, and a list that stays short."""

    total: int = 0
    last: list[dict[str, Any]] = []
    by_name: dict[str, int] = {}

    async def book(self, n: int) -> int:
        """One more line."""
        self.total += n
        self.last.append({"n": n, "total": self.total})
        del self.last[:-20]
        name = f"account-{n % 50}"
        self.by_name[name] = self.by_name.get(name, 0) + n
        return self.total


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Milliseconds of CPU for a state."""
    turns = TURNS // 10 if quick else TURNS
    found = [in_child("past", "measure", turns) for _ in range(rounds)]
    look_ms = median(one["median"] for one in found)
    late_ms = median(one["p95"] for one in found)
    first_ms = median(one["first"] for one in found)
    diff_ms = median(one["diff"] for one in found)
    fork_ms = median(one["fork"] for one in found)
    about = f"of an object with {turns:,} turns"
    yield Figure(
        f"a state at any turn {about}",
        micro(look_ms * 1000),
        None,
        [Beside("the first look, at the last turn but one", micro(first_ms * 1000),
                look_ms / first_ms)],
        [at_most(late_ms, 100, "ms")],
        f"median of {LOOKS}; 95 of 100 within {late_ms:.0f} ms, which is what the goal is about",
        {"ms": [one["median"] for one in found], "p95_ms": [one["p95"] for one in found]},
    )  # fmt: skip
    yield Figure(f"a diff of two turns {about}", micro(diff_ms * 1000))
    yield Figure(f"a fork at the last turn {about}, its history copied", micro(fork_ms * 1000))


def measure(turns: int) -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), turns))


async def _measure(folder: Path, turns: int) -> dict[str, float]:
    settings = load_settings({"data": str(folder), "mailbox_limit": 100_000}, {})
    node = Node([Ledger], settings)
    await node.start()
    ledger = Ledger.at("l")
    for begin in range(0, turns, _AT_ONCE):
        await asyncio.gather(*(ledger.book(n) for n in range(begin, begin + _AT_ONCE)))
    await node.host.checkpointer.run()
    # As a server's process finds it that has not just written all of it.
    await node.drain()
    node = Node([Ledger], settings)
    await node.start()
    try:
        past, rng = Past(ledger), random.Random(1)
        first = await _timed(past.state(turns - 1))
        looks = sorted([await _timed(past.state(rng.randrange(1, turns))) for _ in range(LOOKS)])
        diffs = [
            await _timed(past.diff(rng.randrange(1, turns), rng.randrange(1, turns)))
            for _ in range(LOOKS // 10)
        ]
        fork = await _timed(past.fork("fork"))
        kept = await node.store.waypoints(oid_of("Ledger", "l"))
        assert turns < 5_000 or kept
    finally:
        await node.drain()
    return {
        "first": first,
        "median": looks[len(looks) // 2],
        "p95": looks[len(looks) * 95 // 100],
        "diff": median(diffs),
        "fork": fork,
    }


async def _timed(look: Any) -> float:
    # Of CPU: nothing here waits for a disk that anybody could wait for, and others use the machine.
    began = time.process_time()
    await look
    return (time.process_time() - began) * 1000
