"""Hooks that set, send and raise what no wire and no journal can hold as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode

from perdure import Connection, Object
from tests.sessions.faces import closing, faces


class Strict(Object):
    def on_connect(self, conn: Connection) -> None:
        conn.subprotocol = conn.query["to"]


@faces
async def test_a_subprotocol_that_was_not_offered_is_refused_with_its_reason(
    face: Any, tmp_path: Path
) -> None:
    async with face(tmp_path, Strict) as served:
        for offered in (["chat"], None):
            with pytest.raises(InvalidStatus) as refused:
                await served.connect("/Strict/a?to=other%0D%0AX-Y:z", subprotocols=offered)
            problem = json.loads(refused.value.response.body)
            assert (problem["status"], problem["error"]) == (500, "ValueError")
            assert "conn.subprotocols" in problem["message"]


class Odd(Object):
    """Does what a hook may not, or what no journal can hold as it is."""

    def on_connect(self, conn: Connection) -> None:
        if "raise" in conn.query:
            raise LookupError("no \udc80 here")

    def on_message(self, conn: Connection, text: str) -> None:
        match text:
            case "raise":
                raise LookupError("no \udc80 here")
            case "float":
                conn.close(1000.0)  # type: ignore[arg-type]
            case "reason":
                conn.close(1000, None)  # type: ignore[arg-type]
            case "enum":
                conn.close(CloseCode.NORMAL_CLOSURE, Text("bye"))

    def fail(self) -> None:
        raise LookupError("no \udc80 here")


class Text(str):
    __slots__ = ()


@faces
async def test_odd_values_end_a_connection_and_not_the_object(face: Any, tmp_path: Path) -> None:
    cases = {
        "raise": (1011, "LookupError"),
        "float": (1011, "TypeError"),
        "reason": (1011, "TypeError"),
        "enum": (1000, "bye"),
    }
    for text, ended in cases.items():
        async with face(tmp_path, Odd) as served, served.connect("/Odd/a") as client:
            await client.send(text)
            assert await closing(client) == ended, text
    # Each time it came back from what was written of it.
    async with face(tmp_path, Odd) as served:
        with pytest.raises(InvalidStatus) as refused:
            await served.connect("/Odd/a?raise=")
        assert json.loads(refused.value.response.body)["message"] == r"no \udc80 here"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            failed = await http.post("/Odd/a/fail")
        assert (failed.status_code, failed.json()["message"]) == (500, r"no \udc80 here")
