"""A process that commits without end and says so, until it is killed: DIRECTORY INLINE_MS.

What it writes follows from the number alone, so that whoever looks afterwards knows what has to be
there. It prints `c LSN` for each commit and `k UPTO` for each checkpoint, once they are
acknowledged, without a buffer in between.
"""

from __future__ import annotations

import asyncio
import os
import sys

from perdure.store import sqlite
from perdure.store.base import Batch, Checkpoint, ObjectRow, Segment
from perdure.store.sqlite import SqliteStore

OBJECTS = 40


def chunk_of(lsn: int) -> bytes:
    """What the chunk with that number holds."""
    return b"%d:" % lsn * (1 + lsn * 37 % 3000)


def row_of(upto: int, oid: int) -> ObjectRow:
    """What an object's row holds as of the checkpoint at `upto`."""
    heap = b"%d/%d " % (oid, upto) * (upto % 50)
    return ObjectRow(oid, "Counter", f"{oid}", upto, upto, 0, "", "", 1, upto, "v1", heap)


def checkpoint_of(epoch: int, upto: int, last: int) -> Checkpoint:
    """The checkpoint at `upto`, behind the one at `last`."""
    oids = range(1, 1 + OBJECTS)
    rows = [row_of(upto, oid) for oid in oids]
    segments = [Segment(oid, last + 1, upto, b"%d-%d" % (last + 1, upto)) for oid in oids]
    return Checkpoint(0, epoch, rows, segments, upto, [b"%d" % upto])


def say(what: str, number: int) -> None:
    os.write(1, b"%s %d\n" % (what.encode(), number))


async def main(directory: str, commit_inline_ms: float) -> None:
    # Small, so that a kill often hits while the write-ahead log is moved.
    sqlite._WAL_PAGES = 60
    store = SqliteStore(directory, commit_inline_ms=commit_inline_ms)
    await store.open(f"process {os.getpid()}")
    (claim,) = await store.claim([0])
    say("o", claim.tail)
    lsn, last = claim.tail, claim.checkpoint
    while True:
        lsn += 1
        assert await store.commit([Batch(0, claim.epoch, lsn, chunk_of(lsn))]) == {0}
        say("c", lsn)
        if lsn % 40 == 0 and lsn - 10 > last:
            assert await store.checkpoint(checkpoint_of(claim.epoch, lsn - 10, last))
            last = lsn - 10
            say("k", last)
        await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
