"""The chat room, with two people in it and a server that is killed under them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.examples.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.crash]


def say(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def lines(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "#lines li",
        "all => all.map(li => li.querySelector('b').textContent + ': ' + li.lastChild.textContent)",
    )
    return found


def wait_for_lines(page: Any, expected: list[str]) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('#lines li').length >= count", arg=len(expected)
    )
    assert lines(page) == expected


def test_two_people_talk_and_a_killed_server_loses_nothing(
    serve_example: Callable[[str], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_example("chat.py")
    ada = open_page(f"{server.url}/Room/lobby?name=ada")
    bob = open_page(f"{server.url}/Room/lobby?name=bob")
    for page in (ada, bob):
        page.wait_for_function("document.getElementById('present').textContent == 'ada, bob'")
    say(ada, "hello")
    wait_for_lines(bob, ["ada: hello"])
    say(bob, "hi <b>ada</b>")
    expected = ["ada: hello", "bob: hi <b>ada</b>"]
    wait_for_lines(ada, expected)

    server.kill()
    ada.wait_for_function("document.getElementById('status').textContent == 'waiting'")
    say(ada, "is anybody there?")
    say(bob, "here")
    server.start()

    for page in (ada, bob):
        page.wait_for_function("document.querySelectorAll('#lines li').length >= 4")
        assert sorted(lines(page)) == sorted([*expected, "ada: is anybody there?", "bob: here"])
        assert page.text_content("#present") == "ada, bob"
    assert lines(ada) == lines(bob)

    # Whoever closes the page has left.
    bob.close()
    ada.wait_for_function("document.getElementById('present').textContent == 'ada'")


def test_who_is_too_loud_is_asked_to_slow_down(
    serve_example: Callable[[str], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_example("chat.py")
    ada = open_page(f"{server.url}/Room/lobby?name=ada")
    for number in range(8):
        say(ada, str(number))
    ada.wait_for_function("document.getElementById('text').placeholder.startsWith('Slow down')")
    wait_for_lines(ada, [f"ada: {number}" for number in range(5)])


def test_a_page_that_comes_later_has_the_history(
    serve_example: Callable[[str], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_example("chat.py")
    ada = open_page(f"{server.url}/Room/lobby?name=ada")
    say(ada, "first")
    wait_for_lines(ada, ["ada: first"])
    ada.close()
    bob = open_page(f"{server.url}/Room/lobby?name=bob")
    wait_for_lines(bob, ["ada: first"])
