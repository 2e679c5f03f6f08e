"""Entries into the SQLite store, beside a raw `write` + `fdatasync` of the same bytes.

Batches of 128 entries of 150 bytes, one chunk a commit, as the journal hands them over, with a
checkpoint for each 8 MB so that the log is swept while it grows. Both take turns in one run, in
the same directory:

    raw      append to a file and fdatasync: what the disk alone costs
    store    `SqliteStore.commit`, fenced, and durable when its future is done
    nosync   the same without waiting for the disk (synchronous=OFF): what the store alone costs

and what else the store does for a live node: loads of cold objects, and slices of a checkpoint.

    python -m benchmarks.store_commit [--dir DIR] [--entries 128] [--seconds 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, median, micro, rate
from perdure.store.base import Batch, Checkpoint, ObjectRow, Segment
from perdure.store.sqlite import SqliteStore

ENTRY_BYTES = 150
CHECKPOINT_BYTES = 8 * 1024 * 1024
OBJECTS = 20_000
HEAP_BYTES = 1000


BATCH = 128


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Entries a second, each commit on disk before the next."""
    found = [in_child("store_commit", "measure", 0.5 if quick else 2.0) for _ in range(rounds)]
    runs = {name: [Run(*one[name]) for one in found] for name in found[0]}
    entries_s, raw_s = (median(run.entries_s for run in runs[name]) for name in ("store", "raw"))
    yield Figure(
        f"entries into the SQLite store, batches of {BATCH}, fsync on",
        rate(entries_s),
        median(run.cpu_us for run in runs["store"]) / BATCH,
        [
            Beside(
                "raw write + fdatasync of the same bytes",
                f"{rate(raw_s)}, {median(run.cpu_us for run in runs['raw']) / BATCH:.2f} µs CPU",
                entries_s / raw_s,
            )
        ],
        [at_least(entries_s, 100_000, "/s")],
        f"entries of {ENTRY_BYTES} bytes; a commit takes p50 "
        f"{micro(median(run.p50_us for run in runs['store']))}, "
        f"p99 {micro(median(run.p99_us for run in runs['store']))}",
        {name: [run.entries_s for run in runs[name]] for name in runs},
    )


def measure(seconds: float) -> dict[str, Any]:
    """One round of each contender, in a process of its own."""

    async def contenders(directory: Path) -> dict[str, Any]:
        chunk = os.urandom(BATCH * ENTRY_BYTES)
        return {
            "raw": await run_raw(directory, chunk, BATCH, seconds),
            "store": await run_store(directory / "store", chunk, BATCH, seconds, sync=True),
        }

    with tempfile.TemporaryDirectory(prefix="perdure-benchmark-") as directory:
        return asyncio.run(contenders(Path(directory)))


class Run(NamedTuple):
    """One round of one contender."""

    entries_s: float
    cpu_us: float
    p50_us: float
    p99_us: float


def report(name: str, entries: int, runs: list[Run], raw: float | None = None) -> float:
    """A line with the medians of the rounds; entries a second."""
    entries_s, cpu, p50, p99 = (float(median(values)) for values in zip(*runs, strict=True))
    ratio = f"   {entries_s / raw:.2f} of raw" if raw else ""
    print(
        f"{name:8} {entries_s:10,.0f} entries/s   CPU {cpu / entries:6.2f} us/entry "
        f"{cpu:7.1f} us/commit   p50 {p50:6.0f} us   p99 {p99:6.0f} us{ratio}"
    )
    return entries_s


async def timed(commit: Callable[[], object], entries: int, seconds: float) -> Run:
    """Call `commit` for some seconds; what it returns is awaited if it is not done."""
    latencies = []
    cpu = time.process_time()
    begin = now = time.perf_counter()
    while now < begin + seconds:
        future = commit()
        if isinstance(future, asyncio.Future) and not future.done():
            await future
        end = time.perf_counter()
        latencies.append(end - now)
        now = end
        if len(latencies) % 16 == 0:
            await asyncio.sleep(0)  # the loop of a node has other things to do as well
            now = time.perf_counter()
    elapsed = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    latencies.sort()
    count = len(latencies)
    return Run(
        count * entries / elapsed,
        cpu / count * 1e6,
        latencies[count // 2] * 1e6,
        latencies[count * 99 // 100] * 1e6,
    )


async def run_raw(directory: Path, chunk: bytes, entries: int, seconds: float) -> Run:
    """What no store can beat."""
    file = os.open(directory / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def commit() -> None:
        os.write(file, chunk)
        os.fdatasync(file)

    try:
        return await timed(commit, entries, seconds)
    finally:
        os.close(file)


async def run_store(
    directory: Path, chunk: bytes, entries: int, seconds: float, *, sync: bool
) -> Run:
    """A store that commits and checkpoints."""
    store = SqliteStore(directory)
    await store.open("benchmark")
    if not sync:
        store._writer.execute("PRAGMA synchronous = OFF")
    (claim,) = await store.claim([0])
    lsn, grown = claim.tail, 0

    def commit() -> object:
        nonlocal lsn, grown
        lsn += 1
        grown += len(chunk)
        if grown > CHECKPOINT_BYTES:
            grown = 0
            store.checkpoint(Checkpoint(0, claim.epoch, upto=lsn - 1))
        return store.commit([Batch(0, claim.epoch, lsn, chunk)])

    try:
        run = await timed(commit, entries, seconds)
        assert len(await store.tail(0, 0)) <= CHECKPOINT_BYTES // len(chunk) + 2
        return run
    finally:
        await store.close()


async def run_objects(directory: Path) -> None:
    """Loads and checkpoint slices."""
    store = SqliteStore(directory)
    await store.open("benchmark")
    (claim,) = await store.claim([0])
    chance = random.Random(1)
    oids = [chance.getrandbits(63) for _ in range(OBJECTS)]
    for name in ("first", "again"):
        cpu, begin = time.process_time(), time.perf_counter()
        for first in range(0, OBJECTS, 200):
            slice_ = slice_of(oids[first : first + 200], claim.epoch, 1 if name == "first" else 2)
            await store.checkpoint(slice_)
        elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(
            f"snapshots of {HEAP_BYTES} bytes, 200 a slice, {name} time: "
            f"{OBJECTS / elapsed:,.0f}/s   CPU {cpu / OBJECTS * 1e6:.1f} us each"
        )
    latencies = []
    lsn = claim.tail
    for number in range(20_000):
        if number % 10 == 0:
            lsn += 1
            await store.commit([Batch(0, claim.epoch, lsn, b"meanwhile")])
        oid = chance.choice(oids)
        begin = time.perf_counter()
        store.load(0, oid).result()
        latencies.append(time.perf_counter() - begin)
    latencies.sort()
    print(
        f"load of a cold object among {OBJECTS:,}, with commits in between: "
        f"p50 {latencies[10_000] * 1e6:.1f} us   p99 {latencies[19_800] * 1e6:.1f} us"
    )
    await store.close()


def slice_of(oids: list[int], epoch: int, turn: int) -> Checkpoint:
    """A snapshot and a segment for each."""
    rows = [
        ObjectRow(
            oid, "Counter", str(oid), turn, turn, 0, "", "", 1, turn, "v1", os.urandom(HEAP_BYTES)
        )
        for oid in oids
    ]
    return Checkpoint(0, epoch, rows, [Segment(oid, turn, turn, bytes(150)) for oid in oids])


async def main() -> None:
    parser = argparse.ArgumentParser(description="commits into the SQLite store")
    parser.add_argument("--dir", default=None, help="where to write; default: a temporary one")
    parser.add_argument("--entries", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="perdure-benchmark-", dir=options.dir))
    chunk = os.urandom(options.entries * ENTRY_BYTES)
    runs: dict[str, list[Run]] = {"raw": [], "store": [], "nosync": []}
    try:
        common = (chunk, options.entries, options.seconds)
        for _ in range(options.rounds):
            runs["raw"].append(await run_raw(directory, *common))
            runs["store"].append(await run_store(directory / "store", *common, sync=True))
            runs["nosync"].append(await run_store(directory / "nosync", *common, sync=False))
        print(f"commits of {options.entries} entries of {ENTRY_BYTES} bytes")
        raw = report("raw", options.entries, runs["raw"])
        report("store", options.entries, runs["store"], raw)
        report("nosync", options.entries, runs["nosync"])
        await run_objects(directory / "objects")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    asyncio.run(main())
