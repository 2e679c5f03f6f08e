"""What runs in the process of a single object: its machine, and nothing of the disk.

The node asks, one thing at a time: load, run this turn, answer this query, give a snapshot. What
decides is the same code as in the node's own process (load.py, machine.py, snapshots.py), on the
same bytes; only where those come from differs. So the node writes the entry that it would have
written, and a replay anywhere comes to the same.

A turn that runs out of memory ends the process. It must not come to an answer: whether memory is
short is no part of the journal, and a replay would find something else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from perdure.clock import perf_ns
from perdure.errors import PerdureError
from perdure.failure import failure_of
from perdure.host import load as loading
from perdure.host.asking import NOTHING, Surroundings
from perdure.host.machine import Machine
from perdure.host.mirror import facts_of
from perdure.host.nursery import OUT_OF_MEMORY, Link
from perdure.host.querying import run_query
from perdure.host.snapshots import take_snapshot
from perdure.host.upgrades import Turn, Versions
from perdure.journal.entry import PICKLE, Call, Event
from perdure.kind import Kind
from perdure.logs import logger
from perdure.serde import Signature
from perdure.store.base import Segment, Stored
from perdure.suspend import heap
from perdure.suspend.editions import Live
from perdure.suspend.moving import Stayed


class Start:
    """What a process has to know of its node, and of its object."""

    def __init__(
        self, kind: str, key: str, oid: int, version: str, secret: bytes, debug: bool
    ) -> None:
        self.kind = kind
        self.key = key
        self.oid = oid
        self.version = version
        self.secret = secret
        self.debug = debug


def server(live_of: Callable[[str], Live]) -> Callable[[Link], None]:
    """What such a process does: `live_of` gives the app's code, by the name of its version."""

    def serve(link: Link) -> None:
        gc.collect()
        with contextlib.suppress(AttributeError):
            # What is printed in a handler is seen when it is printed.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        alone: Alone | None = None
        while True:
            what, args = link.receive()
            if what == "start":
                alone = Alone(link, args[0], live_of(args[0].version))
                link.send(("done", None))
                continue
            assert alone is not None
            try:
                link.send(("done", getattr(alone, what)(*args)))
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            except (OSError, EOFError):
                raise
            except PerdureError as error:
                link.send(("failed", error))
            except Exception as error:
                logger.error("a turn failed inside perdure", exc_info=error)
                link.send(("failed", repr(error)))

    return serve


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that has nobody to wait for: all it needs is given at once."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waited, in a process without an event loop")


class _Host:
    """As much of a host as a load and a snapshot have need of."""

    part = 0
    slot = None
    elsewhere = False

    def __init__(self, link: Link, live: Live, secret: bytes, *, debug: bool, oid: int) -> None:
        self._link = link
        self.oid = oid
        self.version = live.version
        self.kinds = live.kinds
        self.surroundings = Surroundings(secret, None, debug=debug, blob=self._blob)
        self.surroundings.on_error = _end_if_out_of_memory
        self.store = self.log = self.blobs = self.quarantine = self
        self.versions = self.surroundings.versions = Versions(cast(Any, self), live)
        self.stash: dict[int, Stored] = {}
        self.entries: Sequence[bytes] = ()
        self.turns = 0
        self.time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns

    def entries_of(self, oid: int) -> Sequence[bytes]:
        return self.entries

    def kills(self, *_: object) -> bool:
        return False

    def keep(self, work: Coroutine[None, None, None]) -> None:
        finish(work)

    def _blob(self, oid: int, name: str) -> bytes:
        return cast(bytes, self._link.need("blob", name))

    async def get_version(self, version: str) -> bytes | None:
        return cast("bytes | None", self._link.need("version", version))

    async def load(self, part: int, oid: int) -> Stored | None:
        return cast("Stored | None", self._link.need("stored"))

    async def history(self, part: int, oid: int, after: int, limit: int) -> list[Segment]:
        return cast("list[Segment]", self._link.need("history", after, limit))

    async def fetch(self, *_: object) -> None:
        """Blobs are read when they are needed."""

    async def fetch_for(self, *_: object) -> None:
        """Blobs are read when they are needed."""


class Alone:
    """An object in its own process. What the node asks for are the methods without underscore."""

    def __init__(self, link: Link, start: Start, live: Live) -> None:
        self.kind: Kind = live.kinds[start.kind]
        _bound_memory(self.kind.isolation.memory_limit if self.kind.isolation is not None else 0)
        self.host = _Host(link, live, start.secret, debug=start.debug, oid=start.oid)
        self._key, self._oid = start.key, start.oid
        self.machine = Machine(self.kind, self._key, self._oid, self.host.surroundings)
        # What load.py and snapshots.py know of an activation.
        self.held = ""
        self.stayed: tuple[Stayed, ...] = ()
        self.taken: Stored | None = None
        self.unkept = ""
        self.base_seq = 0
        self.wake_at = 0
        self._loaded: Any = None

    # --- load

    def load(self, stored: Stored | None, entries: Sequence[bytes], now_ns: int) -> Any:
        """Be what the journal says."""
        self.renew_machine()
        self.taken, self._loaded = None, None
        self.host.entries, self.host.time_ns = entries, now_ns
        _bound_processor(0)
        loading.loaded(cast(Any, self), stored)
        self.host.entries = ()
        if isinstance(self._loaded, BaseException):
            if isinstance(self._loaded, MemoryError):
                os._exit(OUT_OF_MEMORY)
            raise self._loaded
        replayed, base_seq, snapshot_seq, upgrade = self._loaded
        self.base_seq = base_seq
        self.wake_at = self.machine.wake_at()
        told = facts_of(self.machine)
        self.machine.reloaded = self.machine.reloaded and upgrade is None
        self.machine.commands = NOTHING
        return replayed, base_seq, snapshot_seq, upgrade, self.held, self.stayed, told

    def is_loading(self) -> bool:
        return self._loaded is None

    def renew_machine(self) -> None:
        self.machine.discard()
        self.machine = Machine(self.kind, self._key, self._oid, self.host.surroundings)

    def begin(
        self, replayed: int, base_seq: int, snapshot_seq: int, upgrade: Turn | None = None
    ) -> None:
        self._loaded = replayed, base_seq, snapshot_seq, upgrade

    def unusable(self, error: BaseException) -> None:
        self._loaded = error

    # --- a turn

    def turn(self, event: Event, now_ns: int, cpu_s: float) -> Any:
        """Run one event."""
        machine = self.machine
        _bound_processor(cpu_s)
        began = perf_ns()
        gc.disable()
        try:
            commands = machine.turn(event, now_ns)
        finally:
            gc.enable()
        took_us = (perf_ns() - began) // 1000
        for problem in machine.problems or ():
            error = problem.get("exception")
            if isinstance(error, MemoryError):
                os._exit(OUT_OF_MEMORY)
            logger.warning(
                problem.get("message", "a task failed"),
                object=machine.address,
                seq=machine.seq,
                exc_info=error,
            )
        machine.problems = None
        told = facts_of(machine)
        if not machine.undone:
            self.wake_at = machine.wake_at()
        machine.reloaded = False
        machine.commands = NOTHING
        machine.traces = None
        return commands, told, took_us

    # --- what leaves no entry

    def query(self, name: str, body: bytes, format: int, now_ns: int, cpu_s: float) -> Any:
        """(items, body, failure, what it sends past the journal, tainted)."""
        machine = self.machine
        handler = machine.kind.handlers[name]
        arguments = heap.loads(body)
        if handler.ephemeral:
            machine.passing = []
        items, result, failure = None, b"", None
        _bound_processor(cpu_s)
        gc.disable()
        try:
            deep = machine.surroundings.debug
            value = run_query(machine, handler.function, arguments, now_ns, deep=deep)
            if handler.streams:
                items = [_body(handler.signature, one, format) for one in value]
                result = heap.dumps(None) if format == PICKLE else b"null"
            else:
                result = _body(handler.signature, value, format)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            failure = failure_of(error, debug=machine.surroundings.debug)
        finally:
            gc.enable()
            passing, machine.passing = machine.passing, None
        return items, result, failure, passing, machine.tainted

    def authorize(self, body: bytes, now_ns: int, cpu_s: float) -> Any:
        """(failure, tainted)."""
        machine = self.machine
        _bound_processor(cpu_s)
        failure = None
        try:
            check = machine.kind.cls.authorize  # type: ignore[attr-defined]
            run_query(machine, check, (heap.loads(body), {}), now_ns, deep=False)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            failure = failure_of(error)
        return failure, machine.tainted

    def look(self, name: str, *args: Any) -> Any:
        """What a function of the package, `module:name`, makes of the machine."""
        module, _, function = name.partition(":")
        _bound_processor(0)
        return getattr(importlib.import_module(module), function)(self, *args)

    # --- snapshots

    def snapshot(self, stays: bool) -> Any:
        """(snapshot, why there is none, whether the memory went on from the bytes, seq)."""
        _bound_processor(0)
        stored = take_snapshot(cast(Any, self.host), cast(Any, self), stays=stays)
        return stored, self.unkept, self.machine.reloaded, self.machine.seq

    def adopt(self, snapshot: bytes) -> None:
        old = self.machine
        machine = Machine(old.kind, old.key, old.oid, self.host.surroundings)
        heap.load_heap(machine, snapshot)
        old.discard()
        self.machine = machine


def _body(signature: Signature, value: Any, format: int) -> bytes:
    if format == PICKLE:
        return heap.dumps(signature.check_result(value))
    return signature.encode_result(value)


def _end_if_out_of_memory(event: Call, error: BaseException) -> None:
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)


# --- limits


def _bound_memory(limit: int) -> None:
    """Let the process take no more than so many bytes beside those that it begins with."""
    if not limit:
        return
    taken = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as statm:
        taken = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = taken + limit
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _bound_processor(seconds: float) -> None:
    """Let it have so many seconds of processor from here on; 0: no bound."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = hard
    if seconds:
        soft = math.ceil(time.process_time() + seconds)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
