"""Values to JSON.

As msgspec writes it: bytes are base64, Decimal and UUID strings, dates and times RFC 3339, a
timedelta an ISO 8601 duration, sets and tuples arrays in their own order, keys that are numbers
or dates strings; NaN and the infinities, which JSON has not, are null. Beyond that a ref is its
address, a pydantic model writes itself, and instances of subclasses are written like their bases.

A value without a JSON form is NotSerializable, naming the path to it.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import json
import math
import uuid
from typing import Any

import msgspec

from perdure.errors import NotSerializable
from perdure.ref import Ref
from perdure.serde.annotations import is_object, is_pydantic, name_of


def _hook(value: Any) -> Any:
    """What msgspec asks for a value it does not know."""
    cls = type(value)
    if cls is Ref or is_object(cls):
        return value.address
    if is_pydantic(cls):
        return msgspec.Raw(cls.__pydantic_serializer__.to_json(value, by_alias=True))
    for base, plain in _PLAIN.items():
        # Of the classes themselves msgspec asks only where they are the key of a dict.
        if isinstance(value, base) and cls not in _CONTAINERS:
            return plain(value)
    raise TypeError(f"{_NO_FORM} `{name_of(cls)}`")


_NO_FORM = "it is a"
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset))


_PLAIN: dict[type, Any] = {
    # Instances of subclasses: msgspec knows the classes themselves alone.
    str: str.__str__,
    int: int,
    float: float,
    datetime.datetime: lambda value: _rebuilt(datetime.datetime, value),
    datetime.date: lambda value: datetime.date(value.year, value.month, value.day),
    datetime.timedelta: lambda value: datetime.timedelta(
        value.days, value.seconds, value.microseconds
    ),
    decimal.Decimal: decimal.Decimal,
    uuid.UUID: lambda value: uuid.UUID(int=value.int),
    collections.abc.Mapping: dict,
    collections.abc.Set: list,
    collections.abc.ValuesView: list,
    collections.deque: list,
    collections.abc.Sequence: list,
}


def _rebuilt(cls: type[datetime.datetime], value: datetime.datetime) -> datetime.datetime:
    return cls.combine(value.date(), value.timetz())


_encoder = msgspec.json.Encoder(enc_hook=_hook)
encode = _encoder.encode
"""Fast, with whatever msgspec raises; `to_json` says what is wrong, and where."""


def to_json(value: object) -> bytes:
    """The value as JSON. Raises NotSerializable, naming the path to what has no JSON form."""
    try:
        return encode(value)
    except RecursionError:
        raise _too_deep() from None
    except Exception:
        return _to_json_slowly(value)


def _too_deep() -> NotSerializable:
    return NotSerializable("the value is nested too deeply for JSON, or contains itself")


def _to_json_slowly(value: object) -> bytes:
    """Item by item: it finds what the fast way stumbled over, and writes a little more."""
    try:
        plain = _plain(value, "$")
    except RecursionError:
        raise _too_deep() from None
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any, path: str) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, enum.Enum):
        return _plain(value.value, path)
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, collections.abc.Mapping):
        return {_key(key, path): _plain(one, f"{path}[{key!r}]") for key, one in value.items()}
    if isinstance(value, list | tuple | collections.abc.Set | collections.deque):
        return [_plain(one, f"{path}[{index}]") for index, one in enumerate(value)]
    fields = _record_fields(value)
    if fields is not None:
        return {key: _plain(one, f"{path}.{key}") for key, one in fields.items()}
    try:
        return json.loads(encode(value))
    except RecursionError:
        raise
    except Exception as error:
        raise NotSerializable(f"`{path}` has no JSON form: {_reason(value, error)}") from None


def _reason(value: object, error: Exception) -> str:
    text = str(error)
    return text if text.startswith(_NO_FORM) else f"{_NO_FORM} `{name_of(type(value))}` ({text})"


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        text = f"`{path}` has no JSON form: {value!r} is not valid Unicode"
        raise NotSerializable(text) from None
    return str.__str__(value)


def _integer(value: int, path: str) -> int:
    try:
        str(int(value))
    except ValueError as error:  # thousands of digits
        raise NotSerializable(f"`{path}` has no JSON form: {error}") from None
    return int(value)


def _key(key: Any, path: str) -> str:
    if isinstance(key, str) and not isinstance(key, enum.Enum):
        return _text(key, path)
    try:
        if type(key) is Ref:
            return key.address
        (text,) = json.loads(encode({key: None}))
        return str(text)
    except Exception:
        pass
    raise NotSerializable(
        f"`{path}` has no JSON form: its key {key!r} is a `{name_of(type(key))}`; "
        "the keys of a JSON object are strings, numbers or dates"
    )


def _record_fields(value: Any) -> dict[str, Any] | None:
    """The fields of a Struct, dataclass or attrs instance by their JSON names."""
    cls = type(value)
    if is_pydantic(cls) or cls is Ref:
        return None
    if isinstance(value, msgspec.Struct):
        config = cls.__struct_config__
        if config.array_like:
            return None
        fields = {
            field.encode_name: getattr(value, field.name, None)
            for field in msgspec.structs.fields(cls)
        }
        return {config.tag_field: config.tag, **fields} if config.tag_field else fields
    names = getattr(cls, "__dataclass_fields__", None)
    if names is None:
        names = [field.name for field in getattr(cls, "__attrs_attrs__", ())] or None
    return None if names is None else {name: getattr(value, name) for name in names}
