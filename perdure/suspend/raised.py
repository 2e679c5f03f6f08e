"""Exceptions with where they were raised: what the text of a traceback is made of.

A handler may wait while it handles an exception, and write the traceback down afterwards. What it
writes has to be the same whether its memory went through bytes meanwhile or not. So the place of
each entry is kept: file, function, position in the source. The frames behind them are not: one
that is rebuilt has no variables.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import itertools
import sys
import types
from ctypes import c_void_p, py_object
from typing import Any

from perdure.suspend import values

# The C API for whoever makes entries of tracebacks by hand, as Cython does. A frame that ran would
# keep everything alive that called it.
_thread_state = ctypes.pythonapi.PyThreadState_Get
_thread_state.argtypes = []
_thread_state.restype = c_void_p
_new_frame = ctypes.pythonapi.PyFrame_New
_new_frame.argtypes = [c_void_p, py_object, py_object, py_object]
_new_frame.restype = py_object

Position = tuple[int | None, int | None, int | None, int | None]
Entry = tuple[str, str, str, str, int, Position]
"""Module, file, name and qualified name of the function, line, and its place in the source."""


def _entry(traceback: types.TracebackType) -> Entry:
    code = traceback.tb_frame.f_code
    module = traceback.tb_frame.f_globals.get("__name__", "")
    at = max(traceback.tb_lasti, 0) // 2
    position = next(itertools.islice(code.co_positions(), at, None), (None,) * 4)
    names = code.co_filename, code.co_name, code.co_qualname
    return str(module), *names, traceback.tb_lineno, position


def reduce_traceback(traceback: types.TracebackType) -> Any:
    entries = []
    at: types.TracebackType | None = traceback
    while at is not None:
        entries.append(_entry(at))
        at = at.tb_next
    return make_traceback, (entries,)


def make_traceback(entries: list[Entry]) -> types.TracebackType | None:
    made: types.TracebackType | None = None
    for module, file, name, qualname, line, position in reversed(entries):
        code, at = _stand_in(file, name, qualname, tuple(position))
        variables = getattr(sys.modules.get(module), "__dict__", None) or {"__name__": module}
        frame = _new_frame(_thread_state(), code, variables, {})
        made = types.TracebackType(made, frame, at, line)
    return made


@functools.lru_cache(maxsize=1024)
def _stand_in(
    file: str, name: str, qualname: str, position: Position
) -> tuple[types.CodeType, int]:
    """Code that seems to be at a place in a function, and its instruction there."""
    line, end_line, column, end_column = position
    where: dict[str, Any] = {
        "lineno": line or 1,
        "end_lineno": end_line or line or 1,
        "col_offset": column or 0,
        "end_col_offset": end_column or 0,
    }
    body: list[ast.stmt] = [ast.Expr(ast.Name("_", ast.Load(), **where), **where)]
    try:
        code = compile(ast.Module(body, []), file, "exec", dont_inherit=True)
    except ValueError:
        # No source has such a position. Then the line alone is told.
        return _stand_in(file, name, qualname, (None,) * 4)
    code = code.replace(co_name=name, co_qualname=qualname)
    places = list(code.co_positions())
    found = (line, end_line, column, end_column)
    return code, places.index(found) * 2 if found in places else 0


def reduce_raised(error: BaseException) -> Any:
    """An exception with its traceback, and of an AttributeError the object that it is about."""
    reduced = values.reduce_exception(error)
    about = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    if not isinstance(reduced, tuple) or (error.__traceback__ is None and about is None):
        return reduced
    own = reduced[2] if len(reduced) > 2 else None
    state = own, error.__traceback__, about
    return *reduced[:2], state, None, None, complete_raised


def complete_raised(error: BaseException, state: tuple[Any, ...]) -> None:
    own, traceback, about = state
    if own is not None:
        values.complete_exception(error, own)
    error.__traceback__ = traceback
    if about is not None:
        error.obj = about  # type: ignore[attr-defined]
