"""What passes between objects: the type checker's rule, and nothing converted."""

from __future__ import annotations

import collections
import collections.abc
import datetime as dt
import re
import types as builtin_types
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
import pytest

from perdure import Object
from perdure.errors import BadArguments
from perdure.kind import kind_of
from perdure.ref import Ref
from perdure.serde import check
from tests.serde_types import (
    Account,
    Box,
    Cat,
    Colour,
    Counter,
    Dog,
    Lobby,
    Movie,
    Pair,
    Plain,
    Point,
    Positive,
    Room,
    RoomInfo,
    Struct,
    UserId,
)


@runtime_checkable
class Closes(Protocol):
    def close(self) -> None: ...


class Opens(Protocol):
    def open(self) -> None: ...


class Special(Point):
    pass


NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

FITS: list[tuple[Any, Any]] = [
    (int, True),
    (float, 1),
    (complex, 1),
    (str, type("Text", (str,), {})("a")),
    (dt.date, NOW),
    (Point, Special(1)),
    (Point | None, None),
    (Box[int], Box("not looked into")),
    (Plain, Plain()),
    (UserId, 5),
    (Positive, 1),
    (list, [object()]),
    (list[int], []),
    (list[Point], [Point(1), Special(2)]),
    (collections.abc.Sequence[int], (1, 2)),
    (collections.abc.Sequence[int], range(3)),
    (collections.abc.Collection[int], {1}),
    (collections.abc.Iterable[int], iter([1])),
    (collections.abc.Mapping[str, int], builtin_types.MappingProxyType({"a": 1})),
    (dict[str, int], collections.Counter(a=1)),
    (dict[str, float], {"a": 1}),
    (tuple[int, ...], ()),
    (tuple[()], ()),
    (tuple[int, str], Pair(1)),
    (set[int], {1}),
    (frozenset[int], frozenset({1})),
    (collections.abc.Set[int], {1: 2}.keys()),
    (Literal["a", 1], 1),
    (Literal[Colour.RED], Colour.RED),
    (collections.abc.Callable[[int], int], abs),
    (type[int], int),
    (Closes, (i for i in [1])),
    (Opens, 5),
    (Any, Plain()),
    (object, Plain()),
    (Movie, {"title": "a"}),
    (RoomInfo, {"room": Room.at("a"), "when": NOW}),
    (Room, Room.at("a")),
    (Room, Lobby.at("a")),
    (Room, kind_of(Room).bare("a")),
    (Object, Counter.at("a")),
    (Ref, Counter.at("a")),
    (list[Room | None], [Room.at("a"), None]),
    (Annotated[list[int], msgspec.Meta(max_length=2)], [1, 2]),
    (Annotated[int, "a note"], 5),
]


def _id(one: Any) -> str:
    """The same in each process: without addresses, and without the order of sets."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(one))
    return "".join(sorted(text)) if isinstance(one, (set, frozenset)) else text[:60]


@pytest.mark.parametrize(("annotation", "value"), FITS, ids=_id)
def test_what_a_type_checker_accepts_passes(annotation: Any, value: Any) -> None:
    check(value, annotation)


MISFITS: list[tuple[Any, Any, str, str]] = [
    (int, 1.0, "$", "Expected `int`, got `float`"),
    (int, "1", "$", "Expected `int`, got `str`"),
    (float, Decimal(1), "$", "Expected `float`, got `Decimal`"),
    (str, b"a", "$", "Expected `str`, got `bytes`"),
    (bool, 1, "$", "Expected `bool`, got `int`"),
    (None, 0, "$", "Expected `None`, got `int`"),
    (dt.datetime, "2026-03-01", "$", "Expected `datetime`, got `str`"),
    (Point, {"x": 1}, "$", "Expected `Point`, got `dict`"),
    (Struct, Point(1), "$", "Expected `Struct`, got `Point`"),
    (Account, {"owner": "a"}, "$", "Expected `Account`, got `dict`"),
    (Cat | Dog, Point(1), "$", "Expected `Cat | Dog`, got `Point`"),
    (int | None, "x", "$", "Expected `int | None`, got `str`"),
    (Colour, "red", "$", "Expected `Colour`, got `str`"),
    (Positive, 0, "$", "Expected `int` >= 1"),
    (Positive, "x", "$", "Expected `int`, got `str`"),
    (list[int], (1,), "$", "Expected `list[int]`, got `tuple`"),
    (list[int], [1, None], "$[1]", "Expected `int`, got `None`"),
    (collections.abc.Sequence[str], "abc", "$", "Expected `Sequence[str]`, got `str`"),
    (tuple[int, ...], (1, "a"), "$[1]", "Expected `int`, got `str`"),
    (tuple[int, str], (1,), "$", "Expected `tuple[int, str]`, got a tuple of length 1"),
    (tuple[int, str], (1, 2), "$[1]", "Expected `str`, got `int`"),
    (tuple[int, str], [1, "a"], "$", "Expected `tuple[int, str]`, got `list`"),
    (tuple[()], (1,), "$", "Expected `tuple[()]`, got a tuple of length 1"),
    (dict[str, int], {"a": "b"}, "$['a']", "Expected `int`, got `str`"),
    (dict[str, int], {1: 1}, "$[1]", "Expected `str`, got `int`"),
    (dict[str, list[int]], {"a": [1, "b"]}, "$['a'][1]", "Expected `int`, got `str`"),
    (set[int], {"a"}, "$[0]", "Expected `int`, got `str`"),
    (Literal["a"], "b", "$", "Expected `Literal['a']`, got 'b'"),
    (Literal[1], True, "$", "Expected `Literal[1]`, got True"),
    (Literal[1], [], "$", "Expected `Literal[1]`, got []"),
    (collections.abc.Callable[[int], int], 5, "$", "Expected `Callable`, got `int`"),
    (Closes, 5, "$", "Expected `Closes`, got `int`"),
    (Movie, {}, "$.title", "`Movie` needs the key `title`"),
    (Movie, {"title": 1}, "$.title", "Expected `str`, got `int`"),
    (Movie, {"title": "a", "x": 1}, "$", "`Movie` has no key 'x'"),
    (Movie, [], "$", "Expected `Movie`, got `list`"),
    (Room, "Room/a", "$", "Expected `Room`, got `str`"),
    (Room, Counter.at("a"), "$", "Expected a ref to a `Room`, got `Counter/a`"),
    (Lobby, Room.at("a"), "$", "Expected a ref to a `Lobby`, got `Room/a`"),
    (Annotated[list[int], msgspec.Meta(max_length=1)], [1, 2], "$", "Expected `array` of length"),
]


@pytest.mark.parametrize(("annotation", "value", "path", "message"), MISFITS, ids=_id)
def test_what_a_type_checker_refuses_is_refused(
    annotation: Any, value: Any, path: str, message: str
) -> None:
    with pytest.raises(BadArguments) as caught:
        check(value, annotation)
    [(found, said)] = caught.value.errors
    assert found == path
    assert said.startswith(message)
