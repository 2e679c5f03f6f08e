"""Context variables by name, and contexts as the values they hold.

A ContextVar cannot be pickled, and its own name is for people only. It is known here by the
module it stands in and its name there, as a class is.
"""

from __future__ import annotations

import contextvars
import decimal
import pickle
import sys
from typing import Any

from perdure.suspend import editions, loading

Var = contextvars.ContextVar[Any]

_known: dict[Var, tuple[str, str]] = {}


def _of_decimal() -> Var:
    """The variable of the decimal module, which no name leads to: found where it is first set."""
    fresh = contextvars.Context()
    fresh.run(decimal.getcontext)
    return next(iter(fresh))


_known[_of_decimal()] = ("decimal", "")


def name_of(var: Var) -> tuple[str, str]:
    """(module, name) of a context variable. Raises PicklingError for one that has none."""
    known = _known.get(var)
    if known is not None and (known[1] == "" or _at(*known) is var):
        return known
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is var:
                _known[var] = (module_name, name)
                return module_name, name
    raise pickle.PicklingError(f"the context variable {var.name!r} is not at the top of a module")


def _at(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def find_var(module: str, name: str) -> Var:
    """The context variable of that name. Raises ImportError or AttributeError if it is gone."""
    if not name:
        return _of_decimal()
    var: Var = loading.resolve(module, name)
    return var


def reduce_var(var: Var) -> Any:
    module, name = name_of(var)
    return find_var, (editions.written(module, loading.home()), name)


def make_context() -> contextvars.Context:
    return contextvars.Context()


def fill_context(context: contextvars.Context, items: list[tuple[Var, Any]]) -> None:
    def finish() -> None:
        for var, value in items:
            context.run(var.set, value)

    # A token of a variable can be made only before that has its value.
    loading.session().later.append(finish)


def reduce_context(context: contextvars.Context) -> Any:
    items = list(context.items())
    if not items:
        return make_context, ()
    return make_context, (), items, None, None, fill_context
