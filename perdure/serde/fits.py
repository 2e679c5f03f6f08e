"""Whether a Python value fits an annotation, for calls between objects and for results.

The rule is the type checker's: what mypy would let pass, passes, as the same object. So an
instance of a subclass fits, an int fits `float`, a bool fits `int`, a list fits `Sequence[...]`
and not `tuple[...]`. Nothing is converted: a dict is no dataclass and a str no datetime. Builtin
containers are looked at item by item; a dataclass, Struct or model is trusted to hold what it says.
"""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import msgspec

from perdure.ref import Ref
from perdure.serde.annotations import (
    annotated,
    fields_of,
    is_alias,
    is_object,
    is_typed_dict,
    is_union,
    name_of,
    unwrap,
)

Check = Callable[[object], None]
"""Raises Misfit if the value does not fit."""

Finding = tuple[str, str]
"""A path such as `$.by` and what is wrong there."""

_PLACE = re.compile(r"\A(.*?)(?: - at (?:`key` in )?`\$(.*)`)?\Z", re.DOTALL)


class Misfit(ValueError):
    """A value does not fit an annotation; `findings` says where and how."""

    def __init__(
        self, message: str, path: str = "", *, findings: list[Finding] | None = None
    ) -> None:
        super().__init__(message)
        self.findings = findings or [(path, message)]

    def below(self, step: str) -> Misfit:
        """The same, seen from one level further out."""
        return Misfit(str(self), findings=[(step + path, text) for path, text in self.findings])


def findings(error: Exception, path: str) -> list[Finding]:
    """Where and how a value did not fit, seen from the parameter at `path`."""
    if isinstance(error, Misfit):
        return [(path + below, text) for below, text in error.findings]
    if isinstance(error, RecursionError):
        return [(path, "The value is nested too deeply")]
    if isinstance(error, msgspec.ValidationError):
        found = _PLACE.match(str(error))
        text, below = (found.group(1), found.group(2) or "") if found else (str(error), "")
        # What a stand-in raised is the cause: it knows the place within.
        if isinstance(error.__cause__, Misfit | msgspec.ValidationError):
            return findings(error.__cause__, path + below)
        return [(path + below, text)]
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return [(path, str(error))]
    return [(path, f"{type(error).__name__}: {error}")]


class Never:
    """A class that no value has: `type(value) is Never` is False for each."""


def exact_class(annotation: Any) -> type:
    """The class whose direct instances fit without a look at them, or Never.

    Comparing it inline spares the common case a function call.
    """
    annotation = unwrap(annotation)
    if not isinstance(annotation, type) or get_origin(annotation) is not None:
        return Never
    if is_object(annotation) or is_typed_dict(annotation):
        return Never
    return annotation


def check_for(annotation: Any) -> Check:
    """A function that checks values against the annotation."""
    if is_alias(annotation):
        return _alias(annotation)
    annotation = unwrap(annotation)
    if annotation is Any:
        return _anything
    if is_union(annotation):
        return _union(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(annotation)
    if origin is Literal:
        return _literal(annotation)
    if is_typed_dict(annotation):
        return _typed_dict(annotation)
    if is_object(annotation):
        return _ref(annotation)
    if origin is tuple and annotation is not _ANY_TUPLE:
        return _tuple(annotation)
    if isinstance(origin, type) and args:
        if issubclass(origin, collections.abc.Mapping) and len(args) == 2:
            return _mapping(annotation)
        if issubclass(origin, collections.Counter):
            return _items(annotation)
        if issubclass(origin, _ITERATED):
            return _items(annotation)
    cls = origin if isinstance(origin, type) else annotation
    return _instance(cls) if isinstance(cls, type) else _anything


# Without brackets it has an origin and no arguments, like `tuple[()]`, and means any tuple.
_ANY_TUPLE = vars(typing)["Tuple"]
_ITERATED = (collections.abc.Collection, collections.deque)
# PEP 484: where the first is annotated, the others are accepted as well.
_TOWER: dict[type, tuple[type, ...]] = {
    float: (float, int),
    complex: (complex, float, int),
}


def _misfit(annotation: Any, value: object) -> NoReturn:
    raise Misfit(f"Expected `{name_of(annotation)}`, got `{name_of(type(value))}`")


def _anything(value: object) -> None:
    return


def _alias(annotation: Any) -> Check:
    # Built at first use: an alias may contain itself.
    built: list[Check] = []

    def check(value: object) -> None:
        if not built:
            built.append(check_for(unwrap(annotation)))
        built[0](value)

    return check


def _instance(cls: type) -> Check:
    accepted = _TOWER.get(cls, (cls,))

    def check(value: object) -> None:
        try:
            fits = isinstance(value, accepted)
        except TypeError:  # a protocol that cannot be looked for at run time
            return
        if not fits:
            _misfit(cls, value)

    return check


def _union(annotation: Any) -> Check:
    members = get_args(annotation)
    exact = frozenset(exact_class(member) for member in members)
    checks = [check_for(member) for member in members]

    def check(value: object) -> None:
        if type(value) in exact:
            return
        for member in checks:
            try:
                member(value)
            except Misfit:
                continue
            return
        _misfit(annotation, value)

    return check


def _annotated(annotation: Any) -> Check:
    inner, *extras = get_args(annotation)
    check_inner = check_for(inner)
    constraints = [extra for extra in extras if isinstance(extra, msgspec.Meta)]
    if not constraints:
        return check_inner
    # Only the outermost value is constrained, so its items need no second look.
    outer = unwrap(inner)
    outer = get_origin(outer) if isinstance(get_origin(outer), type) else outer
    constrained = annotated(outer, constraints)
    try:
        msgspec.json.Decoder(constrained)
    except TypeError:  # a constraint for another type: msgspec would not know what to do either
        return check_inner

    def check(value: object) -> None:
        check_inner(value)
        try:
            msgspec.convert(value, constrained)
        except msgspec.ValidationError as error:
            raise Misfit(str(error)) from None

    return check


def _literal(annotation: Any) -> Check:
    # 1 == True == 1.0, so the class is compared too.
    accepted = {(type(item), item) for item in get_args(annotation)}

    def check(value: object) -> None:
        try:
            if (type(value), value) in accepted:
                return
        except TypeError:  # not hashable
            pass
        raise Misfit(f"Expected `{name_of(annotation)}`, got {value!r}")

    return check


def _items(annotation: Any) -> Check:
    origin: Any = get_origin(annotation)
    item = get_args(annotation)[0]
    exact, check_item = exact_class(item), check_for(item)
    text = (str, bytes, bytearray)

    def check(value: object) -> None:
        # A str is a Sequence of str to Python, and a mistake to everybody else.
        if not isinstance(value, origin) or isinstance(value, text):
            _misfit(annotation, value)
        for index, one in enumerate(value):
            if type(one) is not exact:
                try:
                    check_item(one)
                except Misfit as error:
                    raise error.below(f"[{index}]") from None

    return check


def _tuple(annotation: Any) -> Check:
    args = get_args(annotation)
    if len(args) == 2 and args[1] is Ellipsis:
        return _items(annotation)
    checks = [check_for(arg) for arg in args]

    def check(value: object) -> None:
        if not isinstance(value, tuple):
            _misfit(annotation, value)
        if len(value) != len(checks):
            raise Misfit(f"Expected `{name_of(annotation)}`, got a tuple of length {len(value)}")
        for index, (one, check_one) in enumerate(zip(value, checks, strict=True)):
            try:
                check_one(one)
            except Misfit as error:
                raise error.below(f"[{index}]") from None

    return check


def _mapping(annotation: Any) -> Check:
    origin: Any = get_origin(annotation)
    key_annotation, value_annotation = get_args(annotation)
    exact_key, check_key = exact_class(key_annotation), check_for(key_annotation)
    exact, check_value = exact_class(value_annotation), check_for(value_annotation)

    def check(value: object) -> None:
        if not isinstance(value, origin):
            _misfit(annotation, value)
        for key, one in value.items():
            try:
                if type(key) is not exact_key:
                    check_key(key)
                if type(one) is not exact:
                    check_value(one)
            except Misfit as error:
                raise error.below(f"[{key!r}]") from None

    return check


def _typed_dict(annotation: Any) -> Check:
    # Built at first use: a TypedDict may contain itself.
    built: dict[str, tuple[bool, Check]] = {}

    def check(value: object) -> None:
        if not isinstance(value, dict):
            _misfit(annotation, value)
        if not built:
            for field in fields_of(annotation):
                built[field.name] = (field.required, check_for(field.annotation))
        for name, (required, check_field) in built.items():
            if name in value:
                try:
                    check_field(value[name])
                except Misfit as error:
                    raise error.below(f".{name}") from None
            elif required:
                raise Misfit(f"`{name_of(annotation)}` needs the key `{name}`", f".{name}")
        for name in value:
            if name not in built:
                raise Misfit(f"`{name_of(annotation)}` has no key {name!r}")

    return check


def _ref(cls: type) -> Check:
    def check(value: object) -> None:
        if isinstance(value, cls):
            return  # an object itself, `self` for example: it travels as a ref
        if not isinstance(value, Ref):
            _misfit(cls, value)
        kind = value.address.partition("/")[0]
        if not names_kind(cls, kind):
            raise Misfit(f"Expected a ref to a `{name_of(cls)}`, got `{value.address}`")

    return check


def names_kind(cls: type, kind: str) -> bool:
    """Whether `kind` is the name of this Object class or of a subclass of it."""
    own = cls.__dict__.get("__perdure_name__", cls.__name__)
    # `Object` itself, and a mix-in without a base of its own, stand for any object.
    if own == kind or not any(is_object(base) for base in cls.__mro__[1:]):
        return True
    return any(names_kind(below, kind) for below in _subclasses(cls))


def _subclasses(cls: type) -> list[type]:
    return cls.__subclasses__()


def json_name(value: object) -> str:
    """What JSON calls the type of a decoded value."""
    for cls, name in _JSON_NAMES.items():
        if isinstance(value, cls):
            return name
    return name_of(type(value))


_JSON_NAMES: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    types.NoneType: "null",
    dict: "object",
    list: "array",
}
