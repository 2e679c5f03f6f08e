"""Tic-tac-toe in two browsers, to the end and against the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.examples.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.crash]


def play(page: Any, cell: int) -> None:
    page.click(f"#board button:nth-child({cell + 1})")


def wait_for_board(page: Any, board: str) -> None:
    page.wait_for_function(
        "board => [...document.querySelectorAll('#board button')]"
        ".map(b => b.textContent || '.').join('') == board",
        arg=board,
    )


def wait_for_words(page: Any, words: str) -> None:
    page.wait_for_function(
        "words => document.getElementById('said').textContent == words", arg=words
    )


def both(server: Server, open_page: Callable[[str], Any]) -> tuple[Any, Any]:
    first = open_page(f"{server.url}/Game/one")
    first.wait_for_function("document.getElementById('you').textContent == 'X'")
    second = open_page(f"{server.url}/Game/one")
    second.wait_for_function("document.getElementById('you').textContent == 'O'")
    wait_for_words(first, "X to move")
    return first, second


def test_a_game_goes_on_over_a_killed_server(
    serve_example: Callable[[str], Server], open_page: Callable[[str], Any]
) -> None:
    server = serve_example("tictactoe.py")
    first, second = both(server, open_page)
    play(first, 0)
    wait_for_board(second, "X........")
    play(first, 1)  # out of turn
    play(second, 4)
    wait_for_board(first, "X...O....")
    server.kill()
    first.wait_for_function("document.getElementById('status').textContent == 'waiting'")
    play(first, 1)
    server.start()
    wait_for_board(second, "XX..O....")
    play(second, 8)
    wait_for_board(first, "XX..O...O")
    play(first, 2)
    for page in (first, second):
        wait_for_words(page, "X wins: three in a row")
    second.click("#again")
    wait_for_board(first, ".........")


def test_the_clock_runs_on_while_the_server_is_down(
    serve_example: Callable[[str], Server],
    open_page: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TURN_SECONDS", "2.5")
    server = serve_example("tictactoe.py")
    first, second = both(server, open_page)
    server.kill()
    server.start()
    for page in (first, second):
        wait_for_words(page, "O wins: the time was up")
