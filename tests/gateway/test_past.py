"""The past of objects over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import perdure
from perdure import Object
from perdure.gateway.http import Gateway
from perdure.settings import Settings
from perdure.testing.virtual import run_virtual
from tests.gateway.fakes import hand
from tests.gateway.test_internal import ask, code
from tests.host.stage import Stage


class Tally(Object):
    marks: list[int] = []

    async def mark(self, n: int) -> int:
        self.marks.append(n)
        return len(self.marks)

    async def divide(self, by: int) -> float:
        return self.marks[-1] / by


@asynccontextmanager
async def tallies() -> AsyncIterator[tuple[Stage, Gateway]]:
    async with Stage(Tally) as stage:
        tally = Tally.at("a/b")
        for n in (3, 5):
            await tally.mark(n)
        try:
            await tally.divide(0)
        except ZeroDivisionError:
            pass
        yield stage, Gateway(stage.host, Settings())


PLACE = "GET objects/Tally/a%2Fb"


async def test_states_and_differences() -> None:
    async with tallies() as (_, gateway):
        state = (await ask(gateway, f"{PLACE}/state?at=1")).json()
        assert (state["address"], state["seq"]) == ("Tally/a%2Fb", 1)
        assert state["state"] == {"marks": [3]}
        assert state["time"].endswith("Z")
        assert (await ask(gateway, f"{PLACE}/state")).json()["seq"] == 3
        assert (await ask(gateway, f"{PLACE}/state?at=1h")).json()["state"] is None
        diff = (await ask(gateway, f"{PLACE}/diff?a=0&b=2")).json()
        assert (diff["from"], diff["to"]) == (0, 2)
        assert [change["text"] for change in diff["changes"]] == ["marks: + [3,5]"]


async def test_history_calls_and_errors() -> None:
    async with tallies() as (_, gateway):
        history = (await ask(gateway, f"{PLACE}/history?failed=1")).json()
        assert [entry["seq"] for entry in history] == [3]
        history = (await ask(gateway, f"{PLACE}/history?handler=mark&limit=1&after=1")).json()
        assert [entry["seq"] for entry in history] == [2]
        calls = (await ask(gateway, f"{PLACE}/calls")).json()
        assert [call["status"] for call in calls] == ["done", "done", "failed"]
        [error] = (await ask(gateway, f"{PLACE}/errors")).json()
        assert error["error"] == "ZeroDivisionError"
        assert error["frames"][-1]["locals"]["by"] == "0"
        assert (await ask(gateway, f"{PLACE}/errors?at=3")).json() == [error]
        assert (await ask(gateway, f"{PLACE}/errors?at=2")).json() == []


def test_a_long_poll_answers_when_a_turn_comes_or_when_the_wait_is_over() -> None:
    async def polls() -> None:
        async with tallies() as (_, gateway):
            path = PLACE.replace("objects/", "/_perdure/objects/")
            waiting = hand(gateway, f"{path}/history?after=3&wait=5")
            await asyncio.sleep(1)
            assert not waiting.replies
            await Tally.at("a/b").mark(9)
            await asyncio.sleep(1)
            assert [entry["seq"] for entry in waiting.reply().json()] == [4]
            late = hand(gateway, f"{path}/history?after=4&wait=5")
            await asyncio.sleep(4)
            assert not late.replies
            await asyncio.sleep(2)
            assert late.reply().json() == []

    run_virtual(polls())


async def test_what_is_not_there_and_what_cannot_be_read() -> None:
    async with tallies() as (_, gateway):
        assert code(await ask(gateway, f"{PLACE}/state?at=99")) == "unknown-turn"
        assert code(await ask(gateway, f"{PLACE}/state?at=soon")) == "invalid-arguments"
        assert code(await ask(gateway, f"{PLACE}/diff?a=1")) == "bad-request"
        assert code(await ask(gateway, f"{PLACE}/history?limit=0")) == "bad-request"
        assert code(await ask(gateway, f"{PLACE}/nothing")) == "not-found"
        for what in ("state", "history", "calls", "errors", "diff?a=0&b=0"):
            assert code(await ask(gateway, f"GET objects/Tally/never/{what}")) == "unknown-object"
            assert code(await ask(gateway, f"GET objects/Nothing/x/{what}")) == "unknown-class"
        assert code(await ask(gateway, "POST objects/Tally/x/state")) == "method-not-allowed"


async def test_a_divergence_names_turn_expected_and_found(monkeypatch: Any) -> None:
    async with tallies() as (_, gateway):
        handler = perdure.kind.kind_of(Tally).handlers["mark"]

        async def mark(self: Tally, n: int) -> int:
            return -n

        monkeypatch.setattr(handler, "function", mark)
        answer = await ask(gateway, f"{PLACE}/state?at=2")
        assert code(answer) == "divergence"
        problem = answer.json()
        assert (problem["seq"], problem["expected"], problem["found"]) == (
            *(1, "answer 1", "answer -3"),
        )


async def test_fork_release_export_and_import_over_http() -> None:
    async with tallies() as (_, gateway):
        post = PLACE.replace("GET", "POST")
        made = (await ask(gateway, f"{post}/fork", body=b'{"key": "f", "at": 1}')).json()
        assert made == {"address": "Tally/f", "origin": "Tally/a%2Fb", "seq": 2, "held": True}
        assert (await ask(gateway, "GET objects/Tally/f/state")).json()["state"]["marks"] == [3]
        assert code(await ask(gateway, f"{post}/fork", body=b'{"key": "f"}')) == "conflict"
        assert code(await ask(gateway, f"{post}/fork", body=b"[]")) == "invalid-arguments"
        assert code(await ask(gateway, f"{post}/fork", body=b"{")) == "bad-json"
        assert (await ask(gateway, "POST objects/Tally/f/release")).status == 204
        assert code(await ask(gateway, "POST objects/Tally/f/release")) == "conflict"
        assert code(await ask(gateway, "POST objects/Tally/never/release")) == "unknown-object"

        file = (await ask(gateway, f"{PLACE}/export")).body
        assert code(await ask(gateway, "POST import", body=file)) == "conflict"
        half = len(file) // 2
        assert (await ask(gateway, "POST uploads/u", body=file[:half])).json() == {"bytes": half}
        assert code(await ask(gateway, "POST uploads/u?at=9999999", body=b"x")) == "conflict"
        await ask(gateway, f"POST uploads/u?at={half}", body=file[half:])
        [made] = (await ask(gateway, "POST import?upload=u&as=g&live=1")).json()
        assert (made["address"], made["held"]) == ("Tally/g", False)
        assert await Tally.at("g").mark(1) == 3
        assert code(await ask(gateway, "POST import?upload=u&as=h")) == "conflict"
        [made] = (await ask(gateway, "POST import?replace=1", body=file)).json()
        assert made["address"] == "Tally/a%2Fb"
        bad = await ask(gateway, "POST import?as=h", body=file[:-9])
        assert bad.json()["code"] == "journal-corrupt"


async def test_what_if_over_http() -> None:
    async with tallies() as (_, gateway):
        post = PLACE.replace("GET", "POST")
        body = b'{"at": 1, "arguments": {"n": 8}}'
        found = (await ask(gateway, f"{post}/what-if", body=body)).json()
        assert [change["text"] for change in found["changes"]] == ["marks[0]: 3 -> 8"]
        found = (await ask(gateway, f"{post}/what-if", body=b'{"at": 1}')).json()
        assert found["state"] == {"marks": [5]}
        assert found["call"] is None
        bad = await ask(gateway, f"{post}/what-if", body=b'{"at": 1, "arguments": 7}')
        assert code(bad) == "invalid-arguments"
