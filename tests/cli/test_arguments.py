from __future__ import annotations

import json

import click
import pytest

from perdure.cli.call import read_arguments


def body(*arguments: str, stdin: bytes = b"") -> object:
    read = read_arguments(arguments, lambda: stdin)
    return None if read is None else json.loads(read)


def test_nothing_is_no_body() -> None:
    assert read_arguments([], lambda: b"") is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("by=2", 2),
        ("by=2.5", 2.5),
        ("by=true", True),
        ("by=null", None),
        ('by="2"', "2"),
        ("by=two words", "two words"),
        ("by=", ""),
        ("by=a=b", "a=b"),
        ("by={broken", "{broken"),
        ("by=NaN", "NaN"),
        ('by={"a": [1]}', {"a": [1]}),
        ("by=ü", "ü"),
        ("by=007", "007"),
    ],
)
def test_a_named_value_is_json_where_it_parses_else_text(argument: str, value: object) -> None:
    assert body(argument) == {"by": value}


def test_several_names_make_one_object() -> None:
    assert body("a=1", "b=x") == {"a": 1, "b": "x"}


def test_values_without_names_are_positional() -> None:
    assert body("1", "two", '{"three": 3}') == [1, "two", {"three": 3}]
    assert body("hello") == ["hello"]


def test_a_negative_number_is_no_option() -> None:
    assert body("-5", "-1.5e3") == [-5, -1500]
    assert body("by=-5") == {"by": -5}


def test_one_json_object_or_array_is_the_body_as_it_is() -> None:
    assert read_arguments(['{"by":  2}'], lambda: b"") == b'{"by":  2}'
    assert body("[1, 2]") == [1, 2]


def test_a_dash_is_what_stdin_brings() -> None:
    assert read_arguments(["-"], lambda: b"[1]") == b"[1]"


@pytest.mark.parametrize(
    "arguments", [("{broken",), ("a=1", "2"), ("a=1", "a=2"), ("--by", "2"), ("-x",)]
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        body(*arguments)
