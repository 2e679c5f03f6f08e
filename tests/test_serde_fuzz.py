"""Round trips of random values, and random bytes as bodies."""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Optional

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from perdure.errors import BadArguments, BadJson
from perdure.serde import Signature, check, from_json, to_json
from tests.serde_types import (
    Account,
    Box,
    Cat,
    Colour,
    Dog,
    Event,
    Level,
    Line,
    Mixed,
    Money,
    Movie,
    Pair,
    Point,
    Renamed,
    Room,
    Struct,
    Tree,
)

Typed = tuple[Any, SearchStrategy[Any]]
"""An annotation and values for it."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Offsets are whole minutes in RFC 3339.
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: dt.timedelta(minutes=minutes))
ZONES = st.just(dt.UTC) | OFFSETS.map(dt.timezone)
# Beyond these years a shift to UTC would leave the calendar.
MOMENTS = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 12, 31), timezones=ZONES)
KEYS = TEXT.filter(lambda text: 0 < len(text.encode()) <= 512)
REFS = KEYS.map(Room.at)

ATOMS: list[Typed] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXT),
    (bytes, st.binary()),
    (None, st.none()),
    (Decimal, st.decimals(allow_nan=False)),
    (uuid.UUID, st.uuids()),
    (dt.datetime, MOMENTS),
    (dt.datetime, st.datetimes()),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-(10**6)), dt.timedelta(10**6))),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Mixed, st.sampled_from(Mixed)),
    (Room, REFS),
    (Point, st.builds(Point, st.integers(), st.integers())),
    (Money, st.builds(Money, st.integers(), TEXT)),
    (Line, st.builds(Line, TEXT, st.builds(Money, st.integers()), st.lists(TEXT))),
    (Struct, st.builds(Struct, st.integers(), TEXT)),
    (Renamed, st.builds(Renamed, TEXT, st.none() | REFS)),
    (Account, st.builds(Account, owner=TEXT, cents=st.integers(), opened=st.none() | st.dates())),
    (Pair, st.builds(Pair, st.integers(), TEXT)),
    (Movie, st.fixed_dictionaries({"title": TEXT}, optional={"year": st.integers()})),
    (Tree, st.builds(Tree, st.integers(), st.lists(st.builds(Tree, st.integers()), max_size=3))),
    (Box[Room], st.builds(Box, REFS)),
    (Event, st.builds(Event, MOMENTS, st.none() | REFS, st.just([]))),
    (dt.datetime | bool, MOMENTS | st.booleans()),
    (int | Decimal, st.integers() | st.decimals(allow_nan=False)),
    (Cat | Dog, st.builds(Cat, TEXT, st.integers()) | st.builds(Dog, TEXT, st.lists(TEXT))),
    (Room | int | None, REFS | st.integers() | st.none()),
    (uuid.UUID | Colour, st.uuids() | st.sampled_from(Colour)),
]

SMALL = st.integers(-(2**63), 2**63)
CONTAINERS: list[Callable[[Any, SearchStrategy[Any]], Typed]] = [
    lambda of, values: (list[of], st.lists(values, max_size=4)),
    lambda of, values: (tuple[of, ...], st.lists(values, max_size=4).map(tuple)),
    lambda of, values: (tuple[of, int], st.tuples(values, st.integers())),
    lambda of, values: (dict[str, of], st.dictionaries(TEXT, values, max_size=4)),
    lambda of, values: (dict[int, of], st.dictionaries(SMALL, values, max_size=4)),
    lambda of, values: (Optional[of], values | st.none()),  # noqa: UP045 - None | None
    lambda of, values: (Box[of], st.builds(Box, values)),
]

typed = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.tuples(st.sampled_from(CONTAINERS), inner).map(lambda two: two[0](*two[1])),
    max_leaves=4,
)


@st.composite
def values_of_types(draw: st.DrawFn) -> tuple[Any, Any]:
    annotation, values = draw(typed)
    return annotation, draw(values)


@given(values_of_types())
def test_a_value_survives_json(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    body = to_json(value)
    json.loads(body)
    again = from_json(body, annotation)
    assert again == value
    assert type(again) is type(value)
    check(value, annotation)
    check(again, annotation)


@given(values_of_types())
def test_a_value_survives_as_an_argument_and_as_a_result(pair: tuple[Any, Any]) -> None:
    annotation, value = pair

    def handler(it, *, other=None):  # type: ignore[no-untyped-def]
        ...

    both = Optional[annotation]  # noqa: UP045 - None | None
    handler.__annotations__.update(it=annotation, other=both, **{"return": annotation})
    subject = Signature(handler)
    text = to_json(value).decode()
    for body in (f'{{"it":{text}}}', f"[{text}]", f' {{ "it" : {text} }}'):
        assert subject.decode_json(body.encode()) == ((value,), {"other": None})
    assert subject.bind((value,), {})[0][0] is value
    assert from_json(subject.encode_result(value), annotation) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abxy") | TEXT, inner),
    max_leaves=8,
)


def messy(
    a: int, b: Event | Point | None = None, *c: dt.datetime | str, **d: list[Box[int]]
) -> None:
    """Takes a bit of everything."""


def tidy(a: int, x: dict[str, Tree | Line] | None = None, y: list[Account] = []) -> None:  # noqa: B006
    """Takes what the fast way can read."""


@pytest.mark.parametrize("function", [messy, tidy])
@given(body=st.binary() | JSON.map(json.dumps).map(str.encode))
def test_no_body_is_an_accident(function: Callable[..., None], body: bytes) -> None:
    subject = Signature(function)
    try:
        args, kwargs = subject.decode_json(body)
    except (BadJson, BadArguments):
        return
    function(*args, **kwargs)
    subject.bind(args, kwargs)


@pytest.mark.parametrize("function", [messy, tidy])
@given(query=st.text() | st.from_regex(r"([abcdxy]=[0-9\[\]{}\":a]{0,9}&?){0,4}", fullmatch=True))
def test_no_query_string_is_an_accident(function: Callable[..., None], query: str) -> None:
    subject = Signature(function)
    try:
        args, kwargs = subject.decode_query(query)
    except BadArguments:
        return
    function(*args, **kwargs)


@given(body=JSON.map(json.dumps).map(str.encode))
def test_both_ways_agree(body: bytes) -> None:
    """The fast way, and the careful one that `**kwargs` asks for."""

    def fast(a: int, x: list[Any] | None = None, y: str | int = 0) -> None: ...

    def slow(a: int, x: list[Any] | None = None, y: str | int = 0, **_: msgspec.Raw) -> None: ...

    found: list[object] = []
    for function in (fast, slow):
        try:
            args, kwargs = Signature(function).decode_json(body)
            found.append(args if not kwargs else "refused")
        except BadArguments:
            found.append("refused")
        except BadJson:
            found.append("no JSON")
    assert found[0] == found[1]


NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@st.composite
def functions(draw: st.DrawFn) -> Callable[..., dict[str, object]]:
    """A function with any mix of parameters, which returns what it was given."""
    names = draw(NAMES)
    cuts = sorted(draw(st.tuples(st.integers(0, len(names)), st.integers(0, len(names)))))
    first_default = draw(st.integers(0, cuts[1]))
    parts = []
    for index, name in enumerate(names):
        if index == cuts[0] > 0:
            parts.append("/")
        if index == cuts[1]:
            parts.append(draw(st.sampled_from(["*", "*args"])))
        optional = first_default <= index < cuts[1] or (index >= cuts[1] and draw(st.booleans()))
        parts.append(f"{name}={index * 10}" if optional else name)
    parts += draw(st.sampled_from([[], ["**kwargs"]]))
    space: dict[str, Any] = {}
    exec(f"def f({', '.join(parts)}): return locals()", space)
    return space["f"]  # type: ignore[no-any-return]


@given(
    function=functions(),
    args=st.lists(st.integers(), max_size=4).map(tuple),
    kwargs=st.dictionaries(st.sampled_from("abcdefg"), st.integers(), max_size=4),
)
def test_bind_takes_what_python_takes(
    function: Callable[..., dict[str, object]], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    subject = Signature(function)
    try:
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(BadArguments):
            subject.bind(args, kwargs)
        return
    for _ in range(2):
        bound_args, bound_kwargs = subject.bind(args, dict(kwargs))
        assert function(*bound_args, **bound_kwargs) == expected


@given(
    function=functions(),
    kwargs=st.dictionaries(st.sampled_from("abcdefg"), st.integers(), max_size=5),
)
def test_a_json_object_takes_what_a_call_by_name_takes(
    function: Callable[..., dict[str, object]], kwargs: dict[str, int]
) -> None:
    source = inspect.signature(function)
    by_name = source.replace(
        parameters=[
            parameter.replace(kind=parameter.POSITIONAL_OR_KEYWORD)
            if parameter.kind is parameter.POSITIONAL_ONLY
            else parameter
            for parameter in source.parameters.values()
        ]
    )
    subject = Signature(function)
    body = json.dumps(kwargs).encode()
    try:
        by_name.bind(**kwargs)
    except TypeError:
        with pytest.raises(BadArguments):
            subject.decode_json(body)
        return
    args, named = subject.decode_json(body)
    given = function(*args, **named)
    assert {**given, **given.get("kwargs", {})}.items() >= kwargs.items()  # type: ignore[dict-item]
    assert subject.decode_query("&".join(f"{k}={v}" for k, v in kwargs.items())) is not None


def test_the_list_of_types_is_of_classes_that_compare() -> None:
    """A round trip would prove nothing for a class whose instances are never equal."""
    for annotation, _ in ATOMS:
        if dataclasses.is_dataclass(annotation):
            assert annotation.__eq__ is not object.__eq__
