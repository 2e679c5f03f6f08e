"""What the suspended code of an object waits for: in words, since when, until when, and for whom.

asyncio does not write down who will wake a task. It can be seen all the same: a task awaits a
future, and what resolves that future holds on to it: a timer, a call or step of this object, or a
callback at the end of another task. Who holds a lock shows on the stack of the code inside its
`async with`. What is left is resolved by whoever comes next, and nothing more can be said.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from perdure.clock import iso
from perdure.host.loop import TimerHandle
from perdure.host.machine import Machine
from perdure.host.promises import RESOLVE
from perdure.host.raw_requests import OpenBody
from perdure.host.records import Asked, Waited
from perdure.host.task import Task
from perdure.host.watching import Watch
from perdure.journal.entry import Call
from perdure.promise import Promise, type_name
from perdure.sight.stacks import Frame, frames_of, told

Source = Task | Asked | Waited | TimerHandle | Promise[Any] | Watch | OpenBody
"""What will resolve a future."""

_ENDS: dict[type, str] = {Waited: "step", Promise: "promise", Watch: "change", OpenBody: "body"}

_NAMED_MAX = 3

LOCALS_MAX = 500
"""Waits of one object that are told with their variables: a repr may take its time."""


class Wait(NamedTuple):
    """What one task waits for."""

    task: Task
    frames: list[Frame]
    on: str
    until_ns: int
    """When it ends at the latest, by a timer; 0: no timer ends it."""
    next: list[Task | Asked]
    """What it depends on that waits itself."""
    end: str
    """What it comes down to where nothing is next: `timer`, `step`, `future`; else empty."""


class Waits:
    """The waits of one object, between two of its turns."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._timers: dict[int, list[TimerHandle]] = {}
        """Timers by what they are called with, or belong to."""
        self._direct: dict[int, Source] = {}
        """Futures that are known by themselves."""
        self._leads: dict[int, list[asyncio.Future[Any]]] = {}
        """Futures whose end reaches another future, or a group or queue."""
        self._frames: dict[int, list[Frame]] = {}
        self._index()

    def of(self, task: Task) -> Wait:
        """What a task of the object waits for."""
        frames = self._frames_of(task)
        future = task.waiting_on
        primitive = _primitive(frames)
        sources = self._sources(future, primitive)
        on, holder = self._words(task, frames, primitive, sources)
        next_: list[Task | Asked] = [one for one in sources if isinstance(one, (Task, Asked))]
        next_ += holder
        end = ""
        if not next_:
            kinds = {type(one) for one in sources}
            end = next((_ENDS[kind] for kind in _ENDS if kind in kinds), "future")
            end = "timer" if kinds == {TimerHandle} else end
        return Wait(task, frames, on, self._until(task), next_, end)

    def all(self) -> list[Wait]:
        """Those of all its tasks, the oldest first."""
        return [self.of(task) for task in (self._machine.tasks or {}).values()]

    # --- who resolves what

    def _index(self) -> None:
        machine = self._machine
        known: list[asyncio.Future[Any]] = []
        for timer in machine.timers or ():
            owner = _owner(timer.callback)
            if isinstance(owner, asyncio.Timeout):
                owner = owner._task  # type: ignore[attr-defined]
            for part in (owner, *timer.args):
                if not isinstance(part, asyncio.Future):
                    continue
                self._timers.setdefault(id(part), []).append(timer)
                if not isinstance(part, Task) and (part is owner or is_sleep(timer)):
                    self._direct[id(part)] = timer
                    known.append(part)
        records: list[Asked | Waited] = [*(machine.asked or {}).values()]
        records += (machine.steps or {}).values()
        for record in records:
            self._direct[id(record.future)] = record
            known.append(record.future)
        for promise in (machine.promises or {}).values():
            for waiter in promise._waiters:
                self._direct[id(waiter)] = promise
                known.append(waiter)
        for watch in machine.watches or ():
            self._direct[id(watch.future)] = watch
            known.append(watch.future)
        for body in (machine.uploads or {}).values():
            for waiter in body.waiters if not body.end else ():
                self._direct[id(waiter)] = body
                known.append(waiter)
        for task in (machine.tasks or {}).values():
            self._direct[id(task)] = task
            known.append(task)
        self._follow(known)

    def _follow(self, futures: list[asyncio.Future[Any]]) -> None:
        seen: set[int] = set()
        # It grows on the way.
        for future in futures:
            if id(future) in seen:
                continue
            seen.add(id(future))
            for callback, _ in future._callbacks or ():
                for part in _reached(callback):
                    self._leads.setdefault(id(part), []).append(future)
                    if isinstance(part, asyncio.Future) and not part.done():
                        futures.append(part)

    def _sources(self, future: object, primitive: Frame | None) -> list[Source]:
        """What resolves a future in the end, each once."""
        found: dict[int, Source] = {}
        seen: set[int] = set()
        waiting = [future] if primitive is None else [future, primitive.variables["self"]]
        while waiting:
            part = waiting.pop(0)
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            direct = self._direct.get(id(part))
            if direct is not None:
                found[id(direct)] = direct
            else:
                waiting += self._leads.get(id(part), [])
        return sorted(found.values(), key=_number)

    def _until(self, task: Task) -> int:
        timers = [*self._timers.get(id(task.waiting_on), ()), *self._timers.get(id(task), ())]
        return min((timer.when_ns for timer in timers), default=0)

    def _frames_of(self, task: Task) -> list[Frame]:
        found = self._frames.get(task.number)
        if found is None:
            found = self._frames[task.number] = list(frames_of(task.coroutine))
        return found

    # --- in words

    def _words(
        self, task: Task, frames: list[Frame], primitive: Frame | None, sources: list[Source]
    ) -> tuple[str, list[Task]]:
        """What it waits for, and who holds it."""
        if task.waiting_on is None:
            return "its turn", []
        if sources:
            return _names(sources, frames), []
        if primitive is None:
            place = self._place_of(task.waiting_on, frames)
            return (f"future {place}, to be set" if place else "a future, to be set"), []
        value = primitive.variables["self"]
        place = self._place_of(value, frames)
        text = f"{type(value).__name__} {place}".rstrip()
        lock = _innermost(frames)
        if isinstance(lock, (asyncio.Lock, asyncio.Semaphore)):
            holders = self._holders.get(id(lock), [])
            who = ", ".join(holder.get_name() for holder in holders)
            text += f", held by {who}" if who else ""
            return text, holders
        return text + _wanted(value, primitive.code.co_name), []

    def _place_of(self, value: object, frames: list[Frame]) -> str:
        """Under which name the object's code knows a value."""
        for name, attribute in vars(self._machine.instance).items():
            if attribute is value:
                return f"self.{name}"
        for frame in reversed(frames):
            if not frame.module.startswith(("asyncio.", "perdure.")):
                return next((name for name, one in frame.variables.items() if one is value), "")
        return ""

    @functools.cached_property
    def _holders(self) -> dict[int, list[Task]]:
        """The tasks that are inside an `async with` of a lock, by lock."""
        holders: dict[int, list[Task]] = {}
        for task in (self._machine.tasks or {}).values():
            frames = self._frames_of(task)
            waits_in = _lock_of(_innermost(frames))
            for lock in filter(None, (_entered(value) for one in frames for value in one.stack)):
                # Code that waits in it has not got it yet, or lets it rest for a condition.
                if lock is not waits_in:
                    holders.setdefault(id(lock), []).append(task)
        return holders


def _reached(callback: Any) -> Iterator[Any]:
    """What a callback at the end of a future will reach: futures, and what belongs to asyncio."""
    found: list[Any] = []
    if isinstance(callback, types.MethodType):
        owner = callback.__self__
        if not isinstance(owner, Task):
            found.append(owner)
            if type(owner).__module__.startswith("asyncio."):
                found += getattr(owner, "__dict__", {}).values()
    elif isinstance(callback, functools.partial):
        found += callback.args
    elif isinstance(callback, types.FunctionType):
        for cell in callback.__closure__ or ():
            try:
                found.append(cell.cell_contents)
            except ValueError:
                continue
    for part in found:
        if isinstance(part, asyncio.Future) or type(part).__module__.startswith("asyncio."):
            yield part


def _owner(callback: object) -> Any:
    method = isinstance(callback, (types.MethodType, types.BuiltinMethodType))
    return callback.__self__ if method else None  # type: ignore[attr-defined]


def is_sleep(timer: TimerHandle) -> bool:
    # Other timers of asyncio with a future are the ends of its patience.
    callback = timer.callback
    return (
        isinstance(callback, types.FunctionType)
        and callback.__name__ == "_set_result_unless_cancelled"
    )


def _primitive(frames: list[Frame]) -> Frame | None:
    """The outermost method of asyncio that the code waits in."""
    found = None
    for frame in reversed(frames):
        if not frame.module.startswith("asyncio."):
            break
        if "self" in frame.variables:
            found = frame
    return found


def _innermost(frames: list[Frame]) -> Any:
    """What the innermost method of asyncio belongs to, if code waits in one."""
    if frames and frames[-1].module.startswith("asyncio."):
        return frames[-1].variables.get("self")
    return None


def _entered(value: object) -> object:
    """The lock of an `async with` that this value on a frame's stack is the way out of."""
    if isinstance(value, types.MethodType) and value.__func__.__name__ == "__aexit__":
        return _lock_of(value.__self__)
    return None


def _lock_of(value: object) -> object:
    if isinstance(value, asyncio.Condition):
        value = value._lock  # type: ignore[attr-defined]
    return value if isinstance(value, (asyncio.Lock, asyncio.Semaphore)) else None


def _wanted(value: object, method: str) -> str:
    """What code in a method of asyncio waits for it to do."""
    match value:
        case asyncio.Event():
            return ", to be set"
        case asyncio.Condition():
            return ", to be notified"
        case asyncio.Barrier():
            return f", for {value.parties - value.n_waiting} more"
        case asyncio.Queue():
            return {"put": ", for room", "join": ", to be worked off"}.get(method, ", for an item")
        case _:
            return ""


def _number(source: Source) -> int:
    if isinstance(source, Promise):
        return source._number
    if isinstance(source, OpenBody):
        return source.received
    return source.number if isinstance(source, (Task, TimerHandle)) else source.future.number


def _names(sources: list[Source], frames: list[Frame]) -> str:
    named = [_name(source, frames) for source in sources[:_NAMED_MAX]]
    if len(sources) == 1:
        return named[0]
    if len(sources) > _NAMED_MAX:
        named.append("…")
    return f"{len(sources)} at once: {', '.join(named)}"


def _name(source: Source, frames: list[Frame]) -> str:
    match source:
        case Task():
            code = getattr(source.coroutine, "__qualname__", "_")
            # Those of perdure's own functions, as for a call in a task of its own, say nothing.
            return f"task {source.get_name()}" + ("" if code.startswith("_") else f" ({code})")
        case Asked():
            if source.handler == RESOLVE:
                return "a promise elsewhere to be resolved"
            if not source.call_id:
                if source.handler == "cancel":
                    return "a call to be cancelled"
                return f"the end of {source.to}"
            return f"call {source.to}.{source.handler}"
        case Promise():
            return f"promise of {type_name(source._of)}"
        case Watch():
            code = source.predicate.__code__ if _is_function(source.predicate) else None
            file = code.co_filename.rpartition("/")[2] if code else ""
            place = f" ({file}:{code.co_firstlineno})" if code else ""
            return f"a change of the object's state, by wait_until{place}"
        case OpenBody():
            return "more of the body of its request"
        case Waited():
            return _step(source.asked.name, source.asked.attempt)
        case TimerHandle():
            for frame in frames:
                if frame.module == "perdure.steps" and frame.code.co_name == "_tries":
                    made, attempt = frame.variables["made"], frame.variables["attempt"]
                    next_ = _step(made.name, attempt + 1)
                    return f"sleep until {iso(source.when_ns)}, then {next_}"
            what = "sleep until" if is_sleep(source) else "a timer at"
            return f"{what} {iso(source.when_ns)}"


def _is_function(value: object) -> bool:
    return isinstance(value, types.FunctionType)


def _step(name: str, attempt: int) -> str:
    return f"step {name.rpartition(':')[2]}" + (f", attempt {attempt}" if attempt > 1 else "")


# --- as JSON


def tell_waits(machine: Machine) -> list[dict[str, Any]]:
    """What all suspended code of an object waits for, with its stacks. Runs reprs of the app."""
    lines = [
        _line(machine, wait, with_locals=number < LOCALS_MAX)
        for number, wait in enumerate(Waits(machine).all())
    ]
    for call in machine.queue or ():
        lines.append(
            {
                "task": None,
                "call_id": call.id,
                "handler": call.handler,
                "began": None,
                "since": None,
                "until": _iso(call.deadline),
                "deadline": _iso(call.deadline),
                "cancelled": None,
                "waiting_on": queued_behind(machine),
                "stack": [],
            }
        )
    return lines


def _line(machine: Machine, wait: Wait, *, with_locals: bool) -> dict[str, Any]:
    call: Call | None = wait.task.call
    running = (machine.running or {}).get(call.id) if call is not None else None
    return {
        "task": wait.task.get_name(),
        "call_id": call.id if call is not None else None,
        "handler": call.handler if call is not None else None,
        "began": iso(running.since) if running is not None else None,
        "since": since(wait.task),
        "until": _iso(until_ns(machine, wait)),
        "deadline": _iso(call.deadline) if call is not None else None,
        "cancelled": (machine.cancelled or {}).get(call.id) if call is not None else None,
        "waiting_on": wait.on,
        "stack": [told(frame, with_locals=with_locals) for frame in wait.frames],
    }


def until_ns(machine: Machine, wait: Wait) -> int:
    """When a wait ends at the latest: by a timer of its own, or by the deadline of its call."""
    call: Call | None = wait.task.call
    timer = (machine.deadlines or {}).get(call.id) if call is not None else None
    running = (machine.running or {}).get(call.id) if call is not None else None
    ends = [wait.until_ns] if wait.until_ns else []
    if timer is not None and running is not None and running.task is wait.task:
        ends.append(timer.when_ns)
    return min(ends, default=0)


def _iso(time_ns: int) -> str | None:
    return iso(time_ns) if time_ns else None


def since(task: Task) -> str | None:
    """When the wait began that a task is in."""
    began = getattr(task, "since_ns", 0)
    return iso(began) if began else None


def queued_behind(machine: Machine) -> str:
    """What a call in the object's queue waits for."""
    if machine.holder is not None:
        return f"its turn: {machine.holder.handler} (call {machine.holder.id}) runs first"
    if machine.creating:
        return "its turn: on_create runs first"
    return "its turn"
