"""Builtin values as JSON or MessagePack can carry them: what people are shown is shown, whatever
an object has put there.

`msgspec.to_builtins` makes dicts, lists, texts and numbers of a value. Some of these still have no
bytes: a text with half of a surrogate pair, a number of more digits than Python writes, an enum
whose value is a class. They are replaced by a text, one by one, and the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from perdure.failure import kept_text

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

_INT_BITS = 14_000
"""About the 4300 digits that Python writes of an int."""


def for_json(value: Any, text: Callable[[Any], str]) -> Any:
    """A value that has bytes as JSON; `text` says what stands for what has none."""
    return _carried(value, text, _encode_json, -(2**_INT_BITS), 2**_INT_BITS)


def for_msgpack(value: Any, text: Callable[[Any], str]) -> Any:
    """The same for MessagePack, whose ints have 64 bits: larger ones are texts of their digits."""
    return _carried(value, text, _encode_msgpack, -(2**63), 2**64 - 1)


def _carried(
    value: Any, text: Callable[[Any], str], encode: Callable[[Any], bytes], least: int, most: int
) -> Any:
    def mend(value: Any) -> Any:
        if isinstance(value, dict):
            return {mend(key): mend(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [mend(inner) for inner in value]
        if isinstance(value, str):
            return kept_text(value)
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int) and least <= value <= most:
            return value
        return kept_text(text(value))

    try:
        encode(value)
    except Exception:
        try:
            return mend(value)
        except RecursionError:
            return kept_text(text(value))
    return value
