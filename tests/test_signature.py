"""Arguments put together, from JSON, from query strings, from Python; results checked."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import typing
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import pytest

from perdure import Object
from perdure.errors import BadArguments, BadJson, InvalidClass, ResultTypeError
from perdure.serde import Signature
from tests.serde_types import (
    Account,
    Colour,
    Even,
    Event,
    Lobby,
    Plain,
    Point,
    Positive,
    Room,
    Tree,
)

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

T = TypeVar("T")
SENTINEL = object()


class Unset:
    """What says that an argument was not given."""


UNSET = Unset()
ORIGIN = Point(1)
OldJson = dict[str, "OldJson"] | list["OldJson"] | str
Findings = list[tuple[str, str]]


class Base(Object, Generic[T]):
    async def put(self, item: T, *, note: str = "") -> list[T]:
        return [item]


class Thing(Base[int]):
    async def increment(self, by: int = 1) -> int:
        return by

    async def none(self) -> None: ...

    async def two(self, a: int, b: str) -> None: ...

    async def kinds(self, a: int, /, b: int, *, c: int, d: int = 4) -> None: ...

    async def rest(self, a: int = 1, *names: str, **others: float) -> None: ...

    async def only_names(self, *, a: int, b: int = 2) -> None: ...

    async def lists(self, a: list[int] = [1], b: dict[str, list[int]] = {"x": []}) -> None: ...  # noqa: B006

    async def record(self, p: Point = ORIGIN, u: Any = UNSET, s: Any = SENTINEL) -> None: ...

    async def bare(self, a, b=2):  # type: ignore[no-untyped-def]
        ...

    async def point(self, point: Point, when: dt.datetime | str = "now") -> Point:
        return point

    async def visit(self, room: Room, other: Self | None = None) -> Room:
        return room

    async def list(self, names: list[str]) -> list[str]:
        return names

    async def lost(self, x: Missing) -> None: ...

    async def event(self, event: Event) -> Event:
        return event

    async def names(self, copy: int, f0: int, __private: int, type: str) -> None: ...


def signature(name: str, owner: type = Thing) -> Signature:
    return Signature(getattr(owner, name), owner=owner)


def errors_of(call: Callable[[], object]) -> Findings:
    with pytest.raises(BadArguments) as caught:
        call()
    return caught.value.errors


# -- JSON bodies -------------------------------------------------------------------------------

ACCEPTED: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
    ("increment", "", (1,), {}),
    ("increment", " \n", (1,), {}),
    ("increment", "{}", (1,), {}),
    ("increment", "[]", (1,), {}),
    ("increment", '{"by":2}', (2,), {}),
    ("increment", ' { "by" : 2 } ', (2,), {}),
    ("increment", '{"\\u0062y":2}', (2,), {}),
    ("increment", "[2]", (2,), {}),
    ("increment", " [2] ", (2,), {}),
    ("none", "", (), {}),
    ("none", "{}", (), {}),
    ("none", "[]", (), {}),
    ("two", '{"b":"x:y:z","a":1}', (1, "x:y:z"), {}),
    ("two", '[1,"x"]', (1, "x"), {}),
    ("kinds", '{"a":1,"b":2,"c":3}', (1, 2), {"c": 3, "d": 4}),
    ("rest", "", (1,), {}),
    ("rest", '[1,"x","y"]', (1, "x", "y"), {}),
    ("rest", '{"names":["x"]}', (1, "x"), {}),
    ("rest", '{"a":2,"z":1.5,"y:":2}', (2,), {"z": 1.5, "y:": 2.0}),
    ("only_names", '{"a":1}', (), {"a": 1, "b": 2}),
    ("bare", '{"a":[1,{"x":null}]}', ([1, {"x": None}], 2), {}),
    ("point", '{"point":{"x":1}}', (Point(1), "now"), {}),
    ("visit", '["Lobby/a"]', (Lobby.at("a"), None), {}),
    ("visit", '["Room/a","Thing/b"]', (Room.at("a"), Thing.at("b")), {}),
    ("list", '[["a"]]', (["a"],), {}),
    ("put", "[1]", (1,), {"note": ""}),
    ("names", '{"copy":1,"f0":2,"_Thing__private":3,"type":"x"}', (1, 2, 3, "x"), {}),
]


@pytest.mark.parametrize(("name", "body", "args", "kwargs"), ACCEPTED)
def test_a_body_becomes_arguments(
    name: str, body: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    subject = signature(name)
    for _ in range(2):  # the first call builds, the second uses what was built
        assert subject.decode_json(body.encode()) == (args, kwargs)


NOT_AN_INT = "Expected `int`, got `str`"
NOT_A_STR = "Expected `str`, got `int`"
NO_MOMENT = "Expected `datetime | str`, got `int`"
MISSING_A = "Missing required argument `a`"
MISSING_B = "Missing required argument `b`"
REFUSED: list[tuple[str, str, Findings]] = [
    ("increment", '{"by":"x"}', [("$.by", NOT_AN_INT)]),
    ("increment", '{"by":true}', [("$.by", "Expected `int`, got `bool`")]),
    ("increment", '{"by":null}', [("$.by", "Expected `int`, got `null`")]),
    ("increment", '["x"]', [("$[0]", NOT_AN_INT)]),
    ("increment", '{"b":1}', [("$.b", "Unknown argument `b`; there are: `by`")]),
    ("increment", '{"by":1,"by":2}', [("$.by", "Argument `by` is given twice")]),
    ("increment", '{"by":1,"b\\u0079":1}', [("$.by", "Argument `by` is given twice")]),
    ("increment", "[1,2]", [("$[1]", "Expected at most 1 positional arguments, got 2")]),
    ("increment", f'{{"by":{"1" * 5000}}}', [("$.by", "Integer value out of range")]),
    ("none", '{"a":1}', [("$.a", "Unknown argument `a`; there are: none")]),
    ("two", "", [("$.a", MISSING_A), ("$.b", MISSING_B)]),
    ("two", "{}", [("$.a", MISSING_A), ("$.b", MISSING_B)]),
    ("two", "[]", [("$.a", MISSING_A), ("$.b", MISSING_B)]),
    ("two", "[1]", [("$[1]", MISSING_B)]),
    ("two", '{"a":"x","b":1}', [("$.a", NOT_AN_INT), ("$.b", NOT_A_STR)]),
    (
        "two",
        '{"b":1,"c":2}',
        [
            ("$.a", MISSING_A),
            ("$.b", NOT_A_STR),
            ("$.c", "Unknown argument `c`; there are: `a`, `b`"),
        ],
    ),
    ("kinds", "[1,2]", [("$.c", "Missing required argument `c`")]),
    (
        "only_names",
        "[1]",
        [("$.a", MISSING_A), ("$[0]", "Expected at most 0 positional arguments, got 1")],
    ),
    ("rest", "[1,2]", [("$[1]", NOT_A_STR)]),
    ("rest", '{"names":["x",2]}', [("$.names[1]", NOT_A_STR)]),
    ("rest", '{"names":"x"}', [("$.names", "Expected `array`, got `str`")]),
    ("rest", '{"z":"x"}', [("$.z", "Expected `float`, got `str`")]),
    ("point", '{"point":{"x":"a"}}', [("$.point.x", NOT_AN_INT)]),
    ("point", '[{"x":1},5]', [("$[1]", NO_MOMENT)]),
    ("event", '[{"at":"x","causes":[{"at":5}]}]', [("$[0].causes[0].at", NO_MOMENT)]),
    ("put", '["x"]', [("$[0]", NOT_AN_INT)]),
]


@pytest.mark.parametrize(("name", "body", "errors"), REFUSED)
def test_wrong_arguments_are_all_named(name: str, body: str, errors: Findings) -> None:
    subject = signature(name)
    for _ in range(2):
        assert errors_of(lambda: subject.decode_json(body.encode())) == errors


@pytest.mark.parametrize("body", ["5", '"x"', "null", "true", "1" * 5000])
def test_a_body_that_is_neither_object_nor_array_is_no_call(body: str) -> None:
    [(path, message)] = errors_of(lambda: signature("increment").decode_json(body.encode()))
    assert path == "$"
    assert message == "Expected an object of named arguments or an array of positional ones"


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[", b"nul", b"{} x", b'{"by":2', b'{"by":01}', b'{"by":"x",]', b"{'by':2}"),
        *(b'{"by":"\xff"}', b'{"\xff":1}', b'["\xc3"]', b"\xef\xbb\xbf{}", b'"\xff"'),
        *(b"[" * 100_000, b'{"by":' * 100_000, b'{"by":' + b"[" * 100_000, b'{"x":' + b"[" * 9_999),
    ],
)
def test_a_broken_body_is_bad_json(body: bytes) -> None:
    for name in ("increment", "rest", "point"):
        with pytest.raises(BadJson):
            signature(name).decode_json(body)


def test_a_deep_value_is_refused_and_no_accident() -> None:
    deep = b'{"event":' + b'{"at":"x","causes":[' * 300 + b"]}" * 300 + b"}"
    with pytest.raises((BadArguments, BadJson)):
        signature("event").decode_json(deep)


def test_names_inside_an_argument_may_come_twice_in_different_objects() -> None:
    subject = signature("bare")
    body = b'{"a":{"a":{"a":1},"b":2},"b":[{"b":1},{"b":2}]}'
    assert subject.decode_json(body) == (({"a": {"a": 1}, "b": 2}, [{"b": 1}, {"b": 2}]), {})


def test_what_a_class_raises_when_made_is_a_wrong_argument() -> None:
    def handler(even: Even) -> None: ...

    [(path, message)] = errors_of(lambda: Signature(handler).decode_json(b'[{"number":1}]'))
    assert (path, message) == ("$[0]", "the number is odd")


# -- defaults ----------------------------------------------------------------------------------


def calls_of(subject: Signature) -> list[Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]]:
    return [
        lambda: subject.decode_json(b""),
        lambda: subject.decode_json(b"{}"),
        lambda: subject.decode_json(b"[]"),
        lambda: subject.decode_query(""),
        lambda: subject.bind((), {}),
    ]


def test_no_call_sees_what_another_did_to_a_default() -> None:
    for call in calls_of(signature("lists")):
        (first, second), _ = call()
        first.append(2)
        second["x"].append(3)
        assert call() == (([1], {"x": []}), {})


def test_a_dataclass_as_default_is_copied_and_a_sentinel_is_not() -> None:
    for call in calls_of(signature("record")):
        (point, unset, sentinel), _ = call()
        point.x = 9
        assert unset is UNSET
        assert sentinel is SENTINEL
        assert call()[0][0] == Point(1)


def test_keyword_only_defaults_are_no_more_shared() -> None:
    def handler(*, a: list[int] = []) -> None: ...  # noqa: B006

    for call in calls_of(Signature(handler)):
        call()[1]["a"].append(1)
        assert call() == ((), {"a": []})


def test_the_empty_call_gives_keywords_of_its_own() -> None:
    subject = signature("increment")
    subject.decode_json(b"")[1]["x"] = 1
    assert subject.decode_json(b"") == ((1,), {})


# -- query strings -----------------------------------------------------------------------------


def searched(
    n: int = 1,
    exact: bool = False,
    ratio: float | None = None,
    tag: list[str] | None = None,
    ids: tuple[int, ...] = (),
    since: dt.datetime | None = None,
    colour: Colour = Colour.RED,
    price: int | Decimal = 0,
    point: Point | None = None,
    points: list[Point] | None = None,
    room: Room | None = None,
    bare: Any = None,
    raw: bytes = b"",
    account: Account | None = None,
    table: dict[str, int] | None = None,
    size: Positive = 1,
    one: int | list[int] = 0,
    when: dt.date | str = "",
) -> None: ...


QUERIES: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("n=2", {"n": 2}),
    ("n=-2&exact=true", {"n": -2, "exact": True}),
    ("exact=1", {"exact": True}),
    ("ratio=2", {"ratio": 2.0}),
    ("ratio=null", {"ratio": None}),
    ("tag=a&tag=b", {"tag": ["a", "b"]}),
    ("tag=a%26b+c", {"tag": ["a&b c"]}),
    ("tag=", {"tag": [""]}),
    ("tag=1", {"tag": ["1"]}),
    ("ids=1&ids=2", {"ids": (1, 2)}),
    ("ids=[1,2]", {"ids": (1, 2)}),
    ("one=5", {"one": 5}),
    ("one=5&one=6", {"one": [5, 6]}),
    ("since=2026-03-01T12:00:00Z", {"since": dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)}),
    ("colour=blue", {"colour": Colour.BLUE}),
    ("price=5", {"price": 5}),
    ("price=5.50", {"price": Decimal("5.50")}),
    ('point={"x":1}', {"point": Point(1)}),
    ('points=[{"x":1}]', {"points": [Point(1)]}),
    ("room=Room/a", {"room": Room.at("a")}),
    ("bare=2", {"bare": "2"}),
    ("raw=YQ==", {"raw": b"a"}),
    ('account={"owner":"a"}', {"account": Account(owner="a")}),
    ('table={"a":1}', {"table": {"a": 1}}),
    ("size=2", {"size": 2}),
    ("when=2026-03-01", {"when": dt.date(2026, 3, 1)}),
    ("when=soon", {"when": "soon"}),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_a_query_string_becomes_arguments(query: str, expected: dict[str, Any]) -> None:
    subject = Signature(searched)
    args, kwargs = subject.decode_query(query)
    assert kwargs == {}
    names = list(subject.parameters)
    defaults = {name: subject.parameters[name].default for name in names}
    assert dict(zip(names, args, strict=True)) == defaults | expected


BAD_QUERIES: list[tuple[str, Findings]] = [
    ("n=x", [("$.n", NOT_AN_INT)]),
    ("n=", [("$.n", NOT_AN_INT)]),
    ("n=1&n=2", [("$.n", "Argument `n` is given 2 times")]),
    ("m=1", [("$.m", "Unknown argument `m`")]),
    ("ids=1&ids=x", [("$.ids[1]", NOT_AN_INT)]),
    ("ids=x", [("$.ids[0]", NOT_AN_INT)]),
    ("exact=maybe", [("$.exact", "Expected `bool`, got `str`")]),
    ('point={"x":"a"}', [("$.point.x", NOT_AN_INT)]),
    ("point=x", [("$.point", "Expected `object | null`, got `str`")]),
    ("room=Counter/a", [("$.room", "Expected a ref to a `Room`")]),
    ('account={"owner":1}', [("$.account.owner", "Input should be a valid string")]),
    ("size=0", [("$.size", "Expected `int` >= 1")]),
    ("n=%ff", [("$", "The query string cannot be read")]),
    ("n=" + "1" * 5000, [("$.n", "Integer value out of range")]),
    ("point=" + "[" * 100_000, [("$.point", "")]),
]


@pytest.mark.parametrize(("query", "errors"), BAD_QUERIES, ids=lambda one: str(one)[:40])
def test_a_wrong_query_string_is_explained(query: str, errors: Findings) -> None:
    found = errors_of(lambda: Signature(searched).decode_query(query))
    assert [path for path, _ in found] == [path for path, _ in errors]
    assert all(said.startswith(text) for (_, said), (_, text) in zip(found, errors, strict=True))


def test_a_query_fills_variadic_parameters() -> None:
    found = signature("rest").decode_query("a=3&names=x&names=y&z=1.5")
    assert found == ((3, "x", "y"), {"z": 1.5})
    assert errors_of(lambda: signature("two").decode_query("b=x")) == [("$.a", MISSING_A)]


# -- calls from Python -------------------------------------------------------------------------


def test_bind_leaves_a_right_call_as_it_is() -> None:
    assert signature("increment").bind((), {}) == ((), {})
    assert signature("increment").bind((2,), {}) == ((2,), {})
    assert signature("increment").bind((), {"by": 2}) == ((), {"by": 2})
    assert signature("two").bind((1,), {"b": "x"}) == ((1,), {"b": "x"})
    assert signature("kinds").bind((1,), {"b": 2, "c": 3}) == ((1,), {"b": 2, "c": 3})
    assert signature("rest").bind((1, "x"), {"z": 1}) == ((1, "x"), {"z": 1})
    assert signature("rest").bind((), {"names": 1.5}) == ((1,), {"names": 1.5})


def test_bind_hands_on_the_same_objects() -> None:
    point, tree, items = Point(1), Tree(1), [[1]]
    assert signature("point").bind((point,), {})[0][0] is point

    def handler(tree: Tree, items: list[list[int]]) -> None: ...

    args, _ = Signature(handler).bind((tree, items), {})
    assert args[0] is tree
    assert args[1] is items


BAD_CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], Findings]] = [
    ("increment", ("x",), {}, [("$.by", NOT_AN_INT)]),
    ("increment", (), {"by": None}, [("$.by", "Expected `int`, got `None`")]),
    ("increment", (1, 2), {}, [("$", "Expected at most 1 positional arguments, got 2")]),
    ("increment", (1,), {"by": 2}, [("$.by", "Argument `by` is given twice")]),
    ("increment", (), {"b": 1}, [("$.b", "Unknown argument `b`; there are: `by`")]),
    ("two", (), {}, [("$.a", MISSING_A), ("$.b", MISSING_B)]),
    ("two", (), {"b": "x"}, [("$.a", MISSING_A)]),
    ("two", (1,), {}, [("$.b", MISSING_B)]),
    ("kinds", (1, 2), {}, [("$.c", "Missing required argument `c`")]),
    ("point", ({"x": 1},), {}, [("$.point", "Expected `Point`, got `dict`")]),
    ("visit", ("Room/a",), {}, [("$.room", "Expected `Room`, got `str`")]),
    ("visit", (Thing.at("a"),), {}, [("$.room", "Expected a ref to a `Room`, got `Thing/a`")]),
    ("list", (["a", 1],), {}, [("$.names[1]", NOT_A_STR)]),
    (
        "rest",
        (1, 2),
        {"z": "x"},
        [("$.names[0]", NOT_A_STR), ("$.z", "Expected `float`, got `str`")],
    ),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "errors"), BAD_CALLS)
def test_bind_names_what_is_wrong(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], errors: Findings
) -> None:
    assert errors_of(lambda: signature(name).bind(args, kwargs)) == errors


def test_the_message_of_bad_arguments_says_where_and_what() -> None:
    with pytest.raises(BadArguments) as caught:
        signature("two").bind((), {})
    assert caught.value.message == f"Thing.two: {MISSING_A} at `$.a` (and 1 more)"


# -- results -----------------------------------------------------------------------------------


def test_a_result_that_fits_is_handed_on() -> None:
    subject = signature("increment")
    for _ in range(2):
        assert subject.check_result(5) == 5
        assert subject.encode_result(5) == b"5"
    assert signature("none").encode_result(None) == b"null"
    assert signature("bare").encode_result({"a": Colour.RED}) == b'{"a":"red"}'
    assert signature("visit").encode_result(Lobby.at("a")) == b'"Lobby/a"'
    assert signature("put").encode_result([1]) == b"[1]"


@pytest.mark.parametrize(
    ("name", "result", "message"),
    [
        ("increment", "5", "the result of Thing.increment does not fit: Expected `int`, got `str`"),
        ("increment", None, "Expected `int`, got `None`"),
        ("none", 5, "Expected `None`, got `int`"),
        ("point", {"x": 1}, "Expected `Point`, got `dict`"),
        ("list", ["a", None], "Expected `str`, got `None` at `$[1]`"),
        ("put", ["x"], "Expected `int`, got `str` at `$[0]`"),
        ("bare", [Plain()], "the result of Thing.bare: `$[0]` has no JSON form: it is a `Plain`"),
        ("point", Point(Plain()), "`$.x` has no JSON form"),  # type: ignore[arg-type]
    ],
)
def test_a_result_that_does_not_fit_is_said_with_its_place(
    name: str, result: Any, message: str
) -> None:
    subject = signature(name)
    for _ in range(2):
        with pytest.raises(ResultTypeError) as caught:
            subject.encode_result(result)
        assert message in caught.value.message
        assert caught.value.code == "handler-error"


# -- annotations -------------------------------------------------------------------------------


def test_a_name_that_cannot_be_resolved_is_a_mistake_of_the_class() -> None:
    subject = signature("lost")  # not yet: the class may be defined later
    uses: list[Callable[[], object]] = [
        subject.prepare,
        lambda: subject.decode_json(b"{}"),
        lambda: subject.decode_json(b""),
        lambda: subject.decode_json(b"[1]"),
        lambda: subject.decode_query("x=1"),
        lambda: subject.bind((1,), {}),
    ]
    for use in uses:
        with pytest.raises(InvalidClass) as caught:
            use()
        assert caught.value.message == (
            "Thing.lost, parameter `x`: the annotation `Missing` cannot be resolved: "
            "name 'Missing' is not defined"
        )
        assert caught.value.hint


def test_an_unknown_name_in_a_field_names_the_handler_too() -> None:
    class Sender:
        def take(self, letter: Letter) -> None: ...

    Letter = dataclasses.make_dataclass("Letter", [("to", "Nobody")])
    Sender.take.__annotations__["letter"] = Letter
    message = r"Sender\.take, parameter `letter`: Letter\.to: .*Nobody"
    with pytest.raises(InvalidClass, match=message):
        Signature(Sender.take, owner=Sender).prepare()


def test_a_class_that_is_defined_later_is_found() -> None:
    class Early(Object):
        async def take(self, later: Later) -> None: ...  # noqa: F821

    subject = Signature(Early.take, owner=Early)
    globals()["Later"] = Point
    try:
        assert subject.decode_json(b'[{"x":1}]') == ((Point(1),), {})
    finally:
        del globals()["Later"]


def test_names_of_the_class_and_of_the_enclosing_function_are_found() -> None:
    class Local:
        pass

    class Inner(Object):
        class Nested(typing.NamedTuple):
            a: int

        async def take(self, nested: Nested, me: Inner, local: Local) -> None:
            assert Local

    subject = Signature(Inner.take, owner=Inner)
    nested, me, local = Inner.Nested(1), Inner.at("a"), Local()
    assert subject.bind((nested, me, local), {})[0] == (nested, me, local)


def test_a_handler_called_list_does_not_hide_the_builtin() -> None:
    assert signature("list").bind((["a"],), {}) == ((["a"],), {})


def test_a_type_variable_is_what_the_subclass_bound_it_to() -> None:
    assert signature("put").bind((5,), {}) == ((5,), {})
    assert errors_of(lambda: signature("put").bind(("x",), {}))
    assert signature("put", Base).bind(("x",), {}) == (("x",), {})


def test_a_decorated_function_keeps_its_signature() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Decorated(Object):
        @logged
        def add(self, by: int) -> int:
            return by

    subject = Signature(Decorated.add, owner=Decorated)
    assert subject.decode_json(b'{"by":2}') == ((2,), {})
    assert errors_of(lambda: subject.decode_json(b'{"by":"x"}'))


def test_a_method_without_self_is_no_handler() -> None:
    def f() -> None: ...

    with pytest.raises(InvalidClass, match=r"Thing\.f takes no `self`"):
        Signature(f, owner=Thing)


def test_a_function_needs_no_owner() -> None:
    def charge(card: str, cents: int = 5) -> None: ...

    assert Signature(charge).decode_json(b'["x"]') == (("x", 5), {})
    assert Signature(charge).where == "charge"


def test_an_alias_that_contains_itself_can_be_annotated() -> None:
    def handler(json: OldJson) -> OldJson: ...

    subject = Signature(handler)
    assert subject.decode_json(b'[{"a":[{"b":5}]}]') == (({"a": [{"b": 5}]},), {})
    assert errors_of(lambda: subject.decode_json(b"[5]"))
    assert subject.encode_result({"a": ["x"]}) == b'{"a":["x"]}'
