"""The drawing board in two browsers: strokes survive, cursors are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.examples.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.crash]

STROKES = "document.querySelectorAll('polyline').length"


def draw(page: Any, x: int, y: int) -> None:
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 30, steps=3)
    page.mouse.up()


def points(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "polyline", "all => all.map(line => line.getAttribute('points'))"
    )
    return found


def wait_for_strokes(page: Any, count: int) -> None:
    page.wait_for_function(f"{STROKES} == {count}")


def test_strokes_are_for_all_and_survive_a_killed_server(
    serve_example: Callable[[str], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_example("board.py")
    ada, bob = (open_page(f"{server.url}/Board/wall") for _ in range(2))
    for page in (ada, bob):
        page.wait_for_function("document.getElementById('status').textContent == 'open'")
    draw(ada, 100, 200)
    wait_for_strokes(bob, 1)
    bob.wait_for_selector(".cursor")
    draw(bob, 300, 200)
    wait_for_strokes(ada, 2)
    server.kill()
    ada.wait_for_function("document.getElementById('status').textContent == 'waiting'")
    draw(ada, 100, 400)
    server.start()
    for page in (ada, bob):
        wait_for_strokes(page, 3)
    assert points(ada) == points(bob)
    # A cursor is no entry: three strokes, two who came.
    history = server.client.get("/_perdure/objects/Board/wall/history?limit=1000").json()
    assert sum(entry["kind"] == "message" for entry in history) == 3
    bob.click("#clear")
    for page in (ada, bob):
        wait_for_strokes(page, 0)
    ada.close()
    bob.wait_for_function("document.querySelectorAll('.cursor').length == 0")
