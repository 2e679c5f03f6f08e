"""The simulated process: one node after the other, on one disk, until the world ends.

A node that is killed takes with it all it had under way, and the next one starts at once from what
the disk holds, as under a supervisor. Whoever called from outside sees the connection break, and
asks again with the same idempotency key: so a test is written as if nothing ever crashed, and its
calls happen exactly once.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from perdure import ref
from perdure.errors import BadApp, OperatorError, Unavailable
from perdure.host.host import Host
from perdure.host.incoming import Answer
from perdure.kind import kind_of
from perdure.node import Node
from perdure.object import Object
from perdure.settings import Settings
from perdure.testing.faults import FaultyStore
from perdure.testing.virtual import Life, VirtualClock, VirtualLoop

T = TypeVar("T")

Begin = Callable[[Node, Callable[[Answer], None]], None]


class SimulatedNode(Node):
    """A node that does nothing unless it is asked to, and is told which version of the code it is:
    several may stand in one test module."""

    code = ""

    def bundle(self) -> tuple[str, bytes]:
        """The name of the code, and no source: it stays in memory."""
        return self.code, b""


class Process:
    """Starts a node when it is first needed, and another one whenever it was killed."""

    def __init__(
        self,
        loop: VirtualLoop,
        classes: Sequence[type[Object]],
        settings: Settings,
        clock: VirtualClock,
        disk: FaultyStore,
        begins: Callable[[Node], None],
    ) -> None:
        """`begins` is called with each node that has started."""
        self.classes = {kind_of(cls).name: cls for cls in classes}
        self.settings = settings
        self.objects: Sequence[Any] = ()
        """Refs to those that `@every` and `@cron` run for: what an App has as `objects`."""
        self.whole = False
        """An App was given: its classes are all there are."""
        self.crashes = 0
        self._loop = loop
        self._clock = clock
        self._disk = disk
        self._begins = begins
        self._context = contextvars.copy_context()
        self._node: SimulatedNode | None = None
        self._life: Life | None = None
        self._change: asyncio.Task[None] | None = None
        """The last start or deploy."""
        self._connections: dict[asyncio.Future[Any], None] = {}
        """Whoever waits for this process; told when it ends, in the order in which they came."""
        self._over = False
        self._version = ""
        disk.on_crash = self._fell

    # --- the node

    async def host(self) -> Host:
        """The host that runs at the moment; started if there is none. Raises OperatorError."""
        return (await self.up())[0].host

    def host_now(self) -> Host | None:
        """The host, if one is up."""
        return self._node.host if self._node is not None and self._node.ready else None

    def serve(self, cls: type[Object]) -> None:
        """Serve one more class, from now on."""
        kind = kind_of(cls)
        self.classes[kind.name] = cls
        if self._node is not None and self._node.ready and kind.name not in self._node.kinds:
            self._node.serve(cls)

    async def up(self) -> tuple[SimulatedNode, Life]:
        """The node that runs and its life; a node is started if there is none."""
        while (change := self._under_way()) or self._life is None or not self._life.alive:
            await asyncio.shield(change or self._begin(self._start(0)))
        assert self._node is not None
        return self._node, self._life

    def _begin(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._change = self._loop.create_task(change, context=self._context.copy())
        return self._change

    def _under_way(self) -> asyncio.Task[None] | None:
        """The start or the deploy that is under way."""
        return self._change if self._change is not None and not self._change.done() else None

    async def _start(self, down_ns: int) -> None:
        if not self.classes:
            raise BadApp(
                "this world has no class to serve: the test module knows none",
                hint="Import it there, or say it with @pytest.mark.perdure(…) or world.at(…).",
            )
        if down_ns:
            back: asyncio.Future[None] = self._loop.create_future()
            self._loop.alarm(self._loop.now_ns + down_ns, lambda: back.set_result(None))
            await back
        while True:
            life = self._life = Life()
            node = self._node = SimulatedNode(
                list(self.classes.values()),
                self.settings,
                clock=self._clock,
                store=self._disk,
                keeps_house=False,
                objects=[ref for ref in self.objects if ref._kind in self.classes],
            )
            # A class that is added on the way is no other code.
            self._version = node.code = self._version or version_of(list(self.classes.values()))
            starting = life.task(node.start())
            await self._first(starting)
            if life.alive:
                break
        try:
            starting.result()
        except BaseException:
            self._end(node, life)
            raise
        self._begins(node)

    # --- the ways out

    def crash(self, down_ns: int = 0) -> asyncio.Task[None]:
        """End it where it stands, and start the next one after a while."""
        self._over = True
        self._disk.crash_now()
        self._fell()
        self._over = False
        # A start that is under way begins again by itself.
        return self._under_way() or self._begin(self._start(down_ns))

    def _fell(self) -> None:
        life, node = self._life, self._node
        if life is None or node is None or not life.alive:
            return
        self.crashes += 1
        self._end(node, life)
        if not self._over and not self._under_way():
            self._begin(self._start(0))

    def _end(self, node: Node, life: Life) -> None:
        life.end()
        # What runs at this moment runs on to the next wait, and nobody hears of it.
        self._loop.call_soon(_clear_away, node, life, context=self._context.copy())
        for connection in list(self._connections):
            if not connection.done():
                connection.set_result(None)

    def deploy(self, classes: Sequence[type[Object]], settings: Settings) -> asyncio.Task[None]:
        """Let the node finish what it may, and start one with other classes."""
        before = self._under_way()
        return self._begin(self._deploy(before, classes, settings))

    async def _deploy(
        self,
        before: asyncio.Task[None] | None,
        classes: Sequence[type[Object]],
        settings: Settings,
    ) -> None:
        if before is not None:
            await before
        node, life = self._node, self._life
        if node is not None and life is not None and life.alive:
            await self._first(life.task(node.drain()))
            if life.alive:
                self._disk.crashed = True  # What it still asks for is not answered.
                self._end(node, life)
        self.classes = {kind_of(cls).name: cls for cls in classes}
        self.settings = settings
        self._version = ""
        await self._start(0)

    def close(self) -> None:
        """The world ends: nothing is started any more."""
        self._over = True
        if self._change is not None:
            self._change.cancel()
        life, node = self._life, self._node
        if life is not None and node is not None and life.alive:
            self._disk.crashed = True
            life.end()
            _clear_away(node, life)

    # --- from outside

    async def ask(self, begin: Begin) -> Answer:
        """Begin a call, and begin it again wherever the connection broke; gives its answer."""
        while True:
            node, life = await self.up()
            answered: asyncio.Future[Answer | None] = self._loop.create_future()

            def hear(answer: Answer, answered: asyncio.Future[Answer | None] = answered) -> None:
                if not answered.done():
                    answered.set_result(answer)

            with _Connected(self._connections, answered):
                life.run(begin, node, hear)
                answer = await answered
            if answer is None:
                continue
            refused = answer.failure is not None and answer.failure.code == Unavailable.code
            if refused and (self._under_way() or not life.alive):
                continue  # It is on its way out; the next one answers.
            return answer

    async def through(self, work: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Do something with the node, and do it again if the node ends in the middle."""
        while True:
            node, life = await self.up()
            task = life.task(work(node))
            try:
                await self._first(task)
                if life.alive:
                    return task.result()
            except asyncio.CancelledError:
                task.cancel()
                raise
            except (Unavailable, OperatorError):
                if life.alive and not self._under_way():
                    raise

    async def _first(self, task: asyncio.Task[Any]) -> None:
        """Wait until a task of the life is done, or the life is."""
        ended: asyncio.Future[None] = self._loop.create_future()
        with _Connected(self._connections, ended):
            await asyncio.wait({task, ended}, return_when=FIRST_COMPLETED)

    def connection(self, connection: asyncio.Future[Any]) -> _Connected:
        """While entered, the future gets None as its result when the process ends."""
        return _Connected(self._connections, connection)


class _Connected:
    def __init__(
        self, connections: dict[asyncio.Future[Any], None], connection: asyncio.Future[Any]
    ) -> None:
        self._connections = connections
        self._connection = connection

    def __enter__(self) -> None:
        self._connections[self._connection] = None

    def __exit__(self, *exc: object) -> None:
        self._connections.pop(self._connection, None)


def _clear_away(node: Node, life: Life) -> None:
    """Free the memory of a process that is gone, and run nothing of it."""
    node.ready = False
    if node in ref._outside:
        ref.close_outside(node)
    host = getattr(node, "host", None)
    if host is not None:
        for activation in host.live():
            activation.retire()
    life.bury()


def version_of(classes: Sequence[type[Object]]) -> str:
    """A name for what classes consist of: the digest of their source."""
    digest = hashlib.blake2b(digest_size=6)
    for cls in sorted(classes, key=lambda cls: (cls.__perdure_name__, cls.__qualname__)):
        digest.update(f"{cls.__module__}:{cls.__qualname__}\n{_source(cls)}\n".encode())
    return digest.hexdigest()


_sources: dict[type[Object], str] = {}


def _source(cls: type[Object]) -> str:
    if cls not in _sources:
        try:
            _sources[cls] = inspect.getsource(cls)
        except (OSError, TypeError):
            _sources[cls] = repr(cls)
    return _sources[cls]
