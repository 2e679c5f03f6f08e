"""Tic-tac-toe for two, with a clock that runs on while the server is down.

    perdure dev examples/tictactoe.py  and open http://127.0.0.1:7373/Game/one in two browsers

The first two who connect play, others watch. Who does not move in time has lost; the clock is a
timer of the object, so it is right after a crash as well.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from perdure import Connection, Object, query

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")

TURN = timedelta(seconds=float(os.environ.get("TURN_SECONDS", "30")))
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]

Mark = Literal["X", "O"]


class Game(Object):
    """One board; a new game begins on it when somebody asks for one."""

    cells: list[str] = [""] * 9
    turn: Mark = "X"
    winner: str = ""
    why: str = ""
    until: datetime | None = None

    async def on_connect(self, conn: Connection) -> None:
        taken = {other.state.get("mark") for other in self.connections}
        conn.state["mark"] = next((mark for mark in ("X", "O") if mark not in taken), "")
        if {"X", "O"} <= taken | {conn.state["mark"]} and self.until is None and not self.winner:
            self._start_clock()
        conn.send_json({"you": conn.state["mark"]})
        self._tell()

    async def on_message(self, conn: Connection, cell: int) -> None:
        allowed = 0 <= cell < 9 and not self.cells[cell] and not self.winner and self.until
        if not allowed or conn.state["mark"] != self.turn:
            conn.send_json({"refused": cell})
            return
        self.cells[cell] = self.turn
        if any(all(self.cells[i] == self.turn for i in line) for line in LINES):
            self._end(self.turn, "three in a row")
        elif all(self.cells):
            self._end("nobody", "the board is full")
        else:
            self.turn = "O" if self.turn == "X" else "X"
            self._start_clock()
        self._tell()

    async def on_disconnect(self, conn: Connection) -> None:
        self._tell()

    async def on_request(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def again(self) -> None:
        """Begin a new game."""
        self.cells = [""] * 9
        self.turn, self.winner, self.why = "X", "", ""
        self._start_clock()
        self._tell()

    @query
    def state(self) -> dict[str, object]:
        """The board as everybody sees it."""
        return {
            "cells": self.cells,
            "turn": self.turn,
            "winner": self.winner,
            "why": self.why,
            "until": self.until.timestamp() if self.until else None,
            "here": sorted(str(conn.state.get("mark")) for conn in self.connections),
        }

    def _start_clock(self) -> None:
        self.until = datetime.now(UTC) + TURN
        # The same id replaces the clock of the turn before.
        self.schedule(self.until, self._time_is_up, id="turn")

    def _time_is_up(self) -> None:
        if not self.winner:
            self._end("O" if self.turn == "X" else "X", "the time was up")
            self._tell()

    def _end(self, winner: str, why: str) -> None:
        self.winner, self.why, self.until = winner, why, None

    def _tell(self) -> None:
        self.broadcast_json(self.state())
