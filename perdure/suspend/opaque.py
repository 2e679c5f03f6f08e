"""Values that pickle refuses, and that can be made again from what they show.

A match is found again by the same search; the token of a context variable is made by setting the
variable anew in the same context. What comes out otherwise is refused, and never guessed.
"""

from __future__ import annotations

import contextvars
import gc
import pickle
import re
import types
import weakref
from typing import Any

from perdure.suspend import loading

# --- matches


def make_match(
    pattern: re.Pattern[Any], how: str, text: Any, start: int, end: int
) -> re.Match[Any] | None:
    found: re.Match[Any] | None = getattr(pattern, how)(text, start, end)
    return found


def reduce_match(match: re.Match[Any]) -> Any:
    pattern, text = match.re, match.string
    # As `match`, `search` and `fullmatch` are called; then as `finditer` goes on from the last.
    for start in (match.pos, match.start()):
        for how in ("search", "match", "fullmatch"):
            again = make_match(pattern, how, text, start, match.endpos)
            if again is not None and again.regs == match.regs:
                return make_match, (pattern, how, text, start, match.endpos)
    raise pickle.PicklingError("the same search does not find it again; keep its groups")


# --- views


def make_proxy(mapping: Any) -> types.MappingProxyType[Any, Any]:
    return types.MappingProxyType(mapping)


def reduce_proxy(proxy: types.MappingProxyType[Any, Any]) -> Any:
    return make_proxy, (gc.get_referents(proxy)[0],)


# --- super(), and anext() with a default


def make_super(cls: type, owner: Any) -> Any:
    return super(cls) if owner is None else super(cls, owner)


def reduce_super(value: Any) -> Any:
    return make_super, (value.__thisclass__, value.__self__)


class _Gives:
    """An async iterator whose next step is there already."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def __anext__(self) -> Any:
        return self.step


async def _nothing() -> None: ...


def _anext_type() -> type:
    step = _nothing()
    found = type(anext(_Gives(step), None))
    step.close()
    return found


def make_anext(step: Any, default: Any) -> Any:
    return anext(_Gives(step), default)


def reduce_anext(value: Any) -> Any:
    held = [part for part in gc.get_referents(value) if part is not type(value)]
    return make_anext, tuple(held)


# --- what cannot be made again


def refuse(value: Any) -> Any:
    raise pickle.PicklingError("it is about another object, and not a value of its own")


# --- tokens

_Token = contextvars.Token[Any]


def make_token(
    context: contextvars.Context | None, var: contextvars.ContextVar[Any], old: tuple[Any, ...]
) -> _Token:
    """A token of that variable in that context, whose values are set later (contexts.py).

    One that was used up by a reset belongs to no context any more.
    """
    used = context is None
    context = context if context is not None else contextvars.Context()
    if old:
        context.run(var.set, old[0])
    token = context.run(var.set, None)
    if (token.old_value is contextvars.Token.MISSING) != (not old):
        raise pickle.UnpicklingError("two tokens of one context variable")
    if used:
        context.run(var.reset, token)
    return token


def reduce_token(token: _Token) -> Any:
    context = next(
        (part for part in gc.get_referents(token) if type(part) is contextvars.Context), None
    )
    if repr(token).startswith("<Token used "):
        context = None
    elif context is None or token.var not in context:
        raise pickle.PicklingError("the token of a context variable that is not set any more")
    old = () if token.old_value is contextvars.Token.MISSING else (token.old_value,)
    loading.session().doubtful = True
    return make_token, (context, token.var, old)


REDUCERS: dict[type, Any] = {
    re.Match: reduce_match,
    types.MappingProxyType: reduce_proxy,
    contextvars.Token: reduce_token,
    super: reduce_super,
    _anext_type(): reduce_anext,
    weakref.ProxyType: refuse,
    weakref.CallableProxyType: refuse,
    weakref.finalize: refuse,
}
