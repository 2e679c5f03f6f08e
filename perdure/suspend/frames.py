"""Suspended code as bytes: coroutines, generators, functions made inside functions, their cells.

A frame becomes the name of its code, the place in it, and its values; those are pickled with the
rest of the object, so what a local shares with an attribute it shares after the load. The frame
that another awaits is one of its values: a chain of awaits needs nothing of its own.

What is rebuilt is made empty first and filled when it is known to the pickle, so that cycles
close: a recursive function is in its own cell, a task in the locals of the task it waits for.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import types
from collections.abc import Callable
from typing import Any

from perdure.suspend import codes, landmarks, layout, loading, probe
from perdure.suspend.codes import CodeChanged, Place


class _Loop:
    get_debug = staticmethod(bool)


async def _nothing() -> None: ...


async def _no_items() -> Any:
    if False:
        yield


def _types_by_example() -> tuple[type, ...]:
    future: Any = asyncio.Future(loop=_Loop())  # type: ignore[arg-type]
    coroutine, send, throw = _nothing(), _no_items().__anext__(), _no_items().aclose()
    examples = future.__await__(), coroutine.__await__(), send, throw
    for example in (coroutine, send, throw):
        example.close()
    return tuple(map(type, examples))


FutureIterator, CoroutineWrapper, AsyncSend, AsyncThrow = _types_by_example()

_NOT_BEGUN, _UNDER_WAY = 0, 1


# --- frames


def make_frame(place: Place, names: tuple[str, str] | None = None, chain: int | None = None) -> Any:
    """A frame of the code at a place, not begun."""
    reason = probe.unfit()
    if reason:
        raise CodeChanged(
            f"the snapshot holds suspended code, which cannot be loaded here: {reason}",
            hint="The object is rebuilt from its journal instead.",
        )
    frame = layout.blank(*codes.find_place(place, chain))
    if names is not None:
        frame.__name__, frame.__qualname__ = names
    loading.session().frames.append(frame)
    if type(frame) is types.AsyncGeneratorType:
        # The loop that runs while this is loaded is not the one the generator belongs to.
        layout.skip_hooks(frame)
    return frame


finish_generator: Callable[[Any], None] | None = None
"""What is called with an async generator that is let go before its end; the host puts it in."""


def fill_frame(frame: Any, state: tuple[Any, ...]) -> None:
    layout.write(frame, layout.State(*state), finish_generator)


def reduce_frame(frame: Any) -> Any:
    if layout.ended(frame):
        return make_ended, (_KINDS[type(frame)], frame.__name__, frame.__qualname__)
    reason = probe.unfit()
    if reason:
        raise pickle.PicklingError(f"suspended code cannot be kept here: {reason}")
    if layout.running(frame):
        raise pickle.PicklingError("it runs at this moment")
    session = loading.session()
    session.suspended = True
    code = layout.code_of(frame)
    place = codes.place_of(code, layout.globals_of(frame))
    args: tuple[Any, ...] = (place,)
    chain = (loading.session().chains or {}).get(id(frame))
    own_name = frame.__name__ != code.co_name or frame.__qualname__ != code.co_qualname
    if own_name or chain is not None:
        names = (frame.__name__, frame.__qualname__) if own_name else None
        args = (place, names) if chain is None else (place, names, chain)
    try:
        state = layout.read(frame)
    except layout.Broken as error:
        probe.switch_off(str(error))
        raise pickle.PicklingError(str(error)) from error
    session.places.add((*place[:3], *state[:-1]))
    state.values[:] = map(landmarks.or_its_name, state.values)
    return make_frame, args, tuple(state), None, None, fill_frame


def _one() -> Any:
    yield


_KINDS = {
    types.CoroutineType: "coroutine",
    types.GeneratorType: "generator",
    types.AsyncGeneratorType: "async generator",
}


def make_ended(kind: str, name: str, qualname: str) -> Any:
    """A frame of which only its name is left."""
    frame: Any
    if kind == "async generator":
        frame = _no_items()
        try:
            frame.aclose().send(None)
        except StopIteration:
            pass
    else:
        frame = _nothing() if kind == "coroutine" else _one()
        frame.close()
    frame.__name__, frame.__qualname__ = name, qualname
    return frame


# --- what stands on the stack while something is awaited


def make_await(awaited: Any) -> Any:
    return awaited.__await__()


def _held(value: object, cls: type) -> Any:
    """What an opaque value of the interpreter refers to."""
    for part in gc.get_referents(value):
        if isinstance(part, cls):
            return part
    raise pickle.PicklingError("it has nothing left to wait for")


def reduce_future_iterator(value: Any) -> Any:
    return make_await, (_held(value, asyncio.Future),)


def reduce_coroutine_wrapper(value: Any) -> Any:
    return make_await, (_held(value, types.CoroutineType),)


def make_async_step(generator: Any, how: str, state: int) -> Any:
    step = generator.athrow(RuntimeError) if how == "athrow" else getattr(generator, how)()
    if state == _UNDER_WAY:
        layout.resume_async_step(step)
    return step


def reduce_async_step(value: Any) -> Any:
    reason = probe.unfit()
    if reason:
        raise pickle.PicklingError(f"suspended code cannot be kept here: {reason}")
    generator = _held(value, types.AsyncGeneratorType)
    state, argument = layout.async_step(value)
    # What is sent or thrown is taken over with the first step, and not looked at again.
    if state not in (_NOT_BEGUN, _UNDER_WAY) or (state == _NOT_BEGUN and argument is not None):
        raise pickle.PicklingError("a value is on its way to an async generator")
    if type(value) is AsyncSend:
        how = "__anext__"
    else:
        how = "aclose" if argument is None else "athrow"
    loading.session().suspended = True
    return make_async_step, (generator, how, state)


# --- functions made inside functions


def make_function(place: Place, cells: tuple[Any, ...] | None) -> types.FunctionType:
    code, variables = codes.find_place(place)
    return types.FunctionType(code, variables, code.co_name, None, cells)


def fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    function.__dict__.update(state.pop("__dict__", {}))
    for name, value in state.items():
        setattr(function, name, value)


def reduce_function(function: types.FunctionType) -> Any:
    known = landmarks.reduce_function(function)
    if known is not None:
        return known
    session = loading.session()
    session.suspended = True
    code = function.__code__
    state: dict[str, Any] = {}
    for name in ("__defaults__", "__kwdefaults__", "__annotations__", "__dict__"):
        if value := getattr(function, name):
            state[name] = value
    module = function.__globals__.get("__name__")
    unchanged = {
        "__name__": code.co_name,
        "__qualname__": code.co_qualname,
        "__module__": module,
        "__doc__": _documentation(code),
    }
    for name, value in unchanged.items():
        if getattr(function, name) != value:
            state[name] = getattr(function, name)
    place = codes.place_of(code, function.__globals__)
    session.places.add(place[:3])
    args = place, function.__closure__
    return make_function, args, state or None, None, None, fill_function


def _documentation(code: types.CodeType) -> str | None:
    first = code.co_consts[0] if code.co_consts else None
    return first if isinstance(first, str) else None


def make_cell() -> types.CellType:
    return types.CellType()


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    cell.cell_contents = state[0]


def reduce_cell(cell: types.CellType) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:
        return make_cell, ()
    return make_cell, (), (landmarks.or_its_name(contents),), None, None, fill_cell


def bound(owner: Any, name: str) -> Any:
    """A method by its name; one that the code of now does not have any more is that of before."""
    try:
        return getattr(owner, name)
    except AttributeError:
        move = loading.session().move
        if move is None:
            raise
        return types.MethodType(move.method(owner, name), owner)


def make_method(function: Any, owner: Any) -> types.MethodType:
    return types.MethodType(function, owner)


def reduce_method(method: types.MethodType) -> Any:
    """By its name where the name leads to it, so that it is the method of the code as it is now."""
    owner, name = method.__self__, method.__func__.__name__
    if name.startswith("__") and not name.endswith("__"):
        for cls in type(owner).__mro__:
            mangled = f"_{cls.__name__.lstrip('_')}{name}"
            if getattr(owner, mangled, None) == method:
                return bound, (owner, mangled)
    if getattr(owner, name, None) == method:
        return bound, (owner, name)
    return make_method, (method.__func__, owner)


REDUCERS: dict[type, Any] = {
    **dict.fromkeys(layout.TYPES, reduce_frame),
    FutureIterator: reduce_future_iterator,
    CoroutineWrapper: reduce_coroutine_wrapper,
    AsyncSend: reduce_async_step,
    AsyncThrow: reduce_async_step,
    types.FunctionType: reduce_function,
    types.CellType: reduce_cell,
    types.MethodType: reduce_method,
}
