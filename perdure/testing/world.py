"""World: the whole of perdure inside a test, in virtual time, with the power switch at hand.

    async def test_reminder(world: World):
        order = world.at(Order, "42")
        await perdure.send(order.run, cart)
        await world.advance(timedelta(days=30))
        await world.crash()
        assert "rate your meal" in await order.messages()

The runtime is the real one: host, journal, recovery. Time, disk, chance and the end of the process
are the test's. Time passes only while the test waits for something; a test does the same each time
it runs with one seed. Calls of the test are those of a client that asks again, with the same
idempotency key, whenever its connection breaks: each happens once, however often the process ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from perdure import ref, steps
from perdure.app import App
from perdure.clock import NS
from perdure.errors import OperatorError, PerdureError
from perdure.gateway.promises import list_promises
from perdure.host.activation import Activation
from perdure.kind import kind_of
from perdure.node import Node
from perdure.object import Object
from perdure.settings import Settings
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.suspend import editions, heap
from perdure.testing import report
from perdure.testing.arguments import (
    address_of,
    app_of,
    check_operation,
    is_class,
    layout_of,
    ns_of,
    objects_of,
)
from perdure.testing.attempts import Attempts, StepCall, name_of
from perdure.testing.cassette import Cassette
from perdure.testing.client import Client
from perdure.testing.everywhere import Sweep, crash_everywhere
from perdure.testing.faults import FaultyStore
from perdure.testing.outside_http import Handler, Web
from perdure.testing.process import Process
from perdure.testing.rehearsal import Rehearsal
from perdure.testing.sockets import FakeClient, Sockets, delay_of
from perdure.testing.virtual import START_NS, VirtualClock, VirtualLoop

O = TypeVar("O", bound=Object)  # noqa: E741 - an object
R = TypeVar("R")

_SLACK_NS = 1_000_000
"""How much later than the end of an advance a timer may be that still fires in it: chains of
timeouts that are computed in floats of seconds drift by less."""


class World:
    """A simulated process with its disk and its clock, for one test.

    The `world` fixture gives one. Elsewhere: `async with World(Order, Payment) as world`, inside of
    `perdure.testing.run`. It takes an App or classes, and settings as an App does.
    """

    def __init__(
        self,
        *app: App | type[Object],
        seed: int = 0,
        replay: bool = False,
        **settings: Any,
    ) -> None:
        """`replay`: rebuild each object before each turn, as `--perdure-replay` does."""
        self.seed = seed
        self.replay = replay
        self._principal: Any = None
        self.problems: list[str] = []
        """Objects that were quarantined; the test fails at its end unless it clears the list."""
        self.choice = random.Random(seed)
        """Chance for the test itself, from the same seed."""
        self._classes, self._settings = app_of(app, settings)
        self._whole = any(isinstance(one, App) for one in app)
        self._objects = objects_of(app)
        self._attempts = Attempts(self._address_of, lambda: self.now)
        self._web = Web()
        self._disk = FaultyStore(MemoryStore(layout_of(seed)))
        self._loop: VirtualLoop
        self._clock: VirtualClock
        self._process: Process | None = None
        self._rehearsal = Rehearsal(self._diverged) if replay else None
        self._main: asyncio.Task[Any] | None = None
        self._failure: BaseException | None = None
        self._leave: list[Callable[[], None]] = []
        self._client: Client
        self._sockets: Sockets

    # --- begin and end

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(
                "a World needs virtual time: use the `world` fixture in an async test, "
                "or run your coroutine with perdure.testing.run"
            )
        if self._process is not None:
            raise RuntimeError("this World has begun already; make another one")
        self._loop = loop
        self._clock = VirtualClock(loop, self.seed, begins=loop.now_ns)
        self._process = Process(
            loop, self._classes, self._settings, self._clock, self._disk, self._begins
        )
        self._process.whole = self._whole
        self._process.objects = self._objects
        self._attempts.crash = self._crash_now
        self._main = asyncio.current_task()
        stuck, working, bystanders = loop.on_stuck, loop.working, loop.bystanders
        loop.on_stuck = self._stuck
        loop.working = lambda: self._attempts.running > 0
        loop.bystanders = frozenset(threading.enumerate())
        classes, code = heap.resolve_kind, editions.newest
        self._sockets = Sockets(self._process, lambda request: self.principal)
        self._client = Client(self._process, self.seed)
        self._client.principal = self._principal
        ref.open_outside(self._client)
        taken_out = steps.stand_in(self._attempts.stand_in)

        def leave() -> None:
            taken_out()
            ref.close_outside(self._client)
            heap.resolve_kind = classes
            if code is not None:
                editions.serve(code)
            loop.on_stuck, loop.working, loop.bystanders = stuck, working, bystanders

        self._leave.append(leave)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._started().close()
        await self._web.close()
        for leave in reversed(self._leave):
            leave()
        self._leave.clear()
        if self._failure is not None:
            if isinstance(error, asyncio.CancelledError) and self._main is not None:
                self._main.uncancel()
            raise self._failure
        if error is None and self.problems:
            raise AssertionError("\n".join(self.problems))

    def _started(self) -> Process:
        if self._process is None:
            raise RuntimeError("this World has not begun: async with World(…) as world")
        if not self._leave:
            raise RuntimeError("this World is over; nothing can be asked of it any more")
        return self._process

    def _begins(self, node: Node) -> None:
        """A node has started: be before it, and listen."""
        ref.close_outside(self._client)
        ref.open_outside(self._client)
        self._attempts.process_ended()
        self._web.process_ended()
        host = node.host
        refused = host.quarantine.unusable

        def noticed(activation: Activation, error: BaseException) -> None:
            self.problems.append(f"{activation.address} is quarantined: {error}")
            refused(activation, error)

        host.quarantine.unusable = noticed  # type: ignore[method-assign]
        if self._rehearsal is not None:
            self._rehearsal.begin()
            host.before_turn = self._rehearsal.before_turn

    # --- objects

    def at(self, cls: type[O], key: str) -> O:
        """A ref to an object, like `cls.at(key)`.

        Its class is served from now on, unless the world was given an App: then those of the App
        are served and no others.
        """
        if not is_class(cls):
            raise TypeError(f"world.at takes a class and a key: world.at(Order, '42'), not {cls!r}")
        if self._process is None:
            # A fixture that rests on this one prepares the test.
            names = {kind_of(one).name for one in self._classes}
            if kind_of(cls).name not in names and not self._whole:
                self._classes = (*self._classes, cls)
            return cls.at(key)
        process = self._started()
        if kind_of(cls).name not in process.classes and not process.whole:
            process.serve(cls)
        return cls.at(key)

    @property
    def principal(self) -> Any:
        """On whose behalf the test calls: what `perdure.current().principal` is."""
        return self._principal

    @principal.setter
    def principal(self, value: Any) -> None:
        self._principal = value
        if self._process is not None:
            self._client.principal = value

    @property
    def classes(self) -> tuple[type[Object], ...]:
        """What is served."""
        if self._process is None:
            return self._classes
        return tuple(self._process.classes.values())

    async def connect(
        self,
        ref: object,
        *,
        resumes: bool = False,
        delay: timedelta = timedelta(0),
        **query: str,
    ) -> FakeClient:
        """A client with a WebSocket at an object; `query` is what stands behind its URL.

        `delay` is how long a message takes, each way. With `resumes` it speaks the resume
        protocol, and can come back. Raises ConnectionError if the object refuses it.
        """
        path = "/" + address_of(ref)
        client = FakeClient(self._sockets, path, query, resumes=resumes, delay_ns=delay_of(delay))
        self._started()
        await client.connect()
        while client.closed is not None and client.refused is None and self._leave:
            await client.connect()  # The process ended in the middle of it.
        if client.refused is not None:
            raise ConnectionError(f"refused with {client.refused[0]}: {client.refused[1]}")
        return client

    async def show(self, ref: object) -> dict[str, Any]:
        """What `perdure show` prints of an object: state, timers, waits, steps."""
        address = address_of(ref)
        return await self._started().through(lambda node: look.show(node.host, address))

    async def history(self, ref: object, *, limit: int = 1000) -> list[dict[str, Any]]:
        """What `perdure history` prints of an object: its journal, entry by entry."""
        address = address_of(ref)
        return await self._started().through(
            lambda node: look.history(node.host, address, 0, limit)
        )

    async def promises(self, ref: object = None) -> list[dict[str, Any]]:
        """What `perdure promises` lists: the open ones of an object or of all, the oldest first."""
        query = urlencode({"object": address_of(ref)} if ref is not None else {}).encode()
        reply = await self._started().through(lambda node: list_promises(node.host, query, ""))
        found: list[dict[str, Any]] = msgspec.json.decode(reply.body)
        return found

    # --- time

    @property
    def now(self) -> datetime:
        """What time it is in this world; it begins at 2023-11-14 22:13:20 UTC."""
        ns = self._clock.now_ns() if self._process is not None else START_NS
        return datetime.fromtimestamp(ns // NS, UTC) + timedelta(microseconds=ns % NS // 1000)

    async def advance(self, duration: timedelta) -> None:
        """Let time pass. All timers on the way fire in their order, and steps run."""
        self._started()
        if not isinstance(duration, timedelta):
            raise TypeError(f"advance takes a timedelta, not {duration!r}: timedelta(days=30)")
        if duration < timedelta(0):
            raise ValueError(
                "time does not run backwards; await world.jump(…) sets the clock, also back"
            )
        await self.settle()
        until_ns = self._loop.now_ns + ns_of(duration)
        await self._reach(until_ns)
        while (next_ns := self._loop.next_ns()) is not None and next_ns <= until_ns + _SLACK_NS:
            await self._reach(next_ns)

    async def _reach(self, when_ns: int) -> None:
        reached: asyncio.Future[None] = self._loop.create_future()
        alarm = self._loop.alarm(when_ns, lambda: _tell(reached))
        try:
            await reached
        finally:
            alarm.cancel()
        await self._loop.settle()

    async def settle(self) -> None:
        """Wait until nothing moves any more unless time passes."""
        await self._started().up()
        await self._loop.settle()

    async def jump(self, by: timedelta) -> None:
        """Set the machine's clock forward or back, as an administrator or NTP does.

        Forward, what is due by the new time fires at once. Back, objects never see time run
        backwards, and a timer that has fired does not fire again.
        """
        await self.settle()
        self._clock.jump_ns += ns_of(by)
        await self.settle()

    # --- accidents

    def _crash_now(self) -> None:
        self._started().crash()

    async def crash(self, *, down: timedelta = timedelta(0)) -> None:
        """End the process as kill -9 does, and start it again after a time.

        Nothing of its memory is left, and no `finally` runs; what was durable is there again.
        """
        await self._started().up()
        await asyncio.shield(self._started().crash(ns_of(down)))

    async def crash_before(self, operation: str | int | Callable[..., Any], nth: int = 1) -> None:
        """End the process just before an operation: it does not happen.

        `operation` is one of the store by name (`"commit"`, the nth from now on) or by its number
        (as `crash_everywhere` prints it), or a step: then before the nth attempt from now on.
        """
        self._order_crash(operation, nth, after=False)

    async def crash_after(self, operation: str | int | Callable[..., Any], nth: int = 1) -> None:
        """End the process just after an operation: it has happened, and nobody has heard of it.

        See `crash_before`. After a step: it has run to its end, and its result is not recorded.
        """
        self._order_crash(operation, nth, after=True)

    def _order_crash(
        self, operation: str | int | Callable[..., Any], nth: int, *, after: bool
    ) -> None:
        self._started()
        if nth < 1:
            raise ValueError(f"nth counts from 1, and is {nth}")
        if isinstance(operation, bool):
            raise TypeError(f"an operation is a name, a number or a step, not {operation!r}")
        if isinstance(operation, int):
            done = len(self._disk.operations)
            if operation <= done:
                raise ValueError(f"operation {operation} is past: the store has had {done} so far")
            self._disk.crash(operation, after=after)
        elif isinstance(operation, str) and ":" not in operation:
            check_operation(operation)
            self._disk.crash_next(operation, nth, after=after)
        else:
            # A step, or nothing that there is: name_of says so.
            self._attempts.crash_at(name_of(operation), nth, after=after)

    async def hibernate(self, ref: object = None) -> None:
        """Let an object leave memory for the disk, or all that may; the next event wakes it.

        Raises RuntimeError for one that cannot leave now, since a step of it is under way.
        """
        process = self._started()
        await self.settle()
        host = await process.host()
        wanted = address_of(ref) if ref is not None else None
        for activation in host.live():
            if wanted is not None and activation.address != wanted:
                continue
            if not host.residency.let_go(activation) and wanted is not None:
                raise RuntimeError(f"{wanted} cannot leave memory now: a step of it is under way")
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """Move the log into snapshots and history, as the host does from time to time."""

        async def run(node: Node) -> None:
            try:
                await node.host.checkpointer.run()
            except OperatorError:
                if node.ready:
                    raise

        await self._started().through(run)

    async def deploy(
        self, *app: App | type[Object] | Sequence[type[Object]], **settings: Any
    ) -> None:
        """Go over to other code: the node drains, and starts with an App, or with classes.

        Classes take the place of those of the same name, and the others stay; an App takes the
        place of everything.
        """
        process = self._started()
        if not app:
            raise TypeError("deploy takes an App or classes: await world.deploy(NewOrder)")
        flat: list[Any] = []
        for one in app:
            flat.extend(one if isinstance(one, list | tuple) else [one])
        classes, chosen = app_of(tuple(flat), settings, process.settings)
        process.whole = any(isinstance(one, App) for one in flat)
        if process.whole:
            process.objects = objects_of(tuple(flat))
        else:
            names = {kind_of(cls).name for cls in classes}
            others = [cls for name, cls in process.classes.items() if name not in names]
            classes = (*others, *classes)
        await asyncio.shield(process.deploy(classes, chosen))
        await self.settle()

    async def crash_everywhere(
        self,
        scenario: Callable[[World], Awaitable[R]],
        *,
        check: Callable[[R], object] | None = None,
        same: bool = True,
        only: Collection[str] = (),
    ) -> Sweep[R]:
        """Run a scenario with a crash at each operation of the store, before and after it.

        `scenario(world)` gets a fresh world each time. It is run once in peace, which counts the
        operations, and then twice for each of them. What it returns must be equal to that of the
        first run (unless `same=False`), and `check(result)` must not raise. `only` names the
        operations to crash at, for scenarios with many: `{"commit", "checkpoint"}`. A failure says
        at which operation, with the seed, and how to run that one again.
        """
        self._started()
        for name in only:
            check_operation(name)
        return crash_everywhere(self._another, scenario, check, same=same, only=only)

    def _another(self) -> World:
        world = World(
            *self.classes,
            seed=self.seed,
            replay=self.replay,
            **{field.name: getattr(self._settings, field.name)
               for field in dataclasses.fields(Settings)},
        )  # fmt: skip
        world._whole = self._started().whole
        world._objects = tuple(self._started().objects)
        world.principal = self.principal
        world._attempts.replaced |= self._attempts.replaced
        return world

    # --- steps

    async def fail(
        self,
        step: Callable[..., Any] | str,
        times: int = 1,
        *,
        error: BaseException | type[BaseException] = ConnectionError,
        after: bool = False,
    ) -> None:
        """Let the next attempts of a step fail: before they run, or `after` they have."""
        if times < 1:
            raise ValueError(f"times counts from 1, and is {times}")
        if isinstance(error, type) and issubclass(error, BaseException):
            error = error(f"world.fail({step if isinstance(step, str) else step.__name__})")
        if not isinstance(error, BaseException):
            raise TypeError(f"error is an exception or its class, not {error!r}")
        self._attempts.fail(name_of(step), times, error, after=after)

    async def replace(
        self, step: Callable[..., Any] | str, function: Callable[..., Any] | None
    ) -> None:
        """Run `function` in the place of a step, for this world; None puts the step back."""
        name = name_of(step)
        if function is None:
            self._attempts.replaced.pop(name, None)
        elif callable(function):
            self._attempts.replaced[name] = function
        else:
            raise TypeError(f"a step is replaced by a function, not by {function!r}")

    def step_calls(self, step: Callable[..., Any] | str | None = None) -> list[StepCall]:
        """The attempts so far, of one step or of all, in the order in which they began."""
        name = name_of(step) if step is not None else None
        return [call for call in self._attempts.calls if name is None or call.step == name]

    async def cassette(self, path: Any, mode: str = "auto") -> None:
        """Record what steps answer in a file, or answer from it without running them.

        `auto` answers from the file where there is one, and else records; `record` and `replay`
        insist. See docs/testing.md.
        """
        tape = Cassette(path, mode)
        self._attempts.tape = tape
        self._leave.append(tape.close)

    async def http(self, handler: Handler) -> None:
        """Let a function answer all requests of `perdure.http`, in the place of a network.

        `handler(request: httpx.Request) -> httpx.Response`, async or not; what it raises, such as
        httpx.ConnectError, is what the request raises.
        """
        self._started()
        self._web.answer_by(handler)

    @property
    def operations(self) -> list[str]:
        """What was asked of the store so far, by name; the first is number 1."""
        return list(self._disk.operations)

    @property
    def crashes(self) -> int:
        """How often the process has ended in this world."""
        return self._process.crashes if self._process is not None else 0

    # --- what goes wrong by itself

    def _fail(self, error: BaseException) -> None:
        """Let the test fail where it stands."""
        if self._failure is None:
            self._failure = error
            if self._main is not None:
                self._main.cancel()

    def _stuck(self, why: str) -> None:
        self._fail(report.stuck(why, self._started().host_now()))

    def _diverged(self, activation: Activation, error: PerdureError) -> None:
        self._fail(report.diverged(activation, error))

    def _address_of(self, step_id: str) -> str:
        host = self._started().host_now()
        activation = host.find(int(step_id.partition("-")[0], 16)) if host is not None else None
        return activation.address if activation is not None else ""

    @property
    def rebuilt(self) -> int:
        """How often an object was rebuilt before a turn, with `replay`."""
        return self._rehearsal.rebuilt if self._rehearsal is not None else 0

    def describe(self) -> str:
        """Where this world stands, for a report."""
        lines = [
            f"seed {self.seed}, {self.now:%Y-%m-%d %H:%M:%S} UTC, {len(self._disk.operations)} "
            f"operations of the store, {self.crashes} crashes"
        ]
        lines += [
            f"step {call.step.rpartition(':')[2]} of {call.object}, attempt {call.attempt}: "
            f"{call.outcome}" + (f" ({call.error!r})" if call.error is not None else "")
            for call in self._attempts.calls[-10:]
        ]
        return "\n".join(lines)


def _tell(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
