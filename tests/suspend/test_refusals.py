"""What cannot be kept is refused before anything is written, and named with its path."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextvars
import csv
import ctypes
import decimal
import functools
import hashlib
import io
import logging
import mmap
import multiprocessing
import os
import queue
import re
import select
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import types
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Object
from perdure.errors import NotSerializable
from perdure.suspend import frames, heap, probe
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


def closed(value: Any) -> Any:
    value.close()
    return value


def cursor() -> Any:
    connection = sqlite3.connect(":memory:")
    made = connection.cursor()
    connection.close()
    return made


def ended_process() -> Any:
    process = subprocess.Popen(["true"])
    process.wait()
    return process


def cleaned_directory() -> Any:
    directory = tempfile.TemporaryDirectory()
    directory.cleanup()
    return directory


def started_thread() -> Any:
    thread = threading.Thread(target=bool)
    thread.start()
    thread.join()
    return thread


def another_loop() -> Any:
    return closed(asyncio.new_event_loop())


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


class Foreign(ctypes.Structure):
    """A pointer's class is made once, and is of the module that was first: this one is ours."""


ANIMALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: closed(socket.socket()), "a socket"),
    (threading.Lock, "a lock of threads"),
    (threading.RLock, "a lock of threads"),
    (threading.Condition, "a lock of threads"),
    (lambda: threading.Thread(target=print), "a thread"),
    (lambda: memoryview(b"abc"), "a view into memory"),
    (lambda: list(re.finditer("a??", "aa"))[1], "a re.Match"),
    (lambda: contextvars.copy_context().run(second_token), "a contextvars.Token"),
    (lambda: decimal.localcontext(), "a decimal.ContextManager"),
    (dead_reference, "a weakref.ReferenceType"),
    (lambda: weakref.proxy(Zoo), "a weakref.proxy"),
    (lambda: weakref.finalize(Unpicklable, print), "a weakref.finalize"),
    (weakref.WeakSet, "a weakref.ReferenceType"),
    (lambda: sys._getframe(), "a frame"),
    (lambda: compile("1", "a", "eval"), "a code"),
    (lambda: csv.reader(["a"]), "a csv.reader"),
    (lambda: closed(os.scandir(".")), "a posix.ScandirIterator"),
    (lambda: re.finditer("a", "aa"), "a callable_iterator"),
    (lambda: hashlib.sha256(), "a hashlib.HASH"),
    (lambda: zlib.compressobj(), "a zlib.Compress"),
    (lambda: struct.Struct("<I"), "a struct.Struct"),
    (lambda: closed(sqlite3.connect(":memory:")), "a sqlite3.Connection"),
    (cursor, "a sqlite3.Cursor"),
    (started_thread, "a thread (Thread)"),
    (threading.local, "a thread._local"),
    (lambda: threading.Barrier(2), "a lock of threads"),
    (queue.Queue, "a lock of threads"),
    (queue.SimpleQueue, "a queue.SimpleQueue"),
    (concurrent.futures.Future, "a lock of threads"),
    (lambda: concurrent.futures.ThreadPoolExecutor(), "a queue.SimpleQueue"),
    (lambda: multiprocessing.Lock(), "a multiprocessing.SemLock"),
    (ended_process, "a lock of threads"),
    (lambda: ssl.create_default_context(), "a ssl.SSLContext"),
    (lambda: closed(select.epoll()), "a select.epoll"),
    (lambda: closed(mmap.mmap(-1, 10)), "a mmap.mmap"),
    (lambda: ctypes.pointer(Foreign()), "a tests.suspend.test_refusals.LP_Foreign"),
    (lambda: ctypes.CFUNCTYPE(None)(print), "a ctypes.CFUNCTYPE.<locals>.CFunctionType"),
    (another_loop, "a weakref.ReferenceType"),
    (cleaned_directory, "a weakref.finalize"),
    (lambda: logging.StreamHandler(), "a lock of threads"),
    (lambda: io.BufferedReader(io.BytesIO()), "an open file"),
    (lambda: functools.lru_cache(lambda: 1), "a functools._lru_cache_wrapper"),
    (lambda: functools.cmp_to_key(max)(1), "a functools.KeyWrapper"),
    (lambda: agen().asend(5), "a async_generator_asend"),
    (lambda: types.FunctionType(started_thread.__code__, {}), "a function"),
    (lambda: types.FunctionType.__code__, "a getset_descriptor"),  # type: ignore[attr-defined]
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
    made = make()
    with pytest.raises(NotSerializable) as caught:
        heap.dump_heap(run("local", lambda: made).machine)
    if isinstance(made, frames.AsyncSend):
        # Python 3.13 complains of one that was never awaited.
        made.close()
    assert re.match(r"Zoo/k: local\(\) line \d+: local 'animal'", str(caught.value)), caught.value
    assert f" is {kind}" in str(caught.value)


def test_what_would_not_load_is_refused_before_it_is_written() -> None:
    with pytest.raises(NotSerializable, match="becomes bytes, but not a state again: TypeError"):
        heap.dump_heap(run("attribute", OneWay).machine)
    with pytest.raises(NotSerializable, match="but not a state again: AttributeError"):
        heap.dump_heap(run("attribute", hashed_too_soon).machine)


class MadeWithArguments:
    def __new__(cls, value: int) -> MadeWithArguments:
        made = super().__new__(cls)
        made.value = value  # type: ignore[attr-defined]
        return made


def garbled() -> UnicodeError:
    error = UnicodeDecodeError("utf-8", b"a", 0, 1, "why")
    error.args = ("something else",)
    return error


@pytest.mark.parametrize("make", [lambda: MadeWithArguments(1), garbled])
def test_what_cannot_be_made_again_is_refused_by_a_trial(make: Callable[[], Any]) -> None:
    for _ in range(2):
        with pytest.raises(NotSerializable, match="but not a state again: TypeError"):
            heap.dump_heap(run("attribute", make).machine)


def test_each_place_and_each_class_is_tried_once_in_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []
    really = heap._try_out

    def count(machine: Any, pickled: bytes) -> None:
        tried.append(machine)
        really(machine, pickled)

    monkeypatch.setattr(heap, "_tried", set())
    monkeypatch.setattr(heap, "_try_out", count)

    def dumped(place: str, make: Callable[[], Any]) -> int:
        before = len(tried)
        heap.dump_heap(run(place, make).machine)
        return len(tried) - before

    assert dumped("local", lambda: 1) == 1
    assert dumped("local", lambda: 2) == 0
    # Another place in the same function's code, or another class, or another function.
    assert dumped("stack", lambda: 1) == 1
    assert dumped("local", decimal.Decimal) == 1
    assert dumped("local", lambda: decimal.Decimal(5)) == 0
    assert dumped("deep", lambda: decimal.Decimal(5)) == 1
    # A class that has a say in it might say something else each time.
    assert dumped("local", HashedByValue) == 1
    assert dumped("local", HashedByValue) == 1


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
