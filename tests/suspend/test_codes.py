"""Code by name: what of it is found again after a change, and what is refused."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from perdure import Object
from perdure.suspend import codes, heap, loading
from tests.suspend.machines import Run, fresh, state_of

MODULE = "suspended_app"

SOURCE = """
import asyncio
from perdure import Object
class Order(Object, name="Order"):
    log: list = []
    async def run(self):
        await self.wait()
        self.log.append(self.after())
    async def wait(self):
        await asyncio.sleep(10)
    def after(self):
        return "before the change"
    async def twins(self):
        first, second = (lambda: 1), (lambda: 1)
        await asyncio.sleep(10)
        self.log.append((first(), second()))
"""


class Plain(Object):
    """Whose memory code is looked for in."""


@pytest.fixture
def app() -> Iterator[Any]:
    """Loads a version of a small app under one name."""

    def load(source: str) -> type[Object]:
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        exec(compile(source, "suspended_app.py", "exec"), vars(module))
        cls: type[Object] = module.Order
        return cls

    yield load
    del sys.modules[MODULE]


def suspended(cls: type[Object], handler: str = "run") -> bytes:
    run = Run(fresh(cls))
    run.call(handler)
    run.step()
    data = heap.dump_heap(run.machine)
    heap.drop_all(run.machine)
    return data


def go_on(cls: type[Object], data: bytes) -> list[Any]:
    machine = fresh(cls)
    heap.load_heap(machine, data)
    found: list[Any] = state_of(Run(machine).finish().machine)["log"]
    return found


def test_code_that_moved_is_found_again(app: Any) -> None:
    data = suspended(app(SOURCE))
    moved = "# a comment\n" * 30 + SOURCE.replace('"before the change"', '"after it"')
    assert go_on(app(moved), data) == ["after it"]


def test_two_codes_that_do_the_same_may_stand_for_each_other(app: Any) -> None:
    cls = app(SOURCE)
    assert go_on(cls, suspended(cls, "twins")) == [(1, 1)]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("await self.wait()\n", "await self.wait(), 1\n", "Order.run in .* has changed"),
        ("asyncio.sleep(10)", "asyncio.sleep(11)", "Order.wait in .* has changed"),
        ("async def wait", "async def wait_longer", "Order.wait is no longer in"),
    ],
)
def test_code_that_changed_is_refused(app: Any, old: str, new: str, what: str) -> None:
    data = suspended(app(SOURCE))
    cls = app(SOURCE.replace(old, new))
    with pytest.raises(heap.CodeChanged, match=what):
        heap.load_heap(fresh(cls), data)


def test_a_module_that_is_gone_is_named(app: Any) -> None:
    data = suspended(app(SOURCE))
    sys.modules[MODULE] = types.ModuleType(MODULE)
    with pytest.raises(heap.CodeChanged, match=r"Order\.\w+ is no longer in suspended_app"):
        heap.load_heap(fresh(Plain), data)


def test_library_code_goes_on_though_the_library_has_changed(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = app(SOURCE)
    data = suspended(cls)

    async def sleep(delay: float, result: object = None) -> object:
        raise AssertionError("this is another release's")

    monkeypatch.setattr(asyncio.tasks, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    codes._modules.clear()
    # Its file, too, holds something else now.
    monkeypatch.setattr(codes._Module, "_look_at_file", lambda self: None)
    try:
        assert go_on(cls, data) == ["before the change"]
    finally:
        codes._modules.clear()


def test_a_snapshot_of_another_python_is_refused(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = app(SOURCE)
    data = suspended(cls)
    monkeypatch.setattr(heap.importlib.util, "MAGIC_NUMBER", b"\0\0\r\n")
    with pytest.raises(heap.CodeChanged, match="another Python"):
        heap.load_heap(fresh(cls), data)


def test_fingerprints_tell_apart_what_does_not_do_the_same() -> None:
    sources = [
        "def f(a): return a + 1",
        "def f(a): return a + 2",
        "def f(a): return a + 1.0",
        "def f(a): return a + True",
        "def f(b): return b + 1",
        "def f(a, /): return a + 1",
        "def f(*, a): return a + 1",
        "def f(a): return a in {1, 2}",
        "def f(a): return a in {1, 3}",
        "async def f(a): return a + 1",
        "def f(a):\n try: return a + 1\n except KeyError: pass",
        "def f(a): return lambda: a",
        "def f(a): return lambda: -a",
        "def f(a): return a + 'x'",
        "def f(a): return a + b'x'",
    ]
    made = []
    for source in sources:
        variables: dict[str, Any] = {}
        exec(source, variables)
        made.append(variables["f"].__code__)
    marks = [codes.fingerprint(code) for code in made]
    assert len(set(marks)) == len(marks)
    again: dict[str, Any] = {}
    exec("\n\n" + sources[0], again)
    assert codes.fingerprint(again["f"].__code__) == marks[0]


def test_code_is_found_through_decorators_tables_and_properties() -> None:
    module = types.ModuleType("found_app")
    sys.modules["found_app"] = module
    source = """
import functools
def hide(function):
    return lambda *args: function(*args)
@hide
def hidden(): yield 1
@functools.lru_cache
def cached(): return (n for n in [1])
@functools.singledispatch
def single(x): return (n for n in [1])
TABLE = {"a": lambda: (n for n in [2])}
class Things:
    @property
    def some(self): yield 3
    @staticmethod
    def plain(): yield 4
    @functools.cached_property
    def later(self): return (n for n in [5])
    class Inner:
        @classmethod
        def deep(cls): yield 6
"""
    try:
        exec(compile(source, "found_app.py", "exec"), vars(module))
        things = module.Things()
        made = [
            *(module.hidden(), module.cached(), module.single(1), module.TABLE["a"]()),
            *(things.some, things.plain(), things.later, things.Inner.deep()),
        ]
        with loading.of(fresh(Plain)):
            for generator in made:
                place = codes.place_of(generator.gi_code, vars(module))
                assert codes.find_place(place)[0] is generator.gi_code
    finally:
        del sys.modules["found_app"]
