"""Values that are known by where they stand: modules, functions, and what is compared with `is`.

A copy of them would do wrong quietly: `value is MISSING` is false for a copy of MISSING.
"""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import types
from typing import Any

from perdure.suspend import editions, loading, values


def find(module: str, path: str, wrapped: int = 0) -> Any:
    """What stands at a dotted path in a module. Raises ImportError or AttributeError."""
    found: Any = loading.resolve(module, path)
    for _ in range(wrapped):
        found = found.__wrapped__
    return found


def _written(module: str) -> str:
    return editions.written(module, loading.home())


# --- modules


def find_module(name: str) -> types.ModuleType:
    return editions.module_of(name, loading.home())


def reduce_module(module: types.ModuleType) -> Any:
    if sys.modules.get(module.__name__) is not module:
        raise pickle.PicklingError("a module that cannot be imported by its name")
    return find_module, (_written(module.__name__),)


class Named:
    """Takes the place of a plain dict, which pickle never asks about, that a name leads to."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced


def reduce_named(value: Named) -> Any:
    return value.reduced


def find_variables(module: str) -> dict[str, Any]:
    return vars(find_module(module))


def or_its_name(value: Any) -> Any:
    """A value; or what stands for it, if it is what `globals()` gives, or `sys.modules`."""
    if type(value) is not dict:
        return value
    if value is sys.modules:
        return Named((find, ("sys", "modules")))
    name = value.get("__name__")
    if type(name) is str and getattr(sys.modules.get(name), "__dict__", None) is value:
        return Named((find_variables, (_written(name),)))
    return value


def reduce_environment(value: Any) -> Any:
    for name in ("environ", "environb"):
        if getattr(os, name, None) is value:
            return find, ("os", name)
    return NotImplemented


# --- classes


def _nameless() -> dict[int, tuple[str, str]]:
    """Classes of the interpreter that are not where their own name says, by where they are."""
    return {
        id(cls): (module, name)
        for module in ("_collections_abc", "types")
        for name, cls in vars(sys.modules[module]).items()
        if isinstance(cls, type)
        and cls.__module__ == "builtins"
        and getattr(builtins, cls.__name__, None) is not cls
    }


_places = _nameless()


def reduce_class(cls: type) -> Any:
    """A class; as that of a method that stands on the stack, it may be one without a name."""
    place = _places.get(id(cls))
    return (find, place) if place is not None else values.reduce_class(cls)


# --- functions


def reduce_function(function: types.FunctionType) -> Any:
    """A function that its name leads to, perhaps through the decorators around it; else None."""
    try:
        found: Any = sys.modules[function.__module__]
        for name in function.__qualname__.split("."):
            found = getattr(found, name)
    except (KeyError, AttributeError):
        return None
    if found is function:
        if "@" not in function.__module__:
            return NotImplemented
        return find, (_written(function.__module__), function.__qualname__)
    for depth in range(1, 20):
        found = getattr(found, "__wrapped__", None)
        if found is function:
            return find, (_written(function.__module__), function.__qualname__, depth)
        if found is None:
            return None
    return None


# --- marks


_marks: dict[int, tuple[object, str, str]] = {}
_searched: tuple[int, str] = (0, "")


def reduce_mark(value: object) -> Any:
    """A bare `object()`, as is used for "no argument was given"."""
    global _searched
    if id(value) not in _marks:
        modules = len(sys.modules), next(reversed(sys.modules), "")
        if _searched != modules:
            _searched = modules
            _search()
    known = _marks.get(id(value))
    # What no name leads to belongs to the object, and need only stay one value in it.
    if known is None or known[0] is not value:
        return NotImplemented
    return find, (_written(known[1]), known[2])


def _search() -> None:
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if type(value) is object:
                _mark(value, module_name, name)
            elif isinstance(value, type) and value.__module__ == module_name:
                for inner, part in list(vars(value).items()):
                    if type(part) is object:
                        _mark(part, module_name, f"{value.__qualname__}.{inner}")


def _mark(value: object, module: str, path: str) -> None:
    known = _marks.get(id(value))
    if known is None or sys.modules.get(known[1]) is None:
        _marks[id(value)] = (value, module, path)


Singles = dict[int, tuple[object, str, str]]
_HEAP_TYPE = 1 << 9


def singles(cls: type) -> Singles:
    """The instances of a class that stand at the top of the module which defines it.

    Only where all there is to an instance is which one it is: values of a class with attributes
    or with something of a builtin class are state, and are kept as such.
    """
    if any(base is not object and not base.__flags__ & _HEAP_TYPE for base in cls.__mro__):
        return {}
    own = {name for base in cls.__mro__[:-1] for name in vars(base)}
    if own & {"__reduce__", "__reduce_ex__"}:
        return {}
    module = sys.modules.get(cls.__module__)
    return {
        id(value): (value, cls.__module__, name)
        for name, value in list(getattr(module, "__dict__", {}).items())
        if type(value) is cls and not getattr(value, "__dict__", None)
    }


def reducer_among(known: Singles, otherwise: Any) -> Any:
    """A reducer for a class some of whose instances are known by their place in its module."""

    def reduce(value: object) -> Any:
        found = known.get(id(value))
        if found is not None and not getattr(value, "__dict__", None):
            return find, (_written(found[1]), found[2])
        return otherwise(value) if otherwise is not None else NotImplemented

    return reduce
