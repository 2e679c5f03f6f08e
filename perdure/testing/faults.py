"""A store with faults on order: for simulations, and for sweeps over each operation.

Every call of a store method is an operation, numbered from 1 in the order of the calls. A sweep
runs a scenario once, reads `operations`, and runs it again for each number with the crash or the
failure before or after that operation:

    store = FaultyStore(MemoryStore())
    store.crash(7)                                  # before the 7th took effect
    store.crash(7, after=True)                      # it took effect, and nobody heard of it
    store.crash_next("commit", 2)                   # before the second commit from now on
    store.fail(7, StoreUnavailable("cut"), after=True)
    store.hold(); ...; store.release()              # a slow disk: writes wait
    store.full = True                               # until it is False again

What makes it a crash: the operation and all later ones are never answered, as for a process that
is gone. The next `open` is the next life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from perdure.errors import StoreFull
from perdure.store.base import (
    Batch,
    CallFilter,
    CallRow,
    Checkpoint,
    Claim,
    Condition,
    Layout,
    ObjectFilter,
    ObjectRow,
    PromiseFilter,
    PromiseRow,
    Pruned,
    Pruning,
    Segment,
    Store,
    Stored,
    StoreStats,
    Waypoint,
)

R = TypeVar("R")

WRITES = frozenset(
    {
        *("claim", "commit", "checkpoint", "put_blob", "drop_blobs", "put_version"),
        *("put_waypoints", "erase", "compact", "prune"),
    }
)


@dataclass(frozen=True)
class _Fault:
    error: Exception | None  # None: the node is gone
    after: bool


@dataclass
class _Named:
    name: str
    left: int
    after: bool


class FaultyStore:
    """Passes everything on to `inner`, but for the faults that were ordered; see `Store`.

    `on_crash` is called at a crash, so that a simulation can stop the node.
    """

    def __init__(self, inner: Store, *, on_crash: Callable[[], None] = lambda: None) -> None:
        self.inner = inner
        self.on_crash = on_crash
        self.operations: list[str] = []
        """The name of each operation so far; the first is number 1."""
        self.full = False
        """Whether each write is refused with StoreFull."""
        self.crashed = False
        self._life = 0
        self._faults: dict[int, _Fault] = {}
        self._named: list[_Named] = []
        self._holding = False
        self._held: list[Callable[[], None]] = []

    # -- ordering faults

    def fail(self, number: int, error: Exception, *, after: bool = False) -> None:
        """Let operation `number` raise `error`, before or after it took effect."""
        self._faults[number] = _Fault(error, after)

    def crash(self, number: int, *, after: bool = False) -> None:
        """Let the node be gone at operation `number`, before or after it took effect."""
        self._faults[number] = _Fault(None, after)

    def crash_next(self, name: str, nth: int = 1, *, after: bool = False) -> None:
        """Let the node be gone at the `nth` operation of that name from now on."""
        self._named.append(_Named(name, nth, after))

    def crash_now(self, *, landed: int = 0) -> None:
        """Let the node be gone; of the writes that are held, the first `landed` take effect."""
        self._end_life()
        for start in self._held[:landed]:
            start()
        self._held.clear()

    def hold(self) -> None:
        """Let commits and checkpoints wait from now on, before they take effect."""
        self._holding = True

    def release(self) -> None:
        """Let those that wait take effect, in their order, and later ones at once."""
        self._holding = False
        held, self._held = self._held, []
        for start in held:
            start()

    @property
    def held(self) -> int:
        """How many writes wait."""
        return len(self._held)

    # -- the store

    async def open(self, node: str) -> Layout:
        """The first operation of a life: after a crash, the store answers again."""
        self.crashed = False
        self._holding = False
        self._held.clear()
        return await self._waited("open", self.inner.open(node))

    async def claim(self, parts: Sequence[int]) -> list[Claim]:
        return await self._waited("claim", self.inner.claim(parts))

    def commit(self, batches: Sequence[Batch]) -> asyncio.Future[frozenset[int]]:
        return self._future("commit", lambda: self.inner.commit(batches))

    async def tail(self, part: int, after: int) -> list[tuple[int, bytes]]:
        return await self._waited("tail", self.inner.tail(part, after))

    def load(self, part: int, oid: int) -> asyncio.Future[Stored | None]:
        return self._future("load", lambda: self.inner.load(part, oid))

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        return self._future("checkpoint", lambda: self.inner.checkpoint(slice_))

    async def due(self, parts: Sequence[int], before: int, limit: int) -> list[ObjectRow]:
        return await self._waited("due", self.inner.due(parts, before, limit))

    async def connected(self, part: int, after: int, limit: int) -> list[ObjectRow]:
        return await self._waited("connected", self.inner.connected(part, after, limit))

    async def history(self, part: int, oid: int, after: int, limit: int) -> list[Segment]:
        return await self._waited("history", self.inner.history(part, oid, after, limit))

    async def put_waypoints(self, waypoints: Sequence[Waypoint]) -> None:
        await self._waited("put_waypoints", self.inner.put_waypoints(waypoints))

    async def waypoint(self, oid: int, upto: int, version: str) -> Waypoint | None:
        return await self._waited("waypoint", self.inner.waypoint(oid, upto, version))

    async def waypoints(self, oid: int) -> list[tuple[int, int]]:
        return await self._waited("waypoints", self.inner.waypoints(oid))

    async def drop_waypoints(self, oid: int, first: int, end: int) -> None:
        await self._waited("drop_waypoints", self.inner.drop_waypoints(oid, first, end))

    async def scan(
        self, wanted: ObjectFilter, after: tuple[str, str] | None, limit: int
    ) -> list[ObjectRow]:
        return await self._waited("scan", self.inner.scan(wanted, after, limit))

    async def promises(
        self, wanted: PromiseFilter, after: tuple[int, str] | None, limit: int
    ) -> list[PromiseRow]:
        return await self._waited("promises", self.inner.promises(wanted, after, limit))

    async def calls(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> list[CallRow]:
        return await self._waited("calls", self.inner.calls(wanted, after, limit))

    async def find(
        self, kind: str, conditions: Sequence[Condition], after: str | None, limit: int
    ) -> list[ObjectRow]:
        return await self._waited("find", self.inner.find(kind, conditions, after, limit))

    async def indexed(self, oid: int) -> dict[str, bytes]:
        return await self._waited("indexed", self.inner.indexed(oid))

    async def indexed_kinds(self) -> dict[str, str]:
        return await self._waited("indexed_kinds", self.inner.indexed_kinds())

    def put_blob(
        self, part: int, epoch: int, oid: int, name: str, body: bytes
    ) -> asyncio.Future[bool]:
        return self._future("put_blob", lambda: self.inner.put_blob(part, epoch, oid, name, body))

    def get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        return self._future("get_blob", lambda: self.inner.get_blob(part, oid, name))

    async def unnamed_blobs(self, part: int) -> list[tuple[int, str]]:
        return await self._waited("unnamed_blobs", self.inner.unnamed_blobs(part))

    async def drop_blobs(self, part: int, epoch: int, blobs: Sequence[tuple[int, str]]) -> bool:
        return await self._waited("drop_blobs", self.inner.drop_blobs(part, epoch, blobs))

    async def erase(self, part: int, epoch: int, oid: int, row: ObjectRow | None, now: int) -> bool:
        return await self._waited("erase", self.inner.erase(part, epoch, oid, row, now))

    async def compact(self) -> None:
        await self._waited("compact", self.inner.compact())

    async def prune(self, asked: Pruning) -> Pruned | None:
        return await self._waited("prune", self.inner.prune(asked))

    async def put_version(self, version: str, bundle: bytes, now: int) -> None:
        await self._waited("put_version", self.inner.put_version(version, bundle, now))

    async def versions(self) -> list[tuple[str, int, int]]:
        return await self._waited("versions", self.inner.versions())

    async def get_version(self, version: str) -> bytes | None:
        return await self._waited("get_version", self.inner.get_version(version))

    async def close(self) -> None:
        """After a crash there is nobody to close it."""
        if not self.crashed:
            await self._waited("close", self.inner.close())

    async def hand_over(self) -> None:
        """See `Store`; after a crash there is nothing to hand over."""
        if not self.crashed:
            await self._waited("hand_over", self.inner.hand_over())

    def stats(self) -> StoreStats:
        return self.inner.stats()

    # -- how a fault strikes

    async def _waited(self, name: str, act: Coroutine[Any, Any, R]) -> R:
        life = self._life
        try:
            fault = self._count(name)
            if not self._is_gone(life) and (fault is None or fault.after):
                result = await act
                if not self._is_gone(life) and fault is None:
                    return result
        finally:
            act.close()
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._strike(fault, answer)
        return await answer

    def _future(self, name: str, act: Callable[[], asyncio.Future[R]]) -> asyncio.Future[R]:
        life = self._life
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        fault = self._count(name)

        def start() -> None:
            inner = act()
            if inner.done():
                finish(inner)  # an answer that is there at once stays so
            else:
                inner.add_done_callback(finish)

        def finish(inner: asyncio.Future[R]) -> None:
            error = inner.exception()
            if self._is_gone(life) or answer.done():
                pass  # nobody is there, or its caller has given up
            elif fault is not None:
                self._strike(fault, answer)
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(inner.result())

        if self._is_gone(life) or (fault is not None and not fault.after):
            self._strike(fault, answer)
        elif self._holding and name in WRITES:
            self._held.append(start)
        else:
            start()
        return answer

    def _count(self, name: str) -> _Fault | None:
        if self.crashed:
            return None
        self.operations.append(name)
        if self.full and name in WRITES:
            return _Fault(StoreFull("the simulated disk is full"), after=False)
        fault = self._faults.pop(len(self.operations), None)
        for named in [named for named in self._named if named.name == name]:
            named.left -= 1
            if not named.left:
                self._named.remove(named)
                fault = _Fault(None, named.after)
        return fault

    def _strike(self, fault: _Fault | None, answer: asyncio.Future[Any]) -> None:
        """Let `answer` fail; or never come, which is what a crash is."""
        if fault is None:
            return
        if fault.error is not None:
            answer.set_exception(fault.error)
        else:
            self._end_life()

    def _end_life(self) -> None:
        if not self.crashed:
            self.crashed = True
            self._life += 1
            self.on_crash()

    def _is_gone(self, life: int) -> bool:
        return self.crashed or life != self._life
