"""Attributes that objects can be found by: their mark, their values as bytes, and the conditions.

The order of the bytes is the order of the values, so that a store finds ranges without knowing what
it looks at. Numbers of all kinds are one kind here, as they are in Python: 1 == 1.0 == Decimal(1).
Values of different kinds are ordered by kind, and no range reaches into another one.
"""

from __future__ import annotations

import enum
import types
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from perdure.errors import BadArguments

T = TypeVar("T")


class _Mark:
    def __repr__(self) -> str:
        return "Indexed"


INDEXED = _Mark()

Indexed = Annotated[T, INDEXED]
"""An attribute that objects are found by: `status: Indexed[str] = "open"`, and then
`await Order.find(status="open")`. It follows the attribute by itself, in the same turn."""

Ranges = tuple[tuple[bytes, bytes], ...]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - times without a zone are a kind of their own
_BYTES_MAX = 512
_PREFIX_MAX = _BYTES_MAX - 16
"""So much of a longer value is in its key as it is."""
_KINDS = (
    *(str, int, float, bool, type(None), Decimal, datetime, date, timedelta, uuid.UUID, bytes),
    enum.Enum,
)


def is_indexable(annotation: Any) -> bool:
    """Whether the values of an annotation can be in an index."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return all(is_indexable(part) for part in get_args(annotation))
    if origin is Annotated:
        return is_indexable(get_args(annotation)[0])
    if origin is Literal or annotation is None:
        return True
    if not isinstance(annotation, type):
        return annotation is Any or isinstance(annotation, TypeVar)
    return issubclass(annotation, _KINDS)


def index_key(value: object) -> bytes:
    """A value as bytes. Raises TypeError for one that cannot be in an index."""
    try:
        key = _key(value)
    except OverflowError:
        # timedelta.max, Decimal("1E+9999999999"): there are values beyond what a key has room for.
        raise TypeError(f"{value!r} is too large for an index") from None
    if len(key) > _BYTES_MAX:
        # Equal is still equal; only in the order of two values this long, and equal up to here,
        # chance decides.
        key = key[:_PREFIX_MAX] + blake2b(key, digest_size=16).digest()
    return key


def _key(value: object) -> bytes:
    match value:
        case None:
            return b"0"
        case enum.Enum():
            return _key(value.value)
        case bool() | int() | float() | Decimal():
            return b"n" + _number(Decimal(value))
        case str():
            return b"s" + value.encode("utf-8", "surrogatepass")
        case datetime():
            if value.tzinfo is None:
                return b"l" + _whole((value - _EPOCH) // timedelta(microseconds=1))
            since = value - _EPOCH.replace(tzinfo=UTC)
            return b"t" + _whole(since // timedelta(microseconds=1))
        case date():
            return b"d" + _whole(value.toordinal())
        case timedelta():
            return b"e" + _whole(value // timedelta(microseconds=1))
        case uuid.UUID():
            return b"u" + value.bytes
        case bytes():
            return b"b" + value
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be in an index")


def _whole(value: int) -> bytes:
    return (value + (1 << 63)).to_bytes(8, "big")


def _number(value: Decimal) -> bytes:
    """Sign, size and digits, so that bytes compare as numbers do."""
    if value.is_nan():
        raise TypeError("a number that is none cannot be in an index")
    if value.is_infinite():
        return b"\xff" if value > 0 else b"\x00"
    if not value:
        return b"\x80"
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = bytes(digit + 1 for digit in digits).rstrip(b"\x01") + b"\x00"
    size = (len(digits) + exponent + (1 << 31)).to_bytes(4, "big")
    body = size + text
    if sign:
        return b"\x40" + bytes(255 - byte for byte in body)
    return b"\xc0" + body


# --- conditions


OPERATORS = ("in", "prefix", "lt", "le", "gt", "ge")


def ranges(how: str, value: Any) -> Ranges:
    """Where the keys lie of values that are `value` (how = ``), `lt` than it, and so on.

    Raises BadArguments for what is no value of an index.
    """
    try:
        if how == "in":
            return tuple(_range("", one) for one in _several(value))
        return (_range(how, value),)
    except TypeError as error:
        raise BadArguments(
            f"find: {error}",
            hint="Indexed values are texts, numbers, times, dates, UUIDs, enums and None.",
        ) from None


def _several(value: Any) -> Iterable[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"`in` takes several values, not {value!r}")
    return value


def _range(how: str, value: Any) -> tuple[bytes, bytes]:
    key = index_key(value)
    kind, behind = key[:1], bytes((key[0] + 1,))
    match how:
        case "":
            return key, key + b"\x00"
        case "lt":
            return kind, key
        case "le":
            return kind, key + b"\x00"
        case "gt":
            return key + b"\x00", behind
        case "ge":
            return key, behind
        case "prefix":
            if not isinstance(value, (str, bytes)):
                raise TypeError(f"`prefix` takes a text, not {value!r}")
            if len(key) > _PREFIX_MAX:
                raise TypeError(f"`prefix` takes at most {_PREFIX_MAX - 1} bytes")
            # Up to the first key that does not begin so; bytes may go on with any number of 0xff.
            shorter = key.rstrip(b"\xff")
            return key, shorter[:-1] + bytes((shorter[-1] + 1,))
        case _:
            raise TypeError(f"there is no comparison {how!r}; there are {', '.join(OPERATORS)}")


def split_name(name: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """`total__ge` as (attribute, comparison). Raises BadArguments for an unknown attribute."""
    attribute, _, how = name.rpartition("__")
    if name in known:
        return name, ""
    if attribute in known:
        return attribute, how
    raise BadArguments(
        f"find: {name!r} is no Indexed attribute",
        errors=[(f"$.{name}", "not Indexed")],
        hint=f"There are: {', '.join(known) or 'none'}. Declare it: {name}: Indexed[…]",
    )


# --- conditions as text, from the command line and in URLs

_TEXT_OPERATORS = (
    ("<=", "le"), (">=", "ge"), ("^=", "prefix"), ("<", "lt"), (">", "gt"), ("=", "")
)  # fmt: skip


def read_condition(text: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    """`status=open`, `total>=100`, `name^=Ad` as a keyword of `find` and its value.

    Raises BadArguments.
    """
    places = [(at, sign, how) for sign, how in _TEXT_OPERATORS if (at := text.find(sign)) > 0]
    if not places:
        raise BadArguments(
            f"{text!r} is no condition", hint="It looks like status=open or total>=100."
        )
    at, sign, how = min(places, key=lambda one: (one[0], -len(one[1])))
    name = text[:at].strip()
    split_name(name, known)
    value = _read(text[at + len(sign) :].strip(), known[name], name)
    return (f"{name}__{how}" if how else name), value


def _read(text: str, annotation: Any, name: str) -> Any:
    if annotation is Any or isinstance(annotation, TypeVar):
        return text
    try:
        return msgspec.convert(text, annotation, strict=False)
    except msgspec.ValidationError as error:
        raise BadArguments(
            f"{text!r} does not fit {name}: {error}", errors=[(f"$.{name}", str(error))]
        ) from None
