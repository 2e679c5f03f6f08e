"""`perdure verify` on trivial handlers: stored histories under the code of now, on copies.

The whole of it for each object: reading its history, bringing a copy over as a deploy would, every
turn once more with its answer compared, and the two states at the end.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Iterator

from benchmarks.app import Counter
from benchmarks.child import in_child
from benchmarks.report import Beside, Figure, at_least, median, micro
from perdure.host import guard
from perdure.host.incoming import IncomingCall
from perdure.journal.entry import JSON
from perdure.journal.identity import oid_of
from perdure.kind import Kinds, kind_of
from perdure.node import Node
from perdure.past.verify import Source, Verifier
from perdure.settings import load_settings
from perdure.store.sqlite_read_only import ReadingStore
from perdure.suspend import editions, probe
from perdure.suspend.editions import Live


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """Turns for each second of CPU."""
    turns = 10_000 if quick else 100_000
    found = [in_child("verify", "measure", turns) for _ in range(rounds)]
    cpu_us = median(one["verify"] for one in found)
    decoding = median(one["reading"] for one in found)
    yield Figure(
        "verify a history of trivial turns",
        f"{1e3 / cpu_us:.0f} k/s",
        cpu_us,
        [Beside("reading the history alone", micro(decoding), cpu_us / decoding)],
        [at_least(1e6 / cpu_us, 200_000, "/s")],
        "turns for each second of CPU",
        {"cpu_us": [one["verify"] for one in found]},
    )


def measure(turns: int) -> dict[str, float]:
    """In a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        guard.install()
        probe.unfit()
        version = asyncio.run(_fill(folder, turns))
        return asyncio.run(_verify(folder, version, turns))


async def _fill(folder: str, turns: int) -> str:
    node = Node([Counter], load_settings({"data": folder}, {}))
    await node.start()
    kind = node.host.kinds["Counter"]
    handler = kind.handlers["increment"]
    bound = handler.signature.decode_json(b'{"by": 1}')
    for n in range(turns):
        node.host.call(
            IncomingCall(
                kind, "lobby", handler, bound, b'{"by": 1}', lambda answer: None, format=JSON
            )
        )
        if n % 256 == 0:
            await asyncio.sleep(0)
    version = node.host.version
    await node.drain()
    return version


async def _verify(folder: str, version: str, turns: int) -> dict[str, float]:
    store = ReadingStore(folder)
    layout = await store.open("verify")
    live = Live(version, Kinds({"Counter": kind_of(Counter)}))
    editions.serve(live)
    gc.collect()
    gc.freeze()
    gc.disable()
    source = Source(store, layout)
    began = time.process_time()
    seen = 0
    oid = oid_of("Counter", "lobby")
    async for page in source.pages(oid, 0):
        seen += len(page)
    reading = time.process_time() - began
    assert seen == turns
    verifier = Verifier(Source(store, layout), live)
    began = time.process_time()
    finding = await verifier.look_at("Counter", "lobby")
    took = time.process_time() - began
    assert finding.quiet, finding
    assert verifier.turns == turns
    return {"verify": took / turns * 1e6, "reading": reading / turns * 1e6}
