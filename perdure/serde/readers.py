"""JSON to values: a type that msgspec reads, for each annotation.

msgspec does the work at C speed wherever it knows the annotation. What it refuses or cannot know
(a union of two strings-like types, refs, pydantic models, a dataclass with one of these inside) is
replaced by a stand-in class, for which msgspec asks back; the stand-in's `Reading` then makes the
value out of plain JSON values. A stand-in goes as deep as needed and no deeper: the rest of the
annotation around it stays msgspec's.

The rules of JSON are msgspec's strict ones: no int for a str, no bool for an int, an int for a
float. bytes are base64; Decimal, UUID, dates and times are strings (RFC 3339, durations ISO 8601).
"""

from __future__ import annotations

import collections
import collections.abc
import enum
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from perdure.errors import InvalidKey
from perdure.ref import Ref, parse_address
from perdure.serde.annotations import (
    Field,
    annotated,
    fields_of,
    is_alias,
    is_named_tuple,
    is_object,
    is_pydantic,
    is_record,
    is_typed_dict,
    is_union,
    name_of,
    rebuild,
    union_of,
    unwrap,
)
from perdure.serde.fits import Misfit, findings, json_name, names_kind
from perdure.serde.writers import to_json


class Reading:
    """How a stand-in makes values out of plain JSON values."""

    parts: tuple[Any, ...] = ()
    """The types msgspec reads on its behalf: what its schema is made of."""

    def read(self, value: Any, strict: bool) -> Any:
        """The value. Raises Misfit, or whatever the class of the value raises when made."""
        raise NotImplementedError


class _Standing(type):
    """The class of stand-ins. What is read for one is of another class, so any instance will do."""

    reading: Reading

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def reading_of(type_: Any) -> Reading | None:
    """The reading behind a stand-in; None for any other type."""
    return type_.reading if isinstance(type_, _Standing) else None


def _stand_in(name: str, reading: Reading) -> Any:
    made = _Standing(name, (), {})
    made.reading = reading
    return made


def _read(type_: Any, value: Any, strict: bool) -> Any:
    reading = reading_of(type_)
    if reading is None:
        raise Misfit(f"`{name_of(type_)}` cannot be read from JSON")
    try:
        return reading.read(value, strict)
    except msgspec.ValidationError as error:
        # msgspec adds the place to what is raised here, but not to an error of its own.
        found = findings(error, "")
        raise Misfit(found[0][1], findings=found) from None


def _read_strictly(type_: Any, value: Any) -> Any:
    return _read(type_, value, True)


def _read_laxly(type_: Any, value: Any) -> Any:
    return _read(type_, value, False)


def decoder_for(type_: Any) -> msgspec.json.Decoder[Any]:
    """A decoder of JSON bytes for a type that `json_type` gave."""
    return msgspec.json.Decoder(type_, dec_hook=_read_strictly)


def convert(value: Any, type_: Any, *, strict: bool = True) -> Any:
    """A plain JSON value as a type that `json_type` gave; strings are parsed if not strict."""
    hook = _read_strictly if strict else _read_laxly
    return msgspec.convert(value, type_, strict=strict, dec_hook=hook, str_keys=True)


def json_type(annotation: Any) -> Any:
    """A type that msgspec can read JSON into, for any annotation that can be resolved."""
    return _Builder().type_for(annotation)


def _known(type_: Any) -> bool:
    """Whether msgspec can read it."""
    try:
        msgspec.json.Decoder(type_)
    except (TypeError, NameError):  # refused; or it names a class that only we can find
        return False
    return True


class _Builder:
    """Rewrites one annotation; the memo lets classes contain themselves."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}

    def type_for(self, annotation: Any) -> Any:
        if not is_alias(annotation):
            return self._type_for(annotation)
        if annotation not in self._memo:
            reading = AliasReading(annotation.__name__)
            self._memo[annotation] = _stand_in(annotation.__name__, reading)
            reading.parts = (self._type_for(annotation),)
            return reading.parts[0]
        return self._memo[annotation]

    def _type_for(self, annotation: Any) -> Any:
        plain = unwrap(annotation)
        if not _special(plain, set()) and _known(plain):
            return plain
        return self._rewritten(plain)

    def _rewritten(self, plain: Any) -> Any:
        origin, args = get_origin(plain), get_args(plain)
        if is_union(plain):
            return self._union(plain)
        if origin is Annotated:
            return self._annotated(args[0], args[1:])
        if origin is Literal:
            return _stand_in(name_of(plain), ChoiceReading(name_of(plain), list(args)))
        if is_object(plain) or plain is Ref:
            return _stand_in(plain.__name__, RefReading(plain))
        if is_pydantic(plain):
            return _stand_in(plain.__name__, PydanticReading(plain))
        if _is_enum(plain):
            return _stand_in(plain.__name__, ChoiceReading(plain.__name__, list(plain)))
        if is_record(plain):
            return self._record(plain)
        cls = origin if isinstance(origin, type) else plain
        if cls in _CONTAINERS:
            return self._container(cls, args)
        if args and isinstance(origin, type):
            changed = rebuild(plain, tuple(self._argument(arg) for arg in args))
            if _known(changed):
                return changed
        return _stand_in(name_of(plain), _Unreadable(name_of(plain)))

    def _argument(self, annotation: Any) -> Any:
        if annotation is Ellipsis or annotation == ():
            return annotation
        return self.type_for(annotation)

    def _union(self, plain: Any) -> Any:
        members = [_Member(member, self.type_for(member)) for member in get_args(plain)]
        joined = union_of(member.type for member in members)
        if _known(joined):
            return joined
        return _stand_in(name_of(plain), UnionReading(name_of(plain), members))

    def _annotated(self, inner: Any, extras: tuple[Any, ...]) -> Any:
        inner = unwrap(inner)
        if is_union(inner):
            # A constraint speaks of the members that it can be put to.
            members = [annotated(member, extras) for member in get_args(inner)]
            return self.type_for(union_of(members))
        type_ = self.type_for(inner)
        constrained = annotated(type_, extras)
        return constrained if _known(constrained) else type_

    def _record(self, plain: Any) -> Any:
        if plain not in self._memo:
            reading = RecordReading(plain)
            self._memo[plain] = _stand_in(reading.cls.__name__, reading)
            reading.build(self.type_for)
        return self._memo[plain]

    def _container(self, cls: Any, args: tuple[Any, ...]) -> Any:
        base, make = _CONTAINERS[cls]
        if base is dict and len(args) == 1:  # a Counter
            args = (args[0], int)
        inner = base[tuple(self.type_for(arg) for arg in args)] if args else base
        return _stand_in(cls.__name__, ContainerReading(inner, make))


def _is_enum(plain: Any) -> bool:
    return isinstance(plain, type) and issubclass(plain, enum.Enum)


def _as_read(items: Any) -> Any:
    return items


_CONTAINERS: dict[Any, tuple[Any, Callable[[Any], Any]]] = {
    collections.deque: (list, collections.deque),
    collections.OrderedDict: (dict, collections.OrderedDict),
    collections.Counter: (dict, collections.Counter),
    collections.defaultdict: (dict, lambda items: collections.defaultdict(None, items)),
    collections.abc.Iterable: (list, _as_read),
}


def _special(plain: Any, seen: set[Any]) -> bool:
    """Whether something is in it that msgspec would read without a word, and wrongly."""
    if is_object(plain) or plain is Ref or is_pydantic(plain):
        return True
    cls = get_origin(plain) or plain
    try:
        if cls in _CONTAINERS:
            return True
    except TypeError:  # not hashable, so no class
        return False
    if is_record(plain):
        if plain in seen:
            return False
        seen.add(plain)
        if _hidden_fields(cls):
            return True
        return any(_special_inside(field.annotation, seen) for field in fields_of(plain))
    if get_origin(plain) is Literal:
        return False
    return any(_special_inside(arg, seen) for arg in get_args(plain))


def _special_inside(annotation: Any, seen: set[Any]) -> bool:
    if annotation is object or isinstance(annotation, str | typing.ForwardRef):
        return True
    if is_alias(annotation):
        if annotation in seen:
            return True  # it contains itself
        seen = {*seen, annotation}
    return _special(unwrap(annotation), seen)


def _hidden_fields(cls: Any) -> bool:
    """Whether a dataclass has fields that its __init__ does not take, so no client may set them."""
    fields = getattr(cls, "__dataclass_fields__", {}).values()
    return any(not field.init for field in fields)


class _Unreadable(Reading):
    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, value: Any, strict: bool) -> Any:
        raise Misfit(f"`{self._name}` cannot be read from JSON")


class AliasReading(Reading):
    """An alias inside itself: what it stands for is known when all of it has been looked at."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, value: Any, strict: bool) -> Any:
        return convert(value, self.parts[0], strict=strict)


class ChoiceReading(Reading):
    """An enum or Literal whose values are not all str or all int: found by their JSON form."""

    def __init__(self, name: str, members: list[Any]) -> None:
        self._name = name
        self.values = {to_json(_value(member)): member for member in members}

    def read(self, value: Any, strict: bool) -> Any:
        try:
            return self.values[to_json(value)]
        except KeyError:
            pass
        if not strict and isinstance(value, str) and value.encode() in self.values:
            return self.values[value.encode()]
        raise Misfit(f"Expected `{self._name}`, got {to_json(value).decode()}")


def _value(member: Any) -> Any:
    return member.value if isinstance(member, enum.Enum) else member


class ContainerReading(Reading):
    def __init__(self, inner: Any, make: Callable[[Any], Any]) -> None:
        self.parts = (inner,)
        self._make = make

    def read(self, value: Any, strict: bool) -> Any:
        return self._make(convert(value, self.parts[0], strict=strict))


class RefReading(Reading):
    """A ref is its address in JSON: "Room/lobby"."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def read(self, value: Any, strict: bool) -> Ref:
        expected = f"Expected a ref to a `{self.cls.__name__}`, as in `{self.cls.__name__}/key`"
        if not isinstance(value, str):
            raise Misfit(f"{expected}, got `{json_name(value)}`")
        try:
            kind, key = parse_address(value)
        except (InvalidKey, UnicodeError) as error:
            raise Misfit(f"{expected}: {error}") from None
        if self.cls is not Ref and not names_kind(self.cls, kind):
            raise Misfit(f"{expected}, got `{value}`")
        return Ref(kind, key)


class PydanticReading(Reading):
    """A pydantic model or dataclass reads itself, by its own rules, from JSON."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def read(self, value: Any, strict: bool) -> Any:
        try:
            # As JSON and not as Python values: a strict model takes a date from a JSON string.
            return self.cls.__pydantic_validator__.validate_json(to_json(value))
        except ValueError as error:
            details = getattr(error, "errors", None)
            if details is None:
                raise
            found = [
                ("".join(_step(step) for step in detail["loc"]), str(detail["msg"]))
                for detail in details(include_url=False, include_context=False, include_input=False)
            ]
            raise Misfit(found[0][1] if found else str(error), findings=found) from None


def _step(step: object) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


class RecordReading(Reading):
    """A class with fields of which msgspec cannot read some: read as a Struct of the same shape."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.cls: Any = get_origin(annotation) or annotation
        self.fields: list[Field] = fields_of(annotation)

    def build(self, type_for: Callable[[Any], Any]) -> None:
        """Make the Struct; apart from __init__, since a field may hold the class itself."""
        names = {f"f{index}": field.key for index, field in enumerate(self.fields)}
        config = getattr(self.cls, "__struct_config__", None)
        shape = msgspec.defstruct(
            name_of(self.annotation),
            [
                (short, type_for(field.annotation))
                if field.required
                else (short, type_for(field.annotation), msgspec.UNSET)
                for short, field in zip(names, self.fields, strict=True)
            ],
            module=self.cls.__module__,
            namespace={"__doc__": _doc(self.cls)},
            rename=names,
            kw_only=True,
            array_like=config.array_like if config else is_named_tuple(self.cls),
            forbid_unknown_fields=config.forbid_unknown_fields if config else False,
            tag=config.tag if config else None,
            tag_field=config.tag_field if config else None,
        )
        self.parts = (shape,)

    def read(self, value: Any, strict: bool) -> Any:
        found = msgspec.structs.astuple(convert(value, self.parts[0], strict=strict))
        values = {
            field.name: one
            for field, one in zip(self.fields, found, strict=True)
            if one is not msgspec.UNSET
        }
        if is_typed_dict(self.cls):
            return values
        try:
            return self.cls(**values)
        except (ValueError, TypeError) as error:
            raise Misfit(str(error)) from None


def _doc(cls: Any) -> str | None:
    """The docstring, if somebody wrote it: dataclasses make one of their fields."""
    made = f"{cls.__name__}("
    return None if (cls.__doc__ or "").startswith(made) else cls.__doc__


class _Member:
    """One member of a union: its type for msgspec, and how well it suits a JSON value."""

    def __init__(self, annotation: Any, type_: Any) -> None:
        self.type = type_
        plain = unwrap(annotation)
        while get_origin(plain) is Annotated:
            plain = unwrap(get_args(plain)[0])
        self.plain = plain
        self.cls = get_origin(plain) or plain
        self.keys = _keys(plain)

    def rank(self, value: Any) -> tuple[int, int]:
        """What suits best comes first; members that suit alike keep their order in the union."""
        if isinstance(value, dict):
            if self.keys is None:
                return (1, 0)  # a dict takes what no class knows fully
            unknown = len(value.keys() - self.keys)
            return (2 if unknown else 0, unknown + len(self.keys - value.keys()))
        if self.cls is Literal or _is_enum(self.cls):
            return (0, 0)
        if isinstance(value, str):
            # Nearly any text is base64 as well, so bytes are the last guess.
            return (2 if self.cls in (bytes, bytearray) else 1, 0)
        return (1 if self.cls is type(value) else 2, 0)


def _keys(plain: Any) -> set[str] | None:
    if is_record(plain) and not is_pydantic(plain):
        return {field.key for field in fields_of(plain)}
    if is_pydantic(plain):
        fields = getattr(plain, "__pydantic_fields__", {})
        return {getattr(field, "alias", None) or name for name, field in fields.items()}
    return None


class UnionReading(Reading):
    """A union that JSON alone does not tell apart.

    Members are tried in the order they are written, the ones that suit exactly before the others:
    an int is no Decimal where both are allowed, an object becomes the class that knows its keys,
    anything is a Literal or enum member first, and a string is base64 last. So write the narrower
    type first, as in `datetime | str`: every string is a str, and `str | datetime` reads no other.
    """

    def __init__(self, name: str, members: list[_Member]) -> None:
        self._name = name
        self._members = members
        self.parts = tuple(member.type for member in members)

    def read(self, value: Any, strict: bool) -> Any:
        tried: list[Exception] = []
        for member in sorted(self._members, key=lambda member: member.rank(value)):
            try:
                return convert(value, member.type, strict=strict)
            except ValueError as error:
                if not isinstance(value, dict) or member.keys is not None:
                    tried.append(error)
        if isinstance(value, dict) and len(tried) == 1:
            raise tried[0]  # it was meant for the one class there is, so say what that lacks
        raise Misfit(f"Expected `{self._name}`, got `{json_name(value)}`")
