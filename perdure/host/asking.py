"""What a turn may ask for: the face that author code meets inside an object (perdure.inside).

Each of these puts a command on the turn's list and, where there is something to wait for, gives a
future that an event of a later turn resolves. Nothing happens here and now.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from perdure.clock import whole_ns
from perdure.errors import JournalCorrupt, ReadOnlyError
from perdure.host import promises, schedules, stepping, watching
from perdure.host.chance import Chance
from perdure.host.loop import ObjectLoop, TimerHandle
from perdure.host.records import Asked, AskedStream, Held, StepNotes, Waited
from perdure.host.streams import Items
from perdure.host.task import AnswerFuture, Future
from perdure.host.watching import Watch
from perdure.inside import Current, Given, wanted_by
from perdure.journal.entry import (
    PICKLE,
    RULES,
    Call,
    Cancel,
    Command,
    Ended,
    Entry,
    Sent,
    StepAsked,
    StepDropped,
    Tick,
)
from perdure.journal.identity import call_id, oid_of, oid_of_call, to_oid
from perdure.kind import Kind
from perdure.promise import Promise
from perdure.ref import Ref, format_address, parse_address
from perdure.schedule import Schedule, from_ns
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.upgrades import Versions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NOTHING: list[Command] = []
"""The commands of every machine between its turns. A turn begins with a list of its own."""


class Surroundings:
    """What all machines of a host have in common."""

    __slots__ = ("blob", "debug", "on_error", "outer", "secret", "versions")

    def __init__(
        self,
        secret: bytes,
        outer: asyncio.AbstractEventLoop | None,
        *,
        debug: bool = False,
        blob: Callable[[int, str], bytes] | None = None,
    ) -> None:
        self.blob: Callable[[int, str], bytes] = blob if blob is not None else _no_blobs
        """What rests beside the journal of an object, by its number and the blob's name."""
        self.debug = debug
        """Whether the traceback of a call that fails is kept for its caller."""
        self.versions: Versions | None = None
        """Where a replay finds the code of each entry; None: the code of now runs all."""
        self.secret = secret
        """The store's secret, from which chance is derived."""
        self.on_error: Callable[[Call, BaseException], None] | None = None
        """Told of each call that fails, with its frames as they are: of copies that are looked
        at, and of nothing that lives."""
        self.outer = outer
        """The event loop that runs when no turn does. Known, since asking for it at each turn
        costs a system call on CPython 3.11."""

    def copy(self) -> Surroundings:
        """The same, for one machine that is looked at."""
        other = Surroundings(self.secret, self.outer, debug=self.debug, blob=self.blob)
        other.versions = self.versions
        return other


class Asking(ObjectLoop):
    """An object's loop, and what code that runs on it may ask of the outside."""

    __slots__ = (
        "_chance",
        "asked",
        "borrowed",
        "buried",
        "cancelled",
        "commands",
        "deadlines",
        "held",
        "home",
        "key",
        "kind",
        "oid",
        "parked",
        "past",
        "promises",
        "read_only",
        "rules",
        "schedules",
        "seq",
        "step_notes",
        "steps",
        "surroundings",
        "timetable",
        "trouble",
        "watches",
    )

    is_object_loop: ClassVar[bool] = True

    def __init__(self, kind: Kind, key: str, oid: int, surroundings: Surroundings) -> None:
        super().__init__()
        self.kind = kind
        self.key = key
        self.oid = oid
        self.home = oid
        """Under which number it is stored. In turns that a copy has from its origin, `oid` is the
        origin's, since ids are made from it."""
        self.surroundings = surroundings
        self.seq = 0
        self.asked: dict[int, Asked] | None = None
        self.steps: dict[int, Waited] | None = None
        self.promises: dict[int, Promise[Any]] | None = None
        """Open promises, by number."""
        self.buried = 0
        """The last number of the life before this one: promises up to it ended with it."""
        self.watches: list[Watch] | None = None
        """Who waits for a change of the object's own state."""
        self.step_notes: StepNotes | None = None
        self.trouble: Exception | None = None
        """What failed in the runtime while author code ran: this turn must not count."""
        self.schedules: dict[str, Schedule] | None = None
        """By id: those that are going to run, those that run, and those that failed."""
        self.parked: deque[Schedule] | None = None
        """One-time schedules that failed, the oldest first."""
        self.timetable: list[Tick] | None = None
        """What its class declares for it, as it was told last."""
        self.past: list[Command] | None = None
        """In a replay: what the turn that runs asked for when it was live."""
        self.borrowed: Entry | None = None
        """The entry that is replayed, where it ran in another object or another store: what was
        derived from their secret stands in it."""
        self.held: Held | None = None
        """What a copy keeps back until it is released; None: it is no copy, or was released."""
        self.commands: list[Command] = NOTHING
        """What the running turn has asked for, in order."""
        self.read_only = False
        """A query runs: whoever asks for something is refused."""
        self._chance: Chance | None = None
        self.rules = RULES
        """By which rules the turn runs; a replay sets those of its entry."""
        self.cancelled: dict[str, str] | None = None
        """Calls whose code was told that it is over, and why (cancelling.py)."""
        self.deadlines: dict[str, TimerHandle] | None = None
        """The timers of calls that have a deadline."""

    @property
    def address(self) -> str:
        return format_address(self.kind.name, self.key)

    def ask(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future:
        """Call another object."""
        self.refuse_in_query(f"call {kind}.{handler}")
        future = AnswerFuture(loop=self)
        call = Call(
            self._call_id(kind, key),
            handler,
            PICKLE,
            _arguments(args, kwargs),
            self.address,
            answer_to=future.number,
            deadline=self.deadline_ns(),
        )
        self._ask(format_address(kind, key), call, handler, future)
        return future

    def ask_stream(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Items:
        """Call a handler of another object that streams."""
        future = self.ask(kind, key, handler, args, kwargs)
        assert self.asked is not None
        items = Items(future)
        self.asked[future.number] = AskedStream(self.asked[future.number], items)
        return items

    def end(self, kind: str, key: str) -> Future:
        """Delete an object."""
        self.refuse_in_query("delete an object")
        future = Future(loop=self)
        event = Ended(future.number, self.address)
        self._ask(format_address(kind, key), event, "delete", future)
        return future

    def answer_unwanted(self, number: int) -> None:
        """Nobody awaits the answer of a call any more: it is cancelled where it runs."""
        asked = self.asked.get(number) if self.asked is not None and self.rules else None
        if asked is None or not asked.call_id:
            return
        assert self.asked is not None
        del self.asked[number]
        self.asked = self.asked or None
        self.commands.append(Sent(asked.to, Cancel(asked.call_id)))

    def cancel_call(self, call_id: str, *, again: bool) -> Future:
        """Cancel a call of any object."""
        self.refuse_in_query("cancel a call")
        to = to_oid(oid_of_call(call_id))
        future = Future(loop=self)
        event = Cancel(call_id, again=again, answer_to=future.number, caller=self.address)
        self._ask(to, event, "cancel", future)
        return future

    def deadline_ns(self) -> int:
        """When a call made now has to have ended; 0 for one that may take its time.

        A deadline that has passed is not handed on, nor is that of a call which was cancelled:
        what runs then is its compensation, and that takes the time it takes.
        """
        when = wanted_by()
        found = whole_ns(when) if when else 0
        call: Call | None = self.call
        if call is not None:
            if self.cancelled is not None and call.id in self.cancelled:
                return 0
            if call.deadline and (not found or call.deadline < found):
                found = call.deadline
        return found if found > self.now_ns else 0

    def _ask(self, to: str, event: Call | Ended | Cancel, handler: str, future: Future) -> None:
        self.commands.append(Sent(to, event))
        if self.asked is None:
            self.asked = {}
        there = event.id if type(event) is Call else ""
        here = self.call.id if self.call is not None else ""
        self.asked[future.number] = Asked(future, to, handler, self.now_ns, there, here)

    def tell(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Send to another object."""
        self.refuse_in_query(f"send to {kind}.{handler}")
        call_id = self._call_id(kind, key)
        call = Call(call_id, handler, PICKLE, _arguments(args, kwargs), self.address)
        self.commands.append(Sent(format_address(kind, key), call))
        return call_id

    def request_step(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step_id: str,
        attempt: int,
        timeout: float | None,
        once: bool = False,
        stream: Given | None = None,
    ) -> Future:
        """Ask for one attempt of a step."""
        self.refuse_in_query(f"run the step {name}")
        future = Future(loop=self)
        body = _arguments(args, kwargs)
        asked = StepAsked(future.number, name, body, step_id, attempt, timeout or 0.0, once)
        self.commands.append(asked)
        if self.steps is None:
            self.steps = {}
        self.steps[future.number] = Waited(future, asked, self.now_ns, stream)
        future.add_done_callback(self._step_left)
        return future

    def _step_left(self, future: asyncio.Future[Any]) -> None:
        """Its future is done: by the step itself, or because nobody waits any more."""
        assert isinstance(future, Future)
        if self.steps and future.number in self.steps and future.cancelled():
            del self.steps[future.number]
            self.steps = self.steps or None
            self.commands.append(StepDropped(future.number))

    # --- promises and changes of state, in modules of their own

    begin_promise = promises.begin
    find_promise = promises.find
    withdraw_promise = promises.withdraw
    settle_promise = promises.send
    watch = watching.watch
    put_schedule = schedules.put
    cancel_schedule = schedules.cancel

    # --- more about steps, in stepping.py

    open_stream = stepping.open_stream
    step_failed = stepping.note_failed
    step_over = stepping.note_over

    def blob(self, name: str) -> bytes:
        """What rests under a name beside the journal."""
        return self.surroundings.blob(self.home, name)

    def next_step_id(self) -> str:
        self.number += 1
        return f"{self.oid:016x}-{self.number}"

    def draw(self) -> float:
        return self.chance.random.random()

    def current(self) -> Current:
        event: Call | None = self.call
        ref = Ref(self.kind.name, self.key)
        until_ns = self.deadline_ns()
        deadline = _EPOCH + timedelta(microseconds=until_ns // 1000) if until_ns else None
        if event is None:
            return Current(ref, None, None, None, deadline)
        caller = Ref(*parse_address(event.caller)) if event.caller else None
        principal = heap.loads(event.principal) if event.principal else None
        due = from_ns(event.due_ns) if event.due_ns else None
        return Current(ref, caller, principal, event.id, deadline, due)

    @property
    def chance(self) -> Chance:
        """This turn's chance, made at its first use."""
        chance = self._chance
        if chance is None:
            borrowed = self.borrowed
            chance = self._chance = (
                Chance(self.surroundings.secret, self.oid, self.seq, fresh=self.read_only)
                if borrowed is None or self.read_only
                else Chance.of_key(borrowed.chance)
            )
        return chance

    def set_timer(
        self,
        when_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> TimerHandle:
        """As in ObjectLoop; not in a query."""
        if self.read_only:
            self.refuse_in_query("set a timer")
        return super().set_timer(when_ns, callback, args, context)

    def refuse_in_query(self, what: str) -> None:
        """Raises ReadOnlyError where the code that runs may change nothing."""
        if self.read_only:
            raise ReadOnlyError(
                f"{self.address}: a query tried to {what}", hint="Remove @query from the handler."
            )

    def _call_id(self, kind: str, key: str) -> str:
        return call_id(oid_of(kind, key), f"{self.oid:x}.{self.seq}.{len(self.commands)}")


def _no_blobs(oid: int, name: str) -> bytes:
    raise JournalCorrupt(f"the blob {name} of object {oid:016x} cannot be read here")


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    # Pickled at the moment of the call: what the caller changes afterwards is its own.
    return heap.dumps((args, kwargs), "arguments")
