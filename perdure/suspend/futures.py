"""Futures and tasks as bytes, with who waits for them.

A future is made first, empty and with its number, so that sets and dicts of futures can be filled
before the futures themselves are; then it gets its state. Between turns nothing is ready, so a
future that is done has no callbacks left.
"""

from __future__ import annotations

import asyncio
import copyreg
import ctypes
import pickle
from typing import Any

from perdure.suspend import loading

# Every C future has room for attributes, in a dict that no attribute leads to. Looked for without
# making one: most futures have none.
_dict_place = ctypes.pythonapi._PyObject_GetDictPtr
_dict_place.argtypes = [ctypes.py_object]
_dict_place.restype = ctypes.POINTER(ctypes.c_void_p)

_Future = Any
"""An asyncio.Future; typeshed does not know the attributes it has beside the public ones."""
_FINISHED, _CANCELLED = "FINISHED", "CANCELLED"


def make_future(cls: Any, number: int | None = None) -> _Future:
    """A pending future of the machine that is being loaded."""
    future: _Future = cls.__new__(cls)
    asyncio.Future.__init__(future, loop=loading.machine())
    if number is not None:
        future.number = number
    return future


def fill_future(future: _Future, state: dict[str, Any]) -> None:
    for name, value in state.get("slots", {}).items():
        setattr(future, name, value)
    for name, value in state.get("attributes", {}).items():
        setattr(future, name, value)
    if "blocking" in state:
        future._asyncio_future_blocking = True
    if "result" in state:
        asyncio.Future.set_result(future, state["result"])
    elif "exception" in state:
        asyncio.Future.set_exception(future, state["exception"])
        if state["seen"]:
            future._log_traceback = False
    elif "message" in state:
        asyncio.Future.cancel(future, msg=state["message"])
    for callback, context in state.get("callbacks", ()):
        future.add_done_callback(callback, context=context)


def reduce_future(future: _Future) -> Any:
    if future._loop is not loading.machine():
        raise pickle.PicklingError("a future of another event loop")
    cls = type(future)
    state: dict[str, Any] = {}
    names = copyreg._slotnames(cls)  # type: ignore[attr-defined]
    slots = {name: getattr(future, name) for name in names if hasattr(future, name)}
    number = slots.pop("number", None)
    if slots:
        state["slots"] = slots
    place = _dict_place(future)
    if place and place[0]:
        state["attributes"] = ctypes.cast(place[0], ctypes.py_object).value
    if future._asyncio_future_blocking:
        state["blocking"] = True
    if future._state == _FINISHED:
        if future._exception is not None:
            state["exception"] = future._exception
            state["seen"] = not future._log_traceback
        else:
            state["result"] = future._result
    elif future._state == _CANCELLED:
        state["message"] = future._cancel_message
    elif future._callbacks:
        state["callbacks"] = list(future._callbacks)
    args = (cls,) if number is None else (cls, number)
    return make_future, args, state or None, None, None, fill_future
