"""A Yjs document, with y-websocket as npm has it in both browsers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.crash]

MODULES = Path(__file__).parents[2] / ".browser" / "node_modules"


@pytest.fixture
def serve_document(
    serve_example: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Server]:
    if not (MODULES / "y-websocket").exists():
        missing = "y-websocket is not installed; tools/install-browser brings it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    monkeypatch.setenv("NODE_MODULES", str(MODULES))
    return lambda: serve_example("document.py")


def wait_for_text(page: Any, text: str) -> None:
    page.wait_for_function("text => document.getElementById('text').value == text", arg=text)


def wait_for_status(page: Any, status: str) -> None:
    page.wait_for_function(
        "status => document.getElementById('status').textContent == status", arg=status
    )


def write(page: Any, text: str, at: str = "End") -> None:
    page.focus("#text")
    page.keyboard.press(f"Control+{at}")
    page.keyboard.type(text)


def test_two_write_at_once_and_a_killed_server_loses_nothing(
    serve_document: Callable[[], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_document()
    ada, bob = (open_page(f"{server.url}/Document/notes") for _ in range(2))
    for page in (ada, bob):
        wait_for_status(page, "connected")
        page.wait_for_function("document.getElementById('people').textContent == '2'")
    write(ada, "hello")
    wait_for_text(bob, "hello")
    write(bob, " world")
    wait_for_text(ada, "hello world")

    server.kill()
    for page in (ada, bob):
        wait_for_status(page, "connecting")
    write(ada, "Oh, ", "Home")
    write(bob, "!")
    server.start()
    for page in (ada, bob):
        wait_for_text(page, "Oh, hello world!")
    assert server.client.get("/Document/notes/text").json() == "Oh, hello world!"

    carl = open_page(f"{server.url}/Document/notes")
    wait_for_text(carl, "Oh, hello world!")


def test_many_updates_are_compacted(
    serve_document: Callable[[], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_document()
    ada = open_page(f"{server.url}/Document/long")
    wait_for_status(ada, "connected")
    words = " ".join(str(number) for number in range(90))
    write(ada, words)
    bob = open_page(f"{server.url}/Document/long")
    wait_for_text(bob, words)
    assert server.client.get("/Document/long/size").json() < 200
    server.kill()
    server.start()
    assert server.client.get("/Document/long/text").json() == words
    write(bob, "!")
    wait_for_text(ada, words + "!")
