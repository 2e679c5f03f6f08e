"""What suspended code looks like from outside: its frames, with their variables.

Looking changes nothing. Values are read where they lie: asking Python for a frame's variables
makes a dict that stays with the frame and keeps old values alive.
"""

from __future__ import annotations

import gc
import linecache
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from perdure.interrupt import is_interrupt
from perdure.suspend import codes, layout, probe

SHORT = 200
"""Characters of a value's repr that are shown."""

_DEPTH_MAX = 4


class Frame(NamedTuple):
    """One frame of suspended code."""

    code: types.CodeType
    line: int
    module: str
    variables: dict[str, Any]
    """Locals, and what it sees of the functions around it."""
    stack: list[Any]
    """Values it works with; empty where the interpreter's frames are not known."""


def frames_of(coroutine: Any) -> Iterator[Frame]:
    """The frames of suspended code, the outermost first."""
    waiting = coroutine
    while waiting is not None:
        if isinstance(waiting, layout.TYPES):
            frame = _frame(waiting)
            if frame is None:
                return
            yield frame
            waiting = _awaited(waiting)
        else:
            waiting = _inside(waiting)


def _awaited(frame: Any) -> Any:
    if isinstance(frame, types.CoroutineType):
        return frame.cr_await
    return frame.gi_yieldfrom if isinstance(frame, types.GeneratorType) else frame.ag_await


def _inside(value: Any) -> Any:
    """The frame in what the interpreter puts around one, as `__anext__()` gives it."""
    if type(value).__module__ != "builtins":
        return None
    return next((part for part in gc.get_referents(value) if isinstance(part, layout.TYPES)), None)


def _frame(frame: Any) -> Frame | None:
    if not probe.unfit():
        try:
            return None if layout.ended(frame) else _read(frame)
        except layout.Broken:
            pass
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        found = getattr(frame, name, None)
        if found is not None:
            line = found.f_lineno or found.f_code.co_firstlineno
            module = found.f_globals.get("__name__", "")
            return Frame(found.f_code, line, module, named(found.f_locals.items()), [])
    return None


def _read(frame: Any) -> Frame:
    code = layout.code_of(frame)
    cells = {*code.co_cellvars, *code.co_freevars}
    names = [*code.co_varnames, *(n for n in code.co_cellvars if n not in code.co_varnames)]
    names += code.co_freevars
    state = layout.read(frame)
    values = iter(state.values)
    variables: list[tuple[str, Any]] = []
    stack: list[Any] = []
    for i in range(len(state.values) + state.nulls.bit_count()):
        if state.nulls >> i & 1:
            continue
        value = next(values)
        if i > len(names):
            stack.append(value)
        elif i > 0:
            name = names[i - 1]
            if name in cells and isinstance(value, types.CellType):
                try:
                    value = value.cell_contents
                except ValueError:
                    continue
            variables.append((name, value))
    module = layout.globals_of(frame).get("__name__", "")
    return Frame(code, layout.line_of(frame), module, named(variables), stack)


def named(variables: Any) -> dict[str, Any]:
    """The variables of a frame without those that Python made for itself."""
    # `.0` is what a comprehension walks, `__class__` what super() needs.
    return {
        name: value for name, value in variables if not name.startswith(".") and name != "__class__"
    }


def told(frame: Frame, *, with_locals: bool) -> dict[str, Any]:
    """A frame as JSON. The reprs of locals run code of the app."""
    name = frame.code.co_filename
    linecache.checkcache(name)
    facts: dict[str, Any] = {
        "file": name,
        "line": frame.line,
        "function": frame.code.co_qualname,
        "text": linecache.getline(name, frame.line).strip(),
        "library": codes.is_library(frame.module),
    }
    if with_locals:
        facts["locals"] = {name: short(value) for name, value in frame.variables.items()}
    return facts


# --- values in short


def short(value: Any, limit: int = SHORT) -> str:
    """A repr of at most `limit` characters. Of containers, no more is walked than is shown."""
    text = _text(value, limit, 0)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _text(value: Any, room: int, depth: int) -> str:
    try:
        if type(value) in (str, bytes):
            return repr(value) if len(value) <= room else f"{value[:room]!r}…"
        form = _CONTAINERS.get(type(value))
        return repr(value) if form is None else form(value, room, depth + 1)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


def _items(begin: str, end: str) -> Callable[[Any, int, int], str]:
    def form(container: Any, room: int, depth: int) -> str:
        if not container:
            return repr(container)
        return _join(begin, end, room, depth, ((item,) for item in container))

    return form


def _tuple(container: tuple[Any, ...], room: int, depth: int) -> str:
    end = ",)" if len(container) == 1 else ")"
    return _join("(", end, room, depth, ((item,) for item in container))


def _dict(container: dict[Any, Any], room: int, depth: int) -> str:
    return _join("{", "}", room, depth, container.items())


def _join(begin: str, end: str, room: int, depth: int, items: Iterable[tuple[Any, ...]]) -> str:
    if depth > _DEPTH_MAX:
        return f"{begin}…{end}"
    parts: list[str] = []
    for item in items:
        if room <= 0:
            parts.append("…")
            break
        parts.append(": ".join(_text(part, room, depth) for part in item))
        room -= len(parts[-1]) + 2
    return f"{begin}{', '.join(parts)}{end}"


_CONTAINERS: dict[type, Callable[[Any, int, int], str]] = {
    dict: _dict,
    list: _items("[", "]"),
    tuple: _tuple,
    set: _items("{", "}"),
    frozenset: _items("frozenset({", "})"),
    deque: _items("deque([", "])"),
}
