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
}
