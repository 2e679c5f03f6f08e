"""The stealing race: owners who take a partition from each other and go on when deposed.

As a program it is one racer in a process of its own: DIRECTORY NAME SEED ROUNDS. It prints what was
accepted, a JSON list a line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import NamedTuple

from perdure.store.base import Batch, Store
from perdure.store.sqlite import SqliteStore


class Accepted(NamedTuple):
    """A commit that the store has accepted."""

    epoch: int
    lsn: int
    chunk: str


async def race(store: Store, name: str, *, seed: int, rounds: int) -> list[Accepted]:
    """Claim partition 0 now and then and commit to it, also after others have claimed it."""
    chance = random.Random(seed)
    (claim,) = await store.claim([0])
    epoch, tail = claim.epoch, claim.tail
    accepted = []
    for number in range(rounds):
        if chance.random() < 0.15:
            (claim,) = await store.claim([0])
            assert claim.epoch > epoch, "an epoch ran backwards"
            epoch, tail = claim.epoch, claim.tail
        lsn = tail + 1
        # A deposed owner that has seen the log knows the right number, and must fail all the same.
        if chance.random() < 0.3:
            log = await store.tail(0, max(0, tail - 1))
            lsn = max([lsn, *(found + 1 for found, _ in log)])
        chunk = f"{name} {seed} {number}"
        if await store.commit([Batch(0, epoch, lsn, chunk.encode())]):
            accepted.append(Accepted(epoch, lsn, chunk))
            tail = lsn
        await asyncio.sleep(0)
    return accepted


def check_race(accepted: list[Accepted], log: list[tuple[int, bytes]]) -> None:
    """What the store has accepted is the log: nothing twice, no gap, no epoch backwards."""
    in_order = sorted(accepted, key=lambda one: one.lsn)
    assert [one.lsn for one in in_order] == list(range(1, len(accepted) + 1))
    assert [(one.lsn, one.chunk.encode()) for one in in_order] == log
    epochs = [one.epoch for one in in_order]
    assert epochs == sorted(epochs), "a deposed owner wrote behind its successor"


async def _main(directory: str, name: str, seed: int, rounds: int) -> None:
    store = SqliteStore(directory, exclusive=False)
    await store.open(name)
    for one in await race(store, name, seed=seed, rounds=rounds):
        print(json.dumps(one))
    await store.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
