"""Suspended code: what goes on from bytes, what is let go, what has changed since."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import decimal
import functools
import gc
import itertools
import os
import re
import sys
import traceback
import types
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from perdure import Object
from perdure.host.machine import Machine
from perdure.suspend import heap, letting_go
from tests.suspend.machines import Run, differences, fresh, reborn, state_of

ended: list[str] = []
shade: contextvars.ContextVar[str] = contextvars.ContextVar("shade")
depth: contextvars.ContextVar[Any] = contextvars.ContextVar("depth")


class Counted:
    alive = 0

    def __new__(cls) -> Counted:
        Counted.alive += 1
        return super().__new__(cls)

    def __del__(self) -> None:
        Counted.alive -= 1


@contextlib.contextmanager
def managed() -> Iterator[int]:
    try:
        yield 1
    finally:
        ended.append("managed")


def numbers() -> Iterator[int]:
    try:
        yield from range(5)
    finally:
        ended.append("numbers")


async def stream() -> Any:
    try:
        for i in range(5):
            await asyncio.sleep(1)
            yield i
    finally:
        ended.append("stream")


class Once:
    def __init__(self, step: Any) -> None:
        self.step = step

    def __anext__(self) -> Any:
        return self.step


class Waits(Object):
    log: list[Any] = []
    table: dict[Any, Any] = {}
    kept: Any = None

    async def nested(self) -> None:
        held = [Counted(), Counted()]
        self.kept = numbers()
        next(self.kept)
        half = [numbers()]
        next(half[0])
        with managed(), contextlib.ExitStack() as stack:
            stack.enter_context(managed())
            try:
                raise ValueError(held)
            except ValueError:
                await self._inner(held)
            finally:
                ended.append("nested")

    async def _inner(self, held: list[Any]) -> None:
        try:
            async for _ in stream():
                await asyncio.sleep(1000)
        finally:
            ended.append("inner")

    async def for_ever(self) -> None:
        async def tick(held: Any) -> None:
            try:
                raise KeyError(held)
            except KeyError:
                await asyncio.sleep(1)

        walking = itertools.cycle("ab")
        while True:
            async with asyncio.timeout(50), asyncio.TaskGroup() as group:
                held = Counted()
                group.create_task(tick(held))
                async for _ in stream():
                    next(walking)
                    self.kept = functools.partial(tick, held)
                    break
                with managed():
                    await tick(Counted())
            ended.clear()

    async def changes_a_list(self) -> None:
        items = [1, 2, 3]
        items.append(items)  # type: ignore[arg-type]
        for item in items:
            self.log.append(item if isinstance(item, int) else "itself")
            await asyncio.sleep(1)
            if len(items) < 7:
                items.append(len(items))
        for item in reversed(items):
            self.log.append(item if isinstance(item, int) else "itself")
            await asyncio.sleep(1)

    async def changes_a_dict(self) -> None:
        table = self.table = dict.fromkeys(range(8), 0)
        del table[0], table[3]
        for key, value in table.items():
            self.log.append((key, value))
            await asyncio.sleep(1)
            table[7] = key
            if key == 2:
                del table[4]
                table["new"] = 1
        try:
            for _ in table:
                await asyncio.sleep(1)
                table["newer"] = 2
        except RuntimeError as error:
            self.log.append(str(error))
        for key in reversed(table):
            self.log.append(key)
            await asyncio.sleep(1)

    async def changes_a_set(self) -> None:
        members = {"a", "b", "c"}
        try:
            for _ in members:
                await asyncio.sleep(1)
                members.add("d")
        except RuntimeError as error:
            self.log.append(str(error))
        seen = []
        for member in members:
            seen.append(member)
            await asyncio.sleep(1)
        self.log.append(sorted(seen))

    async def loops_over_itself(self) -> None:
        tasks: list[Any] = []

        async def look(n: int) -> None:
            for i, task in enumerate(tasks):
                await asyncio.sleep(1)
                self.log.append((n, i, task is tasks[i]))

        tasks += [asyncio.create_task(look(n)) for n in range(2)]
        await asyncio.gather(*tasks)

    async def holds_iterators(self) -> None:
        made: dict[str, Any] = {
            "cycle": itertools.cycle([1, 2, 3]),
            "chain": itertools.chain([1], "ab", range(2)),
            "islice": itertools.islice(itertools.count(3), 2, 9, 2),
            "groups": itertools.groupby([1, 1, 2]),
            "product": itertools.product("ab", [1, 2]),
            "pairs": itertools.pairwise([1, 2, 3, 4]),
            "zip": zip("abc", [1, 2, 3], strict=True),
            "map": map(str, range(4)),
            "callable": iter(collections.deque([1, 2, 0]).popleft, 0),
            "enumerate": enumerate(reversed([5, 6, 7])),
            "text": iter("text"),
            "bytes": iter(bytearray(b"abc")),
            "view": {"a": 1}.items(),
            "generator": (n * n for n in range(4)),
        }
        for name, iterator in made.items():
            if name not in ("view", "groups"):
                self.log.append((name, next(iterator)))
        await asyncio.sleep(1)
        for name, iterator in made.items():
            if name == "groups":
                self.log.append([(key, list(group)) for key, group in iterator])
            else:
                self.log.append((name, list(itertools.islice(iterator, 5))))
            await asyncio.sleep(1)

    async def keeps_functions(self) -> None:
        total = 0

        def add(n: int, *, by: int = 2) -> int:
            """Adds."""
            nonlocal total
            total += n * by
            return total

        def factorial(n: int) -> int:
            return n * factorial(n - 1) if n else 1

        add.note = [add]  # type: ignore[attr-defined]
        self.kept = [add, factorial, lambda n, k=[1]: (k.append(n), k)]
        await asyncio.sleep(1)
        self.log.append((add(3), self.kept[0](1, by=1), total, factorial(5)))
        self.log.append((add.note[0] is self.kept[0] is add, add.__doc__, add.__name__))  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        self.log.append((self.kept[2](7)[1], self.kept[2](8)[1]))

    async def keeps_what_it_found(self) -> None:
        found = re.search(r"(?P<key>\w+)=(\d+)", "a=1 bb=22", re.ASCII)
        assert found is not None
        several = list(re.compile("[a-z]+").finditer("one two three"))
        table = {"a": 1}
        view = types.MappingProxyType(table)
        await asyncio.sleep(1)
        self.log.append((found["key"], found.span(2), found.lastgroup, found.string))
        self.log.append([(each.group(), each.span()) for each in several])
        table["b"] = 2
        self.log.append(dict(view))

    async def waits_for_arguments(self) -> None:
        async def later(n: int) -> int:
            await asyncio.sleep(1)
            return n

        def sums() -> Any:
            total = 0
            while True:
                total += yield total

        adding = sums()
        next(adding)
        self.log.append([adding.send(await later(2)), adding.send(await later(3))])
        self.log.append({1: 2}.keys().isdisjoint([await later(1)]))
        self.log.append("a b".split(await later(None)))  # type: ignore[arg-type]

    async def tells_where_it_failed(self) -> None:
        def divide(by: int) -> list[float]:
            return [1 / (by - n) for n in (1, 2)] + [(lambda: len(self.table))()]

        try:
            divide(2)
        except ZeroDivisionError as error:
            await asyncio.sleep(1)
            self.log.append(traceback.format_exc())
            self.kept = error
        await asyncio.sleep(1)
        try:
            try:
                raise self.kept
            finally:
                await asyncio.sleep(1)
        except ZeroDivisionError as error:
            self.log.append("".join(traceback.format_exception(error)))
            self.log.append([line.name for line in traceback.extract_tb(error.__traceback__)])
        try:
            try:
                self.tabel[1]  # type: ignore[attr-defined]
            except AttributeError as error:
                await asyncio.sleep(1)
                raise KeyError(unheard_of) from error  # type: ignore[name-defined]
        except NameError as error:
            await asyncio.sleep(1)
            self.log.append(traceback.format_exc())
            self.log.append((error.name, error.__context__.name, error.__context__.obj is self))  # type: ignore[union-attr]
            self.kept = None

    async def stands_in_the_middle(self) -> None:
        async def items() -> Any:
            for n in range(2):
                await asyncio.sleep(1)
                yield n

        async def nothing() -> int:
            await asyncio.sleep(1)
            return 5

        class_of = super()
        walking = items()
        self.log.append([await anext(walking, "none") for _ in range(4)])
        self.log.append(await anext(Once(nothing()), "none"))
        self.log.append((repr(class_of)[:16], class_of.__eq__(self)))
        here = globals()
        pairs = itertools.pairwise("ab")
        await asyncio.sleep(1)
        self.log.append((here is globals(), os.environ is vars(os)["environ"]))
        environment, modules = os.environ, sys.modules
        self.log.append(list(pairs))
        await asyncio.sleep(1)
        self.log.append((environment is os.environ, modules is sys.modules, list(pairs)))

    async def sets_context_variables(self) -> None:
        first = shade.set("first")
        second = shade.set("second")
        other = depth.set(1)
        depth.reset(other)
        await asyncio.sleep(1)
        self.log.append((shade.get(), depth.get("none")))
        shade.reset(second)
        await asyncio.sleep(1)
        self.log.append((shade.get(), first.old_value is contextvars.Token.MISSING))
        shade.reset(first)
        await asyncio.sleep(1)
        self.log.append(shade.get("none"))
        try:
            depth.reset(other)
        except RuntimeError as error:
            self.log.append(type(error).__name__)
        decimal.getcontext().prec = 5
        await asyncio.sleep(1)
        self.log.append(str(decimal.Decimal(1) / 3))

    async def keeps_ended_code(self) -> None:
        async def nothing() -> int:
            return 1

        coroutine, generator = nothing(), (n for n in ())
        await coroutine
        list(generator)
        items = stream()
        await items.aclose()
        made = [coroutine, generator, items, nothing()]
        await asyncio.sleep(1)
        self.log.append([each.__qualname__.rpartition(".")[2] for each in made])
        self.log.append((list(generator), await made[3]))
        try:
            await coroutine
        except RuntimeError as error:
            self.log.append(str(error))
        self.log.append([item async for item in items])


PROGRAMS = [
    "changes_a_list",
    "changes_a_dict",
    "changes_a_set",
    "loops_over_itself",
    "holds_iterators",
    "keeps_functions",
    "keeps_what_it_found",
    "waits_for_arguments",
    "tells_where_it_failed",
    "stands_in_the_middle",
    "sets_context_variables",
    "keeps_ended_code",
]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("error")
def test_a_handler_goes_on_from_bytes(name: str) -> None:
    assert differences(Waits, name) == ""


def test_a_traceback_tells_the_same_from_bytes() -> None:
    run = Run(fresh(Waits), reborn)
    run.call("tells_where_it_failed")
    run.finish()
    first, again, names, *_ = state_of(run.machine)["log"]
    assert 'test_frames.py", line ' in first
    assert "return [1 / (by - n) for n in (1, 2)]" in first
    assert "~~^~" in first
    assert first.splitlines()[-3:] == again.splitlines()[-3:]
    assert names[:3] == ["tells_where_it_failed"] * 2 + ["divide"]


class Tells(Object):
    log: list[Any] = []

    async def items(self, count: int) -> AsyncIterator[int]:
        try:
            for i in range(count):
                async with asyncio.timeout(10):
                    await asyncio.sleep(1)
                yield i
                self.log.append(i)
        finally:
            await asyncio.sleep(1)
            self.log.append("end")

    async def fails(self) -> AsyncIterator[int]:
        async for item in self.items(2):
            yield item
        await asyncio.sleep(1)
        raise KeyError("after two items")


def test_a_handler_that_streams_goes_on_from_bytes() -> None:
    assert differences(Tells, "items", b'{"count": 3}') == ""
    assert differences(Tells, "fails") == ""


def waiting() -> Machine:
    ended.clear()
    run = Run(fresh(Waits))
    run.call("nested")
    run.step()
    run.step()
    return run.machine


def test_what_is_let_go_runs_none_of_its_finally_blocks() -> None:
    for drop in (heap.drop_all, reborn):
        machine = waiting()
        assert Counted.alive == 2
        copy = drop(machine)
        del machine
        if copy is not None:
            gc.collect()
            assert (ended, Counted.alive) == ([], 2)
            heap.drop_all(copy)
            del copy
        gc.collect()
        assert (ended, Counted.alive) == ([], 0)


def test_a_coroutine_is_let_go_with_what_it_waits_for() -> None:
    machine = waiting()
    task = next(iter((machine.tasks or {}).values()))
    heap.drop(task.coroutine)
    task = None  # type: ignore[assignment]
    state_of(machine)["kept"].close()
    machine.tasks = machine.running = machine.timers = None
    gc.collect()
    assert (ended, Counted.alive) == (["numbers"], 0)


def test_where_frames_cannot_be_let_go_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = waiting()
    monkeypatch.setattr(letting_go.probe, "_reason", "it is a test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heap.drop_all(machine)
    del machine
    gc.collect()
    assert Counted.alive == 0


WARM_UP = 2000
ROUNDS = pytest.mark.parametrize("rounds", [500, pytest.param(10_000, marks=pytest.mark.slow)])


@ROUNDS
def test_many_rounds_of_running_on_leave_nothing_behind(rounds: int) -> None:
    run = Run(fresh(Waits), reborn)
    run.call("for_ever")
    blocks = []
    # Free lists and caches of the interpreter fill up first: on 3.13 that takes long.
    for i in range(-WARM_UP, rounds):
        assert run.step()
        # What the test itself keeps.
        run.turns.clear()
        # Every tenth of the way but the first, at the same place in the loop.
        if i >= rounds // 10 and i % (rounds // 10) == 0:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
            assert Counted.alive <= 4
    assert max(blocks) - min(blocks) < 500
    heap.drop_all(run.machine)
    run.machine = None  # type: ignore[assignment]
    gc.collect()
    assert Counted.alive == 0


@ROUNDS
def test_many_round_trips_leave_nothing_behind(rounds: int) -> None:
    machine = waiting()
    ended.clear()
    # A fresh pickler's buffers, caches of names and codes: filled in the first rounds.
    for i in range(rounds):
        if i == rounds // 10:
            gc.collect()
            before = len(gc.get_objects())
            code = sys.getrefcount(Waits.nested.__code__)
        machine = reborn(machine)
    gc.collect()
    after = len(gc.get_objects())
    assert abs(after - before) < 50
    assert abs(sys.getrefcount(Waits.nested.__code__) - code) < 5
    assert (ended, Counted.alive) == ([], 2)
    heap.drop_all(machine)
