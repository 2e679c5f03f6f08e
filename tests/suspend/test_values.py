"""Values as bytes, and what is refused."""

from __future__ import annotations

import datetime
import decimal
import enum
import io
import math
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perdure import Object
from perdure.errors import BadArguments, HandlerError, NotSerializable
from perdure.suspend import heap


class Colour(enum.Enum):
    RED = 1


@dataclass
class Item:
    name: str
    parts: list[Any] = field(default_factory=list)


class Holder(Object):
    pass


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Slotted(Exception):
    __slots__ = ("spare",)


def round_trip(value: Any) -> Any:
    return heap.loads(heap.dumps(value))


@pytest.mark.parametrize(
    "value",
    [
        ((1, 2), {"a": [None, True, 2.5, "text", b"bytes"]}),
        {1, 2, 3},
        frozenset({"a"}),
        datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        Colour.RED,
        Item("a", [Item("b")]),
        Holder.at("x"),
        Path("/tmp/a"),
        int,
    ],
)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert round_trip(value) == value
    assert heap.same(heap.dumps(value), heap.dumps(round_trip(value)))


def test_an_object_travels_as_its_ref() -> None:
    instance = Holder.__new__(Holder)
    instance._perdure_key = "ada"
    ada = Holder.at("ada")
    assert round_trip([instance, {"who": instance}]) == [ada, {"who": ada}]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("k"),
        TwoArguments(7, "why"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        StopIteration(3),
        SystemExit(4),
        ExceptionGroup("several", [ValueError(1), TwoArguments(2, "in a group")]),
        HandlerError("text", error="Odd", hint="do it"),
        BadArguments("text", errors=[("$.a", "wrong")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_keeps_type_arguments_and_attributes(error: BaseException) -> None:
    copy = round_trip(raised(error))
    assert type(copy) is type(error)
    assert copy.__traceback__ is None
    assert str(copy) == str(error)
    assert heap.same(heap.dumps(error), heap.dumps(copy))
    if isinstance(error, BaseExceptionGroup):
        assert [str(e) for e in copy.exceptions] == [str(e) for e in error.exceptions]
    if isinstance(error, OSError):
        assert (copy.errno, copy.filename) == (2, "name")
    if isinstance(error, StopIteration):
        assert copy.value == 3


def test_an_exception_keeps_cause_context_notes_and_slots() -> None:
    error = Slotted("text")
    error.spare = [1]
    error.__cause__ = TwoArguments(1, "cause")
    error.__context__ = KeyError("context")
    error.add_note("a note")
    copy = round_trip([error])[0]
    assert (copy.spare, copy.__notes__) == ([1], ["a note"])
    assert (copy.__cause__.code, copy.__context__.args) == (1, ("context",))
    assert copy.__suppress_context__


def test_an_exception_travels_without_a_cause_that_cannot() -> None:
    error = ValueError("text")
    error.__cause__ = RuntimeError(io.BytesIO().getbuffer())
    copy = round_trip(error)
    assert (type(copy), copy.args, copy.__cause__) == (ValueError, ("text",), None)


@pytest.mark.parametrize(
    ("value", "what", "path"),
    [
        ([1, {"f": io.BytesIO().getbuffer()}], "value", "value[1]['f'] is a view into memory"),
        (Item("a", [(x for x in "ab")]), "value", "value.parts[0] is a generator"),
        (((1, lambda: 1), {}), "arguments", "argument[1] is a function"),
        (((), {"by": [lambda: 1]}), "arguments", "argument by[0] is a function"),
        (Item, "value", None),
    ],
)
def test_a_refusal_names_the_path(value: object, what: str, path: str | None) -> None:
    if path is None:
        heap.dumps(value, what)
        return
    with pytest.raises(NotSerializable) as caught:
        heap.dumps(value, what)
    assert str(caught.value).startswith(path)


def test_a_refusal_names_an_open_file(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file, pytest.raises(NotSerializable) as caught:
        heap.dumps(((file,), {}), "arguments")
    assert str(caught.value).startswith("argument[0] is an open file (TextIOWrapper)")


def test_a_failed_dump_leaves_nothing_behind_for_the_next() -> None:
    shared = ["x"]
    with pytest.raises(NotSerializable):
        heap.dumps([shared, lambda: 1])
    assert round_trip([shared]) == [["x"]]


def cyclic(last: object) -> list[object]:
    value: list[object] = [1]
    value.append({"self": value, "last": last})
    return value


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (["ab" * 3, "ab" * 3], [x := "ab" * 3, x], True),
        (math.nan, math.nan, True),
        (0.0, -0.0, False),
        (1, True, False),
        ({1, 2, 3}, {3, 2, 1}, True),
        ({(1, "a"), (2, "b")}, {(2, "b"), (1, "a")}, True),
        ({1}, {True}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        (Item("a"), Item("a"), True),
        (Item("a"), Item("a", [1]), False),
        (ValueError("a"), ValueError("a"), True),
        (ValueError("a"), KeyError("a"), False),
        (re.compile("a" * 2, re.DOTALL), re.compile("a" * 2, re.DOTALL), True),
        (re.compile("a"), re.compile("b"), False),
        (cyclic(1), cyclic(1), True),
        (cyclic(1), cyclic(2), False),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00"), False),
        ([1, 2], (1, 2), False),
    ],
)
def test_same_compares_types_and_values(a: object, b: object, expected: bool) -> None:
    assert heap.same(heap.dumps(a), heap.dumps(b)) is expected


def test_same_does_not_raise_for_bytes_that_are_no_pickle() -> None:
    assert heap.same(b"\x80", b"") is False
    assert heap.same(b"cno_module\nx\n.", heap.dumps(1)) is False
    assert heap.same(b"", b"") is True
