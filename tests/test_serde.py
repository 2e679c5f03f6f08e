"""What each type looks like in JSON, and what is read back."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import subprocess
import sys
import typing
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import msgspec
import pytest

from perdure.errors import BadArguments, BadJson, InvalidClass, NotSerializable
from perdure.ref import Ref
from perdure.serde import check, from_json, to_json
from perdure.serde.readers import json_type
from perdure.serde.schemas import schemas_of
from tests import serde_types as types
from tests.serde_types import (
    Account,
    Bank,
    Box,
    Cat,
    Checked,
    Chest,
    Circle,
    Colour,
    Counter,
    Dog,
    Enter,
    Even,
    Event,
    Explosive,
    Leave,
    Level,
    Line,
    Lobby,
    Mixed,
    Money,
    Movie,
    Page,
    Pair,
    Permission,
    Plain,
    Point,
    Positive,
    Renamed,
    Room,
    RoomInfo,
    Seeded,
    Square,
    Struct,
    Tree,
    UserId,
    Visit,
)

UTC = dt.UTC
OldJson = dict[str, "OldJson"] | list["OldJson"] | str
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

# annotation, value, JSON: written as that, and read back as an equal value of the same class.
BOTH_WAYS: list[tuple[Any, Any, str]] = [
    (int, 5, "5"),
    (int, 2**70, str(2**70)),
    (int, -(2**70), str(-(2**70))),
    (float, 1.5, "1.5"),
    (bool, True, "true"),
    (str, "ä\n", '"ä\\n"'),
    (None, None, "null"),
    (bytes, b"\x00\xff", '"AP8="'),
    (bytearray, bytearray(b"a"), '"YQ=="'),
    (Decimal, Decimal("1.10"), '"1.10"'),
    (uuid.UUID, ID, f'"{ID}"'),
    (dt.datetime, NOON, '"2026-03-01T12:00:00Z"'),
    (dt.datetime, dt.datetime(2026, 3, 1, 12), '"2026-03-01T12:00:00"'),
    (dt.date, dt.date(2026, 3, 1), '"2026-03-01"'),
    (dt.time, dt.time(12, 30), '"12:30:00"'),
    (dt.timedelta, dt.timedelta(days=1, seconds=2), '"P1DT2S"'),
    (list[int], [1, 2], "[1,2]"),
    (list, [1, "a"], '[1,"a"]'),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
    (tuple[int, ...], (1, 2), "[1,2]"),
    (tuple[()], (), "[]"),
    (set[int], {1}, "[1]"),
    (frozenset[str], frozenset({"a"}), '["a"]'),
    (dict[str, int], {"a": 1}, '{"a":1}'),
    (dict[int, str], {1: "a"}, '{"1":"a"}'),
    (dict[dt.date, int], {dt.date(2026, 3, 1): 1}, '{"2026-03-01":1}'),
    (dict[str, list[Point]], {"a": [Point(1, 2)]}, '{"a":[{"x":1,"y":2}]}'),
    (collections.deque[int], collections.deque([1, 2]), "[1,2]"),
    (collections.OrderedDict[str, int], collections.OrderedDict(a=1), '{"a":1}'),
    (collections.Counter[str], collections.Counter(a=2), '{"a":2}'),
    (collections.abc.Sequence[int], [1], "[1]"),
    (collections.abc.Mapping[str, int], {"a": 1}, '{"a":1}'),
    (collections.abc.Iterable[int], [1], "[1]"),
    (Colour, Colour.RED, '"red"'),
    (Level, Level.HIGH, "2"),
    (Mixed, Mixed.ONE, "1"),
    (Mixed, Mixed.TWO, '"two"'),
    (Mixed, Mixed.HALF, "0.5"),
    (Permission, Permission.READ | Permission.WRITE, "3"),
    (Literal["a", 1, None], "a", '"a"'),
    (Literal[Colour.RED], Colour.RED, '"red"'),
    (Literal[True, "x"], True, "true"),
    (Optional[int], None, "null"),  # noqa: UP045 - as older code writes it
    (int | None, 3, "3"),
    (int | str, "a", '"a"'),
    (int | float, 1, "1"),
    (UserId, 5, "5"),
    (Positive, 5, "5"),
    (Annotated[Point, "a note"], Point(1), '{"x":1,"y":0}'),
    (Any, {"a": [1, None]}, '{"a":[1,null]}'),
    (object, [1], "[1]"),
    (types.T, "x", '"x"'),
    (types.Number, "x", '"x"'),
    (types.Bounded, 1, "1"),
    (typing.LiteralString, "x", '"x"'),
    (Point, Point(1, 2), '{"x":1,"y":2}'),
    (Money, Money(5), '{"cents":5,"currency":"EUR"}'),
    (
        Line,
        Line("tea", Money(5), ["a"]),
        '{"item":"tea","price":{"cents":5,"currency":"EUR"},"tags":["a"]}',
    ),
    (Tree, Tree(1, [Tree(2)]), '{"value":1,"below":[{"value":2,"below":[]}]}'),
    (Box[int], Box(1), '{"inside":1}'),
    (Box[Point], Box(Point(1)), '{"inside":{"x":1,"y":0}}'),
    (Box[Room], Box(Room.at("a")), '{"inside":"Room/a"}'),
    (Chest[int], Chest([1], 2), '{"inside":[1],"lid":2}'),
    (Chest[Room], Chest([Room.at("a")], Room.at("b")), '{"inside":["Room/a"],"lid":"Room/b"}'),
    (Event, Event(NOON), '{"at":"2026-03-01T12:00:00Z","room":null,"causes":[]}'),
    (
        Event,
        Event("soon", Room.at("a"), [Event("now")]),
        '{"at":"soon","room":"Room/a","causes":[{"at":"now","room":null,"causes":[]}]}',
    ),
    (Struct, Struct(1), '{"a":1,"b":"b"}'),
    (Renamed, Renamed("a", Room.at("b")), '{"firstName":"a","theRoom":"Room/b"}'),
    (Circle | Square, Square(1.0), '{"type":"square","side":1.0}'),
    (Movie, {"title": "M"}, '{"title":"M"}'),
    (Movie, {"title": "M", "year": 1931}, '{"title":"M","year":1931}'),
    (RoomInfo, {"room": Room.at("a")}, '{"room":"Room/a"}'),
    (RoomInfo, {"room": Room.at("a"), "when": "soon"}, '{"room":"Room/a","when":"soon"}'),
    (Pair, Pair(1, "x"), '[1,"x"]'),
    (Visit, Visit(Room.at("a")), '["Room/a",1]'),
    (
        Account,
        Account(owner="a", opened=dt.date(2026, 3, 1)),
        '{"owner":"a","cents":0,"opened":"2026-03-01"}',
    ),
    (
        Bank,
        Bank(accounts=[Account(owner="a")]),
        '{"accounts":[{"owner":"a","cents":0,"opened":null}],"limit":"10"}',
    ),
    (Page[int], Page[int](items=[1]), '{"items":[1]}'),
    (Checked, Checked(1), '{"n":1}'),
    (list[Account], [Account(owner="a")], '[{"owner":"a","cents":0,"opened":null}]'),
    (dict[str, Account | None], {"a": None}, '{"a":null}'),
    (Room, Room.at("a/b"), '"Room/a%2Fb"'),
    (Room, Lobby.at("a"), '"Lobby/a"'),
    (Room | None, None, "null"),
    (list[Room], [Room.at("a")], '["Room/a"]'),
    (dict[str, Room], {"x": Room.at("a")}, '{"x":"Room/a"}'),
    (tuple[Room, int], (Room.at("a"), 1), '["Room/a",1]'),
    (Ref, Counter.at("a"), '"Counter/a"'),
]


@pytest.mark.parametrize(("annotation", "value", "text"), BOTH_WAYS, ids=lambda one: repr(one)[:60])
def test_a_value_is_written_and_read_back(annotation: Any, value: Any, text: str) -> None:
    assert to_json(value).decode() == text
    read = from_json(text.encode(), annotation)
    assert read == value
    assert type(read) is type(value)
    if annotation is not collections.abc.Iterable[int]:
        check(value, annotation)


def test_a_dataclass_can_take_what_it_does_not_keep() -> None:
    assert from_json(b'{"seed":2}', Seeded).total == 4
    assert from_json(b'{"seed":2,"total":9}', Seeded).total == 4, "a client cannot set it"


# annotation, JSON, what is read: where more than one member of a union could take it.
UNIONS: list[tuple[Any, str, Any]] = [
    (dt.datetime | str, '"2026-03-01T12:00:00Z"', NOON),
    (dt.datetime | str, '"soon"', "soon"),
    (str | dt.datetime, '"2026-03-01T12:00:00Z"', "2026-03-01T12:00:00Z"),
    (int | Decimal, "5", 5),
    (int | Decimal, '"5.5"', Decimal("5.5")),
    (Decimal | int, "5", 5),
    (Decimal | float, "1.5", 1.5),
    (bytes | str, '"abcd"', "abcd"),
    (bytes | str, '"hello"', "hello"),
    (bytes | None, '"YQ=="', b"a"),
    (bytes | int, '"YQ=="', b"a"),
    (str | Colour, '"red"', Colour.RED),
    (str | Colour, '"green"', "green"),
    (str | Literal["a"], '"a"', "a"),
    (uuid.UUID | str, f'"{ID}"', ID),
    (dt.date | dt.datetime, '"2026-03-01"', dt.date(2026, 3, 1)),
    (dt.date | dt.datetime, '"2026-03-01T12:00:00Z"', NOON),
    (Cat | Dog, '{"name":"a","lives":3}', Cat("a", 3)),
    (Cat | Dog, '{"name":"a","tricks":[]}', Dog("a")),
    (Dog | Cat, '{"name":"a","lives":3}', Cat("a", 3)),
    (Cat | Dog, '{"name":"a"}', Cat("a")),
    (Cat | Dog | None, "null", None),
    (Cat | dict[str, int], '{"a":1}', {"a": 1}),
    (dict[str, Any] | Cat, '{"name":"a","lives":1}', Cat("a", 1)),
    (Cat | Account, '{"owner":"a"}', Account(owner="a")),
    (Cat | Struct, '{"a":1}', Struct(1)),
    (Cat | Movie, '{"title":"M"}', {"title": "M"}),
    (list[int] | list[str], '["a"]', ["a"]),
    (list[int] | tuple[str, ...], '["a"]', ("a",)),
    (set[int] | int, "[1]", {1}),
    (Enter | Leave, '{"type":"Leave","room":"Room/a"}', Leave(Room.at("a"))),
    (Room | int, "5", 5),
    (Room | int, '"Room/a"', Room.at("a")),
    (Room | Counter, '"Counter/a"', Counter.at("a")),
    (Room | str, '"Room/a"', Room.at("a")),
    (Room | str, '"a"', "a"),
    (list[dt.datetime | str], '["2026-03-01T12:00:00Z","x"]', [NOON, "x"]),
    (dict[str, bytes | str], '{"a":"b"}', {"a": "b"}),
    (Annotated[int | Decimal, msgspec.Meta(ge=0)], '"5.5"', Decimal("5.5")),
    (bool | int, "true", True),
    (int | bool, "true", True),
    (Mixed | int, "7", 7),
    (Mixed | int, "1", Mixed.ONE),
]


@pytest.mark.parametrize(("annotation", "text", "value"), UNIONS, ids=lambda one: repr(one)[:60])
def test_a_union_takes_the_member_that_suits(annotation: Any, text: str, value: Any) -> None:
    read = from_json(text.encode(), annotation)
    assert read == value
    assert type(read) is type(value)
    check(value, annotation)


# annotation, JSON, the path and the message of what is wrong.
WRONG: list[tuple[Any, str, str, str]] = [
    (str, "5", "$", "Expected `str`, got `int`"),
    (int, "true", "$", "Expected `int`, got `bool`"),
    (int, "1.0", "$", "Expected `int`, got `float`"),
    (int, '"5"', "$", "Expected `int`, got `str`"),
    (bool, "1", "$", "Expected `bool`, got `int`"),
    (float, '"1"', "$", "Expected `float`, got `str`"),
    (float, "1e999", "$", "Number out of range"),
    (int, "1" * 5000, "$", "Integer value out of range"),
    (bytes, '"*"', "$", "Invalid base64 encoded string"),
    (dt.datetime, '"soon"', "$", "Invalid RFC3339 encoded datetime"),
    (dt.timedelta, "5", "$", "Expected `duration`, got `int`"),
    (uuid.UUID, '"x"', "$", "Invalid UUID"),
    (Positive, "0", "$", "Expected `int` >= 1"),
    (list[int], '[1,"a"]', "$[1]", "Expected `int`, got `str`"),
    (list[Point], '[{"x":1},{"x":"a"}]', "$[1].x", "Expected `int`, got `str`"),
    (Point, "{}", "$", "Object missing required field `x`"),
    (Line, '{"item":"a","price":{"cents":"x"}}', "$.price.cents", "Expected `int`, got `str`"),
    (Even, '{"number":1}', "$", "the number is odd"),
    (list[Even], '[{"number":1}]', "$[0]", "the number is odd"),
    (Explosive, '{"number":1}', "$", "KeyError: 'boom'"),
    (Colour, '"green"', "$", "Invalid enum value 'green'"),
    (Mixed, "3", "$", "Expected `Mixed`, got 3"),
    (Mixed, '"1"', "$", 'Expected `Mixed`, got "1"'),
    (Literal[b"a"], "1", "$", "Expected `Literal[b'a']`, got 1"),
    (dt.datetime | str, "5", "$", "Expected `datetime | str`, got `int`"),
    (list[dt.datetime | str], '["a",5]', "$[1]", "Expected `datetime | str`, got `int`"),
    (Cat | Dog, '{"nam":1}', "$", "Expected `Cat | Dog`, got `object`"),
    (Event | None, '{"at":5}', "$.at", "Expected `datetime | str`, got `int`"),
    (Event | str, '{"at":5}', "$.at", "Expected `datetime | str`, got `int`"),
    (
        Event,
        '{"at":"a","causes":[{"at":"b","room":"x"}]}',
        "$.causes[0].room",
        "Expected a ref to a `Room`, as in `Room/key`: 'x' is no address",
    ),
    (Room, '"Counter/a"', "$", "Expected a ref to a `Room`, as in `Room/key`, got `Counter/a`"),
    (Room, '"Room/"', "$", "Expected a ref to a `Room`, as in `Room/key`: a key has 1 to 512"),
    (Lobby, '"Room/a"', "$", "Expected a ref to a `Lobby`, as in `Lobby/key`, got `Room/a`"),
    (list[Room], "[5]", "$[0]", "Expected a ref to a `Room`, as in `Room/key`, got `int`"),
    (Account, '{"owner":5}', "$.owner", "Input should be a valid string"),
    (list[Bank], '[{"accounts":[{}]}]', "$[0].accounts[0].owner", "Field required"),
    (Checked, '{"n":0}', "$.n", "Input should be greater than 0"),
    (Plain, "{}", "$", "`Plain` cannot be read from JSON"),
    (list[Plain], "[1]", "$[0]", "`Plain` cannot be read from JSON"),
    (collections.abc.Callable[[int], str], "1", "$", "`Callable"),
    (complex, "1", "$", "`complex` cannot be read from JSON"),
    (Renamed, '{"firstName":"a","x":1}', "$", "Object contains unknown field `x`"),
]


@pytest.mark.parametrize(
    ("annotation", "text", "path", "message"), WRONG, ids=lambda one: repr(one)[:60]
)
def test_what_does_not_fit_is_named_with_its_path(
    annotation: Any, text: str, path: str, message: str
) -> None:
    with pytest.raises(BadArguments) as caught:
        from_json(text.encode(), annotation)
    assert caught.value.code == "invalid-arguments"
    [(found, said)] = caught.value.errors
    assert found == path
    assert said.startswith(message)


def test_every_mistake_in_a_model_is_told() -> None:
    with pytest.raises(BadArguments) as caught:
        from_json(b'{"accounts":[{"owner":1},{}]}', Bank)
    paths = [path for path, _ in caught.value.errors]
    assert paths == ["$.accounts[0].owner", "$.accounts[1].owner"]


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[1,]", b"nul", b"1 2", b"NaN", b"{'a':1}"),
        *(b'"\xff"', b'"\\ud800"', b"[" * 100_000, b'{"a":' * 100_000),
    ],
)
def test_what_is_not_json_is_bad_json(text: bytes) -> None:
    with pytest.raises(BadJson):
        from_json(text, Any)


# Values that msgspec alone would refuse or misread, and what they are in JSON.
WRITTEN: list[tuple[Any, str]] = [
    (float("nan"), "null"),
    ([float("inf"), 1.0], "[null,1.0]"),
    (collections.deque([1]), "[1]"),
    (range(3), "[0,1,2]"),
    ({"a": 1}.keys(), '["a"]'),
    ({"a": 1}.values(), "[1]"),
    (collections.ChainMap({"a": 1}), '{"a":1}'),
    (type("Text", (str,), {})("a"), '"a"'),
    (type("Whole", (int,), {})(1), "1"),
    (type("Real", (float,), {})(1.5), "1.5"),
    (type("Stamp", (dt.datetime,), {})(2026, 3, 1), '"2026-03-01T00:00:00"'),
    ({Room.at("a"): 1}, '{"Room/a":1}'),
    ([{Room.at("a"): Account(owner="a")}], '[{"Room/a":{"owner":"a","cents":0,"opened":null}}]'),
    ({type("Text", (str,), {})("a"): 1}, '{"a":1}'),
    ({1: {2.5: None}}, '{"1":{"2.5":null}}'),
    ({ID: 1}, f'{{"{ID}":1}}'),
]


@pytest.mark.parametrize(("value", "text"), WRITTEN, ids=lambda one: repr(one)[:60])
def test_values_with_an_obvious_json_form_are_written(value: Any, text: str) -> None:
    assert to_json(value).decode() == text


def contains_itself() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


UNWRITABLE: list[tuple[Any, str]] = [
    (Plain(), "`$` has no JSON form: it is a `Plain`"),
    ([1, {"a": Plain()}], "`$[1]['a']` has no JSON form"),
    (Box(Box(Plain())), "`$.inside.inside` has no JSON form"),
    (Struct(1, Plain()), "`$.b` has no JSON form"),
    ({(1, 2): 3}, "`$` has no JSON form: its key (1, 2) is a `tuple`"),
    ({None: 3}, "its key None is a `None`"),
    (object, "it is a `type`"),
    (1j, "it is a `complex`"),
    ((i for i in [1]), "it is a `generator`"),
    ({"a": "\ud800"}, "`$['a']` has no JSON form: '\\ud800' is not valid Unicode"),
    ({"\ud800": 1}, "is not valid Unicode"),
    (ValueError("x"), "it is a `ValueError`"),
    (contains_itself(), "contains itself"),
    (10**5000, "`$` has no JSON form"),
]


@pytest.mark.parametrize(("value", "message"), UNWRITABLE, ids=lambda one: type(one).__name__)
def test_what_has_no_json_form_is_named_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        to_json(value)
    assert message in caught.value.message


def test_an_object_itself_is_written_as_its_ref() -> None:
    from perdure.kind import kind_of

    assert to_json([kind_of(Room).bare("a")]) == b'["Room/a"]'


def test_pydantic_is_loaded_by_who_uses_it_alone() -> None:
    program = "import perdure.serde, sys; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_in_a_field_is_a_mistake_of_the_class() -> None:
    broken = dataclasses.make_dataclass("Broken", [("a", "Nowhere")])
    message = r"Broken\.a: the annotation `Nowhere` cannot be resolved"
    with pytest.raises(InvalidClass, match=message):
        from_json(b"{}", broken)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of 3.12")
def test_type_aliases_are_looked_through() -> None:
    space: dict[str, Any] = {"dt": dt}
    program = """
type When = dt.datetime | str
type Many[T] = list[T]
type Json = dict[str, Json] | list[Json] | str | int | None
"""
    exec(program, space)
    assert from_json(b'"x"', space["When"]) == "x"
    assert from_json(b"[1]", space["Many"][int]) == [1]
    when = space["When"]
    assert from_json(b'["x"]', list[when]) == ["x"]
    with pytest.raises(BadArguments):
        from_json(b'["x"]', space["Many"][int])
    value = {"a": [1, {"b": None}, "x"]}
    assert from_json(to_json(value), space["Json"]) == value
    check(value, space["Json"])
    with pytest.raises(BadArguments):
        check({"a": [1.5]}, space["Json"])
    with pytest.raises(BadArguments):
        from_json(b'{"a":[1.5]}', space["Json"])
    either = space["Json"]
    [schema], classes = schemas_of([json_type(list[either])])
    assert schema["items"]["anyOf"][0]["additionalProperties"] == {"$ref": "#/$defs/Json"}
    assert set(classes) == {"Json"}


def test_an_alias_that_names_itself_as_text_is_checked_on_the_outside() -> None:
    assert from_json(b'{"a":[{"b":5}]}', OldJson) == {"a": [{"b": 5}]}
    check({"a": [{"b": 5}]}, OldJson)
    with pytest.raises(BadArguments):
        from_json(b"5", OldJson)
