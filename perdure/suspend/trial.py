"""The trial that an interpreter has to pass before its frames are touched.

`run` takes small pieces of code through reading, rebuilding and going on, and compares each with
the same piece left alone. It is started in a process of its own (`suspend/probe.py`): where the
layout is wrong, that process crashes or says so. Like `suspend/layout.py`, which is handed in, it
imports the standard library alone.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Generator
from typing import Any

ROUNDS = 60


@types.coroutine
def _wait(value: Any) -> Generator[Any, Any, Any]:
    return (yield value)


class _Manager:
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def __enter__(self) -> int:
        self.log.append("enter")
        return 5

    def __exit__(self, *exc: object) -> bool:
        self.log.append(exc[0])
        return exc[0] is KeyError


async def _leaf(log: list[Any], a: int, *rest: int, key: int = 3, **more: int) -> int:
    got = await _wait((a, rest, key, more))
    log.append(got)
    return int(got) + a


async def _main(log: list[Any]) -> Any:
    total = 0
    empty: int
    keep = object()

    def bump(by: int) -> int:
        nonlocal total
        total += by
        return total

    for i in range(3):
        with _Manager(log) as five:
            try:
                bump(await _leaf(log, i, five, key=i, x=1))
                if i == 1:
                    raise KeyError(i)
                empty = i
                del empty
            except ValueError:
                log.append("never")
            finally:
                log.append(await _wait("finally"))
    try:
        raise ValueError(keep)
    except ValueError as error:
        log.append(await _wait(error.args[0] is keep))
        again = error
    table = {"a": 1, "b": 2}
    try:
        try:
            raise KeyError(keep)
        except KeyError:
            log.append(await _wait("handled"))
            log.append(sys.exc_info()[1].args[0] is keep)  # type: ignore[union-attr]
            raise
    except KeyError as error:
        log.append(error.__context__)
    values = [await _wait(n) + len([await _wait(m) for m in (1, 2)]) for n in table.values()]
    half = (n * 2 for n in [1, 2, 3])
    log.append(next(half))
    log.append(await _wait("half"))
    log.extend(half)
    try:
        raise ExceptionGroup("two", [KeyError(1), OSError(2)])
    except* KeyError:
        log.append(await _wait("star"))
    except* OSError:
        log.append(await _wait("other star"))
    return total, values, str(again.args[0] is keep), await _wait(f"{total}") if total else None


async def _items() -> Any:
    for i in range(3):
        got = await _wait(i)
        try:
            yield got
        finally:
            await _wait("between")


async def _consume(log: list[Any]) -> Any:
    async for item in _items():
        log.append(item)
        await _wait("body")
    for end in ("aclose", "athrow"):
        items = _items()
        log.append(await items.__anext__())
        try:
            await (items.aclose() if end == "aclose" else items.athrow(KeyError(end)))
        except KeyError as error:
            log.append(error.args)
    return len(log)


class _Counted:
    alive = 0

    def __init__(self) -> None:
        _Counted.alive += 1

    def __del__(self) -> None:
        _Counted.alive -= 1


def run(layout: Any) -> None:
    """Raises, or ends the process, if the layout is not that of this interpreter."""
    reason = layout.unfit()
    if reason:
        raise RuntimeError(reason)
    unheard: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda found: unheard.append(repr(found.exc_value))
    try:
        _run(layout)
    finally:
        sys.unraisablehook = before
    _expect("errors in freeing", unheard, [])


def _run(layout: Any) -> None:
    copy = _Copier(layout)
    for make in (_main, _consume):
        plain = _drive(make, lambda frame: frame, layout)
        for _ in range(3):
            _expect(f"{make.__name__} copied at each wait", _drive(make, copy, layout), plain)
    _fresh_and_finished(layout, copy)
    _dicts(layout)
    _forgotten(layout)
    _nothing_leaks(copy)


def _expect(what: str, found: object, expected: object) -> None:
    if repr(found) != repr(expected):
        raise RuntimeError(f"{what}: {found!r} instead of {expected!r}")


class _Copier:
    """A copy of a frame with the frames that it waits for, as a snapshot would make it."""

    def __init__(self, layout: Any) -> None:
        self.layout = layout
        generator = _items()
        steps = generator.__anext__(), generator.aclose()
        self.send_type, self.throw_type = map(type, steps)
        for step in steps:
            step.close()

    def __call__(self, frame: Any) -> Any:
        return self._copied(frame, {})

    def _copied(self, value: Any, done: dict[int, Any]) -> Any:
        if id(value) in done:
            return done[id(value)]
        if type(value) is types.CellType:
            cell = done[id(value)] = types.CellType()
            try:
                cell.cell_contents = self._copied(value.cell_contents, done)
            except ValueError:
                pass
            return cell
        if type(value) is types.FunctionType and value.__closure__:
            cells = tuple(self._copied(cell, done) for cell in value.__closure__)
            return types.FunctionType(
                value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
            )
        if type(value) in (self.send_type, self.throw_type):
            held = gc.get_referents(value)
            generator = next(part for part in held if type(part) is types.AsyncGeneratorType)
            copied = self._copied(generator, done)
            state, argument = self.layout.async_step(value)
            if type(value) is self.send_type:
                step = copied.__anext__()
            else:
                step = copied.aclose() if argument is None else copied.athrow(ValueError)
            if state == 1:
                self.layout.resume_async_step(step)
            return step
        if type(value) not in self.layout.TYPES or self.layout.ended(value):
            return value
        fresh = done[id(value)] = self.layout.blank(self.layout.code_of(value), globals())
        if type(fresh) is types.AsyncGeneratorType:
            self.layout.skip_hooks(fresh)
        state = self.layout.read(value)
        values = [self._copied(part, done) for part in state.values]
        self.layout.write(fresh, state._replace(values=values))
        return fresh


def _drive(make: Callable[[list[Any]], Any], change: Callable[[Any], Any], layout: Any) -> Any:
    log: list[Any] = []
    coroutine = make(log)
    trace = []
    # What was copied stays until the end, so that a value that was given away twice shows.
    kept = []
    for i in range(200):
        before, coroutine = coroutine, change(coroutine)
        if before is not coroutine:
            kept.append(before)
        try:
            trace.append(repr(coroutine.send(i if i else None)))
        except StopIteration as stop:
            trace.append(repr(stop.value))
            break
    frame = None
    seen = set()
    while kept:
        frame = kept.pop()
        if id(frame) not in seen and type(frame).__name__ in _HOLDING:
            seen.add(id(frame))
            kept.extend(gc.get_referents(frame))
            if type(frame) in layout.TYPES:
                layout.forget(frame)
    del frame
    gc.collect()
    return trace, log


# What may hold a frame that still waits.
_HOLDING = (
    "coroutine",
    "generator",
    "async_generator",
    "async_generator_asend",
    "async_generator_athrow",
)


def _fresh_and_finished(layout: Any, copy: _Copier) -> None:
    def count(n: int) -> Generator[int, None, None]:
        i = 0
        while i < n:
            yield i
            i += 1

    fresh, finished = count(3), count(0)
    list(finished)
    _expect("ended", (layout.ended(fresh), layout.ended(finished)), (False, True))
    seen = []

    def look() -> Generator[int, None, None]:
        seen.append((layout.running(looking), layout.ended(looking)))
        yield 1

    looking = look()
    list(looking)
    _expect("running", seen, [(True, False)])
    _expect("a frame not begun", list(copy(fresh)), [0, 1, 2])
    begun = count(3)
    next(begun)
    _expect("a generator under way", (list(copy(begun)), list(begun)), ([1, 2], [1, 2]))
    line = layout.line_of(fresh)
    _expect("a line", count.__code__.co_firstlineno <= line <= line + 2, True)
    _expect("its globals", layout.globals_of(fresh) is globals(), True)


def _dicts(layout: Any) -> None:
    for down in (False, True):
        table = dict.fromkeys(range(40))
        for gone in (0, 7, 8, 20, 39):
            del table[gone]
        for view in ("keys", "values", "items"):
            for steps in (0, 1, 5, len(table)):
                original = _iterate(table, view, down)
                for _ in range(steps):
                    next(original)
                position = layout.dict_position(original, _iterate(table, view, down), down=down)
                rebuilt = dict(table)
                copied = _iterate(rebuilt, view, down)
                layout.set_dict_position(copied, len(rebuilt), position, down=down)
                _expect(f"{steps} steps of {view}", list(copied), list(original))
    table = {1: 1, 2: 2}
    iterator = iter(table)
    next(iterator)
    table[3] = 3
    position = layout.dict_position(iterator, iter(table), down=False)
    copied = iter(rebuilt := dict(table))
    layout.set_dict_position(copied, len(rebuilt), position, down=False)
    try:
        next(copied)
    except RuntimeError:
        return
    raise RuntimeError("an iterator of a dict that has grown went on")


def _iterate(table: dict[Any, Any], view: str, down: bool) -> Any:
    values = getattr(table, view)()
    return reversed(values) if down else iter(values)


def _forgotten(layout: Any) -> None:
    ran: list[str] = []

    async def inner(kept: Any) -> None:
        try:
            await _wait(kept)
        finally:
            ran.append("inner")

    async def outer() -> None:
        kept = [_Counted(), _Counted()]
        try:
            raise ValueError(kept)
        except ValueError:
            await inner(kept[0])
        finally:
            ran.append("outer")

    for _ in range(ROUNDS):
        coroutine: Any = outer()
        coroutine.send(None)
        below = coroutine.cr_await
        layout.forget(coroutine)
        layout.forget(below)
        del coroutine, below
        layout.forget(outer())
    gc.collect()
    _expect("finally blocks of forgotten frames", ran, [])
    _expect("values of forgotten frames", _Counted.alive, 0)


def _nothing_leaks(copy: _Copier) -> None:
    async def hold(value: Any) -> Any:
        other = [value]
        try:
            raise ValueError(value)
        except ValueError:
            return await _wait(value), other

    watched = object()
    before = 0, 0
    for i in range(ROUNDS):
        if i == 1:
            # The first round fills caches.
            before = sys.getrefcount(watched), sys.getrefcount(hold.__code__)
        coroutine = hold(watched)
        coroutine.send(None)
        copied = copy(coroutine)
        for each in (copied, coroutine):
            try:
                each.send(1)
            except StopIteration:
                pass
        del coroutine, copied, each
    gc.collect()
    found = sys.getrefcount(watched), sys.getrefcount(hold.__code__)
    _expect("references after many rounds", found, before)
