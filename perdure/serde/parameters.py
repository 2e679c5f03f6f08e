"""One parameter of a handler, in each way a value for it can come in.

As JSON (the body of a call), as the text of a query string, and as a Python value (a call from
another object). Each way ends in a value, or in findings: paths and what is wrong there.
"""

from __future__ import annotations

import collections
import collections.abc
import copy
import enum
import inspect
import types
from typing import Annotated, Any, get_args, get_origin

import msgspec

from perdure.serde.annotations import is_typed_dict, is_union, unwrap
from perdure.serde.fits import Misfit, check_for, exact_class
from perdure.serde.readers import convert, decoder_for, json_type

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, type, enum.Enum),
    *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType),
)


class Parameter:
    """A parameter with its annotation resolved; what each way in needs is built at first use."""

    def __init__(self, parameter: inspect.Parameter, annotation: Any) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.annotation = annotation
        self.default = parameter.default
        self.variadic = self.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        self.required = self.default is parameter.empty and not self.variadic
        self.shared_default = self.required or is_immutable(self.default)
        self.positional = self.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        self.exact = exact_class(annotation)
        self.check = check_for(annotation)
        self.type = json_type(annotation)
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._repeats = _is_repeated(annotation)

    def fresh_default(self) -> Any:
        """The default; a copy of its own for each call where it could be changed."""
        return self.default if self.shared_default else copy.deepcopy(self.default)

    def from_python(self, value: Any) -> Any:
        """The value itself, if it fits."""
        self.check(value)
        return value

    def from_json(self, raw: Any) -> Any:
        """The value of a JSON text."""
        if self._decoder is None:
            self._decoder = decoder_for(self.type)
        return self._decoder.decode(raw)

    def from_query(self, texts: Any) -> Any:
        """The value of the texts given for it in a query string, usually one.

        A text is read as the type says (`2`, `true`, a date); a list is given by repeating its
        name; anything else as JSON.
        """
        if len(texts) > 1 and not self._repeats:
            raise Misfit(f"Argument `{self.name}` is given {len(texts)} times")
        readings = [texts] if self._repeats else []
        if len(texts) == 1:
            readings.insert(0, texts[0])
        for reading in readings:
            try:
                return convert(reading, self.type, strict=False)
            except ValueError as error:
                first = error
        if len(texts) == 1:
            try:
                return self.from_json(texts[0].encode())
            except (msgspec.ValidationError, Misfit):
                if texts[0][:1] in ("[", "{"):
                    raise  # it was meant as JSON
            except (ValueError, RecursionError):
                pass
        raise first


def is_immutable(value: Any) -> bool:
    """Whether a default can be shared by all calls.

    An instance without any state is a sentinel: a copy would no longer be the one that the
    handler compares with.
    """
    if isinstance(value, tuple | frozenset):
        return all(is_immutable(item) for item in value)
    if isinstance(value, _ATOMS):
        return True
    cls = type(value)
    if isinstance(value, list | dict | set | bytearray | collections.deque):
        return False
    has_slots = any(base.__dict__.get("__slots__") for base in cls.__mro__)
    stateless = not getattr(value, "__dict__", None) and not has_slots
    return cls is object or (stateless and cls.__module__ != "builtins")


def _is_repeated(annotation: Any) -> bool:
    """Whether it takes several values: a list, set or tuple, also where None is allowed too."""
    plain = unwrap(annotation)
    if get_origin(plain) is Annotated:
        return _is_repeated(get_args(plain)[0])
    if is_union(plain):
        return any(_is_repeated(member) for member in get_args(plain))
    cls = get_origin(plain) or plain
    if not isinstance(cls, type) or issubclass(cls, str | bytes | bytearray | memoryview):
        return False
    if issubclass(cls, collections.abc.Mapping) or is_typed_dict(cls):
        return False
    return issubclass(cls, collections.abc.Collection) and not issubclass(cls, enum.Enum)
