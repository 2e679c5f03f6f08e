"""The OpenAPI document: valid, complete, and true to what is read and answered."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from perdure import Object, query
from perdure.errors import BadArguments, InvalidClass
from perdure.gateway.openapi import document
from perdure.gateway.problem import CODES, problem
from perdure.kind import kind_of
from perdure.serde import Signature
from perdure.serde.schemas import schemas_of, signature_schemas
from tests.serde_types import (
    Account,
    Bank,
    Box,
    Cat,
    Checked,
    Circle,
    Colour,
    Dog,
    Event,
    Mixed,
    Money,
    Movie,
    Page,
    Pair,
    Plain,
    Point,
    Positive,
    Renamed,
    RoomInfo,
    Seeded,
    Square,
    Tree,
    Visit,
)


class Room(Object):
    """A room where people talk.

    Every word is kept.
    """

    async def post(self, text: str, at: dt.datetime | str = "now") -> Event:
        """Say something.

        Everybody hears it.
        """
        raise NotImplementedError

    async def quiet(self) -> None: ...

    async def named(self, *, a: int, b: list[int] = []) -> Money: ...  # noqa: B006

    async def many(self, first: Point, *rest: Positive, **others: Colour) -> dict[str, Tree]: ...

    async def models(self, bank: Bank, page: Page[int], checked: Checked | None = None) -> Bank: ...

    async def pets(self, pet: Cat | Dog, shape: Circle | Square | None = None) -> Cat | Dog: ...

    async def odd(self, mixed: Mixed, room: Room | None, plain: Plain | None = None) -> Plain: ...

    async def records(self, info: RoomInfo, visit: Visit, pair: Pair, seeded: Seeded) -> Movie: ...

    async def boxes(self, box: Box[Room], renamed: Renamed) -> list[Box[Account]]: ...

    async def anything(self, a, b=object()):  # type: ignore[no-untyped-def]  # noqa: B008
        ...

    @query
    async def find(
        self,
        tag: list[str],
        limit: int = 10,
        since: dt.date | None = None,
        price: int | Decimal = 0,
        near: Point | None = None,
        pairs: list[Pair] | None = None,
        room: Room | None = None,
        *ids: int,
        **others: str,
    ) -> list[Event]:
        """Look for something."""
        raise NotImplementedError


class Counter(Object):
    async def increment(self, by: int = 1) -> int:
        return by

    @query
    async def read(self) -> int:
        return 0


@pytest.fixture(scope="module")
def served() -> dict[str, Any]:
    kinds = [kind_of(Room), kind_of(Counter)]
    made = document(kinds, title="Talk", version="1.2", prefix="/objects")
    # As a client sees it.
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def resolved(served: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = served
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def body_of(served: dict[str, Any], handler: str) -> dict[str, Any]:
    operation = served["paths"][f"/Room/{{key}}/{handler}"]["post"]
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def test_the_document_is_valid_openapi(served: dict[str, Any]) -> None:
    validate(served)
    assert served["openapi"].startswith("3.1")
    assert served["info"] == {"title": "Talk", "version": "1.2"}
    assert served["servers"] == [{"url": "/objects"}]


def test_an_app_without_handlers_has_a_document_too() -> None:
    validate(document([], title="Nothing", version="0"))


def test_each_handler_is_a_post_and_each_query_a_get_as_well(served: dict[str, Any]) -> None:
    for kind in (kind_of(Room), kind_of(Counter)):
        for handler in kind.handlers.values():
            item = served["paths"][f"/{kind.name}/{{key}}/{handler.name}"]
            assert ("get" in item) is handler.query
            assert item["post"]["tags"] == [kind.name]
    assert len(served["paths"]) == 13


def test_docstrings_are_descriptions(served: dict[str, Any]) -> None:
    assert served["tags"] == [
        {"name": "Room", "description": "A room where people talk.\n\nEvery word is kept."},
        {"name": "Counter"},
    ]
    post = served["paths"]["/Room/{key}/post"]["post"]
    assert post["summary"] == "Say something."
    assert post["description"] == "Say something.\n\nEverybody hears it."


def test_headers_stand_where_they_are_understood(served: dict[str, Any]) -> None:
    def headers(operation: dict[str, Any]) -> list[str]:
        found = [resolved(served, one) for one in operation["parameters"]]
        return [one["name"] for one in found if one["in"] == "header"]

    call = served["paths"]["/Counter/{key}/increment"]["post"]
    assert headers(call) == ["Idempotency-Key", "Prefer", "Perdure-Timeout"]
    for method in ("get", "post"):
        assert headers(served["paths"]["/Counter/{key}/read"][method]) == ["Perdure-Timeout"]


def test_the_body_is_named_or_positional_arguments(served: dict[str, Any]) -> None:
    operation = served["paths"]["/Counter/{key}/increment"]["post"]
    assert operation["requestBody"] == {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {
                            "title": "Named arguments",
                            "type": "object",
                            "properties": {"by": {"type": "integer", "default": 1}},
                            "additionalProperties": False,
                        },
                        {
                            "title": "Positional arguments",
                            "type": "array",
                            "prefixItems": [{"type": "integer", "default": 1}],
                            "minItems": 0,
                            "maxItems": 1,
                        },
                    ]
                }
            }
        },
    }
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"type": "integer"}
    assert "requestBody" not in served["paths"]["/Room/{key}/quiet"]["post"]
    assert "oneOf" not in body_of(served, "named"), "`a` can only be named"


def test_each_code_of_a_call_is_there(served: dict[str, Any]) -> None:
    call = served["paths"]["/Counter/{key}/increment"]["post"]["responses"]
    texts = "".join(resolved(served, one)["description"] for one in call.values())
    codes = [
        *("unknown-class", "unknown-handler", "bad-json", "invalid-arguments", "handler-error"),
        *("payload-too-large", "unauthorized", "forbidden", "overloaded", "object-quarantined"),
        *("timeout", "conflict", "idempotency-mismatch", "invalid-key", "outcome-unknown"),
    ]
    for code in codes:
        assert f"`{code}`" in texts
        assert str(CODES[code][0]) in call
    assert "202" in call
    read = served["paths"]["/Counter/{key}/read"]["get"]["responses"]
    assert "202" not in read
    assert "409" not in read


def test_a_problem_fits_its_schema(served: dict[str, Any]) -> None:
    schema = served["components"]["schemas"]["Problem"]
    made = problem("invalid-arguments", "no", errors=[("$.by", "Expected `int`, got `str`")])
    jsonschema.validate(json.loads(made.body), schema)
    jsonschema.validate(json.loads(problem("overloaded", "later").body), schema)


def test_query_parameters_are_text_where_they_can_be(served: dict[str, Any]) -> None:
    found = {
        one["name"]: one
        for one in served["paths"]["/Room/{key}/find"]["get"]["parameters"]
        if one.get("in") == "query"
    }
    assert found["tag"]["required"] is True
    assert found["tag"]["schema"]["type"] == "array"
    assert found["limit"]["schema"] == {"type": "integer", "default": 10}
    assert found["ids"]["schema"] == {"type": "array", "items": {"type": "integer"}}
    assert found["others"]["schema"]["additionalProperties"] == {"type": "string"}
    for name in ("since", "price", "room"):
        assert "schema" in found[name]
    for name in ("near", "pairs"):
        assert "application/json" in found[name]["content"]


# handler, JSON body, whether it is accepted: the document and the decoder have to agree.
BODIES: list[tuple[str, str, bool]] = [
    ("post", '{"text":"a"}', True),
    ("post", '["a","2026-03-01T12:00:00Z"]', True),
    ("post", '{"text":5}', False),
    ("post", "{}", False),
    ("post", '["a","b","c"]', False),
    ("post", '{"text":"a","x":1}', False),
    ("named", '{"a":1}', True),
    ("named", "[1]", False),
    ("many", '[{"x":1},1,2]', True),
    ("many", '[{"x":1},0]', False),
    ("many", '{"first":{"x":1},"rest":[1],"z":"red"}', True),
    ("many", '{"first":{"x":1},"z":"green"}', False),
    ("models", '[{"accounts":[{"owner":"a"}]},{"items":[1]}]', True),
    ("models", '[{"accounts":[{}]},{"items":[1]}]', False),
    ("models", '[{"accounts":[]},{"items":[]},{"n":0}]', False),
    ("pets", '[{"name":"a","lives":1}]', True),
    ("pets", '[{"name":"a"},{"type":"circle","radius":1}]', True),
    ("pets", '[{"name":"a"},{"type":"cube","radius":1}]', False),
    ("pets", "[{}]", False),
    ("odd", '[0.5,"Room/a"]', True),
    ("odd", "[2,null]", False),
    ("odd", "[1,5]", False),
    ("records", '[{"room":"Room/a"},["Room/a",2],[1],{"seed":1}]', True),
    ("records", '[{},["Room/a"],[1],{"seed":1}]', False),
    ("boxes", '[{"inside":"Room/a"},{"firstName":"a"}]', True),
    ("boxes", '[{"inside":1},{"firstName":"a"}]', False),
    ("boxes", '[{"inside":"Room/a"},{"firstName":"a","x":1}]', False),
    ("anything", '[{"a":[null]}]', True),
]


@pytest.mark.parametrize(("handler", "body", "fits"), BODIES)
def test_the_document_says_what_is_read(
    served: dict[str, Any], handler: str, body: str, fits: bool
) -> None:
    schema = {**body_of(served, handler), "components": served["components"]}
    described = jsonschema.Draft202012Validator(schema).is_valid(json.loads(body))
    assert described is fits
    try:
        kind_of(Room).handlers[handler].signature.decode_json(body.encode())
    except BadArguments:
        assert not fits
    else:
        assert fits


def test_a_class_of_the_app_may_be_called_problem() -> None:
    problem_class = dataclasses.make_dataclass("Problem", [("sum", int)])

    class Exam(Object):
        async def solve(self, it: Any) -> None: ...

    Exam.solve.__annotations__["it"] = problem_class
    made = document([kind_of(Exam)], title="Exam", version="1")
    validate(made)
    assert "sum" in made["components"]["schemas"]["Problem"]["properties"]
    assert "code" in made["components"]["schemas"]["PerdureProblem"]["properties"]


def test_two_classes_of_one_name_stay_apart() -> None:
    def point(field: str, module: str) -> type:
        made = dataclasses.make_dataclass("Point", [(field, int), ("room", Room)])
        made.__module__ = module
        return made

    def first(it: Any) -> None: ...

    def second(it: Any) -> None: ...

    first.__annotations__["it"] = point("a", "one")
    second.__annotations__["it"] = point("b", "two")
    found, classes = signature_schemas([Signature(first), Signature(second)])
    names = [one.parameters[0].schema["$ref"].rpartition("/")[2] for one in found]
    assert [set(classes[name]["properties"]) for name in names] == [{"a", "room"}, {"b", "room"}]


def test_one_class_in_two_handlers_is_described_once() -> None:
    def first(it: Event) -> None: ...

    def second(it: list[Event]) -> Event: ...

    _, classes = signature_schemas([Signature(first), Signature(second)])
    assert list(classes) == ["Event"]


def test_schemas_can_be_made_of_types_alone() -> None:
    assert schemas_of([int, list[str]]) == (
        [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}],
        {},
    )


def test_an_annotation_that_means_nothing_is_said() -> None:
    class Broken(Object):
        async def take(self, it: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidClass, match=r"Broken\.take, parameter `it`"):
        document([kind_of(Broken)], title="x", version="1")
