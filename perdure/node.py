"""A node: the layers wired into a running process. Start and drain; no more is decided here."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from perdure import ref
from perdure.clock import LAST_NS, Clock, RealClock, whole_ns
from perdure.errors import BadApp, OperatorError, UnknownHandler, UnknownKind
from perdure.failure import Failure
from perdure.host import async_generators, guard
from perdure.host.alone import server
from perdure.host.cancelling import cancel_call
from perdure.host.failures import pickled_failure, raised_by
from perdure.host.host import Host, Slot
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.nursery import Nursery
from perdure.host.quarantine import Deaths
from perdure.host.resolving import resolve
from perdure.inside import wanted_by
from perdure.journal.entry import PICKLE, Resolved
from perdure.journal.identity import know_aliases
from perdure.kind import Kind, Kinds, kind_of
from perdure.object import Object
from perdure.ref import check_key, format_address
from perdure.settings import Settings
from perdure.sight import calls as sight_calls
from perdure.store import open_store
from perdure.store.base import Layout, Store
from perdure.suspend import editions, heap, probe
from perdure.suspend.bundles import bundle_of
from perdure.suspend.editions import Live


class Node:
    """Serves the objects of some classes from one store, in the running event loop."""

    def __init__(
        self,
        classes: Sequence[type[Object]],
        settings: Settings,
        *,
        clock: Clock | None = None,
        store: Store | None = None,
        slot: Slot | None = None,
        deaths: Deaths | None = None,
        on_lost: Callable[[OperatorError], None] = lambda error: None,
        keeps_house: bool = True,
        objects: Sequence[Any] = (),
        bundle: tuple[str, bytes] | None = None,
        takes_over: bool = False,
    ) -> None:
        """`objects` are refs to those that `@every` and `@cron` run for. `on_lost` is called when
        the store has failed in a way that only a restart mends. `bundle` is the code's name and
        source, where they were made beforehand. With `takes_over` another process served the store
        until now, and hands its sockets over.

        Without `keeps_house` nothing is done that nobody asked for: see `Host`.
        """
        self.kinds = Kinds(_kinds(classes))
        self.settings = settings
        self.clock: Clock = clock if clock is not None else RealClock()
        self.store = store if store is not None else open_store(settings)
        self.layout: Layout
        self.host: Host
        self.ready = False
        self.unfit = ""
        """Why suspended code cannot be kept in snapshots here; empty if it can."""
        self._slot = slot
        self._deaths = deaths
        self._bundle = bundle
        self._on_lost = on_lost
        self._objects = [(ref._kind, ref._key) for ref in objects]
        self._keeps_house = keeps_house
        self._takes_over = takes_over
        self._nursery: Nursery | None = None

    async def start(self) -> None:
        """Open the store, become its owner, and take up what was left. Raises OperatorError."""
        guard.install()
        async_generators.install()
        # Whether suspended code can be kept here is tried once for each build of the interpreter,
        # in a process of its own: at a start, and not in the middle of a turn.
        self.unfit = probe.unfit()
        heap.resolve_kind = self._class_of
        if self._isolates():
            # Before there is a disk to hold: what is forked has nothing of it.
            self._nursery = Nursery(server(self._serve))
            self._nursery.begin()
        self.layout = await self.store.open(f"node-{self.clock.random_bytes(4).hex()}")
        version, bundle = self.bundle()
        await self.store.put_version(version, bundle, self.clock.now_ns())
        live = self._serve(version)
        self.host = Host(
            self.kinds,
            self.settings,
            self.store,
            self.layout,
            version,
            live=live,
            clock=self.clock,
            slot=self._slot,
            deaths=self._deaths,
            on_lost=self._on_lost,
            keeps_house=self._keeps_house,
            objects=self._objects,
            nursery=self._nursery,
        )
        self.host.register.words = sight_calls.words
        if self._takes_over:
            self.host.lines.expect()
        await self.host.start()
        ref.open_outside(self)
        if self._keeps_house:
            # What is there now stays: it need not be looked at in each collection.
            gc.collect()
            gc.freeze()
        self.ready = True

    def _isolates(self) -> bool:
        """Whether a class wants processes; they run in real time, and a test's clock does not."""
        wanted = [kind.name for kind in self.kinds.values() if kind.isolation is not None]
        if not wanted or not isinstance(self.clock, RealClock):
            return False
        if sys.platform != "linux":
            raise BadApp(
                f"{wanted[0]}: isolation='process' needs Linux",
                hint="Leave it out where perdure runs on anything else.",
            )
        return True

    def _serve(self, version: str) -> Live:
        """Make the code of the classes the newest; that of before stays at hand."""
        for name, kind in self.kinds.items():
            if kind.version not in ("", version):
                # A test serves the same class as part of two versions.
                self.kinds[name] = Kind(kind.cls)
            know_aliases(name, kind.aliases)
        live = Live(version, self.kinds)
        editions.serve(live)
        return live

    def serve(self, cls: type[Object]) -> None:
        """Serve one more class, as part of the same code. Tests do."""
        kind = kind_of(cls)
        self.kinds[kind.name] = kind if kind.version in ("", self.host.version) else Kind(cls)
        know_aliases(kind.name, kind.aliases)
        editions.serve(self.host.versions.live)
        self.host.serve(self.kinds[kind.name])

    def bundle(self) -> tuple[str, bytes]:
        """The name of the code that is served, and its source."""
        if self._bundle is not None:
            return self._bundle
        return bundle_of(kind.cls for kind in self.kinds.values())

    def _class_of(self, name: str) -> type[Object]:
        kind = self.kinds.find(name)
        if kind is None:
            raise UnknownKind(f"no class {name!r} is served here")
        return kind.cls

    async def drain(self, *, hands_over: bool = False) -> None:
        """Take nothing new, finish what runs, snapshot, and let the store go.

        With `hands_over` another process waits for the store, and this one ends at once.
        """
        if not self.ready:
            return
        self.ready = False
        ref.close_outside(self)
        await self.host.drain()
        await (self.store.hand_over() if hands_over else self.store.close())

    # --- how code of this process that is outside of objects reaches them (perdure.ref.Outside)

    async def call(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a handler; gives its result or raises what it raised."""
        answer = await self._answer(kind, key, handler, args, kwargs, keep=False)
        if answer.failure is not None:
            raise raised_by(answer.failure)
        return heap.loads(answer.body)

    async def stream(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Call a handler that streams; gives its items, and raises what it raised."""
        arrived: asyncio.Queue[bytes | Answer] = asyncio.Queue()
        self.begin(
            kind,
            key,
            handler,
            args,
            kwargs,
            arrived.put_nowait,
            on_item=lambda _, body: arrived.put_nowait(body),
        )
        while not isinstance(item := await arrived.get(), Answer):
            yield heap.loads(item)
        if item.failure is not None:
            raise raised_by(item.failure)

    async def send(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Tell an object; returns the call id when it is on disk."""
        answer = await self._answer(kind, key, handler, args, kwargs, keep=True)
        if answer.failure is not None:  # refused, or taken back by a commit that failed
            raise raised_by(answer.failure)
        return answer.call_id

    async def delete(self, kind: str, key: str) -> None:
        """End an object."""
        await self.host.delete(format_address(self._kind(kind).name, key))

    async def settle_promise(
        self, token: str, value: object, failure: Failure | None, error: BaseException | None
    ) -> None:
        """Resolve or reject a promise; returns when that is on disk."""
        body = heap.dumps(value) if failure is None else pickled_failure(failure, error)
        await resolve(self.host, Resolved(token, failure is None, PICKLE, body))

    async def cancel(self, call_id: str, *, again: bool) -> None:
        """Cancel a call by its id."""
        await cancel_call(self.host, call_id, again=again)

    async def calls(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Calls that are so, the newest first."""
        lines, _ = await sight_calls.list_calls(self.host, **wanted)
        return lines

    async def find(
        self, kind: str, where: dict[str, Any], limit: int, after: str | None
    ) -> list[str]:
        """Keys of the objects that meet all conditions."""
        return [row.key for row in await self.host.index.find(kind, where, limit, after)]

    def _deadline_ns(self) -> int:
        """What `perdure.deadline` around the call says, in the time of objects; 0: nothing."""
        when = wanted_by()
        if not when:
            return 0
        left_s = when - asyncio.get_running_loop().time()
        return min(self.clock.now_ns() + max(1, whole_ns(left_s)), LAST_NS)

    async def _answer(
        self,
        kind_name: str,
        key: str,
        handler_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        keep: bool,
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self.begin(
            kind_name,
            key,
            handler_name,
            args,
            kwargs,
            answered,
            keep=keep,
            on_accepted=(lambda id_: answered(Answer(id_, b"", None))) if keep else None,
        )
        return await future

    def begin(
        self,
        kind_name: str,
        key: str,
        handler_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_answer: Callable[[Answer], None],
        **options: Any,
    ) -> None:
        """Bring a call to its object; `options` are those of an IncomingCall."""
        kind = self._kind(kind_name)
        handler = kind.handlers.get(handler_name)
        if handler is None:
            raise UnknownHandler(f"{kind_name} has no handler {handler_name!r}")
        bound = handler.signature.bind(args, kwargs)
        body = heap.dumps((args, kwargs))
        call = IncomingCall(
            kind, check_key(key), handler, bound, body, on_answer, format=PICKLE, **options
        )
        if not call.keep:
            # What is only told goes on without whoever told it.
            call.deadline_ns = self._deadline_ns()
        self.host.call(call)

    def _kind(self, name: str) -> Kind:
        kind = self.kinds.find(name)
        if kind is None:
            raise UnknownKind(
                f"no class {name!r} is served here", hint=f"Served are: {', '.join(self.kinds)}"
            )
        return kind


def _kinds(classes: Sequence[type[Object]]) -> dict[str, Kind]:
    if not classes:
        raise BadApp("there is no Object class to serve", hint="Write one: class Counter(Object).")
    kinds: dict[str, Kind] = {}
    for cls in classes:
        kind = kind_of(cls)
        for handler in kind.handlers.values():
            # A wrong annotation is told at the start, and not to the first caller.
            handler.signature.prepare()
        if kinds.setdefault(kind.name, kind) is not kind:
            raise BadApp(
                f"two classes are named {kind.name}: {kinds[kind.name].cls!r} and {cls!r}",
                hint=f"Give one another name: class {cls.__name__}(Object, name='…').",
            )
    for kind in kinds.values():
        for alias in kind.aliases:
            if alias in kinds and alias != kind.name:
                raise BadApp(
                    f"{alias} is a former name of {kind.name}, and the name of another class: "
                    f"{kinds[alias].cls!r}",
                    hint="Both would mean the same objects. Serve one of them.",
                )
    return kinds
