"""What cannot be kept is refused before anything is written, and named with its path."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import decimal
import io
import re
import socket
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Object
from perdure.errors import NotSerializable
from perdure.suspend import heap, probe
from tests.suspend.machines import Run, fresh, reborn

NULL = Path("/dev/null")


class Unpicklable:
    def __reduce__(self) -> str:
        raise ValueError("never")


class OneWay:
    """Becomes bytes, but not itself again."""

    def __reduce__(self) -> Any:
        return OneWay, (1, 2, 3)


class HashedByValue:
    def __init__(self) -> None:
        self.value: Any = 1

    def __hash__(self) -> int:
        return hash(self.value)


async def waits(value: Any) -> None:
    await asyncio.sleep(1000)


shelf: list[Any] = []


def take() -> Any:
    """The animal that waits outside: a turn may not open sockets or start threads."""
    return shelf.pop()


class Zoo(Object):
    kept: Any = None

    async def attribute(self) -> None:
        self.kept = {"cage": [take()]}

    async def local(self) -> None:
        animal = take()
        await asyncio.sleep(1000)
        del animal

    async def cell(self) -> None:
        animal = take()

        def feed() -> Any:
            return animal

        await asyncio.sleep(1000)
        feed()

    async def deep(self) -> None:
        await waits(take())

    async def task(self) -> None:
        self.kept = asyncio.create_task(waits(take()))

    async def timer(self) -> None:
        asyncio.get_running_loop().call_later(5, print, take())

    async def handled(self) -> None:
        try:
            raise ValueError(take())
        except ValueError:
            await asyncio.sleep(1000)

    async def stack(self) -> None:
        print([take(), await asyncio.sleep(1000)])

    async def variable(self) -> None:
        cage.set(take())
        await asyncio.sleep(1000)

    async def result(self) -> None:
        self.kept = asyncio.get_running_loop().create_future()
        self.kept.set_result(take())


cage: contextvars.ContextVar[Any] = contextvars.ContextVar("cage")


def run(place: str, make: Callable[[], Any]) -> Run:
    """A handler that holds an animal somewhere, after its first turn."""
    shelf.append(make())
    run_ = Run(fresh(Zoo))
    run_.call(place)
    run_.step()
    return run_


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("attribute", "Zoo/k: self.kept['cage'][0]"),
        ("local", r"Zoo/k: local() line \d+: local 'animal'"),
        ("cell", r"Zoo/k: cell() line \d+: local 'animal'"),
        ("deep", r"Zoo/k: waits() line \d+: local 'value'"),
        ("task", r"Zoo/k: waits() line \d+: local 'value'"),
        ("timer", "Zoo/k: its timers[0].args[0]"),
        ("handled", r"Zoo/k: handled() line \d+: the exception it handles.args[0]"),
        ("stack", r"Zoo/k: stack() line \d+: a value it works with[0]"),
        ("variable", r"Zoo/k: variable() line \d+: context variable 'cage'"),
        ("result", "Zoo/k: self.kept: its result"),
    ],
)
def test_an_open_file_is_named_wherever_it_is(place: str, path: str) -> None:
    with NULL.open() as file, pytest.raises(NotSerializable) as caught:
        heap.dump_heap(run(place, lambda: file).machine)
    pattern = re.escape(path).replace(re.escape(r"line \d+"), r"line \d+")
    text = str(caught.value)
    if place == "stack":
        # What stands on the stack half-way through an expression has no name.
        pattern = r"Zoo/k: stack\(\) line \d+: a value it works with"
    pattern += r" is an open file \(TextIOWrapper\) and cannot be kept: "
    assert re.match(pattern, text), text


async def agen() -> Any:
    yield 1


def made_class() -> Any:
    class Local:
        pass

    return Local()


def dead_reference() -> Any:
    return weakref.ref(Zoo)


def second_token() -> Any:
    first = cage.set(1)
    second = cage.set(2)
    cage.reset(first)
    return second


def broken_iterator() -> Any:
    numbers = {1, 2, 3}
    iterator = iter(numbers)
    next(iterator)
    numbers.add(4)
    return iterator


def hashed_too_soon() -> Any:
    value = HashedByValue()
    value.value = {value}
    value.__class__ = HashedByValue
    return value


ANIMALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: socket.socket(), "a socket"),
    (threading.Lock, "a lock of threads"),
    (threading.RLock, "a lock of threads"),
    (threading.Condition, "a lock of threads"),
    (lambda: threading.Thread(target=print), "a thread"),
    (lambda: memoryview(b"abc"), "a view into memory"),
    (lambda: list(re.finditer("a??", "aa"))[1], "a re.Match"),
    (lambda: contextvars.copy_context().run(second_token), "a contextvars.Token"),
    (lambda: decimal.localcontext(), "a decimal.ContextManager"),
    (dead_reference, "a weakref.ReferenceType"),
    (lambda: sys._getframe(), "a frame"),
    (lambda: types.ModuleType("nowhere"), "a module"),
    (made_class, "a tests.suspend.test_refusals.made_class.<locals>.Local"),
    (lambda: made_class().__class__, "a class that cannot be found by its name"),
    (lambda: iter(collections.deque([1])), "a collections._deque_iterator"),
    (lambda: iter(collections.OrderedDict(a=1)), "a odict_iterator"),
    (broken_iterator, "a set_iterator"),
    (lambda: contextvars.ContextVar("nowhere"), "a contextvars.ContextVar"),
    (Unpicklable, "a tests.suspend.test_refusals.Unpicklable"),
    (lambda: asyncio.Future(loop=types.SimpleNamespace(get_debug=bool)), "a asyncio.Future"),
    (lambda: eval("(x for x in [1])", {"__name__": "nowhere"}), "a generator"),
    (lambda: eval("lambda: 1", {"__name__": __name__}), "a function"),
]


@pytest.mark.parametrize(("make", "kind"), ANIMALS, ids=[kind for _, kind in ANIMALS])
@pytest.mark.filterwarnings("ignore")
def test_what_lives_in_a_local_is_refused_by_name(make: Callable[[], Any], kind: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        heap.dump_heap(run("local", make).machine)
    assert re.match(r"Zoo/k: local\(\) line \d+: local 'animal'", str(caught.value)), caught.value
    assert f" is {kind}" in str(caught.value)


def test_what_would_not_load_is_refused_before_it_is_written() -> None:
    with pytest.raises(NotSerializable, match="becomes bytes, but not a state again: TypeError"):
        heap.dump_heap(run("attribute", OneWay).machine)
    with pytest.raises(NotSerializable, match="but not a state again: AttributeError"):
        heap.dump_heap(run("attribute", hashed_too_soon).machine)


def test_a_refused_object_goes_on_as_if_nothing_had_been_asked() -> None:
    with NULL.open() as file:
        run_ = run("local", lambda: file)
        with pytest.raises(NotSerializable):
            heap.dump_heap(run_.machine)
        run_.finish()
    assert run_.machine.quiescent()




def test_nothing_is_kept_where_the_layout_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = run("local", lambda: 1).machine
    data = heap.dump_heap(machine)
    monkeypatch.setattr(probe, "_reason", "it is a test")
    with pytest.raises(NotSerializable, match="cannot be kept here: it is a test"):
        heap.dump_heap(machine)
    with pytest.raises(heap.CodeChanged, match="it is a test"):
        heap.load_heap(fresh(Zoo), data)
    plain = fresh(Zoo)
    plain.instance = plain.kind.fresh("k")
    heap.load_heap(fresh(Zoo), heap.dump_heap(plain))


def test_an_animal_that_can_be_kept_is() -> None:
    for make in (io.BytesIO, lambda: [object()], lambda: (x for x in "ab"), lambda: lambda: 1):
        reborn(run("local", make).machine)
