"""The process behind `perdure verify`: imports the app, replays on copies, tells what it finds.

Its orders come as a line of JSON on stdin; it answers on stdout, a JSON object a line: `progress`,
`finding`, then `end`, or `refused`. What the app prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from perdure.cli.output import Complaint
from perdure.errors import PerdureError, UnknownKind

_PROGRESS_S = 0.2


class _Worker:
    def __init__(self, orders: dict[str, Any], out: TextIO) -> None:
        self._orders = orders
        self._out = out

    def say(self, what: str, **facts: Any) -> None:
        self._out.write(json.dumps({"say": what, **facts}) + "\n")
        self._out.flush()

    async def run(self) -> None:
        from perdure.cli.client import Server
        from perdure.cli.load import load
        from perdure.cli.verify_remote import RemoteSource
        from perdure.host import async_generators, guard
        from perdure.journal.identity import know_aliases
        from perdure.kind import Kinds, kind_of
        from perdure.past.verify import Source, Verifier, collect
        from perdure.store.sqlite_read_only import ReadingStore
        from perdure.suspend import editions, probe
        from perdure.suspend.bundles import bundle_of
        from perdure.suspend.editions import Live

        orders = self._orders
        source: Source
        if orders["url"] is not None:
            source = remote = RemoteSource(Server(orders["url"], orders["token"]))
            self._take_seed(remote.hash_seed())
        else:
            store = ReadingStore(Path(orders["data"]))
            layout = await store.open("verify")
            self._take_seed(layout.hash_seed)
            source = Source(store, layout)
        guard.install()
        async_generators.install()
        probe.unfit()
        classes = load(orders["app"]).classes
        version, _ = bundle_of(classes)
        kinds = Kinds({kind_of(cls).name: kind_of(cls) for cls in classes})
        for kind in kinds.values():
            know_aliases(kind.name, kind.aliases)
        live = Live(version, kinds)
        editions.serve(live)
        await source.read_tail()
        verifier = Verifier(source, live, whole=orders["whole"])
        there = await source.names(orders["class"])
        if orders["class"] is not None and not there and orders["class"] not in kinds:
            # A name that was mistyped must not pass for a class of which all is well.
            raise UnknownKind(
                f"no class {orders['class']!r} is in {orders['app']}, nor in the data",
                hint=f"{orders['app']} has {', '.join(sorted(kinds))}.",
            )
        names = _taken(there, orders["sample"])
        # A long history is many small values, none of which is garbage.
        gc.collect()
        gc.freeze()
        gc.disable()
        began = told = time.monotonic()
        for done, name in enumerate(names):
            finding = await verifier.look_at(*name)
            if not finding.quiet:
                self.say("finding", finding=msgspec.to_builtins(finding))
            if done % 100 == 0:
                collect()
            now = time.monotonic()
            if now - told > _PROGRESS_S:
                told = now
                self.say("progress", done=done, of=len(names), turns=verifier.turns)
        seconds = time.monotonic() - began
        self.say("progress", done=len(names), of=len(names), turns=verifier.turns)
        self.say(
            "end",
            objects=len(names),
            turns=verifier.turns,
            seconds=round(seconds, 3),
            version=version,
        )

    def _take_seed(self, seed: int | None) -> None:
        """Be a process with the store's hash seed, unless it is to be another."""
        if seed is None or self._orders["seed"] is not None:
            return
        if os.environ.get("PYTHONHASHSEED") == str(seed):
            return
        reads, writes = os.pipe()
        os.write(writes, json.dumps(self._orders).encode() + b"\n")
        os.close(writes)
        os.dup2(reads, 0)
        os.dup2(self._out.fileno(), 1)
        environ = {**os.environ, "PYTHONHASHSEED": str(seed)}
        module = ["-P", "-m", "perdure.cli.verify_worker"]
        os.execve(sys.executable, [sys.executable, *module], environ)


def _taken(names: Sequence[tuple[str, str]], sample: float | int | None) -> list[tuple[str, str]]:
    """All, or some of them, evenly: the same ones each time."""
    count = len(names)
    if sample is not None:
        count = max(1, round(len(names) * sample)) if sample < 1 else int(sample)
    if count >= len(names):
        return list(names)
    return [names[i * len(names) // count] for i in range(count)]


def main() -> None:
    """Run by `python -m perdure.cli.verify_worker`."""
    orders = json.loads(sys.stdin.readline())
    # What the app prints must not mix with what is said here.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = _Worker(orders, out)
    try:
        asyncio.run(worker.run())
    except PerdureError as error:
        worker.say("refused", message=error.message, hint=error.hint, code=error.code)
    except Complaint as complaint:
        worker.say("refused", message=complaint.message, hint=complaint.hint, code=complaint.code)


if __name__ == "__main__":
    main()
